"""Our side of the benchmark: its rows, tables and figure. The tests do not need PyTorch."""

import contextlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import experiments.benchmark as package
from cnnjax.data.augment import FIELDS
from cnnjax.errors import UserError
from configs import base
from configs import benchmark as configs
from experiments.benchmark import benchmark, images, reading, runs, timing, training
from experiments.benchmark.timing import Unmeasured

TINY = {'model.widths': (4, 4), 'model.blocks': (1, 1), 'padding': 1}


@pytest.fixture
def config(monkeypatch):
    """Without PyTorch, with a tiny network, of which stochastic depth is measured."""
    # As if torch were not installed, though other tests may have imported it.
    monkeypatch.delattr(package, 'torch_steps', raising=False)
    for name in ('torch', 'experiments.benchmark.torch_steps'):
        monkeypatch.setitem(sys.modules, name, None)
    network = training.Network('cifar:resnet20', 8, 3, 4, 4, TINY,
                                         {'model.survival': 0.5})
    monkeypatch.setattr(training, 'NETWORKS', {'tiny': network})
    monkeypatch.setattr(training, 'IMAGES', {8: 16})
    monkeypatch.setattr(benchmark, 'SIZES', {False: (8, 8, 1)})
    config = configs.get_config()
    config.rounds, config.seconds = 1, 0.0
    return config


def results(directory):
    return json.loads((directory / 'results.json').read_text())


def test_images_are_timed_and_written(config, tmp_path, monkeypatch):
    monkeypatch.setattr(images, 'UNITS', 2)
    monkeypatch.setattr(reading, 'FILES', 6)
    config.rows, config.rounds = 'units_32, input_24:2, masks_24:3, boxes_24:4', 3
    benchmark.run(config, tmp_path)
    rows, text = results(tmp_path)['rows'], (tmp_path / 'results.md').read_text()
    assert set(rows) == {'units_32', 'input_24:2', 'masks_24:3', 'boxes_24:4'}
    for name, row in rows.items():
        low, high = row['cnnjax']['quartiles']
        assert 0 < low <= row['cnnjax']['seconds'] <= high
        assert row['ratios'] == {}
        assert f'| {name} | ' in text
    for name, batch in (('input_24:2', 2), ('masks_24:3', 3), ('boxes_24:4', 4)):
        assert f'| {batch / rows[name]["cnnjax"]["seconds"]:.4g} |' in text
    assert 'PyTorch' not in text


@pytest.mark.parametrize(('name', 'row', 'called'), [
    ('infer_resnet20:1', {'batch': 1}, 'resnet20, batch 1'),
    ('train_vgg16_bn_32', {'batch': 64}, 'vgg16_bn_32, batch 64'),
    ('style_256', {}, 'style, 256 pixels'),
    ('masks_320:8', {'batch': 8}, 'masks, 320 pixels, batch 8')])
def test_the_picture_says_what_numbers_of_rows_are(name, row, called):
    assert benchmark.called(name, row) == called


def test_masks_and_boxes_that_are_read(tmp_path, monkeypatch):
    """Of masks one part is seen, at the scale of 24 to 48 pixels; of boxes all, at 12 to 18."""
    monkeypatch.setattr(reading, 'FILES', 6)
    reading.write(tmp_path)
    found = {}
    for name in ('masks', 'boxes'):
        with contextlib.closing(reading.batches(reading.KINDS[name], tmp_path, 24, 6)) as batches:
            found[name] = next(batches)
        assert (found[name]['image'].shape, found[name]['image'].dtype) == ((6, 24, 24, 3), 'uint8')
    mask = found['masks']['mask']
    assert (mask.shape, mask.dtype) == ((6, 24, 24), 'uint8')
    # Photographs have many gray levels, and the classes are those of VOC.
    assert all(len(np.unique(each)) > 3 for each in mask)
    assert mask.max() < 21
    boxes, labels, frame = (found['boxes'][name] for name in ('boxes', 'labels', 'frame'))
    files = (tmp_path / reading.VOC / 'Annotations').iterdir()
    counts = [file.read_text().count('<object>') for file in files]
    assert 1 <= min(counts) < max(counts) <= 13
    assert boxes.shape == (6, max(counts), 4)
    assert sorted((labels >= 0).sum(1)) == sorted(counts)
    assert labels.max() <= 20
    width, height = frame[:, 2:].round().T
    assert 12 <= min(height) < max(height) <= 18
    assert max(width) <= 24
    assert not any(image[int(side):].any() for image, side in
                   zip(found['boxes']['image'], height, strict=True))  # the border


def test_without_torchvision_our_side_reads_alone(monkeypatch):
    def missing(part):
        raise Unmeasured('no torchvision')

    monkeypatch.setattr(reading, 'FILES', 6)
    torch = SimpleNamespace(torch=None, networks=SimpleNamespace(torchvision=missing))
    setting = SimpleNamespace(torch=torch, measure=lambda sides, name: dict.fromkeys(sides, name))
    for name in ('input', 'masks', 'boxes'):
        assert benchmark.IMAGES[name](24, 2, setting) == {
            'cnnjax': f'{name}_24', 'batch': 2, 'missing': 'no torchvision'}


def test_a_network_is_timed_and_written(config, tmp_path, monkeypatch):
    """Its training, several steps in a program, inference, the loop, the start."""
    monkeypatch.setattr(runs, 'first_step', lambda command, programs: len(programs))
    config.rows, config.steps_per_call = 'train_tiny,infer_tiny:2,loop_tiny,compile_tiny', 2
    benchmark.run(config, tmp_path)
    found, text = results(tmp_path), (tmp_path / 'results.md').read_text()
    step, inference, loop, start = found['rows'].values()
    assert {'cnnjax', 'cnnjax_plain'} < set(step)
    assert step['ratios']['cnnjax_plain'] == (
        step['cnnjax_plain']['seconds'] / step['cnnjax']['seconds'])
    # 8 x 8 x 3 by 4; a block of 4 by 4, twice; one of 8 by 8; three classes.
    forward = 64 * 27 * 4 + 2 * 64 * 36 * 4 + 16 * 36 * 4 + 16 * 36 * 4 + 4 * 3
    assert step['flops'] == 3 * 2 * 4 * forward
    assert step['share_of_peak'] == pytest.approx(
        step['flops'] / step['cnnjax']['seconds'] / found['best']['flops'])
    assert step['efficiency'] * step['cnnjax']['seconds'] == (
        pytest.approx(step['bound']))
    assert step['memory']['cnnjax'] > 4 * 64 * 4 * 3
    assert inference['batch'] == 2
    assert loop['ratios']['loop'] == loop['loop']['seconds'] / loop['cnnjax']['seconds']
    assert start['cold'] > 0
    for name in found['rows']:
        assert f'| {name} |' in text
    assert (tmp_path / 'figures' / 'benchmark.png').stat().st_size > 10_000


def test_a_network_for_masks_is_timed_and_written(config, tmp_path, monkeypatch):
    network = training.NETWORKS['tiny']._replace(config='base', classes=2, plain={}, changes={
        'task': 'segment', 'model.name': 'unet_padded', 'model.norm': 'batch',
        'model.widths': (2, 3)})
    monkeypatch.setitem(training.NETWORKS, 'tiny', network)
    config.rows = 'train_tiny,infer_tiny:2,loop_tiny'
    benchmark.run(config, tmp_path)
    found = results(tmp_path)
    assert set(found['rows']) == {'train_tiny', 'infer_tiny:2', 'loop_tiny'}
    assert not found['missing']
    assert found['rows']['train_tiny']['memory']['cnnjax'] > 4 * 64 * 4 * 3


def test_a_detector_is_timed_and_written(config, tmp_path, monkeypatch):
    """Inference includes the suppression. With random samples in the loss there is no roofline."""
    network = training.NETWORKS['tiny']._replace(config='base', plain={}, changes={
        'task': 'detect', 'model.name': 'yolo_v1_small', 'model.groups': ((3,), (3,)),
        'model.widths': ((2,), (3,)), 'model.pools': 1})
    config.rows, seen = 'train_tiny,infer_tiny:2', []
    for sampled in (False, True):
        monkeypatch.setitem(training.NETWORKS, 'tiny', network._replace(sampled=sampled))
        benchmark.run(config, tmp_path / str(sampled))
        found = results(tmp_path / str(sampled))
        assert set(found['rows']) == {'train_tiny', 'infer_tiny:2'}
        assert not found['missing']
        seen.append('flops' in found['rows']['train_tiny'])
    assert seen == [True, False]


def test_sides_take_turns_and_are_compared(monkeypatch):
    calls, clock = [], iter(range(10**6))
    monkeypatch.setattr(timing, 'timed', lambda steps, count: steps(count) * next(clock))

    def side(name):
        return lambda count: calls.append((name, count)) or 1.0

    sides = {name: side(name) for name in ('cnnjax', 'torch')}
    result = timing.compare(sides, 'row', rounds=2, seconds=2.5)
    assert [name for name, _ in calls] == ['cnnjax'] * 3 + ['torch'] * 3 + [
        'cnnjax', 'cnnjax', 'torch', 'torch'] * 2
    # A step to warm up, then as many as take the turn: they last 1 and 4 seconds.
    assert calls[-4:] == [('cnnjax', 1), ('cnnjax', 3), ('torch', 1), ('torch', 1)]
    assert result['ratios'] == {'torch': result['torch']['seconds'] / result['cnnjax']['seconds']}
    result = timing.compare({'cnnjax': side('cnnjax')}, 'row', 2, 0.0, chance=True)
    assert calls[-1] == ('cnnjax', 4)


def test_a_row_that_cannot_be_measured_says_why_and_the_others_go_on(config, tmp_path,
                                                                     monkeypatch):
    def refuse(size, batch, setting):
        raise (Unmeasured('no such thing') if size == 8 else
               RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes'))

    def measured(size, batch, setting):
        side = {'seconds': 1.0, 'quartiles': [1.0, 1.0]}
        return {'cnnjax': side, 'torch': side, 'ratios': {'torch': 1.0}, 'missing': 'a part',
                'batch': batch}

    monkeypatch.setattr(benchmark, 'IMAGES', {'style': refuse, 'input': measured})
    config.rows, config.label = 'style_8,style_9,input_8', 'one'
    benchmark.run(config, tmp_path / 'one')
    assert results(tmp_path / 'one')['missing'] == {
        'style_8': 'no such thing', 'input_8': 'in PyTorch: a part',
        'style_9': 'out of memory: take a smaller batch (RESOURCE_EXHAUSTED: Out of memory '
                   'allocating 9 bytes)'}
    config.compare_to = str(tmp_path / 'one' / 'results.json')
    benchmark.run(config, tmp_path / 'two')
    text = (tmp_path / 'two' / 'results.md').read_text()
    assert '| PyTorch / cnnjax | one / now |' in text
    assert '| 1.00 | 1.00 |' in text
    assert '- style_8: no such thing' in text
    config.compare_to = str(tmp_path / 'one' / 'results.md')
    with pytest.raises(UserError, match='results.md is not a readable JSON file'):
        benchmark.run(config, tmp_path)


def test_the_first_step_is_waited_for():
    said = "print('digits'); print('first step after 2.0 s (compilation)')"
    assert 0 < runs.first_step([sys.executable, '-c', said], 'programs') < 60
    with pytest.raises(Unmeasured, match='the training ended: no data'):
        runs.first_step([sys.executable, '-c', "print('no data')"], 'programs')


def test_the_best_of_a_device():
    found = timing.best('float32', 32, 1024, 2)
    assert set(found) == {'flops', 'bytes'}
    assert min(found.values()) > 0


@pytest.mark.parametrize('rows', configs.ROWS)
def test_the_rows_of_the_config(rows):
    """Each is known, once, and its recipe takes what the benchmark changes in it. Images are only
    moved and mirrored, as in PyTorch."""
    names = [name for row in configs.get_config(rows).rows.split(',')
             for name, *_ in benchmark.parse(row, accelerator=False)]
    assert len(set(names)) == len(names)
    plain = base.get_config()
    for name, network in training.NETWORKS.items():
        made = training.recipe(name, 4, 'float32', network.plain)
        assert (made.batch_size, made.stream, made.order) == (4, False, 'torch')
        changed = {field for field in FIELDS if made[field] != plain[field]}
        assert changed <= {'flip', 'padding'}
    with pytest.raises(ValueError, match='one of cifar, imagenet'):
        configs.get_config('some')


@pytest.mark.parametrize(('row', 'message'), [
    ('units', 'is none of train, infer'), ('singing_256', 'none of style, visualization, units'),
    ('units_big', 'is none of'), ('train_resnet21', 'train_resnet20 .resnet20, resnet110'),
    ('train_resnet20:none', 'a whole number'), ('style_64:2', 'has no batch')])
def test_an_unknown_row_is_refused(row, message, tmp_path):
    config = configs.get_config()
    config.rows = row
    with pytest.raises(UserError, match=message):
        benchmark.run(config, tmp_path)
