"""Transforms against numpy and scikit-image: identities, shapes, gradients, randomness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.transform

from cnnjax.errors import UserError
from cnnjax.images.transforms import (
    LUCID,
    compose,
    each,
    flip,
    jitter,
    pad,
    robust,
    rotate,
    scale,
    turn,
)

KEY = jax.random.key(0)
IMAGE = np.float32(np.random.default_rng(0).random((11, 14, 3)))
SQUARE = IMAGE[:, :11]
KEYS = jax.random.split(KEY, 200)


def draws(transform, image=IMAGE):
    """The transform under 200 keys, compiled, as one batch."""
    return np.asarray(jax.jit(jax.vmap(transform, (0, None)))(KEYS, image))


@pytest.mark.parametrize('transform', [
    jitter(0), jitter(0, 'crop'), pad(0), pad(0, 'reflect'), rotate([0]), rotate(0.0), compose(),
    compose(jitter(0), rotate([0])),
])
def test_identity_at_zero(transform):
    np.testing.assert_array_equal(transform(KEY, IMAGE), IMAGE)


def test_scale_by_one_is_the_identity_up_to_rounding():
    np.testing.assert_allclose(scale([1])(KEY, IMAGE), IMAGE, atol=2e-7)


def test_jitter_rolls_by_every_offset_and_loses_nothing():
    rolls = {np.roll(IMAGE, (down, right), (0, 1)).tobytes()
             for down in range(-2, 3) for right in range(-2, 3)}
    assert {image.tobytes() for image in draws(jitter(2))} == rolls


def test_jitter_crops_at_every_corner():
    crops = {IMAGE[down:down + 9, right:right + 12].tobytes()
             for down in range(3) for right in range(3)}
    assert {image.tobytes() for image in draws(jitter(2, 'crop'))} == crops


def test_pad():
    sides = ((3, 3), (3, 3), (0, 0))
    np.testing.assert_array_equal(pad(3)(KEY, IMAGE), np.pad(IMAGE, sides, constant_values=0.5))
    np.testing.assert_array_equal(pad(3, value=0.0)(KEY, IMAGE), np.pad(IMAGE, sides))
    np.testing.assert_array_equal(pad(3, 'reflect')(KEY, IMAGE), np.pad(IMAGE, sides, 'reflect'))


@pytest.mark.parametrize('factor', [0.5, 0.9, 1.1, 2.0])
def test_scale_is_a_similarity_about_the_centre(factor):
    height, width, _ = IMAGE.shape
    middle = np.array([width - 1, height - 1]) / 2
    similarity = skimage.transform.SimilarityTransform(
        scale=1 / factor, translation=middle * (1 - 1 / factor))
    expected = skimage.transform.warp(IMAGE, similarity, order=1, mode='edge')
    scaled = np.asarray(scale([factor])(KEY, IMAGE))
    # Beyond the outer edges of the image's pixels there is the fill.
    down, right = (abs(np.arange(size) - (size - 1) / 2) <= factor * size / 2
                   for size in (height, width))
    inside = down[:, None] & right[None]
    np.testing.assert_allclose(scaled[inside], expected[inside], atol=1e-5)
    np.testing.assert_allclose(scaled[~inside], 0.5)
    assert (~inside).any() == (factor < 1)


@pytest.mark.parametrize('fill', [0.0, 0.5])
def test_rotate_is_scikit_images(fill):
    turned = rotate([17.0], fill)(KEY, IMAGE)
    expected = skimage.transform.rotate(IMAGE, 17.0, order=1, cval=fill)
    np.testing.assert_allclose(turned, expected, atol=1e-5)
    np.testing.assert_allclose(rotate([90])(KEY, SQUARE), np.rot90(SQUARE), atol=1e-5)


def test_one_of_the_list_is_drawn():
    for transform, values in ((scale, [0.8, 1.0, 1.25]), (rotate, [-20, 0, 5])):
        each = [np.asarray(transform([value])(KEY, IMAGE)) for value in values]
        drawn = draws(transform(values))
        nearest = [int(np.argmin([abs(image - one).max() for one in each])) for image in drawn]
        for image, index in zip(drawn, nearest, strict=True):
            np.testing.assert_allclose(image, each[index], atol=1e-5)
        assert (np.bincount(nearest, minlength=3) > 40).all()


def test_half_of_the_images_are_mirrored():
    mirrored = [image.tobytes() == IMAGE[:, ::-1].tobytes() for image in draws(flip())]
    assert {image.tobytes() for image in draws(flip())} == {
        IMAGE.tobytes(), np.ascontiguousarray(IMAGE[:, ::-1]).tobytes()}
    assert 70 < sum(mirrored) < 130


def test_a_square_is_turned_by_each_right_angle():
    turned = [np.rot90(SQUARE, number).tobytes() for number in range(4)]
    drawn = [turned.index(image.tobytes()) for image in draws(turn(), SQUARE)]
    assert (np.bincount(drawn, minlength=4) > 25).all()


def test_another_shape_is_turned_on_a_periodic_plane_without_a_preferred_pixel():
    """Every neighbour of a pixel is the one of the turned periodic image."""
    numbers = np.arange(11 * 14, dtype=np.float32).reshape(11, 14, 1)
    plane = np.tile(numbers, (4, 4, 1))
    windows = {(angle, np.rot90(plane, angle)[down:down + 11, right:right + 14].tobytes())
               for angle in (1, 3) for down in range(14) for right in range(11)}
    windows |= {(angle, np.rot90(numbers, angle).tobytes()) for angle in (0, 2)}
    found = {image: angle for angle, image in windows}
    drawn = draws(turn(), numbers)
    assert set(np.unique([found[image.tobytes()] for image in drawn])) == {0, 1, 2, 3}
    counts = np.bincount(drawn.astype(int).ravel(), minlength=numbers.size)
    assert 150 < counts.min() <= counts.max() < 250  # 200 on average, deviation about 7


def test_mirrored_and_turned_gradients_come_back_to_their_pixels():
    """A function that treats all four neighbours of a pixel alike, and is periodic, cannot tell
    what was mirrored or turned."""
    def energy(image):
        return sum((image ** 2 * jnp.roll(image, shift, axis)).sum()
                   for shift in (1, -1) for axis in (0, 1))

    change = compose(flip(), turn())
    gradient = jax.jit(jax.vmap(jax.grad(lambda image, key: energy(change(key, image))),
                                (None, 0)))(SQUARE, KEYS)
    direct = np.asarray(jax.grad(energy)(SQUARE))
    np.testing.assert_allclose(gradient, np.broadcast_to(direct, gradient.shape), rtol=1e-5)


def test_compose_gives_each_its_own_key_in_order():
    once = draws(compose(jitter(2), jitter(2)))
    rolls = {np.roll(IMAGE, (down, right), (0, 1)).tobytes(): (down, right)
             for down in range(-4, 5) for right in range(-4, 5)}
    # With one key for both, both would move alike: only even moves.
    assert {down % 2 for down, _ in (rolls[image.tobytes()] for image in once)} == {0, 1}
    padded = compose(pad(2), jitter(1, 'crop'))(KEY, IMAGE)
    assert padded.shape == (14, 17, 3)


def test_lucids_chain():
    image = np.float32(np.random.default_rng(1).random((32, 40, 3)))
    batch = jax.jit(jax.vmap(LUCID, (0, None)))(KEYS[:8], image)
    assert batch.shape == (8, 44, 52, 3)
    assert len({one.tobytes() for one in np.asarray(batch)}) == 8
    assert 0 <= batch.min() <= batch.max() <= 1 + 1e-6


def test_the_robust_chain_keeps_the_shape_and_moves_little():
    """A dot in the middle of a gray image stays within the moves, and near its size."""
    image = np.full((33, 41, 1), 0.5, np.float32)
    image[14:19, 18:23] = 1
    batch = np.asarray(jax.jit(jax.vmap(robust(3), (0, None)))(KEYS[:64], image)) - 0.5
    assert batch.shape == (64, 33, 41, 1)
    mass = batch.sum((1, 2, 3))
    assert 0.75 < mass.min() / 12.5 < 0.9
    assert 1.1 < mass.max() / 12.5 < 1.3  # 0.9 and 1.1, squared
    for axis, middle in ((1, 16), (2, 20)):
        places = np.arange(batch.shape[axis]) @ batch.sum((3, 3 - axis)).T / mass
        assert 2 < np.abs(places - middle).max() <= 3.2


def test_each_draws_anew_for_every_image():
    stack = np.stack([IMAGE] * 8)
    found = np.asarray(jax.jit(each(jitter(2)))(KEY, stack))
    assert found.shape == stack.shape
    assert len({image.tobytes() for image in found}) > 1


@pytest.mark.parametrize('transform', [
    jitter(2), jitter(2, 'crop'), pad(2, 'reflect'), scale([0.9]), rotate([10]), turn(),
    compose(pad(2), jitter(1), rotate([5]), scale([1.1])),
])
def test_gradient_is_the_difference_quotient(transform):
    """Each is affine in the image: the gradient along a direction is exactly the difference."""
    weights = np.random.default_rng(1).normal(size=(15, 18, 3))

    @jax.jit
    def loss(image):
        out = transform(KEY, image)
        return (out * weights[:out.shape[0], :out.shape[1]]).sum()

    with jax.enable_x64(True):
        image = np.float64(IMAGE)
        direction = np.random.default_rng(2).normal(size=image.shape)
        slope = (np.asarray(jax.jit(jax.grad(loss))(image)) * direction).sum()
        np.testing.assert_allclose(loss(image + direction) - loss(image), slope, rtol=1e-6)


@pytest.mark.parametrize(('make', 'words'), [
    (lambda: jitter(-1), 'jitter.*-1'),
    (lambda: jitter(1.5), 'jitter.*1.5'),
    (lambda: jitter(1, 'shift'), "jitter's mode.*'shift'"),
    (lambda: jitter(11)(KEY, IMAGE), 'jitter by 11 pixels.*11 x 14'),
    (lambda: jitter(11, 'crop')(KEY, IMAGE), 'jitter by 11 pixels'),
    (lambda: pad(-2), 'pad.*-2'),
    (lambda: pad(1, 'edge'), "pad's mode.*'edge'"),
    (lambda: pad(11, 'reflect')(KEY, IMAGE), 'pad by 11 pixels'),
    (lambda: scale([]), "scale's factors"),
    (lambda: scale([1.0, 0.0]), "scale's factors"),
    (lambda: scale([float('inf')]), "scale's factors"),
    (lambda: rotate([]), "rotate's degrees"),
    (lambda: rotate([[1, 2]]), "rotate's degrees"),
])
def test_bad_values_are_named(make, words):
    with pytest.raises(UserError, match=words):
        make()
