"""DenseNet (Huang et al. 2016), Table 1 and section 3: https://arxiv.org/abs/1608.06993"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cnnjax import layers
from cnnjax.errors import UserError


class Layer(nn.Module):
    """BN-ReLU-conv3x3 of k channels, after BN-ReLU-conv1x1 of 4k in a bottleneck (B) layer."""

    growth: int
    bottleneck: bool
    relu: Callable
    conv: Callable
    norm: Callable
    drop: Callable

    @nn.compact
    def __call__(self, features: Sequence[jax.Array]) -> tuple[jax.Array, layers.Taps]:
        taps, x = {}, jnp.concatenate(features, -1)
        if self.bottleneck:
            x = taps['relu1'] = layers.activated(x, self.norm(name='bn1'), self.relu)
            x = taps['conv1'] = self.conv(4 * self.growth, 1, name='conv1')(x)
            x = self.drop(name='drop1')(x)
        x = taps['relu2'] = layers.activated(x, self.norm(name='bn2'), self.relu)
        x = taps['conv2'] = self.conv(self.growth, 3, name='conv2')(x)
        return self.drop(name='drop2')(x), taps


def rematerialized(block: Sequence[Layer], x: jax.Array) -> list[jax.Array]:
    """The new maps of a block's layers; of all that they compute, only these are kept for the
    gradient.

    jax.checkpoint does not do it on the CPU, where XLA drops the barrier that checkpoint relies on.
    So the second computation stands in a branch of a cond that is always taken, but whose condition
    depends on the incoming gradient, so that it cannot start earlier. The gradients of the maps are
    summed inside the branch; summed outside, the memory grew faster than the number of layers.
    Dropout draws other masks than without `remat`. The taps inside the layers are absent.
    """
    pure = [layer.clone(parent=None, name=None) for layer in block]
    keys = [jax.random.key_data(layer.make_rng('dropout')) if layer.has_rng('dropout') else None
            for layer in block]

    def compute(i, params, features, batch_stats, key):
        rngs = {} if key is None else {'dropout': jax.random.wrap_key_data(key)}
        (new, _), changed = pure[i].apply({'params': params, 'batch_stats': batch_stats}, features,
                                          mutable=['batch_stats'], rngs=rngs)
        return new, changed['batch_stats']

    def forward(params, x, batch_stats, keys):
        features, changed = [x], []
        for i, inputs in enumerate(zip(params, batch_stats, keys, strict=True)):
            new, statistics = compute(i, inputs[0], features, *inputs[1:])
            features.append(new)
            changed.append(statistics)
        return (features[1:], changed), (params, features, batch_stats, keys)

    def backward(saved, g):
        params, features, batch_stats, keys = saved
        sums, of_params = [jnp.zeros_like(features[0]), *g[0]], []
        for i in reversed(range(len(pure))):
            of_new = sums.pop()

            def gradient(params, features, sums, of_new, i=i):
                _, transpose = jax.vjp(lambda params, features: compute(
                    i, params, features, batch_stats[i], keys[i])[0], params, features)
                of_params, of_features = transpose(of_new)
                return of_params, jax.tree.map(jnp.add, sums, of_features)

            def never(params, features, sums, of_new):
                return params, sums

            always = ~(of_new[(0,) * of_new.ndim] > jnp.inf)
            new, sums = lax.cond(always, gradient, never, params[i], features[:i + 1], sums, of_new)
            of_params.append(new)
        return of_params[::-1], sums[0], None, None

    compute_block = jax.custom_vjp(lambda *inputs: forward(*inputs)[0])
    compute_block.defvjp(forward, backward)
    variables = [layer.variables for layer in block]
    new, changed = compute_block([tree['params'] for tree in variables], x,
                                 [tree['batch_stats'] for tree in variables], keys)
    for layer, statistics in zip(block, changed, strict=True):
        if layer.is_mutable_collection('batch_stats'):
            for name, value in statistics.items():
                layer.put_variable('batch_stats', name, value)
    return new


class Transition(nn.Module):
    """BN-ReLU-conv1x1 and 2x2 average pooling, between dense blocks."""

    width: int
    relu: Callable
    conv: Callable
    norm: Callable
    drop: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps = {}
        x = taps['relu'] = layers.activated(x, self.norm(name='bn'), self.relu)
        x = taps['conv'] = self.conv(self.width, 1, name='conv')(x)
        return layers.average_pool(self.drop(name='drop')(x), 2, 2), taps


class DenseNet(nn.Module):
    """Dense blocks: every layer sees all feature maps before it in the block, in order of birth."""

    layers_per_block: tuple[int, ...]
    growth: int  # k, the maps that each layer adds
    stem_width: int
    bottleneck: bool = True  # whether layers begin with a 1x1 convolution, the paper's B
    compression: float = 0.5  # theta, the share of maps that a transition keeps: 1 without C
    stem: int = 7  # 7: a 7x7 of stride 2 and a max-pool (ImageNet); 3: a 3x3 (32 x 32 images)
    num_classes: int = 1000
    remat: bool = False  # True: keep only the layers' new maps, as taps too; recompute the rest
    dropout: float = 0.0  # after all convolutions but the first; the paper's 0.2: no augmentation
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (224, 224, 3) if self.stem == 7 else (32, 32, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        if self.stem not in (3, 7):
            raise UserError(f'DenseNet: stem is one of 3, 7, not {self.stem!r}')
        # The stem may quarter the image; what is left must halve once per transition.
        halvings = len(self.layers_per_block) - 1
        layers.check_size(images, 2 ** halvings if self.stem == 3 else 2 ** (halvings + 2) - 3,
                          'DenseNet')
        conv = partial(layers.conv, use_bias=False, kernel_init=layers.he_normal, dtype=self.dtype)
        norm = partial(layers.BatchNorm, use_running_average=not train, dtype=self.dtype)
        drop = partial(nn.Dropout, self.dropout, deterministic=not train)
        taps, x = {}, images.astype(self.dtype)
        x = taps['conv0'] = conv(self.stem_width, self.stem, 2 if self.stem == 7 else 1,
                                 name='conv0')(x)
        if self.stem == 7:
            x = taps['relu0'] = layers.activated(x, norm(name='bn0'), self.relu)
            x = taps['pool0'] = self.pool(x, 3, 2, 1)
        for i, depth in enumerate(self.layers_per_block, 1):
            features = [x]
            names = [f'block{i}_layer{j}' for j in range(1, depth + 1)]
            block = [Layer(self.growth, self.bottleneck, self.relu, conv, norm, drop, name=name)
                     for name in names]
            if self.remat and not self.is_initializing():
                features += rematerialized(block, x)
                taps |= zip(names, features[1:], strict=True)
            else:
                for name, layer in zip(names, block, strict=True):
                    new, inner = layer(features)
                    taps |= layers.nested(name, inner, new)
                    features.append(new)
            x = taps[f'block{i}'] = jnp.concatenate(features, -1)
            if i < len(self.layers_per_block):
                name, width = f'transition{i}', int(self.compression * x.shape[-1])
                x, inner = Transition(width, self.relu, conv, norm, drop, name=name)(x)
                taps |= layers.nested(name, inner, x)
        x = taps['relu'] = layers.activated(x, norm(name='bn'), self.relu)
        x = taps['pool'] = layers.global_average_pool(x)
        logits = taps['fc'] = nn.Dense(self.num_classes, kernel_init=layers.torch_linear,
                                       dtype=self.dtype, name='fc')(x)
        return logits, taps


def row(name: str) -> tuple | None:
    """The row of densenet_l{L}_k{k} or densenet_bc_l{L}_k{k}, of any depth L and growth k: three
    equal blocks on 32 x 32 images (section 3, "Implementation Details"). None for another name.
    """
    match = re.fullmatch(r'densenet_(bc_)?l([0-9]{1,3})_k([0-9]{1,3})', name)
    if not match:
        return None
    bottleneck, depth, growth = bool(match[1]), int(match[2]), int(match[3])
    layers_per_block, rest = divmod(depth - 4, 6 if bottleneck else 3)
    if layers_per_block < 1 or rest or growth < 1:
        raise UserError(f'{name}: the depth L must be 4 more than a multiple of '
                        f'{6 if bottleneck else 3} (three equal blocks), the growth k positive')
    return ((layers_per_block,) * 3, growth, 2 * growth if bottleneck else 16, bottleneck,
            0.5 if bottleneck else 1.0, 3, 10)


#                 layers per block  k   stem        B     theta          stem    classes
COLUMNS = ('layers_per_block', 'growth', 'stem_width', 'bottleneck', 'compression', 'stem',
           'num_classes')
TABLE = {
    'densenet121': ((6, 12, 24, 16), 32, 64, True, 0.5, 7, 1000),
    'densenet169': ((6, 12, 32, 32), 32, 64, True, 0.5, 7, 1000),
    'densenet201': ((6, 12, 48, 32), 32, 64, True, 0.5, 7, 1000),
    'densenet161': ((6, 12, 36, 24), 48, 96, True, 0.5, 7, 1000),
}
TABLE |= {name: row(name) for name in (
    'densenet_l40_k12', 'densenet_l100_k12', 'densenet_l100_k24',
    'densenet_bc_l100_k12', 'densenet_bc_l250_k24', 'densenet_bc_l190_k40')}
MODULE = DenseNet
