"""Images that excite units most (Erhan et al. 2009, "Visualizing Higher-Layer Features of a Deep
Network", Technical Report 1341, University of Montreal; Simonyan et al. 2013, section 2,
https://arxiv.org/abs/1312.6034; Olah et al. 2017, https://distill.pub/2017/feature-visualization).

    found = maximize(network, 'relu4_2', range(112))
    found.images  # [112, 48, 48, 3] in [0, 1]

Many units are one program: a chunk of images, each for its own unit, descends at once.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from cnnjax import summary
from cnnjax.errors import UserError
from cnnjax.images import diagnosis, objectives, optimize, transforms
from cnnjax.images.parametrizations import COLOR_MATRIX, decorrelated, fourier, pixels, sigmoid
from cnnjax.trained import Trained

CHUNK = 32  # So many units are made at a time.
LEAST = 32  # Sides have this many pixels or more: fewer show a unit as a few squares of colour.
PHOTOGRAPHS = 48  # Training images with sides of this many pixels or more are photographs.
JITTER = 16  # An image moves by up to a 16th of its side.


class Maximized(NamedTuple):
    """An image for each of U units."""

    images: np.ndarray  # float32 [U, H, W, C] in [0, 1]
    scores: np.ndarray  # float32 [U], the unit's largest activation in it; sign=-1: the smallest
    health: list[str]  # [U], what is wrong with an image, which is then noise; '' for nothing


def maximize(network: Trained, layer: str, units: Sequence[int] | np.ndarray, *,
             size: int | tuple[int, int] | None = None, steps: int = 128,
             learning_rate: float = 0.05, sign: int = 1, chunk: int = CHUNK, seed: int = 0,
             mesh: Mesh | None = None,
             progress: Callable[[int], object] | None = None) -> Maximized:
    """`Maximized`: for each unit, the image that makes its mean over positions largest, by Adam.

    Networks of photographs, in colour and of 48 x 48 pixels or more, get Fourier coefficients of
    decorrelated colours, others pixels; the image is bounded by a sigmoid and moves before every
    step by up to a 16th of its side. A unit that is dead in the noise where it starts is woken
    first (see optimize.py).

    An image depends on its unit and the seed, not on the other units: in whatever order and chunks
    they are asked for, it is the same, up to the rounding of programs of other chunks.

    Args:
      network: a Trained network.
      layer: name of its tap; the last one's units are the classes.
      units: [U], channels of the layer.
      size: side of the images, or (height, width); None: see `image_size`.
      steps, learning_rate: of Adam.
      sign: -1 makes the mean smallest. Behind a ReLU it then is 0, of many images: take the layer
        before it.
      chunk: units at a time; made a multiple of the number of devices. The last one is filled up,
        so that the program is compiled once.
      seed: of everything random.
      mesh: devices that share every chunk; None: one device.
      progress: called with the number of units of every chunk that is done (`bar.update`).

    Raises:
      UserError: no such layer, at this size; a unit that it does not have; numbers that make no
        sense. A unit that is blocked is no error: see `Maximized.health`.
    """
    parts = []
    for part in each(network, layer, units, size=size, steps=steps, learning_rate=learning_rate,
                     sign=sign, chunk=chunk, seed=seed, mesh=mesh):
        parts.append(part)
        if progress:
            progress(len(part.images))
    images, scores, health = zip(*parts, strict=True)
    return Maximized(np.concatenate(images), np.concatenate(scores), sum(health, []))


def each(network: Trained, layer: str, units: Sequence[int] | np.ndarray, *,
         size: int | tuple[int, int] | None = None, steps: int = 128, learning_rate: float = 0.05,
         sign: int = 1, chunk: int = CHUNK, seed: int = 0,
         mesh: Mesh | None = None) -> Iterator[Maximized]:
    """Yields the `Maximized` of one chunk of the units after the other; see `maximize`."""
    if sign not in (1, -1):
        raise UserError(f'sign={sign}: 1 maximises, -1 minimises')
    if steps < 1 or chunk < 1:
        raise UserError(f'steps={steps}, chunk={chunk}: take 1 or more')
    if not learning_rate > 0:
        raise UserError(f'learning_rate={learning_rate}: take a number above 0, such as 0.05')
    sides = image_size(network, layer) if size is None else size
    shape = (*(sides if isinstance(sides, tuple) else (sides, sides)), network.image_shape[-1])
    channels = check_size(network, layer, shape)[-1]
    units = np.asarray(units)
    if units.ndim != 1 or not units.size or units.dtype.kind not in 'iu':
        raise UserError(f"units={units.tolist()}: name channels of '{layer}', 0 to {channels - 1}")
    if not 0 <= units.min() <= units.max() < channels:
        raise UserError(f"units={units.tolist()}: '{layer}' has the channels 0 to {channels - 1}")
    problem, tx = _problem(network, layer, shape, sign), optax.adam(learning_rate)
    best = jax.jit(functools.partial(_best, network, layer, sign))
    devices = mesh.size if mesh else 1
    chunk = devices * math.ceil(min(chunk, len(units)) / devices)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), units)
    for start in range(0, len(units), chunk):
        part = np.arange(start, start + chunk) % len(units)  # The last chunk is filled up.
        real = len(units[start:start + chunk])
        state = optimize.init(problem, tx, keys[part])
        first = optimize.decode(problem, state)
        [report] = optimize.iterate(problem, tx, state, steps, keys[part], {'unit': units[part]},
                                    every=steps, mesh=mesh, strict=False)
        found = optimize.decode(problem, report.state)
        scores = best(network.variables, found, units[part])
        yield Maximized(np.asarray(found)[:real].clip(0, 1), np.asarray(scores)[:real],
                        [diagnosis.verdict(report.values, i, first[i], found[i])
                         for i in range(real)])


def image_size(network: Trained, layer: str) -> tuple[int, ...]:
    """The (height, width) at which `maximize` shows a layer: twice its receptive field, so that a
    whole one is seen wherever it lies, but at least 32 pixels (or as many as the network needs) and
    at most the size of the training, at which all full layers are."""
    check_size(network, layer, network.image_shape)
    row = next(row for row in summary.summarize(network.net, network.image_shape).rows
               if row.name == layer)
    *sides, channels = network.image_shape
    size = [max(2 * field, LEAST) for field in row.size or (math.inf, math.inf)]
    while any(wanted < side for wanted, side in zip(size, sides, strict=True)):
        now = network.fitting([int(min(pair)) for pair in zip(size, sides, strict=True)])
        try:
            check_size(network, layer, (*now, channels))
            return now
        except UserError:  # A later layer needs a larger image.
            size = [1.5 * wanted for wanted in size]
    return tuple(sides)


def check_size(network: Trained, layer: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a layer for an image [H, W, C] of that shape, or a UserError."""
    try:
        shapes = network.tap_shapes(shape)
    except (ArithmeticError, TypeError, ValueError) as error:  # A layer raises it.
        raise UserError(f'size={shape[:2]} does not fit the network: {error}; take a larger one, '
                        f'{network.image_shape[0]} fits') from error
    objectives.missing([layer], shapes)
    if 0 in shapes[layer]:
        raise UserError(f"size={shape[:2]}: '{layer}' has no position left; take a larger one")
    return shapes[layer]


def _problem(network, layer, shape, sign):
    """The problem of one image; the unit is an argument, aux['unit']."""
    objective = sign * objectives.channel(layer)
    *sides, channels = network.image_shape
    if channels == 3 and min(sides) >= PHOTOGRAPHS:
        parametrization = decorrelated(fourier(shape), COLOR_MATRIX)
    else:
        parametrization = pixels(shape)
    jitter = min(shape[:2]) // JITTER
    return optimize.Problem(network, objective, sigmoid(parametrization),
                            transform=transforms.jitter(jitter) if jitter else None)


def _best(network, layer, sign, variables, images, units):
    """[N], the largest activation of the unit of each image; with sign=-1, the smallest."""
    tap = network._replace(variables=variables).taps(images)[layer]
    values = jax.vmap(lambda maps, unit: maps.reshape(-1, maps.shape[-1])[:, unit])(tap, units)
    return values.max(1) if sign > 0 else values.min(1)
