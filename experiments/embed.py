"""Maps of a data set by the codes of a network's layers, and the neighbours of its images.

The images are drawn without overlap, each in the cell of a grid near its point.
"""

import math
from pathlib import Path

import numpy as np
from scipy import optimize

from cnnjax import atomic, data, embedding, features, limits, memory, plots, trained, workdir
from cnnjax.errors import UserError
from cnnjax.images import selection
from cnnjax.limits import Number, Whole
from configs import base

# Cells for each image between the outer twentieths of a map, whose shape empty cells show; and how
# many times as long and wide the grid is: without a margin, images would crowd at its border.
ROOM, GRID = 2.5, 2
LIMITS = features.LIMITS | {
    'metric': ('euclidean', 'cosine'), 'count': Whole(), 'components': Whole(2),
    'perplexity': Number(1), 'neighbours': Whole(1), 'queries': Whole(1), 'drawn': Whole(1),
    'seed': limits.SEED}


def run(config, directory):
    """Embeds config.dataset; see configs/embed.py for what it writes.

    Raises UserError if the images do not fit the network, a layer does not exist, or its code is
    the same for all images.
    """
    limits.check(config, LIMITS)
    network = trained.load(config.source, config.checkpoint, config.name).of_images(
        'an embedding')
    named = tuple(dict.fromkeys(limits.names(config.taps)))
    own = [tap for tap in named if tap != 'pixels']
    taps = selection.entries(network, ','.join(own)) if own or not named else {}
    whole_set = features.load(config, config.split, network, base.get_config())
    index = data.spread(len(whole_set), config.count)
    stream = whole_set.subset(index)
    least = max(config.perplexity, config.neighbours)
    if len(stream) <= least:
        raise UserError(f'perplexity={config.perplexity:g} and neighbours={config.neighbours} need '
                        f'more than {least:g} images, here are {len(stream)}: take smaller '
                        'numbers, or more images')
    # The trustworthiness needs most memory: the distances of all pairs, and their ranks twice, in
    # float64.
    memory.check(6 * len(stream) ** 2, memory.HOST, count=config.count)
    memory.check(4 * ROOM * GRID ** 2 * min(config.drawn, len(stream)) ** 2, memory.HOST,
                 drawn=config.drawn)
    found = features.extractor(network, taps, config)(stream, config.dataset, images=True)
    labels, images = found['label'], found['image'] / np.float32(255)
    if 'pixels' in named or not named:
        found['pixels'] = images.reshape(len(images), -1)
    directory, results = Path(directory), {}
    workdir.write_config(directory, config)
    for tap in named or ('pixels', *taps):
        code, path = found[tap], directory / tap.replace('/', '-')
        if not np.ptp(code, 0).any():
            raise UserError(f"taps: '{tap}' is the same for every image: take another one")
        print(f'{tap}: t-SNE of {len(code)} codes of {code.shape[1]:,} numbers', flush=True)
        reduced = embedding.reduce(
            code, components=config.components, perplexity=config.perplexity,
            metric=config.metric, seed=config.seed)
        neighbours = nearest(code, config.neighbours, config.metric)
        results[tap] = judge(code, reduced, neighbours[1], labels, config)
        with (atomic.replacing(path.with_name(f'{path.name}.npz')) as unfinished,
              unfinished.open('wb') as file):
            np.savez_compressed(file, code=code, pca=reduced.pca, tsne=reduced.tsne, label=labels,
                                index=index)
        figure = path.parent / 'figures' / path.name
        called = tap if tap == 'pixels' else f'layer {tap}'
        draw(figure, called, reduced, neighbours, images, labels, stream.classes, config,
             f'{trained.called(network, config.source)}, {called}: {config.dataset}, '
             f'{config.split} set')
        error = results[tap]['nearest_neighbour_error']
        print(f'{tap:>20}  nearest neighbour of another class: {100 * error["code"]:.2f} % of the '
              f'images; in the map of PCA {100 * error["pca"]:.2f} %, of t-SNE '
              f'{100 * error["tsne"]:.2f} %')
    atomic.write_json(directory / 'results.json', {
        'source': config.source, 'checkpoint': config.checkpoint, 'dataset': config.dataset,
        'split': config.split, 'images': len(labels), 'metric': config.metric, 'taps': results})
    print(f'figures: {directory / "figures"}')


def nearest(code, count, metric='euclidean'):
    """(distances, positions), both [N, count], of the nearest other codes, nearest first."""
    from sklearn import neighbors

    # When scikit-learn gets no query, an example is not its own neighbour.
    return neighbors.NearestNeighbors(n_neighbors=count, metric=metric).fit(code).kneighbors()


def judge(code, reduced, neighbours, labels, config):
    """The numbers of a layer: leave-one-out errors, and how far its maps can be trusted."""
    from sklearn import manifold

    def error(positions):
        return float((labels[positions[:, 0]] != labels).mean())

    maps = {'pca': reduced.pca, 'tsne': reduced.tsne}
    near = min(5, (len(code) - 1) // 2)  # scikit-learn takes fewer than half of the points.
    return {
        'features': code.shape[1], 'pca_variance': reduced.variance,
        'tsne_divergence': reduced.divergence,
        'nearest_neighbour_error': {'code': error(neighbours)} | {
            name: error(nearest(points, 1)[1]) for name, points in maps.items()},
        'trustworthiness': {name: float(manifold.trustworthiness(
            code, points, n_neighbors=near, metric=config.metric))
            for name, points in maps.items()}}


def cells(points):
    """Different cells (row, column) of a square grid for points [N, 2], with the least sum of
    squared distances between points and cells. The second coordinate points up."""
    side = math.ceil(math.sqrt(ROOM * len(points)))
    low, high = np.quantile(points, (0.05, 0.95), 0)  # Few points may be far from all others.
    scaled = (points - (low + high) / 2) * side / max((high - low).max(), 1e-12)  # one scale
    grid = np.stack(np.indices((GRID * side, GRID * side)), -1).reshape(-1, 2)
    at = np.stack([-scaled[:, 1], scaled[:, 0]], -1) + (GRID * side - 1) / 2
    cost = ((at[:, None] - grid) ** 2).sum(-1)
    return np.stack(np.divmod(optimize.linear_sum_assignment(cost)[1], GRID * side), -1)


def queries(labels, count):
    """Positions of `count` examples: the first of each class, then the second of each, ..."""
    rank = np.zeros(len(labels), int)
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    order = np.lexsort((labels, rank))
    classes = len(np.unique(labels))
    if count < classes:  # Spread them over the classes.
        return order[data.spread(classes, count)]
    return order[:count]


def draw(path, called, reduced, neighbours, images, labels, classes, config, title):
    """Draws the two maps, and rows of a query and its neighbours, green for those of its class."""
    some = data.spread(len(labels), config.drawn)
    plots.embeddings({f'PCA, {100 * sum(reduced.variance):.0f} % of the variance':
                      cells(reduced.pca[some]),
                      f't-SNE, perplexity {config.perplexity:g}': cells(reduced.tsne[some])},
                     images[some], labels[some], classes, path.with_name(f'{path.name}.png'), title)
    rows = []
    for query in queries(labels, config.queries):
        row = [(f'{classes[labels[query]]}\nquery', images[query], 'black')]
        for distance, i in zip(*(array[query] for array in neighbours), strict=True):
            color = 'tab:green' if labels[i] == labels[query] else 'tab:red'
            row.append((f'{classes[labels[i]]}\ndistance {distance:.3g}', images[i], color))
        rows.append(row)
    plots.gallery(rows, path.with_name(f'{path.name}-neighbours.png'),
                  title=f'{title}: nearest neighbours',
                  note=f'distance: {config.metric}, between the codes ({called}) of two images, '
                       f'of {len(labels):,} in all. Green: the class of the query; red: another.')
