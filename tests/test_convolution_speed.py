"""The convolutions of a network, and what the experiment writes about them."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.errors import UserError
from configs import convolution_speed as configs
from experiments.benchmark import convolution_speed
from experiments.benchmark.convolution_speed import Convolution


def test_the_convolutions_of_resnet20_are_those_of_the_paper():
    net = models.create('resnet20')
    found = [(*conv.input[1:], conv.features, conv.strides[0], count)
             for conv, count in convolution_speed.convolutions(net, (2, 32, 32, 3)).items()]
    assert found == [(32, 32, 3, 16, 1, 1), (32, 32, 16, 16, 1, 6), (32, 32, 16, 32, 2, 1),
                     (16, 16, 32, 32, 1, 5), (16, 16, 32, 64, 2, 1), (8, 8, 64, 64, 1, 5)]


def test_groups_and_what_reads_the_images():
    net = models.create('resnext50_32x4d', blocks=(1, 1), widths=(64, 128))
    found = list(convolution_speed.convolutions(net, (1, 64, 64, 3)))
    assert [conv.first for conv in found] == [True] + [False] * (len(found) - 1)
    grouped = next(conv for conv in found if conv.groups > 1)
    assert (grouped.groups, grouped.kernel) == (32, (3, 3, 4, 128))
    assert grouped.flops() == 2 * 16 * 16 * 128 * 9 * 4
    assert grouped.title() == '16x16x128, 3x3, 32 groups to 128'


def test_what_is_timed_are_the_gradients():
    """Of the sum of outputs times g: it is linear in x and in the kernel."""
    conv = Convolution((2, 5, 5, 3), 4, (3, 3), (2, 2), (1, 1), (1, 1), 1, False)
    x, kernel, g = convolution_speed.arrays(conv)
    parts = convolution_speed.ours(conv, 'float32')
    expected = np.vdot(conv.apply(jnp.asarray(x), jnp.asarray(kernel)), g)
    assert parts.keys() == {'forward', 'dx', 'dw'}
    gradients = [np.asarray(parts[part]()) for part in ('dx', 'dw')]
    for values, gradient in zip((x, kernel), gradients, strict=True):
        assert np.vdot(values, gradient) == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def config():
    config = configs.get_config()
    config.image_size, config.batch_size, config.rounds, config.step_rounds = 8, 2, 1, 0
    config.network = 'convnet'
    return config


def test_a_run_writes_its_table_and_its_picture(config, tmp_path, monkeypatch):
    monkeypatch.setattr(convolution_speed, 'load_torch', lambda: None)
    config.image_size = models.create('convnet').image_shape[0]
    convolution_speed.run(config, tmp_path)
    results = json.loads((tmp_path / 'convolution_speed.json').read_text())
    first, *others = results['rows']
    assert first['first']
    assert 'dx' not in first['cnnjax']
    assert all(row['cnnjax'].keys() == {'forward', 'dx', 'dw'} for row in others)
    assert results['sums']['cnnjax']['forward'] == pytest.approx(sum(
        row['count'] * row['cnnjax']['forward']['median'] for row in results['rows']))
    text = (tmp_path / 'convolution_speed.md').read_text()
    assert all(f'| {row["title"]} |' in text for row in results['rows'])
    assert (tmp_path / 'figures' / 'convolution_speed.png').stat().st_size > 10_000


def test_the_table_of_both_sides():
    def times(seconds):
        return {'median': seconds, 'quartiles': [seconds, seconds]}

    rows = [{'title': '8x8x4, 3x3 to 4', 'count': 3, 'flops': 10 ** 9,
             'cnnjax': {part: times(0.004) for part in convolution_speed.PARTS},
             'torch': {part: times(0.002) for part in convolution_speed.PARTS}}]
    text = convolution_speed.table({'rows': rows, 'sums': convolution_speed.sums(rows),
                               'step': times(0.048)})
    assert '| 3 | 1 | 4.00 (4.00 to 4.00) | 250 | 2.00 | 2.00 |' in text
    assert '| all convolutions | 36.0 | 75% | 18.0 | 18.0 |' in text
    assert '| the rest | 12.0 | 25% |  |  |' in text


@pytest.mark.parametrize(('field', 'value', 'message'), [
    ('network', 'resnet21', 'resnet20'), ('clock', 'sun', "clock='sun' is none of 'wall'"),
    ('dtype', 'int8', "dtype='int8' is none of"), ('rounds', 0, 'take 1')])
def test_what_does_not_fit_is_refused(config, tmp_path, field, value, message):
    config[field] = value
    with pytest.raises(UserError, match=message):
        convolution_speed.run(config, tmp_path)
