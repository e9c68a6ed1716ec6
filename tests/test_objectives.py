"""Objectives against their authors' own formulas, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from cnnjax.errors import UserError
from cnnjax.images import objectives
from cnnjax.images.objectives import (
    CONTENT,
    GRAM,
    WASSERSTEIN,
    channel,
    content,
    direction,
    dream,
    logit,
    match,
    moments,
    neuron,
    relative,
    style,
)

RANDOM = np.random.default_rng(0)


def maps(height, width, channels):
    return np.float32(RANDOM.normal(size=(height, width, channels)) + 0.5)


A, B, OTHER = maps(4, 6, 3), maps(4, 6, 3), maps(5, 3, 3)
TAPS = {'conv1': A, 'conv2': maps(2, 3, 5), 'fc': maps(1, 1, 4)[0, 0]}


def total(objective, taps, aux=None):
    return float(sum(objective(taps, aux).values()))


def gradient(objective, tap, aux, layer='conv1'):
    """By the activations [h, w, C] of one layer."""
    def value(tap):
        return sum(objective({layer: tap}, aux).values())
    return np.asarray(jax.jit(jax.grad(value))(tap))


def targets(image, layer='conv1', regions=None):
    """aux['style'] of an image with these activations."""
    aux = {} if regions is None else {'maps': {layer: {'regions': regions}}}
    return moments([layer])({layer: image}, aux)


def gram(features):
    """F F^T of activations [h, w, C], unnormalized: G of Gatys et al. 2016, equation 3."""
    rows = np.float64(features).reshape(-1, features.shape[-1])
    return rows.T @ rows


# Channels, neurons, directions

def test_channel_and_neuron():
    aux = {'unit': 2}
    assert channel('conv1')(TAPS, aux)['channel'] == pytest.approx(-A[..., 2].mean())
    assert logit('fc')(TAPS, aux)['channel'] == pytest.approx(-TAPS['fc'][2])
    assert neuron('conv1')(TAPS, aux)['neuron'] == -A[2, 3, 2]  # the middle one
    assert neuron('conv1', (0, 5))(TAPS, aux)['neuron'] == -A[0, 5, 2]
    assert neuron('fc')(TAPS, aux)['neuron'] == -TAPS['fc'][2]
    with pytest.raises(UserError, match=r"position=\(4, 0\): layer 'conv1' has \(4, 6\)"):
        neuron('conv1', (4, 0))(TAPS, aux)


@pytest.mark.parametrize('power', [0, 1, 2])
def test_direction_is_lucids(power):
    """lucid/optvis/objectives.py, _dot_cossim; its epsilon of 1e-4 is smaller than ours."""
    d = np.float32([1.0, -0.5, 2.0])
    dot = A @ d
    cosine = dot / np.linalg.norm(A, axis=-1) / np.linalg.norm(d)
    expected = (dot * np.maximum(0.1, cosine) ** power).mean()
    found = direction('conv1', power)(TAPS, {'direction': d})['direction']
    assert float(found) == pytest.approx(-expected, rel=1e-5)


def test_the_direction_of_an_axis_is_its_channel():
    axis = np.float32([0, 1, 0])
    assert total(direction('conv1'), TAPS, {'direction': axis}) == pytest.approx(
        total(channel('conv1'), TAPS, {'unit': 1}), rel=1e-6)


@pytest.mark.parametrize('objective', [direction('conv1', 2), dream('conv1'), style(['conv1']),
                                       style(['conv1'], convention=WASSERSTEIN)])
def test_gradients_of_activations_that_are_zero_are_finite(objective):
    aux = {'direction': np.ones(3, np.float32), 'style': targets(OTHER)}
    assert np.isfinite(gradient(objective, np.zeros_like(A), aux)).all()


# Dreams

def test_the_gradient_of_a_dream_is_the_activation():
    np.testing.assert_array_equal(gradient(dream('conv1'), A, {}), -A)
    only = gradient(dream('conv1', channels=(0, 2)), A, {})
    np.testing.assert_array_equal(only, -A * np.float32([1, 0, 1]))


def test_a_dream_of_the_mean():
    np.testing.assert_allclose(gradient(dream('conv1', 'mean'), A, {}), -1 / A.size, rtol=1e-6)
    assert total(dream('conv1', 'mean', (1,)), TAPS) == pytest.approx(-A[..., 1].mean())


def test_a_guided_dream_is_googles():
    """objective_guide of the notebook: the gradient is the guide's code that matches best."""
    guide = np.float32(RANDOM.normal(size=(7, 3)))
    x = A.reshape(-1, 3).T
    y = guide.T
    expected = y[:, (x.T @ y).argmax(1)].T.reshape(A.shape)
    found = gradient(dream('conv1', 'guided'), A, {'guide': {'conv1': guide}})
    np.testing.assert_array_equal(found, -expected)
    found = gradient(dream('conv1', 'guided', (0, 1)), A, {'guide': {'conv1': guide}})
    best = guide[(A[..., :2] @ guide[:, :2].T).argmax(-1)] * np.float32([1, 1, 0])
    np.testing.assert_array_equal(found, -best)


def test_dreams_refuse():
    with pytest.raises(UserError, match="'l2', 'mean' or 'guided', not 'l3'"):
        dream('conv1', 'l3')
    with pytest.raises(UserError, match=r"channels=\(0, 3\): 'conv1' has the channels 0 to 2"):
        dream('conv1', channels=(0, 3))(TAPS)


# Codes

@pytest.mark.parametrize(('kind', 'expected'), [
    ('l2', ((A - B) ** 2).sum() / (B ** 2).sum()),
    ('l1', np.abs(A - B).sum() / np.abs(B).sum()),
    ('inner', -(A * B).sum() / (B ** 2).sum()),
])
def test_match(kind, expected):
    aux = {'maps': {'conv1': {'code': B}}}
    assert total(match('conv1', kind), TAPS, aux) == pytest.approx(expected, rel=1e-5)
    at_target = gradient(match('conv1', kind), B, aux)
    assert np.isfinite(at_target).all()
    if kind != 'inner':
        assert not at_target.any()  # a distance of 0 pulls nowhere


def test_match_of_a_full_layer_and_of_a_code_of_zeros():
    code = np.ones(4, np.float32)
    found = match('fc', term='error')(TAPS, {'maps': {'fc': {'code': code}}})
    assert float(found['error']) == pytest.approx(((TAPS['fc'] - 1) ** 2).sum() / 4, rel=1e-5)
    zeros = {'maps': {'conv1': {'code': np.zeros_like(A)}}}
    assert total(match('conv1'), {'conv1': np.zeros_like(A)}, zeros) == 0


def test_match_refuses():
    with pytest.raises(UserError, match="l2, l1, inner, not 'l3'"):
        match('conv1', 'l3')


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
    root = objectives._square_root
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


# Algebra

def test_sums_and_multiples():
    aux = {'unit': 1, 'maps': {'conv1': {'content': B}}, 'style': targets(OTHER)}
    a, b = content(['conv1']), style(['conv1'])
    both = 2.0 * a + b * 3
    found = both(TAPS, aux)
    assert list(found) == ['content', 'style']
    assert float(found['content']) == pytest.approx(2 * total(a, TAPS, aux))
    assert float(found['style']) == pytest.approx(3 * total(b, TAPS, aux))
    assert total(np.float32(0.5) * both, TAPS, aux) == pytest.approx(total(both, TAPS, aux) / 2)
    twice = (a + a * 4)(TAPS, aux)
    assert list(twice) == ['content']
    assert float(twice['content']) == pytest.approx(5 * total(a, TAPS, aux))
    mixed = a + 2 * dream('conv2') + dream('conv1')
    assert mixed.layers == ('conv1', 'conv2')
    assert mixed.tileable
    assert not (mixed + neuron('conv1')).tileable


def test_relative():
    scale = {'conv1': np.float32(4), 'conv2': np.float32(2)}
    aux = {'maps': {'conv1': {'content': B}}, 'scale': scale}
    assert total(relative(content(['conv1'])), TAPS, aux) == pytest.approx(
        ((A / 4 - B) ** 2).mean(), rel=1e-5)
    found = relative(3 * dream('conv1') + dream('conv2'))(TAPS, aux)
    assert float(found['dream']) == pytest.approx(
        -3 * (A**2).sum() / 32 - (TAPS['conv2'] ** 2).sum() / 8, rel=1e-5)
    assert not relative(neuron('conv1')).tileable


def test_errors_name_the_input():
    with pytest.raises(UserError, match="layer 'conv3' is not in the network.*did you mean conv"):
        dream('conv3')(TAPS)
    with pytest.raises(UserError, match='it has conv1, conv2, fc '):
        dream('zzz')(TAPS)
    with pytest.raises(UserError, match='3 weights for 2 layers: conv1, conv2'):
        style(['conv1', 'conv2'], [1, 2, 3])
    with pytest.raises(UserError, match='at least one layer'):
        content([])
    with pytest.raises(UserError, match="a style has the conventions .*wasserstein, not 'gram'"):
        style(['conv1'], convention='gram')
    with pytest.raises(UserError, match="a content has the conventions .*, not 'l7'"):
        content(['conv1'], convention='l7')
