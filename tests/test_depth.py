"""The costs of depth: stochastic depth, scan over blocks, rematerialization."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import Mesh, PartitionSpec

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import resnet

FIELDS = {'blocks': (2, 1, 3), 'widths': (2, 3, 4), 'num_classes': 4}
NAMES = ('resnet20', 'resnext29_8x64d', 'preact_resnet110', 'preact_resnet164', 'seresnet50')
IMAGES = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype('float32')
BLOCKS = [f'conv{i}_{j}' for i, n in zip((2, 3, 4), FIELDS['blocks'], strict=True)
          for j in range(1, n + 1)]


def create(name, **fields):
    own = {'resnext29_8x64d': {'cardinality': 2, 'base_width': 64},
           'seresnet50': {'stem': 3, 'shortcut': 'D', 'reduction': 4}}.get(name, {})
    return models.create(name, **FIELDS, **own, **fields)


@functools.cache
def variables_of(name):
    """Of the unrolled network, drawn by numpy: compiling the initializers takes seconds."""
    generator = np.random.default_rng(0)

    def draw(path, array):
        low, high = (0.5, 1.5) if path[-1].key in ('scale', 'var') else (-0.5, 0.5)
        return np.float32(generator.uniform(low, high, array.shape))

    shapes = jax.eval_shape(create(name).init, jax.random.key(0), IMAGES)
    return jax.tree_util.tree_map_with_path(draw, shapes)


def train(net, variables, key, images=IMAGES):
    """(logits, taps), and a tree of the gradients and the new statistics."""
    def loss(params):
        (logits, taps), changed = net.apply(
            {**variables, 'params': params}, images, train=True, mutable=['batch_stats'],
            rngs={'drop_path': key, 'dropout': key})
        return -jax.nn.log_softmax(logits)[:, 0].mean(), ((logits, taps), changed)

    gradients, (outputs, changed) = jax.grad(loss, has_aux=True)(variables['params'])
    return outputs, {'params': gradients, **changed}


@functools.cache
def step(net):
    return jax.jit(functools.partial(train, net))


def gates(net, key):
    """Which blocks a training step with `key` computes, by name, from their batch statistics."""
    variables = variables_of('resnet20')
    _, tree = step(net)(variables, key)
    return {block: bool((tree['batch_stats'][block]['bn2']['mean']
                         != variables['batch_stats'][block]['bn2']['mean']).any())
            for block in BLOCKS}


def assert_trees_close(ours, theirs, tolerance=1e-5):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for path, value in traverse_util.flatten_dict(ours, sep='/').items():
        other = traverse_util.flatten_dict(theirs, sep='/')[path]
        np.testing.assert_allclose(value, other, rtol=tolerance, atol=tolerance, err_msg=path)


@pytest.mark.parametrize(('rule', 'blocks', 'survival', 'expected'), [
    ('linear', 54, 0.5, {1: 0.990741, 27: 0.75, 54: 0.5}),
    ('uniform', 54, 0.5, {1: 0.5, 27: 0.5, 54: 0.5}),
])
def test_survival_probabilities(rule, blocks, survival, expected):
    p = resnet.survival_probabilities(blocks, survival, rule)
    assert p.shape == (blocks,)
    for block, value in expected.items():
        assert p[block - 1] == pytest.approx(value, abs=1e-6)
    if rule == 'linear':  # E[active] = (3L - 1) / 4
        assert p.sum() == pytest.approx((3 * blocks - 1) / 4, rel=1e-6) == 40.25


@pytest.mark.parametrize('name', ['resnet20', 'preact_resnet110'])
def test_a_closed_block_is_not_computed(name):
    """Forward and backward: parameters that are not numbers have no effect, not even times zero."""
    net, variables = create(name, survival=0.0, survival_rule='uniform'), variables_of(name)
    # A pre-activation unit's first activation always runs, because the shortcut shares it.
    shared = {'conv2_1', 'conv3_1', 'conv4_1'} if 'preact' in name else set()
    closed = {block: [norm for norm in variables['batch_stats'][block]
                      if not (norm == 'bn1' and block in shared)] for block in BLOCKS}
    spoilt = {**variables['params'], **{block: {
        layer: jax.tree.map(lambda x: np.nan * x, params)
        if 'conv' in layer or layer in closed[block] else params
        for layer, params in variables['params'][block].items()} for block in BLOCKS}}
    outputs, tree = step(net)({**variables, 'params': spoilt}, jax.random.key(0))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((outputs, tree)))
    for block, norms in closed.items():
        for layer in (*norms, 'conv1', 'conv2'):
            assert not any(x.any() for x in jax.tree.leaves(tree['params'][block][layer]))
        for norm in norms:
            for statistic, value in tree['batch_stats'][block][norm].items():
                np.testing.assert_array_equal(
                    value, variables['batch_stats'][block][norm][statistic])
    assert tree['params']['conv1']['kernel'].any()  # the shortcuts carry the gradient


def test_each_block_is_open_as_often_as_the_rule_says():
    net, n = create('resnet20', survival=0.2), 300
    seen = np.array([list(gates(net, jax.random.key(seed)).values()) for seed in range(n)])
    p = np.asarray(resnet.survival_probabilities(len(BLOCKS), 0.2, 'linear'))
    error = (p * (1 - p) / n) ** 0.5
    assert (abs(seen.mean(0) - p) < 4 * error).all()
    pairs = np.corrcoef(seen.T)[~np.eye(len(BLOCKS), dtype=bool)]
    assert abs(pairs).max() < 5 / n ** 0.5  # drawn apart


def test_all_devices_draw_the_same():
    net, variables = create('resnet20', survival=0.3), variables_of('resnet20')
    mesh = Mesh(np.array(jax.devices()), ('data',))

    def shard(images, key):
        (_, _), changed = net.apply(variables, images, train=True, mutable=['batch_stats'],
                                    rngs={'drop_path': key})
        return jnp.stack([(changed['batch_stats'][block]['bn2']['mean']
                           != variables['batch_stats'][block]['bn2']['mean']).any()
                          for block in BLOCKS])[None]

    run = jax.jit(jax.shard_map(shard, mesh=mesh, check_vma=False,
                                in_specs=(PartitionSpec('data'), PartitionSpec()),
                                out_specs=PartitionSpec('data')))
    images = np.random.default_rng(2).normal(size=(16, 8, 8, 3)).astype('float32')
    for seed in range(4):
        opened = np.asarray(run(images, jax.random.key(seed)))
        assert (opened == opened[0]).all()
        assert list(opened[0]) == list(gates(net, jax.random.key(seed)).values())


@pytest.mark.parametrize('name', ['resnet20', 'resnext29_8x64d', 'preact_resnet164'])
def test_evaluation_weighs_each_branch_with_its_probability(name):
    """Equation 5, as the same network with the branches' last layers scaled."""
    net, variables = create(name, survival=0.4), variables_of(name)
    p = resnet.survival_probabilities(len(BLOCKS), 0.4, 'linear')
    last = {'resnet20': 'bn2', 'resnext29_8x64d': 'bn3', 'preact_resnet164': 'conv3'}[name]
    params = {**variables['params'], **{
        block: {**variables['params'][block], last: jax.tree.map(
            lambda x, p=p: x * p, variables['params'][block][last])}
        for block, p in zip(BLOCKS, p, strict=True)}}
    logits, taps = jax.jit(net.apply)(variables, IMAGES)
    expected, _ = jax.jit(create(name).apply)({**variables, 'params': params}, IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert 'conv4_2/conv1' in taps


def test_without_stochastic_depth_there_is_no_cond():
    def conds(**fields):
        net = create('resnet20', **fields)
        return str(jax.make_jaxpr(functools.partial(train, net))(
            variables_of('resnet20'), jax.random.key(0))).count('cond[')

    assert conds() == 0
    assert conds(survival=0.5) == 2 * len(BLOCKS)  # one forward, one backward


@pytest.mark.parametrize(('name', 'survival', 'remat'), [  # covers every pair of values
    ('resnet20', 1.0, True), ('resnet20', 0.5, False),
    ('resnext29_8x64d', 1.0, False), ('resnext29_8x64d', 0.5, True),
    ('preact_resnet110', 1.0, True), ('preact_resnet110', 0.5, False),
    ('preact_resnet164', 1.0, False), ('preact_resnet164', 0.5, True),
    ('seresnet50', 1.0, True), ('seresnet50', 0.5, False),
])
def test_scan_and_remat_change_nothing(name, survival, remat):
    plain, variables = create(name, survival=survival), variables_of(name)
    (logits, taps), tree = step(plain)(variables, jax.random.key(1))
    scanned = create(name, survival=survival, scan=True, remat=remat)
    (ours, our_taps), our_tree = step(scanned)(resnet.stack(variables), jax.random.key(1))
    np.testing.assert_allclose(ours, logits, rtol=1e-5, atol=1e-5)
    assert_trees_close(resnet.unstack(our_tree), tree)
    assert set(BLOCKS) <= set(our_taps) <= set(taps)
    for tap, value in our_taps.items():
        np.testing.assert_allclose(value, taps[tap], rtol=1e-5, atol=1e-5, err_msg=tap)
    (logits, _), (ours, _) = (jax.jit(net.apply)(v, IMAGES) for net, v in (
        (plain, variables), (scanned, resnet.stack(variables))))
    np.testing.assert_allclose(ours, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('rate', [0.0, 0.5])
def test_scanned_units_drop_apart(rate):
    """Two units of the same parameters, which change their inputs so little that only what is
    dropped can make them add something else."""
    with jax.enable_x64(True):
        net = models.create('wide_resnet16_8', blocks=(3,), widths=(4,), dropout=rate, scan=True,
                            dtype='float64')
        variables = net.init(jax.random.key(0), IMAGES)
        unit = variables['params']['conv2_x']
        unit |= {name: {'kernel': jnp.stack([unit[name]['kernel'][0]] * 2)}
                 for name in ('conv1', 'conv2')}
        unit['conv2']['kernel'] *= 1e-6
        (_, taps), _ = net.apply(variables, IMAGES, train=True, mutable=['batch_stats'],
                                 rngs={'dropout': jax.random.key(1)})
        first, second = (taps[f'conv2_{j + 1}'] - taps[f'conv2_{j}'] for j in (1, 2))
        share = np.isclose(first, second, rtol=1e-3, atol=1e-9).mean()
    assert share == 1 if not rate else share < 0.1


def test_where_a_wide_network_drops():
    """Before the last convolution of each unit: with everything dropped, units are shortcuts."""
    net, variables = create('preact_resnet110'), variables_of('preact_resnet110')
    (logits, taps), _ = step(net.clone(dropout=1.0))(variables, jax.random.key(0))
    assert jnp.isfinite(logits).all()
    assert taps['conv2_1/conv1'].any()
    assert not any(taps[f'{block}/conv2'].any() for block in BLOCKS)
    (expected, _), (logits, _) = (jax.jit(each.apply)(variables, IMAGES)
                                  for each in (net, net.clone(dropout=1.0)))
    np.testing.assert_array_equal(logits, expected)


def test_remat_alone_changes_nothing():
    nets = create('resnet20', survival=0.5), create('resnet20', survival=0.5, remat=True)
    (_, plain), (_, ours) = (step(net)(variables_of('resnet20'), jax.random.key(1)) for net in nets)
    assert_trees_close(ours, plain)


@pytest.mark.parametrize('name', NAMES)
def test_stack_and_unstack(name):
    variables = variables_of(name)
    stacked = resnet.stack(variables)
    initial = jax.eval_shape(create(name, scan=True).init, jax.random.key(0), IMAGES)
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, initial)
    assert stacked['params']['conv4_x']['conv1']['kernel'].shape[0] == 2
    jax.tree.map(np.testing.assert_array_equal, resnet.unstack(stacked), variables)


def test_blocks_are_stacked_in_the_order_of_their_numbers():
    """The tenth after the ninth, not after the first."""
    tree = {'params': {f'conv2_{j}': {'bias': np.full(1, j)} for j in (1, 10, 11, *range(2, 10))}}
    np.testing.assert_array_equal(resnet.stack(tree)['params']['conv2_x']['bias'][:, 0],
                                  np.arange(2, 12))


@pytest.mark.parametrize('name', ['resnet20', 'preact_resnet110'])
def test_scanned_blocks_start_from_different_parameters(name):
    params = jax.jit(create(name, scan=True).init)(jax.random.key(0), IMAGES)['params']
    first, second = params['conv4_x']['conv1']['kernel']
    assert (first != second).all()


@pytest.mark.parametrize('survival', [1.0, 0.5])
def test_the_program_of_a_scan_does_not_grow_with_depth(survival):
    def convolutions(n):
        net = create('resnet20', survival=survival, scan=True).clone(blocks=(n, n, n))
        variables = jax.eval_shape(net.init, jax.random.key(0), IMAGES)
        text = jax.jit(functools.partial(train, net)).lower(variables, jax.random.key(0)).as_text()
        return text.count('stablehlo.convolution')

    assert convolutions(2) == convolutions(12) > 0


@pytest.mark.parametrize(('field', 'message'), [
    ({'survival': 1.5}, 'survival=1.5: take 1 or a smaller number'),
    ({'survival_rule': 'lineal'}, "survival_rule is one of linear, uniform, not 'lineal'"),
    ({'cardinality': 2}, 'basic blocks have no groups'),
])
@pytest.mark.parametrize('name', ['resnet20', 'preact_resnet110'])
def test_values_that_do_not_fit(name, field, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(create(name, **field).init, jax.random.key(0), IMAGES)


def dense(name, layers, **fields):
    fields = {'layers_per_block': layers, 'growth': 2, 'stem_width': 4, 'num_classes': 4, **fields}
    return models.create(name, **fields)


@pytest.mark.parametrize('name', ['densenet_l40_k12', 'densenet_bc_l100_k12'])
def test_a_rematerialized_dense_network_is_the_same(name):
    """The draws of dropout differ, so it is off here."""
    net = dense(name, (3, 2))
    variables = jax.jit(net.init)(jax.random.key(0), IMAGES)
    (logits, taps), tree = step(net)(variables, jax.random.key(1))
    (ours, our_taps), our_tree = step(net.clone(remat=True))(variables, jax.random.key(1))
    np.testing.assert_allclose(ours, logits, rtol=1e-5, atol=1e-5)
    assert_trees_close(our_tree, tree)
    assert our_taps.keys() == {tap for tap in taps if '_layer' not in tap or '/' not in tap}
    assert (jax.jit(net.clone(remat=True).apply)(variables, IMAGES)[0]
            == jax.jit(net.apply)(variables, IMAGES)[0]).all()


def test_a_rematerialized_dense_network_drops_the_same_twice():
    """A layer's maps are linear in its last kernel: the kernel times its gradient is their sum, but
    only if the second computation drops what the first did."""
    net = dense('densenet_l40_k12', (2,), growth=4, dropout=0.5, remat=True)
    variables = jax.jit(net.init)(jax.random.key(0), IMAGES)
    (_, taps), _ = step(net)(variables, jax.random.key(0))
    dropped = (taps['block1_layer2'] == 0).mean()
    assert 0.3 < dropped < 0.7

    def loss(kernel):
        params = jax.tree.map(lambda x: x, variables['params'])
        params['block1_layer2']['conv2']['kernel'] = kernel
        (_, taps), _ = net.apply({**variables, 'params': params}, IMAGES, train=True,
                                 mutable=['batch_stats'], rngs={'dropout': jax.random.key(0)})
        return taps['block1_layer2'].sum()

    kernel = variables['params']['block1_layer2']['conv2']['kernel']
    total, gradient = jax.jit(jax.value_and_grad(loss))(kernel)
    assert (kernel * gradient).sum() == pytest.approx(float(total), rel=1e-4)


def test_the_memory_of_a_rematerialized_dense_network_is_linear_in_depth():
    """By the compiled program's own account, for maps that outweigh the parameters."""
    images = jax.ShapeDtypeStruct((16, 16, 16, 3), 'float32')

    def memory(layers, remat):
        net = dense('densenet_l40_k12', (layers,), growth=8, stem_width=8, remat=remat)
        variables = jax.eval_shape(net.init, jax.random.key(0), images)
        compiled = jax.jit(lambda variables, key, images: train(net, variables, key, images)[1]
                           ).lower(variables, jax.random.key(0), images).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    plain, ours = ([memory(layers, remat) for layers in (4, 8, 16)] for remat in (False, True))
    assert plain[2] - plain[1] > 3 * (plain[1] - plain[0])  # quadratic: 4 times at every doubling
    assert ours[2] - ours[1] < 2.6 * (ours[1] - ours[0])  # linear: twice
    assert ours[2] < plain[2] / 3
