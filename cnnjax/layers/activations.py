"""Activations and comparisons whose gradients do not depend on rounding."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0). Its gradient, 1 above 0 and 0 elsewhere, looks at the result, while that of
    `flax.linen.relu` looks at x: here x need not be kept. The comparison with the constant 0 is
    safe even where the compiler computes the result twice, with other rounding: only values next to
    0 can change sides. A comparison of two computed values is not, see
    `pooling._max_pool_forward`."""
    return jnp.maximum(x, 0)


relu.defjvps(lambda tangent, y, x: lax.select(y != 0, tangent, jnp.zeros_like(tangent)))


@jax.custom_jvp
def larger(best: jax.Array, value: jax.Array) -> jax.Array:
    """jnp.maximum, but its gradient does not ask which of the two equals the result."""
    return jnp.maximum(best, value)


@larger.defjvp
def _larger_jvp(primals, tangents):
    return larger(*primals), lax.select(beats(*primals[::-1]), *tangents[::-1])


def beats(value: jax.Array, best: jax.Array) -> jax.Array:
    """Whether a value takes the place of the best before it: the larger one does, or the first NaN.
    No rounding of either makes both lose."""
    return ~(value <= best) & (best <= jnp.inf)


def maxout(x: jax.Array, pieces: int) -> jax.Array:
    """The largest of every `pieces` neighbouring channels, [..., pieces * C] -> [..., C]: maxout
    units, whose channels before are their linear pieces. The gradient goes to the first of the
    largest.

    Goodfellow et al. 2013, section 3, https://arxiv.org/abs/1302.4389.
    """
    return functools.reduce(larger, [x[..., piece::pieces] for piece in range(pieces)])
