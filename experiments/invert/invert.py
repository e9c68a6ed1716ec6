"""Images from the codes of a network's layers, and how much of a code they reproduce.

Mahendran & Vedaldi 2015, "Understanding Deep Image Representations by Inverting Them",
https://arxiv.org/abs/1412.0035, and 2016, "Visualizing Deep Convolutional Neural Networks Using
Natural Pre-Images", https://arxiv.org/abs/1512.02017.
"""

import functools
import math
import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax import data, limits, memory, parallel, summary, trained
from cnnjax.data import folders
from cnnjax.errors import UserError
from cnnjax.images import (
    descent,
    objectives,
    optimize,
    parametrizations,
    pictures,
    regularizers,
    selection,
    tiles,
    transforms,
)
from cnnjax.images.run import Run
from cnnjax.limits import Number, Whole
from experiments.invert import results

REFERENCE = 227 * 227 * 3  # config.sigma is the norm of images of this many numbers.
FARTHEST = 100  # The most strides by which images move.
START = 80 / math.sqrt(3)  # nnpreimage's x0_sigma, the 95 % quantile of the first levels.
LIMITS = Run.LIMITS | {
    'count': Whole(), 'size': Whole(), 'devices': Whole(), 'restarts': Whole(1),
    'parametrization': ('pixels', 'levels', 'sigma', 'fourier'), 'deviation': Number(0),
    'sigma': Number(above=0), 'bound': Number(0), 'match': ('l2', 'l1', 'inner'),
    'match_weight': Number(0, some=True), 'penalties': ('nnpreimage', 'deep-goggle'),
    'tv_weight': Number(0, some=True), 'tv_beta': Number(1, 1e3),
    'alpha_weight': Number(0, some=True), 'alpha': Number(1, 1e3), 'jitter': Number(0, FARTHEST),
    'optimizer': ('adam', 'momentum', 'adagrad'), 'steps': Whole(1, some=True),
    'learning_rate': Number(0, some=True), 'momentum': Number(0, below=1)}


class Example(NamedTuple):
    name: str
    image: np.ndarray  # [H, W, C] in [0, 1]


def run(config, directory):
    """Inverts config.layers; see configs/invert.py for what it writes.

    Raises UserError if a layer or picture is unknown, or a number makes no sense.
    """
    check(config)
    parallel.data_mesh(config.devices)  # raises an error if there are fewer
    network = trained.load(config.source, config.checkpoint, config.name).of_images(
        'an inversion')
    if config.size:  # Check before pictures are made this large.
        check_size(config, network, (config.size, config.size, network.image_shape[-1]))
    names, images = zip(*load(config, network), strict=True)
    images = np.stack(images)
    shapes, depth = network.tap_shapes(images.shape[1:]), list(network.tap_shapes())
    layers, last = selection.by_depth(config.layers, shapes), list(shapes)[-1]
    # The last layer has scores of classes, unless the images do not fit a full layer.
    classifies = network.task != 'detect' and list(shapes) == depth

    @jax.jit
    def taps(images):
        found = network.taps(images)
        return {name: objectives.select(name, channels, found[name])
                for name, channels in layers.items()}, found[last]

    check_images(config, network, images, layers, depth)
    codes, scores = jax.device_get(taps(images))
    for layer in layers:
        for name, code in zip(names, codes[layer], strict=True):
            if not code.any():
                raise UserError(f"'{layer}' is 0 everywhere for {name}: there is nothing to invert")
    best, rows = {}, {}
    with Run(directory, config, network, len(layers) * sum(config.steps)) as running:
        for layer, channels in layers.items():
            objective = objectives.match(layer, config.match, channels=channels)
            found, losses = invert(config, running, network, objective, depth, codes[layer],
                                   images.shape[1:])
            reached = [jax.device_get(taps(found[:, i])) for i in range(config.restarts)]
            errors = np.stack([results.error(tap[layer], codes[layer]) for tap, _ in reached], 1)
            kept = np.where(np.isfinite(losses), losses, np.inf).argmin(1)
            each = np.arange(len(images))
            best[layer] = found[each, kept]
            same = None
            if classifies:
                classes = np.stack([logits.argmax(-1) for _, logits in reached], 1)
                same = classes[each, kept] == scores.argmax(-1)
                if same.ndim > 1:  # Maps have a class for each pixel: the share that is kept.
                    same = same.mean((1, 2))
            rows[layer] = results.statistics(errors, kept, codes[layer], same)
    results.write(Path(directory), config, network, names, images, best, rows)


def check(config):
    """Raises UserError if a value of the config makes no sense."""
    limits.check(config, LIMITS)
    if len(config.steps) != len(config.learning_rate):
        raise UserError(f'steps={config.steps} and learning_rate={config.learning_rate}: give as '
                        'many of one as of the other, a number for every stage')
    if config.bound and config.parametrization == 'fourier':
        raise UserError(f"bound={config.bound} bounds pixels: take parametrization='levels', or "
                        'bound=0')


def check_size(config, network, shape, count=1):
    """Raises UserError if the activations of `count` images do not fit in memory."""
    memory.check(count * config.restarts * tiles.activations(network, shape),
                 size=config.size, count=config.count, restarts=config.restarts)


def check_images(config, network, images, layers, depth):
    """Raises UserError if the largest images of one layer do not fit in memory."""
    count, *shape = images.shape
    if config.jitter and len(config.steps) > 1:
        margin = max(round(config.jitter * stride(network, layer, depth)) for layer in layers)
        shape = (shape[0] + margin, shape[1] + margin, shape[2])
        memory.check(4 * count * config.restarts * math.prod(shape), jitter=config.jitter,
                     restarts=config.restarts)
    check_size(config, network, images.shape[1:], count)


def load(config, network):
    """A list of `Example`, all of one shape."""
    *size, channels = network.image_shape
    size = (config.size, config.size) if config.size else tuple(size)
    if given := data.load_if_named(config.dataset, config.split, config.data_dir):
        found = [given.examples[i] for i in data.spread(len(given.examples), config.count)]
        found = [(given.classes[example['label']], example['image'] / np.float32(255))
                 for example in found]
    elif (folder := Path(os.path.expanduser(config.images))).is_dir():
        files, left_out = folders.find(folder)
        if not files:
            raise UserError(f'images={config.images}: no picture there'
                            f'{folders.described(left_out)}')
        chosen = data.spread(len(files), config.count)
        print(f'{folder}: {len(files):,} pictures, {len(chosen)} of them inverted'
              f'{folders.described(left_out)}', flush=True)
        found = [(Path(files[i]).stem, pictures.read(files[i])) for i in chosen]
    else:
        paths = limits.names(config.images)
        if not paths:
            raise UserError("images='': name pictures, a folder of them, or give a dataset")
        found = [(pictures.stem(path), pictures.read(path))
                 for path in paths]
    labels, pixels = zip(*found, strict=True)
    return [Example(name, pictures.fitted(image, size, channels))
            for name, image in zip(pictures.distinct(labels), pixels, strict=True)]


def invert(config, running, network, objective, depth, codes, shape):
    """Inverts the codes of one layer for images of the shape [H, W, C]: the reconstructions
    [images, restarts, H, W, C] in [0, 1] and their losses [images, restarts]. `depth` has all
    layers, in forward order."""
    layer, = objective.layers
    place = depth.index(layer)
    weights = {field: config[field][len(config[field]) * place // len(depth)]
               for field in ('match_weight', 'tv_weight', 'alpha_weight')}
    count = len(codes) * config.restarts
    aux = {'maps': {layer: {'code': np.repeat(codes, config.restarts, 0)}}}
    sharing = max(n for n in range(1, parallel.data_mesh(config.devices).size + 1)
                  if count % n == 0)
    tx = optimizer(config, shape)
    problem = functools.cache(functools.partial(make, config, network, objective, shape, weights))
    key, images = jax.random.fold_in(jax.random.key(config.seed), place), None
    for stage, (steps, rate) in enumerate(zip(config.steps, config.learning_rate, strict=True), 1):
        margin = 0
        if config.jitter and stage < len(config.steps):
            margin = max(round(config.jitter * stride(network, layer, depth)), 1) - 1
        if images is not None and images.shape[1:3] != (shape[0] + margin, shape[1] + margin):
            first = (images.shape[1] - shape[0]) // 2  # The canvas was larger than the image.
            images = images[:, first:first + shape[0], first:first + shape[1]]
        key, noise = jax.random.split(key)
        state = optimize.init(problem(margin), tx, jax.random.split(noise, count), images)
        state = state._replace(opt_state=optax.tree_utils.tree_set(
            state.opt_state, learning_rate=jnp.full(count, rate, jnp.float32)))
        name = layer.replace('/', '.') + (f'-{stage}' if len(config.steps) > 1 else '')
        state = running.optimize(name, problem(margin), tx, steps, key, state=state, aux=aux,
                                 mesh=parallel.data_mesh(sharing))
        images = optimize.decode(problem(margin), state)
    losses = jax.jit(jax.vmap(lambda theta, aux: descent.loss(
        problem(0), network.variables, theta, key, aux)[0]))(state.theta, aux)
    images = np.asarray(images).clip(0, 1)
    return (images.reshape(len(codes), config.restarts, *shape),
            np.asarray(losses).reshape(len(codes), config.restarts))


def make(config, network, objective, shape, weights, margin):
    """The `Problem` of one layer, whose image moves by up to `margin` pixels."""
    mean = np.broadcast_to(network.normalize.color, (1, 1, shape[-1]))
    sigma = config.sigma * math.sqrt(math.prod(shape) / REFERENCE)
    canvas = (shape[0] + margin, shape[1] + margin, shape[2])
    parametrization, project = unknown(config, canvas, mean, sigma)
    objective = weights['match_weight'] * objective
    transform = transforms.jitter(margin, 'crop') if margin else None
    return optimize.Problem(network, objective, parametrization,
                            penalties(config, weights, mean, sigma), transform, project)


def unknown(config, shape, mean, sigma):
    """(the `Parametrization` that is optimized, its projection or None)"""
    if config.parametrization == 'fourier':
        inner = parametrizations.fourier(shape, config.deviation)
        if shape[-1] == 3:
            inner = parametrizations.decorrelated(inner, parametrizations.COLOR_MATRIX)
        return parametrizations.sigmoid(inner), None
    unit = {'pixels': 1.0, 'levels': 1 / 255, 'sigma': sigma / 255}[config.parametrization]
    if config.parametrization == 'pixels':
        found = parametrizations.pixels(shape, config.deviation, mean)
        clip, center = parametrizations.clip(), mean
    else:
        def init(key):
            if config.parametrization == 'sigma':
                noise = jax.random.normal(key, shape, jnp.float32)
                return noise / jnp.linalg.norm(noise)
            noise = jax.random.uniform(key, shape, jnp.float32, -1)
            return noise / jnp.quantile(noise, 0.95) * START

        found = parametrizations.Parametrization(
            init, lambda theta: mean + unit * theta, lambda image: (image - mean) / unit)
        clip, center = None, 0.0
    if not config.bound:
        return found, clip
    bound = parametrizations.color_norm(config.bound / 255 / unit, center)
    return found, (lambda theta: bound(clip(theta))) if clip else bound


def penalties(config, weights, mean, sigma):
    """The regularizer, image -> {term: value}; None where all weights are 0."""
    sums = config.penalties == 'deep-goggle'
    scale = 1 / (2 * sigma ** 2) if sums else 1.0
    terms = {
        'total variation': (weights['tv_weight'], regularizers.total_variation(
            config.tv_beta, 'mahendran' if sums else 'nnpreimage')),
        'alpha-norm': (weights['alpha_weight'], regularizers.alpha_norm(
            config.alpha, vector=not sums))}
    terms = {name: regularizers.in_units(regularizers.weighted((scale * weight, term)), mean)
             for name, (weight, term) in terms.items() if weight}
    return (lambda image: {name: term(image) for name, term in terms.items()}) if terms else None


def optimizer(config, shape):
    """The optax optimizer. Its learning rate is in its state, so that stages share a program."""
    def adagrad(learning_rate):
        # nnpreimage computes v = m v - g / (1 / rate + sqrt(G)) with G = m G + g^2; optax averages
        # g^2 to (1 - m) G. The rate is that of one pixel, because penalties are means over pixels.
        root = jnp.sqrt(1 - config.momentum)
        floor = root / (learning_rate * shape[0] * shape[1])
        return optax.chain(optax.scale_by_rms(config.momentum, floor, eps_in_sqrt=False),
                           optax.scale(-root), optax.trace(config.momentum))

    factories = {'adam': optax.adam, 'adagrad': adagrad,
                 'momentum': lambda learning_rate: optax.sgd(learning_rate, config.momentum)}
    factory = factories[config.optimizer]
    return optax.inject_hyperparams(lambda learning_rate: factory(learning_rate))(
        learning_rate=0.0)


def stride(network, layer, depth):
    """The pixels between neighbouring units of a layer, or of the maps before a full layer."""
    rows = {row.name: row for row in summary.summarize(network.net, network.image_shape).rows}
    steps = [max(rows[name].stride) for name in depth[:depth.index(layer) + 1]
             if name in rows and rows[name].stride]
    return max(step for step in steps if math.isfinite(step))
