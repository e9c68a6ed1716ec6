"""Trackers, which show a run beside others: Weights & Biases and MLflow.

A tracker is a mirror of metrics.jsonl. Whenever it is opened, it first gets the rows that it lacks,
so that a run which was killed, or whose service could not be reached, is whole after its next
start. A failure of the service never ends a training. tracker.json has the run's name there.
"""

import contextlib
import importlib
import os
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict

from cnnjax import atomic, cluster
from cnnjax.errors import UserError

FILE = 'tracker.json'
PROJECT = 'cnnjax'  # holds the runs, unless a variable of the service names another
PATIENCE = 600  # Seconds that the end of a run waits for its last rows to be sent.
METRICS, PARAMS, LETTERS = 1000, 100, 6000  # the most that MLflow takes at once, and of a value


def check(name: str) -> None:
    """Raises UserError if the package of the tracker `name`, '' for none, cannot be imported."""
    if name and cluster.first():
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"log='{name}' needs its package ({error}): pip install {name}"
                            ) from None


class Tracker:
    """The mirror of a run in the service that `config.log` names; a context manager.

    It does nothing if the field is empty, in other processes than the first, and after a failure of
    the service, which it prints.

    Args:
      directory: that of the run.
      anew: whether the training begins, and is no longer the one that was mirrored from here.
    """

    def __init__(self, directory: str | Path, config: ConfigDict, anew: bool = False):
        self._path, self._name = Path(directory) / FILE, config.log
        self._service, self._known = None, {}
        if not config.log or not cluster.first():
            return
        with self._surviving():
            self._known = {} if anew else atomic.read_json(self._path) or {}
            known = self._known.get(self._name, {})
            self._service = SERVICES[self._name](self._path.parent, config, known.get('run'))
            self._note(run=self._service.run)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Sends those of the rows that the service does not have yet."""
        if self._service:
            with self._surviving():
                self._service.write([row for row in rows if row['step'] > self._service.last])

    def finish(self, step: int, figures: Sequence[Path], summary: Mapping[str, float]) -> None:
        """Sends the figures, PNG files, and the summary of a run that ended after `step`."""
        if self._service:
            with self._surviving():
                self._service.finish(step, figures, summary)
                self._note(finished=step)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self._service:
            with self._surviving():
                self._service.close(failed=kind is not None)

    def _note(self, **facts):
        self._known[self._name] = {**self._known.get(self._name, {}), **facts}
        atomic.write_json(self._path, self._known)

    @contextlib.contextmanager
    def _surviving(self):
        try:
            yield
        except Exception as error:  # The network or the service's package may raise any.
            self._service = None
            reason = ' '.join(f'{type(error).__name__}: {error}'.split())
            print(f"log='{self._name}' failed: {reason}\nThe run goes on without it; the same "
                  'command later sends what is missing', flush=True)


def finish(directory: str | Path, config: ConfigDict, rows: Sequence[Mapping[str, Any]],
           figures: Sequence[Path], summary: Mapping[str, float]) -> None:
    """Completes the mirror of a run that has ended with these rows, unless it is complete."""
    step = rows[-1]['step']
    with contextlib.suppress(UserError):
        known = atomic.read_json(Path(directory) / FILE) or {}
        if not config.log or known.get(config.log, {}).get('finished') == step:
            return
    with Tracker(directory, config) as tracker:
        tracker.write(rows)
        tracker.finish(step, figures, summary)


class _Wandb:
    """A run of Weights & Biases: https://docs.wandb.ai/ref/python. Without a network
    (WANDB_MODE=offline) each start writes a folder of its own with all rows so far."""

    def __init__(self, directory, config, run):
        import wandb

        self.run = run or secrets.token_hex(4)
        self._image = wandb.Image
        self._open = wandb.init(
            project=os.environ.get('WANDB_PROJECT', PROJECT), id=self.run, resume='allow',
            name=directory.name, dir=str(directory), config=config.to_dict(), reinit='create_new',
            settings={'finish_timeout': PATIENCE})
        self.last = self._open.starting_step - 1

    def write(self, rows):
        for row in rows:
            self._open.log({name: value for name, value in row.items() if name != 'step'},
                           step=row['step'])

    def finish(self, step, figures, summary):
        del step
        self._open.log({f'figures/{path.stem}': self._image(str(path)) for path in figures})
        self._open.summary.update(summary)

    def close(self, failed):
        self._open.finish(exit_code=int(failed))


class _MLflow:
    """A run of MLflow: https://mlflow.org/docs/latest/python_api/mlflow.client.html."""

    def __init__(self, directory, config, run):
        import mlflow
        from mlflow import entities

        self._client, self._entities = mlflow.MlflowClient(), entities
        self.run = run or self._create(directory, config)
        self._client.update_run(self.run, status='RUNNING')
        self.last = self._client.get_run(self.run).data.metrics.get('step', -1)

    def _create(self, directory, config):
        name = os.environ.get('MLFLOW_EXPERIMENT_NAME', PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        run = self._client.create_run(experiment, run_name=directory.name).info.run_id
        fields = traverse_util.flatten_dict(config.to_dict(), sep='.')
        self._send(run, params=[self._entities.Param(field, str(value)[:LETTERS])
                                for field, value in fields.items()])
        return run

    def write(self, rows):
        # The step is a metric too, the last one of a row: it tells which rows the service has.
        self._send(self.run, metrics=[
            self._metric(name, row[name], row['step'])
            for row in rows for name in sorted(row, key=lambda name: name == 'step')])

    def finish(self, step, figures, summary):
        for path in figures:
            self._client.log_artifact(self.run, str(path), 'figures')
        self._send(self.run, metrics=[self._metric(name, value, step)
                                      for name, value in summary.items()])

    def close(self, failed):
        self._client.set_terminated(self.run, 'FAILED' if failed else 'FINISHED')

    def _metric(self, name, value, step):
        allowed = re.sub(r'[^\w.\- :/]', '_', name)
        return self._entities.Metric(allowed, value, int(1000 * time.time()), step)

    def _send(self, run, **entries):
        (name, values), = entries.items()
        most = {'metrics': METRICS, 'params': PARAMS}[name]
        for i in range(0, len(values), most):
            self._client.log_batch(run, **{name: values[i:i + most]})


SERVICES = {'wandb': _Wandb, 'mlflow': _MLflow}
NAMES = ('', *SERVICES)
