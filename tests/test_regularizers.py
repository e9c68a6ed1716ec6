"""Regularizers against values computed by hand and against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.errors import UserError
from cnnjax.images.regularizers import FORMS, alpha_norm, in_units, total_variation, weighted

X = np.float32([[0, 1, 3], [2, 2, 0], [1, 5, 4]])[..., None]
PHOTO = np.float32(np.random.default_rng(0).random((5, 7, 3)))


@pytest.mark.parametrize(('form', 'beta', 'value'), [
    ('mahendran', 1.0, 21.077687), ('mahendran', 2.0, 66), ('mahendran', 6.0, 11370),
    ('nnpreimage', 2.0, 66 / 9),
    ('interior', 1.0, 9.077687), ('interior', 2.0, 24), ('interior', 6.0, 2448),
    ('johnson', 2.0, 12),
    # |differences|: 1 2 0 2 4 1 along the rows, 2 1 3 1 3 4 along the columns.
    ('neural-style-pt', 2.0, 24), ('gordicaleksa', 2.0, 24), ('tensorflow', 2.0, 24),
    ('anishathalye', 2.0, 26 / 6 + 40 / 6),
    # Means of squares with the border repeated: 9 along rows and columns, 16 on the diagonals.
    ('crowsonkb', 2.0, 2 * (26 / 9 / 3 + 40 / 9 / 3 + 70 / 16 / 12 + 80 / 16 / 12)),
])
def test_total_variation_by_hand(form, beta, value):
    np.testing.assert_allclose(total_variation(beta, form)(X), value, rtol=2e-7)


@pytest.mark.parametrize('form', FORMS)
def test_channels_add_up_or_average(form):
    variation = total_variation(form=form)
    channels = [variation(PHOTO[..., channel, None]) for channel in range(3)]
    whole = np.mean(channels) if form in ('anishathalye', 'crowsonkb') else np.sum(channels)
    np.testing.assert_allclose(variation(PHOTO), whole, rtol=1e-6)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('beta', [1.0, 2.0, 3.0])
def test_a_flat_image_has_no_variation_and_no_gradient(form, beta):
    if beta != 2 and form not in ('mahendran', 'nnpreimage', 'interior'):
        with pytest.raises(UserError, match=f"'{form}' has no exponent"):
            total_variation(beta, form)
        return
    variation = jax.jit(jax.value_and_grad(total_variation(beta, form)))
    for shape in ((4, 5, 3), (1, 5, 1), (4, 1, 1)):
        value, gradient = variation(np.ones(shape, np.float32))
        assert value == 0
        assert not np.any(gradient)


@pytest.mark.parametrize(('form', 'beta'), [*((form, 2.0) for form in FORMS), ('mahendran', 1.0),
                                            ('mahendran', 1.5), ('interior', 6.0)])
def test_gradient_is_the_difference_quotient(form, beta):
    with jax.enable_x64(True):
        image, direction = np.float64(PHOTO), np.random.default_rng(1).normal(size=PHOTO.shape)
        variation = jax.jit(total_variation(beta, form))
        slope = (variation(image + 1e-6 * direction) - variation(image - 1e-6 * direction)) / 2e-6
        gradient = np.asarray(jax.jit(jax.grad(variation))(image))
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-6)


def test_small_differences_have_an_exact_and_finite_gradient():
    """deep-goggle bounds the factor |difference|^-1; the exact slope of |difference| is 1."""
    gradient_of = jax.jit(jax.grad(total_variation(1.0)))
    for difference in (1e-3, 1e-12, 1e-18, 1e-21, 1e-30):
        gradient = np.asarray(gradient_of(np.float32([[[0.0], [difference]]])))
        slope = 1 if difference ** 2 > np.finfo(np.float32).tiny else 0
        np.testing.assert_allclose(gradient.ravel(), [-slope, slope], rtol=1e-6)


def test_second_derivative_of_beta_2_at_a_flat_image():
    """L-BFGS and Hessian products start at flat images: x^2 is curved there too."""
    image, direction = jnp.zeros((1, 2, 1)), jnp.float32([[[0.0], [1.0]]])
    product = jax.jvp(jax.grad(total_variation()), (image,), (direction,))[1]
    np.testing.assert_array_equal(product.ravel(), [-2, 2])


def test_alpha_norm():
    np.testing.assert_allclose(alpha_norm()(X), 20580)
    np.testing.assert_allclose(alpha_norm(1.0)(-X), X.sum())
    np.testing.assert_allclose(alpha_norm(3.0, vector=True)(PHOTO),
                               (np.linalg.norm(PHOTO, axis=-1) ** 3).mean(), rtol=1e-6)
    for norm in (alpha_norm(1.0), alpha_norm(1.0, vector=True), alpha_norm(6.0, vector=True)):
        assert not np.any(jax.jit(jax.grad(norm))(np.zeros((2, 2, 3), np.float32)))


def test_weighted_is_the_weighted_sum():
    both = weighted((2.0, total_variation()), (0.5, alpha_norm()))
    np.testing.assert_allclose(both(X), 2 * 66 + 0.5 * 20580)
    assert weighted()(X) == 0


def test_in_units_is_the_papers_image():
    mean = np.float32([0.2, 0.3, 0.4])
    caffe = 255 * (PHOTO - mean)
    for regularizer in (alpha_norm(), total_variation(1.0)):
        np.testing.assert_allclose(in_units(regularizer, mean)(PHOTO), regularizer(caffe),
                                   rtol=1e-5)
    np.testing.assert_allclose(in_units(total_variation(), scale=10)(PHOTO),
                               100 * total_variation()(PHOTO), rtol=1e-6)
    with pytest.raises(ValueError, match='broadcast'):
        in_units(alpha_norm(), mean)(X)


@pytest.mark.parametrize(('make', 'words'), [
    (lambda: total_variation(form='mahendra'), "form 'mahendra'.*mahendran, nnpreimage"),
    (lambda: total_variation(0.5), 'beta=0.5'),
    (lambda: total_variation(float('nan')), 'beta=nan'),
    (lambda: alpha_norm(0.5), 'alpha=0.5'),
])
def test_bad_values_are_named(make, words):
    with pytest.raises(UserError, match=words):
        make()
