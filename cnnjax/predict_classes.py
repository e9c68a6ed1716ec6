"""The classes that a network sees in pictures of any size, any number of them.

    network = trained.load('runs/quickstart')
    network.predict(['photo.jpg'])  # [Prediction(classes, probabilities)]
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from PIL import Image

from cnnjax import data, evaluate, memory, parallel, predict, tasks, views
from cnnjax.data import images
from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.predict import Picture
from cnnjax.tasks.task import Observed

BATCH = 64  # How many pictures are seen at once.
PART = 64  # How many batches are averaged over their views before the next are read.


class Prediction(NamedTuple):
    """What a classifier says of a picture: the classes with the highest probabilities, falling."""

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def classes(network: Network, pictures: Sequence[Picture], top: int = 5, *,
            batch_size: int = BATCH, devices: int = 0,
            unreadable: dict[int, UserError] | None = None) -> list[Any]:
    """The Prediction of each picture, exactly as an evaluation sees it: scaled and cut and, if
    `network.evaluation` has several views, averaged over them. Probabilities are those of the task.

    A picture that has the size of the training's images stays as it is. Where these were not
    scaled, others are scaled and cut to their size, if they were square and had no border.

    Args:
      pictures: files and arrays [H, W, C], uint8 or floats in [0, 1], which are rounded to uint8.
        Files are decoded as they are needed. A network of sequences or volumes takes arrays of the
        shape, and the type, of those of its training.
      top: how many classes; at most as many as there are.
      batch_size: pictures per step, over all devices.
      devices: how many local devices to use; 0: all.
      unreadable: receives {place of a picture: why it cannot be seen}, and its prediction is None.
        Without it, the first such picture raises its error.

    Raises:
      UserError: the network does not classify, a picture cannot be read or does not fit, or the
        batch is too large for the memory.
    """
    check(network)
    if top < 1 or not len(pictures):
        raise UserError(f'{len(pictures)} pictures, top={top}: take at least one of both')
    memory.check(2 * min(batch_size, len(pictures)) * predict.largest(
        network.net, network.image_shape), batch_size=batch_size)
    found, errors = {'top': [], 'probabilities': []}, {}
    single = views.Views.of(network.evaluation).single
    # One crop's few best classes take little room, the views' scores of all classes much.
    part = len(pictures) if single else PART * batch_size
    for first in range(0, len(pictures), part):
        some = _Seen(network, pictures[first:first + part], predict.crops(network), errors, first,
                     unreadable is not None)
        source = data.Source(some, network.classes)
        examples = (data.Stream(source, some.cut()) if len(network.image_shape) == 3 else
                    data.Resident(source, data.Crops()))
        for name, values in _best(network, examples, top, batch_size, devices, single).items():
            found[name].append(values)
    if unreadable is not None:
        unreadable.update(sorted(errors.items()))
    rows = zip(*(np.concatenate(values).tolist() for values in found.values()), strict=True)
    return [None if i in errors else Prediction(
        tuple(network.classes[place] for place in places), tuple(probabilities))
        for i, (places, probabilities) in enumerate(rows)]


def check(network: Network) -> None:
    """Raises UserError if the network does not classify pictures, or not in the views that its
    `evaluation` asks for."""
    if other := predict.OTHERS.get(network.task):
        raise UserError(f'{network.name or "the network"} was trained to {network.task}: it has no '
                        f'classes of whole pictures; take predict.{other.__name__}')
    own, crops = views.Views.of(network.evaluation), predict.crops(network)
    if not own.single:
        network.of_images(views.described(network.evaluation))
    views.check(own, network.task, crops)
    if not own.single:
        views.check_network(own, network.net, crops, network.image_shape[-1])


class _Watched(images.Picture):
    """A picture that is black if its file proves to be damaged when it is decoded."""

    def __init__(self, picture: images.Picture, failed: Callable[[UserError], None]):
        vars(self).update(vars(picture))
        self.failed = failed

    def decode(self, scale: float = 1) -> Any:
        try:
            return super().decode(scale)
        except UserError as error:
            self.failed(error)
            height, width, _ = self.shape
            return Image.new(self.mode, (width, height)), 1, (0, 0)


@dataclasses.dataclass(frozen=True, repr=False)
class _Seen(Sequence):
    """Pictures as examples without a target. Those that cannot be seen are noted in `errors` and,
    if they are `forgiven`, black."""

    network: Network
    pictures: Sequence[Picture]
    crops: data.Crops
    errors: dict[int, UserError]
    first: int  # the place of the first of them in `errors`
    forgiven: bool

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: Any) -> Any:
        def failed(error):
            if not self.forgiven:
                raise error
            self.errors[self.first + i] = error

        try:
            image: Any = predict.opened(self.network, self.pictures[i])
            if len(self.network.image_shape) == 3:
                image = (_Watched(image, failed) if isinstance(image, images.Picture) else
                         predict.rounded(image))
            elif image.shape != tuple(self.network.image_shape):
                raise UserError(f'an array of shape {list(image.shape)}: the network was trained '
                                f'on {list(self.network.image_shape)}')
            if self.raw and len(image.shape) == 3:
                image = self._whole(image)
        except UserError as error:
            failed(error)
            image = np.zeros(self.network.image_shape, self.type)
        return {'image': image}

    def cut(self):
        """How the examples are cut."""
        side = self.crops.test_shorter_side or self.crops.size
        if self.raw:
            height, width, _ = self.network.image_shape
            side = min(height, width)
            return data.Crops(side, shorter_side=(side, side), shape=(height, width))
        return self.crops._replace(shorter_side=(side, side))

    @functools.cached_property
    def type(self) -> np.dtype:
        """The type of the examples, which are all alike."""
        return (np.dtype(np.uint8) if len(self.network.image_shape) == 3 else
                np.asarray(self.pictures[0]).dtype)

    @property
    def raw(self) -> bool:
        """Whether the network's pictures are not scaled; they become images here."""
        return not self.crops.size or self.crops.fit == 'pad'

    def _whole(self, image):
        """An image of the training's size, of a network whose images were not scaled."""
        height, width, _ = self.network.image_shape
        found = self.crops.center({'image': image})['image']
        if found.shape[:2] == (height, width):
            return found
        if self.crops.border or height != width:
            rows, columns = (side - 2 * self.crops.border for side in (height, width))
            raise UserError(f'{getattr(image, "name", "a picture")}: {image.shape[0]} x '
                            f'{image.shape[1]} pixels; the network was trained on pictures of '
                            f'{rows} x {columns}, as they are: bring it to that size')
        return data.Crops(height, interpolation=self.crops.interpolation).center(
            {'image': image})['image']


def _best(network, stream, top, batch_size, devices, single):
    """The 'top' classes of the pictures of a stream, and their 'probabilities'."""
    task: Any = tasks.create(network.task, network.net)
    count = min(top, len(network.classes))

    @jax.jit
    def best(outputs):
        probabilities, places = lax.top_k(task.predict(outputs)['probabilities'], count)
        return {'top': places, 'probabilities': probabilities}

    def observe(apply: Callable, examples: Any) -> Observed:
        return {}, best(apply(examples['image'])[0])

    if not single:
        scores = evaluate.log_probabilities(network, stream, batch_size=batch_size,
                                            devices=devices)['scores/']
        return jax.device_get(best(np.float32(scores)))
    mesh = parallel.data_mesh(devices)
    only = task._replace(observe=observe, results=lambda sums, kept, count, classes: dict(kept))
    run = evaluate.evaluator(only, network.net, network.normalize, stream, mesh,
                             batch_size=batch_size)
    results = run(parallel.replicate(network.variables, mesh))
    return {name: results[name] for name in ('top', 'probabilities')}
