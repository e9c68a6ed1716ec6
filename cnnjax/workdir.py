"""A run's working directory.

    config.json       every field of the config
    environment.json  one entry per start: versions, devices, commit, command
    dataset.json      what the run was trained on, with dataset.listing.gz: see dataset_json.py
    metrics.jsonl     one row per report; a resumed run writes none twice and loses none
    metrics.csv       the same numbers as a table
    tensorboard/      the same numbers, the figures and histograms of the weights as events
    tracker.json      the run's name in the service of config.log
    checkpoints/      see checkpoint.py
    results.json, report.html, ...   a report on the test set: see report.py
    figures/          curves.png, and what figures.py lists
    profile/          a trace, where config.profile asks for one
    lock              held by the process that writes all this

A directory belongs to one experiment, which claims it. Every checkpoint has a copy of the config,
of dataset.json and of the rows so far, from which lost files are restored. Of several processes
only the first writes; all must see the same directory.
"""

import contextlib
import datetime
import fcntl
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import ml_collections
import numpy as np
from flax import traverse_util

from cnnjax import atomic, cluster, user_network
from cnnjax.errors import UserError

# Fields that do not affect the trained parameters: a run may be resumed with other values.
REPORTING = frozenset({'report_every', 'eval_every', 'checkpoint_every', 'keep', 'eval_batch_size',
                       'data_dir', 'loader_threads', 'loader_workers', 'log', 'histograms',
                       'profile', 'crops', 'test_scales', 'test_flip'})
# A run may be resumed with another length if the learning rates of the steps so far stay the same.
LENGTHS = frozenset({'epochs', 'steps'})
# Fields that older runs lack, with the values that these runs were trained with.
YOUNGER = {'interpolation': 'bilinear', 'color_jitter': 0.0, 'task': 'classify',
           'border_mode': 'zero', 'fit': 'crop', 'mask_values': (), 'flip_vertical': False,
           'crop_size': 0, 'scale': (1.0, 1.0), 'rotation': 0.0, 'elastic': 0.0,
           'loss': 'cross_entropy', 'focal_gamma': 2.0, 'class_weights': (), 'weight_map': 0.0,
           'weight_map_sigma': 5.0, 'loss_denominator': 'weights', 'dice_sums': 'image',
           'dice_smoothing': 1.0, 'dice_squared': False, 'dice_background': False,
           'dice_absent': False, 'bad_boxes': 'error', 'annotations': '', 'proposals': '',
           'jitter': 0.0, 'hue': 0.0, 'saturation': 1.0, 'exposure': 1.0, 'clip_norm': 0.0,
           'test_image_size': 0, 'whiten': False, 'auto_augment': '', 'randaugment_operations': 2,
           'randaugment_magnitude': 9, 'random_erasing': 0.0, 'mixup': 0.0, 'cutmix': 0.0,
           'repeats': 1,
           'log': '', 'histograms': 0,
           'crops': '1', 'test_scales': (), 'test_flip': False,
           'optimizer': 'sgd', 'rmsprop_decay': 0.9, 'rmsprop_epsilon': 1.0, 'adamw_beta2': 0.999,
           'adamw_epsilon': 1e-8, 'average': '', 'average_start': 0.0, 'average_every': 1,
           'average_decay': 0.999, 'plateau_patience': 5, 'plateau_threshold': 1e-4, 'patience': 0,
           'balanced': False, 'layer_rates': '', 'max_norm': '',
           'split': '', 'val_split': '', 'class_folders': 'first', 'label_separator': '|'}
SHOWN = 6  # The most differences between two configs in a message.
DATASET = 'dataset.json'  # see dataset_json.py
PAST = 'past.json'  # a checkpoint's file with what Metrics.past returns
LOCK = 'lock'
# A run that was killed at its start leaves only files in BARE, and its directory is free again. A
# directory with a file in OURS belongs to a run.
BARE = frozenset({'config.json', LOCK, 'submitit'})
OURS = frozenset({'checkpoints', 'dataset.json', 'environment.json', 'figures', 'metrics.jsonl',
                  'results.json', 'summary.json', 'tensorboard', 'weights.json'})
PACKAGES = ('cnnjax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def located(workdir: str) -> str:
    """The directory that the flag names: '~/runs' is in the home directory.

    Raises:
      UserError: the flag is empty, or there is no such user.
    """
    if not workdir.strip():
        raise UserError('workdir is empty: give a directory, for example --workdir=runs/quickstart')
    try:
        return str(Path(workdir).expanduser())
    except RuntimeError as error:
        raise UserError(f'workdir={workdir}: {error}') from None


@contextlib.contextmanager
def claim(workdir: str | Path, config: ml_collections.ConfigDict) -> Generator[None]:
    """A context that holds the directory for the run of `config`; of several processes the first
    holds it. It removes unfinished files of a killed run, and restores a lost config.json.

    Raises:
      UserError: another experiment, or another process, has the directory.
    """
    if not cluster.first():
        yield
        return
    check_free(workdir, config.experiment)
    with lock(workdir):
        atomic.remove_unfinished(workdir, LOCK)
        copy = sealed(workdir).get('config')
        own = _own_config(workdir, copy)
        if own is None and copy is not None:
            print(f'{Path(workdir) / "config.json"} was lost or damaged: it is restored from the '
                  'newest checkpoint', flush=True)
        if own is None or own.experiment != config.experiment:  # That run wrote nothing else.
            write_config(workdir, config if copy is None else copy)
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                if _names(workdir) <= BARE:  # The run was refused, or writes elsewhere.
                    (Path(workdir) / 'config.json').unlink()


def check_free(workdir: str | Path, experiment: str) -> None:
    """Raises UserError unless `experiment` may write in the directory: it must be free or have the
    work of that experiment. Sweeps, which write no config, are called 'sweep'."""
    try:
        names = _names(workdir)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f'workdir={workdir}: {error.strerror}; take another one') from None
    if 'sweep.json' in names:
        holder = 'sweep'
    elif (config := read_config(workdir)) is not None:
        holder = config.get('experiment')
        if holder is None:
            raise UserError(f'{workdir} holds a config.json of another program; take another '
                            'workdir')
        if names <= BARE:
            return
    elif ours := sorted(names & OURS):
        raise UserError(f'{workdir} holds {", ".join(ours)} of a run that has lost its '
                        'config.json; take another workdir')
    else:
        return
    if holder != experiment:
        raise UserError(f'{workdir} holds a {holder!r} run; take another workdir')


def _names(workdir):
    return {path.name for path in Path(workdir).iterdir() if path.name[0] != '.'}


@contextlib.contextmanager
def lock(workdir: str | Path, name: str = LOCK, wait: bool = False) -> Generator[None]:
    """A context that locks the file `name` in the directory for this process; with `wait` it waits
    for its turn. The system frees the lock even if the process is killed.

    Raises:
      UserError: another process has the lock, or the file cannot be written.
    """
    path = Path(workdir) / name
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open('a+'))
        except OSError as error:
            raise UserError(f'workdir={workdir} cannot be written: {error.strerror}') from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f'another run writes in {workdir} ({file.read().strip()}): wait for '
                            'its end, or take another workdir') from None
        except OSError as error:  # The file system has no locks.
            print(f'{workdir} cannot be locked ({error.strerror}): do not start a second run in it',
                  flush=True)
        file.truncate(0)
        file.write(f'process {os.getpid()} on {platform.node()}\n')
        file.flush()
        yield


def write_config(workdir: str | Path, config: ml_collections.ConfigDict) -> None:
    """Saves every field of `config`."""
    atomic.write_json(Path(workdir) / 'config.json', config.to_dict())


def read_config(workdir: str | Path) -> ml_collections.ConfigDict | None:
    """The config of the run in `workdir`; None if there is no run. It is that in config.json or, if
    this is lost, damaged or of another run, that in the newest checkpoint.

    Raises:
      UserError: config.json is damaged, and no checkpoint has a copy.
    """
    copy = sealed(workdir).get('config')
    for config in (_own_config(workdir, copy), copy):
        if config is not None:
            return config
    return _config_json(workdir)


def _own_config(workdir, copy):
    """The config in config.json; None if it is lost, damaged or not the checkpoint's `copy`."""
    try:
        own = _config_json(workdir)
    except UserError:
        return None
    if own is None or copy is None or differences(copy, own).keys() <= LENGTHS:
        return own
    return None


def _config_json(workdir):
    path = Path(workdir) / 'config.json'
    saved = atomic.read_json(path)
    try:
        return None if saved is None else _config(saved)
    except Exception as error:  # A file may hold any value and raise any error.
        raise UserError(f'{path} is damaged: {error}') from None


def sealed(workdir: str | Path) -> dict[str, Any]:
    """What `Metrics.past` gave the newest checkpoint; {} if there is none. Checkpoints of optimized
    images are one folder deeper."""
    try:
        found = [path for pattern in ('[0-9]*', '*/[0-9]*')
                 for path in Path(workdir).glob(f'checkpoints/{pattern}/{PAST}')]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    except (OSError, ValueError):  # The directory does not exist or cannot exist.
        return {}
    for path in found:
        with contextlib.suppress(UserError):
            if past := read_past(path.parent):
                return past
    return {}


def _config(saved):
    if saved.get('experiment') == 'train':
        saved = YOUNGER | renamed(saved)
    return ml_collections.ConfigDict(_tuples(saved))


def renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a config with today's names: `whole` of older versions is now `fit`."""
    fields = dict(fields)
    if 'whole' in fields:
        fields['fit'] = 'pad' if fields.pop('whole') else 'crop'
    return fields


def _tuples(value) -> Any:
    """Turns JSON's lists into tuples, as the config has them."""
    if isinstance(value, dict):
        return {name: _tuples(v) for name, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def differences(saved: ml_collections.ConfigDict,
                config: ml_collections.ConfigDict) -> dict[str, tuple[Any, Any]]:
    """{field: (saved value, new value)} of the fields that may change the trained parameters."""
    def values(config):
        flat: dict[str, Any] = traverse_util.flatten_dict(config.to_dict(), sep='.')
        name = flat.get('model.name')  # the file of a user's own network may have moved
        return flat | ({'model.name': user_network.short(name)} if name else {})

    before, now = values(saved), values(config)
    # Evaluations change what is trained if the rate or the end depends on their errors.
    followed = any(config.get('schedule') == 'plateau' or config.get('patience')
                   for config in (before, now))
    reporting = REPORTING - {'eval_every'} if followed else REPORTING
    pairs = {name: (before.get(name), now.get(name))
             for name in {**before, **now} if name not in reporting}
    return {name: (then, value) for name, (then, value) in pairs.items() if then != value}


def refuse(workdir: str | Path, changed: Mapping[str, tuple[Any, Any]],
           reason: str = '') -> NoReturn:
    """Raises UserError, because the working directory holds a run with another config; `changed` is
    what `differences` returns."""
    # Of another experiment most fields differ: its name says more than they do.
    rows = [f'\n  {name}: {changed[name][0]!r} there, {changed[name][1]!r} here'
            for name in sorted(changed, key=lambda name: name != 'experiment')]
    if len(rows) > SHOWN:
        rows[SHOWN:] = [f'\n  and {len(rows) - SHOWN} more']
    raise UserError(f'{workdir} holds a run with another config:{"".join(rows)}\n'
                    f'Take another workdir, or the same values{reason}')


def write_environment(workdir: str | Path, code: str = '') -> None:
    """Adds an entry for this start to environment.json. `code` is a digest of the user's own
    network, '' for one of ours. If it differs from that of the last start, a line says so."""
    source = Path(__file__).parent

    def git(*command):  # None without a repository or without git
        try:
            return subprocess.run(['git', '-C', source, *command], capture_output=True, text=True,
                                  check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    changed = git('status', '--porcelain', '--untracked-files=no')
    path = Path(workdir) / 'environment.json'
    before = atomic.read_json(path) or []
    if not isinstance(before, list) or not all(isinstance(start, dict) for start in before):
        raise UserError(f'{path} is damaged, it is no list of starts: delete it')
    if code and before and before[-1].get('network', code) != code:
        print(f'{workdir}: the file of its network is not the one that the last start read; the '
              'weights so far were trained with that', flush=True)
    atomic.write_json(path, [*before, {
        'started': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'command': shlex.join([sys.executable, *sys.argv]),
        'commit': git('rev-parse', 'HEAD'),
        'uncommitted_changes': changed.splitlines() if changed else [],
        'host': platform.node(),
        'python': platform.python_version(),
        'packages': {name: importlib.metadata.version(name) for name in PACKAGES},
        'devices': [str(device) for device in jax.devices()],
        'device_kind': jax.devices()[0].device_kind,
        **({'network': code} if code else {}),
    }])


def checked_row(row: Any) -> dict[str, Any]:
    """Raises ValueError unless `row` is {name: number} with a whole 'step'."""
    if not isinstance(row, dict) or type(row.get('step')) is not int:
        raise ValueError('it is no row with a step')
    for name, value in row.items():
        if type(value) not in (int, float):
            raise ValueError(f'{name} is {value!r}, no number')
    return row


def read_past(checkpoint: str | Path) -> dict[str, Any]:
    """What `Metrics.past` gave the checkpoint in that directory; {} if it gave nothing.

    Raises:
      UserError: the file is damaged.
    """
    path = Path(checkpoint) / PAST
    past = atomic.read_json(path)
    try:
        return {} if not past or 'config' not in past else {
            'config': _config(past['config']), 'dataset': past.get('dataset'),
            'rows': list(map(checked_row, past['rows'])),
            # As float32 again, their mean has the same bits as in a run that was not stopped.
            'pending': [{name: np.float32(value) for name, value in values.items()}
                        for values in past['pending']]}
    except Exception as error:  # A file may hold any value and raise any error.
        raise UserError(f'{path} is damaged: {error!r}; delete that checkpoint') from None
