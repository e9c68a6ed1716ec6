"""Prepares TensorFlow Datasets (https://www.tensorflow.org/datasets), and finds those that are
prepared, without TensorFlow."""

import contextlib
import io
import os
import pathlib
import shlex
from typing import Any

import requests
import tensorflow_datasets as tfds

from cnnjax.data.examples import Missing
from cnnjax.data.sources import SHIPPED
from cnnjax.data.tfds_builders import BUILDERS
from cnnjax.errors import UserError, suggest


def prepare(
    name: str, data_dir: str | None = None, manual_dir: str | None = None
) -> pathlib.Path:
    """Downloads a data set and writes it in tfds' own layout, unless it is already there.

    Args:
        name: 'cifar10', 'cifar100', 'svhn_cropped' or 'mnist'.
        data_dir: where tfds keeps its data sets; None is $TFDS_DATA_DIR or ~/tensorflow_datasets.
        manual_dir: the directory with the archives that the user downloaded, under their own
            names; None downloads them.

    Returns:
        The directory of the prepared data set.

    Raises:
        UserError: the data set is unknown, can be prepared only with TensorFlow (the message has
            the commands), or is there in a format without random access; a download failed; or an
            archive is missing or has a wrong checksum.
    """
    builder = _builder(name, data_dir)
    path = pathlib.Path(builder.data_path)
    if path.exists():
        _readable(builder, name)
        return path
    manual = pathlib.Path(os.path.expanduser(manual_dir)) if manual_dir else None
    if name not in BUILDERS:
        raise UserError(_tensorflow_commands(name, builder.data_dir_root, manual,
                                             builder.MANUAL_DOWNLOAD_INSTRUCTIONS))

    builder = BUILDERS[name](data_dir=builder.data_dir_root, file_format='array_record')
    if manual:
        archives = {url: manual / info.filename for url, info in builder.url_infos.items()}
        missing = [f'{archive}, from {url}' for url, archive in archives.items()
                   if not archive.exists()]
        if missing:
            raise UserError('\n  '.join([f'to prepare {name}, these are missing:', *missing]))
    config = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
    try:
        builder.download_and_prepare(download_config=config)
    except tfds.core.download.download_manager.NonMatchingChecksumError as error:
        what, _, _ = str(error).partition('\nTo debug')
        raise UserError(f'{what}\nDelete that file and download it again') from error
    except (requests.RequestException, tfds.core.download.DownloadError) as error:
        urls = '\n  '.join(builder.url_infos)
        raise UserError(
            f'the download of {name} failed: {error}\n'
            f'Where there is a network, download\n  {urls}\n'
            'put the files into a directory, and give that directory as --config.manual_dir='
        ) from error
    return path


def prepared(name: str, data_dir: str | None = None) -> Any:
    """The builder of a prepared data set, whose files allow random access; arguments as of
    `prepare`.

    Raises:
        Missing: the data set is not prepared.
        UserError: an unknown data set, or one prepared in a format without random access.
    """
    builder = _builder(name, data_dir, others=(*SHIPPED, 'folder'))
    if not builder.data_path.exists():
        raise Missing(
            f'{name} is not prepared: there is no {builder.data_path}. Prepare it, once, with\n'
            f'  {_prepare_command(name, data_dir)}'
        )
    return _readable(builder, name)


def _builder(name, data_dir, others=()) -> Any:
    data_dir = data_dir and os.path.expanduser(data_dir)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # The import complains at length.
            builder = tfds.builder(name, data_dir=data_dir)
    except ImportError:
        return _without_code(name, data_dir or tfds.core.constants.DATA_DIR)
    except (ValueError, AssertionError) as error:  # the latter for an unknown version
        known = [*others, *BUILDERS, 'imagenet2012']
        hint = suggest(name, known) or f'; try {", ".join(known)}'
        raise UserError(f'tensorflow-datasets has no {name!r}{hint}') from error
    if str(builder.data_dir).startswith('~'):
        raise UserError(f'data_dir={data_dir}: this user has no home directory; give a path '
                        'without ~, as in --config.data_dir=data')
    return builder


def _without_code(name, data_dir):
    """The builder of a prepared data set whose code needs TensorFlow, such as coco/2017."""
    found = [path.parent for path in pathlib.Path(data_dir, name).glob('*/dataset_info.json')]
    if not found:
        raise Missing(f'there is no {data_dir}/{name}: '
                      + _tensorflow_commands(name, pathlib.Path(data_dir), None))
    return tfds.builder_from_directory(max(found, key=lambda path: tfds.core.Version(path.name)))


def _prepare_command(name, data_dir):
    override = f' --config.data_dir={shlex.quote(str(data_dir))}' if data_dir else ''
    return f'python launch.py --config=configs/prepare.py:{name} --workdir=runs/prepare{override}'


def _readable(builder, name) -> Any:
    # A builder made from the directory also finds a format that `tfds convert_format` added.
    prepared = tfds.builder_from_directory(builder.data_path)
    formats = prepared.info.available_file_formats()
    if not formats & tfds.core.FileFormat.with_random_access():
        # It cannot be prepared in place, because tfds takes an existing directory for finished.
        other = f'{builder.data_dir_root}_array_record'
        raise UserError(
            f'{builder.data_path} has the format {prepared.info.file_format.value}, which has no '
            'random access. Prepare it again in a second directory, the first can stay, with\n'
            f'  {_prepare_command(name, other)}\n'
            'and give the same --config.data_dir to what reads it'
        )
    return prepared


def _tensorflow_commands(name, data_dir, manual_dir, instructions=None):
    manual_dir = os.path.abspath(manual_dir or data_dir / 'downloads' / 'manual')
    data_dir = os.path.abspath(data_dir)
    packages = ['tensorflow-datasets', 'tensorflow-cpu', 'importlib_resources', 'pillow']
    script = (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir={data_dir!r}, file_format='array_record')"
        '.download_and_prepare(download_config='
        f'tfds.download.DownloadConfig(manual_dir={manual_dir!r}))"'
    )
    message = (
        f'to prepare {name}, but not to read it, tfds needs TensorFlow. Run, once,\n'
        f'  python -m venv /tmp/tfds && /tmp/tfds/bin/pip install {" ".join(packages)}\n'
        f'  /tmp/tfds/bin/{script}\n'
        'or, with uv,\n'
        f'  uv run --no-project --python 3.11 {" ".join(f"--with {p}" for p in packages)} {script}'
    )
    if instructions:
        says = ' '.join(instructions.split())
        message += f'\ntfds says: "{says}" Here, manual_dir is {manual_dir}'
    return message
