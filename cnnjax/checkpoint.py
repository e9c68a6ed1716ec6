"""Checkpoints of a training, by orbax: asynchronous, atomic, the newest and the best are kept."""

from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from cnnjax.errors import UserError


class Checkpoints:
    """The checkpoints below `directory`; a context manager, which waits for unfinished writes.

    `keep` is the number of newest ones that stay; the one with the lowest error stays too.
    """

    def __init__(self, directory, keep=2, read_only=False):
        latest = checkpoint_managers.LatestN(keep)
        best = checkpoint_managers.BestN(get_metric_fn=lambda metrics: -metrics['error'], n=1,
                                         keep_checkpoints_without_metrics=False)
        self._manager = ocp.CheckpointManager(
            Path(directory).absolute(), item_handlers=ocp.PyTreeCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                read_only=read_only, create=not read_only,
                cleanup_tmp_directories=not read_only,
                best_fn=lambda metrics: metrics['error'], best_mode='min',
                preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, best])))
        self.directory = Path(directory)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()

    def latest(self):
        """The step of the newest checkpoint, None when there is none."""
        return self._manager.latest_step()

    def best(self):
        """The step of the checkpoint with the lowest error, None when none was evaluated."""
        return self._manager.best_step()

    def save(self, step, state, error=None):
        """Starts to write `state`; `error` is that of its evaluation, if it was evaluated."""
        self._manager.save(step, args=ocp.args.PyTreeSave(state), force=True,
                           metrics=None if error is None else {'error': error})

    def restore(self, step, like):
        """The state saved at `step`, with the shapes and the placement on devices of `like`."""
        return self._manager.restore(step, args=ocp.args.PyTreeRestore(
            like, restore_args=ocp.checkpoint_utils.construct_restore_args(like)))

    def variables(self, step):
        """{'params', 'batch_stats'} saved at `step`, as numpy arrays, from whatever devices."""
        saved = self._manager.item_metadata(step).tree
        wanted = {name: saved.get(name, {}) for name in ('params', 'batch_stats')}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        return self._manager.restore(step, args=ocp.args.PyTreeRestore(
            wanted, restore_args=as_numpy, partial_restore=True))

    def resolve(self, which):
        """The step that `which` means: 'latest', 'best' or a step's number as a string."""
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise UserError(f'{self.directory} holds no checkpoint yet: train first')
        if which in ('latest', 'best'):
            step = self.latest() if which == 'latest' else self.best()
            return steps[-1] if step is None else step
        if which.isdigit() and int(which) in steps:
            return int(which)
        raise UserError(f"there is no checkpoint '{which}' in {self.directory}: it has latest, "
                        f'best and {", ".join(map(str, steps))}')
