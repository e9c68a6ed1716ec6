"""YOLO v1 (Redmon et al. 2015), section 2: https://arxiv.org/abs/1506.02640

Where the paper is silent, and for the forms that it does not have, as in darknet, the authors'
code: https://github.com/pjreddie/darknet. `yolo_v1_fast` is the one that was released with the
paper, `yolo_v1_local` the later release. `yolo_v1_small` is no paper's: it detects small objects in
images of 64 x 64 pixels.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import boxes, layers
from cnnjax.models import yolo_classifier
from cnnjax.models.yolo_classifier import GROUPS, WIDTHS

Outputs = dict[str, jax.Array]


class YOLO(nn.Module):
    """A grid of S x S cells, each with B predictors of a box and one score of each class.

    Images [N, H, W, C] -> outputs, with rows and columns of cells:

        boxes       [N, S, S, B, 4]: the centre x, y within the cell, from 0 to 1, and the square
                    roots of the width and the height, as shares of the image
        confidence  [N, S, S, B]
        classes     [N, S, S, classes]
        image       [N, 2]: the image's width and height in pixels
        frame       [N, 4]: see models/__init__.py
    """

    groups: tuple[tuple[int, ...], ...]  # the convolutions, as in yolo_classifier.py
    widths: tuple[tuple[int, ...], ...]
    pools: int
    strided: tuple[str, ...]
    local: int  # the width of a locally connected 3x3 layer after them; 0: none
    hidden: tuple[int, ...]  # the widths of the hidden full layers
    linear: int  # how many of the first of these have no activation
    norm: str  # 'none', or 'batch' before the activation of each convolution
    cells: int  # S
    predictors: int  # B
    image_shape: tuple[int, int, int] = (448, 448, 3)
    # 'fc': a full layer computes all outputs; 'conv': a 1x1 convolution computes those of a cell
    # from its place in the last map, which has a place for each cell.
    head: str = 'fc'
    dropout: float = 0.5  # the rate before the last layer; 'conv' has none
    coordinates_weight: float = 5.0  # equation 3's lambda_coord
    no_object_weight: float = 0.5  # equation 3's lambda_noobj
    # Multiplies the loss. Darknet's gradient is half of that of equation 3: 0.5 suits its rates.
    loss_scale: float = 1.0
    score_threshold: float = 0.001  # boxes with lower scores are no detections
    nms: float = 0.5  # the largest IoU of two detections of a class
    max_detections: int = 100
    num_classes: int = 20
    relu: Callable = yolo_classifier.leaky_relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    inputs = ('frame',)
    adopts = ('yolo_v1_classifier',)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False,
                 frame: jax.Array | None = None) -> tuple[Outputs, layers.Taps]:
        taps = {}
        x = yolo_classifier.trunk(self, images, train, taps)
        if self.head == 'conv':
            x = taps['detection'] = layers.conv(
                5 * self.predictors + self.num_classes, 1, kernel_init=yolo_classifier.uniform,
                dtype=self.dtype, name='detection')(x)
            parts = jnp.split(x, [self.num_classes, self.num_classes + self.predictors], -1)
        else:
            parts = self.full_layers(x, train, taps)
        classes, confidence, found = parts
        batch, rows, columns, _ = classes.shape
        height, width = images.shape[1:3]
        whole = jnp.array([0, 0, width, height], jnp.float32)
        return {'boxes': found.reshape(batch, rows, columns, self.predictors, 4),
                'confidence': confidence, 'classes': classes,
                'image': jnp.broadcast_to(whole[2:], (batch, 2)),
                'frame': jnp.broadcast_to(whole, (batch, 4)) if frame is None else frame}, taps

    def full_layers(self, x: jax.Array, train: bool, taps: layers.Taps) -> list[jax.Array]:
        """The classes, confidences and boxes, each [N, S, S, ...], from the last map, through the
        locally connected and the full layers. Like darknet's, all the cells' outputs of a kind are
        neighbours in the last layer."""
        if self.local:
            x = taps['local'] = nn.ConvLocal(
                self.local, (3, 3), padding=1, dtype=self.dtype, name='local',
                kernel_init=nn.initializers.variance_scaling(2 / 3, 'fan_in', 'uniform',
                                                             batch_axis=(0, 1)))(x)
            x = taps['relu_local'] = self.relu(x)
        x = layers.flatten(x)

        def dense(x, width, name):
            bias = nn.initializers.constant((2 / x.shape[-1]) ** 0.5)
            return nn.Dense(width, kernel_init=yolo_classifier.uniform, bias_init=bias,
                            dtype=self.dtype, name=name)(x)

        for i, width in enumerate(self.hidden, 1):
            x = taps[f'fc{i}'] = dense(x, width, f'fc{i}')
            if i > self.linear:
                x = taps[f'relu_fc{i}'] = self.relu(x)
        x = nn.Dropout(self.dropout, deterministic=not train, name='drop')(x)
        of_cell, count = [self.num_classes, self.predictors, 4 * self.predictors], self.cells ** 2
        x = taps['detection'] = dense(x, count * sum(of_cell), 'detection')
        parts = jnp.split(x, [count * of_cell[0], count * sum(of_cell[:2])], -1)
        return [part.reshape(part.shape[0], self.cells, self.cells, size)
                for part, size in zip(parts, of_cell, strict=True)]

    def loss(self, apply: Callable, examples: Mapping[str, jax.Array],
             batch: Any) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        """Equation 3 of a batch, see tasks.Task. The metrics are its five sums, with their weights,
        'iou', that of the responsible predictors' boxes with the objects, and 'left_out', how many
        objects of an image have no predictor, since their cell predicts another."""
        inputs = {name: examples[name] for name in self.inputs if name in examples}
        outputs, _, batch_stats = apply(examples['image'], **inputs)
        cells, left_out = assign(examples, outputs)
        terms, iou, responsible = squared_errors(outputs, cells)
        terms['xy'] *= self.coordinates_weight
        terms['wh'] *= self.coordinates_weight
        terms['no_object'] *= self.no_object_weight
        means = {f'{name}_loss': self.loss_scale * batch.mean(value)
                 for name, value in terms.items()}
        value: Any = sum(means.values())
        return value, ({'loss': value, **means, 'iou': batch.mean(iou, responsible),
                        'left_out': batch.mean(left_out)}, batch_stats)

    def detections(self, outputs: Outputs) -> dict[str, jax.Array]:
        """The boxes that are left by non-maximum suppression within each class, see
        models/__init__.py. A score is the confidence times the score of the class (equation 1)."""
        centre, size = decode(outputs)
        batch, rows, columns, predictors, _ = centre.shape
        image = outputs['image'][:, None, None, None]
        found = corners(centre * image, size * image)
        confidence, classes = (outputs[name].astype(jnp.float32)
                               for name in ('confidence', 'classes'))
        # Two negative factors are no high score.
        scores = jnp.maximum(confidence, 0)[..., None] * classes[..., None, :]
        scores = jnp.where(scores > self.score_threshold, scores, -jnp.inf)
        labels = jnp.broadcast_to(jnp.arange(self.num_classes, dtype=jnp.int32), scores.shape)
        found = jnp.broadcast_to(found[..., None, :], (*scores.shape, 4))
        count = rows * columns * predictors * self.num_classes
        found, scores, labels = (array.reshape(batch, count, *array.shape[5:])
                                 for array in (found, scores, labels))

        def best(found, scores, labels, frame):
            kept = boxes.nms(found, scores, self.nms, self.max_detections, labels)
            return {'boxes': boxes.take(boxes.clip(found, frame), kept),
                    'labels': boxes.take(labels, kept, -1), 'scores': boxes.take(scores, kept)}

        return jax.vmap(best)(found, scores, labels, outputs['frame'])

    def fits(self, n: int) -> bool:
        """Whether the cells of images of n pixels are as large as those of the training."""
        return self.head != 'conv' or n > 0 and n % 2 ** (self.pools + len(self.strided)) == 0

    def adopt(self, net: nn.Module, variables: Any) -> tuple[nn.Module, Any] | None:
        """The classifier's convolutions; the layers after them are new."""
        if type(net) is YOLO:
            return net, variables
        if type(net) is not yolo_classifier.YOLOClassifier:
            return None
        params = {name: layer for name, layer in variables['params'].items() if name != 'fc'}
        same = {field: getattr(net, field) for field in ('norm', 'relu', 'pool')}
        return self.clone(**same), {**variables, 'params': params}


class Cells(NamedTuple):
    """What each cell shall predict, [N, rows, columns, ...]."""

    centre: jax.Array  # [..., 2]: x and y of the object's centre, as shares of the image
    size: jax.Array  # [..., 2]: its width and height, likewise
    label: jax.Array  # the object's class; -1: the cell has none
    ignored: jax.Array  # whether the cell has an ignored object and no other


def assign(examples: Mapping[str, jax.Array],
           outputs: Outputs) -> tuple[Cells, jax.Array]:
    """The Cells, and how many objects of each image, [N], are left out.

    An object belongs to the cell with its centre. Of several in a cell a random one is kept, drawn
    anew in each step; darknet, too, keeps the first of a shuffled list.
    """
    rows, columns = outputs['classes'].shape[1:3]
    low, high = jnp.split(examples['boxes'] / jnp.tile(outputs['image'], 2)[:, None], 2, -1)
    centre, size = (low + high) / 2, high - low
    column, row = (jnp.clip(jnp.floor(n * share), 0, n - 1).astype(jnp.int32)
                   for n, share in zip((columns, rows), jnp.unstack(centre, axis=-1), strict=True))
    place = row * columns + column
    real = examples['labels'] >= 0
    ignored = real & examples.get('ignore', False)
    real &= ~ignored
    rank = jax.vmap(lambda key: jax.random.permutation(key, real.shape[1]))(examples['keys'])
    beaten = ((place[:, :, None] == place[:, None]) & real[:, None]
              & (rank[:, :, None] > rank[:, None])).any(2)
    here = jax.nn.one_hot(place, rows * columns, dtype=bool)  # [N, M, cells]
    kept = here & (real & ~beaten)[..., None]

    def of_cells(values):
        """At most one object's values remain in a cell, so the sum is exact."""
        values = jnp.where(kept.reshape(*kept.shape, *(1,) * (values.ndim - 2)),
                           values[:, :, None], 0).sum(1)
        return values.reshape(values.shape[0], rows, columns, *values.shape[2:])

    label = of_cells(examples['labels'] + 1) - 1
    ignored = (here & ignored[..., None]).any(1).reshape(label.shape) & (label < 0)
    left_out = (real & beaten).sum(1).astype(jnp.float32)
    return Cells(of_cells(centre), of_cells(size), label, ignored), left_out


def squared_errors(outputs: Outputs,
                   cells: Cells) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    """The five sums of equation 3 without their weights, {name: [N]}, and for each predictor the
    IoU of its box with the object, and whether it is responsible, [N, rows, columns, B].

    Responsible for an object is its cell's predictor whose box has the highest IoU with it; if none
    overlaps, that with the smallest root of the summed squares of the differences of x, y, w and h,
    as in darknet. Its confidence shall be that IoU, which has no gradient.
    """
    found, confidence, classes = (
        outputs[name].astype(jnp.promote_types(outputs[name].dtype, jnp.float32))
        for name in ('boxes', 'confidence', 'classes'))
    lattice, sides = grid(*cells.label.shape[1:])
    offset = cells.centre[..., None, :] * sides - lattice
    root = jnp.sqrt(cells.size)[..., None, :]
    iou, responsible = choose(lax.stop_gradient(outputs), cells)
    one_hot = jax.nn.one_hot(cells.label, classes.shape[-1], dtype=classes.dtype)

    def total(values, where):
        return jnp.where(where, values, 0).sum(range(1, values.ndim))

    idle = ~responsible & ~cells.ignored[..., None]
    return {
        'xy': total((found[..., :2] - offset) ** 2, responsible[..., None]),
        'wh': total((found[..., 2:] - root) ** 2, responsible[..., None]),
        'object': total((confidence - iou) ** 2, responsible),
        'no_object': total(confidence ** 2, idle),
        'class': total((classes - one_hot) ** 2, (cells.label >= 0)[..., None]),
    }, iou, responsible


def choose(outputs: Outputs, cells: Cells) -> tuple[jax.Array, jax.Array]:
    """The IoUs and the responsible predictors, see `squared_errors`."""
    own, true = decode(outputs), (cells.centre[..., None, :], cells.size[..., None, :])
    iou = boxes.iou(corners(*own), corners(*true))[..., 0]
    distance: Any = sum(((a - b) ** 2).sum(-1) for a, b in zip(own, true, strict=True))
    best = jnp.where(iou.max(-1) > 0, iou.argmax(-1), distance.argmin(-1))
    return iou, jax.nn.one_hot(best, iou.shape[-1], dtype=bool) & (cells.label >= 0)[..., None]


def decode(outputs: Outputs) -> tuple[jax.Array, jax.Array]:
    """The centres of the predicted boxes, and their widths and heights, as shares of the image,
    [N, rows, columns, B, 2]."""
    found = outputs['boxes'].astype(jnp.promote_types(outputs['boxes'].dtype, jnp.float32))
    lattice, sides = grid(*found.shape[1:3])
    return (found[..., :2] + lattice) / sides, found[..., 2:] ** 2


def grid(rows: int, columns: int) -> tuple[Any, Any]:
    """The column and the row of each cell, [1, rows, columns, 1, 2], and how many there are of
    them, [1, 1, 1, 1, 2]."""
    numpy = layers.numpy_for(rows, columns)
    lattice = numpy.stack(numpy.meshgrid(numpy.arange(columns), numpy.arange(rows)), -1)
    return (lattice[None, :, :, None].astype(np.float32),
            numpy.array([columns, rows], np.float32, ndmin=5))


def corners(centre: jax.Array, size: jax.Array) -> jax.Array:
    """Boxes [..., 4]: left, top, right, bottom."""
    return jnp.concatenate([centre - size / 2, centre + size / 2], -1)


# The layers after those of the classifier are the last two of the fifth group, and the sixth.
PAPER = GROUPS[:4] + (GROUPS[4] + (3, 3), (3, 3))
PAPER_WIDTHS = WIDTHS[:4] + (WIDTHS[4] + (1024, 1024), (1024, 1024))
FAST = ((3,),) * 6 + ((3, 3, 3),)
FAST_WIDTHS = ((16,), (32,), (64,), (128,), (256,), (512,), (1024,) * 3)
SMALL = ((3,),) * 3 + ((3, 1, 3),)
SMALL_WIDTHS = ((16,), (32,), (64,), (128, 64, 128))
HALVES = ('conv1_1', 'conv5_6')
#   convolutions, pools, stride 2      local  hidden  linear  norm    S  B  images        head  C
COLUMNS = ('groups', 'widths', 'pools', 'strided', 'local', 'hidden', 'linear', 'norm', 'cells',
           'predictors', 'image_shape', 'head', 'num_classes')
TABLE = {
    'yolo_v1':       (PAPER, PAPER_WIDTHS, 4, HALVES, 0,   (4096,),     0, 'none',  7, 2,
                      (448, 448, 3), 'fc', 20),
    'yolo_v1_fast':  (FAST,  FAST_WIDTHS,  6, (),     0,   (256, 4096), 1, 'none',  7, 2,
                      (448, 448, 3), 'fc', 20),
    'yolo_v1_local': (PAPER, PAPER_WIDTHS, 4, HALVES, 256, (),          0, 'batch', 7, 3,
                      (448, 448, 3), 'fc', 20),
    'yolo_v1_small': (SMALL, SMALL_WIDTHS, 3, (),     0,   (),          0, 'batch', 8, 2,
                      (64, 64, 3),   'conv', 10),
}
MODULE = YOLO
