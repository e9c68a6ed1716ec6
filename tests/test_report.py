"""What an evaluation leaves: numbers, tables, figures and a page."""

import csv
import json
import re
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest

from cnnjax import data, evaluate, figures, page, report, trained
from cnnjax.tasks import classify

CLASSES = ('ant', 'bee', 'cat', 'dog', 'elk', 'fox', 'gnu')
ABOUT = {'source': 'runs/x', 'checkpoint': 'best', 'dataset': '<i>&', 'split': 'test',
         'views': 'ten crops'}
NORMALIZE = data.Normalization(np.float32([0.0]), np.float32([1 / 255]))


class Pixels(nn.Module):
    """The logits are the first pixels of the image, times a parameter, whatever their class."""

    num_classes: int = len(CLASSES)

    @nn.compact
    def __call__(self, images, train=False):
        scale = self.param('scale', nn.initializers.ones, ())
        return images.reshape(len(images), -1)[:, :self.num_classes] * scale, {}


def classifier():
    return trained.Trained(Pixels(), {'params': {'scale': np.float32(0.1)}}, NORMALIZE, CLASSES,
                           (4, 4, 1), None)


def pictures(count=23):
    """Images of 4 x 4 random pixels, and their classes: half of the time the largest."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 40, (count, 4, 4, 1)).astype(np.uint8)
    logits = images.reshape(count, -1)[:, :7]
    labels = np.where(rng.random(count) < 0.5, logits.argmax(-1), rng.integers(0, 7, count))
    return data.from_arrays(images, CLASSES, label=labels)


@pytest.fixture(scope='module')
def evaluated():
    examples = data.Resident(pictures(), data.Crops())
    return examples, evaluate.evaluate(classifier(), examples, batch_size=6)


def probabilities():
    logits = np.stack([example['image'].ravel()[:7] for example in pictures().examples]) * 0.1
    return np.asarray(jax.nn.softmax(logits.astype(np.float32)))


def test_what_an_evaluation_keeps_of_each_image(evaluated):
    """On four devices, each image once and in order, though the last batch is padded."""
    examples, results = evaluated
    expected, labels = probabilities(), examples.data['label']
    order = np.argsort(-expected, 1, stable=True)[:, :5]
    np.testing.assert_array_equal(results['label'], labels)
    np.testing.assert_array_equal(results['top'], order)
    np.testing.assert_allclose(results['probabilities'], np.take_along_axis(expected, order, 1),
                               rtol=1e-5)
    np.testing.assert_allclose(results['true_probability'], expected[np.arange(23), labels],
                               rtol=1e-5)
    assert results['wrong'].mean() == pytest.approx(results['error'])
    assert 0 < results['error'] < 1


def test_the_calibration_error_by_hand():
    """Guo et al. 2017, equations 1 to 3: a bin has its upper border, not its lower."""
    confidence = np.array([0.2, 0.21, 0.4, 0.95, 1.0, 1.0])
    right = np.array([True, False, False, True, True, False])
    bins = classify.calibration(confidence, right, 5)
    np.testing.assert_allclose(bins, [[1, 0.2, 1], [2, 0.305, 0], [0, 0, 0], [0, 0, 0],
                                      [3, 2.95 / 3, 2 / 3]])
    assert classify.calibration_error(bins) == pytest.approx((0.8 + 0.61 + 0.95) / 6)
    assert classify.calibration(np.array([0.0]), np.array([True]))[0].tolist() == [1, 0, 1]


def test_the_calibration_error_of_an_evaluation(evaluated):
    _, results = evaluated
    confidence, wrong = results['probabilities'][:, 0], results['wrong']
    total = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            total += inside.sum() * abs(confidence[inside].mean() - (~wrong[inside]).mean())
    assert results['ece'] == pytest.approx(total / 23, rel=1e-6)


@pytest.fixture(scope='module')
def written(evaluated, tmp_path_factory):
    directory = tmp_path_factory.mktemp('report')
    report.write(directory, classifier(), *evaluated, ABOUT)
    return directory


def test_numbers_and_a_row_for_each_example(evaluated, written):
    _, results = evaluated
    assert json.loads((written / 'results.json').read_text()) == {
        **ABOUT, 'count': 23,
        **{name: results[name] for name in ('loss', 'error', 'top5_error', 'ece')}}
    with open(written / 'predictions.csv') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 23
    expected = probabilities()
    for i, row in enumerate(rows):
        order = np.argsort(-expected[i], stable=True)
        assert row['name'] == f'example {i}'
        assert row['truth'] == CLASSES[results['label'][i]]
        assert [row['prediction'], row['class5']] == [CLASSES[order[0]], CLASSES[order[4]]]
        assert float(row['probability']) == pytest.approx(expected[i].max(), abs=1e-6)
        assert float(row['true_probability']) == pytest.approx(
            expected[i, results['label'][i]], abs=1e-6)


def test_rows_have_the_names_of_their_files():
    """Also where labels are renumbered, or examples picked."""
    files = data.examples.Files(('/data/test/a/1.png', '/data/test/b/2.png'), (0, 1),
                                root='/data/test')
    source = data.matched(data.Source(files, ('a', 'b')), ('b', 'a'))
    assert data.names(source.examples) == ['a/1.png', 'b/2.png']
    assert data.names(data.subset(source, [1]).examples) == ['b/2.png']
    assert data.names(pictures().examples) is None


def test_classes_and_confusions_by_hand(evaluated, written):
    """The worst class is first, and classes without images are left out."""
    _, results = evaluated
    labels, found = results['label'], results['top'][:, 0]
    with open(written / 'classes.csv') as file:
        rows = list(csv.DictReader(file))
    assert {row['class'] for row in rows} == {CLASSES[i] for i in labels}
    errors = [float(row['error']) for row in rows]
    assert errors == sorted(errors, reverse=True)
    for row in rows:
        of_class = labels == CLASSES.index(row['class'])
        wrong = found[of_class & (labels != found)]
        assert [int(row['images']), int(row['wrong'])] == [of_class.sum(), len(wrong)]
        assert float(row['error']) == pytest.approx(len(wrong) / of_class.sum())
        assert float(row['probability']) == pytest.approx(
            results['true_probability'][of_class].mean(), rel=1e-5)
        counts = np.bincount(wrong, minlength=7)
        assert counts[CLASSES.index(row['taken for'])] == counts.max() if len(wrong) else (
            row['taken for'] == '')
    matrix = np.zeros((7, 7), int)
    np.add.at(matrix, (labels, found), 1)
    np.testing.assert_array_equal(results['confusion'], matrix)
    with open(written / 'confusion.csv') as file:
        np.testing.assert_array_equal([row[1:] for row in csv.reader(file)][1:],
                                      matrix.astype(str))
    pairs = report.confusions(results)
    assert [count for *_, count in pairs] == sorted(matrix[~np.eye(7, dtype=bool)])[::-1][
        :len(pairs)]
    assert all(matrix[truth, prediction] == count for truth, prediction, count in pairs)


def test_the_mistakes_that_the_network_was_surest_of(evaluated, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(figures, 'panels',
                        lambda path, rows, *_, **__: drawn.update({path.stem: rows}))
    examples, results = evaluated
    assert figures.answers(tmp_path, examples, results) == ['predictions', 'worst']
    wrong = np.flatnonzero(results['label'] != results['top'][:, 0])
    order = wrong[np.argsort(-probabilities().max(1)[wrong])]
    for i, (text, (image,)) in zip(order, drawn['worst'], strict=True):
        np.testing.assert_array_equal(image[..., :1], examples.data['image'][i])
        assert text == (f'truth: {CLASSES[results["label"][i]]}\n'
                        f'answer: {CLASSES[results["top"][i, 0]]}\n'
                        f'probability: {probabilities()[i].max():.3f}')
    # A set without a mistake has no such figure, and that of an earlier evaluation goes.
    (tmp_path / 'figures').mkdir()
    (tmp_path / 'figures' / 'worst.png').write_bytes(b'')
    right = {**results, 'wrong': np.zeros(23, bool)}
    assert figures.answers(tmp_path, examples, right) == ['predictions']
    assert not (tmp_path / 'figures' / 'worst.png').exists()


def test_the_page_in_a_browser(driver, written, tmp_path):
    """Alone in a folder, at two widths, with names that look like HTML."""
    shutil.copy(written / 'report.html', tmp_path)
    for width in (1200, 360):
        driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {
            'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False})
        driver.get((tmp_path / 'report.html').as_uri())
        assert driver.title == 'Pixels on <i>&, test'
        sizes = driver.execute_script('return [...document.images].map(i => i.naturalWidth)')
        assert len(sizes) == 4
        assert all(sizes)
        assert driver.execute_script('return document.documentElement.scrollWidth') <= width
        broken = driver.execute_script('''
            const text = document.createRange();
            return [...document.querySelectorAll('th')].filter(cell => {
              text.selectNodeContents(cell);
              return !cell.innerText.includes(' ') && text.getClientRects().length > 1;
            }).map(cell => cell.innerText)''')
        assert broken == []  # A word is on one line.
        lead = driver.find_element('class name', 'lead')
        assert lead.text == 'runs/x, checkpoint: best, views: ten crops'
        titles = driver.execute_script(
            "return [...document.querySelectorAll('h2')].map(h => h.firstChild.data.trim())")
        assert titles == ['Confusions', 'Calibration', 'Surest mistakes', 'Examples',
                          'Most frequent confusions', 'Classes']
    assert driver.get_log('browser') == []


def test_a_thousand_classes_are_folded():
    rows = [(f'<b>{i}', i, page.Share(i / 1000)) for i in range(1000)]
    text = page.table(('class', 'images', 'error'), rows)
    first, folded = text.split('<details>')
    assert (first.count('<tr>'), folded.count('<tr>')) == (21, 981)
    assert '980 more' in folded
    assert '<td>&lt;b&gt;7</td><td class="number">7</td>' in first
    assert '\udce9' not in page.whole('caf\udce9')


def test_images_with_any_number_of_classes():
    tags, values = np.array([[1, 0, 1], [0, 0, 0]]), np.float32([[0.9, 0.5, 0.2], [0.1, 0.2, 0.3]])
    text = report.tagged_predictions(['x', 'y'], 'abc', {'tags': tags, 'probabilities': values})
    assert text.splitlines()[1:] == ['x,a|c,a|b,0.900000,0.500000,0.200000',
                                     'y,,,0.100000,0.200000,0.300000']
    assert report.by_class('abc', {'ap': 0.5, 'ap/a': 0.7, 'ap/c': 0.3}) == (
        ['class', 'ap'], [['c', 0.3], ['a', 0.7]])


def test_a_report_of_sequences_speaks_of_sequences(tmp_path):
    rng = np.random.default_rng(0)
    own = data.from_arrays(rng.random((6, 5, 2), np.float32), ('a', 'b'),
                           label=np.array([0, 1] * 3))
    network = trained.Trained(Pixels(2), {'params': {'scale': np.float32(1)}}, NORMALIZE,
                              ('a', 'b'), (5, 2), None)
    examples = data.Resident(own, data.Crops())
    results = evaluate.evaluate(network, examples, devices=1)
    assert report.by_class(('a', 'b'), results, 'sequences')[0][1] == 'sequences'
    report.write(tmp_path, network, examples, results, ABOUT)
    text = re.sub('<style>.*?</style>|<script>.*?</script>|<[^>]*>', ' ',
                  (tmp_path / report.PAGE).read_text(), flags=re.DOTALL)
    assert len(re.findall('sequences', text)) >= 2  # in the numbers and in the classes
    assert not re.findall('images?', text)


def test_small_numbers_read_at_first_sight():
    found = report.facts((), {'count': 1234, 'error': 1.0, 'ap': 3.9e-6, 'loss': 0.09, 'recall': 2})
    assert found == {'error': '100.00 %', 'images': '1,234', 'AP': '0.0000',
                     'cross-entropy': '0.0900', 'recall': '2'}
    assert report.facts((), {'error': 0.5, 'loss': 12.34567})['cross-entropy'] == '12.35'
