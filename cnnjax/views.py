"""The test protocols of the papers: the probabilities of the classes are means over several views
of a picture. Each view is cut from the picture and scaled, as the one crop of other evaluations is.

    crops   '1'         the middle crop of image_size pixels
            '10'        four corners and the middle, and their mirror images, of the middle square
                        of a picture: Krizhevsky et al. 2012, section 4.1, who cut 224 pixels from
                        256 x 256 (https://papers.nips.cc/paper/4824)
            '10_whole'  the same of the whole picture, whose shorter side is scaled: "10 224x224
                        crops from resized image with shorter side=256", as the authors of ResNet
                        write (https://github.com/KaimingHe/deep-residual-networks); TenCrop of
                        facebookarchive/fb.resnet.torch, which is DenseNet's code, cuts the same
            'dense'     the whole picture: the scores of all positions are averaged before the
                        softmax. Simonyan & Zisserman 2014, section 3.2
                        (https://arxiv.org/abs/1409.1556); He et al. 2015, section 3.4
                        (https://arxiv.org/abs/1512.03385) do as they do
    test_scales         several shorter sides of a picture, in place of test_shorter_side:
                        "averaging the resulting class posteriors" (Simonyan & Zisserman 2014,
                        section 4.2)
    test_flip           each view and its mirror image: "the soft-max class posteriors of the
                        original and flipped images are averaged" (the same, section 3.2)

The posteriors of all views have the same weight. Their mean is returned as log-probabilities, which
take the place of logits: a task need not know of views.

Dense in detail. Full layers become convolutions (layers.fully_convolutional). A network with global
average pooling averages the larger map, which is the mean of the scores of its positions; the
prototxt of ResNet's authors has a 7x7 window of stride 1 instead, whose mean counts the outer
positions less. Programs have fixed shapes, so both sides of a picture are cut, in the middle, to
image_size plus a multiple of the network's stride (32 pixels for most): pictures of many sizes
become few shapes, at most 31 pixels of a side are lost, and VGG's pools would lose as many at the
right and at the bottom.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from ml_collections import ConfigDict

from cnnjax import data, layers, limits, summary
from cnnjax.errors import UserError
from cnnjax.tasks import classify
from cnnjax.tasks.task import Observed, Task

NAMES = {'1': 'one crop', '10': '10 crops of the middle square',
         '10_whole': '10 crops of the whole picture', 'dense': 'the whole picture'}
MIDDLE, *CORNERS = (0.5, 0.5), (0, 0), (0, 1), (1, 0), (1, 1)  # see data.Crops.place
LIMITS = {'crops': tuple(NAMES), 'test_scales': limits.Whole(1, 8192), 'test_flip': (False, True)}

Cut = tuple[np.ndarray | None, data.Crops]  # Which examples are cut so; None: all.


class Views(NamedTuple):
    """Which views of a picture are averaged; the fields are those of configs/base.py."""

    crops: str = '1'
    test_scales: tuple[int, ...] = ()
    test_flip: bool = False

    @classmethod
    def of(cls, fields: Mapping[str, Any] | ConfigDict) -> 'Views':
        """Those of a config, or of a Trained's `evaluation`; older ones have one view."""
        known: Any = {name: fields[name] for name in cls._fields if name in fields}
        return cls(**known | {'test_scales': tuple(known.get('test_scales', ()))})

    @property
    def single(self) -> bool:
        """Whether the middle crop is the only view."""
        return self == Views()

    @property
    def mirrored(self) -> bool:
        return self.test_flip or self.crops.startswith('10')


def described(fields: Mapping[str, Any] | ConfigDict) -> str:
    """How a table names the views of a config, or of a Trained's `evaluation`: 'one crop', 'the
    whole picture and its mirror image, shorter side 256, 384, 512'."""
    own = Views.of(fields)
    side: Any = fields.get('test_shorter_side', 0)
    flipped = own.test_flip and own.crops in ('1', 'dense')
    text = NAMES[own.crops] + ' and its mirror image' * flipped
    sides = own.test_scales or (side,) * (side > 0)
    return text + (f', shorter side {", ".join(map(str, sides))}' if sides else '')


def check(views: Views, task: str, crops: data.Crops) -> None:
    """Raises UserError if these views cannot be cut from pictures, or not for that task.

    Args:
      crops: how the middle crop is cut.
    """
    limits.check(dict(zip(LIMITS, views, strict=True)), LIMITS)
    if views.single:
        return
    said = ', '.join(f'{name}={value!r}' for name, value, usual in zip(
        LIMITS, views, Views(), strict=True) if value != usual)
    if task != 'classify':
        raise UserError(f'{said}: only the classes of pictures are averaged over views; leave it '
                        f'out for task={task}')
    if views._replace(test_flip=False).single:
        return
    if not crops.size or crops.fit != 'crop':
        raise UserError(f"{said}: views are cut from scaled pictures, of a network that is trained "
                        "with image_size and fit='crop'")
    for side in scales(views, crops):
        if side < crops.size and views.crops != 'dense':
            raise UserError(f'{said}: crops of image_size={crops.size} are larger than pictures '
                            f'whose shorter side is scaled to {side}')
        if side <= crops.size and views.crops == '10':
            raise UserError(f'{said}: ten crops of image_size={crops.size} from a square of '
                            f'{side} pixels are all the same; take a larger test_shorter_side')


def scales(views: Views, crops: data.Crops) -> tuple[int, ...]:
    """The shorter sides to which these views scale a picture."""
    return views.test_scales or (crops.test_shorter_side or crops.size,)


def cuts(views: Views, net: nn.Module, crops: data.Crops, channels: int,
         shapes: Callable[[], np.ndarray]) -> list[list[Cut]]:
    """How pictures are cut: for each view (but mirror images) the cuts of all examples, each of
    which is in one of them.

    Args:
      crops: how the middle crop is cut.
      shapes: returns (height, width) of every picture, int [N, 2].
    """
    scaled = [crops._replace(test_shorter_side=side) for side in views.test_scales] or [crops]
    if views.crops != 'dense':
        return [[(None, each._replace(place=place, square=views.crops == '10'))]
                for each in scaled for place in (MIDDLE, *CORNERS * (views.crops != '1'))]
    step = stride(net, (crops.size, crops.size, channels))
    pictures = shapes() + 2 * crops.border
    return [_grouped(_fitted(pictures, each, step), each) for each in scaled]


@functools.lru_cache
def stride(net: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """By how many pixels whole pictures differ in size for a network of images [H, W, C]."""
    return summary.grid(summary.summarize(net, image_shape).rows)


def _fitted(pictures, crops, step):
    """The sides, int [N, 2], to which pictures are cut after they are scaled."""
    side = crops.test_shorter_side or crops.size
    scaled = side * pictures // pictures.min(-1, keepdims=True)
    return scaled - (scaled - crops.size) % step


def _grouped(sides: np.ndarray, crops: data.Crops) -> list[Cut]:
    """The cuts of pictures that become so large, int [N, 2]: one for each shape."""
    found, of_each = np.unique(sides, axis=0, return_inverse=True)
    if len(found) == 1:
        return [(None, crops._replace(shape=tuple(found[0].tolist())))]
    return [(np.flatnonzero(of_each.ravel() == i), crops._replace(shape=tuple(shape)))
            for i, shape in enumerate(found.tolist())]


@functools.lru_cache
def check_network(views: Views, net: nn.Module, crops: data.Crops, channels: int) -> None:
    """Raises UserError if the network cannot see whole pictures at each of the test scales, where
    it has to, or sees several positions of an image of the training."""
    if views.crops != 'dense':
        return
    image_shape = crops.size, crops.size, channels
    step = stride(net, image_shape)
    if step > crops.size:
        raise UserError(f"crops='dense': {type(net).__name__} has no grid of positions in an image "
                        f'of {crops.size} pixels')

    def scores(side):
        def call():
            variables = net.init(jax.random.key(0), jnp.zeros((1, *image_shape)), train=False)
            with layers.fully_convolutional():
                return net.apply(variables, jnp.zeros((1, side, side, channels)), train=False)[0]
        return jax.eval_shape(call).shape

    for scale in (crops.size, *scales(views, crops)):
        try:
            shape = scores(scale - (scale - crops.size) % step)
            if len(shape) == 4 and scale == crops.size and shape[1:3] != (1, 1):
                raise UserError(f'it has {shape[1]} x {shape[2]} positions there')
        except (FlaxError, ValueError, TypeError, ZeroDivisionError) as error:
            raise UserError(f"crops='dense': {type(net).__name__} cannot see whole pictures of "
                            f'{scale} pixels: {error}') from error


def task(views: Views, net: nn.Module) -> Task:
    """Classification with other results of an evaluation: the 'label' of each example, where there
    is one, and the log-probabilities of its classes, float32 [N, classes], as 'scores/', and those
    of each subnetwork of the network as 'scores/NAME'."""
    subnetworks = getattr(net, 'subnetworks', {})

    def observe(apply: Callable, examples: Mapping[str, jax.Array]) -> Observed:
        images, kept = examples['image'], {}
        if views.mirrored:
            images = jnp.concatenate([images, images[:, :, ::-1]])
        dense = views.crops == 'dense'
        for name, arguments in {'': {}, **subnetworks}.items():
            with layers.fully_convolutional() if dense else contextlib.nullcontext():
                scores, _ = apply(images, **arguments)
            scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
            if scores.ndim == 4:
                scores = scores.mean((1, 2))
            kept[f'scores/{name}'] = mean(jax.nn.log_softmax(scores).reshape(
                1 + views.mirrored, -1, scores.shape[-1]), jax.nn.logsumexp)
        return {}, kept | ({'label': examples['label']} if 'label' in examples else {})

    return classify.create(net)._replace(
        observe=observe, results=lambda sums, kept, count, classes: dict(kept))


def mean(values: Any, logsumexp: Callable = np.logaddexp.reduce) -> Any:
    """The logarithms of the mean probabilities, from their logarithms [K, N, classes]."""
    return logsumexp(values, 0) - np.log(len(values))
