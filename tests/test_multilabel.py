"""Multi-label classification: its loss, its results and its runs."""

import csv
import json

import jax
import numpy as np
import pytest
from sklearn import metrics

from cnnjax import class_weights, data, evaluate, losses, tasks, train, trained
from cnnjax.data.tags import TaggedFiles
from cnnjax.errors import UserError
from cnnjax.tasks import multilabel
from cnnjax.tasks.task import WholeBatch
from cnnjax.tasks.training_loss import TrainingLoss
from experiments import train as experiment
from tests.kill import rows
from tests.test_losses import LOGITS, POSITIVE, TAGS
from tests.test_train import changed


def results(probabilities, tags, classes='abcdefg'):
    count = len(tags)
    sums = {'loss': np.float64(3.0), 'tag_error': ((probabilities >= 0.5) != tags).mean(-1).sum()}
    return multilabel.results(sums, {'probabilities': np.float32(probabilities),
                                     'tags': np.uint8(tags)}, count, classes)


def test_results_by_hand():
    """Of class a the images with it are first and third; class c has none."""
    found = results(np.array([[0.9, 0.8, 0.1], [0.7, 0.6, 0.6], [0.6, 0.1, 0.2], [0.1, 0.2, 0.3]]),
                    np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]), 'abc')
    assert found['ap/a'] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found['ap/b'] == 1.0
    assert 'ap/c' not in found
    assert found['absent'] == 1
    assert found['error'] == pytest.approx(1 - (5 / 6 + 1) / 2)
    assert found['ap'] == pytest.approx(1 - found['error'])
    assert found['tag_error'] == pytest.approx(2 / 12)
    assert found['exact_match'] == 3 / 4
    assert found['macro_f1'] == pytest.approx((4 / 5 + 1) / 2)
    assert found['micro_f1'] == pytest.approx(8 / 9)
    assert found['loss'] == 3 / 4


def test_results_with_ties():
    probabilities = np.round(np.random.default_rng(0).uniform(size=(40, 7)), 1)
    tags = np.random.default_rng(1).integers(0, 2, (40, 7))
    found = results(probabilities, tags)
    assert found['ap'] == pytest.approx(
        metrics.average_precision_score(tags, np.float32(probabilities), average='macro'))
    constant = results(np.full((40, 7), 0.5), tags)
    assert constant['ap'] == pytest.approx(tags.mean())  # a network that knows nothing


def test_the_f1_of_a_set_with_one_class():
    found = results(np.array([[0.9], [0.7], [0.2], [0.1], [0]]),
                    np.array([[1], [0], [1], [0], [0]]), 'a')
    assert found['micro_f1'] == found['macro_f1'] == pytest.approx(1 / 2)


def test_the_f1_is_scikit_learns():
    probabilities = np.random.default_rng(0).uniform(size=(40, 7))
    tags = np.random.default_rng(1).integers(0, 2, (40, 7))
    found = results(probabilities, tags)
    for kind in ('micro', 'macro'):
        assert found[f'{kind}_f1'] == pytest.approx(
            metrics.f1_score(tags, probabilities >= 0.5, average=kind))


def test_a_network_without_answers_has_results():
    """After an update with a rate that is too high; the next step says what to do."""
    tags = np.array([[1, 0], [0, 1], [0, 1]])
    found = results(np.full((3, 2), np.nan), tags, 'ab')
    assert found['ap'] == pytest.approx(1 / 2)
    assert found['micro_f1'] == 0


def test_a_set_without_any_class():
    with pytest.raises(UserError, match='no image has any of the classes'):
        results(np.zeros((3, 7)), np.zeros((3, 7), int))


def test_class_weights_multiply_the_tags_that_are_1():
    chosen = TrainingLoss((('cross_entropy', 1.0), ('focal', 0.5)),
                          class_weights=tuple(POSITIVE[0].tolist()), label_smoothing=0.1)
    expected = (losses.binary_cross_entropy(LOGITS, TAGS, 0.1, POSITIVE).mean()
                + 0.5 * losses.binary_focal(LOGITS, TAGS, 2.0, POSITIVE).mean())
    assert float(chosen.of_tags(WholeBatch(), LOGITS, TAGS)) == pytest.approx(float(expected))


def test_the_heads_of_a_network_learn_too():
    class Net:
        auxiliary = {'head': 0.3}

    value, (found, _) = tasks.create('multilabel', Net()).loss(
        lambda _: (LOGITS, {'head': 2 * LOGITS}, {}), {'image': None, 'tags': TAGS}, WholeBatch())
    own, head = (losses.binary_cross_entropy(logits, TAGS).mean() for logits in (
        LOGITS, 2 * LOGITS))
    assert float(found['loss']) == pytest.approx(float(own))
    assert float(value) == pytest.approx(float(own + 0.3 * head))
    assert float(found['tag_error']) == pytest.approx(((LOGITS >= 0) != TAGS).mean())


def test_a_run_from_its_arrays_to_its_report(tagging, tmp_path, capsys):
    config = changed(tagging, learning_rate=0.02, steps=24, eval_every=24.0, checkpoint_every=24.0)
    experiment.run(config, tmp_path)
    last = rows(tmp_path)[-1]
    assert last['train/loss'] < rows(tmp_path)[0]['train/loss']
    written = json.loads((tmp_path / 'results.json').read_text())
    assert written['error'] == last['test/error']
    said = capsys.readouterr().out
    assert 'digits.npz, train: 24 images of 9 classes (1 to 11 of each)' in said
    assert f'test ap/even: {100 * last["test/ap/even"]:.2f} %' in said
    assert (tmp_path / 'figures/curves.png').exists()
    network = trained.load(tmp_path, 'latest')
    source = data.load('npz', 'test', config.data_dir, target='tags')
    assert 'macro F1' in (tmp_path / 'report.html').read_text()
    assert (tmp_path / 'figures/worst.png').exists()
    table = list(csv.DictReader((tmp_path / 'predictions.csv').read_text().splitlines()))
    assert (table[0]['truth'], len(table)) == ('2|even', 10)
    assert table[0]['prediction'] == '|'.join(name for name in (*'0123456789', 'even')
                                              if float(table[0][name]) >= 0.5)
    (best,), (likely,) = network.predict(source.examples[0]['image'], top=1)[0]
    assert likely == pytest.approx(max(float(table[0][name]) for name in network.classes), abs=1e-5)
    assert float(table[0][best]) == pytest.approx(likely, abs=1e-5)

    found = evaluate.evaluate(network, source)
    assert found['error'] == pytest.approx(last['test/error'])
    images = np.stack([example['image'] for example in source.examples])
    np.testing.assert_allclose(found['probabilities'], jax.nn.sigmoid(network(images)), atol=1e-6)
    assert found['ap/even'] == pytest.approx(metrics.average_precision_score(
        found['tags'][:, -1], found['probabilities'][:, -1]))


@pytest.mark.parametrize(('fields', 'message'), [
    ({'dataset': 'digits', 'data_dir': None}, 'dataset=digits has no tags for each image'),
    ({'loss': 'dice'}, 'dice compares masks'),
    ({'class_weights': (1.0, 2.0)}, 'class_weights has 2 numbers for 11 classes'),
    ({'loss_denominator': 'images'}, 'loss_denominator=images: task=multilabel averages'),
    ({'task': 'classify'}, 'task=multilabel learns several')])
def test_what_does_not_fit_is_refused(tagging, tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        train.train(changed(tagging, **fields), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_balanced_weights(tagged):
    """As many images have a class, by their weights, as have it not."""
    source = data.load('npz', 'train', str(tagged), target='tags')
    tags = np.stack([example['tags'] for example in source.examples])
    weights = np.array(class_weights.of_tags(data.Resident(source, data.Crops())))
    np.testing.assert_allclose(weights * tags.sum(0), np.where(tags.any(0), (1 - tags).sum(0), 0))
    everywhere = data.from_arrays(np.zeros((4, 8, 8, 1), np.uint8), 'ab',
                                 tags=[[1, 0], [1, 0], [1, 0], [1, 1]])
    assert class_weights.of_tags(data.Resident(everywhere, data.Crops())) == (1, 3)
    streamed = data.Stream(data.Source(TaggedFiles((), tags), source.classes), data.Crops(8))
    np.testing.assert_array_equal(class_weights.of_tags(streamed), weights)
    with pytest.raises(UserError, match='balanced=True: how many images have each class is not'):
        class_weights.of_tags(data.Stream(data.Source([], source.classes), data.Crops(8)))
