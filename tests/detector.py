"""Detectors as small as they can be, which keep the contract of cnnjax/models."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax import boxes, losses

STRIDE = 4


class Grid(nn.Module):
    """Each cell of a grid has a score, a box and a class, and is trained to find the object whose
    middle it has. Half of the empty cells, drawn for each image, are trained to be empty."""
    num_classes: int = 10
    width: int = 8
    max_detections: int = 6
    inputs = ('frame',)
    image_shape = (16, 16, 3)

    @nn.compact
    def __call__(self, images, train=False, frame=None):
        taps, x = {}, images
        for i in range(2):
            x = nn.Conv((i + 1) * self.width, (3, 3), 2, padding=1, dtype=np.float32,
                        name=f'conv{i}')(x)
            x = taps[f'relu{i}'] = nn.relu(x)
        x = taps['cells'] = nn.Conv(5 + self.num_classes, (1, 1), dtype=np.float32,
                                    name='cells')(x)
        height, width = images.shape[1:3]
        if frame is None:
            frame = jnp.tile(jnp.array([[0, 0, width, height]], jnp.float32), (images.shape[0], 1))
        rows, columns = np.indices(x.shape[1:3], np.float32)
        places = STRIDE * (np.stack([columns, rows], -1) + 0.5).reshape(1, -1, 2)
        cells = x.reshape(x.shape[0], -1, x.shape[-1])
        middles, sides = places + STRIDE * cells[..., 1:3], 2 * STRIDE * jnp.exp(cells[..., 3:5])
        return {'scores': cells[..., 0], 'classes': cells[..., 5:], 'frame': frame,
                'boxes': jnp.concatenate([middles - sides / 2, middles + sides / 2], -1)}, taps

    def detections(self, outputs):
        def one(scores, classes, found, frame):
            found, labels = boxes.clip(found, frame), classes.argmax(-1).astype(jnp.int32)
            kept = boxes.nms(found, scores, 0.5, self.max_detections, labels)
            return {'boxes': boxes.take(found, kept), 'labels': boxes.take(labels, kept, -1),
                    'scores': boxes.take(nn.sigmoid(scores), kept)}

        return jax.vmap(one)(outputs['scores'], outputs['classes'], outputs['boxes'],
                             outputs['frame'])

    def loss(self, apply, examples, batch):
        outputs, _, batch_stats = apply(examples['image'])
        columns = examples['image'].shape[2] // STRIDE

        def one(scores, classes, found, key, true_boxes, labels):
            middles = (true_boxes[:, :2] + true_boxes[:, 2:]) // (2 * STRIDE)
            cell = jnp.where(labels >= 0, middles[:, 1] * columns + middles[:, 0], -1)
            mine = jax.nn.one_hot(cell.astype(jnp.int32), len(scores), dtype=jnp.float32)
            filled = mine.max(0)
            drawn = jnp.maximum(filled, jax.random.bernoulli(key, 0.5, filled.shape).astype(
                jnp.float32))
            places = (optax.sigmoid_binary_cross_entropy(scores, filled) * drawn).mean()
            sides = losses.smooth_l1(found[None] - true_boxes[:, None], 1.0).sum(-1) / STRIDE
            kinds = losses.cross_entropy(classes[None], labels[:, None])
            return places, (mine * (sides + kinds)).sum() / len(labels)

        places, objects = jax.vmap(one)(
            outputs['scores'], outputs['classes'], outputs['boxes'], examples['keys'],
            examples['boxes'], examples['labels'])
        parts = {'places': batch.mean(places), 'objects': batch.mean(objects)}
        value = parts['places'] + parts['objects']
        return value, ({'loss': value, **parts}, batch_stats)


class Lights(nn.Module):
    """Without training: all that is bright in channel c is the object of class c, whose score is
    the share of such pixels. Both boxes are proposals, too."""
    num_classes: int = 2
    max_detections: int = 3
    nms: float = 0.5
    inputs = ('frame',)

    @nn.compact
    def __call__(self, images, train=False, frame=None):
        bright = images[..., :2] > 0

        def box(bright):
            rows, columns = bright.any(1), bright.any(0)
            sides = [(values.argmax(), len(values) - values[::-1].argmax())
                     for values in (columns, rows)]
            (left, right), (top, bottom) = sides
            return jnp.stack([left, top, right, bottom]).astype(jnp.float32), bright.mean()

        found, shares = jax.vmap(jax.vmap(box, -1))(bright)
        return {'proposals': jnp.where(shares[..., None] > 0, found, 0), 'shares': shares}, {
            'bright': bright.astype(jnp.float32)}

    def detections(self, outputs):
        found, shares = outputs['proposals'], outputs['shares']
        order = jnp.argsort(-shares, axis=-1)
        shares = jnp.take_along_axis(shares, order, -1)
        found = {'boxes': jnp.take_along_axis(found, order[..., None], 1),
                 'labels': jnp.where(shares > 0, order, -1), 'scores': shares}
        more = self.max_detections - 2
        return {name: jnp.pad(values, ((0, 0), (0, more), *[(0, 0)] * (values.ndim - 2)),
                              constant_values=-1 if name == 'labels' else 0)
                for name, values in found.items()}
