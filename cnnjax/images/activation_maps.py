"""Class activation maps: weighted sums of the channels of a layer.

    maps = grad_cam(network, images, classes)  # [N, H, W]

Each function takes the activations A of a layer, weights them for the class and enlarges the sum
bilinearly to the size of the image. `layer` is the name of the tap; None: that of `last_maps`, as
in Grad-CAM's VGG-16 ('relu5_3'). For the scores of the classes,
and for the other arguments, see attribution.py.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jax.typing import ArrayLike

from cnnjax.errors import UserError
from cnnjax.images.class_scores import asked, behind, own
from cnnjax.images.objectives import missing
from cnnjax.trained import Trained


def grad_cam(network: Trained, images: ArrayLike, classes: ArrayLike, *,
             layer: str | None = None) -> np.ndarray:
    """ReLU of the sum over channels k of alpha_k A^k, where alpha_k is the mean over positions of
    dS_c / dA^k (Selvaraju et al. 2017, equations 1 and 2, https://arxiv.org/abs/1610.02391)."""
    question, maps, slopes = _at(network, images, classes, layer)
    return _summed(slopes.mean((1, 2), keepdims=True) * maps, question)


def grad_cam_plus_plus(network: Trained, images: ArrayLike, classes: ArrayLike, *,
                       layer: str | None = None) -> np.ndarray:
    """ReLU of the sum over channels k of w_k A^k, where w_k is the sum over positions ij of
    alpha_ij^k ReLU(dY / dA_ij^k) for Y = exp(S_c), so that several places of one class count alike
    (Chattopadhay et al. 2017, section 3, https://arxiv.org/abs/1710.11063).

    alpha_ij = Y'' / (2 Y'' + sum_ab A_ab Y''') by the second and third derivatives of Y by A_ij. As
    in the paper, those of S_c are taken to be 0, as behind the last convolution of a ReLU network,
    so that Y'' = Y g^2 and Y''' = Y g^3 with g = dS_c / dA_ij; Y cancels in alpha. The map here has
    dS_c in place of dY: Y is one factor of the whole map, and overflows for large scores.
    """
    question, maps, slopes = _at(network, images, classes, layer)
    square = slopes ** 2
    below = 2 * square + maps.sum((1, 2), keepdims=True) * slopes ** 3
    alpha = np.divide(square, below, out=np.zeros_like(square), where=below != 0)
    weights = (alpha * np.maximum(slopes, 0)).sum((1, 2), keepdims=True)
    return _summed(weights * maps, question)


def layer_cam(network: Trained, images: ArrayLike, classes: ArrayLike, *,
              layer: str | None = None) -> np.ndarray:
    """ReLU of the sum over channels k of ReLU(dS_c / dA_ij^k) A_ij^k: each position has its own
    weight, so that layers with many positions give good maps, too (Jiang et al. 2021, section 3,
    https://doi.org/10.1109/TIP.2021.3089943)."""
    question, maps, slopes = _at(network, images, classes, layer)
    return _summed(np.maximum(slopes, 0) * maps, question)


def score_cam(network: Trained, images: ArrayLike, classes: ArrayLike, *,
              layer: str | None = None, fill: ArrayLike | None = None,
              chunk: int = 64) -> np.ndarray:
    """ReLU of the sum over channels k of alpha_k A^k, where alpha is the softmax over channels of
    the increase of S_c from an empty image to the image behind channel k's mask (Wang et al. 2020,
    definition 2 and algorithm 1, https://arxiv.org/abs/1910.01279).

    The mask is A^k, enlarged to the image and scaled to [0, 1]. The score of the empty image is one
    number for all channels and cancels. A channel that is constant has no mask and no weight.

    Args:
      fill: colour behind the masks, a number or [C]; None: the one that the network's normalization
        makes 0, as in the paper.
      chunk: masks at a time.
    """
    question, maps, _ = _at(network, images, classes, layer)

    def masks(i, channels):
        large = np.asarray(jax.image.resize(
            maps[i][..., channels], (*question.images.shape[1:3], len(channels)), 'linear'))
        low, high = large.min((0, 1)), large.max((0, 1))
        return np.moveaxis((large - low) / np.where(high > low, high - low, 1), -1, 0)

    increases = np.full((len(maps), maps.shape[-1]), -np.inf, np.float32)
    for i, channels, drawn, scores in behind(
            network, question, maps.shape[-1], masks,
            network.normalize.color if fill is None else fill, logits=True, chunk=chunk):
        increases[i, channels] = np.where(drawn.any((1, 2)), scores, -np.inf)
    highest = increases.max(-1, keepdims=True)
    alpha = np.exp(increases - np.where(np.isfinite(highest), highest, 0))
    alpha /= np.maximum(alpha.sum(-1, keepdims=True), 1e-12)  # 0 where all channels are constant
    return _summed(alpha[:, None, None] * maps, question)


def last_maps(network: Trained, shape: Sequence[int]) -> str:
    """The last layer whose maps are not pooled from those before, for images of `shape` [H, W, C].

    Raises:
      UserError: there is none.
    """
    maps = [(name, tap) for name, tap in network.tap_shapes(shape).items() if len(tap) == 3]
    sizes = [tuple(shape[:2]), *(tap[:2] for _, tap in maps)]
    kept = [name for (name, tap), before in zip(maps, sizes, strict=False) if tap[:2] == before]
    if not kept:
        raise UserError('no layer has maps as large as those before it: name one')
    return kept[-1]


def _at(network, images, classes, layer):
    """(what is asked, a layer's activations A, dS_c / dA), both [N, h, w, C]."""
    question = asked(network, images, classes)
    shapes = network.tap_shapes(question.images.shape[1:])
    layer = last_maps(network, question.images.shape[1:]) if layer is None else layer
    missing([layer], shapes)
    if len(shapes[layer]) != 3:
        raise UserError(f"'{layer}' has no positions: an activation map takes a layer of maps")
    maps, slopes = map(np.asarray, _at_layer(network.net, layer, network.variables,
                                             network.normalize, *question))
    if not slopes.any():
        raise UserError(f"the scores of the classes do not depend on '{layer}': take another layer")
    return question, maps, slopes


def _summed(weighted, question):
    """The positive part of the sum over channels [N, h, w, C], at the size of the images."""
    return np.asarray(jax.image.resize(np.maximum(weighted.sum(-1), 0), question.images.shape[:3],
                                       'linear'))


@functools.partial(jax.jit, static_argnames=('net', 'layer'))
def _at_layer(net, layer, variables, normalize, images, classes, places):
    """(a layer's activations A, dS_c / dA), both [N, h, w, C].

    The layer is a value inside the network's program: the program is traced, and evaluated with
    something added to that value, which is 0, and by which it is differentiated.
    """
    def forward(images):
        logits, taps = net.apply(variables, normalize(images), train=False)
        return own(logits, classes, places).sum(), taps[layer]

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
