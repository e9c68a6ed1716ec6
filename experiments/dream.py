"""DeepDream: amplifies what a network sees in a picture, octave by octave.

Mordvintsev et al. 2015, https://github.com/google/deepdream: gradient ascent with steps of a
normalized size on a randomly shifted image, first at a small size, then at larger ones.
"""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import ndimage

from cnnjax import limits, memory, plots, trained
from cnnjax.errors import UserError
from cnnjax.images import (
    gradients,
    objectives,
    parametrizations,
    pictures,
    rules,
    selection,
    tiles,
    transforms,
)
from cnnjax.images.optimize import Problem, decode, init, normalize_gradient
from cnnjax.images.run import Run
from cnnjax.limits import Names, Number, Whole, names
from cnnjax.models import POOLS, with_pool

MOST = 1000  # The most octaves; with so many, the smallest have only one pixel.
LARGEST = 1e6  # The largest value for fields without a limit of their own.
NARROWEST = 5  # The fewest pixels of a side of a smoothed gradient, which is mirrored by 4 pixels.
LIMITS = Run.LIMITS | {
    'size': Whole(1), 'guide_size': Whole(1), 'layers': Names(),
    'weights': Number(-LARGEST, LARGEST), 'kind': ('l2', 'log', 'mean', 'guided'),
    'octaves': Whole(1, MOST), 'octaves_above': Whole(), 'scale': Number(1, pictures.LARGEST),
    'carry': ('detail', 'image'), 'steps': Whole(1), 'step': Number(above=0, most=LARGEST),
    'optimizer': ('sgd', 'adam'), 'normalize': ('', 'mean_abs', 'std', 'l2'), 'smooth': Number(0),
    'bands': Whole(0, 16),
    'jitter': Whole(), 'tile': Whole(), 'pool': ('', *POOLS), 'relu': tuple(rules.RULES),
    'frames': Whole(1), 'zoom': Number(above=-1, below=1), 'rotate': Number(-LARGEST, LARGEST),
    'translate': Number(-pictures.LARGEST, pictures.LARGEST),
    'seconds': Number(0.02, 655),  # Viewers show each frame for 0.02 seconds or more.
    'animation': ('gif', 'webp', 'apng')}


def run(config, directory):
    """Writes figures/dream.png and figures/before_after.png, or figures/dream-0.png and so on for
    several pictures; with more than one frame also the animation figures/dream.webp and its frames,
    frames/0000.png and so on.

    Raises UserError if a picture cannot be read or is too small for a layer, if a layer is unknown,
    or if a value makes no sense.
    """
    check(config)
    network = load(config)
    objective = mixture(config, network)
    shared = guide(config, network, objective.layers)
    groups = grouped(config, network, objective.layers)
    tx = optimizer(config)
    # A program is compiled once for each octave, for all frames.
    problem_of = functools.cache(functools.partial(problem, config, network, objective))

    def ascend(group, frame, octave, images):
        """The images [N, H, W, C] after `config.steps` steps."""
        own, key = problem_of(images.shape[1:]), stage_key(config, group, frame, octave)
        # An octave's first image is not clipped; see `octaves`.
        state = init(own, tx, jax.random.split(key, len(images)), images)
        state = state._replace(theta=jnp.array(images))
        name = f'group{group + 1}-' if len(groups) > 1 else ''
        name += f'frame{frame:04d}-' if config.frames > 1 else ''
        state = session.optimize(f'{name}octave{octave + 1}', own, tx, config.steps, key,
                                 state=state, shared=shared, snapshots=config.frames == 1,
                                 label=f'{name}octave {octave + 1}, {max(images.shape[1:3])} px')
        return np.asarray(decode(own, state))

    with Run(directory, config, network,
             len(groups) * config.frames * config.octaves * config.steps) as session:
        for group, members in enumerate(groups):
            film(config, network, directory, members, functools.partial(ascend, group))


def check(config):
    """Raises UserError for a value that makes no sense."""
    limits.check(config, LIMITS)
    if not names(config.images):
        raise UserError("images: name a picture, or 'noise'")
    if not config.scale > 1:
        raise UserError(f'scale={config.scale}: an octave is larger than the one before it; take a '
                        'number above 1')
    if config.octaves_above * math.log(config.scale) > math.log(pictures.LARGEST):
        raise UserError(f'octaves_above={config.octaves_above} with scale={config.scale}: the '
                        'pictures would be too large')
    if config.octaves_above and (config.carry == 'detail' or
                                 config.octaves_above >= config.octaves):
        raise UserError(f'octaves_above={config.octaves_above}: octaves larger than the picture '
                        "need carry='image', and are fewer than all octaves")
    if len(config.translate) != 2:
        raise UserError(f'translate={config.translate}: pixels down and right, such as (0, 5)')
    if (config.kind == 'guided') != bool(config.guide):
        raise UserError(f"kind='{config.kind}' with guide='{config.guide}': a dream of kind "
                        "'guided' needs a guide, and only this kind does")


def load(config):
    """The network, with the backward rule of ReLUs and the pools that the config names."""
    network = trained.load(config.source, config.checkpoint, config.name).of_images(
        'a dream')
    pictures.check_channels(network.image_shape[-1])
    net = network.net
    if config.relu != 'gradient':
        net = rules.with_rule(net, config.relu)
    if config.pool:
        net = with_pool(net, config.pool)
    return network._replace(net=net)


def mixture(config, network):
    """The objective of all layers; 'relu4_2:12+40' names two channels of one."""
    entries = names(config.layers)
    weights = config.weights or (1.0,) * len(entries)
    if len(weights) != len(entries):
        raise UserError(f'weights={config.weights}: give each of the {len(entries)} layers one, or '
                        'take () for equal ones')
    shapes = network.tap_shapes()
    total = None
    for entry, weight in zip(entries, weights, strict=True):
        layer, channels = selection.layer(entry, shapes)
        term = float(weight) * objectives.dream(layer, config.kind, channels)
        total = term if total is None else total + term
    return total


def grouped(config, network, layers):
    """The pictures in groups of one shape, which dream together: [[(number, image [H, W, C])]].

    Raises UserError if a picture is too small, or a group does not fit in memory.
    """
    groups = {}
    for i, source in enumerate(names(config.images)):
        if source == 'noise':
            memory.check(4 * config.size ** 2 * network.image_shape[-1], size=config.size)
        image = start(config, network, source, i)
        for octave, shape in list(enumerate(shapes(config, network, image.shape), 1))[::-1]:
            fits(config, network, layers, shape, octave, source)
        groups.setdefault(image.shape, []).append((i, image))
    for shape, members in groups.items():
        largest = shapes(config, network, shape)[-1]
        memory.check(len(members) * tiles.activations(network, largest, config.tile),
                     size=config.size, tile=config.tile)
        memory.check(4 * len(members) * math.prod(largest), size=config.size,
                     octaves_above=config.octaves_above)
        memory.check(len(members) * config.frames * math.prod(shape), memory.HOST,
                     frames=config.frames)
    return list(groups.values())


def stage_key(config, group, frame, octave):
    """The random key of an octave of a frame of a group of pictures, all counted from 0."""
    stage = (group * config.frames + frame) * config.octaves + octave
    return jax.random.fold_in(jax.random.key(config.seed), stage + 1)  # `start` has 0.


def film(config, network, directory, members, ascend):
    """Dreams about a group, [(number, image)], frame after frame, and writes the results; `octaves`
    explains ascend(frame, octave, images)."""
    numbers, starts = zip(*members, strict=True)
    images, films = np.stack(starts), [[] for _ in members]
    labels = [f'-{number}' if len(names(config.images)) > 1 else '' for number in numbers]
    directory = Path(directory)
    for frame in range(config.frames):
        if frame:
            images = np.stack([move(config, image) for image in images])
        images = octaves(config, network, images, functools.partial(ascend, frame))
        for label, image, frames in zip(labels, images, films, strict=True):
            frames.append(image.clip(0, 1))
            pictures.write(directory / 'figures' / f'dream{label}.png', frames[-1])
            if config.frames > 1:
                pictures.write(directory / f'frames{label}' / f'{frame:04d}.png', frames[-1])
    for number, label, before, frames in zip(numbers, labels, starts, films, strict=True):
        source, result = names(config.images)[number], directory / 'figures' / f'dream{label}.png'
        plots.pictures([[(f'before: {pictures.stem(source)}', before.clip(0, 1)),
                         ('after', frames[0])]], result.with_name(f'before_after{label}.png'),
                       f'{trained.called(network, config.source)}: DeepDream of {config.layers}')
        if config.frames > 1:
            result = result.with_suffix(f'.{config.animation}')
            pictures.animate(result, frames, config.seconds)
        print(f'{source}: {result}', flush=True)


def fits(config, network, layers, shape, octave, source):
    """Raises UserError if a picture of this shape is too small for the network or a layer."""
    try:
        found = network.tap_shapes(shape)
        objectives.missing(layers, found)
        reason = next((f"'{layer}' has no position left" for layer in layers
                       if 0 in found[layer]), '')
    except (ArithmeticError, TypeError, ValueError) as error:  # A layer raises it.
        reason = str(error)
    if not reason and config.smooth and min(shape[:2]) < NARROWEST:
        reason = f'smooth={config.smooth} needs {NARROWEST} pixels'
    if reason:
        few = config.octaves - octave  # the number of larger octaves
        remedy = f'fewer octaves (octaves={few}) or a larger size' if few else (
            'a larger size, or a picture that is less narrow')
        raise UserError(f'{source}: octave {octave} of {config.octaves} is {shape[0]} x {shape[1]} '
                        f'pixels, which does not fit the network: {reason}; take {remedy}')


def guide(config, network, layers):
    """aux['guide']: the codes of the guide at every position, {layer: [positions, C]}."""
    if not config.guide:
        return {}
    image = read(network, config.guide, config.guide_size)
    try:
        taps = network.taps(image[None])
        objectives.missing(layers, taps)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise UserError(f'guide: {config.guide} at {image.shape[0]} x {image.shape[1]} pixels does '
                        f'not fit the network: {error}; take a larger guide_size') from error
    return {'guide': {layer: taps[layer].reshape(-1, taps[layer].shape[-1]) for layer in layers}}


def read(network, source, size):
    """A picture [H, W, C] whose longer side has `size` pixels, or as many as fit the network."""
    picture = pictures.read(source)
    longer = pictures.resize(picture, size)
    fitting = network.fitting(longer.shape)
    image = longer if fitting == longer.shape[:2] else pictures.resize(picture, fitting)
    return pictures.with_channels(image, network.image_shape[-1])


def start(config, network, source, number):
    """The image [H, W, C] that a dream begins with: a picture, or noise."""
    if source != 'noise':
        return read(network, source, config.size)
    # The noise lies around a dark gray, as in community/en/r1/deepdream of
    # https://github.com/tensorflow/examples.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 0), number)
    size = network.fitting((config.size, config.size))
    noise = jax.random.uniform(key, (*size, network.image_shape[-1]), jnp.float32)
    return np.asarray((100 + noise) / 255)


def problem(config, network, objective, shape):
    # A shift moves pixels out of the image and in again on the other side, so that small images can
    # shift by fewer pixels without a difference.
    pixels = min(config.jitter, min(shape[:2]) - 1)
    changes = [transforms.jitter(pixels)] if pixels else []
    changes += [transforms.flip()] if config.flip else []
    changes += [transforms.turn()] if config.turns else []
    transform = transforms.compose(*changes) if len(changes) > 1 else next(iter(changes), None)
    return Problem(network, objective, parametrizations.pixels(shape),
                   transform=transform,
                   project=parametrizations.clip() if config.clip else None, tile=config.tile)


def optimizer(config):
    """The optax optimizer that turns gradients into steps."""
    rule = {'sgd': optax.sgd, 'adam': optax.adam}[config.optimizer](config.step)
    parts = [gradients.smooth(config.steps, config.smooth)] if config.smooth else []
    parts += [gradients.natural_colors()] if config.natural_colors else []
    parts += [gradients.bands(config.bands)] if config.bands else []
    parts += [normalize_gradient(config.normalize)] if config.normalize else []
    return optax.chain(*parts, rule)


def shapes(config, network, shape):
    """The shapes of all octaves, the smallest first.

    With carry='detail' each shape is a rounded share of the next larger one, as in google's
    notebook; otherwise of the picture, as in gordicaleksa's code. All fit the network.
    """
    def scaled(shape, factor):
        size = [max(round(side * factor), 1) for side in shape[:2]]
        return (*network.fitting(size), shape[2])

    if config.carry == 'image':
        return [scaled(shape, config.scale ** (i + 1 - config.octaves + config.octaves_above))
                for i in range(config.octaves)]
    found = [shape]
    for _ in range(config.octaves - 1):
        found.insert(0, scaled(found[0], 1 / config.scale))
    return found


def octaves(config, network, images, ascend):
    """The dream of images [N, H, W, C]; `ascend(octave, images)` dreams at one size, from octave 0
    on.

    With carry='detail' an octave begins with the picture at its size plus the enlarged detail that
    the octave before added; with carry='image' it begins with the enlarged result of the octave
    before. As in google's notebook, its first image may leave [0, 1]: only the results of steps are
    clipped.
    """
    result, detail = images, None
    sizes = shapes(config, network, images.shape[1:])
    bases = [images]  # Each is made from the next larger one.
    if config.carry == 'detail':
        for shape in sizes[-2::-1]:
            bases.insert(0, zoom(bases[0], shape))
    for octave, shape in enumerate(sizes):
        if config.carry == 'image':
            result = ascend(octave, resize(result, shape))
            continue
        base = bases[octave]
        result = ascend(octave, base if detail is None else base + zoom(detail, shape))
        detail = result - base
    return resize(result, images.shape[1:])


def zoom(images, shape):
    """Images [N, h, w, C] at another size: linear, corners on corners, as in google's notebook."""
    factors = [new / old for new, old in zip(shape, images.shape[1:], strict=True)]
    # Rounding may put the last pixel just outside the image. There 'nearest' repeats the border;
    # other modes give black.
    return np.stack([ndimage.zoom(image, factors, order=1, mode='nearest') for image in images])


def resize(images, shape):
    """Images [N, h, w, C] at another size: linear, as OpenCV and TensorFlow scale by default."""
    if images.shape[1:] == shape:
        return images
    return np.asarray(jax.image.resize(images, (len(images), *shape), 'linear', antialias=False))


def move(config, image):
    """The image [H, W, C] that the next frame begins with: zoomed in on its centre, turned
    anticlockwise and moved. New pixels at the border are mirrored."""
    angle, center = np.deg2rad(config.rotate), np.array([*image.shape[:2], 0]) / 2
    cosine, sine = np.cos(angle), np.sin(angle)
    # A new pixel at `place` comes from matrix @ place + offset. Without rotation both are google's,
    # (1 - s, 1 - s, 1) and (h s / 2, w s / 2, 0).
    matrix = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 0]]) * (1 - config.zoom)
    matrix[2, 2] = 1
    offset = center - matrix @ (center + np.array([*config.translate, 0]))
    return ndimage.affine_transform(image, matrix, offset, order=1, mode='mirror')
