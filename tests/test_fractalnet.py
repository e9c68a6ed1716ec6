"""FractalNet against its expansion rule in numpy, and the statistics of drop-path."""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cnnjax import losses, models
from cnnjax.errors import UserError
from cnnjax.models import fractalnet

IMAGES = np.float32(np.random.default_rng(0).normal(size=(6, 8, 8, 3)))
LABELS = np.int32([0, 1, 2, 3, 4, 0])


def create(columns=3, widths=(3, 4), **fields):
    """A narrow fractal without dropout."""
    fields = {'dropout': (0.0,) * len(widths), 'num_classes': 5, **fields}
    return models.create('fractalnet20', columns=columns, widths=widths, **fields)


def random_variables(net, x=IMAGES, seed=0):
    """Every parameter and statistic drawn at random, unlike those of `init`."""
    generator = np.random.default_rng(seed)

    def draw(path, array):
        if path[-1].key == 'var':
            return np.float32(generator.uniform(0.5, 2, array.shape))
        fan_in = np.prod(array.shape[:-1])  # 1 for a bias and a mean
        return np.float32(generator.normal(0, (2 / fan_in) ** 0.5, array.shape))

    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    return jax.tree_util.tree_map_with_path(draw, shapes)


def unit(variables, name, x, statistics):
    """Convolution, batch normalization, ReLU; by the batch's own statistics if None are named."""
    layer = variables['params'][name]['conv']
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = layer['bias'] + sum(padded[:, i:i + height, j:j + width] @ layer['kernel'][i, j]
                            for i, j in itertools.product(range(3), repeat=2))
    if statistics is None:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    else:
        mean, var = variables['batch_stats'][name][statistics].values()
    return np.maximum((x - mean) / np.sqrt(var + 1e-5), 0)


def max_pool(x):
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))


def average(values):
    return sum(values) / len(values)


def full_layer(variables, x):
    return x.reshape(len(x), -1) @ variables['params']['fc']['kernel'] \
        + variables['params']['fc']['bias']


def fractal(variables, columns, x=IMAGES, statistics='bn', join=average, last=None):
    """The logits by the rule f_1(z) = unit(z), f_{C+1}(z) = [f_C(f_C(z))] joined with [unit(z)]."""
    last = last or (lambda values: join([max_pool(value) for value in values]))
    blocks = len({name.split('_')[0] for name in variables['params']} - {'fc'})
    for b in range(1, blocks + 1):
        made = collections.Counter()

        def next_unit(column, z, b=b, made=made):
            made[column] += 1
            return unit(variables, f'block{b}_column{column}_unit{made[column]}', z, statistics)

        def expand(c, z, next_unit=next_unit):
            """f_c(z), its last join still open: the ends of the c deepest columns."""
            if c == 1:
                return [next_unit(columns, z)]
            return expand(c - 1, join(expand(c - 1, z))) + [next_unit(columns - c + 1, z)]

        x = last(expand(columns, x))
    return full_layer(variables, x)


def single_column(variables, column, blocks=2, statistics='bn_column'):
    x = IMAGES
    for b in range(1, blocks + 1):
        for i in range(1, 2 ** (column - 1) + 1):
            x = unit(variables, f'block{b}_column{column}_unit{i}', x, statistics)
        x = max_pool(x)
    return full_layer(variables, x)


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


def test_parameters():
    """Each column of a block has its own convolutions, which all change the width at once."""
    variables = jax.eval_shape(create().init, jax.random.key(0), IMAGES)
    shapes = {path: array.shape
              for path, array in traverse_util.flatten_dict(variables, sep='/').items()}
    expected = {'params/fc/kernel': (16, 5), 'params/fc/bias': (5,)}
    for (b, inputs, width), (c, i) in itertools.product(
            [(1, 3, 3), (2, 3, 4)], [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (3, 4)]):
        name = f'block{b}_column{c}_unit{i}'
        expected[f'params/{name}/conv/kernel'] = (3, 3, inputs if i == 1 else width, width)
        expected[f'params/{name}/conv/bias'] = (width,)
        for norm, statistic in itertools.product(('bn', 'bn_column'), ('mean', 'var')):
            expected[f'batch_stats/{name}/{norm}/{statistic}'] = (width,)
    assert shapes == expected


def test_the_defaults_are_the_papers():
    net = models.create('fractalnet20')
    assert (net.local_drop_path, net.global_drop_path) == (0.15, 0.5)
    assert net.dropout == (0.0, 0.1, 0.2, 0.3, 0.4)
    assert net.subnetworks == {f'column{c}': {'column': c} for c in (1, 2, 3)}


@pytest.mark.parametrize(('columns', 'widths'), [(1, (3, 4)), (2, (3, 4)), (3, (3, 4)), (4, (2,))])
def test_the_fractal_is_the_expansion_rule_with_equal_weights(columns, widths):
    net = create(columns, widths)
    variables = random_variables(net)
    logits, _ = jax.jit(net.apply)(variables, IMAGES)
    assert_close(logits, fractal(variables, columns))


def test_what_the_fractal_is_not():
    """Neighbouring joins one after the other, of weights 1/4, 1/4, 1/2; the pool after the join."""
    net = create()
    variables = random_variables(net)
    logits = fractal(variables, 3)
    nested = fractal(variables, 3, join=lambda values: functools.reduce(
        lambda a, b: (a + b) / 2, values))
    pooled_last = fractal(variables, 3, last=lambda values: max_pool(average(values)))
    for other in (nested, pooled_last):
        assert np.abs(other - logits).max() > 0.01


@pytest.mark.parametrize('column', [1, 2, 3])
def test_a_column_alone(column):
    net = create()
    variables = random_variables(net)
    logits, taps = jax.jit(functools.partial(net.apply, column=column))(variables, IMAGES)
    assert_close(logits, single_column(variables, column))
    units = [f'block{b}_column{column}_unit{i}'
             for b in (1, 2) for i in range(1, 2 ** (column - 1) + 1)]
    assert set(taps) == {*units, 'pool1', 'pool2', 'flatten', 'fc'}


@pytest.mark.parametrize(('changed', 'moves_the_fractal'), [('bn', True), ('bn_column', False)])
def test_the_fractal_and_its_columns_have_statistics_of_their_own(changed, moves_the_fractal):
    net = create(2, (3,))
    variables = random_variables(net)
    for statistics in variables['batch_stats'].values():
        assert set(statistics) == {'bn', 'bn_column'}
    other = {'params': variables['params'], 'batch_stats': {
        name: {**statistics, changed: jax.tree.map(lambda x: x + 1, statistics[changed])}
        for name, statistics in variables['batch_stats'].items()}}
    for column in (None, 1, 2):
        apply = jax.jit(functools.partial(net.apply, column=column))
        moved = (apply(variables, IMAGES)[0] != apply(other, IMAGES)[0]).any()
        assert moved == (moves_the_fractal == (column is None))


@pytest.mark.parametrize('column', [-1, 0, 4])
def test_a_column_that_does_not_exist(column):
    with pytest.raises(UserError, match=f'no column {column}; the columns are 1 to 3'):
        jax.eval_shape(functools.partial(create().init, column=column), jax.random.key(0), IMAGES)


def test_dropout_needs_a_rate_for_every_block():
    with pytest.raises(UserError, match=r'dropout has 1 rates for 2 blocks'):
        jax.eval_shape(create(dropout=(0.1,)).init, jax.random.key(0), IMAGES)


# Local drop-path: the numbers are 0.85 + 0.15^n / n and n times it.
KEYS = 40_000


@functools.cache
def draws(n, rate):
    return np.asarray(jax.jit(jax.vmap(lambda key: fractalnet.local_drop_path(key, n, rate)))(
        jax.random.split(jax.random.key(n), KEYS)))


@pytest.mark.parametrize(('n', 'survival', 'survivors'), [
    (2, 0.861250, 1.7225), (3, 0.851125, 2.553375), (4, 0.850127, 3.400506)])
def test_local_drop_path(n, survival, survivors):
    keep = np.float64(draws(n, 0.15))
    assert set(keep.ravel()) == {0.0, 1.0}
    assert keep.any(1).all()  # never all dropped
    error = (survival * (1 - survival) / KEYS) ** 0.5
    np.testing.assert_allclose(keep.mean(0), survival, rtol=0, atol=4 * error)
    counts = keep.sum(1)
    assert counts.mean() == pytest.approx(survivors, abs=4 * counts.std() / KEYS ** 0.5)
    # The inputs are dropped independently of one another.
    both = (keep[:, 0] * keep[:, 1]).mean()
    assert both == pytest.approx(0.85 ** 2, abs=4 * (0.7225 * 0.2775 / KEYS) ** 0.5)


@pytest.mark.parametrize('n', [2, 3, 4])
def test_the_input_that_is_restored_is_any(n):
    keep = draws(n, 1.0)
    assert (keep.sum(1) == 1).all()
    error = ((n - 1) / n ** 2 / KEYS) ** 0.5
    np.testing.assert_allclose(keep.mean(0), 1 / n, rtol=0, atol=4 * error)


def test_nothing_is_dropped_at_rate_zero():
    assert draws(3, 0.0).all()


@pytest.mark.parametrize('n', [2, 3])
def test_a_join_is_the_mean_of_its_survivors_forward_and_backward(n):
    net = create(local_drop_path=0.5)
    inputs = [jnp.float32([2.0 ** i, 3.0 ** i]) for i in range(n)]

    def join(inputs, key):
        return net.apply({}, inputs, True, method='join', rngs={'drop_path': key})

    keys = jax.random.split(jax.random.key(0), 200)
    values = jax.vmap(functools.partial(join, inputs))(keys)
    weights = jax.vmap(lambda key: jax.grad(lambda inputs: join(inputs, key)[0])(inputs))(keys)
    assert not any(array[:, 1].any() for array in weights)  # the gradient of the other component
    weights = np.stack([array[:, 0] for array in weights], 1)
    survivors = (weights > 0).sum(1, keepdims=True)
    np.testing.assert_allclose(weights, (weights > 0) / survivors, rtol=1e-6)
    assert len({tuple(row) for row in weights}) == 2 ** n - 1  # all combinations but none
    np.testing.assert_allclose(values, weights @ np.stack(inputs), rtol=1e-6)
    np.testing.assert_allclose(net.apply({}, inputs, False, method='join'), average(inputs),
                               rtol=1e-6)


# One training step of a fractal in which both kinds of drop-path are as likely.
NET = create(local_drop_path=0.5, global_drop_path=0.5)


@jax.jit
def train(variables, images, key):
    """The loss, the gradients, the features and the new statistics of a step."""
    def loss(params):
        (logits, taps), changed = NET.apply({**variables, 'params': params}, images, train=True,
                                            mutable=['batch_stats'], rngs={'drop_path': key})
        return losses.cross_entropy(logits, LABELS).mean(), (taps, changed['batch_stats'])

    (value, (taps, statistics)), gradients = jax.value_and_grad(loss, has_aux=True)(
        variables['params'])
    return value, gradients, taps, statistics


def moved(before, after):
    """The paths 'block1_column1_unit1/bn' of the statistics that changed."""
    before, after = (traverse_util.flatten_dict(tree, sep='/') for tree in (before, after))
    paths = {path for path in before if (before[path] != after[path]).any()}
    assert {path.rpartition('/')[0] + '/var' for path in paths} <= paths  # mean and variance both
    return {path.rpartition('/')[0] for path in paths}


@functools.cache
def steps():
    """(the column that ran alone or None, key, step) of 60 steps, from the same parameters."""
    variables = random_variables(NET)
    units = list(variables['batch_stats'])
    kinds = {frozenset(f'{unit}/bn' for unit in units): None}
    kinds |= {frozenset(f'{unit}/bn_column' for unit in units if f'column{c}' in unit): c
              for c in (1, 2, 3)}
    rows = []
    for seed in range(60):
        key = jax.random.key(seed)
        step = train(variables, IMAGES, key)
        rows.append((kinds[frozenset(moved(variables['batch_stats'], step[3]))], key, step))
    return variables, rows


def steps_of(*columns):
    return [(key, step) for column, key, step in steps()[1] if column in columns]


def test_a_step_moves_the_statistics_of_what_it_computes_alone():
    """`steps` fails on any others than those of the fractal, or of one column."""
    assert {column for column, *_ in steps()[1]} == {None, 1, 2, 3}


def test_half_of_the_steps_are_global_and_columns_are_equally_likely():
    """Here 0.4 of them, to see that the field is obeyed."""
    net = create(widths=(1,), global_drop_path=0.4)
    x = IMAGES[:, :2, :2]
    variables = random_variables(net, x)

    def column_ran(key):
        _, changed = net.apply(variables, x, train=True, mutable=['batch_stats'],
                               rngs={'drop_path': key})
        return jnp.stack([(changed['batch_stats'][name]['bn_column']['mean']
                           != variables['batch_stats'][name]['bn_column']['mean']).any()
                          for name in (f'block1_column{c}_unit1' for c in (1, 2, 3))])

    keys = jax.random.split(jax.random.key(0), 4000)
    ran = np.asarray(jax.jit(lambda keys: jax.lax.map(column_ran, keys))(keys))
    assert ran.sum(1).max() == 1
    for shares, expected in ((ran.any(1).mean(), 0.4), (ran.mean(0), 0.4 / 3)):
        error = (expected * (1 - expected) / len(keys)) ** 0.5
        np.testing.assert_allclose(shares, expected, rtol=0, atol=4 * error)


@pytest.mark.parametrize('column', [1, 2, 3])
def test_a_global_step_is_the_column_alone_on_its_batch(column):
    variables, _ = steps()
    for _, (loss, _, taps, _) in steps_of(column):
        assert set(taps) == {'flatten', 'fc'}
        assert_close(taps['fc'], single_column(variables, column, statistics=None))
        assert_close(loss, losses.cross_entropy(taps['fc'], LABELS).mean())


def test_a_step_that_drops_nothing_is_the_whole_fractal_on_its_batch():
    net = NET.clone(local_drop_path=0.0, global_drop_path=0.0)
    variables, _ = steps()
    (logits, _), _ = jax.jit(functools.partial(net.apply, train=True, mutable=['batch_stats']))(
        variables, IMAGES, rngs={'drop_path': jax.random.key(0)})
    assert_close(logits, fractal(variables, 3, statistics=None))


@pytest.mark.parametrize('column', [1, 2, 3])
def test_a_global_step_computes_its_column_alone(column):
    """Forward and backward: what is not a number elsewhere has no effect, not even times zero."""
    variables, _ = steps()
    key, (loss, gradients, _, _) = steps_of(column)[0]
    own = {name for name in gradients if f'column{column}' in name or name == 'fc'}
    spoilt = {name: params if name in own else jax.tree.map(lambda x: np.nan * x, params)
              for name, params in variables['params'].items()}
    other_loss, other_gradients, _, statistics = train({**variables, 'params': spoilt}, IMAGES, key)
    assert jnp.isfinite(other_loss)
    assert other_loss == loss
    for name, gradient in other_gradients.items():
        assert gradient_is_zero(gradient) == (name not in own)
        for array, expected in zip(jax.tree.leaves(gradient), jax.tree.leaves(gradients[name]),
                                   strict=True):
            np.testing.assert_array_equal(array, expected)
    assert all(jnp.isfinite(array).all() for array in jax.tree.leaves(statistics))


def gradient_is_zero(gradient):
    """Exactly; that of a bias before batch normalization is zero but for rounding."""
    return not any(array.any() for array in jax.tree.leaves(gradient))


def test_every_join_draws_for_itself():
    """The shallowest column enters the last join of its block alone; dropped there, it gets no
    gradient. Over the steps, that happens in one block, the other, both and none."""
    seen = {tuple(gradient_is_zero(gradients[f'block{b}_column1_unit1']) for b in (1, 2))
            for _, (_, gradients, _, _) in steps_of(None)}
    assert seen == set(itertools.product((False, True), repeat=2))


def test_a_mini_batch_shares_its_subnetwork():
    variables, _ = steps()
    twice = np.concatenate([IMAGES[:3], IMAGES[:3]])
    features = [train(variables, twice, key)[2]['flatten'] for key, _ in steps_of(None)[:8]]
    for first, second in (np.split(array, 2) for array in features):
        np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-6)
    # Eight keys and at least two subnetworks; all 8 the same would be less than 1 in 10^6.
    assert any(np.abs(array - features[0]).max() > 0.01 for array in features)


def test_dropout_before_batch_norm_at_the_rate_of_the_block():
    """Kernels of 0 and biases of 1 make every convolution 1. Dropped out, it is 0 or
    1 / (1 - rate), of mean 1 and variance rate / (1 - rate): what batch normalization then sees.
    """
    rates, n = (0.1, 0.4), 64
    net = create(columns=1, widths=(8, 8), dropout=rates, global_drop_path=0.0)
    x = np.zeros((n, 16, 16, 1), np.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    variables = jax.tree_util.tree_map_with_path(
        lambda path, array: np.full(array.shape, path[-1].key == 'bias', np.float32), shapes)
    _, changed = jax.jit(functools.partial(net.apply, train=True, mutable=['batch_stats']))(
        variables, x, rngs={'dropout': jax.random.key(0), 'drop_path': jax.random.key(1)})
    for b, rate in enumerate(rates, 1):
        # They were 0 and are a tenth of the batch's, in each of 8 maps.
        statistics = changed['batch_stats'][f'block{b}_column1_unit1']['bn']
        samples = 8 * n * (32 >> b) ** 2
        variance = rate / (1 - rate)
        fourth = rate + (1 - rate) * variance ** 4  # moment about the mean
        for statistic, expected, spread in (('mean', 1, variance),
                                            ('var', variance, fourth - variance ** 2)):
            error = (spread / samples) ** 0.5
            assert 10 * statistics[statistic].mean() == pytest.approx(
                expected, abs=4 * error)
