"""The convolution, and how XLA computes it and its gradients fast. NHWC and HWIO.

Measured in docs/cpu.md and docs/gpu.md. Elsewhere it is `lax.conv_general_dilated`.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax import winograd

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
LAYOUTS = {3: ('NWC', 'WIO', 'NWC'), 4: LAYOUT, 5: ('NDHWC', 'DHWIO', 'NDHWC')}  # by x.ndim
UNPADDED = 2 ** 22  # multiplications of one image, from which a row of padding pays; see _convolve
STRIP = 2 ** 19  # bytes, of one image; see _strips
IMAGES = 16  # the images of a part, where there are few channels; see _parts
# Within `with direct(True):` no convolution is computed in Winograd's tiles, as one of other
# images, or with more padding than it has. jax.jit compiles separate programs inside and outside.
direct = jax.make_user_context(False)


def conv_general_dilated(x: jax.Array, kernel: jax.Array, strides: Sequence[int],
                         padding: str | Sequence[tuple[int, int]],
                         lhs_dilation: Sequence[int] | None = None,
                         rhs_dilation: Sequence[int] | None = None, dimension_numbers: Any = None,
                         feature_group_count: int = 1, **options: Any) -> jax.Array:
    """`lax.conv_general_dilated` with channels last, and with a gradient that XLA's CPU backend
    runs fast everywhere.

    The gradient convolutions that JAX derives have permuted dimension numbers. XLA:CPU rewrites
    them to its fast layout only in the entry computation: inside cond, switch, scan or while they
    run 50 to 100 times slower (https://github.com/jax-ml/jax/issues/12868). So on the CPU both
    gradients are written as NHWC/HWIO convolutions between explicit transpositions. The price is
    that forward-mode differentiation (jvp) is not available there. Other backends and fractionally
    strided convolutions use JAX's own gradient.

    On the CPU, too, 1x1 convolutions that keep the size are matrix products, and 3x3 convolutions
    of many channels are computed in tiles (winograd.py), except within `direct(True)`. On a GPU
    16-bit convolutions of few channels are computed between blocks of pixels.

    Sequences [N, T, C] and volumes [N, D, H, W, C] are convolved, too, on the CPU as images.
    """
    dilation = tuple(rhs_dilation or (1,) * (x.ndim - 2))
    canonical = (jax.default_backend() == 'cpu' and set(lhs_dilation or ()) <= {1}
                 and not isinstance(padding, str))
    if canonical and x.ndim in (3, 5) and not direct.value:
        as_images = _of_sequences if x.ndim == 3 else _of_volumes
        return as_images(x, kernel, strides, padding, dilation, feature_group_count, options)
    if canonical and x.ndim == 4:
        padding = tuple((low, high) for low, high in padding)
        if (kernel.shape[:2] == (1, 1) and set(strides) == {1} and feature_group_count == 1
                and set(itertools.chain(*padding)) == {0}):
            return _pointwise(x, kernel[0, 0], tuple(options.items()))
        if (winograd.is_fast(x, kernel, (*strides, *dilation, feature_group_count))
                and options.get('preferred_element_type') is None and not direct.value):
            return winograd.convolve(x, kernel, padding, options.get('precision'))
        return _canonical(x, kernel, tuple(strides), padding, dilation, feature_group_count,
                          tuple(options.items()))
    if outputs := _outputs_of_a_block(x, kernel, strides, padding, {
            *(lhs_dilation or ()), *dilation, feature_group_count}):
        return _in_blocks(x, kernel, strides, padding, outputs, options)
    return lax.conv_general_dilated(
        x, kernel, strides, padding, lhs_dilation, rhs_dilation,
        dimension_numbers or LAYOUTS[x.ndim], feature_group_count, **options)


def _of_sequences(x, kernel, strides, padding, dilation, groups, options):
    """A convolution of sequences [N, T, C] with a kernel [k, C / groups, K]: they are images of one
    row."""
    return conv_general_dilated(
        x[:, None], kernel[None], (1, *strides), ((0, 0), *padding), rhs_dilation=(1, *dilation),
        dimension_numbers=LAYOUT, feature_group_count=groups, **options)[:, 0]


def _of_volumes(x, kernel, strides, padding, dilation, groups, options):
    """A convolution of volumes [N, D, H, W, C] with a kernel [d, h, w, C / groups, K]: an image has
    the channels of all d slices that a slice of the result sees.

    XLA:CPU takes 5 times as long for the convolution of volumes and its gradients (docs/cpu.md).
    """
    x = jnp.pad(x, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))
    batch, depth, features = x.shape[0], len(kernel), kernel.shape[-1]
    last = x.shape[1] - (depth - 1) * dilation[0]  # the slice after the last that begins a window
    seen = [x[:, first:first + last:strides[0]]
            for first in range(0, depth * dilation[0], dilation[0])]
    # Each group of channels stays together.
    seen = jnp.stack([each.reshape(*each.shape[:-1], groups, -1) for each in seen], -2)
    size = seen.shape[1]
    y = conv_general_dilated(
        seen.reshape(batch * size, *x.shape[2:4], -1),
        jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, features),
        strides[1:], padding[1:], rhs_dilation=dilation[1:], dimension_numbers=LAYOUT,
        feature_group_count=groups, **options)
    return y.reshape(batch, size, *y.shape[1:])


def up_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The transposed convolution of x [N, H, W, C] with a kernel [2, 2, C, K] and a stride of 2, as
    flax has it: [N, 2H, 2W, K].

    No two of its windows overlap. On the CPU it is a product of matrices for the even rows and one
    for the odd rows, since XLA:CPU takes 20 times as long for the gradients of the convolution.
    """
    if jax.default_backend() != 'cpu' or direct.value:
        return lax.conv_transpose(x, kernel, (2, 2), 'VALID')
    batch, height, width, channels = x.shape
    rows = kernel[::-1, ::-1].transpose(0, 2, 1, 3).reshape(2, channels, -1)
    return jnp.stack([(x @ row).reshape(batch, height, 2 * width, -1) for row in rows], 2).reshape(
        batch, 2 * height, 2 * width, -1)


def output_size(size: int, kernel: int, padding: int = 0, stride: int = 1,
                dilation: int = 1) -> int:
    """How many positions a kernel has along one axis of so many pixels, with `padding` more on
    either side. Padding is called 'valid' if there is none, 'same' if the size stays at stride 1,
    dilation * (kernel - 1) / 2, and 'full' if each position that sees any pixel counts,
    dilation * (kernel - 1)."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _outputs_of_a_block(x, kernel, strides, padding, others):
    """How many outputs, down and across, `_in_blocks` should compute as one; None: not at all.

    Measured in docs/gpu.md; with 32 channels little is won. `others` are dilations and groups.
    """
    if (jax.default_backend() != 'gpu' or x.ndim != 4 or x.dtype.itemsize > 2
            or others != {1} or isinstance(padding, str)):
        return None
    if min(strides) > 1 and kernel.shape[2] <= 4:
        return 1, 1
    width = x.shape[2] + sum(padding[1]) - kernel.shape[1] + 1
    few = kernel.shape[1] > 1 and max(kernel.shape[2:]) <= 16
    return (1, 2) if few and set(strides) == {1} and width % 2 == 0 else None


def _in_blocks(x, kernel, strides, padding, outputs, options):
    """A convolution between blocks of pixels, whose channels are those of all their pixels: a block
    of the result has `outputs` pixels down and across, one of x as many times the strides.

    A GPU's tensor cores compute tiles of 32 or more channels, from 8 or more: where there are
    fewer, most of a tile is empty, and the zeros in the kernel of blocks cost nothing.
    """
    if kernel.shape[2] * math.prod(strides) * math.prod(outputs) % 8:
        more = (0, -kernel.shape[2] % 4)
        x, kernel = jnp.pad(x, [(0, 0)] * 3 + [more]), jnp.pad(
            kernel, [(0, 0)] * 2 + [more, (0, 0)])
    batch, channels, features = x.shape[0], *kernel.shape[2:]
    blocks = [stride * out for stride, out in zip(strides, outputs, strict=True)]
    inputs = [-(-n // block) for n, block in zip(x.shape[1:3], blocks, strict=True)]
    # For each axis: how many outputs, how many blocks a block sees, the padding in blocks.
    size, seen, edges = [], [], []
    for axis, (n, k, stride, out, (low, high)) in enumerate(zip(
            x.shape[1:3], kernel.shape[:2], strides, outputs, padding, strict=True)):
        first, last = -low // blocks[axis], (stride * (out - 1) - low + k - 1) // blocks[axis]
        size.append((n + low + high - k) // stride + 1)
        seen.append(last - first + 1)
        edges.append((-first, size[-1] // out - inputs[axis] + last))
        # A kernel for each of the block's outputs, on a new last axis: zeros, but where it looks.
        starts = [stride * i - low - first * blocks[axis] for i in range(out)]
        kernel = jnp.stack([jnp.pad(kernel, [
            (start, seen[-1] * blocks[axis] - k - start) if other == axis else (0, 0)
            for other in range(kernel.ndim)]) for start in starts], -1)
    kernel = kernel.reshape(seen[0], blocks[0], seen[1], blocks[1], channels, features, *outputs)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 6, 7, 5)
    kernel = kernel.reshape(*seen, math.prod(blocks) * channels, -1)
    x = jnp.pad(x, ((0, 0), *((0, count * block - n) for count, block, n in zip(
        inputs, blocks, x.shape[1:3], strict=True)), (0, 0)))
    x = x.reshape(batch, inputs[0], blocks[0], inputs[1], blocks[1], channels).swapaxes(2, 3)
    y = lax.conv_general_dilated(x.reshape(batch, *inputs, -1), kernel, (1, 1), edges,
                                 dimension_numbers=LAYOUT, **options)
    y = y.reshape(*y.shape[:3], *outputs, features).swapaxes(2, 3)
    return y.reshape(batch, *size, features)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pointwise(x, kernel, options):
    """A 1x1 convolution as a matrix product, [N, H, W, C] and [C, K]."""
    return lax.dot_general(x, kernel, (((3,), (0,)), ((), ())), **dict(options))


def _pointwise_forward(x, kernel, options):
    return _pointwise(x, kernel, options), (x, kernel)


def _pointwise_backward(options, saved, g):
    x, kernel = saved
    dx = lax.dot_general(g, kernel, (((3,), (1,)), ((), ())), **dict(options))
    # As matrices: XLA:CPU would transpose arrays of more axes first, which took half of the time.
    x, g = (array.reshape(-1, array.shape[-1]) for array in (x, g))
    dkernel = lax.dot_general(x, g, (((0,), (0,)), ((), ())), **dict(options))
    return dx.astype(x.dtype), dkernel.astype(kernel.dtype)


_pointwise.defvjp(_pointwise_forward, _pointwise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5, 6))
def _canonical(x, kernel, strides, padding, dilation, groups, options):
    return _convolve(x, kernel, strides, padding, (1, 1), dilation, groups, options)


def _convolve(x, kernel, strides, padding, lhs_dilation, rhs_dilation, groups, options):
    """A convolution in the canonical layout.

    XLA:CPU is 20 to 35 times slower on inputs smaller than the kernel (VGG's last group on 32 x 32
    images): they are padded first. Without any padding it is up to 5 times slower, but on the
    smallest maps (docs/cpu.md): then one more row is padded and cut off.
    """
    if any(isinstance(n, int) and (n - 1) * grow < (k - 1) * d for n, grow, k, d in zip(
            x.shape[1:3], lhs_dilation, kernel.shape[:2], rhs_dilation, strict=True)):
        sides = [(*sides, grow - 1) for sides, grow in zip(padding, lhs_dilation, strict=True)]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
        x = lax.optimization_barrier(x)  # Without it XLA merges the two operations again.
        padding, lhs_dilation = [(0, 0), (0, 0)], (1, 1)
    convolve = functools.partial(
        lax.conv_general_dilated, x, kernel, strides, lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation, dimension_numbers=LAYOUT, feature_group_count=groups,
        **dict(options))
    sizes = (*x.shape[1:3], *kernel.shape)
    if (not any(itertools.chain(*padding)) and 1 < max(sizes[2:4]) <= 7
            and set(lhs_dilation) == {1} and all(isinstance(n, int) for n in sizes)
            and math.prod(sizes) >= UNPADDED and not direct.value):
        rows = output_size(sizes[0], sizes[2], 0, strides[0], rhs_dilation[0])
        return convolve(padding=((0, 1), (0, 0)))[:, :rows]
    return convolve(padding=padding)


def _canonical_forward(x, kernel, *static):
    # XLA:CPU computes cheap operations again in each loop that reads them: the transposition of x
    # for the kernel's gradient would repeat whole stages of residual blocks (over a quarter of a
    # ResNet-20 step; docs/cpu.md). But it computes the operands of jnp.where only once. This one
    # always returns x, NaN included. XLA would remove an optimization_barrier before it fuses.
    x = jnp.where(x <= jnp.inf, x, jnp.nan)
    return _canonical(x, kernel, *static), (x, kernel)


def _canonical_backward(strides, padding, dilation, groups, options, saved, g):
    x, kernel = saved
    # Per axis: (size, kernel's span, output's span on the input's grid, padding before).
    axes = [(n, (k - 1) * d, (o - 1) * s + 1, low)
            for n, k, d, o, s, (low, _) in zip(x.shape[1:3], kernel.shape[:2], dilation,
                                               g.shape[1:3], strides, padding, strict=True)]
    # dx: the dilated output gradient, fully correlated with the flipped kernel.
    flipped = _swap(kernel[::-1, ::-1], 2, 3, groups)
    dx = _convolve(g, flipped, (1, 1), [(span - low, n - out + low) for n, span, out, low in axes],
                   strides, dilation, groups, options)
    # dkernel: the input correlated with the dilated output gradient, the batch as the channels.
    dkernel: Any = sum(_correlate(x[part], g[part], rows, axes, strides, dilation, groups, options)
                       for part in _parts(x, kernel)
                       for rows in _strips(g, max(padding[0]) // strides[0] + 1))
    return dx.astype(x.dtype), dkernel.transpose(1, 2, 0, 3).astype(kernel.dtype)


def _parts(x, kernel):
    """Slices of the images of x: up to eight, of IMAGES or more.

    The images are the channels of that convolution. Where it has few others, some processors are 8
    times as slow for 128 images as for 8 parts of 16 (docs/cpu.md).
    """
    batch, few = x.shape[0], max(kernel.shape[2:]) <= 64
    whole = not few or not isinstance(batch, int) or batch < 2 * IMAGES
    return [slice(None)] if whole else _slices(batch, min(batch // IMAGES, 8))


def _slices(size, count):
    bounds = [size * i // count for i in range(count + 1)]
    return list(itertools.starmap(slice, itertools.pairwise(bounds)))


def _strips(g, least):
    """Slices of the rows of g [N, H, W, C], each of at least so many rows.

    The output gradient is the kernel of that convolution, and a large one makes it 2 to 3 times
    slower: VGG's at 224 x 224, not those of 32 x 32 pixels, whatever the batch (docs/cpu.md).
    """
    height = g.shape[1]
    count = max(min(math.prod(g.shape[1:]) * g.dtype.itemsize // STRIP, height // least), 1)
    return _slices(height, count)


def _correlate(x, g, rows, axes, strides, dilation, groups, options):
    """What these rows of g contribute to the kernel's gradient, [kh, C / groups, kw, K] swapped."""
    (n, span, _, low), columns = axes
    low -= rows.start * strides[0]
    high = span + (rows.stop - rows.start - 1) * strides[0] + 1 - n - low
    x, g = x[:, max(-low, 0):n - max(-high, 0)], g[:, rows]
    padding = [(max(low, 0), max(high, 0)),
               (columns[3], columns[1] + columns[2] - columns[0] - columns[3])]
    return _convolve(_swap(x, 0, 3, groups), g.transpose(1, 2, 0, 3), dilation, padding, (1, 1),
                     strides, groups, options)


def _swap(array, axis, last, groups):
    """The two axes swapped within each of the last one's groups, which stay on the last axis."""
    array = array.reshape(*array.shape[:-1], groups, -1)
    array = array.swapaxes(axis, last + 1)
    return array.reshape(*array.shape[:-2], -1)


_canonical.defvjp(_canonical_forward, _canonical_backward)
