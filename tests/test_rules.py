"""The ReLU's backward rules, each against its formula, and whole networks against projections
written out in NumPy, with switches, unpooling and transposed filters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import layers, models
from cnnjax.errors import UserError
from cnnjax.images.rules import RULES, RULES6, with_rule

X = np.float32([[-2, -1, 0, 1], [-2, -1, -3, 0], [2, 1, 3, 4]])
G = np.float32([[5, -6, -7, -8], [1, -2, 3, -4], [1, -2, 0, 4]])


def back(relu, x=X, g=G):
    return jax.vjp(relu, x)[1](g)[0]


@pytest.mark.parametrize(('name', 'expected'), [
    ('gradient', [[0, 0, 0, -8], [0, 0, 0, 0], [1, -2, 0, 4]]),
    ('deconvnet', [[5, 0, 0, 0], [1, 0, 3, 0], [1, 0, 0, 4]]),
    ('guided', [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 4]]),
    # The second example is dead, so gradients that would raise x pass.
    ('redirected', [[0, 0, 0, -8], [0, -2, 0, -4], [1, -2, 0, 4]]),
])
def test_rules_by_hand(name, expected):
    np.testing.assert_array_equal(back(RULES[name]), expected)
    assert list(RULES) == list(RULES6) == ['gradient', 'deconvnet', 'guided', 'redirected']


def test_redirected_relu6_by_hand():
    """Above 6, what would lower x passes in a dead example."""
    x, g = np.float32([[7, 8, -1, -2], [7, 8, 3, -2]]), np.float32([[1, -2, 3, -4]] * 2)
    np.testing.assert_array_equal(back(RULES6['redirected'], x, g),
                                  [[1, 0, 0, -4], [0, 0, 3, 0]])


def test_redirected_per_example_is_over_all_pixels_and_channels():
    x = np.float32([-1, -1, -1, 2]).reshape(1, 2, 1, 2)
    g = np.float32([-3, 3, -3, 1]).reshape(1, 2, 1, 2)
    x, g = np.concatenate([x, -abs(x)]), np.concatenate([g, g])
    np.testing.assert_array_equal(back(RULES['redirected'], x, g).reshape(2, 4),
                                  [[0, 0, 0, 1], [-3, 0, -3, 0]])


@pytest.mark.parametrize('name', RULES)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_the_forward_pass_is_the_relu_bit_for_bit(name, dtype):
    x = jnp.asarray([-np.inf, -1, -1e-40, -0.0, 0, 1e-40, 1, 7, np.inf, np.nan], dtype)
    bits = f'uint{8 * x.dtype.itemsize}'
    for rules, relu in ((RULES, nn.relu), (RULES6, nn.relu6)):
        result = jax.jit(rules[name])(x)
        assert result.dtype == dtype
        np.testing.assert_array_equal(np.asarray(result).view(bits),
                                      np.asarray(jax.jit(relu)(x)).view(bits))
        assert back(rules[name], x, jnp.ones_like(x)).dtype == dtype


@pytest.mark.parametrize('rules', [RULES, RULES6], ids=['relu', 'relu6'])
@pytest.mark.parametrize('name', RULES)
def test_vmap_and_jit_change_nothing(rules, name):
    """Images of one, mapped, are the batch: no example sees another."""
    x, g = np.random.default_rng(0).normal(0, 4, (2, 5, 3, 3, 2)).astype(np.float32)
    x[:2] = -abs(x[:2])
    one = jax.jit(jax.vmap(lambda x, g: back(rules[name], x[None], g[None])[0]))
    expected = back(rules[name], x, g)
    np.testing.assert_array_equal(one(x, g), expected)
    assert np.isfinite(expected).all()
    assert np.any(expected)


def vgg11():
    return models.create('vgg11', num_classes=5, widths=(4, 4, 6, 6, 6), hidden=())


def alexnet_tv():
    """Overlapping pools, a stride of four."""
    return models.create('alexnet_tv', num_classes=5, widths=(4, 6, 6, 6, 4), hidden=(7,))


def random_variables(net, images):
    """He's standard deviation, and biases, which keep half of the units alive."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda p: (rng.normal(size=p.shape) * (0.1 if len(p.shape) == 1 else
                                               np.sqrt(2 / p.size * p.shape[-1])))
        .astype(np.float32), jax.eval_shape(net.init, jax.random.key(0), images))


def operations(net):
    """[(tap, kind, (kernel's size, stride, padding))] in forward order."""
    if type(net).__name__ == 'VGG':
        for i, kernels in enumerate(net.groups, 1):
            for j, size in enumerate(kernels, 1):
                yield from ((f'conv{i}_{j}', 'conv', (size, 1, size // 2)),
                            (f'relu{i}_{j}', 'relu', ()))
            yield f'pool{i}', 'pool', (2, 2, 0)
    else:
        for i, size in enumerate((11, 5, 3, 3, 3), 1):
            yield from ((f'conv{i}', 'conv', (size, 4, 2) if i == 1 else (size, 1, size // 2)),
                        (f'relu{i}', 'relu', ()))
            if i in (1, 2, 5):
                yield f'pool{i}', 'pool', (3, 2, 0)


def windows(image, size, stride):
    """[H, W, C] -> [H', W', C, size, size], a view; written to, it scatters."""
    view = np.lib.stride_tricks.sliding_window_view(image, (size, size), (0, 1), writeable=True)
    return view[::stride, ::stride]


def forward(net, params, image):
    """The taps up to the last pool, the inputs of all operations and the pools' switches, [H, W,
    C]: of each window the first place, row by row, that holds the maximum."""
    taps, inputs, switches, x = {}, {}, {}, np.float64(image)
    for name, kind, (size, stride, padding) in (
            (name, kind, numbers or (0, 0, 0)) for name, kind, numbers in operations(net)):
        inputs[name] = x
        if kind == 'conv':
            kernel, bias = (np.float64(params[name][key]) for key in ('kernel', 'bias'))
            padded = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
            x = np.einsum('hwcij,ijco->hwo', windows(padded, size, stride), kernel) + bias
        elif kind == 'relu':
            x = np.maximum(x, 0)
        else:
            patches = windows(x, size, stride)
            patches = patches.reshape(*patches.shape[:3], -1)
            switches[name] = patches.argmax(-1)
            x = patches.max(-1)
        taps[name] = x
    return taps, inputs, switches


def project(net, params, image, tap, unit, rule):
    """From one unit down to the image: unpool with the switches, rectify, transposed filters."""
    taps, inputs, switches = forward(net, params, image)
    g = np.zeros_like(taps[tap])
    g[unit] = 1
    steps = list(operations(net))
    last = [name for name, *_ in steps].index(tap)
    for name, kind, numbers in reversed(steps[:last + 1]):
        x = inputs[name]
        if kind == 'relu':
            if rule in ('deconvnet', 'guided'):
                g = np.maximum(g, 0)
            if rule in ('gradient', 'guided'):
                g = g * (x > 0)
            continue
        size, stride, padding = numbers
        lower = np.zeros((x.shape[0] + 2 * padding, x.shape[1] + 2 * padding, x.shape[2]))
        for row, column in np.ndindex(g.shape[:2]):
            top, left = row * stride, column * stride
            patch = lower[top:top + size, left:left + size]
            if kind == 'conv':
                patch += np.einsum('ijco,o->ijc', np.float64(params[name]['kernel']),
                                   g[row, column])
            else:
                i, j = np.divmod(switches[name][row, column], size)
                patch[i, j, np.arange(x.shape[2])] += g[row, column]
        g = lower[padding:padding + x.shape[0], padding:padding + x.shape[1]]
    return g


@pytest.mark.parametrize('rule', ['gradient', 'deconvnet', 'guided'])
@pytest.mark.parametrize(('create', 'side', 'tap'), [
    (vgg11, 35, 'conv3_2'), (vgg11, 35, 'relu4_2'), (vgg11, 35, 'pool5'),
    (alexnet_tv, 67, 'conv3'), (alexnet_tv, 67, 'pool5'),
])
def test_the_projection_with_switches(create, side, tap, rule):
    """Most windows behind a ReLU hold several zeros, so that ties are in it, too."""
    net = create()
    image = np.random.default_rng(0).random((side, side, 3), np.float32)
    variables = random_variables(net, image[None])
    taps, *_ = forward(net, variables['params'], image)
    unit = np.unravel_index(taps[tap].argmax(), taps[tap].shape)
    expected = project(net, variables['params'], image, tap, unit, rule)

    net = net.clone(relu=RULES[rule])
    value, gradient = jax.jit(jax.value_and_grad(
        lambda image: net.apply(variables, image[None])[1][tap][0][unit]))(image)
    np.testing.assert_allclose(value, taps[tap].max(), rtol=1e-5)
    assert abs(expected).max() > 0
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6 * abs(expected).max())


def test_ties_of_a_pool_go_to_the_first():
    x = np.zeros((1, 4, 4, 1), np.float32)
    gradient = jax.grad(lambda x: layers.max_pool(x, 2, 2).sum())(x)
    expected = np.zeros((4, 4))
    expected[::2, ::2] = 1
    np.testing.assert_array_equal(gradient[0, ..., 0], expected)


def test_redirected_starts_where_the_gradient_is_blocked():
    """A dead network: the gradient is zero, the redirected one raises the unit's input."""
    net = models.create('convnet', width=3, num_classes=2)
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    variables = random_variables(net, images)
    variables['params']['conv']['bias'] -= 100

    def gradient(net):
        return jax.jit(jax.grad(
            lambda images: -net.apply(variables, images)[1]['relu'][..., 1].mean()))(images)

    assert not np.any(gradient(net))
    redirected = gradient(with_rule(net, 'redirected'))
    before, after = (net.apply(variables, images)[1]['conv'][..., 1].mean((1, 2))
                     for images in (images, images - 100 * redirected))
    assert (after > before + 0.1).all()


def test_with_rule_takes_the_networks_own_relu():
    net = models.create('mobilenet_v1', relu=nn.relu6)
    assert with_rule(net, 'guided').relu is RULES6['guided']
    assert with_rule(with_rule(net, 'guided'), 'gradient') == net
    assert with_rule(vgg11(), 'deconvnet') == vgg11().clone(relu=RULES['deconvnet'])
    for net in (nn.Dense(3), models.create('vgg11', relu=nn.tanh)):
        assert with_rule(net, 'gradient') is net


@pytest.mark.parametrize(('net', 'name', 'message'), [
    (nn.Dense(3), 'guided', 'Dense has no ReLUs'),
    (models.create('vgg11', relu=nn.tanh), 'guided', 'VGG has the activation .*tanh'),
    (models.create('vgg11'), 'deconv', "'deconv'; there are gradient, .* mean deconvnet"),
    (models.create('vgg11'), None, "'None'; there are gradient, deconvnet"),
])
def test_what_has_no_rule_is_refused(net, name, message):
    with pytest.raises(UserError, match=message):
        with_rule(net, name)


@pytest.mark.parametrize('name', ['deconvnet', 'guided', 'redirected'])
def test_there_is_no_forward_mode(name):
    with pytest.raises(TypeError, match='custom_vjp'):
        jax.jvp(RULES[name], (X,), (G,))
