"""The patches of a data set that excite each unit most, and what in them does it (Zeiler & Fergus
2013, section 4 and figure 2, https://arxiv.org/abs/1311.2901).

    units = strongest(network, ['relu3_1', 'relu4_1'], stream)['relu4_1']
    images = look_up(stream, units.images[17])  # the nine of unit 17
    found = project(network, 'relu4_1', images, 17, units.positions[17], 'deconvnet')
    row = next(row for row in summary.summarize(network.net, network.image_shape).rows
               if row.name == 'relu4_1')
    patches = [cut(image, row, position)
               for image, position in zip(images, units.positions[17])]
    causes = [cut(image, row, position)
              for image, position in zip(contrast(found), units.positions[17])]

A unit is a channel of a layer. The set is read once, for all layers at once; what is kept of it on
the devices are the places of the strongest images so far, and a few statistics.
"""

import functools
import itertools
import json
import math
import os
from concurrent import futures
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cnnjax import atomic, parallel, step
from cnnjax.data.identity import Identity, differences
from cnnjax.errors import UserError
from cnnjax.images.objectives import missing
from cnnjax.images.rules import with_rule
from cnnjax.trained import Trained


class Units(NamedTuple):
    """The strongest images of every unit of a layer, and its statistics; arrays of NumPy."""

    scores: np.ndarray  # float32 [C, count], falling: the maximum of each of these images
    images: np.ndarray  # int32 [C, count], the images' places in the data set
    positions: np.ndarray  # int32 [C, count, 2], row and column of the maximum in the layer
    mean: np.ndarray  # float32 [C], over all images and positions
    deviation: np.ndarray  # float32 [C], the standard deviation over the same
    active: np.ndarray  # float32 [C], share of the images in which the unit is above 0 somewhere
    class_means: np.ndarray  # float32 [classes, C], of the images' maxima; nan: no such image

    @property
    def maximum(self):
        """[C], over all images and positions."""
        return self.scores[:, 0]


class Seen(NamedTuple):
    """What is known of a layer after some of the images; `places` are positions, row by row."""

    scores: jax.Array  # [C, count]
    images: jax.Array
    places: jax.Array
    mean: jax.Array  # [C]
    variance: jax.Array
    active: jax.Array  # int32 [C], the number of images
    class_means: jax.Array  # [classes, C]


def strongest(network, layers, stream, count=9, batch_size=64, mesh=None, progress=None):
    """{layer: Units}: the `count` strongest images of every unit, in one pass for all layers.

    The same as sorting the maxima of all images: one maximum per image, and of equal ones the image
    that comes first in the set; of equal positions the first, row by row. In a layer without
    positions every image has one, (0, 0).

    Args:
      network: a Trained network.
      layers: names of its taps.
      stream: a data.Resident or data.Stream; every example counts once.
      count: images per unit.
      batch_size: images of a step, on all devices together; made a multiple of their number.
      mesh: devices that share every batch; None: one device.
      progress: called with the number of images of every batch that is done (`bar.update`).

    Raises:
      UserError: no such layer, fewer images than `count`, or activations that are not finite.
    """
    if not 1 <= count <= len(stream):
        raise UserError(f'the {count} strongest of {len(stream)} images: take 1 to {len(stream)}')
    if batch_size < 1:
        raise UserError(f'batch_size={batch_size}: a batch has at least one image')
    images = jax.ShapeDtypeStruct((1, *stream.image_shape), 'uint8')
    shapes = {name: tap.shape for name, tap in jax.eval_shape(network.taps, images).items()}
    missing(layers, shapes)
    mesh = mesh or parallel.data_mesh(1)
    batch_size = mesh.size * math.ceil(min(batch_size, len(stream)) / mesh.size)

    def one(seen, variables, data, batch):
        seen = jax.tree.map(lambda x: x[0], seen)  # this device's
        examples = step.fetch(data, batch)
        taps = network._replace(variables=variables).taps(examples['image'])
        real = batch['weight'] > 0
        seen = _add(seen, {layer: taps[layer] for layer in layers}, batch['place'],
                    examples['label'], real)
        return jax.tree.map(lambda x: x[None], seen), lax.psum(real.sum(), parallel.AXIS)

    update = jax.jit(jax.shard_map(
        one, mesh=mesh, in_specs=(P(parallel.AXIS), P(), P(), P(parallel.AXIS)),
        out_specs=(P(parallel.AXIS), P()), check_vma=False), donate_argnums=0)
    classes = len(stream.classes)
    seen = (np.zeros(classes, np.int32),
            {layer: _nothing(shapes[layer][-1], count, classes) for layer in layers})
    split = NamedSharding(mesh, P(parallel.AXIS))
    seen = jax.device_put(
        jax.tree.map(lambda x: np.broadcast_to(x, (mesh.size, *x.shape)), seen), split)
    variables, data = parallel.replicate((network.variables, stream.data or {}), mesh)

    def finished(done):
        done = int(done)  # waits
        if progress:
            progress(done)
        return done

    total, pending = 0, []
    for start, batch in zip(itertools.count(0, batch_size), stream.test_batches(batch_size),
                            strict=False):
        batch['place'] = np.arange(start, start + batch_size, dtype=np.int32)
        seen, done = update(seen, variables, data, jax.device_put(batch, split))
        pending.append(done)
        if len(pending) > 1:  # a batch is read while the one before is computed
            total += finished(pending.pop(0))
    total += finished(pending.pop())
    assert total == len(stream), f'{total} of {len(stream)} images'
    class_counts, seen = jax.device_get(seen)
    return {layer: _merge(layer, seen[layer], class_counts, shapes[layer][1:-1])
            for layer in layers}


def _nothing(units, count, classes):
    return Seen(np.full((units, count), -np.inf, np.float32),
                *np.zeros((2, units, count), np.int32), *np.zeros((2, units), np.float32),
                np.zeros(units, np.int32), np.zeros((classes, units), np.float32))


def _add(seen, taps, places, labels, real):
    """(class counts, {layer: Seen}) with a batch more: the taps {layer: [B, ..., C]}, the images'
    places in the set [B], their labels [B], and whether they are none of the padding [B].

    Means and variances are updated (Chan et al. 1979,
    http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/CS-TR-79-773.pdf): sums over a large set
    would lose the last images to rounding.
    """
    counts, layers = seen
    number = real.astype(jnp.float32)
    member = jax.nn.one_hot(labels, len(counts), dtype=jnp.float32) * number[:, None]
    fresh, images = member.sum(0), number.sum()
    # Of this batch in all images; that they are counted in float32 does not change a share.
    share = images / jnp.maximum(counts.sum().astype(jnp.float32) + images, 1)
    counts = counts + fresh.astype(counts.dtype)

    def add(seen, tap):
        tap = tap.reshape(len(tap), -1, tap.shape[-1]).astype(jnp.float32)  # [B, positions, C]
        best, means = tap.max(1), tap.mean(1)
        # Not where tap == best: a compiler may compute the tap twice, with other roundings.
        where = lax.argmax(tap, 1, jnp.int32)  # the first among equal ones
        variances = ((tap - means[:, None]) ** 2).mean(1)
        best, means, variances = (jnp.where(real[:, None], value, 0)
                                  for value in (best, means, variances))  # [B, C]
        best = jnp.where(best == 0, 0, best)  # top_k takes 0 for more than -0

        scores = jnp.concatenate([seen.scores, jnp.where(real[:, None], best, -jnp.inf).T], 1)
        # Equal ones stay in their order, that of the set: those of earlier batches come first.
        scores, order = lax.top_k(scores, seen.scores.shape[1])

        def chosen(before, now):
            return jnp.take_along_axis(jnp.concatenate([before, now], 1), order, 1)

        mean = means.sum(0) / jnp.maximum(images, 1)
        spread = jnp.where(real[:, None], means - mean[None], 0) ** 2
        variance = (variances + spread).sum(0) / jnp.maximum(images, 1)
        change = mean - seen.mean
        sums = jnp.matmul(member.T, best, precision=lax.Precision.HIGHEST)
        class_change = sums - fresh[:, None] * seen.class_means
        return Seen(
            scores,
            chosen(seen.images, jnp.broadcast_to(places, best.T.shape)),
            chosen(seen.places, where.T),
            seen.mean + change * share,
            seen.variance + (variance - seen.variance) * share + change**2 * share * (1 - share),
            seen.active + (best > 0).sum(0, dtype=jnp.int32),
            seen.class_means + class_change / jnp.maximum(counts, 1).astype(jnp.float32)[:, None])

    return counts, {layer: add(layers[layer], tap) for layer, tap in taps.items()}


def _merge(layer, seen, class_counts, sides):
    """The Units of all devices' Seen [devices, ...] and class counts [devices, classes]."""
    scores, images, places = (np.concatenate(part, 1) for part in seen[:3])
    order = np.lexsort((images, -scores))[:, :seen.scores.shape[-1]]
    scores, images, places = (np.take_along_axis(part, order, 1)
                              for part in (scores, images, places))
    weights = class_counts.sum(1, dtype=np.float64)[:, None] / class_counts.sum()
    mean = (weights * seen.mean).sum(0)
    variance = (weights * (seen.variance + (seen.mean - mean) ** 2)).sum(0)
    totals = class_counts.sum(0)[:, None]
    sums = (class_counts[..., None].astype(np.float64) * seen.class_means).sum(0)
    class_means = np.where(totals, sums / np.maximum(totals, 1), np.nan)
    broken = ~(np.isfinite(mean) & np.isfinite(variance) & np.isfinite(scores).all(1))
    if broken.any():
        raise UserError(f"the activations of '{layer}' are not finite in {broken.sum()} of its "
                        f"{len(broken)} units: check the network's weights")
    positions = np.stack(np.unravel_index(places, sides), -1) if sides else np.zeros(
        (*places.shape, 2))
    return Units(scores, images, positions.astype(np.int32), mean.astype(np.float32),
                 np.sqrt(variance).astype(np.float32),
                 (seen.active.sum(0) / class_counts.sum()).astype(np.float32),
                 class_means.astype(np.float32))


class Origin(NamedTuple):
    """What a file of units was made from: they are of no use with anything else."""

    weights: str  # trained.fingerprint of the network
    identity: Identity  # of the whole data set, see data/identity.py
    fields: dict[str, str]  # the other choices that count, such as the layers


def save(path, units, origin):
    """Writes {layer: Units} and their Origin to an .npz file of arrays 'layer/field', whole or not
    at all."""
    text = {'weights': origin.weights, 'identity': origin.identity.summary(),
            'fields': origin.fields}
    listing = '\n'.join(origin.identity.listing).encode(errors='surrogateescape')
    with atomic.replacing(path) as unfinished, unfinished.open('wb') as file:
        np.savez_compressed(
            file, origin=np.array(json.dumps(text)), listing=np.frombuffer(listing, np.uint8),
            **{f'{layer}/{field}': array for layer, found in units.items()
               for field, array in found._asdict().items()})


def load(path):
    """({layer: Units}, their Origin) that `save` wrote.

    Raises:
      UserError: there is no such file, or it is another or a damaged one.
    """
    try:
        with Path(path).open('rb') as file, np.load(file, allow_pickle=False) as arrays:
            text = json.loads(str(arrays['origin']))
            listing = arrays['listing'].tobytes().decode(errors='surrogateescape')
            identity = Identity.of_summary(text['identity']).with_listing(
                listing.split('\n') if listing else ())
            origin = Origin(str(text['weights']), identity, dict(text['fields']))
            layers = dict.fromkeys(name.rpartition('/')[0] for name in arrays.files if '/' in name)
            units = {layer: Units(*(arrays[f'{layer}/{field}'] for field in Units._fields))
                     for layer in layers}
        for layer, found in units.items():
            _check(layer, found, origin.identity)
    except Exception as error:  # numpy, zipfile and zlib raise many kinds
        raise UserError(f'{path} does not hold the strongest images of units: {error}') from error
    return units, origin


def _check(layer, units, identity):
    """Raises ValueError where arrays from a file are not the Units of a layer."""
    channels, count = units.scores.shape
    likes = {'scores': np.zeros((channels, count), np.float32), 'images': np.zeros(
        (channels, count), np.int32), 'positions': np.zeros((channels, count, 2), np.int32),
        'class_means': np.zeros((len(identity.classes), channels), np.float32)}
    for field, array in units._asdict().items():
        like = likes.get(field, np.zeros(channels, np.float32))
        if (array.shape, array.dtype) != (like.shape, like.dtype):
            raise ValueError(f'{layer}/{field} is {array.dtype}{list(array.shape)}, not '
                             f'{like.dtype}{list(like.shape)}')
    if not (count and ((units.images >= 0) & (units.images < identity.examples)).all()
            and (units.positions >= 0).all() and np.isfinite(units.scores).all()):
        raise ValueError(f'{layer} has images or positions that are not in the data set')


def kept(path, origin):
    """{layer: Units} of the file `path`, made from the same; None where there is no such file, or a
    damaged one, which is said.

    Raises:
      UserError: it was made from something else, with the difference.
    """
    if not os.path.lexists(path):
        return None
    if os.path.isdir(path):
        raise UserError(f'{path} is a directory, where the strongest images of units are kept: '
                        'move it away')
    try:
        units, before = load(path)
    except UserError as error:
        print(f'{error}; it is made anew', flush=True)
        return None
    changed = differences(before.identity, origin.identity)
    changed += [f'{field}: {before.fields.get(field)} then, {value} now'
                for field, value in origin.fields.items() if before.fields.get(field) != value]
    if before.weights != origin.weights:
        changed.insert(0, 'the weights of the network are others')
    if changed:
        raise UserError('\n  '.join([
            f'{path} holds the strongest images of another network or data set, or of one that has '
            'changed since; take another workdir, or what was there:', *changed]))
    return units


def look_up(stream, places):
    """The images at these places [N] of a data.Resident or data.Stream: uint8 [N, H, W, C]."""
    if stream.data is not None:
        return stream.data['image'][np.asarray(places)]
    with futures.ThreadPoolExecutor(stream.threads) as pool:
        return np.stack(list(pool.map(
            lambda i: stream.crops.center(stream.examples[int(i)]['image']), places)))


def field(row, position):
    """The receptive field of the units at a position (row, column) of a layer: ((top, bottom),
    (left, right)), pixels `top` to before `bottom`; beyond the image where they see its padding.

    `row` is the layer's in summary.summarize(net, the images' shape).
    """
    spans = []
    for seen in row.seen:
        if seen.axis in (1, 2):
            i = position[seen.axis - 1]
            low, high = seen.low[i], seen.high[i]
        else:  # the same for all positions
            low, high = seen.low.min(), seen.high.max()
        spans.append((int(low), int(high) + 1) if low <= high else (0, 0))  # (0, 0): nothing
    return tuple(spans)


def cut(image, row, position, fill=0.5):
    """What the units at a position of a layer see of an image [H, W, C]: exactly their receptive
    field, as a float32 picture of the same size for all positions of the layer.

    The unit is in the middle: of a field that reaches beyond the image, the rest is `fill`, gray.
    Fields that are larger than the image would be little else; there, along that side, the picture
    is the image, with `fill` where the unit does not see it.

    Args:
      image: uint8, or float in [0, 1]; or its projection.
      row, position: see `field`.
    """
    image = np.asarray(image)
    image = np.float32(image / 255 if image.dtype == np.uint8 else image)
    size = tuple(int(min(side, n)) for side, n in zip(row.size, image.shape, strict=False))
    picture = np.full((*size, image.shape[-1]), fill, np.float32)
    source, target = [], []
    for (low, high), side, n in zip(field(row, position), row.size, image.shape, strict=False):
        start = low if side <= n else 0  # of the picture
        low, high = max(low, 0), max(min(high, n), 0)
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    picture[tuple(target)] = image[tuple(source)]
    return picture


@functools.partial(jax.jit, static_argnames=('net', 'layer'))
def _project(net, layer, variables, normalize, images, units, positions):
    network = Trained(net, variables, normalize, (), images.shape[1:], None)

    def activations(images):
        tap = network.taps(images)[layer]
        tap = tap.reshape(len(tap), *(tap.shape[1:-1] or (1, 1)), tap.shape[-1])
        return tap[jnp.arange(len(tap)), *positions.T, units].sum()

    return jax.grad(activations)(images)  # no image sees another: the sum's gradient is each one's


def project(network, layer, images, units, positions, rule='deconvnet', chunk=32, mesh=None):
    """What of each image causes the activation of its unit: float32 [N, H, W, C].

    The activation's gradient by the image in [0, 1], with the backward rule `rule` in all ReLUs
    (see rules.py). It begins with 1, where Zeiler & Fergus begin with the activation, which is a
    factor. The program is compiled once for a layer, rule and size of chunk.

    Args:
      network: a Trained network.
      images: [N, H, W, C], uint8 or floats in [0, 1].
      units: [N], or one for all images.
      positions: [N, 2], row and column in the layer; (0, 0) in a layer without positions.
      chunk: images at a time; made a multiple of the number of devices.
      mesh: devices that share every chunk; None: one device.

    Raises:
      UserError: no such layer or rule, or a unit or position that the layer does not have.
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:  # which have no gradient
        images = images / np.float32(255)
    units = np.broadcast_to(np.asarray(units, np.int32), len(images))
    positions = np.asarray(positions, np.int32).reshape(len(images), 2)
    taps = jax.eval_shape(network.taps, jax.ShapeDtypeStruct((1, *images.shape[1:]), 'float32'))
    missing([layer], taps)
    *sides, channels = taps[layer].shape[1:]
    for name, given, size in (('unit', units, channels),
                              ('position', positions, sides or (1, 1))):
        if ((given < 0) | (given >= np.asarray(size))).any():
            raise UserError(f"a {name} is not in '{layer}', which is "
                            f'{" x ".join(map(str, (*sides, channels)))}')
    net = with_rule(network.net, rule)
    mesh = mesh or parallel.data_mesh(1)
    split = NamedSharding(mesh, P(parallel.AXIS))
    variables, normalize = parallel.replicate((network.variables, network.normalize), mesh)
    chunk = mesh.size * math.ceil(min(max(chunk, 1), len(images)) / mesh.size)
    found = np.empty(images.shape, np.float32)
    for start in range(0, len(images), chunk):
        part = np.arange(start, start + chunk) % len(images)  # the last chunk begins anew
        arrays = jax.device_put((images[part], units[part], positions[part]), split)
        result = np.asarray(_project(net, layer, variables, normalize, *arrays))
        found[start:start + chunk] = result[:len(images) - start]
    return found


def contrast(projection):
    """Projections [..., H, W, C] as pictures in [0, 1] around gray: each is scaled by its largest
    absolute value, so that what lowers the activation is as visible as what raises it (the Deep
    Visualization Toolbox's, https://github.com/yosinski/deep-visualization-toolbox)."""
    projection = np.asarray(projection, np.float32)
    largest = np.abs(projection).max((-3, -2, -1), keepdims=True)
    return 0.5 + projection / np.where(largest > 0, 2 * largest, 1)


def positive(projection):
    """Projections [..., H, W, C] as pictures in [0, 1] on black: what raises the activation, scaled
    by its largest value."""
    projection = np.maximum(np.asarray(projection, np.float32), 0)
    largest = projection.max((-3, -2, -1), keepdims=True)
    return projection / np.where(largest > 0, largest, 1)
