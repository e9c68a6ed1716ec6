"""The convolution, and how XLA computes it and its gradients fast. NHWC and HWIO.

Measured in docs/cpu.md and docs/gpu.md. Elsewhere it is `lax.conv_general_dilated`.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
STRIP = 2 ** 19  # bytes, of one image; see _strips


def conv_general_dilated(x, kernel, strides, padding, lhs_dilation=None, rhs_dilation=None,
                         dimension_numbers=None, feature_group_count=1, **options):
    """`lax.conv_general_dilated`, with a gradient that XLA's CPU backend runs fast everywhere.

    The gradient convolutions that JAX derives have permuted dimension numbers. XLA:CPU rewrites
    them to its fast layout only in the entry computation: inside cond, switch, scan or while they
    run 50 to 100 times slower (https://github.com/jax-ml/jax/issues/12868). So on the CPU both
    gradients are written as NHWC/HWIO convolutions between explicit transpositions. The price is
    that forward-mode differentiation (jvp) is not available there. Other backends and fractionally
    strided convolutions use JAX's own gradient.

    There 1x1 convolutions that keep the size are matrix products, and 3x3 convolutions of many
    channels take 2.25 times fewer multiplications in Winograd's form, whose rounding is as small;
    `jax.default_matmul_precision('highest')` turns that off. On a GPU 16-bit convolutions of few
    channels are computed between blocks of pixels.
    """
    dilation = tuple(rhs_dilation or (1,) * (x.ndim - 2))
    canonical = (jax.default_backend() == 'cpu' and x.ndim == 4
                 and set(lhs_dilation or ()) <= {1} and not isinstance(padding, str))
    if canonical:
        padding = tuple(map(tuple, padding))
        if (kernel.shape[:2] == (1, 1) and set(strides) == {1} and feature_group_count == 1
                and set(itertools.chain(*padding)) == {0}):
            return _pointwise(x, kernel[0, 0], tuple(options.items()))
        if _fast_in_tiles(x, kernel, strides, dilation, feature_group_count, options):
            return _winograd(x, kernel, padding)
        return _canonical(x, kernel, tuple(strides), padding, dilation, feature_group_count,
                          tuple(options.items()))
    if outputs := _outputs_of_a_block(x, kernel, strides, padding, {
            *(lhs_dilation or ()), *dilation, feature_group_count}):
        return _in_blocks(x, kernel, strides, padding, outputs, options)
    return lax.conv_general_dilated(
        x, kernel, strides, padding, lhs_dilation, rhs_dilation, dimension_numbers,
        feature_group_count, **options)


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
    batch, channels, features = len(x), *kernel.shape[2:]
    blocks = [stride * out for stride, out in zip(strides, outputs, strict=True)]
    inputs = [-(-n // block) for n, block in zip(x.shape[1:3], blocks, strict=True)]
    size, seen, edges = [], [], []  # of each axis: outputs, blocks that one sees, padding of blocks
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
    images): they are padded first.
    """
    if any((n - 1) * grow < (k - 1) * d for n, grow, k, d in zip(
            x.shape[1:3], lhs_dilation, kernel.shape[:2], rhs_dilation, strict=True)):
        sides = [(*sides, grow - 1) for sides, grow in zip(padding, lhs_dilation, strict=True)]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
        x = lax.optimization_barrier(x)  # or XLA makes one operation of the two again
        padding, lhs_dilation = [(0, 0), (0, 0)], (1, 1)
    return lax.conv_general_dilated(x, kernel, strides, padding, lhs_dilation, rhs_dilation,
                                    LAYOUT, groups, **dict(options))


def _canonical_forward(x, kernel, *static):
    # XLA:CPU repeats cheap operations in each loop that reads them: the transposition of x for the
    # kernel's gradient would compute whole stages of residual blocks again, pixel by pixel (over a
    # quarter of a ResNet-20 step; docs/cpu.md). It stops at a choice between two arrays, which is
    # always x (NaN too) whatever the rounding; an optimization_barrier it removes before.
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
    if _fast_in_shifts(x, kernel, dilation, groups, options):
        return dx.astype(x.dtype), _in_shifts(x, g, kernel, strides, padding)
    # dkernel: the input correlated with the dilated output gradient, the batch as the channels.
    dkernel = sum(_correlate(x, g, rows, axes, strides, dilation, groups, options)
                  for rows in _strips(g, max(padding[0]) // strides[0] + 1))
    return dx.astype(x.dtype), dkernel.transpose(1, 2, 0, 3).astype(kernel.dtype)


def _fast_in_shifts(x, kernel, dilation, groups, options):
    """Whether `_in_shifts` is the fastest for the kernel's gradient; measured (docs/cpu.md). Of a
    smaller x the copies that a convolution makes stay in the caches."""
    least, most = sorted(kernel.shape[2:])
    return (kernel.shape[0] > 1 and least >= 16 and most <= 64 and {*dilation, groups} == {1}
            and x.size >= 2 ** 20 and x.shape[1] * x.shape[2] <= 512 * least
            and jnp.finfo(x.dtype).bits >= 32 and {*dict(options).values()} <= {None})


def _in_shifts(x, g, kernel, strides, padding):
    """The kernel's gradient as one product of matrices, whose rows are pixels.

    With stride 1 the columns of one are the channels of x at every shift across that the kernel
    makes, those of the other the channels of g at every shift down, so that no product is for
    nothing: where row i of g meets row p of x, it is with the kernel's row p - i. Rows that are
    strides apart do not meet so; then x is shifted in both directions.
    """
    (height, width), (stride_down, stride_across) = kernel.shape[:2], strides
    (rows, columns), (top, left) = g.shape[1:3], [low for low, _ in padding]
    x = _shifted(x, 2, left, range(width), columns, stride_across)
    if stride_down == 1:
        # The later a row of the kernel, the earlier the row of g that a row of x meets.
        g = _shifted(g, 1, height - 1 - top, range(height)[::-1], x.shape[1])
    else:
        x = _shifted(x, 1, top, range(height), rows, stride_down)
    parts = math.gcd(len(x), 2)  # faster than one product, on two cores
    x, g = (array.reshape(parts, -1, array.shape[-1]) for array in (x, g))
    dkernel = lax.dot_general(x, g, (((1,), (1,)), ((0,), (0,)))).sum(0)
    if stride_down == 1:
        dkernel = dkernel.reshape(width, -1, height, kernel.shape[3]).transpose(2, 0, 1, 3)
    return dkernel.reshape(kernel.shape).astype(kernel.dtype)


def _shifted(array, axis, low, starts, count, stride=1):
    """`count` places of an axis, `stride` apart, from each of `starts` on, `low` of which are zeros
    before the array; each has its own channels."""
    high = max(starts) + (count - 1) * stride + 1 - low - array.shape[axis]
    array = lax.pad(array, jnp.zeros((), array.dtype), [
        (low, high, 0) if other == axis else (0, 0, 0) for other in range(array.ndim)])
    return jnp.concatenate([lax.slice_in_dim(
        array, start, start + (count - 1) * stride + 1, stride, axis) for start in starts], -1)


def _strips(g, least):
    """Slices of the rows of g [N, H, W, C], each of at least so many rows.

    The output gradient is the kernel of that convolution, and a large one makes it 2 to 3 times
    slower: VGG's at 224 x 224, not those of 32 x 32 pixels, whatever the batch (docs/cpu.md).
    """
    height = g.shape[1]
    count = max(min(g.size // len(g) * g.dtype.itemsize // STRIP, height // least), 1)
    bounds = [height * i // count for i in range(count + 1)]
    return list(itertools.starmap(slice, itertools.pairwise(bounds)))


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


def _fast_in_tiles(x, kernel, strides, dilation, groups, options):
    """Whether `_winograd` can take the place of this convolution, and is faster.

    The limits on the work and on the pixels of an image for each channel are measured
    (docs/cpu.md): below and above them, reading and writing the tiles takes more than is won.
    """
    least = min(kernel.shape[2:])
    return (kernel.shape[:2] == (3, 3) and {*strides, *dilation, groups} == {1}
            and jnp.finfo(x.dtype).bits >= 32 and least >= 32
            and x.shape[1] * x.shape[2] <= 512 * least
            and math.prod(x.shape[:3]) * math.prod(kernel.shape[2:]) >= 2 ** 23
            and {*options.values()} <= {None} and jax.config.jax_default_matmul_precision is None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _winograd(x, kernel, padding):
    """A 3x3 convolution in tiles of 2x2 outputs, each of 16 products instead of 36: F(2x2, 3x3) of
    Lavin and Gray 2016, section 4.1, https://arxiv.org/abs/1509.09308. An infinity makes its tiles
    NaN.

    Its gradients are written here because XLA would transpose each tile in those that JAX derives,
    and add up the overlaps. For the same reason the tiles are matrices [N * tiles, C].
    """
    return _tiled(x, kernel, padding, 0)


def _winograd_forward(x, kernel, padding):
    return _winograd(x, kernel, padding), (x, kernel)


def _winograd_backward(padding, saved, g):
    x, kernel = saved
    dx = _tiled(g, kernel[::-1, ::-1], [(2 - low, 2 - high) for low, high in padding], 1)
    if _fast_in_shifts(x, kernel, (1, 1), 1, ()):
        return dx, _in_shifts(x, g, kernel, (1, 1), padding)
    tiles = [-(-n // 2) for n in g.shape[1:3]]
    inputs = _twice(_input, _pixels(x, tiles, [low for low, _ in padding], 4))
    outputs = _twice(_output_transposed, _pixels(g, tiles, (0, 0), 2))
    dkernel = _twice(_kernel_transposed, _products(inputs, outputs, 0, 0))
    return dx, jnp.stack([jnp.stack(row) for row in dkernel])


_winograd.defvjp(_winograd_forward, _winograd_backward)


def _tiled(x, kernel, padding, contracted):
    """The convolution; of the kernel's last two axes one is `contracted` with the channels."""
    size = [n + sum(sides) - 2 for n, sides in zip(x.shape[1:3], padding, strict=True)]
    tiles = [-(-n // 2) for n in size]
    inputs = _twice(_input, _pixels(x, tiles, [low for low, _ in padding], 4))
    products = _products(inputs, _twice(_kernel, kernel), 1, contracted)
    outputs = [[array.reshape(len(x), *tiles, -1) for array in row]
               for row in _twice(_output, products)]
    y = jnp.stack([jnp.stack(row, 3) for row in outputs], 2)
    return y.reshape(len(x), 2 * tiles[0], 2 * tiles[1], -1)[:, :size[0], :size[1]]


def _products(block, other, row, column):
    """Of the matrices of two blocks, one by one."""
    return [[lax.dot_general(a, b, (((row,), (column,)), ((), ())))
             for a, b in zip(*rows, strict=True)] for rows in zip(block, other, strict=True)]


def _pixels(x, tiles, low, size):
    """The size x size pixels of each tile, as arrays [N * tiles, C]. Tiles begin two pixels apart,
    the first one `low` before x, which zeros surround."""
    sides = [(before, 2 * count - 2 + size - n - before, 0)
             for n, before, count in zip(x.shape[1:3], low, tiles, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
    places = [[slice(i, i + 2 * count - 1, 2) for i in range(size)] for count in tiles]
    return [[x[:, rows, columns].reshape(-1, x.shape[-1]) for columns in places[1]]
            for rows in places[0]]


def _twice(transform, block):
    """A one-dimensional transformation of the rows of a block of arrays, then of its columns."""
    for _ in range(2):
        block = list(zip(*(transform(*row) for row in block), strict=True))
    return block


# outputs = _output(*(_input(4 pixels) * _kernel(3 weights))): 2 outputs of 4 products.

def _input(a, b, c, d):
    return a - c, b + c, c - b, b - d


def _kernel(a, b, c):
    return a, (a + b + c) / 2, (a - b + c) / 2, c


def _output(a, b, c, d):
    return a + b + c, b - c - d


def _output_transposed(a, b):
    return a, a + b, a - b, -b


def _kernel_transposed(a, b, c, d):
    return a + (b + c) / 2, (b - c) / 2, (b + c) / 2 + d
