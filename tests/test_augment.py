"""Augmentation against all its possible results."""

import colorsys
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cnnjax.data.augment import augment, distorted, jittered
from cnnjax.data.normalize import Normalization, normalization
from cnnjax.errors import UserError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (7, 5, 4, 1), np.uint8)
RGB = np.uint8(RNG.integers(0, 256, (7, 5, 4, 3)) * (0.2, 0.5, 1.0))
IDENTITY = Normalization(np.float32([0]), np.float32([1]))
NORMALIZE = Normalization(np.float32([0.5, 0.4, 0.3]), np.float32([0.2, 0.25, 0.3]))
EVERYTHING = {'normalize': NORMALIZE, 'flip': True, 'flip_vertical': True, 'padding': 2,
              'color': 0.1, 'color_jitter': 0.4, 'hue': 0.1, 'saturation': 1.5, 'exposure': 1.5,
              'random_erasing': 0.3}
WARP = {'auto_augment': 'trivial', 'crop_size': 4, 'scale': (0.5, 2.0), 'rotation': 40.0,
        'elastic': 0.4, 'jitter': 0.2}


def positions(images):
    return np.arange(len(images), dtype=np.int32)


def augmented(key, place, images, **options):
    """The images of examples that have no target."""
    return augment(key, place, {'image': images}, **options)['image']


def test_without_augmentation_it_is_the_normalization():
    out = augmented(jax.random.key(0), positions(RGB), RGB, normalize=NORMALIZE)
    np.testing.assert_allclose(out, NORMALIZE(RGB), atol=1e-6)


@pytest.mark.parametrize(('padding_mode', 'numpys'), [
    ('zero', 'constant'), ('reflect', 'reflect'), ('edge', 'edge')])
@pytest.mark.parametrize('mean', ['channel', 'pixel'])
def test_a_translation_is_a_crop_of_numpys_padded_image(mean, padding_mode, numpys):
    """Of the normalized image: zero is the mean, and a mean image stays behind the borders."""
    images, padding = np.tile(RGB, (20, 1, 1, 1)), 3
    normalize = normalization(RGB, mean, 'channel')
    out = augmented(jax.random.key(0), positions(images), images, normalize=normalize,
                  padding=padding, padding_mode=padding_mode)
    padded = np.pad(normalize(images), ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)), numpys)
    crops = np.stack([padded[:, y:y + 5, x:x + 4] for y in range(7) for x in range(7)])
    distance = np.abs(crops - np.asarray(out)).max((2, 3, 4))  # [offsets, N]
    assert distance.min(0).max() < 1e-5
    assert len(set(distance.argmin(0))) > 30  # of the 49 offsets


def test_every_translation_and_flip_is_equally_frequent():
    """The pixels of the image tell where they were."""
    height, width, padding = 6, 7, 2
    image = np.arange(1, 1 + height * width, dtype=np.uint8).reshape(height, width, 1)
    images = np.tile(image, (5000, 1, 1, 1))
    out = augmented(jax.random.key(0), positions(images), images, normalize=IDENTITY, flip=True,
                  padding=padding)
    out = np.rint(out * np.float32(255)).astype(int)[..., 0]
    flipped = out[:, 3, 4] < out[:, 3, 3]  # 3, 3 is the middle: there the image is always seen
    y, x = np.divmod(out[:, 3, 3] - 1, width)
    cells = (y - 3 + padding) * 5 + x - 3 + padding + 25 * flipped
    counts = np.bincount(cells, minlength=50)
    assert counts.shape == (50,)
    assert counts.all()
    assert stats.chisquare(counts).pvalue > 1e-3


def test_every_crop_is_equally_frequent():
    image = np.arange(1, 49, dtype=np.uint8).reshape(6, 8, 1)
    images = np.tile(image, (3000, 1, 1, 1))
    out = augmented(jax.random.key(0), positions(images), images, normalize=IDENTITY, crop_size=4)
    out = np.rint(out * np.float32(255)).astype(int)[..., 0]
    y, x = np.divmod(out[:, 0, 0] - 1, 8)
    for i in range(3000):
        np.testing.assert_array_equal(out[i], image[y[i]:y[i] + 4, x[i]:x[i] + 4, 0])
    counts = np.bincount(y * 5 + x, minlength=15)
    assert counts.shape == (15,)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_a_crop_may_be_larger_than_the_image_with_its_padding_around():
    out = np.asarray(augmented(jax.random.key(0), positions(RGB), RGB, normalize=IDENTITY,
                               padding=2, crop_size=8))
    assert out.shape == (7, 8, 8, 3)
    np.testing.assert_array_equal((out != 0).any((1, 3)).sum(-1), 4)


def test_a_turned_crop_shows_what_is_beside_it():
    """Its corners are padding only where the image ends."""
    images = np.full((100, 30, 30, 1), 200, np.uint8)
    out = augmented(jax.random.key(0), positions(images), images, normalize=IDENTITY, crop_size=10,
                    rotation=180.0)
    assert (np.asarray(out)[:, 0, 0] > 0).mean() > 0.8


@pytest.mark.parametrize(('field', 'axis'), [('flip', 1), ('flip_vertical', 0)])
def test_a_flip_mirrors_half_of_the_images(field, axis):
    images = np.tile(RGB[:1], (1000, 1, 1, 1))
    out = np.asarray(augmented(jax.random.key(0), positions(images), images, normalize=IDENTITY,
                             **{field: True}))
    same, mirrored = ((np.abs(out - expected).max((1, 2, 3)) < 1e-6)
                      for expected in (RGB[0] / 255, np.flip(RGB[0], axis) / 255))
    assert (same ^ mirrored).all()
    assert stats.binomtest(int(mirrored.sum()), 1000).pvalue > 1e-3


def test_the_two_flips_are_independent():
    images = np.tile(RGB[:1], (1000, 1, 1, 1))
    out = augmented(jax.random.key(0), positions(images), images, normalize=IDENTITY, flip=True,
                    flip_vertical=True)
    _, counts = np.unique(np.rint(out * np.float32(255)), axis=0, return_counts=True)
    assert counts.shape == (4,)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_erasing_is_torchvisions():
    """RandomErasing draws rectangles with whole sides of at most 10 x 8 pixels, uniform in area and
    in the logarithm of their ratio, and places them uniformly."""
    images = np.full((3000, 10, 8, 1), 255, np.uint8)
    out = np.asarray(augmented(jax.random.key(0), positions(images), images, normalize=IDENTITY,
                               random_erasing=0.5))[..., 0]
    assert set(np.unique(out)) == {0.0, 1.0}
    erased = out[(out == 0).any((1, 2))] == 0
    assert stats.binomtest(len(erased), 3000).pvalue > 1e-3
    rows, columns = erased.any(2).sum(1), erased.any(1).sum(1)
    np.testing.assert_array_equal(erased.sum((1, 2)), rows * columns)  # They are rectangles.
    random = np.random.default_rng(0)
    area, ratio = random.uniform(1.6, 26.4, 100_000), np.exp(
        random.uniform(*np.log((0.3, 3.3)), 100_000))
    sides = np.rint(np.sqrt([area * ratio, area / ratio])).astype(int)
    sides = sides[:, (sides[0] < 10) & (sides[1] < 8)]
    for own, expected in ((rows, sides[0]), (columns, sides[1])):
        own, expected = (np.bincount(values, minlength=10)[1:7] for values in (own, expected))
        assert stats.chisquare(own, expected / expected.sum() * own.sum()).pvalue > 1e-3
    tops = erased[(rows == 4)].any(2).argmax(1)
    assert stats.chisquare(np.bincount(tops, minlength=7)).pvalue > 1e-3


def test_a_policy_comes_before_the_normalization():
    key = jax.random.key(0)
    whole = augmented(key, positions(RGB), RGB, normalize=IDENTITY, auto_augment='trivial')
    levels = whole * np.float32(255)
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
    assert (np.abs(levels - RGB).max((1, 2, 3)) > 1).sum() > 2
    out = augmented(key, positions(RGB), RGB, normalize=NORMALIZE, auto_augment='trivial')
    np.testing.assert_allclose(out, NORMALIZE(whole), atol=1e-5)


def test_fields_that_are_off_leave_no_trace():
    """A classification keeps its bits."""
    off = {'flip_vertical': False, 'crop_size': 0, 'scale': (1.0, 1.0), 'rotation': 0.0,
           'elastic': 0.0, 'jitter': 0.0, 'hue': 0.0, 'saturation': 1.0, 'exposure': 1.0,
           'auto_augment': '', 'random_erasing': 0.0}

    def program(**options):
        run = functools.partial(augmented, normalize=NORMALIZE, **options)
        return str(jax.make_jaxpr(run)(jax.random.key(0), positions(RGB), RGB))

    assert program(**off) == program()
    assert 'random_bits' not in program()
    for field, value in {'flip_vertical': True, 'crop_size': 4, 'scale': (1.0, 1.1),
                         'rotation': 1.0, 'elastic': 0.1, 'jitter': 0.1, 'hue': 0.1,
                         'saturation': 1.5, 'exposure': 1.5, 'auto_augment': 'trivial',
                         'random_erasing': 0.5}.items():
        assert program(**{**off, field: value}) != program()


def test_colour_shifts_are_the_published_components():
    """Krizhevsky et al. 2012, section 4.1: the same shift of all pixels of an image, with standard
    deviation 0.1 times the eigenvalue along each eigenvector."""
    count = 4000
    images = np.full((count, 2, 1, 3), 128, np.uint8)
    out = np.asarray(augmented(jax.random.key(0), positions(images), images, normalize=IDENTITY,
                             color=0.1))
    shift = out - np.float32(128 / 255)
    np.testing.assert_array_equal(shift[:, 0], shift[:, 1])
    components = np.array([(-0.5675, -0.5808, -0.5836), (0.7192, -0.0045, -0.6948),
                           (0.4009, -0.8140, 0.4203)])
    multiples = np.linalg.solve(components.T, shift[:, 0, 0].T)
    deviations = 0.1 * np.array([0.2175, 0.0188, 0.0045])
    # Four standard errors of a standard deviation, a mean and a correlation.
    np.testing.assert_allclose(multiples.std(1), deviations, rtol=4 / np.sqrt(2 * count))
    np.testing.assert_array_less(np.abs(multiples.mean(1)), 4 * deviations / np.sqrt(count))
    np.testing.assert_allclose(np.corrcoef(multiples), np.eye(3), atol=4 / np.sqrt(count))


@pytest.mark.parametrize('order', list(itertools.permutations(range(3))))
def test_colour_jitter_is_that_of_fb_resnet_torch_in_any_order(order):
    """Its datasets/transforms.lua blends the image with black, with its mean gray and with its
    grays, one after the other."""
    key, image = jax.random.key(5), RGB[0] / 255
    factors = np.asarray(jax.random.uniform(key, (3,), np.float32, 0.6, 1.4))

    def gray(image):
        return np.sum(image * (0.299, 0.587, 0.114), -1, keepdims=True)

    others = (np.zeros_like, lambda image: gray(image).mean(), gray)
    expected = image
    for i in order:
        expected = factors[i] * expected + (1 - factors[i]) * others[i](expected)
    np.testing.assert_allclose(jittered(key, np.float32(image), 0.4), expected, atol=1e-6)


def test_distortion_is_colorsys_with_a_clip():
    """As darknet computes it: hue + U(-h, h), saturation and value times U(1, s) or 1 / U(1, s).
    The image has grays and every order of the three channels."""
    levels = np.float32(list(itertools.product((0, 0.25, 0.5, 1), repeat=3))).reshape(8, 8, 3)
    turns, factors = [], []
    for seed in range(40):
        found = np.asarray(distorted(jax.random.key(seed), levels, 0.1, 1.5, 2.0))
        # A pixel of middle saturation and value tells what was drawn.
        before, after = (colorsys.rgb_to_hsv(*map(float, image[4, 5])) for image in (levels, found))
        turn = (after[0] - before[0] + 0.5) % 1 - 0.5
        saturation, exposure = (after[i] / before[i] for i in (1, 2))
        turns.append(turn)
        factors.append((saturation, exposure))
        for rgb, own in zip(levels.reshape(-1, 3), found.reshape(-1, 3), strict=True):
            hue, share, value = colorsys.rgb_to_hsv(*map(float, rgb))
            expected = colorsys.hsv_to_rgb((hue + turn) % 1, share * saturation, value * exposure)
            np.testing.assert_allclose(own, np.clip(expected, 0, 1), atol=1e-5)
    assert -0.1 < min(turns) < -0.05
    assert 0.05 < max(turns) < 0.1
    for of, most in zip(np.transpose(factors), (1.5, 2.0), strict=True):
        assert 1 / most < min(of) < 1 < max(of) < most
        assert 8 < (of > 1).sum() < 32


def test_gray_images_have_no_saturation_to_jitter():
    """What remains equals the jitter of the same image in three equal channels."""
    key, image = jax.random.key(5), GRAY[0] / np.float32(255)
    np.testing.assert_allclose(jittered(key, image, 0.4),
                               jittered(key, image.repeat(3, -1), 0.4)[..., :1], atol=1e-6)


def test_colour_jitter_stays_within_its_range_and_differs_between_examples():
    count = 500
    images = np.full((count, 2, 2, 3), 100, np.uint8)  # gray and flat: brightness alone changes it
    out = np.asarray(augmented(jax.random.key(0), positions(images), images, normalize=IDENTITY,
                             color_jitter=0.4))
    factors = out[:, 0, 0, 0] / (100 / 255)
    np.testing.assert_allclose(out, np.broadcast_to(out[:, :1, :1, :1], out.shape), atol=1e-6)
    assert stats.kstest(factors, stats.uniform(0.6, 0.8).cdf).pvalue > 1e-3


def test_colour_is_shifted_before_the_normalization():
    key = jax.random.key(0)
    shifted = augmented(key, positions(RGB), RGB, normalize=IDENTITY, color=0.5)
    out = augmented(key, positions(RGB), RGB, normalize=NORMALIZE, color=0.5)
    np.testing.assert_allclose(out, NORMALIZE(shifted), atol=1e-6)
    assert np.abs(shifted - RGB / 255).max() > 0.1


@pytest.mark.parametrize('wrap', [lambda f: f, jax.jit], ids=['eager', 'jit'])
@pytest.mark.parametrize('warp', [{}, WARP], ids=['', 'warp'])
def test_an_example_depends_on_key_and_position_alone(wrap, warp):
    """Not on the batch's split: that makes a run the same on any number of devices."""
    run = wrap(functools.partial(augmented, **EVERYTHING, **warp))
    images, place = np.tile(RGB[:1], (8, 1, 1, 1)), np.arange(8, dtype=np.int32)
    whole = np.asarray(run(jax.random.key(3), place, images))
    halves = [run(jax.random.key(3), place[half], images[half])
              for half in (slice(0, 4), slice(4, 8))]
    np.testing.assert_array_equal(np.concatenate(halves), whole)
    np.testing.assert_array_equal(run(jax.random.key(3), place[::-1], images), whole[::-1])
    assert len(np.unique(whole, axis=0)) == 8
    other = np.asarray(run(jax.random.key(4), place, images))
    assert (np.abs(other - whole).max((1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize('images', [RGB, jnp.asarray(RGB)], ids=['numpy', 'jax'])
def test_float32_under_jit(images):
    run = functools.partial(augmented, **EVERYTHING)
    out = jax.jit(run)(jax.random.key(0), positions(images), images)
    assert out.dtype == jnp.float32
    assert out.shape == RGB.shape
    np.testing.assert_allclose(out, run(jax.random.key(0), positions(images), images), atol=1e-5)


@pytest.mark.parametrize(('images', 'options', 'message'), [
    (RGB, {'padding': 4, 'padding_mode': 'reflect'},
     'padding=4 by reflection needs larger images than 5 x 4'),
    (RGB, {'padding_mode': 'mirror'}, "padding_mode is 'zero', 'reflect' or 'edge', not 'm"),
    (GRAY, {'color': 0.1}, r'color=0.1 needs RGB images, not 1 channel\(s\)'),
    (GRAY, {'hue': 0.1}, r'hue=0.1 needs RGB images, not 1 channel\(s\)'),
    (GRAY, {'exposure': 1.5}, r'exposure=1.5 needs RGB images, not 1 channel\(s\)'),
    (RGB[..., :2], {'color_jitter': 0.4},
     r'color_jitter=0.4 needs RGB or gray images, not 2 channel\(s\)'),
    (RGB, {'crop_size': 6}, 'crop_size=6 is cut from images of 5 x 4 with padding=0: take a'),
    (RGB, {'crop_size': 7, 'padding': 1}, 'crop_size=7 is cut from images of 5 x 4 with padding=1'),
    (RGB, {'scale': (1.5, 0.5)}, r'scale=\(1.5, 0.5\) is no range: two positive numbers'),
    (RGB, {'scale': (0.0, 1.0)}, r'scale=\(0.0, 1.0\) is no range'),
    (RGB, {'scale': (1.0,)}, r'scale=\(1.0,\) is no range'),
    (RGB, {'elastic': 0.6}, 'elastic=0.6 would fold images of 5 x 4: .* their side, 0.5'),
    (RGB, {'elastic': 0.4, 'crop_size': 2}, 'elastic=0.4 would fold images of 2 x 2'),
])
def test_what_does_not_fit_is_said(images, options, message):
    with pytest.raises(UserError, match=message):
        augmented(jax.random.key(0), positions(images), images, normalize=IDENTITY, **options)
