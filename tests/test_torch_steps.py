"""PyTorch's side of the benchmark. Needs torch, with which the benchmark compares."""

import contextlib
import functools
import importlib.util
import re

import jax
import numpy as np
import pytest

if importlib.util.find_spec('torch') is None:
    pytest.skip("torch is not installed: pip install -e '.[torch]'", allow_module_level=True)

import torch
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.utils import counters

from cnnjax import models, trained
from experiments.benchmark import images, reading, timing, torch_networks, torch_steps, training

# PyTorch's own code uses it.
pytestmark = pytest.mark.filterwarnings('ignore:.torch.jit.script_method:DeprecationWarning')
CIFAR = training.Network('cifar:resnet20', 32, 10, 4, 4)
SMALL = {
    'resnet': CIFAR._replace(side=8, changes={
        'model.widths': (4, 4), 'model.blocks': (1, 1), 'padding': 1}),
    'densenet': CIFAR._replace(config='cifar:densenet_bc_l100_k12', changes={
        'model.layers_per_block': (1, 1, 1), 'model.growth': 4, 'model.remat': True}),
    'fractalnet': CIFAR._replace(config='cifar:fractalnet20', changes={
        'model.columns': 2, 'model.widths': (4,) * 5, 'model.global_drop_path': 0.0}),
    'unet': CIFAR._replace(config='base', side=8, classes=2, changes={
        'task': 'segment', 'model.name': 'unet_padded', 'model.norm': 'batch',
        'model.widths': (2, 3)}),
    'yolo': CIFAR._replace(config='base', side=28, classes=3, changes={
        'task': 'detect', 'model.name': 'yolo_v1', 'model.image_shape': (28, 28, 3),
        'model.groups': ((3,), (3,)), 'model.widths': ((2,), (3,)), 'model.strided': (),
        'model.pools': 1, 'model.hidden': (4,)}),
}


@pytest.fixture
def compilations(monkeypatch):
    """The shapes of the arguments of each graph that torch.compile makes. They are not compiled to
    machine code, which would take long; one thread, because other tests run too."""
    monkeypatch.setattr(timing, 'cores', lambda: 1)
    torch.set_num_threads(1)
    found, whole = [], torch.compile

    def backend(graph, arguments):
        found.append([argument.shape for argument in arguments if hasattr(argument, 'shape')])
        return aot_eager(graph, arguments)

    monkeypatch.setattr(torch, 'compile', lambda function, mode: whole(function, backend=backend))
    return found


@pytest.fixture
def setting(monkeypatch, compilations):
    """Steps in bfloat16, because PyTorch asks for its device there. One object of four is none."""
    whole = training.examples

    def examples(name, batch):
        found = whole(name, batch)
        if 'labels' in found:
            found['labels'][:, 3] = -1
        return found

    monkeypatch.setattr(training, 'NETWORKS', SMALL)
    monkeypatch.setattr(training, 'IMAGES', dict.fromkeys((8, 28, 32), 8))
    monkeypatch.setattr(training, 'examples', examples)
    return timing.Setting(
        torch_steps, 'bfloat16', 1, 'default',
        functools.partial(timing.compare, rounds=2, seconds=0.0),
        lambda: {'flops': 1.0, 'bytes': 1.0}, set())


@pytest.mark.parametrize('name', ['resnet', 'yolo'])
def test_a_row_has_the_same_network_in_pytorch_eager_and_compiled(setting, name):
    row = training.training(name, 4, setting)
    assert set(row['ratios']) == {'torch', 'torch_compile'}
    assert 'missing' not in row


@pytest.mark.parametrize('name', SMALL)
def test_a_compiled_step_is_one_graph_and_is_compiled_once(setting, compilations, name):
    arrays = training.examples(name, 4)
    made = training.made_of(name, 4, setting.dtype, arrays)
    shapes, rng = jax.eval_shape(made.training.init, jax.random.key(0)), np.random.default_rng(0)
    variables = {part: jax.tree.map(lambda leaf: rng.normal(size=leaf.shape),
                                    getattr(shapes, part)) for part in ('params', 'batch_stats')}
    network = torch_networks.build(made.config.model.name, made.training.net, variables,
                                   SMALL[name].side)
    there = torch_steps.Data(arrays, made.normalize)
    for make in (functools.partial(torch_steps.training, network, there, made.config),
                 functools.partial(torch_steps.inference, network, there, 2, setting.dtype)):
        compilations.clear()
        make(compile_mode='default')(4)
        assert not counters['graph_break']
        assert counters['stats']['unique_graphs'] == len(compilations) == 1
        assert torch_steps.fault() == ''


def test_another_network_is_no_change_of_the_one_before(compilations):
    """The ninth would run eagerly, and the second with sizes that are variables."""
    for size in range(2, 12):
        factor = torch.ones(size)
        torch_steps.compiled(lambda x, factor=factor: factor * x, 'default')(torch.ones(3, size))
        assert torch_steps.fault() == ''
    assert sorted(compilations[-1]) == [(3, 11), (11,)]
    assert all(type(side) is int for shapes in compilations for shape in shapes for side in shape)


@pytest.mark.parametrize(('change', 'message'), [
    ('graph', r'^torch.compile: its graph breaks \(.*graph_break'),
    ('steps', '^torch.compile: it was compiled [23] times, because something changes'),
    ('later', '^torch.compile: it was compiled [23] times, because something changes'),
    ('error', '^torch.compile: no kernel$'), ('none', '^torch.compile: it was not compiled$'),
    ('skipped', '^torch.compile: 2 of its programs ran without CUDA graphs$')])
def test_a_time_of_what_was_not_compiled_is_no_time_of_torch_compile(setting, change, message):
    """The row keeps its other times. A time without CUDA graphs stays, with a note."""
    seen = []

    def double(x):
        if change == 'graph':
            torch._dynamo.graph_break()
        return x * (2 + len(seen))

    function = torch_steps.compiled(double, 'default')

    def step():
        if change == 'error':
            raise RuntimeError('no kernel\nsee the log')
        value = (double if change == 'none' else function)(torch.ones(2))
        if change == 'steps':
            seen.append(value)
        return value

    def later(*arguments, **options):
        seen.append(change)
        return timing.compare(*arguments, rounds=2, seconds=0.0, **options)

    def other(count):
        pass

    sides, facts = {'cnnjax': other, 'torch': other}, {}
    training.add_compiled(sides, facts, setting, timing.advance(step, torch_steps.wait))
    assert ('torch_compile' in sides) == (change in ('later', 'skipped'))
    if change == 'skipped':
        counters['inductor']['cudagraph_skips'] = 2
    if change == 'later':
        setting = setting._replace(measure=later)
    result = training.measure(sides, facts, setting, 'row')
    kept = {'torch', 'torch_compile'} if change == 'skipped' else {'torch'}
    assert set(result['ratios']) == kept
    assert set(result) == kept | {'cnnjax', 'ratios'}
    assert re.search(message, facts['missing'])


@pytest.mark.skipif(importlib.util.find_spec('torchvision') is None,
                    reason='torchvision is not installed: pip install torchvision')
def test_both_sides_read_the_same_examples(tmp_path, monkeypatch):
    """Each of three files comes twice in a batch of six, at random places, mirrored or not."""
    monkeypatch.setattr(reading, 'FILES', 3)
    reading.write(tmp_path)
    torch.manual_seed(1)
    ours, theirs = {}, {}
    for name, kind in reading.KINDS.items():
        with contextlib.closing(reading.batches(kind, tmp_path, 256, 6)) as batches:
            ours[name] = next(batches)
        theirs[name] = reading.torch_step(torch_steps, kind, tmp_path, 256, 6)()
    for name in ('input', 'masks'):
        images, targets = theirs[name]
        assert images.shape == (6, 3, 256, 256)
        assert images.min() < 0  # They are normalized.
    assert ours['masks']['mask'].shape == (6, 256, 256)
    assert (targets.shape, targets.dtype) == ((6, 1, 256, 256), torch.int64)
    assert abs(targets.float().mean() - ours['masks']['mask'].mean()) < 2
    images, targets = theirs['boxes']
    sides = np.array([image.shape[1:] for image in images])
    assert (sides[:, 0] >= 128).all()
    assert (sides <= 256).all()
    # Floats of the image are shares of white, and their detectors normalize them.
    assert 0 <= min(image.min() for image in images) < max(image.max() for image in images) <= 1
    read = ours['boxes']
    assert sorted(tuple(label[label >= 0].tolist()) for label in read['labels']) == sorted(
        tuple(target['labels'].tolist()) for target in targets)
    areas = [np.prod(read['boxes'][..., 2:] - read['boxes'][..., :2], -1).sum(1)
             / np.prod(read['frame'][:, 2:], -1),
             [(target['boxes'][:, 2:] - target['boxes'][:, :2]).prod(-1).sum() / side.prod()
              for target, side in zip(targets, sides, strict=True)]]
    # We count pixels from 0, and the last one is inside a box; theirs are whole numbers.
    np.testing.assert_allclose(*map(np.sort, areas), atol=0.02)


@pytest.mark.parametrize('pool', models.POOLS)
def test_both_sides_see_the_same_in_an_image(pool):
    """The rows that optimize images have the weights of the network that comes with cnnjax, and its
    pools, or VGG-19's."""
    network = trained.load('embedded')
    network = network._replace(net=network.net.clone(pool=models.POOLS[pool]))
    image = np.random.default_rng(0).random((1, 32, 48, 3), np.float32)
    layers = {'relu1_1', 'conv4_2'}
    expected = network.taps(image)
    found = images.Torch(torch_steps, network).taps(torch.tensor(image).permute(0, 3, 1, 2), layers)
    for layer in layers:
        np.testing.assert_allclose(found[layer].permute(0, 2, 3, 1), expected[layer], rtol=1e-3,
                                   atol=1e-4 * np.abs(expected[layer]).max())
