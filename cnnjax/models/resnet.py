"""ResNet (He et al. 2015), Table 1 and section 4.2: https://arxiv.org/abs/1512.03385

Also ResNeXt (Xie et al. 2016), Table 1 and section 5.3, in form C, with grouped convolutions:
https://arxiv.org/abs/1611.05431; wide networks with twice as many channels in the bottlenecks
(Zagoruyko & Komodakis 2016), Table 8: https://arxiv.org/abs/1605.07146; ResNet-50-D (He T. et al.
2018), figure 2: https://arxiv.org/abs/1812.01187, whose ResNet-B is `stride_in='3x3'`, ResNet-C has
the stem too, and D the shortcuts. On any of them: stochastic depth (Huang et al. 2016), equations 2
to 5: https://arxiv.org/abs/1603.09382; squeeze-and-excitation (Hu et al. 2017), section 3:
https://arxiv.org/abs/1709.01507

With `scan`, what repeats is compiled once: the blocks of a stage but its first, which may change
the shape, are one loop over parameters stacked along a new leading axis, under the paper's name
of the stage, 'conv3_x'. `stack` and `unstack` convert between this tree and the usual one; the
results are the same. The taps of the loop are the outputs of its blocks, not what is inside them.
"""

import itertools
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError
from cnnjax.residual import Basic, Block, Bottleneck


class ResNet(nn.Module):
    """Stages of residual blocks; each stage but the first halves the resolution.

    The last `dilated` stages keep it: instead, the convolutions after the place of the stride are
    dilated, twice as much in each of these stages. The same weights compute the same values there,
    and further ones between them (Chen et al. 2014, section 3.1, https://arxiv.org/abs/1412.7062).

    With stochastic depth (`survival` below 1), a training draws from the rng 'drop_path', once per
    mini-batch, which of the L blocks are open; evaluation weighs each branch with its probability.
    """

    block: type[Block]
    blocks: tuple[int, ...]  # how many each stage has
    widths: tuple[int, ...] = (64, 128, 256, 512)  # channels of the 3x3 convolutions, one per stage
    stem: int = 7  # 7: a 7x7 of stride 2 and a max-pool (ImageNet); 3: a 3x3 (32 x 32 images);
    #         333: three 3x3, the first of stride 2, and a max-pool (ResNet-C)
    stem_width: int = 0  # channels of the stem's last convolution; 0: as many as the first width
    shortcut: str = 'B'  # A, B, C or D, see residual.Block.identity
    cardinality: int = 1  # the number of groups in a bottleneck's 3x3
    base_width: int = 64  # the channels of a group where the width is 64
    reduction: int = 0  # squeeze-and-excitation's r: the paper has 16; 0: there is none
    stride_in: str = '3x3'  # bottlenecks stride in the '3x3' (v1.5) or the '1x1' (v1, the paper)
    dilated: int = 0  # how many of the last stages dilate instead of striding
    survival: float = 1.0  # p_L of stochastic depth: how often the last block is open; 1: off
    survival_rule: str = 'linear'  # p_l falls from 1 to p_L with depth; 'uniform': p_l = p_L
    scan: bool = False  # True: compile the repeated blocks of a stage once
    remat: bool = False  # True: keep only the blocks' outputs, recompute the rest for the gradient
    num_classes: int = 1000
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (32, 32, 3) if self.stem == 3 else (224, 224, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        conv, norm = parts(self, train)
        taps = {}
        x = trunk(self, conv, norm, images, train, taps)
        return head(self, x, taps), taps


def check(net: ResNet) -> None:
    """Raises UserError for a value that a field of a residual network does not take."""
    stem = net.stem_width or net.widths[0]
    for field, values in (('shortcut', 'ABCD'), ('stride_in', ('1x1', '3x3')),
                          ('stem', (3, 7, 333)), ('survival_rule', ('linear', 'uniform'))):
        if getattr(net, field) not in tuple(values):
            raise UserError(f'{type(net).__name__}: {field} is one of '
                            f'{", ".join(map(str, values))}, not {getattr(net, field)!r}')
    if net.cardinality != 1 and net.block.expansion == 1:
        raise UserError(f'{type(net).__name__}: cardinality={net.cardinality}, but basic blocks '
                        'have no groups; take a network of bottlenecks')
    if net.shortcut == 'A' and any(b < a for a, b in itertools.pairwise((stem, *net.widths))):
        raise UserError(f"{type(net).__name__}: shortcut='A' appends channels, and widths="
                        f"{net.widths} falls after a stem of {stem}: take 'B'")
    if net.stem == 333 and stem < 2:
        raise UserError(f'{type(net).__name__}: stem=333 begins with half of {stem} channels: take '
                        'widths or a stem_width of 2 or more')
    if net.block.expansion > 1 and min(net.widths) * net.base_width < 64:
        raise UserError(f'{type(net).__name__}: widths={net.widths} leave a group without channels:'
                        f' take {-(-64 // net.base_width)} or more')
    if not 0 <= net.dilated < len(net.blocks):
        raise UserError(f'{type(net).__name__}: dilated={net.dilated}: only the stages after the '
                        f'first stride, {len(net.blocks) - 1} here')
    if not 0 <= net.survival <= 1:
        raise UserError(f'{type(net).__name__}: survival is a probability, from 0 to 1 (no '
                        f'stochastic depth), not {net.survival!r}')


def parts(net: ResNet, train: bool) -> tuple[Callable, Callable]:
    """The convolution and the batch normalization of a residual network."""
    return (partial(layers.conv, use_bias=False, kernel_init=layers.he_normal, dtype=net.dtype),
            partial(layers.BatchNorm, use_running_average=not train, dtype=net.dtype))


def trunk(net: ResNet, conv: Callable, norm: Callable, images: jax.Array, train: bool,
          taps: layers.Taps) -> jax.Array:
    """The stem and all stages; adds their layers to `taps`."""
    check(net)
    x = stem(net, conv, norm, images, taps)
    x = taps['relu1'] = layers.activated(x, norm(name='bn1'), net.relu)
    if net.stem != 3:
        x = taps['pool1'] = net.pool(x, 3, 2, 1)
    return stages(net, conv, norm, x, train, taps)


def stem(net: ResNet, conv: Callable, norm: Callable, images: jax.Array,
         taps: layers.Taps) -> jax.Array:
    """The convolutions before the first stage, bare of a last activation; adds them to `taps`."""
    x, width, stride = images.astype(net.dtype), net.stem_width or net.widths[0], 2
    if net.stem == 333:
        for i in (1, 2):
            x = taps[f'stem_conv{i}'] = conv(width // 2, 3, stride, name=f'stem_conv{i}')(x)
            x = taps[f'stem_relu{i}'] = layers.activated(x, norm(name=f'stem_bn{i}'), net.relu)
            stride = 1
    size, stride = (7, 2) if net.stem == 7 else (3, 1)
    x = taps['conv1'] = conv(width, size, stride, name='conv1')(x)
    return x


def head(net: ResNet, x: jax.Array, taps: layers.Taps) -> jax.Array:
    """The mean of every map and the full layer: the logits."""
    x = taps['pool'] = layers.global_average_pool(x)
    logits = taps['fc'] = nn.Dense(net.num_classes, kernel_init=layers.torch_linear,
                                   dtype=net.dtype, name='fc')(x)
    return logits


def survival_probabilities(blocks: int, survival: float, rule: str) -> jax.Array:
    """p_1 ... p_L (Huang et al. 2016, equation 4): linear 1 - l/L (1 - p_L), or all p_L."""
    if rule == 'uniform':
        return jnp.full(blocks, survival, jnp.float32)
    return 1 - jnp.arange(1, blocks + 1) / blocks * (1 - survival)


def stages(net: ResNet, conv: Callable, norm: Callable, x: jax.Array, train: bool,
           taps: layers.Taps, **fields: Any) -> jax.Array:
    """All blocks of a residual network, with further `fields` of theirs; adds conv2_1, conv2_2, ...
    and what is inside to `taps`."""
    keep = None
    if net.survival < 1:
        keep = survival_probabilities(sum(net.blocks), net.survival, net.survival_rule)
        if train and not net.is_initializing():  # drawn at once: the same with and without scan
            keep = jax.random.bernoulli(net.make_rng('drop_path'), keep)
    block = nn.remat(net.block) if net.remat else net.block
    block = partial(block, shortcut=net.shortcut, stride_in=net.stride_in,
                    cardinality=net.cardinality, base_width=net.base_width,
                    reduction=net.reduction, relu=net.relu, conv=conv, norm=norm, **fields)
    done, dilation = 0, 1  # `done` is the number of blocks so far
    for i, (blocks, width) in enumerate(zip(net.blocks, net.widths, strict=True), 2):
        before, stride = dilation, 1 if i == 2 else 2
        if i - 2 >= len(net.blocks) - net.dilated:
            dilation, stride = 2 * dilation, 1
        first, others = (width, stride, (before, dilation)), (width, 1, (dilation, dilation))
        gates: Any = [None] * blocks if keep is None else keep[done:done + blocks]
        for j in range(1, (1 if net.scan else blocks) + 1):
            name = f'conv{i}_{j}'
            x, inner = block(*(first if j == 1 else others), first=not done, name=name)(
                x, gates[j - 1])
            taps |= layers.nested(name, inner, x)
            done += 1
        if net.scan and blocks > 1:
            x, outputs = repeat(block(*others, name=f'conv{i}_x'), blocks - 1, x,
                                None if keep is None else gates[1:])
            done += blocks - 1
            taps |= {f'conv{i}_{j}': outputs[j - 2] for j in range(2, blocks + 1)}
    return x


def repeat(block: nn.Module, times: int, x: jax.Array,
           gates: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Applies `block` `times` times, with its own parameters each time: (last output, outputs)."""
    def body(block, x, gate):
        x, _ = block(x, gate)
        return x, x

    return nn.scan(body, variable_axes={'params': 0, 'batch_stats': 0},
                   split_rngs={'params': True, 'dropout': True}, length=times)(block, x, gates)


def stack(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a residual network, {'params': ..., 'batch_stats': ...}, as the same network
    with `scan` has them: those of conv3_2, conv3_3, ... along the first axis of conv3_x."""
    def convert(tree):
        stages = {}
        for name in tree:
            if match := re.fullmatch(r'conv(\d+)_([2-9]|\d\d+)', name):
                stages.setdefault(f'conv{match[1]}_x', []).append((int(match[2]), name))
        stacked = {stage: jax.tree.map(lambda *arrays: jnp.stack(arrays),
                                       *(tree[name] for _, name in sorted(names)))
                   for stage, names in stages.items()}
        repeated = {name for names in stages.values() for _, name in names}
        return {name: tree[name] for name in tree if name not in repeated} | stacked

    return {collection: convert(tree) for collection, tree in variables.items()}


def unstack(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `stack`."""
    def convert(tree):
        blocks = {}
        for stage in [name for name in tree if re.fullmatch(r'conv\d+_x', name)]:
            for j in range(len(jax.tree.leaves(tree[stage])[0])):
                blocks[f'{stage[:-1]}{j + 2}'] = jax.tree.map(lambda array, j=j: array[j],
                                                              tree[stage])
        return {name: tree[name] for name in tree if not name.endswith('_x')} | blocks

    return {collection: convert(tree) for collection, tree in variables.items()}


SMALL = (16, 32, 64)
MIDDLE = (64, 128, 256)
LARGE = (64, 128, 256, 512)

#             block       blocks           widths   stem shortcut groups their width  r   classes
COLUMNS = ('block', 'blocks', 'widths', 'stem', 'shortcut', 'cardinality', 'base_width',
           'reduction', 'num_classes')
TABLE = {
    'resnet18':          (Basic,      (2, 2, 2, 2),    LARGE,  7,   'B', 1,  64,  0,  1000),
    'resnet34':          (Basic,      (3, 4, 6, 3),    LARGE,  7,   'B', 1,  64,  0,  1000),
    'resnet50':          (Bottleneck, (3, 4, 6, 3),    LARGE,  7,   'B', 1,  64,  0,  1000),
    'resnet101':         (Bottleneck, (3, 4, 23, 3),   LARGE,  7,   'B', 1,  64,  0,  1000),
    'resnet152':         (Bottleneck, (3, 8, 36, 3),   LARGE,  7,   'B', 1,  64,  0,  1000),
    'resnet50d':         (Bottleneck, (3, 4, 6, 3),    LARGE,  333, 'D', 1,  64,  0,  1000),
    'seresnet50':        (Bottleneck, (3, 4, 6, 3),    LARGE,  7,   'B', 1,  64,  16, 1000),
    'wide_resnet50_2':   (Bottleneck, (3, 4, 6, 3),    LARGE,  7,   'B', 1,  128, 0,  1000),
    'wide_resnet101_2':  (Bottleneck, (3, 4, 23, 3),   LARGE,  7,   'B', 1,  128, 0,  1000),
    'resnext50_32x4d':   (Bottleneck, (3, 4, 6, 3),    LARGE,  7,   'B', 32, 4,   0,  1000),
    'resnext101_32x4d':  (Bottleneck, (3, 4, 23, 3),   LARGE,  7,   'B', 32, 4,   0,  1000),
    'resnext101_64x4d':  (Bottleneck, (3, 4, 23, 3),   LARGE,  7,   'B', 64, 4,   0,  1000),
    'resnet20':          (Basic,      (3, 3, 3),       SMALL,  3,   'A', 1,  64,  0,  10),
    'resnet32':          (Basic,      (5, 5, 5),       SMALL,  3,   'A', 1,  64,  0,  10),
    'resnet44':          (Basic,      (7, 7, 7),       SMALL,  3,   'A', 1,  64,  0,  10),
    'resnet56':          (Basic,      (9, 9, 9),       SMALL,  3,   'A', 1,  64,  0,  10),
    'resnet110':         (Basic,      (18, 18, 18),    SMALL,  3,   'A', 1,  64,  0,  10),
    'resnet1202':        (Basic,      (200, 200, 200), SMALL,  3,   'A', 1,  64,  0,  10),
    'resnext29_8x64d':   (Bottleneck, (3, 3, 3),       MIDDLE, 3,   'B', 8,  64,  0,  10),
    'resnext29_16x64d':  (Bottleneck, (3, 3, 3),       MIDDLE, 3,   'B', 16, 64,  0,  10),
}
MODULE = ResNet
