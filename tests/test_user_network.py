"""A network in the user's own file is trained, resumed, loaded and visualized like ours."""

import json

import jax
import numpy as np
import pytest

from cnnjax import checkpoint, models, train, trained, weights
from cnnjax.errors import UserError
from configs import evaluate as evaluate_config
from configs import features as features_config
from configs import summarize as summarize_config
from experiments import evaluate, features, summarize
from experiments import train as experiment
from tests.kill import assert_same_run, rows

SOURCE = '''"""A network that is none of ours."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn


class MyNet(nn.Module):
    num_classes: int
    growth: int = 3
    blocks: int = 2
    relu: Callable = nn.relu

    @nn.compact
    def __call__(self, images, train=False):
        taps, x = {}, images
        for i in range(self.blocks):
            x = taps[f'conv{i}'] = nn.Conv((i + 1) * self.growth, (3, 3), name=f'conv{i}')(x)
            x = nn.BatchNorm(use_running_average=not train, name=f'bn{i}')(x)
            x = taps[f'relu{i}'] = self.relu(x)
            x = nn.Dropout(0.1, deterministic=not train)(x)
        logits = taps['fc'] = nn.Dense(self.num_classes, name='fc')(x.mean((1, 2)))
        return logits, taps


class Other(MyNet):
    growth: int = 2
    image_shape = (8, 8, 1)


class Required(nn.Module):
    depth: int
    num_classes: int

    def __call__(self, images, train=False):
        return images, {}


def function(images):
    return images


class Bare(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(10)(images.mean((1, 2)))


class WithoutTrain(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, images):
        return nn.Dense(10)(images.mean((1, 2))), {}


class WithoutTaps(WithoutTrain):
    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(10)(images.mean((1, 2)))


class Scalar(MyNet):
    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(1)(images).mean(), {}


class Fixed(WithoutTrain):
    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(10)(images.mean((1, 2))), {}


class Boxes(MyNet):
    @nn.compact
    def __call__(self, images, train=False):
        return {'boxes': nn.Dense(10)(images)}, {}

    def detections(self, outputs):
        return outputs['boxes'] @ outputs


class Misfit(WithoutTrain):
    @nn.compact
    def __call__(self, images, train=False):
        return images @ images.mean((1, 2)), {}
'''


@pytest.fixture
def config(tiny, tmp_path, monkeypatch):
    """Trains the network MyNet of my_nets.py, which is in the working directory."""
    (tmp_path / 'my_nets.py').write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    with tiny.unlocked():
        tiny.model.name, tiny.model.widths = 'my_nets.py:MyNet', None
        tiny.model.growth = 4
        tiny.steps = 4
    return tiny


def test_it_trains_and_loads_from_anywhere(config, tmp_path, monkeypatch, capsys):
    experiment.run(config, tmp_path / 'run')
    assert rows(tmp_path / 'run')[-1]['step'] == 4
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    network = trained.load('../run')
    assert network.name == f'{tmp_path}/my_nets.py:MyNet'
    assert network.net.growth == 4
    assert list(network.taps(np.zeros((1, 8, 8, 1))))[:2] == ['conv0', 'relu0']

    results = evaluate_config.get_config()
    results.source, results.checkpoint = str(tmp_path / 'run'), 'latest'
    evaluate.run(results, tmp_path / 'evaluation')
    error = json.loads((tmp_path / 'evaluation' / 'results.json').read_text())['error']
    assert error == pytest.approx(rows(tmp_path / 'run')[-1]['test/error'])

    config = features_config.get_config()
    config.update(source=str(tmp_path / 'run'), dataset='digits', taps='relu1', iterations=9000)
    features.run(config, tmp_path / 'features')
    assert 'relu1' in json.loads((tmp_path / 'features' / 'results.json').read_text())['taps']
    capsys.readouterr()

    (tmp_path / 'my_nets.py').rename(tmp_path / 'moved.py')
    with pytest.raises(UserError, match=r"network MyNet in .*my_nets.py, and that file is gone: "
                                        r".*name='my_nets.py:MyNet'"):
        trained.load('../run')
    again = trained.load('../run', name='../moved.py:MyNet')
    assert again.name == f'{tmp_path}/moved.py:MyNet'
    images = np.random.default_rng(0).random((2, 8, 8, 1))
    np.testing.assert_array_equal(again(images), network(images))


def test_it_resumes_bit_for_bit(config, tmp_path, monkeypatch):
    train.train(config, tmp_path / 'whole')
    save = checkpoint.Checkpoints.save

    def save_and_die(self, step, *arguments):
        save(self, step, *arguments)
        self.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoints, 'save', save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train.train(config, tmp_path / 'killed')
    monkeypatch.setattr(checkpoint.Checkpoints, 'save', save)
    train.train(config, tmp_path / 'killed')
    assert_same_run(tmp_path / 'whole', tmp_path / 'killed', 4)


def test_a_change_of_its_file_is_told(config, tmp_path, capsys):
    with config.unlocked():
        config.steps = 2
    for steps, told in ((2, False), (3, False), (4, True)):
        with config.unlocked():
            config.steps = steps
        if told:
            path = tmp_path / 'my_nets.py'
            path.write_text(path.read_text() + '\n')
        train.train(config, tmp_path / 'run')
        assert ('the file of its network is not the one' in capsys.readouterr().out) == told
    starts = json.loads((tmp_path / 'run' / 'environment.json').read_text())
    assert len({start['network'] for start in starts}) == 2

    path.write_text(path.read_text().replace("name='fc'", "name='classifier'"))
    with config.unlocked():
        config.steps = 6
    with pytest.raises(UserError, match='checkpoint 4 .* is of another network .* Put it back'):
        train.train(config, tmp_path / 'run')


def test_another_training_starts_from_it(config, tmp_path):
    train.train(config, tmp_path / 'run')
    with config.unlocked():
        config.init_from, config.freeze, config.model.growth = str(tmp_path / 'run'), 'all', None
    train.train(config, tmp_path / 'more')
    before, after = (trained.load(tmp_path / name) for name in ('run', 'more'))
    assert after.net == before.net
    kernels = [network.variables['params']['conv0']['kernel'] for network in (before, after)]
    np.testing.assert_array_equal(*kernels)


def test_its_weights_are_a_file_that_runs_nothing(config, tmp_path):
    train.train(config, tmp_path / 'run')
    network = trained.load(tmp_path / 'run')
    weights.save(network, tmp_path / 'mine.safetensors')
    with pytest.raises(UserError, match=r"the user's own, my_nets.py:MyNet: .* name='my_nets.py"):
        trained.load(str(tmp_path / 'mine.safetensors'))
    again = trained.load(str(tmp_path / 'mine.safetensors'), name='my_nets.py:MyNet')
    assert again.net == network.net
    images = np.random.default_rng(0).random((2, 8, 8, 1))
    np.testing.assert_array_equal(again(images), network(images))


def test_it_is_summarized(config, tmp_path):
    config = summarize_config.get_config('my_nets.py:Other')
    summarize.run(config, tmp_path / 'summary')
    found = json.loads((tmp_path / 'summary' / 'summary.json').read_text())
    assert found['image_shape'] == [8, 8, 1]
    config = summarize_config.get_config('my_nets.py:MyNet')
    config.num_classes = 10
    with pytest.raises(UserError, match='MyNet has no image_shape: give the shape of the images'):
        summarize.run(config, tmp_path / 'summary')
    config.image_shape = (16, 16, 3)
    summarize.run(config, tmp_path / 'summary')


def test_the_same_file_gives_the_same_class(config, tmp_path):
    first = models.create('my_nets.py:MyNet', num_classes=3, dtype='float32')
    assert first == models.create(f'{tmp_path}/my_nets.py:MyNet', num_classes=3)
    assert models.fields('my_nets.py:MyNet', first.clone(growth=5)) == {'growth': 5}
    (tmp_path / 'my_nets.py').write_text(SOURCE.replace('growth: int = 3', 'growth: int = 7'))
    assert models.create('my_nets.py:MyNet', num_classes=3).growth == 7


@pytest.mark.parametrize(('name', 'fields', 'message'), [
    ('none.py:MyNet', {}, r"network 'none.py:MyNet': there is no file /.*none.py$"),
    ('my_nets.py', {}, "names a file: name the class in it too, as in my_nets.py:MyNet"),
    ('my_nets.py:MyNte', {}, r"my_nets.py has no class 'MyNte'; did you mean MyNet"),
    ('my_nets.py:Xyzzy', {}, r"no class 'Xyzzy'; it has MyNet, Other, Required"),
    ('my_nets.py:function', {}, 'function is no class of flax.linen modules, it is <function'),
    ('my_nets.py:Bare', {}, 'Bare has no field for the number of its outputs'),
    ('my_nets.py:WithoutTrain', {}, r"WithoutTrain.__call__: .*'train'; write `def __call__"),
    ('my_nets.py:Required', {}, 'my_nets.py:Required: give depth, which has no value of its own'),
    ('my_nets.py:MyNet', {'num_classes': 0}, 'num_classes=0: take 1 or a larger number'),
    ('my_nets.py:MyNet', {'grwth': 1}, "no field 'grwth'; did you mean growth"),
    ('my_nets.py:MyNet', {'num_classes': 2, 'dtype': 'bfloat16'}, "no field 'dtype'"),
])
def test_a_network_that_cannot_be_made(config, name, fields, message):
    with pytest.raises(UserError, match=message) as refused:
        models.create(name, **fields)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(('source', 'message'), [
    ('import no_such_module', 'my_nets.py, line 1: ModuleNotFoundError: No module'),
    ('\nclass MyNet(', 'my_nets.py, line 2: SyntaxError'),
    ('\n1 / 0', 'my_nets.py, line 2: ZeroDivisionError: division by zero'),
])
def test_a_mistake_in_the_file_is_told_with_its_line(config, tmp_path, source, message):
    (tmp_path / 'my_nets.py').write_text(source)
    with pytest.raises(UserError, match=message):
        models.create('my_nets.py:MyNet')


@pytest.mark.parametrize(('name', 'message'), [
    ('WithoutTaps', r'WithoutTaps.__call__ returns an array: write `def __call__.*activation}'),
    ('Fixed', r'Fixed has outputs of \(1, 10\) for num_classes=7: make its last layer as wide'),
    ('Scalar', r'Scalar has outputs of \(\) for num_classes=7'),
    ('Boxes', 'Boxes returns a dict, as a detector does, but it has no method loss'),
    ('Misfit', r'my_nets.py, line \d+: TypeError: '),
])
def test_a_call_that_breaks_the_contract(config, name, message):
    net = models.create(f'my_nets.py:{name}', num_classes=7)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), 'float32'))


def test_a_mistake_in_a_method_of_a_detector_is_told_with_its_line(config):
    with pytest.raises(UserError, match=r'my_nets.py, line \d+: TypeError: unsupported operand'):
        models.create('my_nets.py:Boxes', num_classes=7).detections({'boxes': 1})
