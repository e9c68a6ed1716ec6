"""What stands before full layers, and full layers as convolutions."""

import contextlib
import math
from collections.abc import Generator
from typing import Any

import flax.linen as nn
import jax
from flax.linen.dtypes import promote_dtype

from cnnjax import convolution
from cnnjax.errors import UserError
from cnnjax.layers.maps import along

as_maps = jax.make_user_context(False)  # see `fully_convolutional`


def flatten(x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, H * W * C], the channel running fastest (torch's runs slowest). Before
    full layers that are convolutions (see `fully_convolutional`) x stays as it is."""
    return x if as_maps.value else x.reshape(x.shape[0], math.prod(x.shape[1:]))


@contextlib.contextmanager
def fully_convolutional() -> Generator[None]:
    """A context in which the full layers of a network are convolutions: the first becomes one with
    as large a kernel as the map that it was trained on, the others become 1x1. Larger images then
    have maps of logits [N, H', W', classes], and dropout is off in evaluation.

    Simonyan & Zisserman 2014, section 3.2, after Sermanet et al. 2013, section 3.5
    (https://arxiv.org/abs/1312.6229). A network of global average pools needs no such context: the
    mean of its scores over all positions is the score of the mean.

    Raises:
      UserError: the images are too small, or a full layer was not trained on a square map that
        `flatten` made a vector.
    """
    def intercept(call, args, kwargs, context):
        layer: Any = context.module
        x: Any = [*args, *kwargs.values()][0] if isinstance(layer, nn.Dense) else None
        if x is None or context.method_name != '__call__' or x.ndim != 4:
            return call(*args, **kwargs)
        kernel = layer.get_variable('params', 'kernel')
        bias = layer.get_variable('params', 'bias') if layer.use_bias else None
        inputs, channels = kernel.shape[0], x.shape[-1]
        side = math.isqrt(inputs // channels)
        if side ** 2 * channels != inputs:
            raise UserError(f'{"/".join(layer.path)} has {inputs} inputs, which are no square map '
                            f'of {channels} channels: it cannot become a convolution')
        if min(x.shape[1:3]) < side:
            raise UserError(f'{"/".join(layer.path)} sees {side} x {side} positions, and the map '
                            f'has only {x.shape[1]} x {x.shape[2]}: take larger images')
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=layer.dtype)
        y = convolution.conv_general_dilated(
            x, kernel.reshape(side, side, channels, -1), (1, 1), ((0, 0), (0, 0)),
            precision=layer.precision)
        return y if bias is None else y + along(bias, y)

    with as_maps(True), nn.intercept_methods(intercept):
        yield
