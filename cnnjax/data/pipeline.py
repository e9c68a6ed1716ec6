"""From a source to batches: a set that fits lives on the devices, a larger one streams.

Both are pure functions of (seed, step): a resumed run reads on where it stopped, nothing is saved.
"""

import math
import os
from concurrent import futures
from typing import NamedTuple

import grain
import numpy as np

from cnnjax.data import images
from cnnjax.errors import UserError

# Bytes that a resident set may take: half of the machine's memory.
MEMORY = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2


class Crops(NamedTuple):
    """How a picture becomes a square of `size` pixels (0: keep pictures as they are)."""

    size: int = 0
    kind: str = 'shorter_side'  # of the random crops of a stream, or 'random_resized'
    shorter_side: tuple[int, int] = (256, 256)  # for 'shorter_side': the range of scales
    area: tuple[float, float] = (0.08, 1.0)  # for 'random_resized': share of the picture's area
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # for 'random_resized': width / height
    test_shorter_side: int = 0  # of the middle crop that evaluation and resident sets use; 0: size
    border: int = 0  # black pixels around every picture, before all else

    def center(self, image):
        """[H, W, C] -> [size, size, C], always the same."""
        image = self.surround(image)
        if not self.size:
            return image
        return images.center_crop(image, self.test_shorter_side or self.size, self.size)

    def random(self, image, rng):
        """[H, W, C] -> [size, size, C], drawn from `rng`."""
        image = self.surround(image)
        if self.kind == 'shorter_side':
            return images.shorter_side_crop(image, rng, self.shorter_side, self.size)
        return images.random_resized_crop(image, rng, self.area, self.aspect, self.size)

    def surround(self, image):
        """The picture with its border."""
        return np.pad(image, ((self.border, self.border), (self.border, self.border), (0, 0)))

    def check(self, stream):
        """Raises UserError where the fields, of a stream or of a resident set, do not fit."""
        if self.kind not in ('shorter_side', 'random_resized'):
            raise UserError(f"crop is 'shorter_side' or 'random_resized', not '{self.kind}'")
        for name, limits in (('shorter_side', self.shorter_side), ('crop_area', self.area),
                             ('crop_aspect', self.aspect)):
            if len(limits) != 2 or not 0 < limits[0] <= limits[1]:
                raise UserError(f'{name}={limits} is no range: two positive numbers, the smaller '
                                'one first')
        if self.size < 0:
            raise UserError(f'image_size={self.size}: a number of pixels, or 0 for the images as '
                            'they are')
        if self.border < 0:
            raise UserError(f'border={self.border}: a picture has 0 or more pixels around it')
        smallest = self.test_shorter_side or self.size
        if stream and self.kind == 'shorter_side':
            smallest = min(smallest, self.shorter_side[0])
        if self.size > smallest:
            raise UserError(f'image_size={self.size} is cut from pictures whose shorter side is '
                            f'scaled to only {smallest}: see shorter_side and test_shorter_side')


class Resident:
    """A set held in memory as uint8 [N, H, W, C]: batches are indices into `data`."""

    def __init__(self, source, crops):
        crops.check(stream=False)
        self.classes = source.classes

        shape = crops.center(source.examples[0]['image']).shape
        count = len(source.examples)
        if (size := count * math.prod(shape)) > MEMORY:
            raise UserError(f'{count} images of {shape} take {size / 2**30:.1f} GiB, more than '
                            'half of the memory: set stream=True')
        self.data = {'image': np.empty((count, *shape), np.uint8),
                     'label': np.empty(count, np.int32)}

        def decode(i):
            example = source.examples[i]
            image, label = crops.center(example['image']), example['label']
            if image.shape != shape:
                raise UserError(f'the images differ in size ({shape}, {image.shape} ...): set '
                                'image_size')
            if not 0 <= label < len(self.classes):
                raise UserError(f'the image at position {i} has the label {label}: the '
                                f'{len(self.classes)} classes are counted from 0')
            self.data['image'][i], self.data['label'][i] = image, label

        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(decode, range(count)):
                pass

    def __len__(self):
        return len(self.data['label'])

    @property
    def image_shape(self):
        return self.data['image'].shape[1:]

    def train_batches(self, batch_size, seed, start=0):
        """The batches from step `start` on, without end: every epoch is a new permutation, whose
        incomplete last batch is left out."""
        per_epoch = len(self) // batch_size
        step = start
        while True:
            epoch, first = divmod(step, per_epoch)
            order = np.random.default_rng((seed, epoch)).permutation(len(self)).astype(np.int32)
            for i in range(first, per_epoch):
                yield {'index': order[i * batch_size:(i + 1) * batch_size],
                       'position': np.arange(batch_size, dtype=np.int32)}
                step += 1

    def test_batches(self, batch_size):
        """Every example once, in order; 'weight' is 0 on the padding of the last batch."""
        for i in range(0, len(self), batch_size):
            index = np.arange(i, i + batch_size, dtype=np.int32)
            yield {'index': index % len(self), 'weight': (index < len(self)).astype(np.float32)}


class Stream:
    """A set that is decoded, and for training randomly cropped, whenever an example is needed."""

    data = None  # nothing lives on the devices

    def __init__(self, source, crops, threads=16):
        if not crops.size:
            raise UserError('a streamed data set needs image_size')
        crops.check(stream=True)
        self.classes, self.examples, self.crops = source.classes, source.examples, crops
        self.threads = threads

    def __len__(self):
        return len(self.examples)

    @property
    def image_shape(self):
        return self.crops.center(self.examples[0]['image']).shape

    def train_batches(self, batch_size, seed, start=0):
        """As Resident's, but a permutation follows the last without a break, even in a batch."""
        stream = (grain.MapDataset.source(self.examples).seed(seed).shuffle().repeat()
                  .random_map(self._train_example))
        for batch in self._batches(stream, batch_size, start):
            yield batch | {'position': np.arange(batch_size, dtype=np.int32)}

    def test_batches(self, batch_size):
        stream = grain.MapDataset.source(self.examples).map(self._test_example)
        for batch in self._batches(stream, batch_size):
            missing = batch_size - len(batch['label'])
            batch['weight'] = np.ones(batch_size - missing, np.float32)
            yield {name: np.pad(value, ((0, missing),) + ((0, 0),) * (value.ndim - 1))
                   for name, value in batch.items()}

    def _batches(self, stream, batch_size, start=0):
        # Threads read single examples ahead: whole batches would be many times as many at once.
        options = grain.ReadOptions(self.threads, max(4 * self.threads, 2 * batch_size))
        batches = iter(stream.to_iter_dataset(options).batch(batch_size))
        batches.set_state({'next_index': start * batch_size})
        yield from batches

    def _train_example(self, example, rng):
        return {'image': self.crops.random(example['image'], rng),
                'label': np.int32(example['label'])}

    def _test_example(self, example):
        return {'image': self.crops.center(example['image']), 'label': np.int32(example['label'])}
