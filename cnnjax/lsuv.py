"""LSUV, layer-sequential unit-variance initialization (Mishkin & Matas 2015, algorithm 1,
https://arxiv.org/abs/1511.06422): orthonormal weights, then layer by layer in forward order a
factor on each layer's weights that makes the variance of its outputs for the first batch 1.

A layer is any module with a parameter 'kernel': convolutions and full layers, those of users too.
Where one returns several arrays, as DropConnect's does, its outputs are the first. All other
parameters keep their initial values. The paper divides by the standard deviation again and again;
the outputs are linear in the weights, so here the factor is computed at once. Dropout is off, and
batch normalization uses the statistics of the batch, as in the first step of the training. A layer
that is used several times gets the factor of its first use.
"""

import functools
import math
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnnjax.errors import UserError
from cnnjax.models import resnet

LIMITS = {'init': ('network', 'lsuv')}


def initialized(net: nn.Module, variables: Any, key: jax.Array, images: jax.Array) -> Any:
    """The parameters of a network with LSUV's weights.

    Args:
      variables: the initial ones of the network, {'params', 'batch_stats'}.
      images: the first batch, normalized, [N, H, W, C].

    Raises:
      UserError: no factor makes the variance of a layer's outputs 1; or a layer is in a loop of the
        network's own.
    """
    scan = getattr(net, 'scan', False)
    if scan:
        net, variables = net.clone(scan=False), resnet.unstack(variables)
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(variables['params'])
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    start = {path: orthonormal(random, leaf.shape).astype(leaf.dtype)
             if path[-1] == 'kernel' and leaf.ndim > 1 else leaf for path, leaf in flat.items()}
    layers: list[tuple[str, ...]] = []  # the layers that the images have reached, in order

    # Compiled at its usual level, a program for a single use would take longer than it saves.
    options = {'xla_backend_optimization_level': 1} if jax.default_backend() == 'cpu' else None

    @functools.partial(jax.jit, compiler_options=options)
    def forward(variables, images):
        def call(scope):
            return net.clone(parent=scope)(images, train=False)

        # As it initializes itself, a network computes the layers that work in training alone, too.
        with nn.intercept_methods(functools.partial(_scale, layers, start)):
            _, changed = flax.core.apply(call, mutable=True, flags={'initializing': True})(
                variables)
        return changed['params']

    found: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(forward(
        {**variables, 'params': traverse_util.unflatten_dict(start)}, images))
    for path in layers:
        if not np.isfinite(found[path]).all():
            raise UserError(f"init='lsuv': no factor of its weights makes the outputs of the layer "
                            f"{'/'.join(path[:-1])} for the first batch have the variance 1: take "
                            "init='network'")
    params = traverse_util.unflatten_dict(flat | {path: found[path] for path in layers})
    return resnet.stack({'params': params})['params'] if scan else params


def orthonormal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A random array whose rows [..., outputs], one for each input, are orthonormal; if there are
    more inputs than outputs, whose columns are (Saxe et al. 2013,
    https://arxiv.org/abs/1312.6120)."""
    sides = math.prod(shape[:-1]), shape[-1]
    q, r = np.linalg.qr(random.standard_normal((max(sides), min(sides))))
    q *= np.sign(np.diag(r))  # Without this, the directions would not be uniform.
    return (q if sides[0] > sides[1] else q.T).reshape(shape)


def _scale(layers, start, call, arguments, options, context):
    """An interceptor of flax that gives each layer its factor and its name to `layers`."""
    module, outputs = context.module, call(*arguments, **options)
    if isinstance(module, nn.BatchNorm) and context.method_name == '__call__':
        if options.get('use_running_average') is False:  # the call below, or one like it
            return outputs
        moving = module.clone(parent=None, use_running_average=None)
        batch = options | {'use_running_average': False}
        return moving.apply(module.variables, mutable=['batch_stats'],
                            method=lambda layer: layer(arguments[0], **batch))[0]
    path = (*module.path, 'kernel')
    if path in layers or path not in start:
        return outputs
    own = module.variables['params']
    if np.shape(own['kernel']) != start[path].shape:
        raise UserError(f"init='lsuv': the layer {'/'.join(module.path)} is in a loop, which hides "
                        "its outputs: take the network without it, or init='network'")
    layers.append(path)
    several = isinstance(outputs, tuple)
    sums = outputs[0] if several else outputs
    wide = sums.astype(jnp.promote_types(sums.dtype, jnp.float32))
    bias = jnp.broadcast_to(own.get('bias', jnp.zeros((), wide.dtype)), wide.shape).astype(
        wide.dtype)
    linear = wide - bias
    # The factor is the positive solution of var(factor * linear + bias) = 1.
    a, b, c = linear.var(), ((linear - linear.mean()) * bias).mean(), bias.var()
    factor = (jnp.sqrt(b ** 2 + a * (1 - c)) - b) / a
    module.put_variable('params', 'kernel', factor.astype(own['kernel'].dtype) * own['kernel'])
    if several:
        return module.clone(parent=None).apply(module.variables, *arguments, **options)
    return (factor * linear + bias).astype(sums.dtype)
