"""Pictures in files, their sizes and their colours: float32 [H, W, C] in [0, 1].

The numbers are those of the file, divided by its white: neither gamma nor colour profiles count.

The colours kept in style transfer are those of Gatys et al. 2016, "Preserving Color in Neural
Artistic Style Transfer": https://arxiv.org/abs/1606.05897
"""

import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
import tifffile
from jax.typing import ArrayLike
from PIL import Image, ImageSequence

from cnnjax import atomic, memory
from cnnjax.data import formats, levels
from cnnjax.data.augment import LUMA
from cnnjax.errors import UserError

PREFIX = 'skimage:'  # A name of SHIPPED follows: these come with scikit-image.
SHIPPED = ('astronaut', 'brick', 'camera', 'cat', 'cell', 'clock', 'coffee', 'coins', 'grass',
           'gravel', 'horse', 'hubble_deep_field', 'immunohistochemistry', 'logo', 'moon', 'page',
           'retina', 'rocket', 'text')
LARGEST = 32768  # `resize` makes sides of at most so many pixels.
BLUE = np.array([0.6, 0.74, 0.9], np.float32)  # the colour of lines between gray pictures
SHARP = 128  # `mosaic` enlarges smaller pictures to about so many pixels, each one a square.

# Pillow's options for each suffix. The losses of JPEG at this quality are below what the eye sees.
STILL = {'.png': {}, '.jpg': {'quality': 95, 'subsampling': 0},
         '.jpeg': {'quality': 95, 'subsampling': 0}, '.webp': {'lossless': True}, '.tif': {},
         '.tiff': {}, '.bmp': {}}
DEEP = ('.tif', '.tiff')  # for 16 bits: Pillow writes no such PNG of three channels
MOVING = {'.gif': {}, '.webp': {'quality': 90}, '.png': {}, '.apng': {}}


def read(source: str | Path, size: int | Sequence[int] | None = None) -> np.ndarray:
    """A picture -> float32 [H, W, 3] in [0, 1], upright.

    The numbers are those of formats.decode, divided by white; gray becomes RGB.

    Args:
      source: a path; or 'skimage:astronaut', a photograph that comes with scikit-image (the others:
        SHIPPED); nothing is downloaded.
      size: see `resize`; None: as it is.

    Raises:
      UserError: not a readable picture; numbers that are not finite or outside [0, 1]; an unknown
        name after 'skimage:'; a size that is none.
    """
    if str(source).startswith(PREFIX):
        name = str(source).removeprefix(PREFIX)
        if name not in SHIPPED:
            raise UserError(f"'{source}': the pictures of scikit-image are {', '.join(SHIPPED)}")
        import skimage.data  # here, because a training, which writes pictures, needs none of them

        image = formats.flat(Image.fromarray(getattr(skimage.data, name)()))
    else:
        image = formats.decode(source, str(source))
    if not isinstance(image, levels.Deep):
        image = levels.Deep(np.asarray(image), 255)
    picture = np.divide(image.numbers, image.white, dtype=np.float32)
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, -1)
    return picture if size is None else resize(picture, size)


def frames(path: str | Path) -> tuple[list[np.ndarray], float]:
    """The frames of an animation, each as of `read`, and for how many seconds one is shown, on
    average, but at least the 0.02 that `animate` takes; of a still picture ([picture], 0).

    Raises:
      UserError: see `read`.
    """
    if Path(path).suffix.lower() not in MOVING:
        return [read(path)], 0.0
    with formats.reading(str(path)), formats.opened(path) as file, formats.open_(file) as image:
        if getattr(image, 'n_frames', 1) == 1:
            return [read(path)], 0.0
        found, milliseconds = [], 0.0
        for frame in ImageSequence.Iterator(image):
            found.append(np.asarray(formats.flat(frame).convert('RGB'), np.float32) / 255)
            milliseconds += frame.info.get('duration', 100)
    return found, max(milliseconds / len(found) / 1000, 0.02)


def stem(source: str) -> str:
    """The name of a picture without folders, suffix and PREFIX: 'cat' of 'skimage:cat'."""
    return Path(source.removeprefix(PREFIX)).stem


def distinct(names: Iterable[str], taken: Collection[str] = ()) -> list[str]:
    """The names, each made different from those before it and from `taken` by a number: 'cat-2'.

    A slash, which a file's name cannot have, becomes '_'. Names that differ only in capitals are
    the same on some systems, and here.
    """
    found, seen = [], set(map(str.lower, taken))
    for name in names:
        base = unique = name.replace('/', '_')
        number = 1
        while unique.lower() in seen:
            number += 1
            unique = f'{base}-{number}'
        seen.add(unique.lower())
        found.append(unique)
    return found


def check_channels(count: int) -> None:
    """Raises UserError unless a network that takes images of `count` channels takes pictures."""
    if count not in (1, 3):
        raise UserError(f'source: its network takes images of {count} channels, a picture has 1 or '
                        '3: take another one')


def with_channels(image: np.ndarray, count: int) -> np.ndarray:
    """[H, W, 1 or 3] as a network takes it whose images have `count` channels: of three channels
    the luma, of one three equal ones.

    Raises:
      UserError: other numbers of channels, that differ.
    """
    if image.shape[-1] == count:
        return image
    if (image.shape[-1], count) == (3, 1):
        return (image @ LUMA)[..., None]
    if (image.shape[-1], count) == (1, 3):
        return np.repeat(image, 3, -1)
    raise UserError(f'the network takes images of {count} channels, not {image.shape[-1]}')


def fitted(image: np.ndarray, size: Sequence[int], channels: int) -> np.ndarray:
    """The largest middle part of an image that has the proportions of `size` (height, width), at
    this size and with so many channels."""
    height, width = image.shape[:2]
    scale = min(height / size[0], width / size[1])
    cut = [max(round(side * scale), 1) for side in size]
    top, left = (height - cut[0]) // 2, (width - cut[1]) // 2
    image = resize(image[top:top + cut[0], left:left + cut[1]], size)
    return with_channels(image, channels)


def mosaic(images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Pictures of one shape in rows and columns: [H, W, 3], with lines between them."""
    height, width, channels = images[0].shape
    zoom, gap = max(1, SHARP // max(height, width)), 4
    rows = math.ceil(len(images) / (columns := math.ceil(math.sqrt(len(images)))))
    line = 1.0 if channels == 3 else BLUE
    step = height * zoom + gap, width * zoom + gap
    canvas = np.ones((rows * step[0] - gap, columns * step[1] - gap, 3), np.float32) * line
    for i, image in enumerate(images):
        top, left = i // columns * step[0], i % columns * step[1]
        canvas[top:top + height * zoom, left:left + width * zoom] = np.repeat(
            np.repeat(image, zoom, 0), zoom, 1)
    return canvas


def read_mask(source: str | Path, shape: Sequence[int]) -> np.ndarray:
    """A picture as weights: float32 [H, W] of that `shape`, 0 where black and 1 where white.

    Colours count by the mean of their channels; transparent parts are white. Scaling is linear,
    which unlike `resize` leaves black and white pixels beside an edge black and white.
    """
    mask = read(source).mean(-1)
    shape = _height_width(shape, mask)
    return mask if mask.shape == shape else _scale(mask, shape, 'linear')


def resize(image: np.ndarray, size: int | Sequence[int]) -> np.ndarray:
    """Scales [H, W, C] by antialiased Lanczos filtering, clipped to [0, 1].

    Args:
      size: the longer side in pixels, the other in proportion; or (height, width).

    Raises:
      UserError: a size that is not one or two positive whole numbers.
    """
    size = _height_width(size, image)
    return image if image.shape[:2] == size else _scale(image, size, 'lanczos3')


def write(path: str | Path, image: ArrayLike, bits: int = 8) -> None:
    """Writes [H, W], [H, W, 1] or [H, W, 3] to a file, whole or not at all; the suffix says how.

    Values outside [0, 1] are clipped, the others rounded to the nearest level. A file of 16 bits is
    a TIFF file, compressed without loss.

    Raises:
      UserError: a suffix that cannot hold it, another shape, or numbers that are not finite.
    """
    path = Path(path)
    if bits not in (8, 16):
        raise UserError(f'bits={bits}: pictures are written with 8 or 16 bits')
    suffixes = tuple(STILL) if bits == 8 else DEEP
    if path.suffix.lower() not in suffixes:
        raise UserError(f'{path}: with {bits} bits a picture is written to {", ".join(suffixes)}')
    numbers = _levels(path, image, bits)
    with atomic.replacing(path) as unfinished:
        if bits == 16:
            tifffile.imwrite(
                unfinished, numbers, photometric='rgb' if numbers.ndim == 3 else 'minisblack',
                compression='zlib', metadata=None)
        else:
            Image.fromarray(numbers).save(unfinished, _format(path), **STILL[path.suffix.lower()])


def rounded(image: ArrayLike) -> np.ndarray:
    """float32 in [0, 1], as `write` and `read` would leave it in a file of 8 bits."""
    return np.floor(np.asarray(image, np.float32).clip(0, 1) * 255 + 0.5) / np.float32(255)


def animate(path: str | Path, frames: Iterable[np.ndarray], seconds_per_frame: float) -> None:
    """Writes pictures of one shape as an endless animation: GIF, WebP or APNG (.png, .apng), by
    the suffix. A GIF has 256 colours a frame and counts hundredths of seconds.

    Raises:
      UserError: another suffix, no frames or frames of several shapes, less than 0.02 seconds
        (which viewers slow down), or what `write` refuses.
    """
    path = Path(path)
    if path.suffix.lower() not in MOVING:
        raise UserError(f'{path}: an animation is written to {", ".join(MOVING)}')
    if not seconds_per_frame >= 0.02:
        raise UserError(f'{path}: {seconds_per_frame} seconds per frame are less than 0.02, which '
                        'viewers do not show')
    frames = [_levels(path, frame, 8) for frame in frames]
    shapes = sorted({frame.shape for frame in frames})
    if len(shapes) != 1:
        raise UserError(f'{path}: an animation has frames of one shape, these have {shapes}')
    first, *others = map(Image.fromarray, frames)
    with atomic.replacing(path) as unfinished:
        first.save(unfinished, _format(path), save_all=True, append_images=others, loop=0,
                   duration=round(1000 * seconds_per_frame), **MOVING[path.suffix.lower()])


def keep_luminance(result: np.ndarray, content: np.ndarray) -> np.ndarray:
    """The luma of `result` with the chroma of `content`, [H, W, 3], clipped to [0, 1].

    Section 4 of the paper ("luminance-only transfer") joins the Y of the result with the I and Q
    of the content image. Gray is (1, 1, 1) in YIQ as in YCbCr (neural-style's -original_colors),
    so both are this: the content plus the difference of the lumas.
    """
    if result.shape != content.shape:
        raise UserError(f'the luma of {list(result.shape)} and the chroma of '
                        f'{list(content.shape)}: read the content image at the size of the result')
    return np.clip(content + ((result - content) @ LUMA)[..., None], 0, 1).astype(np.float32)


def match_colors(style: np.ndarray, content: np.ndarray) -> np.ndarray:
    """`style` with its colours mapped linearly to the mean and covariance of those of `content`,
    [H, W, 3], clipped to [0, 1]; the two may differ in size.

    Section 3 of the paper ("color histogram matching") in the form of Image Analogies: the matrix
    is cov(content)^(1/2) cov(style)^(-1/2), symmetric roots. Where the style's colours do not vary,
    as across gray in a gray picture, the inverse is the pseudo-inverse.
    """
    roots = []
    for image, power in ((content, 0.5), (style, -0.5)):
        values, vectors = np.linalg.eigh(np.cov(np.float64(image).reshape(-1, 3).T, bias=True))
        varies = values > 1e-9  # far below one level of 8 bits; float32's error is below 1e-12
        values = np.where(varies, values, 1) ** power * varies
        roots.append(vectors * values @ vectors.T)
    means = [np.float64(image).mean((0, 1)) for image in (style, content)]
    mapped = (style - means[0]) @ (roots[0] @ roots[1]).T + means[1]
    return np.clip(mapped, 0, 1).astype(np.float32)


def _height_width(size, image):
    """The (height, width) that a size of `resize` means."""
    numbers = tuple(size) if isinstance(size, (tuple, list)) else (size,)
    if len(numbers) > 2 or not numbers or any(
            not isinstance(n, (int, np.integer)) or n < 1 for n in numbers):
        raise UserError(f'size={size}: a size is the longer side in pixels, or (height, width)')
    if max(numbers) > LARGEST:
        raise UserError(f'size={size}: take at most {LARGEST} pixels')
    if len(numbers) == 2:
        return tuple(map(int, numbers))
    height, width = image.shape[:2]
    scale = numbers[0] / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _scale(image, size, method):
    numbers = math.prod((*size, *image.shape[2:]))
    if 16 * numbers > memory.HOST:  # the result, intermediate arrays and copies
        raise UserError(f'size={size}: to scale a picture to {size[0]} x {size[1]} pixels takes '
                        f'{16 * numbers / 2 ** 30:.1f} GiB, more than half of the memory: take a '
                        'smaller size')
    scaled = jax.image.resize(np.asarray(image, np.float32), (*size, *image.shape[2:]), method)
    return np.clip(np.asarray(scaled), 0, 1)


def _levels(path, image, bits):
    """[H, W] or [H, W, C] in [0, 1] -> unsigned integers [H, W] or [H, W, 3]."""
    image = np.asarray(image)
    if image.dtype.kind in 'iu':
        raise UserError(f'{path}: a picture has floating-point numbers in [0, 1], not '
                        f'{image.dtype}')
    image = image.astype(np.float32)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[-1] == 3) or not image.size:
        raise UserError(f'{path}: a picture is [H, W], [H, W, 1] or [H, W, 3], not '
                        f'{list(image.shape)}')
    if not np.isfinite(image).all():
        raise UserError(f'{path}: the picture holds numbers that are not finite (NaN or infinity)')
    top = 2 ** bits - 1
    return np.floor(image.clip(0, 1) * top + 0.5).astype(f'uint{bits}')


def _format(path):
    return Image.registered_extensions()[path.suffix.lower()]
