"""Style transfer's objectives against their authors' own formulas, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from cnnjax.errors import UserError
from cnnjax.images import neural_style
from cnnjax.images.neural_style import CONTENT, GRAM, WASSERSTEIN, content, moments, style
from tests.test_objectives import OTHER, TAPS, A, B, gradient, maps, targets, total


def gram(features):
    """F F^T of activations [h, w, C], unnormalized: G of Gatys et al. 2016, equation 3."""
    rows = np.float64(features).reshape(-1, features.shape[-1])
    return rows.T @ rows


# Content

# Two channels at four positions, from the lecture notes' definitions by hand.
F = np.float32([[1, 2, 0, 1], [0, 1, 1, 3]]).T.reshape(2, 2, 2)
P = np.float32([[0, 1, 1, 1], [2, 0, 1, 1]]).T.reshape(2, 2, 2)


@pytest.mark.parametrize(('convention', 'value'), [
    ('gatys2016', 6), ('mean', 12 / 8), ('distance', 12**0.5), ('half_distance', 1.7320508),
    ('scaled', 12 / 8),  # the absolute differences add up to 8, too
])
def test_content_by_hand(convention, value):
    aux = {'maps': {'conv1': {'content': P}}}
    found = content(['conv1'], convention=convention)({'conv1': F}, aux)
    assert float(found['content']) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(('convention', 'formula'), [
    ('gatys2016', lambda f, p: 0.5 * ((f - p) ** 2).sum()),
    ('mean', lambda f, p: ((f - p) ** 2).mean()),
    ('scaled', lambda f, p: ((f - p) ** 2).sum() / (np.abs(f - p).sum() + 1e-8)),
    ('distance', lambda f, p: np.linalg.norm((f - p).ravel())),
    ('half_distance', lambda f, p: np.linalg.norm((f - p).ravel()) / 2),
])
def test_content_is_its_authors(convention, formula):
    aux = {'maps': {'conv1': {'content': B}}}
    assert total(content(['conv1'], convention=convention), TAPS, aux) == pytest.approx(
        formula(np.float64(A), B), rel=1e-5)
    assert np.isfinite(gradient(content(['conv1'], convention=convention), A, aux)).all()
    assert not gradient(content(['conv1'], convention=convention), B, aux).any()


def test_the_gradient_of_the_scaled_content_is_of_size_one():
    """crowsonkb's remark on the loss: 'its gradient L1 norm is approximately 1'."""
    aux = {'maps': {'conv1': {'content': B}}}
    found = np.abs(gradient(content(['conv1'], convention='scaled'), A, aux)).sum()
    assert 0.5 < found < 2


def test_layers_are_weighted():
    aux = {'maps': {name: {'content': 0 * tap} for name, tap in TAPS.items()}}
    squares = [(TAPS[name] ** 2).mean() for name in ('conv1', 'conv2')]
    assert total(content(['conv1', 'conv2']), TAPS, aux) == pytest.approx(np.mean(squares))
    assert total(content(['conv1', 'conv2'], [3, 0.5]), TAPS, aux) == pytest.approx(
        3 * squares[0] + squares[1] / 2)
    assert total(content(['fc']), TAPS, aux) == pytest.approx((TAPS['fc'] ** 2).mean())


# Style

@pytest.mark.parametrize(('convention', 'value'), [
    ('gatys2016', 0.203125), ('note3', 0.8125), ('note4', 3.25),
    ('tensorflow', 0.8125), ('gordicaleksa', 0.8125), ('neural-style', 0.203125),
    ('anishathalye', 0.203125), ('gatys-notebook', 0.203125),
])
def test_style_by_hand(convention, value):
    """The Grams differ by squares of 52 in all; 4 N^2 M^2 = 256, (N M)^2 = 64, 2 N M = 16."""
    found = style(['conv1'], convention=convention)({'conv1': F}, {'style': targets(P)})
    assert float(found['style']) == pytest.approx(value, rel=1e-6)


# Of activations f [h, w, C] and s [h', w', C]; each as its authors write it.
AUTHORS = {
    # Equation 4, with the Gram matrix of each image over its own M.
    'gatys2016': lambda f, s, n, m, k: ((gram(f) / m - gram(s) / k) ** 2).sum() / (4 * n**2),
    # neural_style.lua: gram:div(input:nElement()), nn.MSECriterion
    'neural-style': lambda f, s, n, m, k: ((gram(f) / f.size - gram(s) / s.size) ** 2).mean(),
    # stylize.py: gram / size, 2 * tf.nn.l2_loss(gram - style_gram) / style_gram.size
    'anishathalye': lambda f, s, n, m, k: (
        2 * ((gram(f) / f.size - gram(s) / s.size) ** 2).sum() / 2 / n**2),
    # NeuralStyleTransfer.ipynb: G.div_(h*w), nn.MSELoss, weights 1e3 / n**2
    'gatys-notebook': lambda f, s, n, m, k: (
        1e3 / n**2 * ((gram(f) / m - gram(s) / k) ** 2).mean() / 1e3),
    # gram /= ch * h * w, MSELoss(reduction='sum')
    'gordicaleksa': lambda f, s, n, m, k: ((gram(f) / f.size - gram(s) / s.size) ** 2).sum(),
    # gram_matrix / num_locations, tf.reduce_mean of the squares
    'tensorflow': lambda f, s, n, m, k: ((gram(f) / m - gram(s) / k) ** 2).mean(),
    'note3': lambda f, s, n, m, k: ((gram(f) / m - gram(s) / k) ** 2).sum() / n**2,
    'note4': lambda f, s, n, m, k: ((gram(f) - gram(s) * m / k) ** 2).sum() / (2 * n * m),
    # ScaledMSELoss of F F^T / HW
    'scaled': lambda f, s, n, m, k: (
        ((gram(f) / m - gram(s) / k) ** 2).sum()
        / (np.abs(gram(f) / m - gram(s) / k).sum() + 1e-8)),
}


def test_every_convention_is_tested():
    assert set(AUTHORS) == set(GRAM)
    assert set(CONTENT) == {'gatys2016', 'mean', 'scaled', 'distance', 'half_distance'}


@pytest.mark.parametrize('convention', GRAM)
@pytest.mark.parametrize('image', [B, OTHER], ids=['same size', 'other size'])
def test_style_is_its_authors(convention, image):
    expected = AUTHORS[convention](A, image, 3, A[..., 0].size, image[..., 0].size)
    aux = {'style': targets(image)}
    assert total(style(['conv1'], convention=convention), TAPS, aux) == pytest.approx(
        expected, rel=2e-5)
    at_target = gradient(style(['conv1'], convention=convention), image, aux)
    # That of 'scaled' is of size one up to the target; at rounding errors from it, it is finite.
    np.testing.assert_allclose(at_target, 0, atol=10 if convention == 'scaled' else 1e-5)


def test_totals_of_the_systems_convert_into_each_other():
    """With D the mean square of the difference of Grams per position, of every layer."""
    taps = {'conv1': A, 'conv2': TAPS['conv2']}
    layers, other = list(taps), {'conv1': OTHER, 'conv2': maps(3, 3, 5)}
    aux = {'style': moments(layers)(other)}
    n = np.array([3, 5])
    d = np.array([((gram(taps[layer]) / taps[layer][..., 0].size
                    - gram(other[layer]) / other[layer][..., 0].size) ** 2).mean()
                  for layer in layers])
    for objective, expected in (
            (100 * style(layers, [1, 1], 'neural-style'), 100 * (d / n**2).sum()),
            (500 * style(layers, convention='anishathalye'), 500 / 2 * (d / n**2).sum()),
            (1e3 * style(layers, [1, 1], 'gatys-notebook'), 1e3 * (d / n**2).sum()),
            (3e4 * style(layers, convention='gordicaleksa'), 3e4 / 2 * d.sum()),
            (1e-2 * style(layers, convention='tensorflow'), 1e-2 / 2 * d.sum()),
            (style(layers), d.mean() / 4)):
        assert total(objective, taps, aux) == pytest.approx(expected, rel=2e-5)


def test_wasserstein_against_scipy():
    """StyleLossW2 of crowsonkb: means, covariances with 1e-4 on the diagonal, over the channels."""
    def moments_of(image):
        rows = np.float64(image).reshape(-1, 3)
        return rows.mean(0), np.cov(rows.T, bias=True) + 1e-4 * np.eye(3)

    (mean, covariance), (other, target) = moments_of(A), moments_of(OTHER)
    root = scipy.linalg.sqrtm(target)
    both = scipy.linalg.sqrtm(root @ covariance @ root)
    expected = (((mean - other) ** 2).mean()
                + np.diag(covariance + target - 2 * both).mean())
    aux = {'style': targets(OTHER)}
    objective = style(['conv1'], convention=WASSERSTEIN)
    assert total(objective, TAPS, aux) == pytest.approx(expected, rel=1e-4)
    assert abs(total(objective, {'conv1': OTHER}, aux)) < 1e-5
    np.testing.assert_allclose(gradient(objective, OTHER, aux), 0, atol=1e-4)


def test_the_root_of_a_matrix_of_equal_eigenvalues_has_a_gradient():
    identity = np.eye(4, dtype=np.float32)
    root = neural_style._square_root
    np.testing.assert_allclose(root(4 * identity), 2 * identity, rtol=1e-5)
    # d trace(M^1/2) = M^-1/2 / 2
    found = jax.jit(jax.grad(lambda matrix: jnp.trace(root(matrix))))(4 * identity)
    np.testing.assert_allclose(found, identity / 4, atol=1e-5)


def test_regions_are_losses_of_their_own():
    regions = np.zeros((4, 6, 2), np.float32)
    regions[:, :2, 0] = regions[:, 2:, 1] = 1
    others = np.zeros((5, 3, 2), np.float32)
    others[:3, :, 0] = others[3:, :, 1] = 1
    for convention in (*GRAM, WASSERSTEIN):
        aux = {'style': targets(OTHER, regions=others), 'maps': {'conv1': {'regions': regions}}}
        expected = [total(style(['conv1'], convention=convention), {'conv1': part},
                          {'style': targets(image)})
                    for part, image in ((A[:, :2], OTHER[:3]), (A[:, 2:], OTHER[3:]))]
        found = total(style(['conv1'], convention=convention), TAPS, aux)
        assert found == pytest.approx(expected[0] / 3 + expected[1] * 2 / 3, rel=1e-4), convention


def test_a_region_without_pixels_changes_nothing():
    empty = np.stack([np.ones((4, 6)), np.zeros((4, 6))], -1).astype(np.float32)
    both = np.ones((5, 3, 2), np.float32)
    for convention in ('gatys2016', WASSERSTEIN):
        objective = style(['conv1'], convention=convention)
        aux = {'style': targets(OTHER, regions=both), 'maps': {'conv1': {'regions': empty}}}
        assert total(objective, TAPS, aux) == pytest.approx(
            total(objective, TAPS, {'style': targets(OTHER)}), rel=1e-5)
        assert np.isfinite(gradient(objective, A, aux)).all()


def test_errors_name_the_input():
    with pytest.raises(UserError, match='3 weights for 2 layers: conv1, conv2'):
        style(['conv1', 'conv2'], [1, 2, 3])
    with pytest.raises(UserError, match='at least one layer'):
        content([])
    with pytest.raises(UserError, match="a style has the conventions .*wasserstein, not 'gram'"):
        style(['conv1'], convention='gram')
    with pytest.raises(UserError, match="a content has the conventions .*, not 'l7'"):
        content(['conv1'], convention='l7')
