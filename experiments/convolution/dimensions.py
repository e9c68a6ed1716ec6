"""Random vectors in many dimensions: nearly orthogonal, of nearly equal norms and distances.

The angle of two independent vectors of N(0, I), or of two points on a sphere, has a density
proportional to sin^(n - 2), the norm has a chi distribution, and so has the distance / sqrt(2).
"""

import numpy as np
from scipy import special, stats

from cnnjax import plots
from experiments.convolution import slides
from experiments.convolution.checks import Row, equal

RAREST = 1e-6  # Samples that are less likely than this are an error.
CHUNK = 2 ** 22  # numbers drawn at a time


def part(config, figures):
    """The rows of this part; draws dimensions.png."""
    rng = np.random.default_rng(config.seed)
    samples = {n: sample(n, config.pairs, rng) for n in config.dimensions}
    draw(samples, config.pairs, figures / 'dimensions.png')
    at = np.linspace(0.1, np.pi - 0.1, 50)
    return [*(row for n, measured in samples.items() for row in _judged(n, *measured)),
            *(equal(f'density of the angle, n = {n}', density(at, n),
                    stats.beta.pdf((1 + np.cos(at)) / 2, (n - 1) / 2, (n - 1) / 2)
                    * np.sin(at) / 2, 'the beta distribution of (1 + cos) / 2', 1e-8)
              for n in samples)]


def sample(n, pairs, rng):
    """The angles, the norms of the first and the distances of pairs of vectors, [pairs] each."""
    found = []
    for first in range(0, pairs, step := max(1, CHUNK // n)):
        x, y = rng.normal(size=(2, min(step, pairs - first), n))
        norms = np.linalg.norm(x, axis=1)
        cosine = (x * y).sum(1) / norms / np.linalg.norm(y, axis=1)
        found.append((np.arccos(cosine.clip(-1, 1)), norms, np.linalg.norm(x - y, axis=1)))
    return tuple(map(np.concatenate, zip(*found, strict=True)))


def density(angle, n):
    """That of the angle in n dimensions, in radians."""
    constant = special.gammaln(n / 2) - special.gammaln((n - 1) / 2) - np.log(np.pi) / 2
    return np.exp(constant + (n - 2) * np.log(np.sin(angle)))


def ratio(n, pairs, share=0.5):
    """The largest of so many distances by the smallest, from the medians of both; or from the
    largest that a share of samples stays below, and the smallest that it stays above."""
    rare = 1 - share ** (1 / pairs)
    return float(stats.chi.isf(rare, n) / stats.chi.ppf(rare, n))


def _judged(n, angles, norms, distances):
    degrees = np.degrees(angles)
    yield _distributed(f'angle in {n} dimensions, degrees', degrees, stats.kstest(
        (1 + np.cos(angles)) / 2, stats.beta((n - 1) / 2, (n - 1) / 2).cdf))
    yield _distributed(f'norm / √n in {n} dimensions', norms / n ** 0.5,
                       stats.kstest(norms, stats.chi(n).cdf))
    yield _distributed(f'distance / √2n in {n} dimensions', distances / (2 * n) ** 0.5,
                       stats.kstest(distances / 2 ** 0.5, stats.chi(n).cdf),
                       {'largest / smallest': float(distances.max() / distances.min())})


def _distributed(what, values, test, more=()):
    """The row of a sample; raises ArithmeticError if it is too rare in its distribution."""
    if not test.pvalue > RAREST:
        raise ArithmeticError(f'{what}: not distributed as in theory (p = {test.pvalue:.2g})')
    return Row(what, {'mean': float(values.mean()), 'deviation': float(values.std())} | dict(more),
               'distribution function, Kolmogorov-Smirnov', float(test.statistic))


def draw(samples, pairs, path):
    figure, axes = slides.slide('Random vectors in n dimensions')
    slides.say(axes, slides.SIZE[0] / 2, 1.1, f'{pairs} pairs x, y of N(0, I): bars and dots; '
               'theory: lines, as high as each other, and a band that holds most dots', 16)
    left, middle, right = (slides.plot(figure, 0.5 + 4.4 * i, 1.9, 3.75, 4.7) for i in range(3))
    for (n, (angles, norms, distances)), color in zip(samples.items(), _colors(len(samples)),
                                                      strict=True):
        most = density(np.pi / 2, n)
        _draw_sample(left, np.degrees(angles), lambda x, n=n, most=most: density(
            np.radians(x), n) / most, np.degrees(1) / most, color)
        scale, peak = n ** 0.5, stats.chi.pdf((n - 1) ** 0.5, n)
        _draw_sample(middle, norms / scale, lambda x, n=n, scale=scale, peak=peak: stats.chi.pdf(
            x * scale, n) / peak, 1 / scale / peak, color)
        right.plot(n, distances.max() / distances.min(), 'o', color=color, markersize=11,
                   label=f'n = {n}')
    at = np.geomspace(min(samples), max(samples), 50)
    right.plot(at, [ratio(n, pairs) for n in at], color='0.5', zorder=0, label='theory')
    right.fill_between(at, *([ratio(n, pairs, share) for n in at] for share in (0.05, 0.95)),
                       color='0.9', zorder=-1)
    right.axhline(1, color='0.5', linestyle='--', linewidth=1)
    right.set(xscale='log', yscale='log')
    left.set(xlim=(0, 180), xticks=(0, 45, 90, 135, 180))
    middle.set_xlim(0, 2.5)
    for axes, name in ((left, 'angle of x and y, degrees'), (middle, '|x| / √n'), (right, 'n')):
        axes.set_xlabel(name, fontsize=16)
    right.set_title('largest / smallest |x − y|', fontsize=16)
    for axes in (left, middle):
        axes.set(yticks=(), ylim=(0, 1.25))
        axes.spines[['left']].set_visible(False)
    right.legend(frameon=False, fontsize=15)
    plots.save(figure, path)


def _draw_sample(axes, values, theory, unit, color):
    """A histogram beside the density of the theory; `unit` makes its maximum 1."""
    counts, edges = np.histogram(values, 30)
    heights = counts / len(values) / np.diff(edges) * unit
    axes.stairs(heights, edges, fill=True, color=color, alpha=0.35)
    at = np.linspace(edges[0], edges[-1], 200)
    axes.plot(at, theory(at), color=color, linewidth=2)


def _colors(count):
    from matplotlib import colormaps

    return colormaps['viridis'](np.linspace(0, 0.9, count))
