"""Examples by their number of axes: sequences [T, C], images [H, W, C] and volumes [D, H, W, C].

A clip is a volume whose slices are its frames. Sequences are floats, images uint8, volumes either.
What a program calls an image may be any of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cnnjax.errors import UserError

NAMES = {2: 'sequence', 3: 'image', 4: 'volume'}  # by the number of axes
AXES = {2: 'T', 3: 'H, W', 4: 'D, H, W'}
FORMS = ('images are uint8 [N, H, W, C], sequences floats [N, T, C], and volumes [N, D, H, W, C] '
         'uint8 or floats')
# The fields of a config that only images have, with the values that turn them off.
OF_IMAGES = {
    'stream': False, 'image_size': 0, 'border': 0, 'fit': 'crop', 'test_image_size': 0,
    'test_shorter_side': 0, 'crops': '1', 'test_scales': (), 'test_flip': False, 'whiten': False,
    'scale': (1.0, 1.0), 'rotation': 0.0, 'elastic': 0.0, 'jitter': 0.0, 'color': 0.0,
    'color_jitter': 0.0, 'hue': 0.0, 'saturation': 1.0, 'exposure': 1.0, 'auto_augment': '',
    'random_erasing': 0.0, 'cutmix': 0.0}
OF_SEQUENCES = OF_IMAGES | {'flip': False, 'flip_vertical': False}


def name(shape: Sequence[int]) -> str:
    """What an example of this shape is called."""
    return NAMES.get(len(shape), 'example')


def plural(shape: Sequence[int]) -> str:
    """What several examples of this shape are called."""
    return f'{name(shape)}s'


def axes(shape: Sequence[int]) -> str:
    """The axes of a batch of such examples: 'N, H, W, 3'."""
    return f'N, {AXES[len(shape)]}, {shape[-1]}'


def is_example(dtype: Any, axes: int) -> bool:
    """Whether an array of this type, with so many axes, is an example."""
    if dtype == np.uint8:
        return axes in (3, 4)
    return dtype is not None and np.issubdtype(dtype, np.floating) and axes in (2, 4)


def check(config: ConfigDict | Mapping[str, Any], shape: Sequence[int]) -> None:
    """Raises UserError if a field of a training's config makes no sense for such examples."""
    if len(shape) == 3:
        return
    kind = name(shape)
    if config['task'] not in ('classify', 'multilabel'):
        raise UserError(f"task='{config['task']}' needs images [H, W, C], and the examples are "
                        f"{kind}s {list(shape)}: take 'classify' or 'multilabel'")
    for field, off in (OF_SEQUENCES if len(shape) == 2 else OF_IMAGES).items():
        value = tuple(config[field]) if isinstance(config[field], list) else config[field]
        if value not in (off, None):
            reason = (': it would turn time around' if field == 'flip' else
                      f': it has no meaning for a {kind}')
            raise UserError(f'{field}={value!r}, and the examples are {kind}s {list(shape)}{reason}'
                            '; leave it out')
