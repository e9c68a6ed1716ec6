"""The losses against closed forms and numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import losses

LOGITS = np.float32(np.random.default_rng(0).normal(size=(5, 7)) * 3)
LABELS = np.int32([0, 3, 6, 2, 3])


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
