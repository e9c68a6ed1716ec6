"""The benchmark's rows that read images: JPEGs alone, with masks, and with boxes of objects."""

import contextlib
import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import skimage
from PIL import Image

from cnnjax import counterparts, data
from experiments.benchmark.timing import Unmeasured, advance

BATCH = 64  # The images that a step reads.
PHOTOGRAPHS = ('astronaut', 'chelsea', 'coffee', 'immunohistochemistry', 'retina', 'rocket')
FILES = 600  # The files that are cut from PHOTOGRAPHS; an epoch reads each once.
WIDTH, HEIGHT = 500, 375  # Most files of ImageNet and PASCAL VOC have so many pixels.
REGIONS = 40, 30  # The parts of a mask, across and down, of which each has one class.
OBJECTS = 1, 13  # The fewest and the most objects in a picture; COCO's average is 7 too.
LEAST = 20  # The least width and height of an object, in pixels.
VOC = 'VOCdevkit/VOC2012'  # the folder in which torchvision looks for PASCAL VOC


def write(directory):
    """Writes FILES JPEGs, cut from scikit-image's photographs, each with a mask and boxes, in the
    folders of PASCAL VOC. Links bring them into the folders that our classes and masks have."""
    voc, rng = directory / VOC, np.random.default_rng(0)
    for name in ('JPEGImages', 'SegmentationClass', 'Annotations'):
        (voc / name).mkdir(parents=True)
    for i, name in enumerate(PHOTOGRAPHS):
        photograph = Image.fromarray(getattr(skimage.data, name)())
        side = min(photograph.width // 4, photograph.height // 3)
        part = photograph.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS,
                                 (0, 0, 4 * side, 3 * side))
        regions = mask(part)
        for j in range(i, FILES, len(PHOTOGRAPHS)):
            part.save(voc / 'JPEGImages' / f'{j:04d}.jpg', quality=90)
            regions.save(voc / 'SegmentationClass' / f'{j:04d}.png')
            (voc / 'Annotations' / f'{j:04d}.xml').write_text(annotation(rng))
    for name in ('Segmentation', 'Main'):
        (voc / 'ImageSets' / name).mkdir(parents=True)
        (voc / 'ImageSets' / name / 'train.txt').write_text(
            '\n'.join(f'{j:04d}' for j in range(FILES)))
    (directory / 'classes.txt').write_text('\n'.join(counterparts.VOC))
    for link, name in (('train/class', 'JPEGImages'), ('masked/images', 'JPEGImages'),
                       ('masked/masks', 'SegmentationClass')):
        (directory / link).parent.mkdir(exist_ok=True)
        (directory / link).symlink_to(voc / name)


def mask(picture):
    """Pillow's image of a mask, with a palette: the classes of its regions are gray levels."""
    levels = np.asarray(picture.convert('L').resize(REGIONS), np.uint16)
    classes = np.uint8(levels * len(counterparts.VOC) // 256)
    found = Image.fromarray(classes).resize(picture.size, Image.Resampling.NEAREST)
    found.putpalette(np.random.default_rng(0).integers(256, size=768).tolist())
    return found


def annotation(rng):
    """The text of PASCAL VOC's file of a picture, with random objects."""
    text = (f'<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth>'
            '</size>')
    for name in rng.choice(counterparts.VOC[1:], rng.integers(*OBJECTS, endpoint=True)):
        left, top = rng.integers(1, (WIDTH - LEAST, HEIGHT - LEAST))
        right, bottom = rng.integers((left + LEAST, top + LEAST), (WIDTH, HEIGHT), endpoint=True)
        text += (f'<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{left}</xmin>'
                 f'<ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>')
    return text + '</annotation>'


class Kind(NamedTuple):
    """What a row reads: the examples in the form of each side, cut to a size in pixels."""

    target: str  # this and the next: arguments of data.load
    split: str
    crops: Callable  # size -> data.Crops
    # (torch, the function that imports a part of torchvision, directory, size) -> the data set of
    # the same examples in PyTorch, and what makes a batch of them, or None
    torch: Callable


def torch_classes(torch, torchvision, directory, size):
    datasets, vision = map(torchvision, ('datasets', 'transforms'))
    return datasets.ImageFolder(directory / 'train', vision.Compose([
        vision.RandomResizedCrop(size), vision.RandomHorizontalFlip(), vision.ToTensor(),
        vision.Normalize(*counterparts.IMAGENET)])), None


def torch_masks(torch, torchvision, directory, size):
    datasets, vision, tensors = map(torchvision, ('datasets', 'transforms.v2', 'tv_tensors'))
    dtypes = {tensors.Image: torch.float32, tensors.Mask: torch.int64, 'others': None}
    return datasets.wrap_dataset_for_transforms_v2(datasets.VOCSegmentation(
        directory, transforms=vision.Compose([
            vision.RandomResize(size, 2 * size + 1), vision.RandomHorizontalFlip(),
            vision.RandomCrop(size), vision.ToImage(), vision.ToDtype(dtypes, scale=True),
            vision.Normalize(*counterparts.IMAGENET), vision.ToPureTensor()]))), None


def torch_boxes(torch, torchvision, directory, size):
    datasets, vision = map(torchvision, ('datasets', 'transforms.v2'))
    low, high = shorter_sides(size)
    return datasets.wrap_dataset_for_transforms_v2(datasets.VOCDetection(
        directory, transforms=vision.Compose([
            vision.RandomShortestSize(list(range(low, high + 1)), max_size=size),
            vision.RandomHorizontalFlip(), vision.ToImage(),
            vision.ToDtype(torch.float32, scale=True), vision.SanitizeBoundingBoxes(),
            vision.ToPureTensor()]))), lambda examples: tuple(zip(*examples, strict=True))


def shorter_sides(size):
    """The range of scales for detectors. A picture of 4 : 3 just fits into `size` at the end."""
    return size // 2, 3 * size // 4


KINDS = {
    'input': Kind('label', 'train', lambda size: data.Crops(size, 'random_resized'),
                  torch_classes),
    'masks': Kind('mask', 'masked', lambda size: data.Crops(size, shorter_side=(size, 2 * size)),
                  torch_masks),
    'boxes': Kind('boxes', f'{VOC}/train', lambda size: data.Crops(
        size, fit='letterbox', shorter_side=shorter_sides(size)), torch_boxes),
}


def batches(kind, directory, size, batch):
    """Our batches of `directory`, as `write` leaves it: a generator, to be closed."""
    source = data.load('folder', kind.split, directory, target=kind.target)
    return data.Stream(source, kind.crops(size), threads=0).train_batches(batch, seed=0)


def torch_step(module, kind, directory, size, batch):
    """A function that reads the next batch of the same in PyTorch, as in torchvision's examples.
    `module` is torch_steps.

    Raises Unmeasured if torchvision is not installed.
    """
    torch = module.torch
    dataset, collate = kind.torch(torch, module.networks.torchvision, directory, size)
    order = torch.utils.data.RandomSampler(dataset, num_samples=sys.maxsize)  # epochs without end
    found = iter(torch.utils.data.DataLoader(dataset, batch, sampler=order, collate_fn=collate))

    def step():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        read = next(found)
        torch.set_num_threads(threads)
        return read

    return step


def reading(name, size, batch, setting):
    """Measures the row of the Kind of this name: JPEGs are decoded, cut and scaled, and their masks
    or boxes follow. PyTorch also flips images here and turns them into floats, which are normalized
    but for a detector, whose model does that and pads them; we do that in the training step, and
    pad here. Both read in one thread without workers, because workers would read ahead, for free,
    during the other side's turn."""
    kind, facts = KINDS[name], {'batch': batch}
    with tempfile.TemporaryDirectory() as directory:
        write(directory := Path(directory))
        with contextlib.closing(batches(kind, directory, size, batch)) as ours:
            sides = {'cnnjax': functools.partial(next, ours)}
            if setting.torch:
                try:
                    sides['torch'] = torch_step(setting.torch, kind, directory, size, batch)
                except Unmeasured as error:
                    facts['missing'] = str(error)
            return setting.measure({side: advance(step, wait=lambda value: None)
                                    for side, step in sides.items()}, f'{name}_{size}') | facts


ROWS = {name: functools.partial(reading, name) for name in KINDS}
