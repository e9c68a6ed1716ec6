"""How a picture of any size becomes an image of one size: cut, padded, stretched or letterboxed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cnnjax.data import geometry, images
from cnnjax.errors import UserError
from cnnjax.limits import Number, Whole

SIDE = 8192  # The longest side in pixels; one larger image would take gigabytes.
LIMITS = {'image_size': Whole(0, SIDE), 'border': Whole(0, SIDE // 4),
          'shorter_side': Number(1, SIDE), 'crop_area': Number(0, 1), 'crop_aspect': Number(0),
          'test_image_size': Whole(0, SIDE), 'test_shorter_side': Whole(0, SIDE)}
FITS = ('crop', 'pad', 'stretch', 'letterbox')  # see Crops.fit


class Crops(NamedTuple):
    """How a picture becomes a square of `size` x `size` pixels; a size of 0 leaves it as it is. An
    example with boxes gets the frame and the size of its picture (see geometry.framed)."""

    size: int = 0
    kind: str = 'shorter_side'  # a stream's random crops; also 'random_resized'
    shorter_side: tuple[int, int] = (256, 256)  # for 'shorter_side': the range of scales
    area: tuple[float, float] = (0.08, 1.0)  # for 'random_resized': share of the picture's area
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # for 'random_resized': width / height
    test_shorter_side: int = 0  # before the middle crop of evaluation and resident sets; 0: size
    border: int = 0  # pixels that are added around each picture first
    interpolation: str = 'bilinear'  # a name of images.FILTERS: how pictures are scaled
    border_mode: str = 'zero'  # a name of geometry.MODES: what these pixels show
    # 'crop' scales the shorter side and cuts. The others keep all of the picture: 'pad' surrounds
    # it, unscaled, by a border; 'stretch' scales both sides to `size`; 'letterbox' scales the
    # shorter side as 'crop' does, the longer at most to `size`, with a border right and below.
    fit: str = 'crop'
    # What `center` cuts where it is not the middle square of `size` pixels (see views.py).
    place: tuple[float, float] = (0.5, 0.5)  # this and the next: arguments of images.placed_box
    square: bool = False
    shape: tuple[int, int] | None = None  # (height, width) instead of `size` x `size`

    def center(self, example: Mapping[str, Any]) -> Mapping[str, Any]:
        """The example (see geometry.py) with the middle [size, size, C] of its image, which may be
        an array or an images.Picture; a sequence or a volume stays as it is."""
        if len(example['image'].shape) != 3:
            return example
        example = self._bordered(example)
        shorter_side = self.test_shorter_side or self.size
        if self.fit in ('stretch', 'letterbox'):
            return self._scaled(example, shorter_side)
        if self.fit == 'pad' or not self.size:
            return {**example, 'image': np.asarray(example['image'])}
        size = self.shape or self.size
        box = images.placed_box(example['image'].shape, shorter_side, size, self.place, self.square)
        return geometry.cut(example, box, size, self.interpolation)

    def random(self, example: Mapping[str, Any], rng: np.random.Generator) -> Mapping[str, Any]:
        """The example with a random part of its image, or at a random scale in a letterbox."""
        if self.fit in ('pad', 'stretch'):
            return self.center(example)
        example = self._bordered(example)
        if self.fit == 'letterbox':
            low, high = self.shorter_side
            return self._scaled(example, rng.integers(low, high + 1))
        shape = example['image'].shape
        if self.kind == 'shorter_side':
            box = images.shorter_side_box(shape, rng, self.shorter_side, self.size)
        else:
            box = images.random_resized_box(shape, rng, self.area, self.aspect)
        return geometry.cut(example, box, self.size, self.interpolation)

    def _scaled(self, example, shorter_side):
        """The example stretched, or in a letterbox with this shorter side."""
        height, width, _ = example['image'].shape
        shape = self.size, self.size
        if self.fit == 'letterbox':
            shape = images.letterbox_shape((height, width), shorter_side, self.size)
        scaled = geometry.cut(example, (0, 0, height, width), shape, self.interpolation)
        return geometry.bordered(scaled, [(0, self.size - side) for side in shape],
                                 self.border_mode)

    def _bordered(self, example):
        if 'boxes' in example:
            example = geometry.framed(example)
        sides = [(self.border, self.border)] * 2
        if self.fit == 'pad':
            height, width, _ = example['image'].shape
            if max(height, width) > self.size:
                raise UserError(f'a picture of {height} x {width} pixels is larger than image_size='
                                f"{self.size}: with fit='pad' that is at least their longest side")
            sides = [((self.size - side) // 2, -(-(self.size - side) // 2))
                     for side in (height, width)]
        return geometry.bordered(example, sides, self.border_mode)

    def check(self, stream: bool) -> None:
        """Raises UserError if these fields do not fit together, or not a stream."""
        if self.kind not in ('shorter_side', 'random_resized'):
            raise UserError(f"crop is 'shorter_side' or 'random_resized', not '{self.kind}'")
        if self.interpolation not in images.FILTERS:
            raise UserError(f'interpolation is one of {", ".join(images.FILTERS)}, not '
                            f'{self.interpolation!r}')
        for name, limits in (('shorter_side', self.shorter_side), ('crop_area', self.area),
                             ('crop_aspect', self.aspect)):
            if len(limits) != 2 or not 0 < limits[0] <= limits[1]:
                raise UserError(f'{name}={limits} is no range: two positive numbers, the smaller '
                                'one first')
        if self.size < 0:
            raise UserError(f'image_size={self.size}: a number of pixels, or 0 for the images as '
                            'they are')
        if self.border < 0:
            raise UserError(f'border={self.border}: a picture has 0 or more pixels around it')
        if self.border_mode not in geometry.MODES:
            raise UserError(f"border_mode is 'zero', 'reflect' or 'edge', not '{self.border_mode}'")
        if self.fit not in FITS:
            raise UserError(f'fit is one of {", ".join(FITS)}, not {self.fit!r}')
        if self.fit != 'crop' and (self.border or not self.size):
            raise UserError(f"fit='{self.fit}' fills image_size x image_size pixels: give "
                            'image_size, and leave out border')
        if self.fit in ('pad', 'stretch') and self.test_shorter_side:
            raise UserError(f"fit='{self.fit}' scales no shorter side: leave out test_shorter_side")
        side = min(images.sides(self.shape or self.size))
        smallest = self.test_shorter_side or self.size
        if stream and self.kind == 'shorter_side' and not self.shape:  # It has no random crops.
            smallest = min(smallest, self.shorter_side[0])
        if self.fit == 'crop' and side > smallest:
            raise UserError(f'image_size={side} is cut from pictures whose shorter side is '
                            f'scaled to only {smallest}: see shorter_side and test_shorter_side')
