"""Images that excite units most (Erhan et al. 2009, "Visualizing Higher-Layer Features of a Deep
Network", Technical Report 1341, University of Montreal; Simonyan et al. 2013, section 2,
https://arxiv.org/abs/1312.6034; Olah et al. 2017, https://distill.pub/2017/feature-visualization).

    found = maximize(network, 'relu4_2', range(112))
    found.images  # [112, 48, 48, 3] in [0, 1]

Many units are one program: a chunk of images, each for its own unit, descends at once.
directions.py has more of the same: facets of a unit, and directions between units.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from cnnjax import summary
from cnnjax.errors import UserError
from cnnjax.images import diagnosis, objectives, optimize, pictures, transforms
from cnnjax.images.parametrizations import (
    COLOR_MATRIX,
    Parametrization,
    decorrelated,
    fourier,
    pixels,
    sigmoid,
)
from cnnjax.trained import Trained

CHUNK = 32  # units at a time
SIDE = 128  # lucid's size of an image, for networks of photographs
PHOTOGRAPHS = 48  # Training images with sides of this many pixels or more are photographs.
SHARE, SEEN = 16, 4  # An image moves by up to a 16th of its side and a quarter of what a unit sees.
NARROW = 24  # A unit that sees fewer pixels looks for patterns that turned and scaled images blur.


class Maximized(NamedTuple):
    """An image for each of U units."""

    images: np.ndarray  # float32 [U, H, W, C] in [0, 1], the levels of 8 bits
    scores: np.ndarray  # float32 [U], the unit's largest activation in it; sign=-1: the smallest
    health: list[str]  # [U], what is wrong with an image, which is then noise; '' for nothing


class Settings(NamedTuple):
    """How images descend."""

    steps: int = 96
    learning_rate: float = 0.3  # Adam's, at the first step
    seed: int = 0  # seeds all that is random
    chunk: int = CHUNK  # units at a time; made a multiple of the number of devices
    mesh: Mesh | None = None  # devices that share every chunk; None: one device


DEFAULT = Settings()


def maximize(network: Trained, layer: str, units: Sequence[int] | np.ndarray,
             settings: Settings = DEFAULT, *, size: int | tuple[int, int] | None = None,
             sign: int = 1, progress: Callable[[int], object] | None = None) -> Maximized:
    """`Maximized`: for each unit, the image that makes its activation largest, by Adam.

    The objective is `objectives.peaks`, a mean over positions in which the best ones count most.
    Networks of photographs, in colour and of 48 x 48 pixels or more, get Fourier coefficients of
    decorrelated colours, others pixels; the image is bounded by a sigmoid, and before every step
    changes as `robustness` says. The learning rate falls to 0 by a cosine. A unit that is dead in
    the noise where it starts is woken first (see optimize.py).

    `scores` are to be compared with those of the strongest patches (see strongest.py): both are the
    activation at its best place in an image of 8 bits, as it is in a file, without any transform.

    An image depends on its unit and the seed, not on the other units: in whatever order and chunks
    they are asked for, it is the same, up to the rounding of programs of other chunks. The last
    chunk is filled up, so that the program is compiled once.

    Args:
      network: a Trained network.
      layer: name of its tap; the last one's units are the classes.
      units: [U], channels of the layer.
      settings: see `Settings`.
      size: side of the images, or (height, width); None: see `image_size`.
      sign: -1 makes the activation smallest. Behind a ReLU it then is 0, of many images: take the
        layer before it.
      progress: called with the number of units of every chunk that is done (`bar.update`).

    Raises:
      UserError: no such layer, at this size; a unit that it does not have; numbers that make no
        sense. A unit that is blocked is no error: see `Maximized.health`.
    """
    parts = []
    for part in each(network, layer, units, settings, size=size, sign=sign):
        parts.append(part)
        if progress:
            progress(len(part.images))
    return joined(parts)


def joined(parts: Sequence[Maximized]) -> Maximized:
    """The `Maximized` of all chunks."""
    images, scores, health = zip(*parts, strict=True)
    return Maximized(np.concatenate(images), np.concatenate(scores), sum(health, []))


def each(network: Trained, layer: str, units: Sequence[int] | np.ndarray,
         settings: Settings = DEFAULT, *, size: int | tuple[int, int] | None = None,
         sign: int = 1) -> Iterator[Maximized]:
    """Yields the `Maximized` of one chunk of the units after the other; see `maximize`."""
    if sign not in (1, -1):
        raise UserError(f'sign={sign}: 1 maximises, -1 minimises')
    shape = image_shape(network, layer, size)
    units = checked(network, layer, units, shape)
    problem = optimize.Problem(
        network, objectives.peaks(layer, sign), parametrization(network, shape),
        transform=robustness(network, layer, shape))
    measure = jax.jit(functools.partial(best, network, layer, sign))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(settings.seed), units)
    for part, images, health in descend(problem, keys, {'unit': units}, settings):
        yield Maximized(images, np.asarray(measure(network.variables, images, units[part])), health)


def descend(problem: optimize.Problem, keys: jax.Array, aux: Any, settings: Settings
            ) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """Yields (places n of the images in `keys`, images [n, ...] as 8 bits hold them, what is wrong
    with each) for one chunk of the images after the other; `aux` has leaves [N, ...].

    Raises:
      UserError: numbers of the settings that make no sense.
    """
    if settings.steps < 1 or settings.chunk < 1:
        raise UserError(f'steps={settings.steps}, chunk={settings.chunk}: take 1 or more')
    if not settings.learning_rate > 0:
        raise UserError(f'learning_rate={settings.learning_rate}: take a number above 0, such as '
                        '0.3')
    mesh, steps = settings.mesh, settings.steps
    # At a rate that stays, Adam keeps frequencies in motion that the transforms blur away.
    tx = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, steps))
    devices = mesh.size if mesh else 1
    chunk = devices * math.ceil(min(settings.chunk, len(keys)) / devices)
    for start in range(0, len(keys), chunk):
        part = np.arange(start, start + chunk) % len(keys)  # The last chunk is filled up.
        real = range(len(keys[start:start + chunk]))
        state = optimize.init(problem, tx, keys[part])
        first = optimize.decode(problem, state)
        [report] = optimize.iterate(problem, tx, state, steps, keys[part],
                                    jax.tree.map(lambda leaf, part=part: leaf[part], aux),
                                    every=steps, mesh=mesh, strict=False)
        found = optimize.decode(problem, report.state)
        yield (part[:len(real)], pictures.rounded(np.asarray(found)[:len(real)]),
               [diagnosis.verdict(report.values, i, first[i], found[i]) for i in real])


def image_shape(network: Trained, layer: str, size: int | tuple[int, int] | None
                ) -> tuple[int, int, int]:
    """[H, W, C] of images of this size; None: see `image_size`."""
    size = image_size(network, layer) if size is None else size
    height, width = size if isinstance(size, tuple) else (size, size)
    return height, width, network.image_shape[-1]


def image_size(network: Trained, layer: str, side: int = SIDE) -> tuple[int, int]:
    """The (height, width) at which `maximize` shows a layer of a network of photographs: `side`, or
    more pixels where the network needs them. Other networks have small images without detail, and
    a full layer has images of one size: both are shown at the size of the training."""
    shape = check_size(network, layer, network.image_shape)
    height, width, channels = network.image_shape
    while photographs(network) and len(shape) == 3:
        size = network.fitting((side, side))
        try:
            check_size(network, layer, (*size, channels))
            return size
        except UserError:  # A later layer needs a larger image.
            if side >= max(height, width):
                break
            side = min(2 * side, max(height, width))
    return height, width


def photographs(network: Trained) -> bool:
    """Whether the network was trained on photographs, as the size and colour of its images say."""
    *sides, channels = network.image_shape
    return channels == 3 and min(sides) >= PHOTOGRAPHS


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


def checked(network: Trained, layer: str, units: Sequence[int] | np.ndarray,
            shape: Sequence[int]) -> np.ndarray:
    """The units [U] as an array; a UserError if the layer does not have them, or itself is not
    there for images of this shape."""
    channels = check_size(network, layer, shape)[-1]
    units = np.asarray(units)
    if units.ndim != 1 or not units.size or units.dtype.kind not in 'iu':
        raise UserError(f"units={units.tolist()}: name channels of '{layer}', 0 to {channels - 1}")
    if not 0 <= units.min() <= units.max() < channels:
        raise UserError(f"units={units.tolist()}: '{layer}' has the channels 0 to {channels - 1}")
    return units


def parametrization(network: Trained, shape: Sequence[int]) -> Parametrization:
    """What is optimized in place of an image [H, W, C] for this network."""
    if photographs(network):
        return sigmoid(decorrelated(fourier(shape), COLOR_MATRIX))
    return sigmoid(pixels(shape))


def robustness(network: Trained, layer: str, shape: Sequence[int]) -> transforms.Transform | None:
    """What happens to images [H, W, C] of that shape before every step: lucid's standard
    transforms, `transforms.robust`. They move an image by a 16th of its side or a quarter of the
    layer's receptive field at most, beyond which a narrow unit would see nothing but the motion.

    Where a unit sees less than NARROW pixels, the image moves by whole pixels and is not turned or
    scaled: both sample between pixels, which blurs the fine patterns that such units look for. None
    if images are too small to move by a pixel.
    """
    row = next(row for row in summary.summarize(network.net, network.image_shape).rows
               if row.name == layer)
    seen = min(row.size or (math.inf,))
    far = int(min(*(side // SHARE for side in shape[:2]), max(seen / SEEN, 1)))
    robust = transforms.robust if seen >= NARROW else transforms.moved
    return robust(far) if far else None


def best(network: Trained, layer: str, sign: int, variables: Any, images: jax.Array,
         units: jax.Array) -> jax.Array:
    """[N], the largest activation of the unit of each image; with sign=-1, the smallest."""
    tap = network._replace(variables=variables).taps(images)[layer]
    values = jax.vmap(lambda maps, unit: maps.reshape(-1, maps.shape[-1])[:, unit])(tap, units)
    return values.max(1) if sign > 0 else values.min(1)
