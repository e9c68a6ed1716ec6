"""The losses against closed forms and numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import losses

LOGITS = np.float32(np.random.default_rng(0).normal(size=(5, 7)) * 3)
LABELS = np.int32([0, 3, 6, 2, 3])
# Two images of 2 x 2 pixels, three classes. The second has no pixel of class 2.
MAPS = np.float32([[[(2, 0, -1), (0, 1, 0)], [(-1, 0, 2), (.5, .5, 0)]],
                   [[(1, 1, 1), (3, -1, 0)], [(0, 2, 0), (0, 0, 1)]]])
MASKS = np.int32([[(0, 1), (2, 0)], [(1, 0), (1, 1)]])
ALL = np.ones_like(MASKS, bool)
SOME = ALL.copy()
SOME[0, 1, 0] = SOME[1, 0, 0] = False


def log_softmax(logits):
    logits = np.float64(logits)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_cross_entropy_of_a_known_probability():
    logits = jnp.log(jnp.array([[0.7, 0.3], [0.3, 0.7]]))
    np.testing.assert_allclose(losses.cross_entropy(logits, jnp.array([0, 1])), 0.35667494,
                               rtol=2e-7)


def test_cross_entropy_is_one_value_per_example():
    expected = -log_softmax(LOGITS)[range(5), LABELS]
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, LABELS), expected, rtol=1e-6)


@pytest.mark.parametrize('smoothing', [0.1, 1.0])
def test_label_smoothing(smoothing):
    """q'(k) = (1 - e) [k = y] + e / K, equation in section 7 of Szegedy et al."""
    targets = (1 - smoothing) * np.eye(7)[LABELS] + smoothing / 7
    expected = -(targets * log_softmax(LOGITS)).sum(-1)
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, LABELS, smoothing), expected, rtol=1e-6)


def test_the_gradient_of_cross_entropy_is_the_error_of_the_probabilities():
    gradient = jax.grad(lambda logits: losses.cross_entropy(logits, LABELS).sum())(LOGITS)
    expected = np.exp(log_softmax(LOGITS)) - np.eye(7)[LABELS]
    np.testing.assert_allclose(gradient, expected, atol=5e-7)


def test_cross_entropy_is_in_float32_whatever_the_logits_are():
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    values = losses.cross_entropy(logits, LABELS)
    assert values.dtype == jnp.float32
    np.testing.assert_array_equal(values,
                                  losses.cross_entropy(logits.astype(jnp.float32), LABELS))


def test_cross_entropy_of_large_logits_is_finite():
    logits = jnp.array([[1e4, 0], [0, 1e4]])
    np.testing.assert_array_equal(losses.cross_entropy(logits, jnp.array([0, 0])), [0, 1e4])


def differences(function, at, step=1e-6):
    """The gradient of a function in float64, by central differences."""
    at, gradient = np.float64(at), np.zeros(np.shape(at))
    for place in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[place] = step
        gradient[place] = (function(at + moved) - function(at - moved)) / (2 * step)
    return gradient


def focal_in_numpy(logits, labels, gamma):
    log_p = np.take_along_axis(log_softmax(logits), labels[..., None], -1)[..., 0]
    return -(1 - np.exp(log_p)) ** gamma * log_p


@pytest.mark.parametrize(('gamma', 'expected'), [(1, 0.360944), (2, 0.241778), (5, 0.088640)])
def test_golden_focal_losses(gamma, expected):
    assert float(losses.focal(MAPS, MASKS, gamma).mean()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('gamma', [0.5, 1.0, 2.0, 5.0])
def test_the_focal_loss_and_its_gradient(gamma):
    np.testing.assert_allclose(losses.focal(LOGITS, LABELS, gamma),
                               focal_in_numpy(LOGITS, LABELS, gamma), rtol=2e-5, atol=1e-12)
    gradient = jax.grad(lambda logits: losses.focal(logits, LABELS, gamma).sum())(LOGITS)
    expected = differences(lambda logits: focal_in_numpy(logits, LABELS, gamma).sum(), LOGITS)
    np.testing.assert_allclose(gradient, expected, atol=3e-6)


def test_without_gamma_the_focal_loss_is_cross_entropy():
    """Bit for bit, its gradient too."""
    for values, labels in ((LOGITS, LABELS), (MAPS, MASKS)):
        found, expected = (jax.value_and_grad(lambda x, loss=loss, y=labels: loss(x, y).sum())(
            values) for loss in (lambda x, y: losses.focal(x, y, 0.0), losses.cross_entropy))
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize('gamma', [0.0, 0.1, 0.5, 1.0, 2.0])
def test_the_focal_loss_of_large_logits_is_finite_and_so_is_its_gradient(gamma):
    """Where the probability rounds to 1, the power has an infinite slope if gamma is below 1."""
    logits = np.float32([[1e4, 0, 0], [0, 1e4, 0], [100, 0, 0], [20, 0, 0], [-1e30, 1e30, 0]])
    labels = np.zeros(5, int)
    values = losses.focal(logits, labels, gamma)
    np.testing.assert_allclose(values[:3], [0, 1e4, 0])
    gradient = jax.grad(lambda logits: losses.focal(logits, labels, gamma).sum())(logits)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[1], [-1, 1, 0], atol=2e-3)


def of_batch(sums):
    return sums.sum(0)


def dice_in_numpy(logits, labels, counts, squared=False, smoothing=1.0, axis=(1, 2)):
    """The losses of each class; the sums are over these axes."""
    p, t = np.exp(log_softmax(logits)), np.eye(logits.shape[-1])[labels]
    p, t = p * counts[..., None], t * counts[..., None]
    size = (p ** 2 + t ** 2 if squared else p + t).sum(axis)
    return 1 - (2 * (p * t).sum(axis) + smoothing) / (size + smoothing)


GOLDEN_DICE = [  # squared, smoothing, each class in the batch, their mean, mean of the images
    (False, 0.0, [0.287020, 0.416181, 0.502628], 0.401943, 0.451332),
    (False, 1.0, [0.246420, 0.360967, 0.388213], 0.331867, 0.296095),
    (True, 0.0, [0.125745, 0.277246, 0.256359], 0.219783, 0.306155),
    (True, 1.0, None, 0.171887, 0.150550)]


@pytest.mark.parametrize(('squared', 'smoothing', 'classes', 'mean', 'of_images'), GOLDEN_DICE)
def test_golden_dice_losses(squared, smoothing, classes, mean, of_images):
    variant = {'squared': squared, 'smoothing': smoothing}
    values, present = losses.dice_of_classes(MAPS, MASKS, ALL, total=of_batch, **variant)
    assert present.tolist() == [True, True, True]
    if classes:
        np.testing.assert_allclose(values, classes, atol=1e-6)
    every = {**variant, 'background': True, 'absent': True}
    whole = losses.dice(MAPS, MASKS, ALL, total=of_batch, **every)
    assert whole.shape == ()
    assert float(whole) == pytest.approx(mean, abs=1e-6)
    each = losses.dice(MAPS, MASKS, ALL, **every)
    assert each.shape == (2,)
    assert float(each.mean()) == pytest.approx(of_images, abs=1e-6)


def test_the_default_dice_is_over_the_foreground_that_an_image_has():
    values = dice_in_numpy(MAPS, MASKS, ALL)
    np.testing.assert_allclose(losses.dice(MAPS, MASKS, ALL),
                               [values[0, 1:].mean(), values[1, 1]], rtol=1e-6)
    np.testing.assert_allclose(losses.dice(MAPS, MASKS, ALL, background=True),
                               [values[0].mean(), values[1, :2].mean()], rtol=1e-6)
    np.testing.assert_allclose(losses.dice(MAPS, MASKS, ALL, absent=True),
                               values[:, 1:].mean(1), rtol=1e-6)


@pytest.mark.parametrize('squared', [False, True])
@pytest.mark.parametrize('axis', [(1, 2), (0, 1, 2)])
def test_gradients_of_dice_and_that_ignored_pixels_have_none(squared, axis):
    options = {'total': of_batch} if len(axis) == 3 else {}

    def loss(logits):
        return losses.dice(logits, MASKS, SOME, squared=squared, background=True, absent=True,
                           **options).sum()

    def expected(logits):
        return dice_in_numpy(logits, MASKS, SOME, squared, axis=axis).mean(-1).sum()

    value, gradient = jax.value_and_grad(loss)(MAPS)
    assert float(value) == pytest.approx(expected(MAPS), rel=1e-6)
    np.testing.assert_allclose(gradient, differences(expected, MAPS), atol=1e-7)
    assert not gradient[~SOME].any()


@pytest.mark.parametrize('smoothing', [0.0, 1.0])
@pytest.mark.parametrize(('mask', 'counts'), [(0, True), (1, False)])
def test_an_image_without_foreground_has_no_dice_and_no_gradient(smoothing, mask, counts):
    """Of background alone, or with no pixel that counts."""
    def loss(logits, **options):
        return losses.dice(logits, np.full_like(MASKS, mask), ALL & counts, smoothing=smoothing,
                           **options).sum()

    value, gradient = jax.value_and_grad(loss)(MAPS)
    assert float(value) == 0
    assert not gradient.any()
    gradient = jax.grad(functools.partial(loss, absent=True))(MAPS)
    assert np.isfinite(gradient).all()
    if counts and smoothing:  # then foreground is punished: its logits should fall
        assert (gradient[..., 1:].sum(-1) > 0).all()


def test_dice_is_in_float32_whatever_the_logits_are():
    value = losses.dice(jnp.asarray(MAPS, jnp.bfloat16), MASKS, ALL)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, losses.dice(MAPS, MASKS, ALL), rtol=0.01)


@pytest.mark.parametrize(('beta', 'expected'), [
    (1.0, [1.5, .125, 0, .125, .5, 2.5]),
    (1 / 9, [2 - 1 / 18, .5 - 1 / 18, 0, .5 - 1 / 18, 1 - 1 / 18, 3 - 1 / 18])])
def test_golden_smooth_l1_losses_and_their_gradients(beta, expected):
    x = np.float32([-2, -.5, 0, .5, 1, 3])
    np.testing.assert_allclose(losses.smooth_l1(x, beta), expected, rtol=1e-6)
    gradient = jax.grad(lambda x: losses.smooth_l1(x, beta).sum())(x)
    np.testing.assert_allclose(gradient, np.clip(x / beta, -1, 1), rtol=1e-6)
    assert losses.smooth_l1(jnp.asarray(x, jnp.bfloat16), beta).dtype == jnp.float32


@pytest.mark.parametrize('k', [1, 2, 5, 7, 8])
def test_top_k_error_equals_a_sort(k):
    best = np.argsort(-LOGITS)[:, :k]
    expected = [float(label not in row) for label, row in zip(LABELS, best, strict=True)]
    np.testing.assert_array_equal(losses.top_k_error(LOGITS, LABELS, k), expected)


def test_top_k_error_is_one_value_per_example_in_float32():
    errors = losses.top_k_error(jnp.asarray(LOGITS, jnp.bfloat16), LABELS)
    assert (errors.shape, errors.dtype) == ((5,), jnp.float32)


@pytest.mark.parametrize(('logits', 'errors'), [
    ([3, 2, 1, 0], [0, 0, 0, 0]),
    ([2, 3, 1, 0], [1, 0, 0, 0]),
    ([2, 2, 1, 0], [1, 0, 0, 0]),  # a tie for the first place counts as the second
    ([1, 1, 1, 1], [1, 1, 1, 0]),  # a constant output
    ([0, 1, 2, 3], [1, 1, 1, 0]),  # the last, but there are only four
    ([2, np.nan, 1, 0], [1, 0, 0, 0]),  # NaN counts as larger
    ([np.nan, 2, 1, 0], [1, 1, 1, 0]),
    ([np.nan] * 4, [1, 1, 1, 0]),
    ([np.inf] * 4, [1, 1, 1, 0]),
    ([0, -np.inf, -np.inf, -np.inf], [0, 0, 0, 0]),
])
def test_top_1_to_4_errors_of_the_first_class(logits, errors):
    logits = jnp.array([logits], jnp.float32)
    assert [float(losses.top_k_error(logits, jnp.array([0]), k)[0])
            for k in (1, 2, 3, 4)] == errors


# Several classes at once. The golden values are those of PyTorch's binary_cross_entropy_with_logits
# and of torchvision's sigmoid_focal_loss without alpha.
TAGS = np.random.default_rng(1).integers(0, 2, (5, 7))
POSITIVE = np.float32(np.arange(7) / 2 + 0.5)[None]


@pytest.mark.parametrize(('options', 'golden'), [
    ({}, 0.82215929), ({'positive': POSITIVE}, 1.35046840), ({'smoothing': 0.1}, 0.85680503)])
def test_binary_cross_entropy(options, golden):
    values = losses.binary_cross_entropy(LOGITS, TAGS, **options)
    assert values.shape == (5, 7)
    assert float(values.mean()) == pytest.approx(golden, rel=1e-6)


def test_binary_focal():
    assert float(losses.binary_focal(LOGITS, TAGS).mean()) == pytest.approx(0.48048046, rel=1e-6)
    np.testing.assert_allclose(losses.binary_focal(LOGITS, TAGS, 0.0, POSITIVE),
                               losses.binary_cross_entropy(LOGITS, TAGS, positive=POSITIVE),
                               rtol=1e-6)


@pytest.mark.parametrize('loss', [losses.binary_cross_entropy,
                                  functools.partial(losses.binary_focal, gamma=0.5)])
def test_losses_of_tags_are_finite_however_sure_the_network_is(loss):
    logits, tags = np.float32([[-1000, -1000, 1000, 1000]]), np.uint8([[0, 1, 0, 1]])
    values, gradient = loss(logits, tags), jax.grad(lambda x: loss(x, tags).sum())(logits)
    np.testing.assert_allclose(values, [[0, 1000, 1000, 0]], atol=1e-6)
    assert np.isfinite(gradient).all()
    assert losses.binary_cross_entropy(jnp.bfloat16(logits), tags).dtype == jnp.float32
