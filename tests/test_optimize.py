"""The loop that optimizes images: resuming, batches, several devices, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import models, parallel
from cnnjax.data import Normalization
from cnnjax.errors import UserError
from cnnjax.images import descent, diagnosis, objectives, optimize, transforms
from cnnjax.images.optimize import Problem
from cnnjax.images.parametrizations import Parametrization, clip, fourier, pixels, sigmoid
from cnnjax.trained import Trained

SHAPE = (8, 8, 3)
KEY = jax.random.key(0)
PICTURES = np.float32(np.random.default_rng(0).random((3, *SHAPE)))
OTHERS = np.roll(PICTURES, 1, 0)  # Starting points, far from the codes of PICTURES.
# Programs contain their optimizer, so each optimizer is made only once.
ADAM, MOMENTUM, LBFGS = optax.adam(0.05), optax.sgd(0.01, 0.9), optax.lbfgs(memory_size=3)


@pytest.fixture(scope='module')
def network():
    net = models.create('vgg11', groups=((3,),), widths=(4,), hidden=(), num_classes=3)
    variables = jax.jit(net.init)(jax.random.key(1), jnp.zeros((1, *SHAPE)))
    normalize = Normalization(np.float32([0.5] * 3), np.float32([0.25] * 3))
    return Trained(net, variables, normalize, tuple('abc'), SHAPE, None)


@pytest.fixture(scope='module')
def codes(network):
    return {'maps': {'conv1_1': {'code': network.taps(PICTURES)['conv1_1']}}}


@pytest.fixture(scope='module')
def units(network):
    """Two ways to show a channel, and optimizers for them: {name: (problem, tx, aux)}."""
    aux = {'unit': jnp.arange(4)}
    channel = objectives.channel('conv1_1')
    return {
        'adam': (Problem(network, channel, sigmoid(fourier(SHAPE)), lambda image: 1e-3 * (
            image**2).sum(), transforms.jitter(2), average=0.8), ADAM, aux),
        'momentum': (Problem(network, channel, pixels(SHAPE, mean=0.5),
                             transform=transforms.jitter(1, 'crop'), project=clip()),
                     MOMENTUM, aux),
    }


@pytest.fixture(scope='module')
def match(network):
    return Problem(network, objectives.match('conv1_1'), pixels(SHAPE, mean=0.5))


def equal(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('loop', ['python', 'compiled'])
@pytest.mark.parametrize('name', ['adam', 'momentum'])
def test_resumed_is_uninterrupted(units, name, loop):
    problem, tx, aux = units[name]
    whole = optimize.optimize(problem, tx, 40, KEY, aux=aux, every=10, loop=loop)
    half = optimize.optimize(problem, tx, 20, KEY, aux=aux, every=10, loop=loop)
    rest = optimize.optimize(problem, tx, 40, KEY, aux=aux, every=10, loop=loop, state=half.state)
    equal(rest.state, whole.state)
    equal(rest.images, whole.images)
    equal({name: np.concatenate([half.trace[name], rest.trace[name]]) for name in whole.trace},
          whole.trace)
    assert list(whole.snapshots) == [10, 20, 30, 40]
    equal(half.snapshots | rest.snapshots, whole.snapshots)
    # Not at a multiple of the reports, and the state that was resumed is still there.
    uneven = optimize.optimize(problem, tx, 13, KEY, aux=aux, every=10, loop=loop)
    assert list(uneven.snapshots) == [10, 13]
    for _ in range(2):
        again = optimize.optimize(problem, tx, 40, KEY, aux=aux, every=10, loop=loop,
                                  state=uneven.state)
        equal(again.images, whole.images)
    assert list(again.snapshots) == [20, 30, 40]
    assert whole.trace['loss'].shape == (40, 4)
    assert (whole.trace['loss'][-5:].mean(0) < whole.trace['loss'][:5].mean(0)).all()


@pytest.mark.parametrize('loop', ['python', 'compiled'])
def test_a_line_search_is_resumed_too(match, codes, loop):
    one = {'maps': {'conv1_1': {'code': codes['maps']['conv1_1']['code'][:1]}}}
    whole = optimize.optimize(match, LBFGS, 16, KEY, aux=one, every=4, loop=loop)
    half = optimize.optimize(match, LBFGS, 8, KEY, aux=one, every=4, loop=loop)
    rest = optimize.optimize(match, LBFGS, 16, KEY, aux=one, every=4, loop=loop, state=half.state)
    equal(rest.state, whole.state)
    np.testing.assert_array_equal(rest.trace['loss'], whole.trace['loss'][8:])
    assert (np.diff(whole.trace['loss'][:, 0]) <= 0).all()
    assert whole.trace['loss'][-1] < 0.02 * whole.trace['loss'][0]


@pytest.mark.parametrize('loop', ['python', 'compiled'])
def test_a_line_search_where_jax_has_64_bits(match, codes, loop):
    """JAX_ENABLE_X64 makes numbers of 64 bits where a type is not named: among those of 32 bits
    of the network, the search stopped."""
    aux = jax.tree.map(lambda x: x[:1], codes)
    plain = optimize.optimize(match, LBFGS, 4, KEY, aux=aux, every=2, loop=loop)
    with jax.enable_x64(True):
        whole = optimize.optimize(match, LBFGS, 4, KEY, aux=aux, every=2, loop=loop)
        half = optimize.optimize(match, LBFGS, 2, KEY, aux=aux, every=2, loop=loop)
        rest = optimize.optimize(match, LBFGS, 4, KEY, aux=aux, every=2, loop=loop,
                                 state=half.state)
        equal(rest.images, whole.images)
        given = optimize.optimize(match, LBFGS, 2, KEY, aux=aux, images=np.float64(OTHERS[:1]))
    assert whole.images.dtype == np.float32
    assert given.trace['loss'][-1] < given.trace['loss'][0]
    np.testing.assert_allclose(whole.images, plain.images, atol=1e-4)


def test_strict_promotion(units, match, codes):
    """Types and ranks are as they should be, beside those of optax's Adam, which counts its steps
    in whole numbers."""
    with jax.numpy_dtype_promotion('strict'), jax.numpy_rank_promotion('raise'):
        for problem, tx, aux in (*units.values(), (match, LBFGS, codes)):  # enough steps to move
            optimize.optimize(problem, tx, 12, KEY, aux=aux)


def test_line_searches_of_several_images(match, codes):
    """The vmapped search of each goes its own way."""
    together = optimize.optimize(match, LBFGS, 6, KEY, images=OTHERS, aux=codes)
    for i in (0, 2):
        one = jax.tree.map(lambda x, i=i: x[i:i + 1], codes)
        alone = optimize.optimize(match, LBFGS, 6, KEY, images=OTHERS[i:i + 1], aux=one)
        np.testing.assert_allclose(alone.images[0], together.images[i], atol=1e-4)


def test_loops_and_batches_agree(units):
    """A unit of a batch is that unit alone, with its key."""
    problem, tx, aux = units['adam']
    keys = jax.random.split(KEY, 4)
    many = optimize.optimize(problem, tx, 10, KEY, aux=aux, loop='python')
    compiled = optimize.optimize(problem, tx, 10, KEY, aux=aux, loop='compiled', every=10)
    np.testing.assert_allclose(compiled.images, many.images, atol=1e-5)
    state = optimize.init(problem, tx, keys[2:3])
    *_, report = optimize.iterate(problem, tx, state, 10, keys[2:3], {'unit': jnp.array([2])})
    np.testing.assert_allclose(optimize.decode(problem, report.state)[0], many.images[2],
                               atol=1e-5)
    np.testing.assert_allclose(report.values['loss'][:, 0], many.trace['loss'][:, 2], rtol=1e-4)
    assert np.abs(many.images[0] - many.images[1]).max() > 1e-3


@pytest.mark.parametrize('loop', ['python', 'compiled'])
def test_four_devices_are_one(units, loop):
    problem, tx, aux = units['adam']
    shared = {'unused': jnp.ones(3)}
    one = optimize.optimize(problem, tx, 10, KEY, aux=aux, shared=shared, loop=loop, every=10)
    four = optimize.optimize(problem, tx, 10, KEY, aux=aux, shared=shared, loop=loop, every=10,
                             mesh=parallel.data_mesh(4))
    np.testing.assert_allclose(four.images, one.images, atol=1e-5)
    for name, values in one.trace.items():
        np.testing.assert_allclose(four.trace[name], values, rtol=1e-3, atol=1e-6)


def test_images_divide_over_the_devices(units):
    problem, tx, _ = units['adam']
    with pytest.raises(UserError, match='3 images do not divide evenly over 4 devices'):
        optimize.optimize(problem, tx, 1, KEY, aux={'unit': jnp.arange(3)},
                          mesh=parallel.data_mesh(4))


def test_the_average_of_the_iterates(network, match, codes):
    averaged = Problem(network, match.objective, match.parametrization, average=0.7)
    iterates = optimize.optimize(match, ADAM, 5, KEY, aux=codes, every=1).snapshots
    result = optimize.optimize(averaged, ADAM, 5, KEY, aux=codes, every=1)
    start = optimize.init(averaged, ADAM, jax.random.split(KEY, 3))
    np.testing.assert_allclose(optimize.decode(averaged, start), start.theta, rtol=1e-6)
    mean = 0.3 * np.asarray(start.theta)  # crowsonkb's average begins with the first image
    for step, images in iterates.items():
        mean = 0.7 * mean + 0.3 * np.asarray(images)
        np.testing.assert_allclose(result.snapshots[step], mean / (1 - 0.7 ** (step + 1)),
                                   rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(result.images, result.snapshots[5])


def test_where_it_starts(match, codes, network):
    """Images are kept, the caller's arrays too; without steps they are the result."""
    pictures = jnp.asarray(OTHERS)
    for tx in (ADAM, LBFGS):
        result = optimize.optimize(match, tx, 0, KEY, images=pictures, aux=codes)
        np.testing.assert_array_equal(result.images, OTHERS)
        assert result.trace == {}
        optimize.optimize(match, tx, 2, KEY, images=pictures, aux=codes)
        np.testing.assert_array_equal(pictures, OTHERS)  # not donated
    random = optimize.optimize(match, ADAM, 0, KEY, aux=codes).images
    assert random.shape == PICTURES.shape
    assert np.abs(random[0] - random[1]).max() > 1e-3
    assert optimize.optimize(match, ADAM, 0, KEY, count=5).images.shape == (5, *SHAPE)
    blind = Problem(network, match.objective, Parametrization(*pixels(SHAPE)[:2], None))
    with pytest.raises(UserError, match='cannot start from an image'):
        optimize.optimize(blind, ADAM, 1, KEY, images=PICTURES)


def test_the_number_of_images_is_that_of_the_state(match, codes):
    shared = jax.tree.map(lambda x: x[0], codes)
    half = optimize.optimize(match, ADAM, 2, KEY, count=3, shared=shared)
    rest = optimize.optimize(match, ADAM, 4, KEY, shared=shared, state=half.state)
    equal(rest.images, optimize.optimize(match, ADAM, 4, KEY, count=3, shared=shared).images)


def test_shared_targets_are_those_of_each_image(match, codes):
    repeated = jax.tree.map(lambda x: jnp.repeat(x[:1], 3, 0), codes)
    shared = {'maps': {'conv1_1': {'code': codes['maps']['conv1_1']['code'][0]}}}
    one = optimize.optimize(match, ADAM, 3, KEY, aux=repeated)
    other = optimize.optimize(match, ADAM, 3, KEY, count=3, shared=shared)
    np.testing.assert_allclose(other.images, one.images, atol=1e-6)


def test_merge():
    assert descent.merge({'a': {'b': 1, 'c': 2}, 'd': 3}, {'a': {'c': 4}, 'e': 5}) == {
        'a': {'b': 1, 'c': 4}, 'd': 3, 'e': 5}


def test_all_units_of_a_layer_are_compiled_once(network):
    traces = []

    def counted(taps, aux):
        traces.append(aux)
        return -jnp.take(taps['conv1_1'], aux['unit'], -1).mean()

    problem = Problem(network, counted, pixels(SHAPE, mean=0.5))
    first = optimize.optimize(problem, ADAM, 3, KEY, aux={'unit': jnp.arange(2)})
    count = len(traces)
    second = optimize.optimize(problem, ADAM, 5, KEY, aux={'unit': jnp.arange(2, 4)})
    assert len(traces) == count > 0
    assert set(first.trace) == {'loss', 'objective', 'gradient'}
    assert np.abs(first.images - second.images).max() > 1e-3


@pytest.mark.parametrize(('kind', 'size'), [
    ('mean_abs', lambda g: np.abs(g).mean()), ('std', np.std), ('l2', np.linalg.norm)])
def test_normalized_gradients(kind, size):
    tx = optimize.normalize_gradient(kind)
    gradient = {'a': np.float32([3, -1, 2]), 'b': np.float32([[0.5]])}
    flat = np.float32([3, -1, 2, 0.5])
    found, _ = tx.update(gradient, tx.init(gradient))
    np.testing.assert_allclose(found['a'], flat[:3] / size(flat), rtol=1e-5)
    np.testing.assert_allclose(found['b'], flat[3:, None] / size(flat), rtol=1e-5)
    zeros = jax.tree.map(np.zeros_like, gradient)
    equal(tx.update(zeros, tx.init(zeros))[0], zeros)
    with pytest.raises(UserError, match="mean_abs, std, l2, not 'l1'"):
        optimize.normalize_gradient('l1')


def test_line_searches_refuse_what_changes_the_loss(network, match, codes):
    for change in ({'transform': transforms.jitter(1)}, {'project': clip()}):
        problem = Problem(network, match.objective, match.parametrization, **change)
        with pytest.raises(UserError, match='line search, such as L-BFGS'):
            optimize.optimize(problem, LBFGS, 1, KEY, aux=codes)


def test_carry_resizes_the_optimizer(network, match, codes):
    keys = jax.random.split(KEY, 3)
    small = optimize.optimize(match, ADAM, 3, KEY, aux=codes)
    larger = jax.image.resize(small.images, (3, 12, 10, 3), 'linear')
    problem = Problem(network, objectives.dream('conv1_1'), pixels((12, 10, 3)))
    state = optimize.carry(problem, ADAM, keys, larger, small.state.opt_state)
    np.testing.assert_array_equal(state.theta, larger)
    np.testing.assert_array_equal(state.step, 0)
    moments, before = state.opt_state[0], small.state.opt_state[0]
    np.testing.assert_array_equal(moments.count, 3)
    np.testing.assert_allclose(moments.mu, jax.image.resize(before.mu, larger.shape, 'cubic'))
    np.testing.assert_allclose(moments.nu, jax.image.resize(before.nu, larger.shape, 'linear'))
    assert (moments.nu >= 0).all()
    *_, report = optimize.iterate(problem, ADAM, state, 1, keys)
    assert np.isfinite(report.values['loss']).all()


def test_carry_forgets_a_line_searchs_value(network, match, codes):
    """What it remembers of the smaller image is no value of the larger one's loss."""
    small = optimize.optimize(match, LBFGS, 2, KEY, images=OTHERS, aux=codes)
    larger = jax.image.resize(small.images, (3, 12, 10, 3), 'linear')[:1]
    problem = Problem(network, objectives.dream('conv1_1'), pixels((12, 10, 3)))
    state = optimize.carry(problem, LBFGS, KEY, larger,
                           jax.tree.map(lambda x: x[:1], small.state.opt_state))
    *_, report = optimize.iterate(problem, LBFGS, state, 1, KEY)
    expected = objectives.dream('conv1_1')(
        {'conv1_1': network.taps(larger)['conv1_1'][0]})['dream']
    np.testing.assert_allclose(report.values['loss'][0, 0], expected, rtol=1e-5)


# Health

def broken(network, values):
    """A problem whose loss is values(taps of conv1_1, its unit)."""
    return Problem(network, lambda taps, aux: values(taps['conv1_1'], aux['unit']),
                   pixels(SHAPE, mean=0.5))


def test_a_loss_that_is_not_finite_stops(network):
    problem = broken(network, lambda tap, unit: jnp.sqrt(-1 - tap.sum() ** 2))
    with pytest.raises(UserError, match='the loss is not finite, at step 1: the image itself'):
        optimize.optimize(problem, ADAM, 4, KEY, aux={'unit': jnp.arange(2)})


def test_weights_that_are_not_finite_are_named(network):
    variables = jax.tree.map(lambda x: x, network.variables)
    bias = variables['params']['conv1_1']['bias']
    variables['params']['conv1_1']['bias'] = bias.at[1].set(jnp.nan)
    problem = Problem(network._replace(variables=variables), objectives.dream('relu1_1'),
                      pixels(SHAPE, mean=0.5))
    with pytest.raises(UserError, match="at step 1: 'conv1_1'.* is not finite .*weights"):
        optimize.optimize(problem, ADAM, 2, KEY)


def test_a_unit_that_the_layer_does_not_have_is_named(units):
    problem, tx, _ = units['momentum']
    with pytest.raises(UserError, match=r"not finite, at step 1: .*aux\['unit'\]"):
        optimize.optimize(problem, tx, 2, KEY, aux={'unit': jnp.full(4, 4)})


def test_a_dead_layer_is_named(network):
    params = network.variables['params']
    dead = network._replace(variables={'params': params | {'conv1_1': {
        'kernel': params['conv1_1']['kernel'], 'bias': jnp.full(4, -100.0)}}})
    problem = Problem(dead, objectives.channel('relu1_1'), pixels(SHAPE, mean=0.5))
    with pytest.raises(UserError, match="exactly 0, at step 1: 'relu1_1' is 0 everywhere; take "
                       'the layer before the ReLU, another seed'):
        optimize.optimize(problem, ADAM, 2, KEY, aux={'unit': jnp.arange(2)})


def test_one_broken_image_leaves_the_others(network):
    problem = broken(network, lambda tap, unit: jnp.where(unit == 1, jnp.nan, 1) * tap.sum())
    with pytest.warns(UserWarning, match='^image 1: the loss is not finite'):
        result = optimize.optimize(problem, ADAM, 4, KEY, aux={'unit': jnp.arange(3)})
    assert np.isfinite(result.images[jnp.array([0, 2])]).all()
    assert diagnosis.health(result.trace, 0) == ''
    assert diagnosis.health(result.trace, 1) == 'the loss is not finite'


@pytest.fixture(scope='module')
def asleep(network):
    """A problem whose unit 0 is 0 on gray and on noise around it, though not on every image."""
    params = network.variables['params']
    layer = params['conv1_1'] | {'bias': jnp.float32([-1, 0, 0, 0])}
    sleepy = network._replace(variables={'params': params | {'conv1_1': layer}})
    return Problem(sleepy, objectives.channel('relu1_1'), sigmoid(pixels(SHAPE)),
                   transform=transforms.jitter(1), average=0.5)


@pytest.mark.parametrize('loop', ['python', 'compiled'])
def test_a_unit_that_is_blocked_is_woken_and_the_others_stay(asleep, loop):
    aux = {'unit': jnp.arange(4)}
    whole = optimize.optimize(asleep, ADAM, 12, KEY, aux=aux, every=3, loop=loop)
    assert (whole.trace['gradient'] > 0).all()
    assert whole.trace['loss'][-1, 0] < whole.trace['loss'][0, 0] < 0
    half = optimize.optimize(asleep, ADAM, 6, KEY, aux=aux, every=3, loop=loop)
    rest = optimize.optimize(asleep, ADAM, 12, KEY, aux=aux, every=3, loop=loop, state=half.state)
    equal(rest.images, whole.images)
    # Without the unit that sleeps: only the steps of the others.
    others = optimize.optimize(asleep, ADAM, 12, KEY, aux={'unit': jnp.int32([1, 1, 2, 3])},
                               loop=loop, every=3)
    equal(others.images[1:], whole.images[1:])


def test_a_dead_unit_is_named_beside_the_others(asleep):
    variables = jax.tree.map(lambda x: x, asleep.network.variables)
    layer = variables['params']['conv1_1']
    layer['kernel'] = layer['kernel'].at[..., 0].set(0)
    dead = Problem(asleep.network._replace(variables=variables), asleep.objective,
                   asleep.parametrization)
    with pytest.warns(UserWarning, match='^image 0: the gradient of the objective is exactly 0'):
        optimize.optimize(dead, ADAM, 4, KEY, aux={'unit': jnp.arange(2)})


def test_an_image_that_stays_what_it_was_is_named(network, match, codes):
    held = Problem(network, match.objective, match.parametrization,
                   regularizer=lambda image: 1e4 * ((image - 0.5) ** 2).sum())
    one = jax.tree.map(lambda x: x[:1], codes)
    with pytest.warns(UserWarning, match='image 0: the image has not moved.*one of them may hold'):
        optimize.optimize(held, optax.adam(1e-4), 12, KEY, aux=one,
                          images=np.full((1, *SHAPE), 0.5, np.float32))


def test_a_loss_that_rises_is_named(match, codes):
    one = jax.tree.map(lambda x: x[:1], codes)
    with pytest.warns(UserWarning, match='the loss has not fallen: .*take a lower learning rate'):
        optimize.optimize(match, optax.sgd(-0.1), 8, KEY, aux=one)


def test_a_stop_ends_after_the_step(units):
    problem, tx, aux = units['momentum']
    asked = []

    def stop():
        asked.append(1)
        return len(asked) == 6

    keys = jax.random.split(KEY, 4)
    *_, report = optimize.iterate(problem, tx, optimize.init(problem, tx, keys), 20, keys, aux,
                                  every=5, stop=stop)
    assert report.step == 7  # nothing is asked after the first step
    rest = optimize.optimize(problem, tx, 20, KEY, aux=aux, every=5, state=report.state)
    whole = optimize.optimize(problem, tx, 20, KEY, aux=aux, every=5)
    assert list(rest.snapshots) == [10, 15, 20]
    equal(rest.state, whole.state)


def test_errors_name_the_input(network, units):
    problem, tx, aux = units['adam']
    unknown = Problem(network, objectives.channel('conv1_2'), pixels(SHAPE))
    with pytest.raises(UserError, match="'conv1_2' is not in the network.*did you mean conv1_1"):
        optimize.optimize(unknown, ADAM, 1, KEY, aux=aux)
    with pytest.raises(UserError, match="'auto', 'python' or 'compiled', not 'scan'"):
        optimize.optimize(problem, tx, 1, KEY, aux=aux, loop='scan')
    with pytest.raises(UserError, match='steps=-1'):
        optimize.optimize(problem, tx, -1, KEY, aux=aux)


# What a trained network gives at other sizes

def test_taps_of_other_sizes(network):
    assert list(network.taps(PICTURES)) == ['conv1_1', 'relu1_1', 'pool1', 'fc8']
    taps = network.taps(np.zeros((2, 11, 14, 3), np.float32))
    assert {name: tap.shape for name, tap in taps.items()} == {
        'conv1_1': (2, 11, 14, 4), 'relu1_1': (2, 11, 14, 4), 'pool1': (2, 5, 7, 4)}


@pytest.mark.parametrize(('name', 'fields', 'size', 'last'), [
    ('lenet5', {}, 48, 'relu5'), ('alexnet', {}, 120, 'pool5'),
    ('alexnet_tv', {}, 120, 'fc8'), ('resnet18', {}, 40, 'fc'),
])
def test_full_layers_exist_at_the_size_of_training_only(name, fields, size, last):
    net = models.create(name, **fields)
    shape = net.image_shape
    variables = jax.eval_shape(net.init, KEY, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    mean = np.zeros(shape[-1], np.float32)
    trained = Trained(net, variables, Normalization(mean, mean + 1), (), shape, None)

    def names(size):
        found = []  # in the order of the forward pass, which eval_shape loses
        jax.eval_shape(lambda variables, images: found.extend(
            trained._replace(variables=variables).taps(images)),
            variables, jax.ShapeDtypeStruct((1, *size), jnp.float32))
        return found

    whole, found = names(shape), names((size, size + 3, shape[-1]))
    assert found == whole[:len(found)]
    assert found[-1] == last


def test_a_mean_image_at_other_sizes(network):
    mean = PICTURES[0]
    trained = network._replace(normalize=network.normalize._replace(mean=mean))
    flat = network._replace(normalize=network.normalize._replace(mean=mean.mean((0, 1))))
    same, other = PICTURES[1:], np.float32(np.random.default_rng(1).random((2, 11, 9, 3)))
    np.testing.assert_allclose(trained.taps(other)['pool1'], flat.taps(other)['pool1'], rtol=1e-6)
    np.testing.assert_allclose(
        trained.taps(same)['fc8'], trained(same), rtol=1e-5)  # the mean image itself
    assert np.abs(trained.taps(same)['conv1_1'] - flat.taps(same)['conv1_1']).max() > 1e-2
