"""Penalties on an image: total variation in every published form, alpha-norms.

A regularizer maps one image, float [H, W, C], to a number that is added to an objective and
minimized. The name 'total variation' stands for at least six functions, and a weight tuned for one
means nothing for another; `FORMS` has them by the name of the paper or code. Most are defined for
images in 0 to 255 less a mean: `in_units` evaluates a regularizer there.

Mahendran & Vedaldi 2015, "Understanding Deep Image Representations by Inverting Them",
https://arxiv.org/abs/1412.0035; 2016, "Visualizing Deep Convolutional Neural Networks
Using Natural Pre-Images", https://arxiv.org/abs/1512.02017.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cnnjax.errors import UserError

Regularizer = Callable[[jax.Array], jax.Array]


def total_variation(beta: float = 2.0, form: str = 'mahendran') -> Regularizer:
    """The image's roughness, in the form of the name; see `FORMS`.

    Args:
      beta: exponent of the length of the gradient, at least 1. 2 in most papers, 1 is total
        variation proper; the forms whose definition fixes the exponent take no other than 2.

    Its gradient is exact, and 0 where neighbours are equal. deep-goggle and nnpreimage bound the
    gradient's factor from above (at a variation of 1e-5 and 1e-6) also where they differ little.
    """
    if form not in FORMS:
        raise UserError(f"there is no total variation form '{form}'; there are {', '.join(FORMS)}")
    if not beta >= 1:
        raise UserError(f'beta={beta}: the exponent of total variation is at least 1')
    if form in FIXED and beta != 2:
        raise UserError(f"beta={beta}: total variation as in '{form}' has no exponent to choose; "
                        f"leave beta out, or take form='mahendran'")
    return lambda image: FORMS[form](image, beta)


def alpha_norm(alpha: float = 6.0, vector: bool = False) -> Regularizer:
    """Keeps values from growing: the power `alpha` of the image, to be centred by `in_units`.

    False for `vector` is Mahendran & Vedaldi 2015 (deep-goggle): the sum of |x|^alpha over all
    values. True is their 2016 paper (nnpreimage): the Euclidean norm of each pixel's colour to the
    power alpha, averaged over the pixels.
    """
    if not alpha >= 1:
        raise UserError(f'alpha={alpha}: the exponent of an alpha-norm is at least 1')
    if vector:
        return lambda image: _power((image ** 2).sum(-1), alpha / 2).mean()
    return lambda image: _power(image ** 2, alpha / 2).sum()


def weighted(*terms: tuple[float, Regularizer]) -> Regularizer:
    """The sum of (weight, regularizer) pairs."""
    return lambda image: sum((weight * regularizer(image) for weight, regularizer in terms),
                             start=jnp.float32(0))


def in_units(regularizer: Regularizer, mean: ArrayLike = 0.0,
             scale: float = 255.0) -> Regularizer:
    """The regularizer of (image - mean) * scale: of 0 to 255 less a mean where papers tuned it.

    Args:
      mean: the network's mean in units of the image ([0, 1]), a number, [C] or [H, W, C].
      scale: how many of the paper's units the image's unit is: 255 for Caffe's networks.
    """
    def regularize(image):
        return regularizer((image - jnp.broadcast_to(mean, image.shape)) * scale)

    return regularize


def _power(square, exponent):
    """square ** exponent; for exponents below 1 the gradient at 0 is 0, not nan."""
    if exponent == 1:
        return square
    if exponent > 1:
        return square ** exponent
    tiny = square <= jnp.finfo(square.dtype).tiny
    return jnp.where(tiny, 0, jnp.where(tiny, 1, square) ** exponent)


def _mahendran(image, beta):
    """Sum of (dx^2 + dy^2)^(beta / 2), channel by channel; the border repeats, so the last
    differences are 0. deep-goggle, https://github.com/aravindhm/deep-goggle."""
    right = jnp.diff(image, axis=1, append=image[:, -1:])
    down = jnp.diff(image, axis=0, append=image[-1:])
    return _power(right ** 2 + down ** 2, beta / 2).sum()


def _nnpreimage(image, beta):
    """The same, divided by the number of pixels. https://github.com/aravindhm/nnpreimage"""
    return _mahendran(image, beta) / (image.shape[0] * image.shape[1])


def _interior(image, beta):
    """The same sum over the pixels that have both neighbours."""
    right = image[:-1, 1:] - image[:-1, :-1]
    down = image[1:, :-1] - image[:-1, :-1]
    return _power(right ** 2 + down ** 2, beta / 2).sum()


def _johnson(image, beta):
    """Half the interior sum of squares, the function whose gradient is TVLoss's of
    https://github.com/jcjohnson/neural-style (which computes the gradient only)."""
    return _interior(image, 2) / 2


def _absolute(image, beta):
    """Sum of |dx| + |dy|, anisotropic: https://github.com/ProGamerGov/neural-style-pt,
    https://github.com/gordicaleksa/pytorch-neural-style-transfer and tf.image.total_variation."""
    return _absolute_sum(jnp.diff(image, axis=0)) + _absolute_sum(jnp.diff(image, axis=1))


def _anishathalye(image, beta):
    """Mean of dx^2 plus mean of dy^2: 2 * l2_loss / size per direction, l2_loss being half a sum.
    https://github.com/anishathalye/neural-style"""
    return _mean_square(jnp.diff(image, axis=0)) + _mean_square(jnp.diff(image, axis=1))


def _crowsonkb(image, beta):
    """Mean squares of the differences along rows, columns (2/3 each) and both diagonals (1/6 each):
    a nine-point stencil, the border repeated by one pixel on every side.
    https://github.com/crowsonkb/style-transfer-pytorch, at its last commit of 2023."""
    image = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), 'edge')
    right = image[1:-1, 2:] - image[1:-1, 1:-1]
    down = image[2:, 1:-1] - image[1:-1, 1:-1]
    diagonal = image[1:, 1:] - image[:-1, :-1]
    antidiagonal = image[1:, :-1] - image[:-1, 1:]
    return (2 / 3 * (_mean_square(right) + _mean_square(down))
            + 1 / 6 * (_mean_square(diagonal) + _mean_square(antidiagonal)))


def _absolute_sum(differences):
    """Sum of |differences|. The gradient at 0 is 0, as torch and TensorFlow have it; jax's is 1."""
    return (differences * lax.stop_gradient(jnp.sign(differences))).sum()


def _mean_square(differences):
    """Mean of the squares; 0 where an image of one row has no differences."""
    return (differences ** 2).sum() / max(differences.size, 1)


FORMS = {
    'mahendran': _mahendran,
    'nnpreimage': _nnpreimage,
    'interior': _interior,
    'johnson': _johnson,
    'neural-style-pt': _absolute,
    'gordicaleksa': _absolute,
    'tensorflow': _absolute,
    'anishathalye': _anishathalye,
    'crowsonkb': _crowsonkb,
}
FIXED = {'johnson', 'neural-style-pt', 'gordicaleksa', 'tensorflow', 'anishathalye', 'crowsonkb'}
