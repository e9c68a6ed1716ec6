"""Detection: its results, and detectors that are trained, loaded and evaluated."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import (
    average_precision,
    data,
    evaluate,
    figures,
    memory,
    models,
    tasks,
    train,
    trained,
    weights,
)
from cnnjax.data import digit_scenes
from cnnjax.errors import UserError
from cnnjax.tasks import detect
from configs import evaluate as evaluate_config
from experiments import evaluate as experiment
from tests import test_step
from tests.conftest import DETECTOR
from tests.detector import Grid
from tests.kill import rows
from tests.test_average_precision import golden
from tests.test_train import changed


def test_golden_results():
    found = detect.results({}, golden(), 3, ('A', 'B', 'absent'))
    assert found['error'] == pytest.approx(1 - 0.822112, abs=1e-6)
    numbers = {name: found[name] for name in ('ap', 'ap50', 'ap_small', 'ar10', 'recall', 'ap/A',
                                              'ap/B', 'ap50/A', 'voc07_map', 'voc_map')}
    assert numbers == pytest.approx({
        'ap': 0.630413, 'ap50': 0.822112, 'ap_small': 0.55, 'ar10': 0.75, 'recall': 1,
        'ap/A': 0.360825, 'ap/B': 0.9, 'ap50/A': 0.644224, 'voc07_map': (0.642424 + 1) / 2,
        'voc_map': (0.644444 + 1) / 2}, abs=1e-6)
    assert found['ap_error'] == 1 - found['ap']
    assert found['voc07_error'] == 1 - found['voc07_map']
    assert not {'ap_large', 'ar_large', 'ap/absent', 'ap50/absent'} & found.keys()
    assert np.isnan(found['precision'][2]).all()
    assert (found['confusion'].shape, found['image_f1'].shape) == ((4, 4), (3,))
    assert all(isinstance(value, float) for value in evaluate.numbers(found).values())
    with pytest.raises(UserError, match='no image of the set to evaluate has an object'):
        detect.results({}, golden() | {'true_ignore': np.ones((3, 4), bool)}, 3, ('A', 'B'))


def test_what_is_known_of_the_objects_is_kept():
    """Sizes of masks, and objects that do not count, such as those that are difficult to see."""
    net = Grid(3, 4)
    images = jnp.zeros((2, 8, 8, 3))
    variables = net.init(jax.random.key(0), images)
    examples = {'image': images, 'boxes': jnp.array([[[1.0, 2, 3, 8]]] * 2),
                'labels': jnp.array([[0], [2]])}
    _, kept = detect.observe(net, lambda *a, **b: net.apply(variables, *a, **b), examples)
    assert kept['true_area'].tolist() == [[12], [12]]
    assert kept['true_ignore'].tolist() == [[False], [False]]
    examples |= {'area': jnp.array([[5.0], [6]]), 'ignore': jnp.array([[True], [False]])}
    _, kept = detect.observe(net, lambda *a, **b: net.apply(variables, *a, **b), examples)
    assert kept['true_area'].tolist() == [[5], [6]]
    assert kept['true_ignore'].tolist() == [[True], [False]]


def test_nothing_is_detected_where_a_picture_was_cut_off():
    """Of 8 x 16 pixels the image has the middle 8 x 8, and so it is in training."""
    net, images = Grid(3, 4), jnp.zeros((1, 8, 8, 3))
    variables = net.init(jax.random.key(0), images)
    examples = {'image': images, 'frame': jnp.array([[-4.0, 0, 12, 8]]),
                'size': jnp.array([[8.0, 16]]), 'boxes': jnp.array([[[0.0, 2, 8, 8]]]),
                'labels': jnp.array([[1]])}
    _, kept = detect.observe(net, lambda *a, **b: net.apply(variables, *a, **b), examples)
    assert kept['true_boxes'].tolist() == [[[4, 2, 12, 8]]]
    found = kept['boxes'][kept['labels'] >= 0]
    assert (found[:, 0].min(), found[:, 2].max()) == (4, 12)


@pytest.mark.parametrize(('fields', 'message'), [
    ({'model.name': 'resnet20', 'model.width': None, 'model.widths': (4, 4, 4)},
     r"the network has scores, \[10\] for an image, and no boxes: .* such as 'faster_rcnn_small'"),
    ({'task': 'classify', 'dataset': 'digits'}, "the network finds boxes: .* take task='detect'"),
    ({'task': 'segment'}, "the network finds boxes: .* take task='detect'"),
    ({'task': 'detec'}, 'one of classify, multilabel, segment, detect, .* did you mean detect'),
    ({'dataset': 'digits'}, 'boxes'),
    ({'loss': 'focal'}, 'loss=focal: a detector has a loss of its own'),
    ({'class_weights': (1.0,) * 10}, r'class_weights=\(.* a detector has a loss of its own'),
    ({'label_smoothing': 0.1}, 'label_smoothing=0.1: a detector has a loss'),
    ({'weight_map': 1.0}, 'weight_map=1.0: a detector has a loss'),
    ({'model.name': 'yolo_v1_small', 'model.width': None, 'model.head': 'fc', 'crop_size': 24},
     'the test images have 32 x 32 pixels, which the network, trained on 24 x 24, cannot take'),
    ({'model.width': 2 ** 16}, 'Grid has [0-9,]+ parameters, more than the memory holds')])
def test_what_does_not_fit_is_said_before_anything_is_written(detecting, fields, message, tmp_path,
                                                              monkeypatch):
    monkeypatch.setattr(memory, 'device', lambda: 2 ** 34)
    config = detecting.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=message):
        train.train(config, tmp_path / 'run')
    assert not (tmp_path / 'run' / 'config.json').exists()


def test_detections_that_break_the_contract_are_refused():
    class Counts(Grid):
        def detections(self, outputs):
            return {**super().detections(outputs), 'labels': outputs['scores'][:, :6]}

    outputs = jax.eval_shape(lambda key, images: Counts().init_with_output(key, images)[0][0],
                             jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    tasks.create('detect', Grid()).check(outputs, {}, range(10))
    for net, classes, message in ((Counts(), 10, 'Counts.detections returns arrays of the wrong'),
                                  (Grid(), 9, 'the network finds 10 classes, the data has 9')):
        with pytest.raises(UserError, match=message):
            tasks.create('detect', net).check(outputs, {}, range(classes))


def test_a_detector_is_trained_loaded_and_evaluated(detecting, tmp_path, capsys, monkeypatch):
    config = changed(detecting, devices=2, steps=24, eval_every=12.0, checkpoint_every=12.0,
                     learning_rate=0.02, model__width=8, padding=0, flip=False)
    train.train(config, tmp_path / 'run')
    last = rows(tmp_path / 'run')[-1]
    assert f'test/ap50 {100 * last["test/ap50"]:.2f}%' in capsys.readouterr().out
    assert {'train/loss', 'train/places', 'test/error', 'test/ap', 'test/ap50', 'test/ar100',
            'test/voc07_map', 'test/recall', 'test/ap/3', 'test/ap50/3'} <= last.keys()
    assert not {'test/confusion', 'test/precision', 'test/image_f1'} & last.keys()
    assert last['test/error'] == pytest.approx(1 - last['test/ap50'])
    assert last['test/recall'] > 0

    network = trained.load(tmp_path / 'run', 'latest')
    assert network.task == 'detect'
    source = data.load('digit_scenes', 'test', target='boxes')
    crops = data.Crops(32)
    examples = [crops.center(example) for example in source.examples]
    images, boxes, labels = (np.stack([example[name] for example in examples])
                             for name in ('image', 'boxes', 'labels'))
    found = jax.device_get(network.net.detections(network(images)))
    # The scenes have 64 x 64 pixels.
    kept = {**found, 'boxes': 2 * found['boxes'], 'true_boxes': 2 * boxes, 'true_labels': labels,
            'true_ignore': labels < -1,
            'true_area': 4 * np.prod(boxes[..., 2:] - boxes[..., :2], -1)}
    expected = average_precision.coco(kept, 10).numbers
    assert {name: last[f'test/{name}'] for name in expected} == pytest.approx(expected, abs=1e-6)
    results = evaluate.evaluate(network, source, batch_size=3)
    assert results['count'] == 10
    assert results['confusion'].sum() >= (labels >= 0).sum()
    assert results['error'] == pytest.approx(last['test/error'])

    weights.save(network, tmp_path / 'weights.safetensors')  # Files know their task, too.
    again = trained.load(tmp_path / 'weights.safetensors', name=f'{DETECTOR}:Grid')
    assert again.task == 'detect'
    results = evaluate.evaluate(again, data.Resident(source, crops))
    assert results['error'] == pytest.approx(last['test/error'])
    with pytest.raises(UserError, match='task=detect learns from boxes for each image, and the '
                                        'examples have only image, label'):
        evaluate.evaluate(network, data.from_arrays(images, network.classes, label=labels[:, 0]))

    monkeypatch.setattr(figures, 'evaluation', lambda *_: [])
    asked = evaluate_config.get_config()
    asked.update(source=str(tmp_path / 'run'), checkpoint='latest')
    experiment.run(asked, tmp_path / 'evaluation')
    values = json.loads((tmp_path / 'evaluation' / 'results.json').read_text())
    assert values['ap50'] == pytest.approx(last['test/ap50'])

    few = {split: data.Source([{**example, 'labels': np.minimum(example['labels'], 1)}
                               for example in data.load('digit_scenes', split, target='boxes')
                               .examples], ('zero', 'more')) for split in ('train', 'test')}
    capsys.readouterr()
    train.train(changed(config, init_from=str(tmp_path / 'run'), steps=1), tmp_path / 'other', few)
    assert 'the last layer is new, for the classes of the data' in capsys.readouterr().out
    head = train.transfer.head(network.net, (32, 32, 3))
    assert head == {'cells'}
    params = trained.load(tmp_path / 'other', 'latest').variables['params']
    assert params['cells']['kernel'].shape[-1] == 7


@pytest.mark.parametrize(('name', 'fields'), [
    ('yolo_v1_small', {'widths': ((2,), (2,), (2,), (4, 2, 4)), 'norm': 'none'}),
    ('faster_rcnn_small', {'widths': (2, 4, 4), 'norm': 'none', 'rpn_width': 4, 'hidden': (4,)})])
def test_our_detectors_on_one_device_and_on_four(name, fields):
    """Which boxes are sampled depends on the example, not on the device that has it."""
    net = models.create(name, num_classes=3, **fields)
    one, four = (test_step.update(net, task='detect', devices=n, accumulate=2, steps=2)
                 for n in (1, 4))
    np.testing.assert_allclose(four[1], one[1], rtol=1e-5)
    test_step.assert_close(four[0].params, one[0].params, 1e-5)


def test_images_of_another_size_than_a_full_layer_takes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(digit_scenes, 'EXAMPLES', {'train': 4, 'test': 4})
    net = models.create('yolo_v1_small', widths=((2,), (2,), (2,), (4, 2, 4)), head='fc')
    variables = net.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    network = trained.Trained(net, variables, data.Normalization(*np.ones((2, 1), np.float32)),
                              tuple('0123456789'), (32, 32, 3), None, 'yolo_v1_small',
                              {'task': 'detect', 'image_size': 0})
    monkeypatch.setattr(trained, 'load', lambda *_: network)
    asked = evaluate_config.get_config()
    asked.update(source='weights', dataset='digit_scenes')
    with pytest.raises(UserError, match='images of 64 x 64 pixels do not fit this network, which '
                                        'was trained on 32 x 32'):
        experiment.run(asked, tmp_path)


@pytest.mark.parametrize(('name', 'examples', 'message'), [
    ('fast_rcnn_vgg16', {'frame': 1}, 'judges boxes and finds none itself: set proposals'),
    ('faster_rcnn_small', {'proposals': 1}, 'FasterRCNN, takes no proposals: leave proposals out'),
    ('yolo_v1_small', {'frame': 1, 'proposals': 1}, 'YOLO, takes no proposals')])
def test_proposals_are_given_to_networks_that_judge_them_alone(name, examples, message):
    with pytest.raises(UserError, match=message):
        detect.inputs(models.create(name), examples)
