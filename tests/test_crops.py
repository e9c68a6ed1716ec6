"""Pictures become images of one size, and masks and boxes move along."""

import numpy as np
import pytest

from cnnjax.data import Crops, geometry
from cnnjax.errors import UserError
from tests.test_geometry import RNG, assert_boxes, assert_together, painted, scene


@pytest.mark.parametrize('kind', ['shorter_side', 'random_resized'])
@pytest.mark.parametrize(('border', 'mode'), [(0, 'zero'), (7, 'zero'), (7, 'reflect')])
def test_cuts_take_mask_and_boxes_along(kind, border, mode):
    crops = Crops(48, kind, (50, 80), (0.3, 1.0), border=border, border_mode=mode)
    objects = 0
    for seed in range(40):
        example = crops.random(scene(), np.random.default_rng(seed))
        assert example['mask'].shape == (48, 48)
        assert set(np.unique(example['mask'])) <= {0, 1, geometry.IGNORE}
        assert_together(example, 1.5)
        objects += example['labels'][0] == 1
        assert example['labels'][1] == -1
    assert 10 < objects < 40
    assert_together(crops.center(scene()), 1.5)


def test_whole_pictures_of_any_size_stand_in_the_middle_of_a_square():
    crops = Crops(12, fit='pad', border_mode='reflect')
    crops.check(stream=True)
    for shape in ((8, 9), (12, 5)):
        image = RNG.integers(0, 256, (*shape, 3), np.uint8)
        own = {'image': image, 'mask': image[..., 0] % 3, 'boxes': np.float32([(1, 2, 3, 5)]),
               'labels': np.int32([1])}
        for example in (crops.center(own), crops.random(own, np.random.default_rng(0))):
            assert example['image'].shape == (12, 12, 3)
            top, left = ((12 - n) // 2 for n in shape)
            inside = slice(top, top + shape[0]), slice(left, left + shape[1])
            np.testing.assert_array_equal(example['image'][inside], image)
            np.testing.assert_array_equal(example['mask'][inside], own['mask'])
            assert (example['mask'] != geometry.IGNORE).sum() == image[..., 0].size
            np.testing.assert_array_equal(example['boxes'], own['boxes'] + [left, top, left, top])
    with pytest.raises(UserError, match='a picture of 8 x 13 pixels is larger than image_size=12'):
        crops.center({'image': np.zeros((8, 13, 3), np.uint8)})
    with pytest.raises(UserError, match="fit='pad' fills image_size x image_size pixels: give"):
        crops._replace(border=2).check(stream=True)


@pytest.mark.parametrize(('crops', 'shorter'), [
    (Crops(90, 'shorter_side', (95, 140), test_shorter_side=100), None),
    (Crops(90, 'random_resized'), None), (Crops(160, fit='pad'), None),
    (Crops(160, fit='pad', border_mode='zero'), None), (Crops(90, fit='stretch'), None),
    (Crops(140, fit='letterbox', shorter_side=(60, 110)), 112),
    (Crops(140, fit='letterbox', shorter_side=(60, 110), test_shorter_side=70), 70),
    (Crops(), None)])
def test_every_fit_moves_all_boxes_with_the_picture(crops, shorter):
    kept, scales = 0, set()
    for seed in range(16):
        rng = np.random.default_rng(seed)
        left, top = rng.integers(3, 80, 2)
        own = painted((left, top, left + rng.integers(9, 60), top + rng.integers(9, 36)))
        random = [crops.random(own, rng)] if crops.size else [crops.center(own)]
        for example in [crops.center(own), *random]:
            assert example.keys() == own.keys() | {'frame', 'size'}
            assert all(example[name].dtype == own[name].dtype for name in own)
            assert example['image'].shape == (crops.size or 120, crops.size or 150, 3)
            assert_boxes(example, 1.6)
            kept += example['labels'][0] == 3
            scales.add(float(example['frame'][2] - example['frame'][0]))
            # The frame and the size tell where the box was in the picture.
            scale = (example['frame'][2:] - example['frame'][:2]) / example['size'][::-1]
            back = (example['boxes'][0] - np.tile(example['frame'][:2], 2)) / np.tile(scale, 2)
            if crops.fit != 'crop':
                np.testing.assert_allclose(back, own['boxes'][0], atol=1e-4)
        if shorter:
            np.testing.assert_array_equal(crops.center(own)['frame'], (
                0, 0, shorter * 150 // 120, shorter))
    assert kept == 32 or crops.fit == 'crop'
    assert kept > 8
    assert len(scales) > 8 or crops.fit in ('pad', 'stretch') or not crops.size


@pytest.mark.parametrize(('crops', 'message'), [
    (Crops(9, fit='whole'), "fit is one of crop, pad, stretch, letterbox, not 'whole'"),
    (Crops(fit='stretch'), "fit='stretch' fills image_size x image_size pixels: give image_size"),
    (Crops(9, fit='letterbox', border=1), "fit='letterbox' fills .* and leave out border"),
    (Crops(9, fit='stretch', test_shorter_side=10), "fit='stretch' scales no shorter side")])
def test_fits_that_do_not_fit(crops, message):
    with pytest.raises(UserError, match=message):
        crops.check(stream=False)
