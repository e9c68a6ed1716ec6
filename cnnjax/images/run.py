"""Optimizations in a working directory, one after the other, each resumed where it was stopped.

    config.json, environment.json, metrics.jsonl, tensorboard/   as in workdir.py
    weights.json          the fingerprint of the network's weights
    checkpoints/NAME/     the state of the optimization NAME
    snapshots/NAME/       its images on the way
    figures/loss.png      the loss and its terms
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from ml_collections import ConfigDict
from tqdm import tqdm

from cnnjax import atomic, checkpoint, cluster, curves, reports, trained, workdir
from cnnjax.errors import UserError
from cnnjax.images import diagnosis, optimize, pictures
from cnnjax.images.optimize import Problem, State
from cnnjax.limits import SEED, Whole

if TYPE_CHECKING:
    import optax


class Run:
    """A context manager: `run.optimize(name, ...)` for each of its optimizations.

    The same config in the same directory goes on where it was stopped, bit for bit; optimizations
    that are finished are read. `steps` is the number of steps of all of them together. A signal
    (cluster.Preemption) saves a checkpoint after the current step and ends the process.

    Raises:
      UserError: the directory holds the work of another config, or of other weights.
    """

    # The values of `report_every` steps are kept on the devices.
    LIMITS = {'seed': SEED, 'report_every': Whole(1, 2 ** 16)}

    def __init__(self, directory: str | Path, config: ConfigDict, network: trained.Trained,
                 steps: int):
        self.directory = Path(directory)
        # Our checkpoints are below checkpoints/NAME/, those of a training below checkpoints/.
        rows = self.directory / 'metrics.jsonl'
        begin(self.directory, config, network,
              rows.exists() and rows.stat().st_size > 0 or any(
                  any(self.directory.glob(steps))
                  for steps in ('checkpoints/*/[0-9]*', 'checkpoints/[0-9]*')))
        self.config, self.every = config, config.report_every
        self.title = trained.called(network, config.source)
        self.names, self.labels = [], []  # one for each optimization so far
        self.before = 0  # their steps
        self.bar = tqdm(total=steps, unit='step', disable=None, dynamic_ncols=True)
        self.preemption = cluster.Preemption()

    def __enter__(self):
        self.preemption.__enter__()
        return self

    def __exit__(self, kind, *rest):
        self.bar.close()
        if kind is None and (rows := reports.read_metrics(self.directory)):
            figure = self.directory / 'figures' / 'loss.png'
            curves.descent(rows, figure, f'loss with {self.title}', self.labels)
            print(f'loss: {figure}', flush=True)
        if kind is None and self.preemption.signal:
            print('asked to stop after the last step: the same command writes the pictures',
                  flush=True)
        self.preemption.__exit__(kind, *rest)

    def optimize(self, name: str, problem: Problem, tx: 'optax.GradientTransformation', steps: int,
                 key: jax.Array, *, images: ArrayLike | None = None, state: State | None = None,
                 aux: Mapping[str, Any] | None = None, shared: Mapping[str, Any] | None = None,
                 mesh: Mesh | None = None, snapshots: bool = True,
                 label: str = '') -> State:
        """The final `State` of `steps` steps; arguments as in `cnnjax.images.optimize`.

        Where it begins are `images` or, prepared by the caller, `state`; aux and images have a
        leading axis [N]. A name that was used before gets a number. The figure of the loss calls
        this optimization by its label, or else by its name.

        Raises:
          UserError: the gradient is blocked or not finite, or the first optimization moved nothing.
        """
        leaves = jax.tree.leaves(images if state is None else state) or jax.tree.leaves(aux)
        keys = jax.random.split(key, len(leaves[0]) if leaves else 1)
        if state is None:
            state = optimize.init(problem, tx, keys, images)
        first = np.asarray(optimize.decode(problem, state))
        [name] = pictures.distinct([name], self.names)
        self.names.append(name)
        self.labels.append(label or name)
        with checkpoint.Checkpoints(self.directory / 'checkpoints' / name, keep=1) as checkpoints:
            start, past = min(checkpoints.latest() or 0, steps), {}
            if start:
                past = checkpoints.past(start)
                state = checkpoints.restore(start, state)
            reports.recover(self.directory, past, self.before, self.before + steps)
            if 0 < start < steps:
                self._print(f'resuming after step {self.before + start} of {self.bar.total}')
            self.bar.update(start)
            self.bar.set_description(name)
            if start == steps:  # It is finished; the rows that follow its own stay.
                self.before += steps
                self._judge(name, first, optimize.decode(problem, state), past.get('rows', ()))
                return state
            with reports.Metrics(self.directory, self.before + start, self.config, past,
                                 self.before) as metrics:
                for report in optimize.iterate(problem, tx, state, steps, keys, aux, shared,
                                               every=self.every, mesh=mesh,
                                               stop=self.preemption.reached):
                    state = report.state
                    self._report(name, report, steps, metrics)
                    stopped = report.step % self.every and report.step < steps
                    if snapshots and not stopped:
                        self._snapshot(name, report.step, optimize.decode(problem, state))
                    # The checkpoint comes last: a resumed run writes again what came before it.
                    checkpoints.save(report.step, state, past=metrics.past())
            if report.step < steps:
                checkpoints.wait()
                self._print(f'asked to stop: saved after step {self.before + report.step} of '
                            f'{self.bar.total}; the same command goes on from there')
                self.preemption.leave()
        self.before += steps
        self._judge(name, first, optimize.decode(problem, state),
                    (metrics.past() or {})['rows'])
        return state

    def _print(self, line):
        if self.bar.disable:
            print(line, flush=True)
        else:
            self.bar.write(line)

    def _judge(self, name, before, after, rows):
        """Tells of a loss that has not fallen in the `rows` of this optimization, and of images
        that have not moved; where these are all, and not the results of an earlier optimization,
        they are an error."""
        if complaint := diagnosis.unfallen([row['loss'] for row in rows]):
            self._print(f'{name}: {complaint}')
        complaints = [diagnosis.unmoved(*pair) for pair in zip(before, after, strict=True)]
        if all(complaints) and len(self.names) == 1:
            raise UserError(f'{name}: {complaints[0]}')
        for i, complaint in enumerate(complaints):
            if complaint:
                self._print(f'{name}, image {i}: {complaint}')

    def _report(self, name, report, steps, metrics):
        count = len(report.values['loss'])
        means = {term: value.mean(1) for term, value in report.values.items()}
        first = report.step - count + 1
        metrics.write(*({'step': self.before + first + i, 'stage': len(self.names),
                         **{term: float(value[i]) for term, value in means.items()}}
                        for i in range(count)))
        complaints = [diagnosis.health(report.values, i) for i in range(len(report.state.step))]
        last = ' '.join(f'{term} {means[term][-1]:.4g}' for term in
                        sorted(means, key=lambda term: (term != 'loss', term)))
        line = f'{name}: step {report.step} of {steps}: {last}'
        for i, complaint in enumerate(complaints):
            line += f'\n  image {i}: {complaint}{diagnosis.remedy(complaint)}' if complaint else ''
        self.bar.update(count)
        self.bar.set_postfix_str(last, refresh=False)
        if self.bar.disable or any(complaints):
            self._print(line)

    def _snapshot(self, name, step, images):
        for i, image in enumerate(np.asarray(images)):
            suffix = f'-{i}' if len(images) > 1 else ''
            pictures.write(self.directory / 'snapshots' / name / f'{step:05d}{suffix}.png',
                           image.clip(0, 1))


def begin(directory: Path, config: ConfigDict, network: trained.Trained, begun: bool) -> None:
    """Writes config.json, weights.json and environment.json.

    Raises:
      UserError: the work in the directory, if it has `begun`, is of another config or weights.
    """
    saved, weights = workdir.read_config(directory), directory / 'weights.json'
    if begun and saved is not None and (changed := workdir.differences(saved, config)):
        workdir.refuse(directory, changed)
    now, before = {'sha256': trained.fingerprint(network)}, atomic.read_json(weights)
    if begun and before != now:
        raise UserError(f"{directory} was begun with other weights of '{config.source}', "
                        'which have changed since: take another workdir' if before else
                        f'{directory} has lost its weights.json: take another workdir')
    workdir.write_config(directory, config)
    atomic.write_json(weights, now)
    workdir.write_environment(directory)
