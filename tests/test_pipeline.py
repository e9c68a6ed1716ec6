"""Batches are functions of (seed, step); every example counts once. Resident sets and streams."""

import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import images, threads
from cnnjax.data.crops import Crops
from cnnjax.data.examples import Source
from cnnjax.data.pipeline import Resident, Stream
from cnnjax.data.sources import folder
from cnnjax.errors import UserError

CROPS = Crops(4, shorter_side=(5, 8))
SIZES = [(12, 4), (10, 3), (10, 10), (3, 8), (1, 1)]  # examples, batch size


def source(count, height=9, width=12, classes=3):
    """Pictures whose channels tell their number, the row and the column."""
    def picture(i):
        return np.stack(np.broadcast_arrays(i, *np.ogrid[:height, :width]), -1).astype(np.uint8)

    return Source([{'image': picture(i), 'label': i % classes} for i in range(count)],
                  tuple('abcdefghij'[:classes]))


def numbers(batch):
    """Which examples a batch holds."""
    return batch['index'] if 'index' in batch else batch['image'][..., 0].max((1, 2))


def take(batches, count):
    return list(itertools.islice(batches, count))


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
            assert a[name].dtype == b[name].dtype


@pytest.mark.parametrize('least', [1, 5, 16])
def test_a_resident_set_is_the_same_by_any_number_of_threads(tmp_path, monkeypatch, least):
    """Of files of every size and kind, in the order of the folder."""
    rng = np.random.default_rng(0)
    for i in range(90):
        path = tmp_path / 'train' / 'abc'[i % 3] / f'{i:02}{(".png", ".jpg", ".tif")[i % 7 % 3]}'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*rng.integers(4, 40, 2), 3), np.uint8)).save(path)
    files = folder(tmp_path, 'train')
    monkeypatch.setattr(threads, 'LEAST', least)
    monkeypatch.setattr(os, 'cpu_count', lambda: 1)
    data = Resident(files, CROPS).data
    for i, example in enumerate(files.examples.undecoded):
        np.testing.assert_array_equal(data['image'][i], CROPS.center(example)['image'])
        assert data['label'][i] == example['label']


@pytest.fixture(params=[Resident, Stream])
def make(request):
    return request.param


@pytest.mark.parametrize('start', [0, 1, 2, 3, 4, 7, 11])
def test_a_run_reads_on_where_it_stopped(make, start):
    whole = take(make(source(10), CROPS).train_batches(3, seed=5), 13)
    rest = take(make(source(10), CROPS).train_batches(3, 5, start), 13 - start)
    assert_equal(rest, whole[start:])


@pytest.mark.parametrize(('count', 'batch_size', 'per_epoch'), [(12, 4, 3), (10, 3, 3), (7, 7, 1)])
def test_an_epoch_repeats_nothing(make, count, batch_size, per_epoch):
    """A resident set leaves out the rest of each permutation, a stream goes on."""
    batches = take(make(source(count), CROPS).train_batches(batch_size, 0), 4 * per_epoch)
    drawn = np.concatenate([numbers(batch) for batch in batches])
    length = per_epoch * batch_size if make is Resident else count
    epochs = [drawn[i:i + length] for i in range(0, len(drawn) - length + 1, length)]
    assert len(epochs) >= 3
    for epoch in epochs:
        assert len(set(epoch)) == length
        assert set(epoch) <= set(range(count))
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)  # and each has its own order


def test_every_epoch_of_every_seed_has_its_own_order(make):
    orders = [tuple(numbers(batch)) for seed in (0, 1, 2, 2) for batch in take(
        make(source(20), CROPS).train_batches(20, seed), 3)]
    assert orders[6:9] == orders[9:]
    assert len(set(orders)) == 9


def test_positions_count_through_the_batch(make):
    for batch in take(make(source(10), CROPS).train_batches(4, 0), 5):
        np.testing.assert_array_equal(batch['position'], np.arange(4))
        assert batch['position'].dtype == np.int32


@pytest.mark.parametrize('processes', [2, 4])
def test_processes_share_the_batches_of_one(make, processes):
    """In its order: the rows of process 0, then those of process 1, ..."""
    dataset = make(source(10), CROPS)
    for whole, parts in ((lambda share: take(dataset.train_batches(8, 3, 2, share), 4), 4),
                         (lambda share: list(dataset.test_batches(8, share)), 2)):
        shares = [whole((process, processes)) for process in range(processes)]
        assert [len(share) for share in shares] == [parts] * processes
        joined = [{name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
                  for batches in zip(*shares, strict=True)]
        assert_equal(joined, whole((0, 1)))


def test_a_batch_is_shared_evenly(make):
    with pytest.raises(UserError, match='a batch of 9 cannot be shared evenly by 2 processes'):
        next(make(source(10), CROPS).train_batches(9, 0, 0, (0, 2)))


@pytest.mark.parametrize(('count', 'batch_size'), SIZES)
def test_an_evaluation_sees_every_example_once_and_in_order(make, count, batch_size):
    dataset = make(source(count), CROPS)
    batches = list(dataset.test_batches(batch_size))
    weights = np.concatenate([batch['weight'] for batch in batches])
    assert len(batches) == -(-count // batch_size)
    assert {len(value) for batch in batches for value in batch.values()} == {batch_size}
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, np.arange(len(weights)) < count)
    seen = np.concatenate([numbers(batch) for batch in batches])
    np.testing.assert_array_equal(seen[:count], np.arange(count))
    assert set(seen) <= set(range(count))  # padding too is valid indices
    assert_equal(dataset.test_batches(batch_size), batches)


def test_the_middle_of_each_picture_is_tested(make):
    examples = source(5)
    expected = np.stack([
        images.cut(e['image'], images.placed_box(e['image'].shape, 6, 4), 4)
        for e in examples.examples])
    dataset = make(examples, CROPS._replace(test_shorter_side=6))
    batch, = dataset.test_batches(5)
    given = dataset.data['image'][batch['index']] if make is Resident else batch['image']
    labels = dataset.data['label'][batch['index']] if make is Resident else batch['label']
    np.testing.assert_array_equal(given, expected)
    np.testing.assert_array_equal(labels, [0, 1, 2, 0, 1])
    assert (given.dtype, labels.dtype) == (np.uint8, np.int32)


def test_what_a_set_tells_of_itself(make):
    dataset = make(source(7), CROPS)
    assert len(dataset) == 7
    assert dataset.classes == ('a', 'b', 'c')
    assert dataset.image_shape == (4, 4, 3)
    assert (dataset.data is None) == (make is Stream)


@pytest.mark.parametrize(('crops', 'message'), [
    (Crops(4, 'centre'), "crop is 'shorter_side' or 'random_resized', not 'centre'"),
    (Crops(64, test_shorter_side=48), 'image_size=64 .* scaled to only 48'),
    (Crops(64, shorter_side=(256,)), r'shorter_side=\(256,\) is no range'),
    (Crops(64, shorter_side=(512, 256)), r'shorter_side=\(512, 256\) is no range'),
    (Crops(64, area=(0, 1)), r'crop_area=\(0, 1\) is no range'),
    (Crops(64, aspect=(2, 0.5)), r'crop_aspect=\(2, 0.5\) is no range'),
])
def test_crops_that_cannot_be(make, crops, message):
    with pytest.raises(UserError, match=message):
        make(source(3), crops)


@pytest.mark.parametrize('label', [-1, 3])
def test_a_label_without_a_class_is_found(make, label):
    examples = source(6)
    examples.examples[4]['label'] = label
    with pytest.raises(UserError, match=f'image at position 4 has the class {label}: the 3'):
        take(make(examples, CROPS).train_batches(6, 0), 1)


def test_only_the_crops_in_use_must_fit():
    for too_small in (Crops(300), Crops(64, shorter_side=(48, 96))):
        with pytest.raises(UserError, match='scaled to only (256|48): see shorter_side'):
            Stream(source(3), too_small)
        size = too_small.size
        assert Resident(source(3), too_small).image_shape == (size, size, 3)
        stream = Stream(source(3), too_small._replace(kind='random_resized'))
        assert next(stream.train_batches(2, 0))['image'].shape == (2, size, size, 3)


# Resident sets.

def test_without_image_size_pictures_stay_as_they_are():
    examples = source(5)
    dataset = Resident(examples, Crops())
    np.testing.assert_array_equal(dataset.data['image'],
                                  np.stack([e['image'] for e in examples.examples]))
    assert dataset.data['image'].dtype == np.uint8
    assert dataset.image_shape == (9, 12, 3)


def test_pictures_of_different_sizes_need_image_size():
    mixed = Source(source(2).examples + source(2, height=30).examples, ('a', 'b', 'c'))
    with pytest.raises(UserError, match=r'\(9, 12, 3\), \(30, 12, 3\) .*set image_size'):
        Resident(mixed, Crops())
    assert Resident(mixed, CROPS).image_shape == (4, 4, 3)


# Streams.

def test_a_stream_has_a_size():
    with pytest.raises(UserError, match='a streamed data set needs image_size'):
        Stream(source(3), Crops())


def test_an_epoch_is_exact_also_where_batches_straddle_its_end():
    drawn = np.concatenate([numbers(batch) for batch in take(
        Stream(source(10), CROPS).train_batches(4, 0), 5)])
    np.testing.assert_array_equal(np.bincount(drawn), np.full(10, 2))


@pytest.mark.parametrize('threads', [0, 1, 3])
def test_the_number_of_threads_changes_nothing(threads):
    few, many = (Stream(source(20), CROPS, n) for n in (threads, 16))
    assert_equal(take(few.train_batches(8, 1), 6), take(many.train_batches(8, 1), 6))
    assert_equal(few.test_batches(8), many.test_batches(8))


@pytest.mark.parametrize('kind', ['shorter_side', 'random_resized'])
def test_a_stream_cuts_anew_in_every_epoch_and_by_every_seed(kind):
    crops = CROPS._replace(kind=kind, area=(0.2, 0.9))
    batches = [batch for seed in range(3) for batch in take(
        Stream(source(6, height=90, width=120), crops).train_batches(6, seed), 4)]
    by_number = np.stack([batch['image'][np.argsort(numbers(batch))] for batch in batches])
    for pictures in by_number.swapaxes(0, 1):
        assert len(np.unique(pictures[..., 1:], axis=0)) == 12
    labels = np.concatenate([batch['label'] for batch in batches])
    np.testing.assert_array_equal(labels, np.concatenate([numbers(b) for b in batches]) % 3)
    assert (batches[0]['image'].dtype, labels.dtype) == (np.uint8, np.int32)


@pytest.mark.parametrize('kind', ['shorter_side', 'random_resized'])
def test_random_crops_are_those_of_the_fields(kind):
    crops = Crops(5, kind, (6, 8), (0.3, 0.6), (0.5, 2))
    example, = source(1).examples
    shape, rng = example['image'].shape, np.random.default_rng(0)
    box = (images.shorter_side_box(shape, rng, (6, 8), 5) if kind == 'shorter_side' else
           images.random_resized_box(shape, rng, (0.3, 0.6), (0.5, 2)))
    np.testing.assert_array_equal(crops.random(example, np.random.default_rng(0))['image'],
                                  images.cut(example['image'], box, 5))


class Gated:
    """Examples that note when they are read, as often as the gate allows."""

    def __init__(self, examples, permits):
        self.examples, self.reads, self.gate = examples, [], threading.Semaphore(permits)

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, i):
        self.gate.acquire()
        self.reads.append(i)
        return self.examples[i]


@pytest.mark.parametrize(('threads', 'batch_size', 'ahead'), [(1, 10, 20), (8, 2, 32)])
def test_a_stream_reads_a_little_ahead(threads, batch_size, ahead):
    """Two batches, or four examples per thread: no whole batch in each thread."""
    examples = source(200)
    gated = Gated(examples.examples, 10_000)
    batches = Stream(Source(gated, examples.classes), CROPS, threads).train_batches(batch_size, 0)
    take(batches, 2)
    deadline = time.monotonic() + 60
    while len(gated.reads) < 2 * batch_size + ahead and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)  # gives threads time to read too much
    assert len(gated.reads) == 2 * batch_size + ahead


def test_a_closed_stream_reads_no_further():
    """Else the end of a program waits for all that was to be read ahead."""
    others = set(threading.enumerate())
    examples = source(200)
    gated = Gated(examples.examples, 10)
    batches = Stream(Source(gated, examples.classes), CROPS, 1).train_batches(10, 0)
    next(batches)  # the next example is at the gate
    batches.close()
    gated.gate.release(200)
    for thread in set(threading.enumerate()) - others:
        thread.join(60)
    assert len(gated.reads) <= 11


@pytest.mark.parametrize('batches', [lambda dataset: dataset.train_batches(4, 0),
                                     lambda dataset: dataset.test_batches(4)],
                         ids=['train', 'test'])
@pytest.mark.parametrize('threads', [0, 4])
def test_an_unreadable_picture_is_named(tmp_path, batches, threads):
    directory = tmp_path / 'train' / 'cats'
    directory.mkdir(parents=True)
    for i in range(6):
        Image.fromarray(source(6).examples[i]['image']).save(directory / f'{i}.png')
    (directory / '3.png').write_bytes((directory / '3.png').read_bytes()[:60])
    files = folder(tmp_path, 'train')
    with pytest.raises(UserError) as error:
        take(batches(Stream(files, CROPS, threads)), 3)
    assert str(error.value).startswith(f'{directory}/3.png is not a readable image: ')
    with pytest.raises(UserError, match=r'3\.png is not a readable image'):
        Resident(files, CROPS)


# Streams with worker processes, which take seconds to start.

@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    """A folder of 20 pictures in two classes."""
    root = tmp_path_factory.mktemp('photographs')
    for i, example in enumerate(source(20).examples):
        directory = root / 'train' / 'ab'[i % 2]
        directory.mkdir(parents=True, exist_ok=True)
        Image.fromarray(example['image']).save(directory / f'{i:02d}.png')
    return root


@pytest.mark.parametrize('workers', [1, 2])
def test_workers_change_nothing(photographs, workers):
    files = folder(photographs, 'train')
    expected = take(Stream(files, CROPS).train_batches(4, 1, 3), 8)
    batches = Stream(files, CROPS, 3, workers).train_batches(4, 1, 3)
    assert_equal(take(batches, 7), expected[:7])
    processes = multiprocessing.active_children()
    assert len(processes) == workers
    for process in processes:  # as clusters and Ctrl-C do: the parent has to save its state
        os.kill(process.pid, signal.SIGTERM)
        os.kill(process.pid, signal.SIGINT)
    assert_equal([next(batches)], expected[7:])
    if workers == 1:
        batches.close()
    else:
        processes[0].kill()
        with pytest.raises(UserError, match='loader_workers=2: .* exit code -9'):
            take(batches, 10)
    assert not multiprocessing.active_children()


def test_workers_evaluate_and_name_what_they_cannot_read(photographs, tmp_path):
    """Two workers, for two batches, of which the second holds a damaged picture."""
    root = shutil.copytree(photographs, tmp_path / 'copy')
    expected = next(Stream(folder(root, 'train'), CROPS).test_batches(16))
    bad = root / 'train/b/19.png'
    bad.write_bytes(bad.read_bytes()[:60])
    batches = Stream(folder(root, 'train'), CROPS, 2, workers=3).test_batches(16)
    assert_equal([next(batches)], [expected])
    with pytest.raises(UserError) as error:
        next(batches)
    assert str(error.value).startswith(f'{bad} is not a readable image: ')
    assert not multiprocessing.active_children()


def test_workers_of_a_killed_process_end(photographs):
    script = f'''
import os
from cnnjax.data import Crops, Stream
from cnnjax.data.sources import folder

if __name__ == '__main__':
    stream = Stream(folder({str(photographs)!r}, 'train'), Crops(4, shorter_side=(5, 8)), 1, 1)
    print(len(next(stream.train_batches(4, 0))['label']), flush=True)
    os.kill(os.getpid(), 9)
'''
    # Returns when no writer is left.
    result = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True,
                            timeout=60, cwd=Path(__file__).parents[1])
    assert (result.returncode, result.stdout) == (-signal.SIGKILL, '4\n'), result.stderr


@pytest.mark.parametrize('start', [0, 3])
def test_repeated_examples_are_augmented_in_other_ways(make, start):
    """Each batch has a third of the examples, three times, with crops of their own; the processes
    read shares of the same batches, and a run reads on where it stopped."""
    dataset = make(source(24, 24, 24), CROPS)
    found = take(dataset.train_batches(12, 5, start, repeats=3), 4)
    for batch in found:
        one, two, three = numbers(batch).reshape(3, 4)
        assert len(set(one)) == 4
        assert one.tolist() == two.tolist() == three.tolist()
        if make is Stream:
            assert len(np.unique(batch['image'], axis=0)) > 6
    assert_equal(found[1:], take(dataset.train_batches(12, 5, start + 1, repeats=3), 3))
    parts = [take(dataset.train_batches(12, 5, start, (i, 2), 3), 4) for i in range(2)]
    assert_equal(found, [{name: np.concatenate([part[name] for part in pair]) for name in pair[0]}
                         for pair in zip(*parts, strict=True)])
    if make is Stream:  # Six batches show every example.
        seen = take(dataset.train_batches(12, 5, repeats=3), 6)
        assert set(np.concatenate(list(map(numbers, seen)))) == set(range(24))


def test_a_batch_holds_whole_repeats(make):
    with pytest.raises(UserError, match='batch_size=4 is no multiple of repeats=3'):
        next(make(source(12), CROPS).train_batches(4, 5, repeats=3))
