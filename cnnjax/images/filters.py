"""Classical kernels on a picture, and what pools keep of its edges, by the layers of networks.

A picture is float [H, W, 3] in [0, 1].
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from cnnjax import convolution, layers
from cnnjax.images import pictures

KERNELS = {
    'box': np.ones((3, 3)) / 9,
    'low-pass': np.array([[1, 1, 1], [1, 2, 1], [1, 1, 1]]) / 10,
    'binomial': np.outer([1, 2, 1], [1, 2, 1]) / 16,
    'high-pass, 4 neighbours': np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]]),
    'high-pass, 8 neighbours': np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]),
    'sharpen': np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
    'vertical edges': np.outer([1, 1, 1], [1, 0, -1]),
    'Sobel x': np.outer([1, 2, 1], [-1, 0, 1]) / 4,
    'Sobel y': np.outer([-1, 0, 1], [1, 2, 1]) / 4,
}
SIGMA = 2.0  # the standard deviation of the Gaussian kernel, in pixels
FRAME = (1.0, 0.5, 0.0)  # orange, around a kernel on a picture
STRONGEST = 0.01  # This share of the pixels of an edge map are its peaks.

Pair = tuple[np.ndarray, np.ndarray]
Cell = tuple[str, np.ndarray, None]  # see plots.gallery
# The notes below the galleries of `kernel_rows` and `pooling_rows`.
CORNER = ('In the corner is the kernel: black to white are its numbers from minus to plus the '
          'largest, and gray is 0. Where they sum to 0, gray is 0 in the result too.')
POOLED = ('peaks: the share of the height of the strongest edges that is left. unchanged: the '
          'share of the values that are the same after the move. Last row: the difference.')


def correlate(picture: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Every colour of a picture [H, W, C] correlated with a kernel [h, w]. The edge is repeated, so
    that the shape stays.

    As in networks the kernel is not flipped. The colours are the batch of the convolution.
    """
    sides = [(n // 2, n - 1 - n // 2) for n in kernel.shape]
    padded = jnp.pad(jnp.asarray(picture, jnp.float32), (*sides, (0, 0)), 'edge')
    colors = convolution.conv_general_dilated(
        padded.transpose(2, 0, 1)[..., None], jnp.asarray(kernel, jnp.float32)[..., None, None],
        (1, 1), ((0, 0), (0, 0)))
    return np.asarray(colors[..., 0]).transpose(1, 2, 0)


def gaussian(sigma: float) -> np.ndarray:
    """The kernel of a Gaussian, cut at three standard deviations, of sum 1."""
    at = np.arange(-round(3 * sigma), round(3 * sigma) + 1)
    bell = np.exp(-at ** 2 / (2 * sigma ** 2))
    return np.outer(bell, bell) / bell.sum() ** 2


def kernels(picture: np.ndarray) -> tuple[dict[str, Pair], dict[str, dict[str, float]]]:
    """({name: (kernel, what it makes of the picture)}, {name: numbers}): the gain of a constant
    picture and of the fastest waves across columns and rows, and the share of the variance left."""
    filtered, numbers = {}, {}
    for name, kernel in (KERNELS | {f'Gaussian, sigma {SIGMA:g}': gaussian(SIGMA)}).items():
        filtered[name] = kernel, correlate(picture, kernel)
        rows, columns = ((-1.0) ** np.arange(n) for n in kernel.shape)
        numbers[name] = {
            'gain_constant': float(abs(kernel.sum())),
            'gain_columns': float(abs((kernel * columns).sum())),
            'gain_rows': float(abs((kernel * rows[:, None]).sum())),
            'variance_left': float(filtered[name][1].var((0, 1)).mean()
                                   / picture.var((0, 1)).mean())}
    return filtered, numbers


def kernel_rows(picture: np.ndarray, filtered: Mapping[str, Pair]) -> list[list[Cell]]:
    """Cells of a gallery, each with its kernel in the corner; gray is 0 for kernels of sum 0."""
    cells = [('picture', picture, None)]
    for name, (kernel, result) in filtered.items():
        if is_signed(kernel):
            result = np.repeat((result @ pictures.LUMA)[..., None], 3, -1)
        result, side = shown(result, kernel), picture.shape[0] // 5
        small = 0.5 + kernel / np.abs(kernel).max() / 2
        index = np.arange(side) * len(kernel) // side
        result[:side, :side] = small[index][:, index, None]
        for line in (0, side):
            result[line, :side + 1] = result[:side + 1, line] = FRAME
        cells.append((name, result, None))
    strength = edges(picture)
    cells.append(('Sobel, strength', (strength / np.quantile(strength, 0.995)).clip(0, 1), None))
    return [cells[i:i + 4] for i in range(0, len(cells), 4)]


def is_signed(kernel: np.ndarray) -> bool:
    """Whether a kernel makes 0 of a constant picture."""
    return bool(abs(kernel.sum()) < 1e-6)


def shown(result: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """What a kernel made of a picture, as a picture in [0, 1]; gray is 0 for kernels of sum 0."""
    if is_signed(kernel):
        result = 0.5 + result / (2 * np.quantile(np.abs(result), 0.995) + 1e-12)
    return result.clip(0, 1)


def edges(picture: np.ndarray) -> np.ndarray:
    """The strength of edges [H, W] by Sobel's kernels."""
    gray = (picture @ pictures.LUMA)[..., None]
    return np.hypot(*(correlate(gray, KERNELS[name])[..., 0] for name in ('Sobel x', 'Sobel y')))


def pools(size: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """{name: function of [H, W]}"""
    def by(pool):
        return lambda x: np.asarray(pool(jnp.asarray(x)[None, ..., None], size, size)[0, ..., 0])
    return {'max': by(layers.max_pool), 'average': by(layers.average_pool),
            'subsampled': lambda x: x[size // 2::size, size // 2::size]}


def pooling(edge: np.ndarray, side: int, size: int) -> tuple[dict[str, Pair], dict[str, Any]]:
    """What pools of size x size keep of an edge map that moves, at about side x side pixels of it:

    'change' by the shift, relative to the norm; 'unchanged', the share of the values that are
    exactly the same after a shift by one pixel; 'peaks', the mean share of the height of the
    strongest edges that is left where they are. Returns ({name: still, moved by one}, numbers).

    `edge` is [side + 2 * size, side + 2 * size].
    """
    side = side // size * size
    maps = {shift: edge[shift:shift + side, shift:shift + side] for shift in range(2 * size + 1)}
    highest = pools(size)['max'](maps[0])
    strong = highest >= np.quantile(maps[0], 1 - STRONGEST)
    shown = {'edges': (maps[0], maps[1])}
    numbers: dict[str, Any] = {'shifts': list(maps)[1:], 'pool_size': size}
    for name, pool in ({'edges': lambda x: x} | pools(size)).items():
        pooled = {shift: pool(x) for shift, x in maps.items()}
        norm = np.linalg.norm(pooled[0])
        shown[name] = pooled[0], pooled[1]
        numbers[name] = {
            'change': [float(np.linalg.norm(pooled[shift] - pooled[0]) / norm)
                       for shift in numbers['shifts']],
            'unchanged': float((pooled[1] == pooled[0]).mean())}
        if name != 'edges':
            numbers[name]['peaks'] = float((pooled[0][strong] / highest[strong]).mean())
    return shown, numbers


def pooling_rows(shown: Mapping[str, Pair], numbers: Mapping[str, Any]) -> list[list[Cell]]:
    """Cells of a gallery: edge map and pools, moved by one pixel, and the difference."""
    rows = [[], [], []]
    for name, (still, moved) in shown.items():
        high = np.quantile(still, 0.995) + 1e-12
        values = numbers[name]
        kept = f', peaks {100 * values["peaks"]:.0f} %' if 'peaks' in values else ''
        for row, title, image in zip(rows, (
                name + kept, 'moved by one pixel', f'unchanged: {100 * values["unchanged"]:.0f} %'),
                (still, moved, np.abs(moved - still)), strict=True):
            row.append((title, (image / high).clip(0, 1), None))
    return rows
