"""U-Net's weight maps, which make a network learn the gaps between objects that nearly touch.

Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597, equation 2.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from cnnjax.data import geometry
from cnnjax.data.examples import Source


def weight_map(mask: np.ndarray, weight: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    """weight * exp(-(d1 + d2)^2 / (2 sigma^2)) at each pixel, float32 [H, W], where d1 and d2 are
    the distances, in pixels, to the nearest and to the second nearest object. Inside an object d1
    is 0, where the paper has the distance to its border. With fewer than two objects the map is 0,
    and so it is at pixels to be ignored.

    This is the second term of the paper's weights; the first are class weights.

    Args:
      mask: uint8 [H, W]. The objects are the connected parts that are neither background, class 0,
        nor geometry.IGNORE; pixels that touch only at a corner are not connected.
    """
    objects, count = ndimage.label((mask != 0) & (mask != geometry.IGNORE))
    nearest = second = np.full(mask.shape, np.inf)
    for i in range(1, count + 1):
        distance: Any = ndimage.distance_transform_edt(objects != i)
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    values = weight * np.exp(-((nearest + second) / sigma) ** 2 / 2)
    return np.where(mask == geometry.IGNORE, 0, values).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Weighted(Sequence):
    """Examples with masks, to which a 'weight_map' is added."""

    examples: Sequence
    weight: float
    sigma: float

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: Any) -> Any:
        example = self.examples[i]
        mask = np.asarray(example['mask'])
        return {**example, 'weight_map': weight_map(mask, self.weight, self.sigma)}

    @property
    def unweighted(self) -> Sequence:
        return self.examples

    @property
    def undecoded(self) -> 'Weighted':
        return dataclasses.replace(
            self, examples=getattr(self.examples, 'undecoded', self.examples))


def weighted(source: Source, weight: float, sigma: float) -> Source:
    """The source with a weight map for each mask; see `weight_map`."""
    return source._replace(examples=Weighted(source.examples, weight, sigma))
