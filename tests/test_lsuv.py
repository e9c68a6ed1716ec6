"""LSUV: outputs of variance 1 for the first batch, orthonormal weights, in every family."""

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from cnnjax import lsuv, models, train, trained
from cnnjax.errors import UserError
from tests.test_models import NARROW

# One of every kind of network that classifies images.
FAMILIES = [name for name in ('convnet', 'nin', 'allcnn_c', 'vgg11', 'resnet20', 'densenet121',
                              'preact_resnet110', 'mobilenet_v1', 'maxout', 'highway19', 'fitnet1',
                              'dropconnect')
            if name in NARROW]


# Without dropout a training computes what LSUV has seen; a loop hides its layers from this test.
STILL = {'maxout': {'input_dropout': 0.0}, 'dropconnect': {'drop_connect': 0.0},
         'resnet20': {'scan': False}}


def initialized(name, images):
    net = models.create(name, **NARROW[name][0] | STILL.get(name, {}))
    variables = net.init(jax.random.key(0), images)
    return net, variables, lsuv.initialized(net, variables, jax.random.key(1), images)


@pytest.mark.parametrize('name', FAMILIES)
def test_every_layer_has_outputs_of_variance_1(name):
    shape = NARROW[name][1]
    images = np.float32(np.random.default_rng(0).normal(0.3, 2, (4, *shape)))
    net, variables, params = initialized(name, images)
    seen = {}

    def observe(call, arguments, options, context):
        outputs = call(*arguments, **options)
        if context.module.has_variable('params', 'kernel') and (
                context.method_name == '__call__'):
            sums = outputs[0] if isinstance(outputs, tuple) else outputs
            seen.setdefault('/'.join(context.module.path), np.var(np.float64(sums)))
        return outputs

    def without_dropout(call, arguments, options, context):
        if isinstance(context.module, nn.Dropout):
            return arguments[0]
        return call(*arguments, **options)

    with nn.intercept_methods(without_dropout), nn.intercept_methods(observe):
        net.apply({**variables, 'params': params}, images, train=True, mutable=['batch_stats'],
                  rngs={'dropout': jax.random.key(2), 'drop_path': jax.random.key(3)})
    assert seen
    for layer, variance in seen.items():
        assert variance == pytest.approx(1, rel=0.05), layer


def test_weights_are_orthonormal_up_to_their_factor():
    images = np.float32(np.random.default_rng(0).normal(0, 1, (4, 8, 8, 3)))
    _, variables, params = initialized('resnet20', images)
    for path, kernel in traverse_util.flatten_dict(params, sep='/').items():
        if path.endswith('kernel'):
            matrix = np.float64(kernel).reshape(-1, kernel.shape[-1])
            product = (matrix @ matrix.T if matrix.shape[0] < matrix.shape[1]
                       else matrix.T @ matrix)
            factor = product[0, 0]
            np.testing.assert_allclose(product / factor, np.eye(len(product)), atol=1e-5)
    assert jax.tree.structure(params) == jax.tree.structure(variables['params'])


def test_a_constant_batch_is_refused():
    with pytest.raises(UserError, match=r"init='lsuv': no factor of its weights"):
        initialized('convnet', np.zeros((2, 8, 8, 3), np.float32))


def test_a_training_starts_with_it_on_any_number_of_devices(tiny, tmp_path):
    first = {}
    for devices in (1, 4):
        config = tiny.copy_and_resolve_references()
        config.update({'init': 'lsuv', 'steps': 1, 'eval_every': 0.0, 'devices': devices,
                       'learning_rate': 1e-9})
        train.train(config, str(tmp_path / str(devices)))
        first[devices] = trained.load(str(tmp_path / str(devices))).variables['params']
    for a, b in zip(*map(jax.tree.leaves, first.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_weights_from_elsewhere_are_kept(tiny, tmp_path):
    config = tiny.copy_and_resolve_references()
    config.update({'init': 'lsuv', 'init_from': str(tmp_path)})
    with pytest.raises(UserError, match='leave one out'):
        train.train(config, str(tmp_path / 'run'))


