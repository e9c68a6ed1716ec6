"""Figures show what they say: the examples of the first step, the worst images, the confusions."""

import csv
import itertools
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnnjax import (
    charts,
    curves,
    data,
    evaluate,
    figures,
    overlays,
    plots,
    predict,
    report,
    step,
    train,
    trained,
)
from cnnjax.data import geometry
from configs import base
from tests.detector import Lights

CLASSES = ('background', 'bright')
NORMALIZE = data.Normalization(np.float32([0.401, 0.5, 0.6]), np.float32([0.25]))


class Bright(nn.Module):
    """Finds the pixels whose first channel is above 0, if valid only those of the middle."""

    num_classes: int = 2
    valid: bool = False

    @nn.compact
    def __call__(self, images, train=False):
        scale = self.param('scale', nn.initializers.ones, ())
        if self.valid:
            images = images[:, 2:-2, 2:-2]
        logits = scale * jnp.concatenate([-images[..., :1], images[..., :1]], -1)
        return logits, {'logits': logits}


def source(count=12, side=8):
    """Noise; masks that are wrong in image i at i pixels of the 16 in its middle."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    masks = (images[..., 0] / 255 > 0.401).astype(np.uint8)
    for i in range(count):
        middle = masks[i, 2:6, 2:6].copy()
        middle.flat[:(5 * i) % count] ^= 1
        masks[i, 2:6, 2:6] = middle
    masks[:, :, -1] = geometry.IGNORE
    return data.from_arrays(images, CLASSES, mask=masks)


@pytest.fixture
def panels(monkeypatch):
    """{name of a figure: the rows of pictures that are drawn in it}"""
    drawn, draw = {}, figures.panels

    def spy(path, rows, titles, classes, groups=2, title=''):
        drawn[path.stem] = rows
        draw(path, rows, titles, classes, groups, title)

    monkeypatch.setattr(figures, 'panels', spy)
    return drawn


def test_the_first_batch_is_drawn_as_the_first_step_sees_it(panels, tmp_path):
    config = base.get_config()
    config.update(task='segment', batch_size=4, steps=2, flip=True, padding=2, seed=3)
    config.model.name = 'unet_padded'
    train_set = data.Resident(source(), data.Crops())
    made = train.build(config, CLASSES, train_set.shapes, NORMALIZE, 12)._replace(net=Bright())
    batches = train_set.train_batches(4, config.seed)
    batches = train.first_drawn(config, tmp_path, made, train_set, NORMALIZE, batches)
    batch = next(batches)
    np.testing.assert_array_equal(
        batch['index'], next(train_set.train_batches(4, config.seed))['index'])

    seen = {}

    def augment(*arguments):
        seen.update(made.augment(*arguments))
        return seen

    state = made.init(jax.random.key(0))
    made._replace(augment=augment).step(state, train_set.data, batch, train.run_keys(config)[1],
                                        None)
    images = 255 * np.clip(np.asarray(seen['image']) * 0.25 + [0.401, 0.5, 0.6], 0, 1)
    assert len(panels['first_batch']) == 4
    for (text, (image, painted)), expected, mask in zip(panels['first_batch'], images,
                                                        np.asarray(seen['mask']), strict=True):
        assert not text
        assert abs(image - expected).max() < 1
        np.testing.assert_array_equal(painted, overlays.overlay(image, mask))


def test_a_mixture_is_drawn_as_the_first_step_sees_it(monkeypatch, tmp_path):
    config = base.get_config()
    config.update(batch_size=12, steps=2, flip=True, padding=2, mixup=1.0)
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)
    train_set = data.Resident(data.from_arrays(images, CLASSES, label=np.arange(12) % 2),
                              data.Crops())
    made = train.build(config, CLASSES, train_set.shapes, NORMALIZE, 12)
    drawn = []
    monkeypatch.setattr(figures, 'first_batch', lambda *arguments: drawn.append(arguments[-1]))
    batch = next(train.first_drawn(config, tmp_path, made, train_set, NORMALIZE,
                                   train_set.train_batches(12, config.seed)))
    key = step.keys(train.run_keys(config)[1], 0)[0]
    whole = made.mix(key, made.augment(key, batch['position'], step.fetch(train_set.data, batch)))
    for name, values in whole.items():
        np.testing.assert_allclose(drawn[0][name], values[:8], atol=1e-6)
    assert 0 < whole['share'][0] < 1


@pytest.mark.parametrize(('targets', 'names'), [
    ({'label': [1, 0]}, ['bright', 'background']),
    ({'tags': np.uint8([[1, 1], [0, 0]])}, ['background, bright', 'none']),
    ({'label': [1, 0], 'other_label': [0, 0], 'share': np.float32([0.75, 0.25])},
     ['75% bright, 25% background', '25% background, 75% background'])])
def test_the_first_batch_of_a_classification_has_names(targets, names, monkeypatch, tmp_path):
    """Of one class, of any number, or of a mixture of two; the picture is the images with them."""
    written, captioned = [], overlays.captioned
    monkeypatch.setattr(overlays, 'captioned',
                        lambda image, text: written.append(text) or captioned(image, text))
    images = np.float32([np.full((8, 12, 3), 2.0), np.full((8, 12, 3), -2.0)])
    task = SimpleNamespace(draw=None)
    monkeypatch.setattr(overlays, 'entitled',
                        lambda image, text: written.append(text) or image)
    figures.first_batch(tmp_path, 'a: vgg16 on b', task, CLASSES, NORMALIZE,
                        {'image': images, **targets})
    assert written == [*names, 'a: vgg16 on b: the first batch']
    with Image.open(tmp_path / 'figures' / 'first_batch.png') as picture:
        drawn = np.asarray(picture)
    height, width = 14 * 8, 14 * 12  # twelve pixels become at least 160
    first, second = drawn[:, :width], drawn[:, width + 4:]
    assert drawn.shape == (height + 21, 2 * width + 4, 3)
    np.testing.assert_array_equal(first[:height], np.full((height, width, 3), [230, 255, 255]))
    assert (second[:height] == [0, 0, 26]).all()
    assert (first[height:] < 50).any()
    assert (first[height:] > 250).mean() > 0.6


@pytest.mark.parametrize('valid', [False, True])
@pytest.mark.parametrize('kind', ['resident', 'stream'])
def test_the_worst_images_and_the_confusions(valid, kind, panels, tmp_path):
    net, own = Bright(valid=valid), source()
    network = trained.Trained(net, {'params': {'scale': np.float32(1)}}, NORMALIZE, CLASSES,
                              (8, 8, 3), None, '', {'task': 'segment'})
    examples = (data.Resident(own, data.Crops()) if kind == 'resident' else
                data.Stream(own, data.Crops(8, shorter_side=(8, 8)), threads=1))
    results = evaluate.evaluate(network, examples, devices=2, batch_size=5)
    figures.evaluation(tmp_path, network, examples, results)

    part = slice(2, -2) if valid else slice(None)
    matrix, ious = np.zeros((2, 2), int), []
    for example in own.examples:
        found = example['image'][part, part, 0] / 255 > 0.401
        truth = example['mask'][part, part]
        counts = truth != geometry.IGNORE
        each = np.zeros((2, 2), int)
        np.add.at(each, (truth[counts], found[counts].astype(int)), 1)
        matrix += each
        ious.append((each.diagonal() / (each.sum(0) + each.sum(1) - each.diagonal())).mean())
    np.testing.assert_allclose(results['image_iou'], ious, rtol=1e-6)
    np.testing.assert_array_equal(results['confusion'], matrix)
    with open(tmp_path / 'confusion.csv') as file:
        assert list(csv.reader(file)) == [
            ['truth / prediction', *CLASSES],
            *([name, *map(str, row)] for name, row in zip(CLASSES, matrix, strict=True))]

    order = np.argsort(ious, stable=True)[:8]
    said = [text.split(', mean IoU ') for text, _ in panels['worst']]
    assert [name for name, _ in said] == [f'image {i}' for i in order]
    np.testing.assert_allclose([float(iou) for _, iou in said], np.sort(ious)[:8], atol=0.0051)
    for i, (_, (image, truth, prediction)) in zip(order, panels['worst'], strict=True):
        example = own.examples[i]
        np.testing.assert_array_equal(image, example['image'])
        np.testing.assert_array_equal(truth, overlays.overlay(image, example['mask']))
        found = np.full((8, 8), geometry.IGNORE, np.uint8)
        found[part, part] = image[part, part, 0] / 255 > 0.401
        np.testing.assert_array_equal(prediction, overlays.overlay(image, found))
    assert [text.split(',')[0] for text, _ in panels['predictions']] == [
        f'image {i}' for i in data.spread(12, 8)]


def test_an_image_without_a_pixel_that_counts_is_not_the_worst():
    own = source()
    masks = np.stack([example['mask'] for example in own.examples])
    masks[4] = geometry.IGNORE
    images = np.stack([example['image'] for example in own.examples])
    network = trained.Trained(Bright(), {'params': {'scale': np.float32(1)}}, NORMALIZE, CLASSES,
                              (8, 8, 3), None, '', {'task': 'segment'})
    results = evaluate.evaluate(network, data.Resident(
        data.from_arrays(images, CLASSES, mask=masks), data.Crops()), devices=1)
    assert np.isnan(results['image_iou'][4])
    assert np.argsort(results['image_iou'])[-1] == 4
    assert np.isfinite(results['mean_iou'])


def test_the_numbers_of_a_confusion_matrix(tmp_path, monkeypatch):
    """In percent of each row; a class without a pixel has none. Large matrices have no numbers."""
    saved = []
    monkeypatch.setattr(plots, 'save', lambda figure, path: saved.append(figure))
    charts.confusion(tmp_path, np.array([[30, 10, 0], [0, 0, 0], [1, 2, 5]]), ('a', 'b', 'c'))
    charts.confusion(tmp_path, np.eye(60, dtype=int), tuple(map(str, range(60))))
    texts = [{text.get_position(): text.get_text() for text in figure.axes[0].texts}
             for figure in saved]
    assert texts == [{(0, 0): '75.0', (1, 0): '25.0', (0, 2): '12.5', (1, 2): '25.0',
                      (2, 2): '62.5'}, {}]
    for figure in saved:
        assert max(figure.get_size_inches()) < 12


def test_charts_say_what_they_count_and_of_which_network(tmp_path, monkeypatch):
    saved, save = [], plots.save
    monkeypatch.setattr(plots, 'save', lambda figure, path: saved.append(figure) or save(
        figure, path))
    title = 'runs/outlines (resnet20) on digit_outlines, test set'
    long = tuple(f'class number {i} with a long name' for i in range(12))
    charts.confusion(tmp_path, np.eye(12, dtype=int), long, 'sequences', title)
    charts.reliability(tmp_path, np.array([[5, 0.2, 0.4], [7, 0.9, 0.8]]), 'sequences', title)
    charts.precision_recall(tmp_path, np.ones((12, 101)), long, title)
    assert [figure.get_suptitle().replace('\n', ' ') for figure in saved] == [title] * 3
    matrix, bar = saved[0].axes
    assert bar.get_ylabel() == "% of the truth's sequences"
    assert saved[1].axes[1].get_ylabel() == 'sequences'
    assert {text.get_text() for text in saved[1].legends[0].get_texts()} == {
        'calibrated', 'right answers', 'from there to the mean probability'}
    for axis in (matrix.xaxis, matrix.yaxis):  # Turned names are wider boxes than their letters.
        labels = axis.get_ticklabels()
        assert [label.get_text() for label in labels[:10]] == [
            f'class number {i} wi…' for i in range(10)]
        inside = [label.get_window_extent() for label in labels]
        assert all(saved[0].bbox.contains(box.x0, box.y0) for box in inside)
    heights = [label.get_window_extent() for label in matrix.yaxis.get_ticklabels()]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(heights, 2))


def test_panels_cut_their_texts_and_wrap_their_title(tmp_path, monkeypatch):
    saved, save = [], plots.save
    monkeypatch.setattr(plots, 'save', lambda figure, path: saved.append(figure) or save(
        figure, path))
    picture = np.zeros((8, 8, 3), np.uint8)
    rows = [(f'truth: {"a long name " * 9}\nprobability: 0.5', [picture])] * 3
    title = 'runs/a (resnet20) on a data set, test set: examples spread evenly over the set'
    figures.panels(tmp_path / 'a.png', rows, ('image',), groups=3, title=title)
    heading, *texts = saved[0].texts
    assert heading.get_text().replace('\n', ' ') == title
    boxes = [text.get_window_extent() for text in (heading, *texts)]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= saved[0].bbox.x1 for box in boxes)
    assert all('…\nprobability: 0.5' in text.get_text() for text in texts)


def test_reports_that_were_cut_short_are_written_again(tmp_path, monkeypatch):
    """What tells a finished run that its report is there is written last."""
    network = trained.Trained(Bright(), {'params': {'scale': np.float32(1)}}, NORMALIZE, CLASSES,
                              (8, 8, 3), None, '', {'task': 'segment'})
    examples = data.Resident(source(), data.Crops())
    results = evaluate.evaluate(network, examples, devices=1)
    (tmp_path / report.RESULTS).write_text('of an earlier step')
    for drawing in ('panels', 'save'):
        with monkeypatch.context() as patch:
            patch.setattr(figures if drawing == 'panels' else plots, drawing, None)
            with pytest.raises(TypeError):
                report.write(tmp_path, network, examples, results, {
                    'source': 'runs/a', 'dataset': 'noise', 'split': 'test'})
        assert not report.complete(tmp_path)


def test_names_of_classes_are_no_formulas_and_may_be_of_any_script(tmp_path):
    charts.confusion(tmp_path, np.eye(4, dtype=int), ('$5_$', r'$\frac$', '猫', 'a\r'))
    assert (tmp_path / 'figures' / 'confusion.png').exists()


def test_a_task_that_draws_nothing_has_no_figures(tmp_path):
    network = trained.Trained(Bright(), {}, NORMALIZE, CLASSES, (8, 8, 3), None)  # it classifies
    figures.evaluation(tmp_path, network, None, {})
    assert not list(tmp_path.iterdir())


SHAPES = ('red', 'green')


def detecting(count=10):
    """(a detector that finds what is bright, and pictures of 24 x 32 pixels, whose true boxes are
    off by i pixels in picture i; the last has no object)"""
    rng = np.random.default_rng(0)
    images = np.full((count, 24, 32, 3), 30, np.uint8)
    boxes, labels = np.zeros((count, 2, 4)), np.full((count, 2), -1)
    for i in range(count - 1):
        for c in range(2):
            left, top, width, height = *rng.integers(0, (12, 8)), 20 - 9 * c, 16
            images[i, top:top + height, left:left + width, c] = 250
            boxes[i, c] = left, top, left + width - i, top + height
            labels[i, c] = c
    ignore = np.zeros((count, 2), bool)
    ignore[0, 1] = True
    normalize = data.Normalization(np.float32([0.5]), np.float32([0.2]))
    network = trained.Trained(Lights(), {}, normalize, SHAPES, (32, 32, 3), None, '', {
        'task': 'detect', 'image_size': 32, 'fit': 'letterbox'})
    return network, data.from_arrays(images, SHAPES, boxes=boxes, labels=labels, ignore=ignore)


@pytest.mark.parametrize('kind', ['resident', 'stream'])
def test_truth_beside_detections(kind, panels, tmp_path):
    network, own = detecting()
    crops = data.Crops(32, fit='letterbox')
    examples = (data.Resident(own, crops) if kind == 'resident' else
                data.Stream(own, crops._replace(shorter_side=(24, 24)), threads=1))
    results = evaluate.evaluate(network, examples, devices=1)
    figures.evaluation(tmp_path, network, examples, results)
    values = results['image_f1']
    assert np.isnan(values[-1])
    order = np.argsort(values, stable=True)[:8]
    assert [text for text, _ in panels['worst']] == [
        f'image {i}, F1 {values[i]:.2f}' for i in order]
    assert panels['predictions'][-1][0] == 'image 9'  # It has neither objects nor detections.
    for i, (_, (truth, prediction)) in zip(order, panels['worst'], strict=True):
        example = own.examples[i]
        np.testing.assert_array_equal(truth, overlays.boxes(
            example['image'], example['boxes'], example['labels'], SHAPES,
            ignore=example['ignore']))  # The letterbox's border is not drawn.
        found = predict.detections(network, example['image'])
        sure = np.where(found['scores'] >= 0.25, found['labels'], -1)  # the red one alone
        assert (sure >= 0).tolist() == [True, False]
        np.testing.assert_array_equal(prediction, overlays.boxes(
            example['image'], found['boxes'], sure, SHAPES, scores=found['scores']))
    with open(tmp_path / 'confusion.csv') as file:
        assert next(csv.reader(file)) == ['truth / prediction', *SHAPES, 'background']
    assert (tmp_path / 'figures' / 'precision_recall.png').exists()


def test_precision_and_recall(tmp_path, monkeypatch):
    """A class without an object has no line; the mean of a line is the AP50."""
    saved = []
    monkeypatch.setattr(plots, 'save', lambda figure, path: saved.append(figure))
    precision = np.array([np.linspace(1, 0, 101), np.full(101, np.nan), np.ones(101)])
    charts.precision_recall(tmp_path, precision, ('a', 'b', 'c'))
    charts.precision_recall(tmp_path, np.ones((30, 101)), tuple(map(str, range(30))))
    few, many = (figure.axes[0] for figure in saved)
    assert [text.get_text() for text in few.get_legend().get_texts()] == [
        'a  0.500', 'c  1.000', 'mean  0.750']
    np.testing.assert_allclose(few.lines[-1].get_ydata(), (1 + np.linspace(1, 0, 101)) / 2)
    assert [text.get_text() for text in many.get_legend().get_texts()] == [
        '30 classes', 'mean  1.000']


def test_a_confusion_matrix_with_background(tmp_path):
    charts.confusion(tmp_path, np.array([[3, 1, 0], [0, 2, 2], [1, 0, 0]]), SHAPES)
    with open(tmp_path / 'confusion.csv') as file:
        assert list(csv.reader(file)) == [
            ['truth / prediction', 'red', 'green', 'background'], ['red', '3', '1', '0'],
            ['green', '0', '2', '2'], ['background', '1', '0', '0']]


def test_the_average_precision_of_a_detector_is_drawn(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(plots, 'save', lambda figure, path: saved.append(figure))
    rows = [{'epoch': i, 'learning_rate': 0.1, 'train/loss': 2.0, 'train/box_loss': 1.0,
             'test/error': 0.3, 'test/ap': 0.5, 'test/ap50': 0.7, 'test/ap/a': 0.1,
             'test/ap50/a': 0.6} for i in range(3)]
    curves.training(rows, tmp_path / 'curves.png')
    losses, results = saved[0].axes[:2]
    assert [line.get_label() for line in losses.lines] == ['train', 'box loss']
    assert {line.get_label(): line.get_ydata()[0] for line in results.lines} == {
        'a': 0.6, 'AP50': 0.7, 'AP': 0.5}
