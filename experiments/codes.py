"""Codes of a data set: what the layers of a trained network make of each of its images."""

import math

import jax
import numpy as np
from tqdm import tqdm

from cnnjax import data, dataset, parallel, summary, train, trained, transfer
from cnnjax.errors import UserError
from cnnjax.images import objectives, patches, pictures
from configs import base
from experiments import fields


def chosen(network, taps):
    """The taps 'conv4_6,pool:3+5' or, if none, the last before the classifier: {as it is written:
    (layer, channels)}, () for all channels."""
    rows = summary.summarize(network.net, network.image_shape).rows
    shapes = {row.name: row.shape for row in rows if row.shape is not None}
    if not fields.names(taps):
        head = transfer.head(network.net, network.image_shape)
        before = next(row for row in rows if row.name in head).inputs
        if not before:
            raise UserError("taps='': the classifier sees the image itself, no layer is before it; "
                            'name taps')
        taps = before[0]
    return {tap: fields.layer(tap, shapes, 'taps') for tap in fields.names(taps)}


def training(network):
    """The config that the network was trained with, or the little that is known of it; fields it
    lacks, such as those younger than the run, have their defaults."""
    own = base.get_config()
    with own.unlocked():
        try:
            own.update(network.config.to_dict() if network.config else network.evaluation)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f'the config.json of the run is damaged: {error}') from None
    train.check(own)
    return own


def load(config, split, network):
    """The images, decoded when needed, cut as for an evaluation of the network."""
    own = training(network)
    with own.unlocked():
        own.update(dataset=config.dataset, bad_images=config.bad_images, stream=True,
                   loader_threads=config.loader_threads, loader_workers=0,
                   image_size=network.image_shape[0])
        own.data_dir = config.data_dir
    stream = dataset.load(own, split)
    if tuple(stream.image_shape) != tuple(network.image_shape):
        raise UserError(f'{config.dataset} has images of {tuple(stream.image_shape)}, the network '
                        f'was trained on {tuple(network.image_shape)}')
    return stream


def source(config):
    """The source of config.dataset; None where it is '', and the pictures are others."""
    if config.data_dir and not config.dataset:
        raise UserError(f'data_dir={config.data_dir} is that of a data set: give dataset too, as '
                        'in --config.dataset=folder')
    return data.load(config.dataset, config.split, config.data_dir) if config.dataset else None


def feature(activation, pool):
    """[N, ..., C] -> [N, features]"""
    if pool and activation.ndim > 2:
        activation = activation.mean(tuple(range(1, activation.ndim - 1)))
    return activation.reshape(len(activation), -1).astype('float32')


def extractor(network, taps, config):
    """A function (stream, title, images=False) -> {tap: [N, features], 'label': [N]} of the taps
    that were `chosen` and, if asked for, 'image' [N, H, W, C]: every example once. Reads pool,
    devices and batch_size."""
    mesh = parallel.data_mesh(config.devices)

    def step(variables, _, batch, key, axis):
        del key, axis  # nothing is random, nothing is summed over devices
        activations = network._replace(variables=variables).taps(batch['image'])
        return {}, {tap: feature(objectives.select(layer, channels, activations[layer]),
                                 config.pool) for tap, (layer, channels) in taps.items()}

    shapes = tap_shapes(network, network.image_shape)
    compute = parallel.parallelize(step, mesh, 'jit', donate=False)  # results of all devices
    variables = parallel.replicate(network.variables, mesh)

    def extract(stream, title, images=False):
        kept, parts = ('label', 'image') if images else ('label',), []
        with tqdm(total=len(stream), unit='image', desc=title, disable=None) as progress:
            batch_size = mesh.size * math.ceil(min(config.batch_size, len(stream)) / mesh.size)
            fields.check_memory(batch_size * widest(network), batch_size=config.batch_size)
            size = sum(feature(np.broadcast_to(np.float32(0), (
                1, *shapes[layer][:-1], len(channels) or shapes[layer][-1])), config.pool).size
                for layer, channels in taps.values()) + images * math.prod(network.image_shape)
            fields.check_memory(2 * len(stream) * size, pool=config.pool, taps=','.join(taps))
            for batch in stream.test_batches(batch_size):
                real = batch['weight'] > 0
                _, found = compute(variables, {}, batch, jax.random.key(0))
                parts.append({tap: np.asarray(value)[real] for tap, value in found.items()}
                             | {key: batch[key][real] for key in kept})
                progress.update(real.sum())
        found = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        assert len(found['label']) == len(stream), (
            f'{len(found["label"])} of {len(stream)} examples')
        for tap in taps:
            if broken := (~np.isfinite(found[tap]).all(-1)).sum():
                raise UserError(f"taps: '{tap}' is not finite for {broken} of {len(stream)} images "
                                f"of '{title}': check the network's weights, or take another tap")
        return found

    return extract


def widest(network):
    """The numbers of the largest activation of an image: an evaluation keeps no others."""
    return max(map(math.prod, tap_shapes(network, network.image_shape).values()))


def strongest(config, path, network, layers, stream, identity, count):
    """{layer: patches.Units}, `count` images each, of the file `path` or, where there is none that
    can be read, of one pass over the images, which is kept there. Reads batch_size and devices.

    Raises UserError where the file was made from other weights, or another set: `identity` is that
    of the whole, of which `stream` may have a part.
    """
    origin = patches.Origin(trained.fingerprint(network), identity, {
        'layers': ','.join(layers), 'images of a unit': str(count), 'images': str(len(stream)),
        'crops': str(stream.crops)})
    found = patches.kept(path, origin)
    if found is None:
        mesh = parallel.data_mesh(config.devices)
        with tqdm(total=len(stream), unit='image', desc='patches', disable=None) as bar:
            found = patches.strongest(network, layers, stream, count, config.batch_size, mesh,
                                      bar.update)
        patches.save(path, found, origin)
    return found


class Part:
    """Some of the examples of a data set, decoded when needed."""

    def __init__(self, examples, index):
        self.examples, self.index = examples, index

    def __len__(self):
        return len(self.index)

    def __getitem__(self, i):
        return self.examples[int(self.index[i])]


def spread(total, count):
    """`count` positions in `total`, evenly spread; 0: all."""
    return np.linspace(0, total - 1, min(count or total, total)).round().astype(int)


def fitted(image, size, channels):
    """The middle of an image at the size (height, width), gray for one channel."""
    height, width = image.shape[:2]
    scale = min(height / size[0], width / size[1])
    cut = [max(round(side * scale), 1) for side in size]
    top, left = (height - cut[0]) // 2, (width - cut[1]) // 2
    image = pictures.resize(image[top:top + cut[0], left:left + cut[1]], size)
    if image.shape[-1] == 3 and channels == 1:
        image = pictures.with_channels(image, channels)
    elif image.shape[-1] == 1 and channels == 3:
        image = np.repeat(image, 3, -1)
    elif image.shape[-1] != channels:
        raise UserError(f'the network takes images of {channels} channels, not '
                        f'{image.shape[-1]}')
    return image


def tap_shapes(network, shape):
    """{name: shape of the tap} of one image [H, W, C], in forward order."""
    found = {}

    def collect(image):  # jax would sort the names
        found.update((name, tap.shape[1:]) for name, tap in network.taps(image).items())

    jax.eval_shape(collect, jax.ShapeDtypeStruct((1, *shape), 'float32'))
    return found


def by_depth(layers, shapes):
    """The layers that config.layers means, in forward order: {layer: channels}, () for all."""
    if layers == 'all':
        return dict.fromkeys(shapes, ())
    if named := fields.layers(layers, shapes):
        return {name: named[name] for name in shapes if name in named}
    outer = [name for name in shapes if '/' not in name]
    return {name: () for name, following in zip(outer, [*outer[1:], None], strict=True)
            if following is None or shapes[name][:-1] != shapes[following][:-1]}
