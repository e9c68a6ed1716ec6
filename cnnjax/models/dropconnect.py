"""DropConnect (Wan et al. 2013), sections 2, 3 and 6: https://proceedings.mlr.press/v28/wan13.html

The network of the paper's Table 5 on CIFAR-10: the feature extractor of cuda-convnet's
layers-conv-local-11pct.cfg, layers named as there, a full layer whose connections are dropped, and
a classifier. On SVHN the paper's full layer has 512 units: hidden=(512,).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax

from cnnjax import layers

AT_ONCE = 2 ** 22  # The most connections of several examples that are drawn at the same time.


class DropConnect(nn.Module):
    """A full layer: [N, inputs] -> two arrays [N, features], the sums and their activations.

    In training every weight and every bias is dropped for each example on its own, from the rng
    'dropout', and those that are left are not enlarged. An evaluation has the paper's two kinds of
    inference. A 'mean' is the activation of the expected sum. 'gaussian' takes the sum of a unit
    for normally distributed, with the mean and the variance that dropping gives it, and averages
    the activations of `samples` draws (section 3.2 and algorithm 2). The draws are always the same
    ones, for all examples, so that an image has the same scores in any batch.
    """

    features: int
    rate: float  # the rate at which connections are dropped
    inference: str
    samples: int
    relu: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        kernel = self.param('kernel', nn.initializers.normal(0.01), (x.shape[-1], self.features))
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        if train and self.rate:
            sums = masked(x, kernel, bias, self.rate, self.make_rng('dropout'))
            return sums, self.relu(sums)
        mean = (1 - self.rate) * (x @ kernel + bias[None])
        if not self.rate or self.inference == 'mean':
            return mean, self.relu(mean)
        variance = self.rate * (1 - self.rate) * (x ** 2 @ kernel ** 2 + bias[None] ** 2)
        # The root of 0 has an infinite gradient.
        deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
        draws = jax.random.normal(jax.random.key(0), (self.samples, self.features), mean.dtype)

        def add(total, draw):
            return total + self.relu(mean + deviation * draw[None]), None

        total, _ = lax.scan(jax.checkpoint(add), jnp.zeros_like(mean), draws)
        return mean, total / self.samples


def masked(x: jax.Array, kernel: jax.Array, bias: jax.Array, rate: float,
           key: jax.Array) -> jax.Array:
    """x @ kernel + bias with connections dropped at that rate, other ones for each example.

    The masks of a few examples are drawn at a time, and once more for the gradient: all of them
    together, [N, inputs, features], are never in memory.
    """
    def one(x, key):
        keys = jax.random.split(key)
        weights, biases = (jnp.where(jax.random.bernoulli(key, 1 - rate, array.shape), array, 0)
                           for key, array in zip(keys, (kernel, bias), strict=True))
        return x @ weights + biases

    keys = jax.random.split(key, x.shape[0])
    some = jax.checkpoint(jax.vmap(one))
    count = max(1, min(x.shape[0], AT_ONCE // kernel.size))
    whole = x.shape[0] // count * count
    y = lax.map(lambda part: some(*part), jax.tree.map(
        lambda array: array[:whole].reshape(-1, count, *array.shape[1:]), (x, keys)))
    y = y.reshape(whole, kernel.shape[1])
    return y if whole == x.shape[0] else jnp.concatenate([y, some(x[whole:], keys[whole:])])


class DropConnectNet(nn.Module):
    """Two convolutions, two locally connected layers, DropConnect's layers and a classifier."""

    widths: tuple[int, ...]  # the channels of the convolutions and of the locally connected layers
    hidden: tuple[int, ...]  # the units of the full layers whose connections are dropped
    drop_connect: float = 0.5  # the rate at which they are
    inference: str = 'gaussian'  # or 'mean'; see DropConnect
    tests: int = 1000  # the draws of 'gaussian'
    num_classes: int = 10
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    image_shape = (24, 24, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        layers.check_size(images, 6, 'DropConnect', flat=True)
        norm = partial(layers.local_response_normalization, k=1.0, alpha=0.001 / 9, n=9)
        normal = nn.initializers.normal
        taps, x = {}, images.astype(self.dtype)

        def layer(x, i):
            width = self.widths[i - 1]
            if i < 3:
                name, module = f'conv{i}', partial(layers.conv, width, 5)
            else:
                name, module = f'local{i}', partial(nn.ConvLocal, width, (3, 3), padding=1)
            x = taps[name] = module(kernel_init=normal((1e-4, 0.01, 0.04, 0.04)[i - 1]),
                                    dtype=self.dtype, name=name)(x)
            x = taps[f'relu{i}'] = self.relu(x)
            return x

        x = taps['pool1'] = self.pool(layer(x, 1), 3, 2, ceil=True)
        x = taps['rnorm1'] = norm(x)
        x = taps['rnorm2'] = norm(layer(x, 2))
        x = taps['pool2'] = self.pool(x, 3, 2, ceil=True)
        x = layers.flatten(layer(layer(x, 3), 4))
        for i, width in enumerate(self.hidden, 5):
            taps[f'fc{i}'], x = DropConnect(
                width, self.drop_connect, self.inference, self.tests, self.relu, self.dtype,
                name=f'fc{i}')(x, train)
            taps[f'relu{i}'] = x
        name = f'fc{5 + len(self.hidden)}'
        logits = taps[name] = nn.Dense(self.num_classes, kernel_init=normal(0.01),
                                       dtype=self.dtype, name=name)(x)
        return logits, taps


#                 widths            hidden
COLUMNS = ('widths', 'hidden')
TABLE = {
    'dropconnect': ((64, 64, 64, 32), (128,)),
}
MODULE = DropConnectNet
