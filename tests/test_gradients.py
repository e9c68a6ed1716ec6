"""Gradients and running statistics of training against torch's in float64.

The reference values were computed by tests/golden/gradients.py.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.extend.core import Literal, Var
from jax.sharding import PartitionSpec as P
from jaxlib import version

from cnnjax import layers, models, parallel
from tests.golden import gradients
from tests.test_models import NARROW

# As optimized as a user's programs: the other tests' are not, and so do not round differently.
OPTIMIZED = {'xla_backend_optimization_level': 1}
if version.__version__.startswith('0.10.'):
    OPTIMIZED['xla_cpu_use_fusion_emitters'] = True


@pytest.fixture(scope='module')
def golden():
    with np.load(gradients.GOLDEN) as file:
        return dict(file)


def without_dropout(method, arguments, options, context):
    dropout = isinstance(context.module, nn.Dropout)
    return arguments[0] if dropout else method(*arguments, **options)


def objective(case):
    """(the weighed sum of the outputs as a function of parameters and images, these two)."""
    net, variables = gradients.network(case)
    # No gradient flows through the proposals of a detector of two stages: its regions are fixed.
    fixed = {'choose': lambda proposals: jnp.broadcast_to(
        jnp.array([2.0, 3, 11, 13]), proposals.shape)} if hasattr(net, 'learns') else {}

    def total(params, images):
        with nn.intercept_methods(without_dropout):
            if case == 'fractional':  # has no batch statistics, and the same regions each time
                logits, taps = net.apply({'params': params}, images, train=False)
            else:
                (logits, taps), _ = net.apply(
                    variables | {'params': params}, images, train=True, mutable=['batch_stats'],
                    rngs={'drop_path': jax.random.key(0)}, **fixed)
        if fixed:
            logits = {name: logits[name] for name in logits if 'proposal' not in name}
        outputs = [*jax.tree.leaves(logits),  # a detector has several
                   *(taps[name] for name in getattr(net, 'auxiliary', {}))]
        return sum((output * gradients.weights(output, i)).sum()
                   for i, output in enumerate(outputs))

    return total, (variables['params'], gradients.inputs(case))


def gradient(case):
    """({parameter: gradient} of the compiled program, its jaxpr)."""
    total, inputs = objective(case)
    traced = jax.jit(jax.grad(total, (0, 1))).trace(*inputs)
    of_params, of_images = traced.lower().compile(compiler_options=OPTIMIZED)(*inputs)
    return (traverse_util.flatten_dict(of_params, sep='/') | {'images': of_images},
            traced.jaxpr.jaxpr)


def comparisons(jaxpr):
    """The equations, at any depth, that ask whether two computed floats are equal."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ('eq', 'ne') and all(
                jnp.issubdtype(var.aval.dtype, jnp.floating) and not isinstance(var, Literal)
                for var in eqn.invars):
            yield eqn
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda leaf: hasattr(leaf, 'eqns')
                                     or hasattr(leaf, 'jaxpr')):
            inner = getattr(inner, 'jaxpr', inner)
            if hasattr(inner, 'eqns'):
                yield from comparisons(inner)


@pytest.mark.parametrize('case', gradients.CASES)
def test_gradients_of_a_training_are_torchs(case, golden):
    """With respect to the images and every parameter. Where a compiler computes one value twice,
    with other rounding, no equality of the two may decide where a gradient goes."""
    with jax.enable_x64(True):
        found, jaxpr = gradient(case)
    assert not list(comparisons(jaxpr))
    ours, theirs = gradients.numbers(found), golden[case]
    norms = theirs[:, :1]  # that of a bias before batch normalization is 0 up to rounding
    errors = np.abs(ours - theirs) / np.maximum(norms, 1e-3 * norms.max())
    assert errors.max() < 1e-10, sorted(found)[errors.max(1).argmax()]


def test_gradients_of_families_without_torchs_are_quotients_of_differences(monkeypatch):
    """So a new family needs no second network in torch; the simplest one shows that this works."""
    known = {name for name, _, _ in gradients.CASES.values()}
    new = [set(family.TABLE) & set(NARROW) for family in models.FAMILIES
           if not known & set(family.TABLE)]
    for name, *_ in [{'convnet'}, *new]:
        fields, shape = NARROW[name]
        monkeypatch.setitem(gradients.CASES, 'new', (name, fields, (2, *shape)))
        with jax.enable_x64(True):
            found, jaxpr = gradient('new')
            total, inputs = objective('new')
            flat = traverse_util.flatten_dict({**inputs[0], 'images': inputs[1]}, sep='/')
            directions = {path: gradients.draw(f'directions of {path}', array.shape)
                          for path, array in flat.items()}

            def moved(step, flat=flat, directions=directions, total=total):
                tree = traverse_util.unflatten_dict(
                    {path: array + step * directions[path] for path, array in flat.items()}, '/')
                images = tree.pop('images')
                return total(tree, images)

            slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
            expected = sum((found[path] * directions[path]).sum() for path in found)
        assert not list(comparisons(jaxpr))
        np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_a_comparison_of_computed_floats_is_found():
    def lost(x):
        return jnp.where(jnp.sin(x) == jnp.cos(x), x, 0).sum()

    found = list(comparisons(jax.make_jaxpr(jax.jit(jax.grad(lost)))(jnp.ones(3))))
    assert len(found) == 1
    assert all(isinstance(var, Var) for var in found[0].invars)


def updated(norm, batches, **options):
    """The running mean and variance after each batch, [updates, 2, channels]."""
    def update(variables, batch):
        _, changed = norm.apply(variables, batch, mutable=['batch_stats'])
        return variables | changed

    if options:
        update = jax.jit(jax.shard_map(update, check_vma=False, **options))
    variables, rows = norm.init(jax.random.key(0), batches[0]), []
    variables = jax.tree.map(lambda leaf: leaf.astype(batches.dtype), variables)
    for batch in batches:
        variables = update(variables, batch)
        rows.append([variables['batch_stats'][name] for name in ('mean', 'var')])
    return np.array(rows)


def test_running_statistics_are_torchs(golden):
    """After one and after ten updates; their variance is the unbiased one, n / (n - 1) times that
    of the n values."""
    with jax.enable_x64(True):
        norm = layers.BatchNorm(use_running_average=False, dtype='float64')
        found = updated(norm, gradients.batches())
    assert len(found) == 10
    np.testing.assert_allclose(found[[0, 9]], golden['running'][[0, 9]], rtol=1e-12)


@pytest.mark.parametrize('devices', [1, 3])
def test_running_statistics_are_of_a_devices_share_under_shard_map(devices):
    """n is the number of values that the device has, as those that the mean is of; under jit, where
    a batch is global, it is the batch's."""
    mesh = parallel.data_mesh(devices)
    norm = layers.BatchNorm(use_running_average=False)
    batches = np.float32(gradients.batches())[:, :3]
    found = updated(norm, batches, mesh=mesh, in_specs=(P(), P(parallel.AXIS)), out_specs=P())
    share = updated(norm, batches[:, :3 // devices])
    np.testing.assert_allclose(found, share, rtol=1e-5)


def test_a_single_value_has_no_variance():
    norm = layers.BatchNorm(use_running_average=False)
    found = updated(norm, jnp.full((1, 1, 1, 1, 2), 3.0))
    np.testing.assert_allclose(found[0], [[0.3, 0.3], [0.9, 0.9]], rtol=1e-6)


@pytest.mark.parametrize('case', gradients.CASES)
def test_networks_under_strict_promotion_of_types_and_ranks(case):
    name, fields, shape = gradients.CASES[case]
    net = models.create(name, num_classes=gradients.CLASSES, **fields)

    def gradient(images):
        rngs = {name: jax.random.key(0) for name in ('params', 'dropout', 'drop_path')}
        variables = net.init(rngs, images)

        def total(params):
            (logits, _), _ = net.apply(variables | {'params': params}, images, train=True,
                                       mutable=['batch_stats'], rngs=rngs)
            return logits.sum()

        return net.apply(variables, images)[0], jax.grad(total)(variables['params'])

    with (jax.enable_x64(True), jax.numpy_dtype_promotion('strict'),
          jax.numpy_rank_promotion('raise')):
        logits, _ = jax.eval_shape(gradient, jax.ShapeDtypeStruct(shape, 'float32'))
    assert logits.dtype == 'float32'
