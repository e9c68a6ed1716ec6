"""What a network's layers do when a picture moves: equivariance and invariance, measured.

The picture is seen through a moving window, so that real pixels enter where others leave.
Convolution commutes with the shift; pooling does if the shift is a multiple of its stride (Azulay &
Weiss 2019, https://arxiv.org/abs/1805.12177; Zhang 2019, https://arxiv.org/abs/1904.11486). Only
units whose receptive field is inside the window are compared.
"""

from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from cnnjax import atomic, data, limits, memory, plots, summary, trained, workdir
from cnnjax.errors import UserError
from cnnjax.images import filters, objectives, pictures, selection
from cnnjax.limits import Whole

LIMITS = {'image': limits.Names(), 'size': Whole(8), 'shifts': Whole(1, some=True),
          'farthest': Whole(1), 'count': Whole(1), 'pool_size': Whole(2), 'seed': limits.SEED,
          'batch_size': Whole(1)}


def run(config, directory):
    """Writes results.json and the two figures that configs/equivariance.py names.

    Raises UserError if a number makes no sense, or the picture is too small.
    """
    limits.check(config, LIMITS)
    source = data.load_if_named(config.dataset, config.split, config.data_dir)
    network = trained.load(config.source, config.checkpoint, config.name).of_images(
        'measuring equivariance')
    picture = pictures.read(config.image)
    own = pictures.fitted(picture, picture.shape[:2], network.image_shape[-1])
    check_size(config, network, picture)
    rows = equivariance(config, network, own)
    alike = invariance(config, network, own, source)
    most = config.size + 2 * config.pool_size
    edges = filters.edges(pictures.fitted(picture, (most, most), 3))
    pooled, kept = filters.pooling(edges, config.size, config.pool_size)
    figures = Path(directory) / 'figures'
    name = pictures.stem(config.image)
    workdir.write_config(directory, config)
    plots.gallery(filters.pooling_rows(pooled, kept), figures / 'pooling.png', 1.6,
                  f'Edges of {name}, pooled over {config.pool_size} x {config.pool_size} pixels',
                  filters.POOLED)
    draw(config, rows, alike, kept, figures / 'equivariance.png',
         f'{trained.called(network, config.source)}: {name}'
         + f'; classes: {config.dataset}, {config.split} set' * bool(config.dataset))
    atomic.write_json(Path(directory) / 'results.json', {
        'source': config.source, 'checkpoint': config.checkpoint, 'image': config.image,
        'dataset': config.dataset, 'size': config.size, 'shifts': config.shifts,
        'equivariance': rows, 'invariance': alike, 'pooling': kept})
    report(rows, alike, config)
    print(f'figures: {figures}')


def check_size(config, network, picture):
    """Raises UserError if the picture is too small for the measurements, or the images that are cut
    from it do not fit in memory."""
    windows = max(network.image_shape[:2]) + 2 * config.farthest if not config.dataset else 0
    shifts = config.size + max(config.shifts)
    if min(picture.shape[:2]) < max(windows, shifts):
        own = windows and (f', the images of the network with farthest={config.farthest} need '
                           f'{windows}')
        raise UserError(
            f'image={config.image} has {picture.shape[0]} x {picture.shape[1]} pixels: size='
            f'{config.size} with shifts up to {max(config.shifts)} needs {shifts}{own or ""}')
    if config.farthest > min(network.image_shape[:2]):
        raise UserError(f'farthest={config.farthest}: nothing of the images of '
                        f'{network.image_shape[0]} x {network.image_shape[1]} would be left')
    height, width, count = network.image_shape
    if not config.dataset:
        memory.check(2 * config.count * count * (height + 2 * config.farthest)
                            * (width + 2 * config.farthest), count=config.count)
    if config.size < config.pool_size:
        raise UserError(f'size={config.size} is less than pool_size={config.pool_size}')


def middle(picture, side):
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    return picture[top:top + side, left:left + side]


def equivariance(config, network, picture):
    """[{'layer', 'stride', 'sees', 'units', 'errors': {shift: error, None: no unit compared}}]

    The error is the Euclidean norm of f(shift x) - shift f(x), divided by that of shift f(x). If a
    shift is no multiple of a layer's stride, f(x) is shifted by linear interpolation. After an
    up-convolution (U-Net) the largest stride before it counts, not the layer's own.
    """
    size, most = config.size, max(config.shifts)
    shape = (size, size, picture.shape[-1])
    shapes = {name: tap for name, tap in network.tap_shapes(shape).items()
              if len(tap) == 3}
    channels = selection.by_depth(config.layers or 'all', shapes)
    rows = {row.name: row for row in summary.summarize(network.net, shape).rows
            if row.name in channels and row.seen and [side.axis for side in row.seen] == [1, 2]}
    names = [name for name in channels if name in rows]
    if not names:
        raise UserError(f"layers='{config.layers}': none has maps whose units see a part of the "
                        'picture each')

    @jax.jit
    def taps(image):
        found = network.taps(image[None])
        return {name: objectives.select(name, channels[name], found[name][0]) for name in names}

    picture = middle(picture, size + most)
    still = taps(picture[:size, :size])
    errors = {name: {} for name in names}
    for shift in tqdm(config.shifts, unit='shift', desc='equivariance', disable=None):
        moved = taps(picture[shift:shift + size, shift:shift + size])
        for name in names:
            errors[name][str(shift)] = moved_error(rows[name].seen, still[name], moved[name], shift,
                                                   size)
    return [{'layer': name, 'stride': rows[name].stride[0],
             'sees': 'all' if np.isinf(rows[name].size[0]) else rows[name].size[0],
             'units': int(np.prod([inside(side, size).sum() for side in rows[name].seen])),
             'errors': errors[name]} for name in names]


def inside(side, size):
    """bool [positions], whether a unit's receptive field is inside the window, without padding."""
    return (side.low >= 0) & (side.high < size)


def moved_error(seen, still, moved, shift, size):
    """The relative error of a layer [H, W, C]; None if every unit sees the border."""
    expected, moved = np.asarray(still, np.float64), np.asarray(moved, np.float64)
    for axis, side in enumerate(seen):
        # Unit i of the moved window sees the same as unit i + shift / stride of the still one.
        place = np.arange(len(side.low)) + shift / side.step
        below, above = np.floor(place).astype(int), np.ceil(place).astype(int)
        clear = inside(side, size)
        use = clear & (above < len(clear))
        use[use] = clear[below[use]] & clear[above[use]]
        if not use.any():
            return None
        part = (place - below)[use].reshape([-1 if d == axis else 1 for d in range(3)])
        expected = ((1 - part) * expected.take(below[use], axis)
                    + part * expected.take(above[use], axis))
        moved = moved.compress(use, axis)
    norm = np.linalg.norm(expected)
    return float(np.linalg.norm(moved - expected) / norm) if norm else None


def invariance(config, network, picture, source=None):
    """How much of a network's output survives when images move by 1 ... farthest pixels up, down,
    left or right, at random for each image:

    {'shifts', 'images', 'cosine': {layer: mean cosine of the codes}, 'class_kept': shares or None}
    """
    shapes = network.tap_shapes()
    last = list(shapes)[-1]
    classifies = len(shapes[last]) == 1
    wanted = {*selection.by_depth('', shapes),
              *(selection.entries(network, '') if classifies else ())}
    names = [name for name in shapes if name in wanted]  # maps of all sizes, and the last layers
    rng = np.random.default_rng(config.seed)
    images, margin = surrounded(config, network, picture, source, rng), config.farthest
    height, width = network.image_shape[:2]

    @jax.jit
    def taps(images):
        found = network.taps(images)
        return {name: found[name].reshape(len(images), -1) for name in (*names, last)}

    def encode(steps):
        """The codes of the images moved by steps [N, 2]."""
        parts = []
        for first in range(0, len(images), config.batch_size):
            batch = [image[margin + down:margin + down + height,
                           margin + right:margin + right + width]
                     for image, (down, right) in zip(images[first:first + config.batch_size],
                                                     steps[first:], strict=False)]
            parts.append(jax.device_get(taps(np.stack(batch))))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    directions = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])
    still = encode(np.zeros((len(images), 2), int))
    cosines, kept = {name: [] for name in names}, []
    shifts = range(1, config.farthest + 1)
    for shift in tqdm(shifts, unit='shift', desc='invariance', disable=None):
        moved = encode(shift * directions[rng.integers(4, size=len(images))])
        for name in names:
            cosines[name].append(cosine(still[name], moved[name]))
        kept.append(float((still[last].argmax(-1) == moved[last].argmax(-1)).mean()))
    return {'shifts': list(shifts), 'images': len(images), 'cosine': cosines,
            'class_kept': kept if classifies else None}


def surrounded(config, network, picture, source, rng):
    """The images [N, H + 2 * farthest, W + 2 * farthest, C] from which those of the network are
    cut."""
    margin, (height, width, count) = config.farthest, network.image_shape
    if source:
        found = [source.examples[i]['image'] / np.float32(255)
                 for i in data.spread(len(source.examples), config.count)]
        found = [pictures.fitted(image, (height, width), count) for image in found]
        return np.pad(found, ((0, 0), (margin, margin), (margin, margin), (0, 0)), 'edge')
    size = height + 2 * margin, width + 2 * margin
    places = rng.integers(np.array(picture.shape[:2]) - size + 1, size=(config.count, 2))
    return np.stack([picture[top:top + size[0], left:left + size[1]] for top, left in places])


def cosine(codes, others):
    """The mean cosine between codes [N, features]; that of two codes of 0 is 1."""
    norms = np.linalg.norm(codes, axis=1) * np.linalg.norm(others, axis=1)
    return float(np.where(norms > 0, (codes * others).sum(1) / np.where(norms > 0, norms, 1),
                          (codes == others).all(1)).mean())


def draw(config, rows, alike, kept, path, title):
    table = [[np.nan if row['errors'][str(shift)] is None else row['errors'][str(shift)]
              for shift in config.shifts] for row in rows]
    similar = dict(alike['cosine'])
    if alike['class_kept'] is not None:
        similar['the class survives'] = alike['class_kept']
    axis = {'xlabel': 'shift (pixels)'}
    plots.equivariance([(row['layer'], row['stride']) for row in rows], config.shifts, table, [
        {'lines': {name: (alike['shifts'], values) for name, values in similar.items()},
         'dashed': ['the class survives'], 'title': 'invariance',
         'ylabel': 'cosine of codes, share of classes', **axis},
        {'lines': {name: (kept['shifts'], kept[name]['change'])
                   for name in ('edges', 'max', 'average', 'subsampled')},
         'title': f'edge map pooled over {config.pool_size} x {config.pool_size}',
         'ylabel': '|change| / |map|', **axis}], path, title)


def report(rows, alike, config):
    for row in rows:
        errors = '  '.join('-' if error is None else f'{error:.2g}'
                           for error in row['errors'].values())
        print(f'{row["layer"]:>20}  stride {row["stride"]:g}  error by shift  {errors}')
    for name, values in alike['cosine'].items():
        print(f'{name:>20}  cosine of codes {config.farthest} pixels apart  {values[-1]:.3f}')
    if alike['class_kept'] is not None:
        print(f'the class survives {config.farthest} pixels in '
              f'{100 * alike["class_kept"][-1]:.0f} % of {alike["images"]} images')
