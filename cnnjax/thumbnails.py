"""Pictures of examples, for figures: a sequence as curves, a volume as a strip of its slices."""

import numpy as np
from PIL import Image, ImageDraw

from cnnjax.plots import class_colors

SLICES = 8  # The most slices in a strip, evenly spread.
CURVES = (96, 160)  # the height and width of a picture of curves, in pixels
LINE = 3  # Curves are drawn so many times larger, and scaled down, which smooths them.


def of(images: np.ndarray) -> np.ndarray:
    """Pictures, uint8 [N, H, W, 1 or 3], of images uint8 [N, H, W, C], or of sequences [N, T, C] or
    volumes [N, D, H, W, C], uint8 or floats. Numbers beyond 0 to 1 share one scale."""
    if images.ndim == 4:
        return images
    if images.dtype == np.uint8:
        return _strips(images)
    low, high = min(0.0, float(images.min())), max(1.0, float(images.max()))
    images = (images - low) / (high - low)
    if images.ndim == 3:
        return np.stack([_curves(each) for each in images])
    return _strips(np.round(255 * images).astype(np.uint8))


def _strips(volumes):
    """uint8 [N, D, H, W, C] -> [N, H, W', 1 or 3], with white lines between the slices."""
    places = np.linspace(0, volumes.shape[1] - 1, min(SLICES, volumes.shape[1])).round().astype(int)
    volumes = volumes[:, places]
    if volumes.shape[-1] not in (1, 3):  # There are no colours for such channels.
        volumes = volumes.mean(-1, keepdims=True).astype(np.uint8)
    slices = np.pad(volumes, ((0, 0), (0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)
    return np.concatenate(np.moveaxis(slices, 1, 0), 2)[:, :, :-1]


def _curves(sequence: np.ndarray) -> np.ndarray:
    """A curve for each channel of [T, C], from 0 at the bottom to 1: uint8 [H, W, 3]."""
    if len(sequence) == 1:  # A line needs two points.
        sequence = np.repeat(sequence, 2, 0)
    height, width = CURVES
    canvas = Image.new('RGB', (LINE * width, LINE * height), 'white')
    brush = ImageDraw.Draw(canvas)
    across = np.linspace(0.02, 0.98, len(sequence)) * LINE * width
    for values, color in zip(sequence.T, class_colors(sequence.shape[1]), strict=True):
        down = (0.95 - 0.9 * values) * LINE * height
        points: list = [*zip(across.tolist(), down.tolist(), strict=True)]
        brush.line(points, tuple((255 * color).astype(int)), LINE)
    return np.asarray(canvas.resize((width, height), Image.Resampling.BOX))
