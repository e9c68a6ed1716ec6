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

from cnnjax import atomic, parallel, plots, summary, trained
from cnnjax.data import folders
from cnnjax.errors import UserError, check_numbers
from cnnjax.images import objectives, optimize, parametrizations, pictures, regularizers, transforms
from cnnjax.images.run import Run
from experiments import fields
from experiments.codes import by_depth, fitted, source, spread, tap_shapes

REFERENCE = 227 * 227 * 3  # numbers in the images of which config.sigma is the norm
LARGEST = 100  # strides by which images move
START = 80 / math.sqrt(3)  # nnpreimage's x0_sigma: the 95 % quantile of the first levels
NORMALIZATION = {
    'error': '|code(reconstruction) - code(image)|^2 / |code(image)|^2, Euclidean norms',
    'pair_error': 'the same over the mean of |code(image i) - code(image j)|^2, all pairs i != j '
                  'of these images',
    'restart_spread': 'standard deviation of `error` over the restarts of an image, averaged over '
                      'the images',
    'class_kept': 'share of the images whose reconstruction has the same most likely class',
}


class Example(NamedTuple):
    name: str
    image: np.ndarray  # [H, W, C] in [0, 1]


def run(config, directory):
    """Inverts config.layers; see configs/invert.py for what it writes.

    Raises UserError for an unknown layer or picture, and numbers that make no sense.
    """
    check(config)
    parallel.data_mesh(config.devices)  # refuses what there is not
    network = trained.load(config.source, config.checkpoint, config.name)
    if config.size:  # before pictures are made so large
        shape = (config.size, config.size, network.image_shape[-1])
        check_size(config, network, shape)
    names, images = zip(*load(config, network), strict=True)
    images = np.stack(images)
    shapes = tap_shapes(network, images.shape[1:])
    depth = list(tap_shapes(network, network.image_shape))
    layers, last = by_depth(config.layers, shapes), list(shapes)[-1]
    classifies = list(shapes) == depth and len(shapes[last]) == 1

    @jax.jit
    def taps(images):
        found = network.taps(images)
        return {name: objectives.select(name, channels, found[name])
                for name, channels in layers.items()}, found[last]

    check_memory(config, network, images, layers, depth)
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
            errors = np.stack([error(tap[layer], codes[layer]) for tap, _ in reached], 1)
            kept = np.where(np.isfinite(losses), losses, np.inf).argmin(1)
            each = np.arange(len(images))
            best[layer] = found[each, kept]
            same = None
            if classifies:
                classes = np.stack([logits.argmax(-1) for _, logits in reached], 1)
                same = classes[each, kept] == scores.argmax(-1)
            rows[layer] = statistics(errors, kept, codes[layer], same)
    write(Path(directory), config, names, images, best, rows)


def check(config):
    """Raises UserError for values of the config that make no sense."""
    fields.check_choice(config, parametrization=('pixels', 'levels', 'sigma', 'fourier'),
                        optimizer=('adam', 'momentum', 'adagrad'), match=('l2', 'l1', 'inner'),
                        penalties=('nnpreimage', 'deep-goggle'))
    fields.check_minimum(config, restarts=1, count=0, size=0, seed=0, report_every=1, devices=0,
                         bound=0, jitter=0, deviation=0, momentum=0, steps=1, learning_rate=0,
                         match_weight=0, tv_weight=0, alpha_weight=0)
    check_numbers(config, jitter=(0, LARGEST), sigma=(0, 1e12), alpha=(1, 1e3), tv_beta=(1, 1e3))
    for field in ('steps', 'learning_rate', 'match_weight', 'tv_weight', 'alpha_weight'):
        if not config[field]:
            raise UserError(f'{field}=(): give one or more numbers')
    fields.check_whole(config, 'steps')
    if len(config.steps) != len(config.learning_rate):
        raise UserError(f'steps={config.steps} and learning_rate={config.learning_rate}: give as '
                        'many of one as of the other, a number for every stage')
    if not config.momentum < 1:
        raise UserError(f'momentum={config.momentum}: take a number from 0 to less than 1')
    if not config.sigma > 0:
        raise UserError(f'sigma={config.sigma}: the norm of a photograph is positive')
    if config.bound and config.parametrization == 'fourier':
        raise UserError(f"bound={config.bound} bounds pixels: take parametrization='levels', or "
                        'bound=0')


def check_size(config, network, shape, count=1):
    """Raises UserError where the activations of so many images fill the memory."""
    fields.check_memory(count * config.restarts * fields.activations(network, shape),
                        size=config.size, count=config.count, restarts=config.restarts)


def check_memory(config, network, images, layers, depth):
    """Raises UserError where the largest images of one layer fill the memory."""
    count, *shape = images.shape
    if config.jitter and len(config.steps) > 1:
        margin = max(round(config.jitter * stride(network, layer, depth)) for layer in layers)
        shape = (shape[0] + margin, shape[1] + margin, shape[2])
        fields.check_memory(4 * count * config.restarts * math.prod(shape), jitter=config.jitter,
                            restarts=config.restarts)
    check_size(config, network, images.shape[1:], count)


def load(config, network):
    """A list of `Example`, all of one shape."""
    *size, channels = network.image_shape
    size = (config.size, config.size) if config.size else tuple(size)
    if given := source(config):
        found = [given.examples[i] for i in spread(len(given.examples), config.count)]
        found = [(given.classes[example['label']], example['image'] / np.float32(255))
                 for example in found]
    elif (folder := Path(os.path.expanduser(config.images))).is_dir():
        files, left_out = folders.find(folder)
        if not files:
            raise UserError(f'images={config.images}: no picture there'
                            f'{folders.described(left_out)}')
        chosen = spread(len(files), config.count)
        print(f'{folder}: {len(files):,} pictures, {len(chosen)} of them inverted'
              f'{folders.described(left_out)}', flush=True)
        found = [(Path(files[i]).stem, pictures.read(files[i])) for i in chosen]
    else:
        paths = fields.names(config.images)
        if not paths:
            raise UserError("images='': name pictures, a folder of them, or give a dataset")
        found = [(Path(path.removeprefix(pictures.PREFIX)).stem, pictures.read(path))
                 for path in paths]
    labels, pixels = zip(*found, strict=True)
    return [Example(name, fitted(image, size, channels))
            for name, image in zip(pictures.distinct(labels), pixels, strict=True)]


def invert(config, running, network, objective, depth, codes, shape):
    """What the layer of `objective` knows of images [H, W, C] = shape: reconstructions
    [images, restarts, H, W, C] in [0, 1] and their losses [images, restarts]. `depth`: all layers,
    in forward order."""
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
            first = (images.shape[1] - shape[0]) // 2  # the canvas was larger than the image
            images = images[:, first:first + shape[0], first:first + shape[1]]
        key, noise = jax.random.split(key)
        state = optimize.init(problem(margin), tx, jax.random.split(noise, count), images)
        state = state._replace(opt_state=optax.tree_utils.tree_set(
            state.opt_state, learning_rate=jnp.full(count, rate, jnp.float32)))
        name = layer.replace('/', '.') + (f'-{stage}' if len(config.steps) > 1 else '')
        state = running.optimize(name, problem(margin), tx, steps, key, state=state, aux=aux,
                                 mesh=parallel.data_mesh(sharing))
        images = optimize.decode(problem(margin), state)
    losses = jax.jit(jax.vmap(lambda theta, aux: optimize.loss(
        problem(0), network.variables, theta, key, aux)[0]))(state.theta, aux)
    images = np.asarray(images).clip(0, 1)
    return (images.reshape(len(codes), config.restarts, *shape),
            np.asarray(losses).reshape(len(codes), config.restarts))


def make(config, network, objective, shape, weights, margin):
    """The `Problem` of one layer; `margin`: the pixels by which the image moves."""
    mean = network.normalize.mean
    mean = np.broadcast_to(mean.mean((0, 1)) if mean.ndim > 1 else mean, (1, 1, shape[-1]))
    sigma = config.sigma * math.sqrt(math.prod(shape) / REFERENCE)
    canvas = (shape[0] + margin, shape[1] + margin, shape[2])
    parametrization, project = unknown(config, canvas, mean, sigma)
    objective = weights['match_weight'] * objective
    transform = transforms.jitter(margin, 'crop') if margin else None
    return optimize.Problem(network, objective, parametrization,
                            penalties(config, weights, mean, sigma), transform, project)


def unknown(config, shape, mean, sigma):
    """(what is optimized, a `Parametrization`; its projection or None)"""
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
    """The optax optimizer, whose learning rate is part of its state: stages share a program."""
    def adagrad(learning_rate):
        # nnpreimage: v = m v - g / (1 / rate + sqrt(G)), G = m G + g^2; optax's average of g^2 is
        # (1 - m) G. The rate is that of a pixel, for penalties that are means over pixels.
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
    """The pixels between neighbouring units of a layer; of a full layer, of the maps before it."""
    rows = {row.name: row for row in summary.summarize(network.net, network.image_shape).rows}
    steps = [max(rows[name].stride) for name in depth[:depth.index(layer) + 1]
             if name in rows and rows[name].stride]
    return max(step for step in steps if math.isfinite(step))


def error(found, codes):
    """[N]: the squared distance of the codes [N, ...], over the squared norm of the second."""
    found, codes = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (found, codes))
    return ((found - codes) ** 2).sum(1) / (codes ** 2).sum(1)


def statistics(errors, kept, codes, same):
    """The row of a layer: see NORMALIZATION.

    Args:
      errors: [images, restarts]; `kept`: [images], the restart that is kept.
      codes: [images, ...], of the images.
      same: [images], whether the class survives; None: not known.
    """
    errors = np.asarray(errors, np.float64)
    count, best = len(errors), errors[np.arange(len(errors)), kept]
    flat = np.asarray(codes, np.float64).reshape(count, -1)
    squares = (flat ** 2).sum(1)
    # The mean over pairs is that over all, with the N zeros of the diagonal left out.
    pairs = 2 * (count * squares.sum() - (flat.sum(0) ** 2).sum()) / max(count * (count - 1), 1)
    pair_errors = best * squares / pairs if pairs > 0 else None

    def moments(name, values):
        if values is None:
            return {name: None, f'{name}_standard_error': None}
        spread = values.std(ddof=1) / math.sqrt(count) if count > 1 else None
        return {name: float(values.mean()),
                f'{name}_standard_error': None if spread is None else float(spread)}

    return {'code': list(np.shape(codes)[1:]), **moments('error', best),
            **moments('pair_error', pair_errors),
            'restart_spread': (float(errors.std(1, ddof=1).mean())
                               if errors.shape[1] > 1 else None),
            'class_kept': None if same is None else float(np.mean(same)),
            'errors': errors.tolist(), 'kept': np.asarray(kept).tolist(),
            'classes_kept': None if same is None else np.asarray(same).tolist()}


def write(directory, config, names, images, best, rows):
    """The reconstructions, the figure and the table."""
    for layer, found in {'original': images, **best}.items():
        for name, image in zip(names, found, strict=True):
            pictures.write(directory / 'reconstructions' / layer.replace('/', '.') / f'{name}.png',
                           image)
    figure = directory / 'figures' / 'inversions.png'
    errors = {layer: np.asarray(row['errors'])[np.arange(len(names)), row['kept']]
              for layer, row in rows.items()}
    plots.inversions(figure, names, images, best, errors)
    atomic.write_json(directory / 'results.json', {
        'source': str(config.source), 'checkpoint': config.checkpoint, 'images': list(names),
        'image_shape': list(images.shape[1:]), 'restarts': config.restarts, 'match': config.match,
        'definitions': NORMALIZATION, 'layers': rows})
    table = text(rows)
    notes = [f'{len(names)} images of {" x ".join(map(str, images.shape[1:]))}: '
             f'mean and standard error. error: {NORMALIZATION["error"]}; by pairs: '
             f'{NORMALIZATION["pair_error"]}; spread: {NORMALIZATION["restart_spread"]}; class '
             f'kept: {NORMALIZATION["class_kept"]}. The codes are those of reconstructions clipped '
             'to [0, 1].']
    if any(row['class_kept'] is None for row in rows.values()):
        notes.append('class kept: not known, since the network has no scores of classes for images '
                     'of this size.')
    atomic.write_text(directory / 'results.md', '\n\n'.join([
        f'Reconstructions from the layers of {config.source}', table, *notes]) + '\n')
    print(table)
    print(*notes[1:], f'figure: {figure}', f'table: {directory / "results.md"}', sep='\n')


def text(rows):
    """The table, aligned, as Markdown."""
    def number(mean, deviation=None):
        if mean is None:
            return '-'
        return f'{mean:.3g}' + (f' ± {deviation:.1g}' if deviation is not None else '')

    lines = [('layer', 'code', 'error', 'error by pairs', 'spread of restarts', 'class kept')]
    for layer, row in rows.items():
        lines.append((layer, ' x '.join(map(str, row['code'])),
                      number(row['error'], row['error_standard_error']),
                      number(row['pair_error'], row['pair_error_standard_error']),
                      number(row['restart_spread']),
                      '-' if row['class_kept'] is None else f'{row["class_kept"]:.0%}'))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ['-' * width if i < 2 else '-' * (width - 1) + ':' for i, width in enumerate(widths)]
    return '\n'.join('| ' + ' | '.join(
        cell.ljust(width) if i < 2 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(line, widths, strict=True))) + ' |'
        for line in [lines[0], rule, *lines[1:]])
