"""Batches from a source: a set that fits lives on the devices (Resident), a larger one streams.

Batches are pure functions of (seed, step), so the step is all that a checkpoint needs to know about
the input: a resumed run continues where it stopped, with any number of threads, workers or
processes.

If a run has several processes (see parallel.py), each reads its own rows of every global batch:
with `share=(p, n)`, process p of n gets the p-th of n equal parts. All get the same number of
batches.
"""

import dataclasses
import functools
import sys
import threading
from collections.abc import Generator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from cnnjax import memory
from cnnjax.data import loader, objects, ranks, threads
from cnnjax.data.crops import Crops
from cnnjax.data.examples import NO_CLASS, Source, check_classes, subset
from cnnjax.errors import UserError
from cnnjax.limits import Whole

LIMITS = {'repeats': Whole(1)}


class Resident:
    """A set in memory. `data` is {'image': uint8 [N, H, W, C], and each target [N, ...]}, and
    batches are indices into it. Instead of images it may have sequences or volumes (ranks.py)."""

    def __init__(self, source: Source, crops: Crops):
        crops.check(stream=False)
        self.classes, self.examples, self.crops = source.classes, source.examples, crops
        examples = _Checked(source.examples, len(source.classes))

        first = _arrays(crops.center(examples[0]))
        shape, count = first['image'].shape, len(examples)
        if (size := count * sum(array.nbytes for array in first.values())) > memory.HOST:
            raise UserError(f'{count} images of {shape} take {size / 2**30:.1f} GiB, more than '
                            'half of the memory: set stream=True')
        self.data = {name: np.empty((count, *array.shape), array.dtype)
                     for name, array in first.items()}
        self.pixels = np.zeros(256, np.int64)  # how many of all masks are of the class 0, 1, ...
        self.lost = 0  # how many objects are not in the middle of their picture that was cut out
        counting = threading.Lock()

        def decode(i):
            whole = examples[i]
            if 'mask' in whole:
                found = _pixels(whole['mask'])
                with counting:
                    self.pixels += found
            example = _arrays(crops.center(whole))
            if 'boxes' in whole:
                with counting:
                    self.lost += _count(whole) - _count(example)
            if example['image'].shape != shape:
                remedy = 'set image_size' if len(shape) == 3 else 'bring them to one'
                raise UserError(f'the {ranks.name(shape)}s differ in size ({shape}, '
                                f'{example["image"].shape} ...): {remedy}')
            for name, kept in self.data.items():
                array = example.get(name)
                if array is None or (array.shape, array.dtype) != (kept.shape[1:], kept.dtype):
                    raise UserError(f'the example at position {i} has another {name} than that at '
                                    f'0, {kept.dtype} {list(kept.shape[1:])}: all must be alike')
                kept[i] = array

        threads.mapped(decode, count, 'reading')

    def __len__(self) -> int:
        return len(self.data['image'])

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """{name: jax.ShapeDtypeStruct} of a batch of one example."""
        return {name: jax.ShapeDtypeStruct((1, *array.shape[1:]), array.dtype)
                for name, array in self.data.items()}

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.data['image'].shape[1:]

    def train_batches(self, batch_size: int, seed: int, start: int = 0,
                      share: tuple[int, int] = (0, 1),
                      repeats: int = 1) -> Generator[dict[str, np.ndarray]]:
        """Endless batches from step `start` on. Each epoch is a new permutation, without its
        incomplete last batch. 'position' is an example's place in the global batch.

        With `repeats` a batch has each of its examples so often (Hoffer et al. 2019, https://
        arxiv.org/abs/1901.09335), and an epoch, of the same length, fewer different ones. They
        repeat as a whole, so that examples beside each other, and those of a device where there
        are as many devices, are different.
        """
        position, different = _rows(batch_size, share), _different(batch_size, repeats)
        per_epoch = len(self) // batch_size
        step = start
        while True:
            epoch, first = divmod(step, per_epoch)
            order = np.random.default_rng((seed, epoch)).permutation(len(self)).astype(np.int32)
            for i in range(first, per_epoch):
                yield {'index': order[i * different + position % different], 'position': position}
                step += 1

    def test_batches(self, batch_size: int,
                     share: tuple[int, int] = (0, 1)) -> Generator[dict[str, np.ndarray]]:
        """Batches with every example once, in order; padding of the last has the 'weight' 0."""
        rows = _rows(batch_size, share)
        for i in range(0, len(self), batch_size):
            index = i + rows
            yield {'index': index % len(self), 'weight': (index < len(self)).astype(np.float32)}


class Stream:
    """A set whose examples are decoded, and cropped at random for training, as they are needed.

    Args:
      source: a Source.
      crops: Crops with a size other than 0.
      threads: how many threads decode ahead in the background; may be 0.
      workers: how many processes the threads are spread over; each takes every workers-th batch.
        Several processes decode more images per second than one Python process can. They start
        with the first batch and stop when the generator is closed. 0: the threads run here.
    """

    data = None  # No examples live on the devices.

    def __init__(self, source: Source, crops: Crops, threads: int = 16, workers: int = 0):
        if not crops.size:
            raise UserError('a streamed data set needs image_size')
        crops.check(stream=True)
        self.classes, self.examples, self.crops = source.classes, source.examples, crops
        self.threads, self.workers = threads, workers

    def __len__(self) -> int:
        return len(self.examples)

    @functools.cached_property
    def _first(self):
        return _arrays(self.crops.center(self.examples[0]))

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The same as Resident's."""
        return {name: jax.ShapeDtypeStruct((1, *array.shape), array.dtype)
                for name, array in self._first.items()}

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self._first['image'].shape

    @functools.cached_property
    def pixels(self) -> np.ndarray:
        """The same as Resident's; reads and checks every mask."""
        # Weight maps take long to compute, and are not needed here.
        masked = getattr(self.examples, 'unweighted', self.examples)
        examples, total = _Checked(masked, len(self.classes)), np.zeros(256, np.int64)
        counting = threading.Lock()

        def count(i):
            found = _pixels(examples[i]['mask'])
            with counting:
                total[:] += found

        threads.mapped(count, len(self), 'checking masks')
        return total

    def subset(self, index: Sequence[int] | np.ndarray) -> 'Stream':
        """The stream with only the examples at the places `index`."""
        some = subset(Source(self.examples, self.classes), index)
        return Stream(some, self.crops, self.threads, self.workers)

    def train_batches(self, batch_size: int, seed: int, start: int = 0,
                      share: tuple[int, int] = (0, 1),
                      repeats: int = 1) -> Generator[dict[str, np.ndarray]]:
        """Batches as Resident's, but a batch may span the end of one epoch and the next; with
        `repeats` the examples that one epoch leaves out come in the next."""
        position, different = _rows(batch_size, share), _different(batch_size, repeats)
        examples = (grain.MapDataset.source(_Checked(self.examples, len(self.classes))).seed(seed)
                    .shuffle().repeat())
        if repeats > 1:
            examples = grain.MapDataset.source(
                _Repeated(examples, batch_size, different)).seed(seed)
        examples = examples.random_map(functools.partial(_train_example, self.crops))
        for batch in self._batches(examples, batch_size, share, start):
            yield batch | {'position': position}

    def test_batches(self, batch_size: int,
                     share: tuple[int, int] = (0, 1)) -> Generator[dict[str, np.ndarray]]:
        """Batches as Resident's, but with images and targets, which are 0 in the padding."""
        examples = _TestExamples(_Checked(self.examples, len(self.classes)), self.crops, {
            name: np.zeros_like(array) for name, array in self._first.items()})
        yield from self._batches(examples, batch_size, share, count=-(-len(self) // batch_size))

    def _batches(self, examples, batch_size, share, start=0, count=None):
        """This process's share of `count` batches (None: endlessly many) of endless examples."""
        return loader.batches(examples, batch_size, _rows(batch_size, share), self.threads,
                              self.workers, start=start, count=count)


def recut(prepared: Resident | Stream, crops: Crops,
          places: Sequence[int] | np.ndarray | None = None) -> Resident | Stream:
    """The examples of a set at `places` (None: all), whose pictures are cut in another way."""
    source = Source(prepared.examples, prepared.classes)
    if places is not None:
        undecoded = getattr(source.examples, 'undecoded', source.examples)
        source = subset(source._replace(examples=undecoded), places)
    if isinstance(prepared, Stream):
        return Stream(source, crops, prepared.threads, prepared.workers)
    return Resident(source, crops)


def picture_shapes(prepared: Resident | Stream) -> np.ndarray:
    """(height, width) of each picture before it is cut, int [N, 2]; of files only what tells it is
    decoded."""
    examples = getattr(prepared.examples, 'undecoded', prepared.examples)
    return np.array(threads.mapped(lambda i: examples[i]['image'].shape[:2], len(examples),
                                   'measuring'))


def _rows(batch_size, share):
    """The rows of a global batch that belong to this process."""
    process, processes = share
    if batch_size % processes:
        raise UserError(f'a batch of {batch_size} cannot be shared evenly by {processes} '
                        'processes')
    rows = batch_size // processes
    return np.arange(process * rows, (process + 1) * rows, dtype=np.int32)


@dataclasses.dataclass(frozen=True, repr=False)
class _Checked(Sequence):
    """Examples, undecoded if possible, whose numbers of classes are checked when they are read."""

    examples: Sequence
    classes: int

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i):
        example = getattr(self.examples, 'undecoded', self.examples)[i]
        shape = example['image'].shape[:-1]
        for target in NO_CLASS.keys() & example.keys():
            values = np.asarray(example[target])
            if target == 'mask' and values.shape != shape:
                raise UserError(f'the image at position {i} has {shape[0]} x {shape[1]} pixels, '
                                f'its mask {list(values.shape)}: a mask has a class for each pixel')
            check_classes(i, target, values, self.classes)
        if 'boxes' in example:
            objects.check(example, i)
        return example


def _different(batch_size, repeats):
    """How many different examples a batch has."""
    if batch_size % repeats:
        raise UserError(f'batch_size={batch_size} is no multiple of repeats={repeats}')
    return batch_size // repeats


@dataclasses.dataclass(frozen=True, repr=False)
class _Repeated(Sequence):
    """Endless examples, of which the first `different` of a batch repeat until it is full."""

    examples: Any  # examples[i] for any i
    batch_size: int
    different: int

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, i):
        batch, row = divmod(i, self.batch_size)
        return self.examples[batch * self.different + row % self.different]


def _count(example):
    return int((np.asarray(example['labels']) >= 0).sum())


def _pixels(mask):
    """How many pixels of a mask have the number 0, 1, ..., int [256]."""
    return np.bincount(np.ravel(mask), minlength=256)


def _arrays(example):
    """The example as arrays that a device can hold: int64 becomes int32."""
    def array(value):
        value = np.asarray(value)
        return value.astype(np.int32) if (
            np.issubdtype(value.dtype, np.integer) and value.dtype != np.uint8) else value

    return {name: array(value) for name, value in example.items()}


def _train_example(crops, example, rng):
    return _arrays(crops.random(example, rng))


@dataclasses.dataclass(frozen=True, repr=False)
class _TestExamples:
    """The middle of each picture, followed by endless padding of weight 0."""

    examples: Sequence
    crops: Crops
    blank: dict[str, np.ndarray]  # the example that pads

    def __getitem__(self, i):
        if i >= len(self.examples):
            return {**self.blank, 'weight': np.float32(0)}
        return {**_arrays(self.crops.center(self.examples[i])), 'weight': np.float32(1)}
