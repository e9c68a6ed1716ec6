"""Global contrast normalization and ZCA whitening, as Maxout, NIN and All-CNN were trained on.

The images of these papers are those of pylearn2's make_cifar10_gcn_whitened.py
(https://github.com/lisa-lab/pylearn2): each image loses its mean and gets the norm SCALE, then its
pixels are decorrelated over the training set by the matrix (covariance + BIAS)^(-1/2), which leaves
images looking like images (Bell & Sejnowski 1997; Coates, Lee & Ng 2011, section 3.1).
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import atomic
from cnnjax.errors import UserError

FILE = 'whitening.npy'  # the matrix of a run
SCALE = 55.0  # the norm of an image
BIAS = 0.1  # added to all variances; pylearn2's filter_bias
LARGEST = 64 * 64 * 3  # The most numbers in an image: their matrix takes 600 MB, an hour at most.
FLAT = 1e-8  # Images in [0, 1] with a smaller sum of squares have one colour, and become 0.


def contrast_normalized(images: Any) -> Any:
    """Float images in [0, 1], [..., H, W, C], less the mean of each, with the norm SCALE."""
    images = images - images.mean((-3, -2, -1), keepdims=True)
    squares = (images ** 2).sum((-3, -2, -1), keepdims=True)
    flat = (squares < FLAT).astype(images.dtype)
    return images * (1 - flat) * (SCALE / (squares + flat) ** 0.5)


def zca(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean [H, W, C] of contrast-normalized training images, and the symmetric matrix [D, D]
    that whitens their D = H * W * C numbers, both float32.

    Args:
      images: uint8 [N, H, W, C].

    Raises:
      UserError: the images are too large.
    """
    count, *shape = images.shape
    numbers = int(np.prod(shape))
    if numbers > LARGEST:
        raise UserError(f'whiten=True needs a matrix of {numbers:,} x {numbers:,} for images of '
                        f'{shape}: take smaller ones, at most 64 x 64 in colour')
    total, products = np.zeros(numbers), np.zeros((numbers, numbers))
    for i in range(0, count, 1000):  # In float64 the whole set would take gigabytes.
        some = contrast_normalized(images[i:i + 1000] / 255).reshape(-1, numbers)
        total += some.sum(0)
        products += some.T @ some
    mean = total / count
    covariance = products / count - np.outer(mean, mean)
    variances, directions = np.linalg.eigh(covariance)
    # Rounding may make the variance of a pixel that never changes a little negative.
    matrix = directions / np.sqrt(np.maximum(variances, 0) + BIAS) @ directions.T
    return mean.reshape(shape).astype(np.float32), matrix.astype(np.float32)


def write(directory: str | Path, matrix: np.ndarray) -> str:
    """Writes FILE, and returns the digest of the matrix."""
    with atomic.replacing(Path(directory) / FILE) as unfinished, unfinished.open('wb') as file:
        np.save(file, matrix)
    return _digest(matrix)


def read(directory: str | Path, digest: str) -> np.ndarray | None:
    """The matrix in FILE with this digest; None if it is lost or damaged."""
    try:
        with (Path(directory) / FILE).open('rb') as file:
            matrix = np.load(file, allow_pickle=False)
        return matrix if matrix.dtype == np.float32 and _digest(matrix) == digest else None
    except Exception:  # A file may hold any value and raise any error.
        return None


def _digest(matrix):
    return hashlib.sha256(np.ascontiguousarray(matrix).data).hexdigest()
