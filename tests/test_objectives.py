"""Objectives against their authors' own formulas, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.errors import UserError
from cnnjax.images.neural_style import WASSERSTEIN, content, moments, style
from cnnjax.images.objectives import (
    channel,
    direction,
    diverse,
    diversity,
    dream,
    each,
    logit,
    match,
    neuron,
    peaks,
    relative,
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


@pytest.mark.parametrize('sign', [1, -1])
def test_peaks_count_the_better_places_more(sign):
    aux, values = {'unit': 1}, A[..., 1]
    weights = np.exp(sign * values / values.std())
    weights /= weights.sum()
    found = float(peaks('conv1', sign)(TAPS, aux)['peaks'])
    assert found == pytest.approx(-sign * (weights * values).sum(), rel=1e-4)
    assert -found > sign * values.mean()
    slope = gradient(peaks('conv1', sign), A, aux)
    np.testing.assert_allclose(slope[..., 1], -sign * weights, rtol=1e-4)
    assert not slope[..., [0, 2]].any()
    assert float(peaks('fc', sign)(TAPS, aux)['peaks']) == pytest.approx(-sign * TAPS['fc'][1])


def test_each_is_the_mean_over_a_stack():
    stack = np.stack([A, B])
    aux = {'unit': 2, 'scale': {'conv1': 4.0}}
    found = each(relative(channel('conv1')) + neuron('conv1'))({'conv1': stack}, aux)
    assert found['channel'] == pytest.approx(-stack[..., 2].mean() / 4)
    assert found['neuron'] == pytest.approx(-stack[:, 2, 3, 2].mean())
    full = each(logit('fc'))({'fc': np.float32([[1, 2], [3, 5]])}, {'unit': 1})
    assert full['channel'] == pytest.approx(-3.5)


def test_diversity_is_lucids():
    """lucid/optvis/objectives.py, diversity: the sum over i and j != i of cosines, over their
    number."""
    stack = np.stack([A, B, 2 * A])
    grams = np.stack([np.einsum('hwc,hwd->cd', image, image) for image in stack])
    grams /= np.linalg.norm(grams, axis=(1, 2), keepdims=True)
    expected = sum((grams[i] * grams[j]).sum() for i in range(3) for j in range(3) if i != j) / 3
    assert float(diversity('conv1')({'conv1': stack})['diversity']) == pytest.approx(expected)
    dead = np.stack([A, 0 * A])
    assert np.isfinite(gradient(diversity('conv1'), dead, {})).all()


def test_an_image_in_which_the_unit_is_dead_does_not_move_for_diversity():
    """The others do, and each by the gradient of its own value: it moves away from them, not they
    from it."""
    stack, weight = np.stack([A, B, A[::-1]]), 0.5
    stack[2, ..., 1] = -1  # in this image the unit is dead

    def relu(taps):
        return {'conv1': jnp.maximum(taps, 0)}

    def value(image, others):
        grams = [jnp.einsum('hwc,hwd->cd', each, each).ravel() for each in (image, *others)]
        grams = [gram / jnp.sqrt((gram**2).sum() + 1e-10) for gram in grams]
        alike = sum(grams[0] @ other for other in grams[1:]) / len(others)
        return -(1 - weight * alike) * image[..., 1].mean()

    taps, aux = np.maximum(stack, 0), {'unit': 1}
    expected = [value(taps[i], np.delete(taps, i, 0)) for i in range(3)]
    objective = diverse(channel('conv1'), 'conv1', weight)
    assert float(objective({'conv1': taps}, aux)['channel']) == pytest.approx(np.mean(expected))
    found = jax.grad(lambda x: objective(relu(x), aux)['channel'])(jnp.asarray(stack))
    for i in range(3):
        own = jax.grad(lambda x, i=i: value(jnp.maximum(x, 0), np.delete(taps, i, 0)) / 3)(
            jnp.asarray(stack[i]))
        np.testing.assert_allclose(found[i], own, rtol=1e-4, atol=1e-7)
    assert np.abs(found[:2]).max(axis=(1, 2, 3)).min() > 0
    assert not found[2].any()


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


def test_the_logarithm_of_a_dream_has_the_direction_of_l2_at_any_scale():
    direction = -2 * A / (A ** 2).sum()
    for scale in (1, 100):
        found = gradient(dream('conv1', 'log'), scale * A, {})
        np.testing.assert_allclose(found, direction / scale, rtol=1e-5)
    assert total(dream('conv1', 'log', (1,)), TAPS) == pytest.approx(
        -np.log((A[..., 1] ** 2).mean()), rel=1e-5)
    assert not gradient(dream('conv1', 'log'), 0 * A, {}).any()  # dead, but finite


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
    with pytest.raises(UserError, match="'l2', 'log', 'mean' or 'guided', not 'l3'"):
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
