"""Each operation against Pillow's; the draws against torchvision's tables."""

import functools

import jax
import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageEnhance, ImageOps

from cnnjax.data import policies

PHOTO = np.ascontiguousarray(skimage.data.astronaut()[20:220:8, 150:350:6])  # 25 x 34 pixels
GRAY = np.asarray(Image.fromarray(PHOTO).convert('L'))[..., None]
DIM = PHOTO // 3 + 40
FLAT = np.full_like(PHOTO, 77)
OPERATED = jax.jit(jax.vmap(policies.operated))


def affine(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


PILLOW = {
    'identity': lambda image, _: image,
    'shear_x': lambda image, m: affine(image, 1, m, 0, 0, 1, 0),
    'shear_y': lambda image, m: affine(image, 1, 0, 0, m, 1, 0),
    'translate_x': lambda image, m: affine(image, 1, 0, -int(m), 0, 1, 0),
    'translate_y': lambda image, m: affine(image, 1, 0, 0, 0, 1, -int(m)),
    'rotate': lambda image, m: image.rotate(m, Image.Resampling.BILINEAR),
    'brightness': lambda image, m: ImageEnhance.Brightness(image).enhance(1 + m),
    'color': lambda image, m: ImageEnhance.Color(image).enhance(1 + m),
    'contrast': lambda image, m: ImageEnhance.Contrast(image).enhance(1 + m),
    'sharpness': lambda image, m: ImageEnhance.Sharpness(image).enhance(1 + m),
    'posterize': lambda image, m: ImageOps.posterize(image, int(m)),
    'solarize': ImageOps.solarize,
    'autocontrast': lambda image, _: ImageOps.autocontrast(image),
    'equalize': lambda image, _: ImageOps.equalize(image),
}


@pytest.mark.parametrize('images', [(PHOTO, DIM, FLAT), (GRAY,)], ids=['rgb', 'gray'])
@pytest.mark.parametrize('kind', policies.KINDS)
def test_every_operation_is_pillows(images, kind):
    assert tuple(PILLOW) == policies.OPERATIONS
    table = policies.magnitudes(kind, PHOTO.shape)
    cases = [(image, i, sign * table[i, place]) for image in images
             for i, (*_, signed) in enumerate(policies.RANGES.values())
             for place in (0, 7, 18, 30) for sign in ((1, -1) if signed else (1,))]
    found = np.asarray(OPERATED(*map(np.stack, zip(*(
        (np.float32(image), np.int32(i), np.float32(magnitude))
        for image, i, magnitude in cases), strict=True))))
    changes = set()
    for (image, i, magnitude), own in zip(cases, found, strict=True):
        name = policies.OPERATIONS[i]
        pillow = Image.fromarray(image.squeeze())
        expected = np.asarray(PILLOW[name](pillow, float(magnitude))).reshape(image.shape)
        far = np.abs(own - expected).max(-1) > 1
        # At the border of a turned image, rounding decides whether a pixel is inside.
        assert far.mean() < (0.01 if name in policies.PLACES else 1e-9), (name, magnitude)
        assert (own == np.round(own)).all()
        if np.abs(own - image).max() > 1:
            changes.add(name)
    assert changes >= set(policies.OPERATIONS) - {'identity'} - (
        {'color'} if len(images) == 1 else set())


def test_the_ranges_are_torchvisions():
    """transforms/autoaugment.py: _augmentation_space of RandAugment and TrivialAugmentWide."""
    tables = {kind: dict(zip(policies.OPERATIONS, policies.magnitudes(kind, (200, 100, 3)),
                             strict=True)) for kind in policies.KINDS}
    own, wide = (tables[kind] for kind in policies.KINDS)
    np.testing.assert_allclose(own['translate_x'], np.linspace(0, 150 / 331 * 100, 31), rtol=1e-6)
    np.testing.assert_allclose(own['translate_y'], np.linspace(0, 150 / 331 * 200, 31), rtol=1e-6)
    np.testing.assert_allclose(wide['translate_y'], np.linspace(0, 32, 31), rtol=1e-6)
    np.testing.assert_allclose(wide['rotate'], np.linspace(0, 135, 31), rtol=1e-6)
    np.testing.assert_allclose(own['solarize'], np.linspace(255, 0, 31), rtol=1e-6)
    assert own['posterize'][[0, 3, 4, 9, 30]].tolist() == [8, 8, 7, 7, 4]
    assert wide['posterize'][[0, 2, 3, 30]].tolist() == [8, 8, 7, 2]


@pytest.mark.parametrize('kind', policies.KINDS)
def test_draws_are_any_operation_of_the_magnitude(kind):
    """A random image is one of those that the operations make of it."""
    options = {'operations': 1, 'magnitude': 12}
    small = PHOTO[:8, :8]
    keys = jax.random.split(jax.random.key(0), 300)
    draw = jax.jit(jax.vmap(functools.partial(policies.changed, kind=kind, **options), (0, None)))
    found = np.asarray(draw(keys, small))
    table, places = policies.magnitudes(kind, small.shape), range(31)
    if kind == 'randaugment':
        places = [12]
    cases = [(i, sign * table[i, place]) for i, (*_, signed) in enumerate(policies.RANGES.values())
             for place in places for sign in ((1, -1) if signed else (1,))]
    possible = np.asarray(OPERATED(np.repeat(np.float32(small)[None], len(cases), 0),
                                   np.int32([i for i, _ in cases]),
                                   np.float32([magnitude for _, magnitude in cases])))
    near = np.abs(found[:, None] - possible[None]).max((2, 3, 4)) <= 1
    assert near.any(1).all()
    drawn = {cases[place][0] for place in near.argmax(1)}
    assert len(drawn) > 10  # of 14; some leave so small an image as it is
    if kind == 'trivial':
        assert len(np.unique(found, axis=0)) > 80


def test_two_operations_follow_each_other():
    once, twice = (jax.jit(jax.vmap(functools.partial(
        policies.changed, kind='randaugment', operations=count, magnitude=20), (0, None)))(
            jax.random.split(jax.random.key(1), 40), PHOTO[:8, :8]) for count in (1, 2))
    changed = [(np.abs(np.asarray(images) - PHOTO[:8, :8]).max((1, 2, 3)) > 1).mean()
               for images in (once, twice)]
    assert changed[0] < changed[1]
    assert ((np.asarray(once) != np.asarray(twice)).any((1, 2, 3))).mean() > 0.5
