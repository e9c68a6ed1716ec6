"""DeepDream: what a network sees in a picture is amplified, octave by octave.

Mordvintsev et al. 2015, https://github.com/google/deepdream: gradient ascent with steps of a
normalized size on a randomly shifted image, first on a small one, then on larger ones.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import ndimage

from cnnjax import trained
from cnnjax.errors import UserError, check_numbers
from cnnjax.images import objectives, parametrizations, pictures, rules, transforms
from cnnjax.images.optimize import Problem, decode, init, normalize_gradient
from cnnjax.images.run import Run
from cnnjax.models import POOLS, with_pool
from experiments import codes, fields

MOST = 1000  # octaves: they end at one pixel long before
LARGEST = 1e6  # the largest value of fields without a limit of their own
NARROWEST = 5  # of a picture whose gradient is smoothed: its border is mirrored by 4 pixels


def run(config, directory):
    """Writes figures/dream.png, of several pictures figures/dream-0.png ..., and with more than one
    frame the animation figures/dream.gif.

    Raises UserError where a picture cannot be read or is too small for a layer, for an unknown
    layer, and for a value that makes no sense.
    """
    check(config)
    network = load(config)
    objective = mixture(config, network)
    shared = guide(config, network, objective.layers)
    groups = {}  # pictures of one shape dream together
    for i, source in enumerate(fields.names(config.images)):
        if source == 'noise':
            fields.check_memory(4 * config.size ** 2 * network.image_shape[-1], size=config.size)
        image = start(config, source, i, network.image_shape[-1])
        for octave, shape in list(enumerate(shapes(config, image.shape), 1))[::-1]:
            fits(config, network, objective.layers, shape, octave, source)
        groups.setdefault(image.shape, []).append((i, image))
    for shape, members in groups.items():
        largest = shapes(config, shape)[-1]
        fields.check_memory(len(members) * fields.activations(network, largest, config.tile),
                            size=config.size, tile=config.tile)
        fields.check_memory(4 * len(members) * math.prod(largest), size=config.size,
                            octaves_above=config.octaves_above)
        fields.check_memory(len(members) * config.frames * math.prod(shape), frames=config.frames)
    tx, problems = optimizer(config), {}
    root, stages = jax.random.key(config.seed), 0

    def ascend(images, name):
        """The images [N, H, W, C] after `config.steps` steps."""
        nonlocal stages
        stages += 1
        shape = images.shape[1:]
        if shape not in problems:  # a program is compiled once for each octave, for all frames
            problems[shape] = problem(config, network, objective, shape)
        key = jax.random.fold_in(root, stages)
        # What an octave begins with is not clipped; see `octaves`.
        state = init(problems[shape], tx, jax.random.split(key, len(images)), images)
        state = state._replace(theta=jnp.array(images))
        state = session.optimize(name, problems[shape], tx, config.steps, key, state=state,
                                 shared=shared, snapshots=config.frames == 1)
        return np.asarray(decode(problems[shape], state))

    with Run(directory, config, network,
             len(groups) * config.frames * config.octaves * config.steps) as session:
        for group, members in enumerate(groups.values(), 1):
            numbers, images = zip(*members, strict=True)
            images, films = np.stack(images), [[] for _ in members]
            for frame in range(config.frames):
                if frame:
                    images = np.stack([move(config, image) for image in images])
                prefix = f'group{group}-' if len(groups) > 1 else ''
                prefix += f'frame{frame:04d}-' if config.frames > 1 else ''
                images = octaves(config, images, ascend, prefix)
                for number, image, film in zip(numbers, images, films, strict=True):
                    film.append(image.clip(0, 1))
                    path = figure(config, directory, number, 'png')
                    pictures.write(path, film[-1])
            for number, film in zip(numbers, films, strict=True):
                path = figure(config, directory, number, 'png')
                if config.frames > 1:
                    path = figure(config, directory, number, config.animation)
                    pictures.animate(path, film, config.seconds)
                print(f'{fields.names(config.images)[number]}: {path}', flush=True)


def check(config):
    """Raises UserError for a value that makes no sense."""
    fields.check_minimum(config, seed=0, octaves=1, octaves_above=0, steps=1, jitter=0, frames=1,
                         tile=0, size=1, guide_size=1, report_every=1, smooth=0)
    check_numbers(config, octaves=(1, MOST), scale=(1, pictures.LARGEST), step=(0, LARGEST),
                  weights=(-LARGEST, LARGEST), rotate=(-LARGEST, LARGEST), seconds=(0, 655),
                  translate=(-pictures.LARGEST, pictures.LARGEST))
    fields.check_choice(config, kind=('l2', 'mean', 'guided'), carry=('detail', 'image'),
                        optimizer=('sgd', 'adam'), normalize=('', 'mean_abs', 'std', 'l2'),
                        pool=('', *POOLS), relu=tuple(rules.RULES),
                        animation=('gif', 'webp', 'apng'))
    if not fields.names(config.images):
        raise UserError("images: name a picture, or 'noise'")
    if not config.scale > 1:
        raise UserError(f'scale={config.scale}: an octave is larger than the one before it; take a '
                        'number above 1')
    if not config.step > 0:
        raise UserError(f'step={config.step}: take a number above 0, such as 1.5 / 255 = 0.0059')
    if config.octaves_above * math.log(config.scale) > math.log(pictures.LARGEST):
        raise UserError(f'octaves_above={config.octaves_above} with scale={config.scale}: the '
                        'pictures would be too large')
    if config.octaves_above and (config.carry == 'detail' or
                                 config.octaves_above >= config.octaves):
        raise UserError(f'octaves_above={config.octaves_above}: octaves larger than the picture '
                        "need carry='image', and are fewer than all octaves")
    if not -1 < config.zoom < 1:
        raise UserError(f'zoom={config.zoom}: a share of the picture between -1 and 1, '
                        'such as 0.05')
    if len(config.translate) != 2:
        raise UserError(f'translate={config.translate}: pixels down and right, such as (0, 5)')
    if not config.seconds >= 0.02:
        raise UserError(f'seconds={config.seconds}: viewers show a frame for 0.02 seconds or more')
    if (config.kind == 'guided') != bool(config.guide):
        raise UserError(f"kind='{config.kind}' with guide='{config.guide}': a dream of kind "
                        "'guided' needs a guide, and only this kind does")


def load(config):
    """The network, with another backward rule of its ReLUs or other pools where the config asks."""
    network = trained.load(config.source, config.checkpoint, config.name)
    pictures.check_channels(network.image_shape[-1])
    net = network.net
    if config.relu != 'gradient':
        net = rules.with_rule(net, config.relu)
    if config.pool:
        net = with_pool(net, config.pool)
    return network._replace(net=net)


def mixture(config, network):
    """The objective of all layers, 'relu4_2' or with some of its channels 'relu4_2:12+40'."""
    entries = fields.names(config.layers)
    weights = config.weights or (1.0,) * len(entries)
    if not entries:
        raise UserError(f"layers='{config.layers}' is empty: give at least one")
    if len(weights) != len(entries):
        raise UserError(f'weights={config.weights}: give each of the {len(entries)} layers one, or '
                        'take () for equal ones')
    shapes = codes.tap_shapes(network, network.image_shape)
    total = None
    for entry, weight in zip(entries, weights, strict=True):
        layer, channels = fields.layer(entry, shapes)
        term = float(weight) * objectives.dream(layer, config.kind, channels)
        total = term if total is None else total + term
    return total


def fits(config, network, layers, shape, octave, source):
    """Raises UserError if a picture of this shape is too small for the network or a layer."""
    try:
        found = codes.tap_shapes(network, shape)
        objectives.missing(layers, found)
        reason = next((f"'{layer}' has no position left" for layer in layers
                       if 0 in found[layer]), '')
    except (ArithmeticError, TypeError, ValueError) as error:  # of the layer that fails first
        reason = str(error)
    if not reason and config.smooth and min(shape[:2]) < NARROWEST:
        reason = f'smooth={config.smooth} needs {NARROWEST} pixels'
    if reason:
        few = config.octaves - octave  # octaves that are larger than this one
        remedy = f'fewer octaves (octaves={few}) or a larger size' if few else (
            'a larger size, or a picture that is less narrow')
        raise UserError(f'{source}: octave {octave} of {config.octaves} is {shape[0]} x {shape[1]} '
                        f'pixels, which does not fit the network: {reason}; take {remedy}')


def guide(config, network, layers):
    """aux['guide']: the codes of the guide at every position, {layer: [positions, C]}."""
    if not config.guide:
        return {}
    image = pictures.with_channels(pictures.read(config.guide, config.guide_size),
                                   network.image_shape[-1])
    try:
        taps = network.taps(image[None])
        objectives.missing(layers, taps)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise UserError(f'guide: {config.guide} at {image.shape[0]} x {image.shape[1]} pixels does '
                        f'not fit the network: {error}; take a larger guide_size') from error
    return {'guide': {layer: taps[layer].reshape(-1, taps[layer].shape[-1]) for layer in layers}}


def start(config, source, number, count):
    """The picture [H, W, count] that is dreamed about."""
    if source != 'noise':
        return pictures.with_channels(pictures.read(source, config.size), count)
    # Around a dark gray, as in https://github.com/tensorflow/examples, community/en/r1/deepdream.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 0), number)
    noise = jax.random.uniform(key, (config.size, config.size, count), jnp.float32)
    return np.asarray((100 + noise) / 255)


def problem(config, network, objective, shape):
    # A shift of the whole image by roll comes back, so none is lost where jitter is cut off.
    pixels = min(config.jitter, min(shape[:2]) - 1)
    return Problem(network, objective, parametrizations.pixels(shape),
                   transform=transforms.jitter(pixels) if pixels else None,
                   project=parametrizations.clip() if config.clip else None, tile=config.tile)


def optimizer(config):
    """What makes a step of a gradient."""
    rule = {'sgd': optax.sgd, 'adam': optax.adam}[config.optimizer](config.step)
    parts = [smooth_gradient(config.steps, config.smooth)] if config.smooth else []
    parts += [normalize_gradient(config.normalize)] if config.normalize else []
    return optax.chain(*parts, rule)


def smooth_gradient(steps, least):
    """An optax transformation for an image: the mean of three Gaussian filters, less its mean.

    Their standard deviations are 1/2, 1 and 2 times one that grows in `steps` steps from about
    `least` to 2 + `least` pixels (https://github.com/gordicaleksa/pytorch-deepdream).
    """
    def update(gradient, count, params=None):
        sigma = 2 * (count + 1) / steps + least
        kernel = 0
        for factor in (0.5, 1, 2):
            line = jnp.exp(-((jnp.arange(-4, 5) / (factor * sigma)) ** 2) / 2)
            line /= line.sum()
            kernel += jnp.outer(line, line) / 3
        mirrored = jnp.pad(gradient, ((4, 4), (4, 4), (0, 0)), 'reflect')
        smooth = jax.vmap(lambda channel: jax.scipy.signal.convolve2d(channel, kernel, 'valid'),
                          -1, -1)(mirrored)
        return smooth - smooth.mean(), count + 1

    return optax.GradientTransformation(lambda params: jnp.int32(0), update)


def shapes(config, shape):
    """The shapes of all octaves, the smallest first.

    With carry='detail' each is a rounded share of the next, as in google's notebook; else of the
    picture, as in gordicaleksa's code.
    """
    def scaled(shape, factor):
        return (*(max(round(side * factor), 1) for side in shape[:2]), shape[2])

    if config.carry == 'image':
        return [scaled(shape, config.scale ** (i + 1 - config.octaves + config.octaves_above))
                for i in range(config.octaves)]
    found = [shape]
    for _ in range(config.octaves - 1):
        found.insert(0, scaled(found[0], 1 / config.scale))
    return found


def octaves(config, images, ascend, prefix=''):
    """The dream of images [N, H, W, C]; `ascend(images, name)` dreams at one size.

    With carry='detail' an octave begins with the picture at its size plus what the octave before
    has added to it, enlarged; with carry='image' with the result of the octave before, enlarged.
    As in google's notebook what an octave begins with may leave [0, 1]: it is the results of steps
    that are clipped.
    """
    result, detail = images, None
    sizes = shapes(config, images.shape[1:])
    bases = [images]  # each made from the next larger one
    if config.carry == 'detail':
        for shape in sizes[-2::-1]:
            bases.insert(0, zoom(bases[0], shape))
    for octave, shape in enumerate(sizes):
        name = f'{prefix}octave{octave + 1}'
        if config.carry == 'image':
            result = ascend(resize(result, shape), name)
            continue
        base = bases[octave]
        result = ascend(base if detail is None else base + zoom(detail, shape), name)
        detail = result - base
    return resize(result, images.shape[1:])


def zoom(images, shape):
    """Images [N, h, w, C] at another size: linear, corners onto corners, as google's notebook."""
    factors = [new / old for new, old in zip(shape, images.shape[1:], strict=True)]
    # Round-off may put the last pixel outside; beyond the border are its pixels, not black.
    return np.stack([ndimage.zoom(image, factors, order=1, mode='nearest') for image in images])


def resize(images, shape):
    """Images [N, h, w, C] at another size: linear, as OpenCV and TensorFlow scale by default."""
    if images.shape[1:] == shape:
        return images
    return np.asarray(jax.image.resize(images, (len(images), *shape), 'linear', antialias=False))


def move(config, image):
    """The image [H, W, C] that the next frame dreams about: zoomed in about its centre, turned
    anticlockwise and moved. What comes in at the border is mirrored."""
    angle, center = np.deg2rad(config.rotate), np.array([*image.shape[:2], 0]) / 2
    cosine, sine = np.cos(angle), np.sin(angle)
    # Where in the image each new pixel comes from. Without turning, google's (1 - s, 1 - s, 1) and
    # offsets (h s / 2, w s / 2, 0).
    matrix = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 0]]) * (1 - config.zoom)
    matrix[2, 2] = 1
    offset = center - matrix @ (center + np.array([*config.translate, 0]))
    return ndimage.affine_transform(image, matrix, offset, order=1, mode='mirror')


def figure(config, directory, number, suffix):
    """The path of what is written of a picture."""
    label = f'-{number}' if len(fields.names(config.images)) > 1 else ''
    return Path(directory) / 'figures' / f'dream{label}.{suffix}'
