"""The description of a network and its images that comes with a weights file: in its metadata if
cnnjax wrote it, or in the config.json beside it on the Hugging Face hub."""

import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import user_network, workdir
from cnnjax.errors import UserError

# The fields of configs/base.py that make images of pictures in an evaluation, with their types.
EVALUATION = {'task': str, 'image_size': int, 'test_shorter_side': int, 'interpolation': str,
              'border': int, 'border_mode': str, 'fit': str, 'crops': str, 'test_scales': tuple,
              'test_flip': bool}
# torchvision's crop, for files that name none: 224 of 256 pixels.
CROP = {'crop_pct': 0.875, 'interpolation': 'bilinear'}
# Arguments of timm's networks that do not change what they compute; others may (see `beside`).
HARMLESS = {'num_classes', 'in_chans', 'img_size', 'drop_rate', 'drop_path_rate'}


def beside(path: Path) -> dict[str, Any]:
    """The contents of the hub's config.json beside a file; {} if there is none."""
    path = path.with_name('config.json')
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text())
        config = config | config.get('pretrained_cfg', {})
        changed = set(config.get('model_args') or {}) - HARMLESS
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f'{path} is damaged: {error}') from None
    if config.get('global_pool') not in (None, 'avg'):
        changed.add(f'global_pool={config["global_pool"]}')
    if changed:
        raise UserError(f'{path}: {", ".join(sorted(map(str, changed)))} makes another network of '
                        f"timm's {config.get('architecture')} than we have")
    return _parse(config, path)


def labels(path: Path, names: Sequence[str], count: int) -> tuple[str, ...] | None:
    """The names of `count` classes in the first of these files that lies beside the weights file, a
    line for each; a class without a line has its number. None if there is no such file."""
    found = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
    if found is None:
        return None
    lines = found.read_text(errors='replace').splitlines()[:count]
    return (*lines, *map(str, range(len(lines), count)))


def to_write(network: Any, fields: Mapping[str, Any], classes: Sequence[str]) -> dict[str, str]:
    """The metadata for the file of a network that was made with `fields`; `inside` reads them."""
    *sides, channels = map(int, network.image_shape)
    values = {
        'architecture': user_network.short(network.name), 'fields': fields,
        'evaluation': network.evaluation,
        'mean': np.float64(network.normalize.mean).tolist(),
        'std': np.float64(network.normalize.std).tolist(),
        'input_size': (channels, *sides), 'label_names': classes}
    return {key: json.dumps(value) for key, value in values.items()} | {
        'format': 'pt', 'cnnjax': importlib.metadata.version('cnnjax')}


def inside(written: Mapping[str, str], path: Path, count: int) -> dict[str, Any]:
    """The metadata that `save` wrote into a file of `count` tensors."""
    try:
        about = {key: json.loads(written[key]) for key in
                 ('architecture', 'fields', 'mean', 'std', 'input_size', 'label_names')}
        evaluation = {key: _tuples(value) for key, value in workdir.renamed(
            json.loads(written.get('evaluation', '{}'))).items()}
        fields = {key: _tuples(value) for key, value in about['fields'].items()}
        repeated = [fields.get(key, ()) for key in ('blocks', 'layers_per_block')]
        layers = len(jax.tree.leaves(fields)) + sum(
            number for numbers in repeated if isinstance(numbers, tuple) for number in numbers
            if isinstance(number, int))
        if layers > 8 * count + 64:  # Building so many would take forever.
            raise ValueError(f'the fields {fields} make more layers than it has tensors')
        if not all(isinstance(evaluation[field], EVALUATION[field]) for field in evaluation):
            raise ValueError(f'evaluation {evaluation}')
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f'{path}: its metadata are damaged: {error!r}') from None
    return _parse(about, path) | {'fields': fields, 'evaluation': evaluation}


def _tuples(value):
    """Turns JSON's lists into tuples, as the fields have them."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def crop(values: Mapping[str, Any], image_shape: Sequence[int]) -> dict[str, Any]:
    """The fields EVALUATION that correspond to timm's crop_pct and interpolation
    (https://github.com/huggingface/pytorch-image-models/blob/main/timm/data/transforms_factory.py).
    """
    share = float(values['crop_pct'])
    if not 0 < share <= 1:
        raise ValueError(f'crop_pct {share}')
    return {'test_shorter_side': math.floor(image_shape[0] / share),
            'interpolation': str(values.get('interpolation') or 'bicubic')}


def _parse(values, path):
    """A dict of 'architecture', 'label_names', 'image_shape', 'normalize' and 'evaluation', as far
    as `values` has them."""
    about = {key: values[key] for key in ('architecture', 'label_names') if values.get(key)}
    try:
        if not isinstance(about.get('architecture', ''), str):
            raise ValueError(f'architecture {about["architecture"]}')
        if 'input_size' in values:
            channels, *sides = map(int, values['input_size'])
            if min(channels, *sides) < 1 or len(sides) not in (1, 2, 3):
                raise ValueError(f'input_size {values["input_size"]}')
            about['image_shape'] = (*sides, channels)
            if values.get('crop_pct'):
                about['evaluation'] = crop(values, about['image_shape'])
        if 'mean' in values:
            mean, std = np.float32(values['mean']), np.float32(values['std'])
            if not (np.isfinite(mean).all() and (std > 0).all()):
                raise ValueError(f'mean {mean}, std {std}')
            about['normalize'] = mean, std
        about['label_names'] = tuple(map(str, about.get('label_names', ()))) or None
    except (KeyError, OverflowError, ValueError, TypeError) as error:
        raise UserError(f'{path}: what it says of the network and its images is damaged: '
                        f'{error!r}') from None
    return about
