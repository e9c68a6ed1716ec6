"""Images of more than a single unit's maximum: several facets of a unit, and directions in the
space of a layer's units.

    [shown] = facets(network, 'relu4_2', [17, 40])
    shown.images  # [2, 4, 64, 64, 3] in [0, 1]
    between = maximize(network, 'relu4_2', path(160, [17, 40], strong.maximum[[17, 40]]))

See units.py for how an image is made, and atlas.py for the directions of a photograph and of a data
set.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cnnjax.errors import UserError
from cnnjax.images import objectives, optimize, parametrizations, transforms, units
from cnnjax.images.units import DEFAULT, Maximized, Settings
from cnnjax.trained import Trained

SIDE = 64  # Images have so many pixels by default, less than those of units: many are made.
DIVERSITY = 0.7  # How much facets differ, below 1; with 0.9 one of 40 did not activate its unit.
COSINE_POWER = 2.0  # The direction of an activation counts, not only its projection.


def facets(network: Trained, layer: str, which: Sequence[int] | np.ndarray,
           settings: Settings = DEFAULT, *, count: int = 4, weight: float = DIVERSITY,
           size: int | tuple[int, int] | None = None) -> Iterator[Maximized]:
    """Yields `count` different images for each unit, images [U, count, H, W, C] and scores [U,
    count], for one chunk of the units after the other.

    The images of a unit are optimized together, for the unit's activation and to differ.

    Args:
      network, layer: see `units.maximize`.
      which: [U], channels of the layer.
      settings: see `Settings`.
      count: images of a unit.
      weight: see `objectives.diverse`.
      size: side of the images, or (height, width); None: see `units.image_size`, with SIDE.

    Raises:
      UserError: as in `units.maximize`; fewer than 2 images of a unit.
    """
    if count < 2:
        raise UserError(f'count={count}: a unit has 2 facets or more')
    shape = units.image_shape(network, layer, size or units.image_size(network, layer, SIDE))
    which = units.checked(network, layer, which, shape)
    robust = units.robustness(network, layer, shape)
    problem = optimize.Problem(
        network, objectives.diverse(objectives.peaks(layer), layer, weight),
        parametrizations.stack(units.parametrization(network, shape), count),
        transform=transforms.each(robust) if robust else None)
    measure = jax.jit(functools.partial(units.best, network, layer, 1))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(settings.seed), which)
    for part, found, health in units.descend(problem, keys, {'unit': which}, settings):
        scores = measure(network.variables, found.reshape(-1, *shape),
                         np.repeat(which[part], count))
        yield Maximized(found, np.asarray(scores).reshape(-1, count), health)


def path(channels: int, pair: Sequence[int], strongest: ArrayLike, steps: int = 5) -> np.ndarray:
    """[steps, channels]: directions from one unit of a layer to another. Each unit counts relative
    to the activation of its strongest patch, so that the one in the middle optimizes both alike."""
    one, other = (np.eye(channels, dtype=np.float32)[unit] / max(float(most), 1e-6)
                  for unit, most in zip(pair, np.asarray(strongest), strict=True))
    share = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
    return (1 - share) * one + share * other


def maximize(network: Trained, layer: str, directions: ArrayLike, settings: Settings = DEFAULT, *,
             cosine_power: float = 0.0, size: int | tuple[int, int] | None = None,
             progress: Callable[[int], object] | None = None) -> tuple[np.ndarray, list[str]]:
    """(images [N, H, W, C], what is wrong with each) for directions [N, C] of a layer, each scaled
    to length 1 (see `objectives.direction`).

    All start from the same noise, so that similar directions have similar images.

    Args:
      network, layer, settings: see `units.maximize`.
      cosine_power: how much the angle to the direction counts; 0 is the projection alone.
      size: side of the images, or (height, width); None: see `units.image_size`, with SIDE.
      progress: called with the number of images of every chunk that is done.

    Raises:
      UserError: as in `units.maximize`, or directions of another length than the layer's.
    """
    shape = units.image_shape(network, layer, size or units.image_size(network, layer, SIDE))
    channels = units.check_size(network, layer, shape)[-1]
    directions = np.asarray(directions, np.float32)
    if directions.ndim != 2 or not len(directions) or directions.shape[-1] != channels:
        raise UserError(f"directions of '{layer}' are [N, {channels}], not "
                        f'{list(directions.shape)}')
    lengths = np.linalg.norm(directions, axis=-1, keepdims=True)
    problem = optimize.Problem(
        network, objectives.direction(layer, cosine_power),
        units.parametrization(network, shape), transform=units.robustness(network, layer, shape))
    keys = jnp.broadcast_to(jax.random.key(settings.seed), len(directions))
    images, health = [], []
    for part, found, complaints in units.descend(
            problem, keys, {'direction': directions / np.maximum(lengths, 1e-12)}, settings):
        images.append(found)
        health += complaints
        if progress:
            progress(len(part))
    return np.concatenate(images), health
