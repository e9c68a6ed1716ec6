"""The images of a data set that excite each unit most (Zeiler & Fergus 2013, section 4,
https://arxiv.org/abs/1311.2901).

    units = search(network, ['relu3_1', 'relu4_1'], stream)['relu4_1']
    images = look_up(stream, units.images[17])  # the nine of unit 17

A unit is a channel of a layer. The set is read once, for all layers at once; what is kept of it on
the devices are the places of the strongest images so far, and a few statistics.
"""

import itertools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from cnnjax import atomic, parallel, step, trained
from cnnjax.data import Resident, Stream
from cnnjax.data.identity import Identity, differences
from cnnjax.errors import UserError
from cnnjax.images.objectives import missing


class Units(NamedTuple):
    """The strongest images of every unit of a layer, and its statistics; arrays of NumPy."""

    scores: np.ndarray  # float32 [C, count], falling: the maximum of each of these images
    images: np.ndarray  # int32 [C, count], the images' places in the data set
    positions: np.ndarray  # int32 [C, count, 2], row and column of the maximum in the layer
    mean: np.ndarray  # float32 [C], over all images and positions
    deviation: np.ndarray  # float32 [C], the standard deviation over all images and positions
    active: np.ndarray  # float32 [C], share of the images in which the unit is above 0 somewhere
    class_means: np.ndarray  # float32 [classes, C], means of images' maxima; nan without images

    @property
    def maximum(self) -> np.ndarray:
        """[C], over all images and positions."""
        return self.scores[:, 0]


class Seen(NamedTuple):
    """What is known of a layer after some of the images; `places` are positions, row by row."""

    scores: jax.Array | np.ndarray  # [C, count]
    images: jax.Array | np.ndarray
    places: jax.Array | np.ndarray
    mean: jax.Array | np.ndarray  # [C]
    variance: jax.Array | np.ndarray
    active: jax.Array | np.ndarray  # int32 [C], the number of images
    class_means: jax.Array | np.ndarray  # [classes, C]


def search(network: trained.Trained, layers: Sequence[str], stream: Resident | Stream,
           count: int = 9, batch_size: int = 64, mesh: Mesh | None = None, *,
           progress: Callable[[int], object] | None = None) -> dict[str, Units]:
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
    shapes = network.tap_shapes(stream.image_shape)
    missing(layers, shapes)
    mesh = mesh or parallel.data_mesh(1)
    batch_size = mesh.size * math.ceil(min(batch_size, len(stream)) / mesh.size)
    update = _updater(network, layers, mesh)
    classes = len(stream.classes)
    seen = (np.zeros(classes, np.int32),
            {layer: _nothing(shapes[layer][-1], count, classes) for layer in layers})
    split = NamedSharding(mesh, P(parallel.AXIS))
    seen = jax.device_put(
        jax.tree.map(lambda x: np.broadcast_to(x, (mesh.size, *x.shape)), seen), split)
    variables, data = parallel.replicate((network.variables, stream.data or {}), mesh)

    def finished(done):
        done = int(done)  # This waits for the devices.
        if progress:
            progress(done)
        return done

    total, pending = 0, []
    for start, batch in zip(itertools.count(0, batch_size), stream.test_batches(batch_size),
                            strict=False):
        batch['place'] = np.arange(start, start + batch_size, dtype=np.int32)
        seen, done = update(seen, variables, data, jax.device_put(batch, split))
        pending.append(done)
        if len(pending) > 1:  # A batch is read while the one before is computed.
            total += finished(pending.pop(0))
    total += finished(pending.pop())
    assert total == len(stream), f'{total} of {len(stream)} images'
    class_counts, seen = jax.device_get(seen)
    return {layer: _merge(layer, seen[layer], class_counts, shapes[layer][:-1])
            for layer in layers}


def _updater(network, layers, mesh):
    """The program (seen, variables, data, batch) -> (seen with the batch, its number of images) of
    what the devices have seen, [devices, ...]."""
    def one(seen, variables, data, batch):
        seen = jax.tree.map(lambda x: x[0], seen)  # The first axis is that of the devices.
        examples = step.fetch(data, batch)
        taps = network._replace(variables=variables).taps(examples['image'])
        real = batch['weight'] > 0
        seen = _add(seen, {layer: taps[layer] for layer in layers}, batch['place'],
                    examples['label'], real)
        return jax.tree.map(lambda x: x[None], seen), lax.psum(real.sum(), parallel.AXIS)

    return jax.jit(jax.shard_map(
        one, mesh=mesh, in_specs=(P(parallel.AXIS), P(), P(), P(parallel.AXIS)),
        out_specs=(P(parallel.AXIS), P()), check_vma=False), donate_argnums=0)


def _nothing(units, count, classes):
    return Seen(np.full((units, count), -np.inf, np.float32),
                np.zeros((units, count), np.int32), np.zeros((units, count), np.int32),
                np.zeros(units, np.float32), np.zeros(units, np.float32),
                np.zeros(units, np.int32), np.zeros((classes, units), np.float32))


def _add(seen, taps, places, labels, real):
    """Adds a batch to what is `seen`, (class counts, {layer: Seen}).

    The batch has the taps {layer: [B, ..., C]}, the images' places in the set [B], their labels
    [B], and whether they are real, [B], or padding.

    Means and variances are updated (Chan et al. 1979,
    http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/CS-TR-79-773.pdf): sums over a large set
    would lose the last images to rounding.
    """
    counts, layers = seen
    number = real.astype(jnp.float32)
    member = jax.nn.one_hot(labels, len(counts), dtype=jnp.float32) * number[:, None]
    fresh, images = member.sum(0), number.sum()
    # The share of this batch in all images so far, to which counts in float32 are good enough.
    share = images / jnp.maximum(counts.sum().astype(jnp.float32) + images, 1)
    counts = counts + fresh.astype(counts.dtype)

    def add(seen, tap):
        tap = tap.reshape(len(tap), -1, tap.shape[-1]).astype(jnp.float32)  # [B, positions, C]
        best, means = tap.max(1), tap.mean(1)
        # A comparison with `best` might find nothing: compilers may compute the tap twice, with
        # other roundings.
        where = lax.argmax(tap, 1, jnp.int32)  # It takes the first of equal ones.
        variances = ((tap - means[:, None]) ** 2).mean(1)
        best, means, variances = (jnp.where(real[:, None], value, 0)
                                  for value in (best, means, variances))  # [B, C]
        best = jnp.where(best == 0, 0, best)  # For top_k, 0 is more than -0.

        scores = jnp.concatenate([seen.scores, jnp.where(real[:, None], best, -jnp.inf).T], 1)
        # Equal scores stay in the order of the set: those of earlier batches come first.
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


def look_up(stream: Resident | Stream, places: Sequence[int] | np.ndarray) -> np.ndarray:
    """The images at these places [N] of a data.Resident or data.Stream: uint8 [N, H, W, C]."""
    if isinstance(stream, Resident):
        return stream.data['image'][np.asarray(places)]
    with futures.ThreadPoolExecutor(stream.threads) as pool:
        return np.stack(list(pool.map(
            lambda i: stream.crops.center(stream.examples[int(i)])['image'], places)))


def search_once(path: str | Path, network: trained.Trained, layers: Sequence[str],
                stream: Stream, identity: Identity, count: int, *, batch_size: int,
                mesh: Mesh | None) -> dict[str, Units]:
    """What `search` finds; or what the file `path` has kept of it, where it can be read.

    `identity` is that of the whole data set, of which `stream` may be a part.

    Raises:
      UserError: the file was made from other weights or another set.
    """
    origin = Origin(trained.fingerprint(network), identity, {
        'layers': ','.join(layers), 'images of a unit': str(count), 'images': str(len(stream)),
        'crops': str(stream.crops)})
    found = kept(path, origin)
    if found is None:
        with tqdm(total=len(stream), unit='image', desc='patches', disable=None) as bar:
            found = search(network, layers, stream, count, batch_size, mesh, progress=bar.update)
        save(path, found, origin)
    return found


class Origin(NamedTuple):
    """What the units of a file were made from; with anything else they are of no use."""

    weights: str  # trained.fingerprint of the network
    identity: Identity  # The identity of the whole data set, see data/identity.py.
    fields: dict[str, str]  # the other choices that count, such as the layers


def save(path: str | Path, units: Mapping[str, Units], origin: Origin) -> None:
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


def load(path: str | Path) -> tuple[dict[str, Units], Origin]:
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
    except Exception as error:  # NumPy, zipfile and zlib raise many kinds of errors.
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


def kept(path: str | Path, origin: Origin) -> dict[str, Units] | None:
    """{layer: Units} of the file `path`, if it was made from `origin`; None where there is no such
    file, or, with a message, where it is damaged.

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
