"""Style transfer, and without a content a texture of that style, at any resolution, with the
features of any network."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax import atomic, limits, memory, plots, trained
from cnnjax.errors import UserError
from cnnjax.images import (
    neural_style,
    objectives,
    optimize,
    parametrizations,
    pictures,
    regularizers,
    tiles,
    transforms,
)
from cnnjax.images.run import Run
from cnnjax.layers import continued_edges
from cnnjax.limits import Names, Number, Whole, names
from cnnjax.models import POOLS, with_pool
from cnnjax.models.vgg import VGG

JUDGED = tuple(f'relu{i}_1' for i in range(1, 6))  # The layers of the judge, see `report`.
OURS = ('style', 'loss')  # The names of our own figures, which no result may have.
# The fields that neural_style.weighted takes.
OBJECTIVE = ('content_layers', 'content_layer_weights', 'content_convention', 'content_weight',
             'style_layers', 'style_layer_weights', 'style_convention', 'style_weight')
BELOW_1 = 1 - 2 ** -24  # The largest float32 below 1: a decay of 1 would never forget.
# An image in [0, 1] is divided by this to make it an input for each kind of weights: Caffe's take 0
# to 255, torchvision's are divided by the standard deviations of ImageNet's colours.
DIVISORS = {'caffe': 1 / 255, 'torchvision': (0.229 + 0.224 + 0.225) / 3}
LIMITS = Run.LIMITS | {
    'styles': Names(), 'style_layers': Names(), 'aspect': Number(0.01, 100),
    'tileable': (False, True),
    'sizes': Whole(1, pictures.LARGEST, some=True), 'steps': Whole(1, some=True),
    'side': ('longer', 'shorter', 'height', 'width'), 'style_scale': Number(0, pictures.LARGEST),
    'content_weight': Number(0), 'style_weight': Number(0), 'tv_weight': Number(0),
    'content_layer_weights': Number(), 'style_layer_weights': Number(), 'style_weights': Number(0),
    'pool': ('', *POOLS), 'activations': ('own', 'relative', *DIVISORS, 'levels'),
    'noise': Number(0), 'pixel_range': Number(1e-6), 'bound': ('clip', 'sigmoid', 'none'),
    'color': ('style', 'luminance', 'match'), 'bits': (8, 16), 'tile': Whole(),
    'optimizer': ('adam', 'lbfgs'), 'learning_rate': Number(0), 'beta1': Number(0, BELOW_1),
    'beta2': Number(0, BELOW_1), 'epsilon': Number(0), 'average': Number(0, BELOW_1),
    'padding': ('edge', 'zero'), 'memory': Whole(1)}


def run(config, directory):
    """Writes figures/NAME.png, a picture for each content, or figures/texture.png without any, and
    figures/style.png, which has them beside the styles.

    Raises UserError if pictures, layers, weights or masks do not fit.
    """
    check(config)
    with continued_edges(config.padding == 'edge'):
        write(config, directory)


def write(config, directory):
    """`run`, once the fields are checked."""
    network = load(config)
    contents, smallest = {}, min(config.sizes)  # Contents of one shape are optimized together.
    given = names(config.content) or ['texture']
    stems = map(pictures.stem, given)
    for path, stem in zip(given, pictures.distinct(stems, OURS), strict=True):
        picture = pictures.read(path) if config.content else blank(config)
        check_fits(config, network, path, sized(config, network, picture, smallest))
        picture = sized(config, network, picture, config.sizes[-1])
        contents.setdefault(picture.shape, []).append((stem, picture))
    styles = [pictures.read(path) for path in names(config.styles)]
    for path, style in zip(names(config.styles), styles, strict=True):
        check_fits(config, network, path,
                   sized(config, network, style, smallest, config.style_scale))
    for (height, width, _), group in contents.items():
        shape = (height, width, network.image_shape[-1])
        memory.check(len(group) * tiles.activations(network, shape, config.tile),
                     sizes=config.sizes, tile=config.tile)
        if config.optimizer == 'lbfgs':
            memory.check(2 * config.memory * len(group) * math.prod(shape),
                         memory=config.memory, sizes=config.sizes)
    results = {}
    steps = sum(steps_of_sizes(config)) * len(contents)
    with Run(directory, config, network, steps) as session:
        for number, group in enumerate(contents.values()):
            images = np.stack([picture for _, picture in group])
            images = transfer(config, network, images, styles, session, number)
            results |= {stem: (picture, image) for (stem, picture), image
                        in zip(group, images, strict=True)}
    figures = Path(directory) / 'figures'
    rows = []
    for stem, (picture, image) in results.items():
        file = figures / f'{stem}{".png" if config.bits == 8 else ".tif"}'
        pictures.write(file, image, config.bits)
        print(f'picture: {file}')
        shown = min(config.sizes[-1], 1024)
        content = [(f'content: {stem}', pictures.resize(picture, shown))] * bool(config.content)
        rows.append([*content,
                     *((f'style: {pictures.stem(path)}', shown_style(config, style, shown))
                       for path, style in zip(names(config.styles), styles, strict=True)),
                     ('result', pictures.resize(np.asarray(image), shown))])
    plots.pictures(rows, figures / 'style.png', f'{trained.called(network, config.source)}: '
                   + ('style transfer' if config.content else 'texture'))
    print(f'with contents and styles: {figures / "style.png"}')
    if not names(config.content_masks):
        report(config, results, styles, figures.parent / 'results.json')


def report(config, results, styles, path):
    """Writes how far each result is from its content and from the styles, as seen by a network that
    had no part in it, the untrained one: 0 is the same, 1 as far as a picture to which no unit
    responds. Pictures of less than 32 pixels are too small for it."""
    judge = trained.load('random')
    sizes = [sized(config, judge, style, config.sizes[-1], config.style_scale) for style in styles]
    images = [image for _, image in results.values()]
    if min(min(image.shape[:2]) for image in (*sizes, *images)) < 32:
        return

    @jax.jit
    def see(variables, image):
        found = tiles.value(judge, neural_style.moments(JUDGED), config.tile, variables, image, {})
        return (tiles.maps(judge, JUDGED[2:4], config.tile, variables, image),
                {layer: moments['second'] for layer, moments in found.items()})

    target = neural_style.mixed([see(judge.variables, style)[1] for style in sizes],
                                config.style_weights)
    rows = {}
    for stem, (picture, image) in results.items():
        maps, second = see(judge.variables, pictures.with_channels(image, 3))
        rows[stem] = {'style_distance': apart(second, target)}
        if config.content:
            rows[stem]['content_distance'] = apart(maps, see(judge.variables, picture)[0])
        print(f'{stem}: ' + ', '.join(f'{name.replace("_", " ")} {value:.2f}'
                                      for name, value in rows[stem].items()), flush=True)
    atomic.write_json(path, rows)


def apart(one, other):
    """The mean over layers of |a - b| / |b|, for arrays a and b of each layer."""
    return float(np.mean([np.linalg.norm(one[layer] - other[layer]) / np.linalg.norm(other[layer])
                          for layer in other]))


def shown_style(config, style, size):
    """A style as the figure has it, `size` pixels long; beside a texture on white, as small as its
    own texture is there."""
    if config.content or config.style_scale >= 1:
        return pictures.resize(style, size)
    small = pictures.resize(style, max(round(size * config.style_scale), 1))
    canvas = np.ones((*(round(side * size / max(small.shape[:2])) for side in small.shape[:2]), 3),
                     np.float32)
    canvas[:small.shape[0], :small.shape[1]] = small
    return canvas


def check(config):
    """Raises UserError if fields do not fit together."""
    some = Names(some=bool(config.content))
    limits.check(config, LIMITS | {'content': some, 'content_layers': some})
    if not config.content and (config.init == 'content' or config.color != 'style'):
        raise UserError(f"init='{config.init}' and color='{config.color}': without a content, take "
                        "init='noise' and color='style'")
    if config.tileable and (config.content or config.content_masks
                            or config.optimizer == 'lbfgs'):
        raise UserError('tileable=True moves the picture at random: leave out content and '
                        "content_masks, and take optimizer='adam'")
    if config.optimizer == 'lbfgs' and config.bound == 'clip':
        raise UserError("optimizer='lbfgs' searches along lines, which clipping breaks: take "
                        "bound='sigmoid' or 'none'")
    for field in ('content_layers', 'style_layers'):
        weights, layers = config[f'{field[:-1]}_weights'], names(config[field])
        if weights and len(weights) != len(layers):
            raise UserError(f'{field[:-1]}_weights={weights}: give each of the {len(layers)} '
                            f"{field} a weight, or take () for equal ones")
    styles, regions = names(config.styles), names(config.content_masks)
    if config.style_weights and (len(config.style_weights) != len(styles)
                                 or not sum(config.style_weights)):
        raise UserError(f'style_weights={config.style_weights}: give each of the {len(styles)} '
                        'styles a share')
    if len(regions) != len(names(config.style_masks)):
        raise UserError(f"content_masks='{config.content_masks}' and style_masks="
                        f"'{config.style_masks}': each region needs both")
    if regions and len(styles) not in (1, len(regions)):
        raise UserError(f'{len(styles)} styles for {len(regions)} masks: give one for all, or one '
                        'for each')


def blank(config):
    """A gray picture [H, W, 3] of the proportions that the config asks for."""
    shape = (round(1000 / max(config.aspect, 1)), round(1000 * min(config.aspect, 1)), 3)
    return np.full(shape, 0.5, np.float32)


def load(config):
    """The network, with the pools and the inputs that the config asks for.

    Raises UserError if the network takes no pictures or has no pools.
    """
    network = trained.load(config.source, config.checkpoint, config.name).of_images(
        'style transfer')
    pictures.check_channels(network.image_shape[-1])
    if config.pool:
        network = network._replace(net=with_pool(network.net, config.pool))
    if config.activations == 'levels':
        print('the network is given levels from 0 to 255 less its mean, whatever it was trained '
              'with', flush=True)
        network.normalize.check_pointwise("activations='levels'")
        levels = np.full_like(network.normalize.std, 1 / 255)
        network = network._replace(normalize=network.normalize._replace(std=levels))
    elif like_vgg19(config, network):
        print("activations of layers with VGG's names are scaled to be as large as those of VGG-19 "
              "with Caffe's weights, which this config is for (activations='caffe')", flush=True)
    elif config.activations in DIVISORS:
        print(f"the network's activations are multiplied by {1 / convention(config, network):.3g}, "
              'to be about as large as those that the weights of this config are for '
              f"(activations='{config.activations}')", flush=True)
    return network


def convention(config, network):
    """The divisor that makes activations about as large as those of the weights that the config
    names; it is 1 for such weights themselves.

    Without biases a network of ReLUs is homogeneous: inputs k times as large give activations k
    times as large. Initialization and training keep this ratio, so the activations of two networks
    are in the ratio of their inputs: torchvision's inputs are (x - mean) / 0.226, Caffe's
    255 (x - mean), which is 57 times as much.
    """
    return DIVISORS[config.activations] / np.mean(network.normalize.std)


def like_vgg19(config, network):
    """Whether the network's activations are to be like those of VGG-19 with Caffe's weights, and
    its inputs alone do not make them so, because it is no VGG of that width."""
    return config.activations == 'caffe' and not (
        isinstance(network.net, VGG) and network.net.widths == VGG.widths)


def steps_of_sizes(config):
    """The number of steps at each of config.sizes."""
    return [config.steps[min(i, len(config.steps) - 1)] for i in range(len(config.sizes))]


def transfer(config, network, contents, styles, session, number):
    """The results [N, H, W, 1 or 3] for contents [N, H, W, 3], from the coarsest size on. `number`
    is that of the group of contents of this shape, from 0."""
    steps = steps_of_sizes(config)
    if config.color == 'match':
        styles = [pictures.match_colors(style, contents) for style in styles]
    gray = functools.partial(pictures.with_channels, count=network.image_shape[-1])
    styles, colored, contents = [*map(gray, styles)], contents, [*map(gray, contents)]
    key = jax.random.fold_in(jax.random.key(config.seed), number * sum(steps))
    keys = jax.random.split(key, len(contents))
    images = state = None
    for size, count in zip(config.sizes, steps, strict=True):
        seen = np.stack([sized(config, network, content, size) for content in contents])
        shape = seen[0].shape
        shared, codes = targets(config, network, seen, [
            sized(config, network, style, size, config.style_scale) for style in styles])
        if images is None:
            images = first(config, network, key, seen, styles)
        else:
            images = np.stack([enlarged(config, image, shape[:2]) for image in images])
        problem, tx = formulate(config, network, shape)
        if state is not None and config.carry and config.optimizer == 'adam':
            state = optimize.carry(problem, tx, keys, images, state.opt_state)
        else:
            state = optimize.init(problem, tx, keys, images)
        name = f'{size}-{shape[0]}x{shape[1]}' if number else f'{size}'
        state = session.optimize(name, problem, tx, count, key, state=state,
                                 aux={'maps': codes}, shared=shared, label=f'{size} px')
        images = np.asarray(optimize.decode(problem, state)).clip(0, 1)
    if config.color == 'luminance':
        images = [pictures.keep_luminance(np.broadcast_to(image, content.shape), content)
                  for image, content in zip(images, colored, strict=True)]
    return images


def enlarged(config, image, size):
    """An image at the next size. A tileable one is scaled among copies of itself."""
    if not config.tileable:
        return pictures.resize(image, size)
    height, width = size
    copies = pictures.resize(np.tile(image, (3, 3, 1)), (3 * height, 3 * width))
    return copies[height:2 * height, width:2 * width]


def sized(config, network, picture, size, scale=1.0):
    """The picture scaled so that the side that the config names has `size` times `scale` pixels, or
    to the nearest size that fits the network."""
    height, width = picture.shape[:2]
    side = {'longer': max(height, width), 'shorter': min(height, width), 'height': height,
            'width': width}[config.side]
    scale *= size / side
    shape = max(round(height * scale), 1), max(round(width * scale), 1)
    try:
        return pictures.resize(picture, network.fitting(shape))
    except UserError as error:
        raise UserError(f"sizes={config.sizes} with side='{config.side}' and style_scale="
                        f'{config.style_scale}: {error}') from error


def check_fits(config, network, path, image):
    """Raises UserError, with the picture's name, if it is too small for a layer."""
    image = pictures.with_channels(image, network.image_shape[-1])
    try:
        objectives.missing(names(config.style_layers) + names(config.content_layers),
                           network.tap_shapes(image.shape))
    except UserError as error:
        raise UserError(f'{path} at {image.shape[0]} x {image.shape[1]} pixels: {error}') from error


def targets(config, network, contents, styles):
    """(shared, maps): the targets of the objective from the styles, and from each content."""
    layers = names(config.style_layers)
    content_layers = names(config.content_layers)
    every = tuple(dict.fromkeys(layers + content_layers))
    regions = masks(network, every, names(config.content_masks), contents[0])
    if regions:
        styles = styles * (len(names(config.style_masks)) // len(styles))
        found = [moments(config, network, every, style,
                         masks(network, every, (mask,), style))
                 for style, mask in zip(styles, names(config.style_masks), strict=True)]
        found = jax.tree.map(lambda *each: jnp.concatenate(each), *found)
    else:
        found = neural_style.mixed([moments(config, network, every, style, {})
                                    for style in styles], config.style_weights)
    scale = dict.fromkeys(every, jnp.float32(1))
    if config.activations == 'relative':
        scale = neural_style.scales(found)
    elif config.activations in DIVISORS:
        scale = dict.fromkeys(every, jnp.float32(convention(config, network)))
        if like_vgg19(config, network):
            scale |= neural_style.scales_of_vgg19(found, layers)
    style = {layer: neural_style.divided(found[layer], scale[layer]) for layer in layers}
    compute = jax.jit(lambda variables, image: tiles.maps(network, content_layers, config.tile,
                                                          variables, image))
    codes = [compute(network.variables, content) if content_layers else {} for content in contents]
    codes = jax.tree.map(lambda *each: jnp.stack(each), *codes)
    codes = {layer: {'content': maps / scale[layer]} for layer, maps in codes.items()}
    return {'style': style, 'scale': scale, 'maps': regions}, codes


def moments(config, network, layers, style, regions):
    """The moments of a style's activations, one for each of its regions."""
    return jax.jit(lambda variables, image, maps: tiles.value(
        network, neural_style.moments(layers), config.tile, variables, image, {'maps': maps}))(
            network.variables, style, regions)


def masks(network, layers, paths, image):
    """{layer: {'regions': [h, w, R]}} of mask files for an image; {} without any."""
    if not paths:
        return {}
    shapes = network.tap_shapes(image.shape)
    objectives.missing(layers, shapes)
    whole = np.stack([pictures.read_mask(path, image.shape[:2]) for path in paths], -1)
    for path, mask in zip(paths, np.moveaxis(whole, -1, 0), strict=True):
        if not mask.any():
            raise UserError(f'{path} is black everywhere: white is where the region is')
    return {layer: {'regions': jax.image.resize(
        whole, (*shapes[layer][:2], len(paths)), 'linear')} for layer in layers}


def first(config, network, key, contents, styles):
    """The images [N, H, W, C] that the optimization starts from."""
    shape = contents.shape
    noise = np.asarray(jax.random.normal(key, shape, np.float32)) * np.float32(
        config.noise / config.pixel_range)
    if config.init == 'noise':  # noise around the colour that is 0 to the network
        return np.asarray(network.normalize.color) + noise
    if config.init == 'content':
        return contents + noise
    start = (pictures.resize(styles[0], shape[1:3]) if config.init == 'style' else
             pictures.with_channels(pictures.read(config.init, shape[1:3]), shape[-1]))
    return start + noise


def formulate(config, network, shape):
    """The problem and its optimizer, for images of that shape."""
    objective = neural_style.weighted(**{field: config[field] for field in OBJECTIVE})
    variation = regularizers.in_units(regularizers.total_variation(form=config.tv_form),
                                      scale=config.pixel_range)
    pixels = parametrizations.pixels(shape)
    problem = optimize.Problem(
        network, objectives.relative(objective),
        parametrizations.sigmoid(pixels) if config.bound == 'sigmoid' else pixels,
        regularizer=lambda image: {'variation': config.tv_weight * variation(image)},
        transform=transforms.jitter(min(shape[:2]) // 2) if config.tileable else None,
        project=parametrizations.clip() if config.bound == 'clip' else None,
        average=config.average, tile=config.tile)
    if config.optimizer == 'lbfgs':
        return problem, optax.lbfgs(memory_size=config.memory)
    return problem, optax.adam(config.learning_rate / config.pixel_range, config.beta1,
                               config.beta2, config.epsilon * config.pixel_range)
