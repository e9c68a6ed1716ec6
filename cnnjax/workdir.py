"""A run's working directory.

    config.json       every field of the config
    environment.json  one entry per start: versions, devices, commit, command
    dataset.json      class names, image shape, mean and std
    metrics.jsonl     one row per report; none twice and none lost when a run is resumed
    tensorboard/      the same numbers as TensorBoard events
    checkpoints/      see checkpoint.py
    figures/          curves.png
    pending.json      of a run that was asked to stop: the steps since its last row
    profile/          a trace, where config.profile asks for one
    lock              held by the process that writes all this

Of several processes the first writes; all must see the same directory.
"""

import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import ml_collections
import numpy as np
import tensorboardX
from flax import traverse_util

from cnnjax import cluster
from cnnjax.errors import UserError

# Fields that leave the trained parameters as they are: a run may be resumed with other values.
REPORTING = frozenset({'report_every', 'eval_every', 'checkpoint_every', 'keep', 'eval_batch_size',
                       'data_dir', 'loader_threads', 'loader_workers', 'profile'})
PACKAGES = ('cnnjax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


@contextlib.contextmanager
def lock(workdir):
    """Holds the directory for this run; of several processes the first does. The system frees it
    even where the process is killed.

    Raises:
      UserError: another process holds it.
    """
    if not cluster.first():
        yield
        return
    path = Path(workdir) / 'lock'
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a+') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f'another run writes in {workdir} ({file.read().strip()}): wait for '
                            'its end, or take another workdir') from None
        except OSError as error:  # a file system that has no locks
            print(f'{workdir} cannot be locked ({error.strerror}): do not start a second run in it',
                  flush=True)
        file.truncate(0)
        file.write(f'process {os.getpid()} on {platform.node()}\n')
        file.flush()
        yield


# JSON is Unicode, but names of files are bytes. In Python one that is no character is half of a
# surrogate pair, which most readers of JSON refuse: it is written as Python shows it, \udce9.
HALVES = r'[\ud800-\udfff]|\\(?=u(?:005c|d[89a-f][0-9a-f]{2}))'


def _encoded(text):
    return re.sub(HALVES, lambda half: f'\\u{ord(half[0]):04x}', text)


def _decoded(text):
    return re.sub(r'\\u(005c|d[89a-f][0-9a-f]{2})', lambda half: chr(int(half[1], 16)), text)


def _strings(value, change):
    """A value of JSON with all of its strings changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_strings(name, change): _strings(v, change) for name, v in value.items()}
    return [_strings(v, change) for v in value] if isinstance(value, (list, tuple)) else value


def write_json(path, value):
    """Writes the whole JSON file or, when interrupted, nothing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    with temporary.open('w') as file:
        json.dump(_strings(value, _encoded), file, indent=1)
        file.write('\n')
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path):
    """The value of a JSON file, None where there is none.

    Raises:
      UserError: the file is damaged.
    """
    path = Path(path)
    try:
        return _strings(json.loads(path.read_text()), _decoded)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f'{path} is not a readable JSON file: {error}') from error


def write_config(workdir, config):
    """Saves every field of `config`."""
    write_json(Path(workdir) / 'config.json', config.to_dict())


def read_config(workdir):
    """The config of the run in `workdir`, None where there is none."""
    saved = read_json(Path(workdir) / 'config.json')
    if saved is None:
        return None
    try:
        return ml_collections.ConfigDict(_tuples(saved))
    except Exception as error:  # of many kinds: any value may stand in a file
        raise UserError(f'{Path(workdir) / "config.json"} is damaged: {error}') from None


def _tuples(value):
    """JSON has lists where the config has tuples."""
    if isinstance(value, dict):
        return {name: _tuples(v) for name, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def differences(saved, config):
    """{field: (saved value, new value)} of the fields that may change the trained parameters."""
    before, now = (traverse_util.flatten_dict(c.to_dict(), sep='.') for c in (saved, config))
    return {name: (before.get(name), now.get(name)) for name in {**before, **now}
            if before.get(name) != now.get(name) and name not in REPORTING}


def refuse(workdir, changed, reason=''):
    """Raises the UserError for a working directory that holds a run with another config; `changed`
    are the `differences`."""
    rows = '\n'.join(f'  {name}: {before!r} there, {now!r} here'
                     for name, (before, now) in changed.items())
    raise UserError(f'{workdir} holds a run with another config:\n{rows}\n'
                    f'Take another workdir, or the same values{reason}')


def write_environment(workdir):
    """Adds this start to environment.json."""
    source = Path(__file__).parent

    def git(*command):  # None without a repository, or without git
        try:
            return subprocess.run(['git', '-C', source, *command], capture_output=True, text=True,
                                  check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    changed = git('status', '--porcelain', '--untracked-files=no')
    path = Path(workdir) / 'environment.json'
    before = read_json(path) or []
    if not isinstance(before, list):
        raise UserError(f'{path} is damaged, it is no list: delete it')
    write_json(path, [*before, {
        'started': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'command': shlex.join([sys.executable, *sys.argv]),
        'commit': git('rev-parse', 'HEAD'),
        'uncommitted_changes': changed.splitlines() if changed else [],
        'host': platform.node(),
        'python': platform.python_version(),
        'packages': {name: importlib.metadata.version(name) for name in PACKAGES},
        'devices': [str(device) for device in jax.devices()],
        'device_kind': jax.devices()[0].device_kind,
    }])


def read_metrics(workdir):
    """The rows of metrics.jsonl, oldest first; a last row cut off by a kill is left out."""
    try:
        lines = (Path(workdir) / 'metrics.jsonl').read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except (ValueError, OSError) as error:
        raise UserError(f'{Path(workdir) / "metrics.jsonl"} cannot be read: {error}') from None
    rows = []
    for number, line in enumerate((line for line in lines if line.endswith('\n')), 1):
        try:
            rows.append({'step': None} | json.loads(line))
            rows[-1]['step'] + 0
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f'{Path(workdir) / "metrics.jsonl"}: line {number} is damaged: '
                            f'{error}; delete it') from None
    return rows


class Metrics:
    """Writes metrics.jsonl and TensorBoard events; a context manager. Of several processes the
    first writes.

    Rows after `step`, where the run resumes, are dropped: they are about to be written again.
    `pending` are the values, of each step, that a run that stopped at `step` had not reported yet.
    """

    def __init__(self, workdir, step):
        self._pending = Path(workdir) / 'pending.json'
        pending = read_json(self._pending) or {'step': None}
        # The same type, hence the same mean.
        self.pending = [{name: np.float32(value) for name, value in values.items()}
                        for values in pending['values']] if pending['step'] == step else []
        self._first = cluster.first()
        if not self._first:
            return
        rows = [row for row in read_metrics(workdir) if row['step'] <= step]
        path = Path(workdir) / 'metrics.jsonl'
        temporary = path.with_name('.metrics.jsonl')
        temporary.write_text(''.join(map(_line, rows)))
        temporary.replace(path)
        self._file = path.open('a')
        self._events = tensorboardX.SummaryWriter(str(Path(workdir) / 'tensorboard'),
                                                  purge_step=step + 1, write_to_disk=True)

    def write(self, *rows):
        """Adds rows, dicts of numbers with 'step'; they are on disk when this returns."""
        if not self._first:
            return
        self._file.write(''.join(map(_line, rows)))
        self._file.flush()
        os.fsync(self._file.fileno())
        for row in rows:
            for name, value in row.items():
                if name != 'step':
                    self._events.add_scalar(name, value, row['step'])

    def postpone(self, step, pending):
        """Keeps the values since the last row for the run that resumes at `step`."""
        if self._first:
            write_json(self._pending, {'step': step, 'values': [
                {name: float(value) for name, value in values.items()} for values in pending]})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._first:
            self._file.close()
            self._events.close()


def _line(row):
    return json.dumps(row) + '\n'
