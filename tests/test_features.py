"""Features: each example counts once, with the network's own values."""

import json

import numpy as np
import pytest

from cnnjax import data, train, trained
from cnnjax.errors import UserError
from cnnjax.images import selection
from configs import features as recipe
from experiments import features


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A run on the digits."""
    from configs import base
    config = base.get_config()
    config.model.widths = (8, 8, 8)
    config.model.blocks = (1, 1, 1)  # no recipe has this field: a shallow one compiles fast
    config.update(batch_size=64, steps=60, learning_rate=0.1, eval_every=0.0, devices=1)
    directory = tmp_path_factory.mktemp('source')
    train.train(config, directory)
    return directory


def config(source, **fields):
    config = recipe.get_config()
    config.update(source=str(source), dataset='digits', batch_size=100, **fields)
    return config.lock()


def test_features_of_the_digits(source, tmp_path):
    features.run(config(source, taps='conv3_1,fc,fc:7+0', devices=3), tmp_path)
    found = np.load(tmp_path / 'features.npz')
    assert found['train/conv3_1'].shape == (1347, 8)
    assert found['test/fc'].shape == (450, 10)
    assert found['classes'].tolist() == list('0123456789')
    assert str(found['source']) == str(source)

    network, scans = trained.load(source), data.load('digits', 'test').examples
    np.testing.assert_array_equal(found['test/label'], [scan['label'] for scan in scans])
    images = np.stack([scans[i]['image'] for i in (0, 1, 449)])
    taps = network.taps(images)
    np.testing.assert_allclose(found['test/fc'][[0, 1, 449]], taps['fc'], atol=1e-4)
    np.testing.assert_array_equal(found['test/fc:7+0'], found['test/fc'][:, [7, 0]])
    np.testing.assert_allclose(found['test/conv3_1'][[0, 1, 449]],
                               taps['conv3_1'].mean((1, 2)), atol=1e-4)

    results = json.loads((tmp_path / 'results.json').read_text())
    assert (results['train'], results['test']) == (1347, 450)
    assert results['taps']['conv3_1']['features'] == 8
    assert 0 <= results['taps']['fc']['test_error'] < 0.5  # far below chance, 0.9
    assert set(results['taps']) == {'conv3_1', 'fc', 'fc:7+0'}
    assert results['taps']['fc:7+0']['features'] == 2


def test_whole_maps_and_the_last_features_by_default(source, tmp_path):
    assert selection.entries(trained.load(source), '') == {'pool': ('pool', ())}
    features.run(config(source, taps='pool, conv4_1', pool=False), tmp_path)
    found = np.load(tmp_path / 'features.npz')
    assert found['test/pool'].shape == (450, 8)
    assert found['test/conv4_1'].shape == (450, 2 * 2 * 8)
    np.testing.assert_allclose(found['test/conv4_1'].reshape(450, 4, 8).mean(1),
                               found['test/pool'], atol=1e-5)


def test_errors(source, tmp_path):
    for taps, message in (('conv3_9', "taps: layer 'conv3_9' is not .* did you mean conv3_"),
                          ('fc:10', "taps: 'fc' has the channels 0 to 9, not 10"),
                          ('fc:', "taps: the channels of 'fc:' are no whole numbers"),
                          ('fc:1+1', "taps: 'fc:1[+]1' names a channel twice")):
        with pytest.raises(UserError, match=message):
            features.run(config(source, taps=taps), tmp_path)
    with pytest.raises(UserError, match="there is no 'nowhere'"):
        features.run(config('nowhere'), tmp_path)
    with pytest.raises(UserError, match='not converged after 1 iterations'):
        features.run(config(source, iterations=1), tmp_path)
