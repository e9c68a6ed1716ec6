"""Checkpoints of a training, by orbax: asynchronous, atomic, the newest and the best are kept.

Each also holds what reports.Metrics.past returns, and is sealed by the checksums of its files. If a
checkpoint does not match them, the run resumes from the one before.
"""

import contextlib
import logging
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl.logging import get_absl_logger
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from cnnjax import atomic, cluster, workdir
from cnnjax.errors import UserError

SEAL = 'checksums.json'  # A file in each checkpoint: {file: its CRC-32}.
# A checkpoint takes up to ROOM times the bytes of its arrays on the disk, plus LEAST bytes.
ROOM, LEAST = 1.2, 1 << 18


@contextlib.contextmanager
def _quiet():
    """A context that keeps two things out of the logs: tracebacks from threads of orbax or
    tensorstore, whose errors the caller gets anyway in one line; and orbax's warnings about
    directories that are only read."""
    def is_news(record):
        if 'orbax' in record.pathname:
            return not record.exc_info and record.levelno != logging.WARNING
        return not record.exc_info or 'os_error_code' not in str(record.exc_info[1])

    loggers = get_absl_logger(), logging.getLogger('asyncio')
    for logger in loggers:
        logger.addFilter(is_news)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_news)


class Checkpoints:
    """The checkpoints below `directory`; a context manager, which waits for unfinished writes.

    `keep` is the number of newest ones that stay; the one with the lowest error stays too. Unless
    they are only read, those that are damaged or incomplete are set aside, with a message.

    All methods raise UserError if a checkpoint matches its seal but cannot be read.
    """

    def __init__(self, directory: str | Path, keep: int = 2, read_only: bool = False):
        self.directory = Path(directory)
        path = str(self.directory.absolute())
        if path.encode(errors='ignore').decode() != path:  # orbax would fail with a cast
            raise UserError(f'{path}: checkpoints need a path in UTF-8, which this is not: take '
                            'another workdir, or rename the directory')
        if self.directory.is_file():
            raise UserError(f'{path} is a file, where checkpoints are kept: move it away')
        if not read_only:
            if cluster.first():
                self._set_damaged_aside()
            multihost_utils.sync_global_devices('checkpoints')
        self._saving: int | None = None
        self._past: Mapping[str, Any] | None = None
        latest = checkpoint_managers.LatestN(keep)
        best = checkpoint_managers.BestN(get_metric_fn=lambda metrics: -metrics['error'], n=1,
                                         keep_checkpoints_without_metrics=False)
        with self._reading('a checkpoint'), contextlib.ExitStack() as stack:
            stack.enter_context(_quiet())
            options = ocp.CheckpointManagerOptions(
                read_only=read_only, create=not read_only, cleanup_tmp_directories=not read_only,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
                best_fn=lambda metrics: float(metrics['error']), best_mode='min',
                preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, best]))
            self._manager = ocp.CheckpointManager(
                self.directory.absolute(), item_handlers=ocp.PyTreeCheckpointHandler(),
                options=options)
            self._manager.best_step()  # reads the errors of all of them
            self._quiet = stack.pop_all()  # until the last checkpoint is written

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        with self._quiet:
            if jax.process_count() == 1 or kind is None or not issubclass(kind, Exception):
                self.wait()
                self._manager.close()  # waits for the other processes too

    def _set_damaged_aside(self):
        for path in sorted(self.directory.glob('[0-9]*')):
            if not path.name.isdecimal() or self._intact(path.name):
                continue
            aside = path.with_name(f'damaged-{path.name}')
            if aside.is_dir():
                shutil.rmtree(aside)
            else:
                aside.unlink(missing_ok=True)
            path.rename(aside)
            print(f'checkpoint {path.name} in {self.directory} is damaged or incomplete: it is not '
                  f'used, and is now called {aside.name}', flush=True)

    def _seal(self):
        """Adds the checksums to the checkpoint that is about to get its final name."""
        if cluster.first():
            directory = next(self.directory.glob(f'{self._saving}.*'))
            past = {'step': self._saving, **(self._past or {})}
            atomic.write_json(directory / workdir.PAST, past, indent=None)
            atomic.write_json(directory / SEAL, _checksums(directory))

    def _intact(self, name):
        directory = self.directory / str(name)
        try:
            # A checkpoint of an older version has no past, and may have any name.
            past = atomic.read_json(directory / workdir.PAST) or {'step': name}
            return (str(past['step']) == str(name)
                    and atomic.read_json(directory / SEAL) == _checksums(directory))
        except (UserError, OSError, KeyError, TypeError):
            return False

    @contextlib.contextmanager
    def _reading(self, what):
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # orbax does not check what it reads, and raises many kinds
            reason = f'{type(error).__name__}: {error}'.splitlines()[0]
            raise UserError(f'{what} in {self.directory} cannot be read ({reason}): move it away, '
                            'and the one before it is taken') from error

    def latest(self) -> int | None:
        """The step of the newest checkpoint, None when there is none."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step of the checkpoint with the lowest error, None when none was evaluated."""
        return self._manager.best_step()

    def save(self, step: int, state: Any, error: float | None = None,
             past: Mapping[str, Any] | None = None) -> None:
        """Starts to write `state` and `past`, that of reports.Metrics; `error` is that of its
        evaluation, if it was evaluated.

        Raises:
          UserError: it, or the one before, cannot be written.
        """
        self.wait()
        self._saving, self._past = step, past
        with self._writing():
            # Check before orbax begins: on a full disk each of its threads prints a traceback.
            size = ROOM * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + LEAST
            if (free := shutil.disk_usage(self.directory).free) < size:
                raise OSError(f'it takes {size / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free')
            self._manager.save(step, args=ocp.args.PyTreeSave(state), force=True,
                               metrics=None if error is None else {'error': error})

    def wait(self) -> None:
        """Returns once all is written; raises UserError if it cannot be."""
        with self._writing():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except Exception as error:
            # tensorstore hides the system's number in its message.
            if not isinstance(error, OSError) and 'os_error_code' not in str(error):
                raise
            *_, reason = str(error).splitlines()[0].split(': ')  # before it are paths
            raise UserError(f'checkpoint {self._saving} cannot be written to {self.directory}: '
                            f'{reason}\nThe ones before it are intact: mend that, and start again '
                            'with the same command') from error

    def past(self, step: int) -> dict[str, Any]:
        """The `past` saved at `step`; {} if there was none."""
        return workdir.read_past(self.directory / str(step))

    def restore(self, step: int, like: Any) -> Any:
        """The state saved at `step`, a NamedTuple, with the shapes and the placement on devices of
        `like`. Fields that are empty in `like` may be missing in a state of an older version.

        Raises:
          UserError: the parameters have other names or shapes than those of `like`.
        """
        with self._reading(f'checkpoint {step}'):
            saved = self._manager.item_metadata(step).tree
        theirs, own = ({path: array.shape for path, array in jax.tree.leaves_with_path(tree)}
                       for tree in (saved.get('params', {}), getattr(like, 'params', {})))
        if own and theirs != own:
            raise UserError(f'checkpoint {step} in {self.directory} is of another network than '
                            'the config now describes: has the file of your network changed? Put '
                            'it back, or take another workdir')
        with self._reading(f'checkpoint {step}'):
            wanted = {name: value for name, value in like._asdict().items()
                      if name in saved or jax.tree.leaves(value)}
            return like._replace(**self._manager.restore(step, args=ocp.args.PyTreeRestore(
                wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted))))

    def variables(self, step: int) -> Mapping[str, Any]:
        """{'params', 'batch_stats'} saved at `step`, as numpy arrays, from whatever devices; their
        average, if the training computed one."""
        if not self._intact(step):
            raise UserError(f'checkpoint {step} in {self.directory} is damaged: take another one')
        with self._reading(f'checkpoint {step}'):
            saved = self._manager.item_metadata(step).tree
            average = saved.get('average') or {}
            wanted = ({'average': average} if average else
                      {name: saved.get(name, {}) for name in ('params', 'batch_stats')})
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            found = self._manager.restore(step, args=ocp.args.PyTreeRestore(
                wanted, restore_args=as_numpy, partial_restore=True))
            return found['average'] if average else found

    def resolve(self, which: str) -> int:
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


def _checksums(directory):
    """{file: CRC-32} of a checkpoint's past, state and metrics; orbax has not written the rest
    yet."""
    sums = {}
    for path in sorted([directory / workdir.PAST, *directory.glob('*/**/*')]):
        if path.is_file():
            total = 0
            with path.open('rb') as file:
                while chunk := file.read(1 << 22):
                    total = zlib.crc32(chunk, total)
            sums[str(path.relative_to(directory))] = total
    return sums
