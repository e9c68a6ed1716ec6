"""Style transfer in one pass: a network that gives any photograph a certain style, learned from
photographs alone.

Johnson, Alahi & Fei-Fei 2016, "Perceptual Losses for Real-Time Style Transfer and
Super-Resolution", https://arxiv.org/abs/1603.08155. The loss compares the network's images with the
photographs and with the style as a frozen network sees them, the teacher: perceptual.py makes the
function `judge`, (variables of the teacher, images in [0, 1], examples['taught']) ->
{term: float [N]}.

The network sees each frame of a film alone. Noise of the camera, and where the picture lies on the
network's grid of strides, change its output more than its input: the film flickers. So training may
ask for the same output of the same picture with noise, moved by some pixels (stability training,
Zheng et al. 2016, equation 3, https://arxiv.org/abs/1604.04326).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError
from cnnjax.tasks.task import LossAndMetrics, Observed, Task, WholeBatch

TARGET = 'image'  # Examples need no more.
# Two frames of a film, as evaluations see them: how far the picture moves down and to the right
# between them, in pixels, and the standard deviation of their noise, in units of white.
PAN, NOISE = (1, 2), 0.02
BORDER = 16  # How many pixels beside the border of an image are not compared with a moved image.


class Stability(NamedTuple):
    """How much the images may depend on noise and place in training."""

    weight: float = 0.0  # multiplies the mean squared difference of the two images
    noise: float = 0.0  # the standard deviation, in units of white
    shift: int = 0  # the largest move, in pixels


UNSTABLE = Stability()


def create(judge: Callable | None = None, deviation: Any = 1.0,
           stability: Stability = UNSTABLE) -> Task:
    """The task for networks that make images in [0, 1] of normalized ones.

    Args:
      judge: see above; None: the teacher is not there, and the task can only predict.
      deviation: what the normalization has divided the colours of the images by, [1, 1, C].
      stability: the Stability of the training.
    """
    return Task(check, functools.partial(loss, judge, deviation, stability),
                functools.partial(observe, judge, deviation), results, predict, draw)


def check(outputs: Any, examples: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Raises UserError unless the network makes an image of each image."""
    del classes
    found = getattr(outputs, 'shape', None)
    if found != examples['image'].shape:
        raise UserError(f"task='stylize' needs a network that makes images of images, such as "
                        f"'transformation_net'; this one has outputs of the shape {found}")


def loss(judge: Any, deviation: Any, stability: Stability, apply: Callable,
         examples: Mapping[str, Any], batch: WholeBatch) -> LossAndMetrics:
    """The sum of the terms of the teacher and, if it has a weight, of 'stability'. The metrics are
    'loss' and the terms."""
    images, _, batch_stats = apply(examples['image'])
    terms = judge(examples['teacher'], images, examples['taught'])
    metrics = {name: batch.mean(values) for name, values in terms.items()}
    if stability.weight:
        moves = jax.vmap(lambda key: jax.random.randint(
            jax.random.fold_in(key, 0), (2,), -stability.shift, stability.shift + 1))(
                examples['keys'])
        seen = jax.vmap(functools.partial(_frame, stability.noise, deviation))(
            examples['keys'], examples['image'], moves)
        moved, _, batch_stats = apply(seen)
        differences = _inside(jax.vmap(_moved)(moved, -moves) - images)
        metrics['stability'] = stability.weight * batch.mean((differences ** 2).mean((1, 2, 3)))
    value: Any = sum(metrics.values())
    return value, ({'loss': value, **metrics}, batch_stats)


def observe(judge: Any, deviation: Any, apply: Callable, examples: Mapping[str, Any]) -> Observed:
    """The 'loss' of each image without stability, its terms, and the 'whole' loss that the
    photograph itself has; and how much it 'flickers': the root mean square difference between the
    images of two frames of a film, without the motion, divided by that of the frames. Nothing is
    kept."""
    if judge is None:
        raise UserError("the error of task='stylize' is what its teacher sees: the run's "
                        'metrics.jsonl has it, and configs/predict.py applies the network')
    photographs, taught = examples['image'], examples['taught']
    terms = judge(examples['teacher'], apply(photographs)[0], taught)
    whole = judge(examples['teacher'], taught['image'], taught)
    pan = np.array(PAN)
    frames = [jax.vmap(functools.partial(_frame, NOISE, deviation), (None, 0, None))(
        key, photographs, move) for key, move in zip(
            jax.random.split(jax.random.key(0)), (0 * pan, pan), strict=True)]

    def change(before, after):
        differences = _inside(jax.vmap(_moved, (0, None))(after, -pan) - before)
        return jnp.sqrt((differences ** 2).mean((1, 2, 3)))

    flicker = change(*(apply(frame)[0] for frame in frames)) / change(
        *(jax.vmap(lambda image: image * deviation)(frame) for frame in frames))
    total: Any = sum(terms.values())
    of_photographs: Any = sum(whole.values())
    return {'loss': total, **terms, 'whole': of_photographs, 'flicker': flicker}, {}


def results(sums: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray], count: int,
            classes: Sequence[str]) -> dict[str, Any]:
    """The means over all photographs: the 'loss', its terms and 'flicker' (see observe). The
    'error' is the loss as a share of that of the photographs themselves, at most 1."""
    del kept, classes
    means = {name: float(total / count) for name, total in sums.items()}
    return {'error': min(means['loss'] / means.pop('whole'), 1.0), **means}


def predict(outputs: jax.Array) -> dict[str, jax.Array]:
    """The 'stylized' images, float32 [N, H, W, C] in [0, 1]: the outputs themselves."""
    return {'stylized': outputs.astype(jnp.float32)}


def draw(example: Mapping[str, np.ndarray], classes: Sequence[str]) -> np.ndarray:
    """A picture, uint8 [H, W, 3]: the 'stylized' image if there is one, else the 'image'."""
    del classes
    image = example['image']
    if 'stylized' in example:
        image = np.round(255 * example['stylized']).astype(np.uint8)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def _frame(noise, deviation, key, image, move):
    """A normalized image [H, W, C] moved by so many pixels, with noise."""
    grain = noise * jax.random.normal(key, image.shape, image.dtype)
    return _moved(image, move) + grain / deviation


def _moved(image, move):
    """[H, W, C] moved by so many pixels down and to the right; what leaves it comes back."""
    return jnp.roll(image, move, (0, 1))


def _inside(images):
    """[N, H, W, C] without the border, of which at most half of the image is left out."""
    top, left = (min(BORDER, side // 4) for side in images.shape[1:3])
    return images[:, top:images.shape[1] - top, left:images.shape[2] - left]
