"""A user's own detector, as small as one can be: it keeps the contract of cnnjax/models."""

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
