"""Where in an image a network sees a class: maps of the image's pixels.

    maps = grad_cam(network, images, classes)  # [N, H, W]

The score of a class is its logit S_c, before softmax. A network with maps of logits has one at each
pixel: their mean counts, over the pixels where the class is the likeliest in the image, or over all
where it is nowhere (Vinogradova et al. 2020, https://arxiv.org/abs/2002.11434). Each function takes
images [N, H, W, C], uint8 or floats in [0, 1], and their N classes, as numbers; the images are one
batch.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jax.extend.core import Literal
from numpy.typing import ArrayLike

from cnnjax.errors import UserError
from cnnjax.images.objectives import missing
from cnnjax.images.rules import with_rule
from cnnjax.trained import Trained


def gradient(network: Trained, images: ArrayLike, classes: ArrayLike, *,
             rule: str = 'gradient') -> np.ndarray:
    """max over colours of |dS_c / dI| (Simonyan et al. 2013, section 3,
    https://arxiv.org/abs/1312.6034); with the rule 'guided' or 'deconvnet' of all ReLUs in place of
    their derivative, the saliency of Springenberg et al. 2014, https://arxiv.org/abs/1412.6806, or
    of Zeiler & Fergus 2013."""
    images, classes, places = _checked(network, images, classes)
    found = _gradient(with_rule(network.net, rule), network.variables, network.normalize, images,
                      classes, places)
    return np.abs(found).max(-1)


def smooth_gradient(network: Trained, images: ArrayLike, classes: ArrayLike, *, samples: int = 50,
                    noise: float = 0.15, seed: int = 0) -> np.ndarray:
    """`gradient`, of the mean gradient over noisy copies of the image (SmoothGrad: Smilkov et al.
    2017, equation 1, https://arxiv.org/abs/1706.03825).

    Args:
      samples: n, the number of copies; the paper finds no difference beyond 50.
      noise: the standard deviation, sigma / (x_max - x_min); the paper takes 0.1 to 0.2.
      seed: of the noise.
    """
    images, classes, places = _checked(network, images, classes)
    if samples < 1 or not noise >= 0:
        raise UserError(f'samples={samples}, noise={noise}: take 1 copy or more, and noise of 0 or '
                        'more')
    deviation = noise * np.ptp(images, axis=(1, 2, 3), keepdims=True)
    total = np.zeros(images.shape, np.float32)
    for sample in range(samples):
        key = jax.random.fold_in(jax.random.key(seed), sample)
        noisy = images + deviation * jax.random.normal(key, images.shape, images.dtype)
        total += _gradient(network.net, network.variables, network.normalize, noisy, classes,
                           places)
    return np.abs(total / samples).max(-1)


def integrated_gradients(network: Trained, images: ArrayLike, classes: ArrayLike, *,
                         baseline: ArrayLike = 0.0, steps: int = 64) -> np.ndarray:
    """(I - I') * the mean of dS_c / dI from the baseline I' to I, summed over colours; signed
    (Sundararajan et al. 2017, equations 1 and 3, https://arxiv.org/abs/1703.01365).

    Complete: a map adds up to S_c(I) - S_c(I'), up to the error of the sum that stands for the
    integral. Where the paper's equation 3 takes the ends of `steps` intervals, this takes their
    middles, whose error is smaller.

    Args:
      baseline: I', a number (0 is black, as in the paper), [C] or [H, W, C].
      steps: m, the paper takes 20 to 300.
    """
    images, classes, places = _checked(network, images, classes)
    if steps < 1:
        raise UserError(f'steps={steps}: take 1 or more')
    difference = images - np.asarray(baseline, np.float32)
    total = np.zeros(images.shape, np.float32)
    for step in range(steps):
        between = images - (1 - (step + 0.5) / steps) * difference
        total += _gradient(network.net, network.variables, network.normalize,
                           np.asarray(between, np.float32), classes, places)
    return (difference * total / steps).sum(-1)


def grad_cam(network: Trained, images: ArrayLike, classes: ArrayLike, *,
             layer: str | None = None) -> np.ndarray:
    """ReLU of the sum over channels k of alpha_k A^k, where alpha_k is the mean over positions of
    dS_c / dA^k and A a layer's maps, enlarged bilinearly to the size of the image (Selvaraju et al.
    2017, equations 1 and 2, https://arxiv.org/abs/1610.02391).

    `layer`: name of the tap; None: the last maps that are not pooled from those before, as in the
    paper's VGG-16 ('relu5_3').
    """
    images, classes, places = _checked(network, images, classes)
    shapes = network.tap_shapes(images.shape[1:])
    if layer is None:
        maps = [(name, shape) for name, shape in shapes.items() if len(shape) == 3]
        sizes = [images.shape[1:3], *(shape[:2] for _, shape in maps)]
        kept = [name for (name, shape), before in zip(maps, sizes, strict=False)
                if shape[:2] == before]
        if not kept:
            raise UserError('no layer has maps as large as those before it: name one')
        layer = kept[-1]
    missing([layer], shapes)
    if len(shapes[layer]) != 3:
        raise UserError(f"'{layer}' has no positions: Grad-CAM takes a layer of maps")
    maps, slopes = map(np.asarray, _at_layer(network.net, layer, network.variables,
                                             network.normalize, images, classes, places))
    if not slopes.any():
        raise UserError(f"the scores of the classes do not depend on '{layer}': take another layer")
    cam = np.maximum((slopes.mean((1, 2), keepdims=True) * maps).sum(-1), 0)
    return np.asarray(jax.image.resize(cam, images.shape[:3], 'linear'))


def occlusion(network: Trained, images: ArrayLike, classes: ArrayLike, *, size: int | None = None,
              stride: int | None = None, fill: ArrayLike = 0.5, chunk: int = 64,
              progress: Callable[[int], object] | None = None) -> np.ndarray:
    """How much the probability of the class falls when a square lies on the pixel: the mean over
    the squares that cover it (Zeiler & Fergus 2013, section 4.2, https://arxiv.org/abs/1311.2901,
    where the probability is drawn at the place of the square).

    Args:
      size: side of the squares, in pixels; None: a quarter of the image.
      stride: pixels between two squares; None: a quarter of their side.
      fill: their colour, a number or [C]; gray, as in the paper.
      chunk: squares at a time.
      progress: called with the number of squares of every chunk that is done (`bar.update`).
    """
    images, classes, places = _checked(network, images, classes)
    sides = images.shape[1:3]
    size = max(min(sides) // 4, 1) if size is None else size
    stride = max(size // 4, 1) if stride is None else stride
    if not (1 <= size <= min(sides) and 1 <= stride <= size):
        raise UserError(f'size={size}, stride={stride}: squares of 1 to {min(sides)} pixels, that '
                        'are not farther apart than their side')
    corners = np.array([(i, top, left) for i in range(len(images))
                        for top in _starts(sides[0], size, stride)
                        for left in _starts(sides[1], size, stride)])
    chunk = max(min(chunk, len(corners)), 1)
    color = np.asarray(fill, np.float32)

    def probabilities(which, corners, size):
        """Yields the probabilities of the images' classes, chunk after chunk."""
        for start in range(0, len(which), chunk):
            part = np.arange(start, start + chunk) % len(which)  # The last chunk begins anew.
            found = _occluded(network.net, network.variables, network.normalize,
                              images[which[part]], classes[which[part]], places[which[part]],
                              corners[part], size, color)
            yield np.asarray(found)[:len(which) - start]

    each = np.arange(len(images))
    whole = np.concatenate([*probabilities(each, np.zeros((len(images), 2), int), 0)])
    covered = []
    for part in probabilities(corners[:, 0], corners[:, 1:], size):
        covered.append(part)
        if progress:
            progress(len(part))
    falls = whole[corners[:, 0]] - np.concatenate(covered)
    total, count = np.zeros((2, *images.shape[:3]), np.float32)
    for fall, (i, top, left) in zip(falls, corners, strict=True):
        total[i, top:top + size, left:left + size] += fall
        count[i, top:top + size, left:left + size] += 1
    return total / count


# A map's quantile that is drawn as its largest value, whatever the peaks.
BRIGHT = 0.995
METHODS = {'gradient': gradient, 'SmoothGrad': smooth_gradient,
           'integrated gradients': integrated_gradients, 'Grad-CAM': grad_cam,
           'occlusion': occlusion}


def colored(method: str, values: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A map [H, W] as a picture. In maps with a sign red speaks for the class, blue against it, and
    white is 0. Grad-CAM's, which has few positions, lies on the image."""
    from matplotlib import colormaps

    if (values < 0).any() or method in ('integrated gradients', 'occlusion'):
        largest = np.quantile(np.abs(values), BRIGHT) or 1
        return colormaps['RdBu_r'](np.clip(0.5 + values / (2 * largest), 0, 1))[..., :3]
    values = np.clip(values / (np.quantile(values, BRIGHT) or 1), 0, 1)
    if method == 'Grad-CAM':
        gray = image.mean(-1, keepdims=True)
        return 0.45 * gray + 0.55 * colormaps['turbo'](values)[..., :3]
    return values


def probabilities(network: Trained, images: np.ndarray) -> np.ndarray:
    """The probability of each class, [N, classes], in images [N, H, W, C]; of a network with maps
    of logits, its mean over the pixels."""
    _check_scores(network)
    found = np.asarray(jax.nn.softmax(network(images)))
    return found.mean(tuple(range(1, found.ndim - 1)))


def _check_scores(network):
    if network.task == 'detect':
        raise UserError('a detector has no scores of the classes of a whole image: it cannot be '
                        'asked where it sees one')


def _checked(network, images, classes):
    """(float images, the classes as an array [N], the weights of the places whose logits count,
    [N, ...]), if the network can score them."""
    _check_scores(network)
    images = np.asarray(images)
    if images.ndim != 4 or not len(images):
        raise UserError(f'attribution takes images [N, H, W, C], not {list(images.shape)}')
    images = np.asarray(images / 255 if images.dtype == np.uint8 else images, np.float32)
    try:
        scores = jax.eval_shape(network, jax.ShapeDtypeStruct(images.shape, 'float32'))
    except (FlaxError, ArithmeticError, TypeError, ValueError) as error:  # from a layer
        raise UserError(f'the network has no scores of classes for images of '
                        f'{list(images.shape[1:])}: {error}; those of its training are '
                        f'{list(network.image_shape)}') from error
    classes = np.asarray(classes)
    if classes.shape != (len(images),) or classes.dtype.kind not in 'iu' or not (
            (classes >= 0) & (classes < scores.shape[-1])).all():
        raise UserError(f'classes={classes.tolist()}: give each of the {len(images)} images a '
                        f'number from 0 to {scores.shape[-1] - 1}')
    places = np.ones(scores.shape[:-1], np.float32)
    if places.ndim > 1:
        own = np.asarray(network(images)).argmax(-1) == classes[:, None, None]
        places = np.where(own.any((1, 2), keepdims=True), own, places)
        places /= places.sum((1, 2), keepdims=True)
    return images, classes, places


def _starts(side, size, stride):
    """The places where squares begin that cover the side."""
    return sorted({*range(0, side - size, stride), side - size})


def _of(values, classes, places):
    """[N], the value of each image's own class, a mean with the weights `places` where there are
    maps [N, H, W, classes]."""
    classes = classes.reshape(-1, *(1,) * (values.ndim - 1))
    own = jnp.take_along_axis(values, classes, -1)[..., 0] * places
    return own.sum(tuple(range(1, own.ndim)))


@functools.partial(jax.jit, static_argnames='net')
def _gradient(net, variables, normalize, images, classes, places):
    network = Trained(net, variables, normalize, (), images.shape[1:], None)
    # The score of an image depends on no other image: the gradient of the sum has that of each.
    return jax.grad(lambda images: _of(network(images), classes, places).sum())(images)


@functools.partial(jax.jit, static_argnames=('net', 'layer'))
def _at_layer(net, layer, variables, normalize, images, classes, places):
    """(a layer's activations A, dS_c / dA), both [N, h, w, C].

    The layer is a value inside the network's program: the program is traced, and evaluated with
    something added to that value, which is 0, and by which it is differentiated.
    """
    def forward(images):
        logits, taps = net.apply(variables, normalize(images), train=False)
        return _of(logits, classes, places).sum(), taps[layer]

    program: Any = jax.make_jaxpr(forward)(images)
    score, tap = program.jaxpr.outvars

    def nudged(nudge):
        values = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
        values |= dict(zip(program.jaxpr.invars, [images], strict=True))

        def read(variable):
            return variable.val if isinstance(variable, Literal) else values[variable]

        for equation in program.jaxpr.eqns:
            primitive = equation.primitive
            results = primitive.bind(*map(read, equation.invars),
                                     **primitive.get_bind_params(equation.params))
            results = results if primitive.multiple_results else [results]
            values |= {variable: result + nudge if variable is tap else result
                       for variable, result in zip(equation.outvars, results, strict=True)}
        return read(score), read(tap)

    zero = jnp.zeros(tap.aval.shape, tap.aval.dtype)
    slopes, maps = jax.grad(nudged, has_aux=True)(zero)
    return maps, slopes


@functools.partial(jax.jit, static_argnames='net')
def _occluded(net, variables, normalize, images, classes, places, corners, size, fill):
    """[N], the probabilities of the classes with a square at these corners (row, column)."""
    network = Trained(net, variables, normalize, (), images.shape[1:], None)
    inside = [(start <= jnp.arange(side)[None]) & (jnp.arange(side)[None] < start + size)
              for side, start in zip(images.shape[1:3], corners.T[..., None], strict=True)]
    square = inside[0][:, :, None] & inside[1][:, None]
    images = jnp.where(square[..., None], jnp.broadcast_to(fill, images.shape), images)
    return _of(jax.nn.softmax(network(images)), classes, places)
