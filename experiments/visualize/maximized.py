"""Images made for units, beside what excites the units in a data set."""

import numpy as np
from tqdm import tqdm

from cnnjax import data, parallel, plots, trained
from cnnjax.images import class_scores, patches, pictures, strongest, units
from cnnjax.limits import names
from experiments.visualize.shown import called, grid

COLUMNS = 8  # The columns in the figure of classes, two for each class.
# What the numbers in figures of units are.
ACTIVATIONS = 'numbers: activations of the unit at its best place'


def safe(layer):
    """The name of a layer as a valid file name."""
    return layer.replace('/', '.')


def picked(config, strong, chosen):
    """The units that are `chosen` of a layer; None: config.units of the active ones."""
    if chosen is not None:
        return chosen
    alive = np.flatnonzero(strong.active > 0)
    return alive[data.spread(len(alive), config.units)].tolist() or [0]


def unit_rows(config, network, stream, row, strong, chosen, figure):
    """Draws a row for each unit: the image that excites it most, its patches and their
    projections. The title counts the images that excite their units more than all patches do."""
    layer = row.name
    mesh = parallel.data_mesh(config.devices)
    maximized = maximize(config, network, layer, chosen, layer, config.steps)
    for unit, image in zip(chosen, maximized.images, strict=True):
        pictures.write(figure.parent.parent / 'maximized' / safe(layer) / f'{unit}.png', image)
    count = strong.scores.shape[1]
    images = strongest.look_up(stream, strong.images[chosen].ravel())
    numbers, places = np.repeat(chosen, count), strong.positions[chosen].reshape(-1, 2)
    causes = {rule: patches.contrast(patches.project(
        network, layer, images, numbers, places, rule, mesh=mesh))
        for rule in tqdm(names(config.rules), unit='rule', desc=f'{layer}: projections',
                         disable=None)}
    drawn, numbers = [], []
    for i, unit in enumerate(chosen):
        own = slice(i * count, (i + 1) * count)

        def cut(images, own=own):
            return pictures.mosaic([patches.cut(image, row, place)
                           for image, place in zip(images[own], places[own], strict=True)])

        scores = strong.scores[unit]
        drawn.append([(f'unit {unit}, maximized: {maximized.scores[i]:.3g}', maximized.images[i],
                       None),
                      (f'strongest patches: {scores[0]:.3g} to {scores[-1]:.3g}', cut(images),
                       None),
                      *((f'projected by {rule}', cut(found), None)
                        for rule, found in causes.items())])
        numbers.append({
            'unit': int(unit), 'maximized': float(maximized.scores[i]),
            'health': maximized.health[i], 'strongest': scores.tolist(),
            'images': strong.images[unit].tolist(), 'positions': strong.positions[unit].tolist(),
            'mean': float(strong.mean[unit]), 'deviation': float(strong.deviation[unit]),
            'active': float(strong.active[unit])})
        if maximized.health[i]:
            print(f'{layer}, unit {unit}: {maximized.health[i]}', flush=True)
    plots.gallery(drawn, figure, 1.9, title=f'{heading(config, network)}\n{layer}: '
                  f'{count_of("units", numbers)}', note=ACTIVATIONS)
    return numbers


def heading(config, network):
    """The network and the data set of a figure, in a line."""
    return (f'{trained.called(network, config.source)} on {config.dataset}, '
            f'{config.split} set')


def exceeding(rows):
    """How many of the rows have a maximized image that excites its unit or class more than the
    strongest image of the data set does. Both are activations at their best place, of 8 bits and
    without transforms (see units.maximize)."""
    return sum(row['maximized'] > np.max(row['strongest']) for row in rows)


def count_of(what, rows):
    """`exceeding` in words."""
    share = exceeding(rows) / len(rows)
    return (f'{exceeding(rows)} of {len(rows)} {what} ({100 * share:.0f} %) are activated more by '
            'their maximized image than by the whole set')


def maximize(config, network, layer, chosen, title, steps):
    """`units.maximize` with a progress bar."""
    with tqdm(total=len(chosen), unit='unit', desc=f'{title}: images', disable=None) as bar:
        return units.maximize(network, layer, chosen, settings(config)._replace(steps=steps),
                              size=size(config, network, layer), progress=bar.update)


def size(config, network, layer):
    """The side of a layer's images; None: by units.image_size, as in full layers, whose images have
    the size of the training."""
    return None if len(network.tap_shapes()[layer]) == 1 else config.size or None


def settings(config):
    """The `units.Settings` of a config."""
    return units.Settings(config.steps, config.learning_rate, config.seed,
                          mesh=parallel.data_mesh(config.devices))


def classes(config, network, stream, layer, strong, figure):
    """Draws two images for each of some classes, evenly spread over all: the image made for its
    score, and the image of the data set with the highest score. The score is the logit."""
    chosen = data.spread(len(strong.images), config.classes)
    maximized = maximize(config, network, layer, chosen, 'classes', config.class_steps)
    probabilities = class_scores.probabilities(network, maximized.images)
    images = strongest.look_up(stream, strong.images[chosen, 0]) / np.float32(255)
    cells, numbers = [], []
    for i, label in enumerate(chosen):
        name, score, best = called(network, label), maximized.scores[i], strong.scores[label, 0]
        share = 100 * probabilities[i, label]
        cells += [(f'{name}\nmaximized: {score:.3g}, {share:.0f} %', maximized.images[i], None),
                  (f'\nstrongest: {best:.3g}', images[i], None)]
        numbers.append({'class': name, 'maximized': float(score),
                        'probability': float(probabilities[i, label]),
                        'health': maximized.health[i], 'strongest': float(best),
                        'image': int(strong.images[label, 0])})
    plots.gallery(grid(cells, min(COLUMNS, len(cells))), figure, 1.3, title=(
        f'{heading(config, network)}\n{count_of("classes", numbers)}'),
        note='numbers: logit of the class; of the maximized image also the probability. strongest: '
             'the image of the set with the largest logit')
    return numbers
