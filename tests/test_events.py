"""What TensorBoard shows of a run: curves, figures and histograms, none of them twice."""

import struct

import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax import events, reports, train
from tests import kill


def read(directory):
    """[(step, a value of a summary)] of all files of events, as TensorBoard shows them: each start
    replaces what comes from its step on."""
    from tensorboardX.proto import event_pb2

    shown = []
    for path in sorted((directory / 'tensorboard').iterdir(), key=lambda path: (
            path.stat().st_mtime_ns, path.name)):
        content, place = path.read_bytes(), 0
        while place < len(content):  # the length, its checksum, the event, its checksum
            length, = struct.unpack_from('<Q', content, place)
            event = event_pb2.Event.FromString(content[place + 12:place + 12 + length])
            place += 16 + length
            if event.HasField('session_log'):
                shown = [(step, value) for step, value in shown if step < event.step]
            shown += [(event.step, value) for value in event.summary.value]
    return shown


def test_a_killed_run_shows_everything_once(tiny, tmp_path, monkeypatch):
    with tiny.unlocked():
        tiny.histograms = 2
        tiny.steps, tiny.eval_every, tiny.checkpoint_every = 6, 1.0, 2.0
    with monkeypatch.context() as patch:
        patch.setattr(reports.Metrics, 'write', kill.dying_after(5))
        with pytest.raises(kill.Killed):
            train.train(tiny, tmp_path)
    train.train(tiny, tmp_path)
    for _ in range(2):
        reports.finish(tmp_path, tiny)  # The second replaces the first.

    found = {}
    for step, value in read(tmp_path):
        assert found.setdefault((value.tag, step), value) is value, (value.tag, step)
    numbers = {(tag, step): value.simple_value for (tag, step), value in found.items()
               if value.WhichOneof('value') == 'simple_value'}
    assert numbers == {(name, row['step']): pytest.approx(value)
                       for row in reports.read_metrics(tmp_path)
                       for name, value in row.items() if name != 'step'}

    figure = tmp_path / 'figures' / 'first_batch.png'
    image, = [value.image for value in found.values() if value.HasField('image')]
    assert found['figures/first_batch', 1].image == image
    assert image.encoded_image_string == figure.read_bytes()
    assert (image.width, image.colorspace) == (488, 3)  # Three of 160 pixels, two lines of 4.

    drawn = {key for key, value in found.items() if value.HasField('histo')}
    params = kill.saved(tmp_path, 6)['params']
    names = {jax.tree_util.keystr(path, simple=True, separator='/'): array
             for path, array in jax.tree.leaves_with_path(params)}
    assert drawn == {(f'weights/{name}', step) for name in names for step in (2, 4, 6)}
    histogram, kernel = found['weights/conv1/kernel', 6].histo, np.asarray(names['conv1/kernel'])
    assert histogram.num == sum(histogram.bucket) == kernel.size
    assert (histogram.min, histogram.max) == (kernel.min(), kernel.max())
    assert histogram.sum == pytest.approx(kernel.sum(), abs=1e-5)
    assert histogram.sum_squares == pytest.approx((kernel ** 2).sum(), rel=1e-5)
    below = [(kernel <= limit).sum() for limit in histogram.bucket_limit]
    assert abs(np.cumsum(histogram.bucket) - below).max() <= 1  # a value on a limit


def test_figures_of_a_longer_run_replace_those_of_the_shorter(tiny, tmp_path):
    for step in (6, 9):
        (tmp_path / 'metrics.jsonl').write_text(f'{{"step": {step}, "test/error": 0.5}}\n')
        (tmp_path / 'figures').mkdir(exist_ok=True)
        figure = tmp_path / 'figures' / 'curves.png'
        Image.new('RGBA', (step, 2)).save(figure)
        reports.finish(tmp_path, tiny)
    (step, value), = read(tmp_path)
    assert (value.tag, step) == ('figures/curves', 9)
    assert (value.image.width, value.image.height, value.image.colorspace) == (9, 2, 4)


def test_weights_that_hardly_differ_have_a_histogram(tmp_path):
    """In float32, numbers so close have no 50 limits between them."""
    made = events.Events(tmp_path, '.1')
    made.histograms(1, {'a': np.float32([1, np.nextafter(np.float32(1), np.float32(2)), 1])})
    made.histograms(2, {'a': np.ones((2, 3), np.float32)})
    made.close()
    first, second = (value.histo for _, value in read(tmp_path))
    assert (first.bucket[0], first.bucket[-1], first.num) == (2, 1, 3)
    assert (sum(second.bucket), second.num) == (6, 6)


def test_weights_that_are_not_finite_end_no_run(tmp_path):
    made = events.Events(tmp_path, '.1')
    made.histograms(1, {'a': np.float32([np.inf, 1.0, 2.0]), 'b': np.full(3, np.nan, np.float32)})
    made.close()
    (_, value), = read(tmp_path)
    assert (value.tag, value.histo.num, value.histo.max) == ('weights/a', 2, 2.0)
