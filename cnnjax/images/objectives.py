"""What an image is optimized for: objective(taps, aux) -> {term: value}; their sum is minimised.

    objective = 5 * content(['relu4_2']) + 100 * style(['relu1_1', 'relu2_1'], 'neural-style')

`taps` holds the activations of one image, {name: [h, w, C] or [C]}; `aux` the objective's arrays,
which are arguments of the compiled program: the index of a unit, so that one compilation serves all
units of a layer, and targets made from other images:

    unit       int, the channel of `channel`, `neuron` and `logit`
    direction  [C], of `direction`
    guide      {layer: [positions, C]}, the codes of the guide of `dream`
    style      {layer: the `moments` of the style}
    scale      {layer: what `relative` divides activations by}
    maps       {layer: {name: [h, w, ...]}}, what belongs to positions of the layer: 'content' and
               'code', the activations to come near to, 'regions', the masks of a style's parts

Most objectives are functions of sums over positions, which tiles.py adds up tile by tile.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError, suggest


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """objective(taps, aux) -> {term: value}, by way of statistics; sums and multiples are too."""

    layers: tuple[str, ...]  # the taps it looks at
    # (taps, aux, masks) -> a tree of sums over the positions of the layers; masks: None or
    # {layer: [h, w]}, the weights of the positions.
    statistics: Callable[[Any, Any, Any], Any]
    loss: Callable[[Any, Any], dict[str, jax.Array]]  # (statistics, aux) -> {term: value}
    tileable: bool = True  # whether the statistics are sums over positions

    def __call__(self, taps, aux=None):
        missing(self.layers, taps)
        aux = aux or {}
        fitting(self.layers, taps, aux)
        return self.loss(self.statistics(taps, aux, None), aux)

    def __add__(self, other):
        def statistics(taps, aux, masks):
            return (self.statistics(taps, aux, masks), other.statistics(taps, aux, masks))

        def loss(statistics, aux):
            terms = self.loss(statistics[0], aux)
            for term, value in other.loss(statistics[1], aux).items():
                terms[term] = terms[term] + value if term in terms else value
            return terms

        layers = tuple(dict.fromkeys(self.layers + other.layers))
        return Objective(layers, statistics, loss, self.tileable and other.tileable)

    def __mul__(self, weight):
        def loss(statistics, aux):
            return {term: weight * value for term, value in self.loss(statistics, aux).items()}
        return dataclasses.replace(self, loss=loss)

    __rmul__ = __mul__


def missing(layers, taps):
    """Raises UserError if one of `layers` is not among `taps`."""
    for layer in layers:
        if layer not in taps:
            raise UserError(
                f"layer '{layer}' is not in the network at this size of image: it has "
                f'{", ".join(taps)} (full layers exist at the size of training only)'
                f'{suggest(layer, taps)}')


def select(layer, channels, maps):
    """These channels of a layer's maps [..., C]; () are all.

    Raises UserError for one that the layer does not have.
    """
    if not channels:
        return maps
    if not 0 <= min(channels) <= max(channels) < maps.shape[-1]:
        raise UserError(f"channels={tuple(channels)}: '{layer}' has the channels 0 to "
                        f'{maps.shape[-1] - 1}')
    return maps[..., np.asarray(channels)]


def fitting(layers, taps, aux):
    """Raises UserError if an array of aux['maps'] has other positions than its layer in `taps`."""
    for layer in layers:
        for name, target in aux.get('maps', {}).get(layer, {}).items():
            if np.shape(_maps(target))[:2] != np.shape(_maps(taps[layer]))[:2]:
                raise UserError(f"aux['maps']['{layer}']['{name}'] is {list(target.shape)}, the "
                                f'activations are {list(taps[layer].shape)}: make it from an image '
                                'of the size of the optimized one')


def _maps(tap):
    """[h, w, C]; a layer without positions has one."""
    return tap if tap.ndim == 3 else tap[None, None]


def _sum(values, mask):
    """The sum over positions of values [h, w, ...]."""
    if mask is None:
        return values.sum((0, 1))
    return jnp.einsum('hw,hw...->...', mask.astype(values.dtype), values)


def _absolute(x):
    """|x| with gradient 0 at 0, where jnp.abs has 1."""
    return jnp.where(x == 0, 0, jnp.abs(x))


def _mask(masks, layer):
    return None if masks is None else masks[layer]


def _count(maps, mask):
    return jnp.asarray(maps.shape[0] * maps.shape[1] if mask is None else mask.sum(), maps.dtype)


def _mean(term, layer, values):
    """The objective that maximises the mean over positions of values(tap [h, w, C], aux)."""
    def statistics(taps, aux, masks):
        maps, mask = _maps(taps[layer]), _mask(masks, layer)
        return _sum(values(maps, aux), mask), _count(maps, mask)

    def loss(statistics, aux):
        total, count = statistics
        return {term: -total / count}

    return Objective((layer,), statistics, loss)


def channel(layer):
    """Maximises the mean of channel aux['unit'] (Olah et al. 2017,
    https://distill.pub/2017/feature-visualization); of a full layer, the unit."""
    return _mean('channel', layer, lambda maps, aux: jnp.take(maps, aux['unit'], -1))


def logit(layer):
    """Maximises the score aux['unit'] of a class before softmax (Simonyan et al. 2013, eq. 1,
    https://arxiv.org/abs/1312.6034): `channel` of the last layer."""
    return channel(layer)


def neuron(layer, position=None):
    """Maximises unit aux['unit'] at one position, (row, column); default: the middle one."""
    def statistics(taps, aux, masks):
        maps = _maps(taps[layer])
        row, column = position or (maps.shape[0] // 2, maps.shape[1] // 2)
        if not (0 <= row < maps.shape[0] and 0 <= column < maps.shape[1]):
            raise UserError(f"position={position}: layer '{layer}' has {maps.shape[:2]} positions")
        return jnp.take(maps[row, column], aux['unit'])

    return Objective((layer,), statistics, lambda value, aux: {'neuron': -value}, tileable=False)


def direction(layer, cosine_power=0.0):
    """Maximises the mean of <a, d> max(0.1, cos(a, d))^cosine_power, with d = aux['direction']
    (lucid's `direction`, https://github.com/tensorflow/lucid)."""
    def values(maps, aux):
        dot = maps @ aux['direction']
        if not cosine_power:
            return dot
        lengths = jnp.sqrt(1e-12 + (maps**2).sum(-1)) * jnp.linalg.norm(aux['direction'])
        cosine = dot / lengths  # the gradient of jnp.maximum would ask which of the two it equals
        return dot * jnp.where(cosine < 0.1, 0.1, cosine) ** cosine_power
    return _mean('direction', layer, values)


def dream(layer, kind='l2', channels=()):
    """Activates further what is active (Mordvintsev et al. 2015,
    https://github.com/google/deepdream).

    `kind`: 'l2' maximises half the sum of squares, whose gradient is the activation itself; 'mean'
    the mean; 'guided' the sum over positions of the best match max_q <a_p, y_q> with the codes
    y = aux['guide'][layer]. `channels`: only these; () are all.
    """
    own = functools.partial(select, layer, channels)

    if kind == 'mean':
        return _mean('dream', layer, lambda maps, aux: own(maps).mean(-1))

    def l2(maps, aux):
        return (own(maps) ** 2).sum(-1) / 2

    def guided(maps, aux):
        maps, guide = own(maps), own(aux['guide'][layer])
        return (maps * jnp.take(guide, (maps @ guide.T).argmax(-1), axis=0)).sum(-1)

    if kind not in ('l2', 'guided'):
        raise UserError(f"the kind of a dream is 'l2', 'mean' or 'guided', not '{kind}'")
    values = l2 if kind == 'l2' else guided

    def statistics(taps, aux, masks):
        return _sum(values(_maps(taps[layer]), aux), _mask(masks, layer))

    return Objective((layer,), statistics, lambda total, aux: {'dream': -total})


def match(layer, kind='l2', term='match', channels=()):
    """Comes near to the code aux['maps'][layer]['code'] (Mahendran & Vedaldi 2015, eq. 2,
    https://arxiv.org/abs/1412.0035).

    `kind`: 'l2' |a - code|^2 / |code|^2, 'l1' the same of absolute values, 'inner' the negative
    inner product -<a, code> / |code|^2. `channels`: only these, which are then all that the code
    has; () are all.
    """
    values = {'l2': lambda maps, code: ((maps - code) ** 2, code**2),
              'l1': lambda maps, code: (_absolute(maps - code), jnp.abs(code)),
              'inner': lambda maps, code: (-maps * code, code**2)}
    if kind not in values:
        raise UserError(f"a code is matched by {', '.join(values)}, not '{kind}'")

    def statistics(taps, aux, masks):
        code, maps = _maps(aux['maps'][layer]['code']), select(layer, channels, _maps(taps[layer]))
        return [_sum(value.sum(-1), _mask(masks, layer)) for value in values[kind](maps, code)]

    def loss(statistics, aux):
        distance, norm = statistics
        return {term: distance / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)}

    return Objective((layer,), statistics, loss)


# What the sum of squares s (and of absolute values a) of n differences becomes.
CONTENT = {
    'gatys2016': lambda s, a, n: s / 2,  # equation 1; also lecture notes 1 and 4
    'mean': lambda s, a, n: s / n,  # neural-style, neural-style-pt, TensorFlow's tutorial ...
    'scaled': lambda s, a, n: s / (a + 1e-8),  # crowsonkb's former loss: its gradient is of size 1
    'distance': lambda s, a, n: jnp.sqrt(jnp.where(s < 1e-24, 1e-24, s)),  # lecture note 2
    'half_distance': lambda s, a, n: jnp.sqrt(jnp.where(s < 1e-24, 1e-24, s)) / 2,  # note 3's
}


def content(layers, weights=None, convention='mean'):
    """The distance of activations from aux['maps'][layer]['content'], in the form of CONTENT;
    Gatys et al. 2016, equation 1 (https://doi.org/10.1109/CVPR.2016.265)."""
    weights = _weights(layers, weights)
    _known('content', convention, CONTENT)

    def statistics(taps, aux, masks):
        found = {}
        for layer in layers:
            maps, mask = _maps(taps[layer]), _mask(masks, layer)
            difference = maps - _maps(aux['maps'][layer]['content'])
            found[layer] = [_sum((difference**2).sum(-1), mask),
                            _sum(_absolute(difference).sum(-1), mask),
                            _count(maps, mask) * maps.shape[-1]]
        return found

    def loss(statistics, aux):
        return {'content': sum(weight * CONTENT[convention](*statistics[layer])
                               for layer, weight in weights.items())}

    return Objective(tuple(layers), statistics, loss)


# What becomes of the differences D [C, C] between two Gram matrices divided by their m positions,
# for C channels. In the papers' terms: N = C, M = m.
GRAM = {
    'gatys2016': lambda d, c, m: (d**2).mean() / 4,  # equation 4; also lecture note 1
    'neural-style': lambda d, c, m: (d**2).mean() / c**2,  # Gram / (C m), mean; and -pt
    'anishathalye': lambda d, c, m: (d**2).mean() / c**2,
    'gatys-notebook': lambda d, c, m: (d**2).mean() / c**2,  # the weights 1000 / C^2
    'gordicaleksa': lambda d, c, m: (d**2).mean(),  # Gram / (C m), sum
    'tensorflow': lambda d, c, m: (d**2).mean(),  # the tutorial
    'note3': lambda d, c, m: (d**2).mean(),
    'note4': lambda d, c, m: (d**2).mean() * c * m / 2,  # its first form: / 2 H W C
    'scaled': lambda d, c, m: (d**2).sum() / (_absolute(d).sum() + 1e-8),  # crowsonkb's former loss
}
WASSERSTEIN = 'wasserstein'  # crowsonkb's


def style(layers, weights=None, convention='gatys2016'):
    """The distance of the statistics of activations from those of a style, aux['style'][layer].

    `convention`: a name of GRAM, or 'wasserstein': the squared 2-Wasserstein distance between
    normal distributions of the activations' mean and covariance, over C, as
    https://github.com/crowsonkb/style-transfer-pytorch has it. With 'regions' [h, w, regions] in
    aux['maps'][layer], every region has its own style (Gatys et al. 2017, section 4,
    https://arxiv.org/abs/1611.07865), weighted by its share of the image.
    """
    weights = _weights(layers, weights)
    _known('style', convention, (*GRAM, WASSERSTEIN))

    def loss(statistics, aux):
        total = 0.0
        for layer, weight in weights.items():
            count, target = statistics[layer][0], aux['style'][layer]
            mean, second = _per_position(*statistics[layer])
            if convention == WASSERSTEIN:
                distances = jax.vmap(_wasserstein)(mean, second, target['mean'],
                                                   target['second'])
            else:
                distances = jax.vmap(GRAM[convention], in_axes=(0, None, 0))(
                    second - target['second'], mean.shape[-1], count)
            total += weight * (distances * count).sum() / count.sum()
        return {'style': total}

    return Objective(tuple(layers), moments(layers).statistics, loss)


def moments(layers):
    """What `style` compares, as an objective without loss: of a style image it makes the target
    aux['style'], {layer: {'mean': [R, C], 'second': [R, C, C]}}, the first two moments of the
    activations in each of its R regions (one without 'regions'). Those of several styles may be
    averaged."""
    def statistics(taps, aux, masks):
        return {layer: _moments(_maps(taps[layer]),
                                aux.get('maps', {}).get(layer, {}).get('regions'),
                                _mask(masks, layer)) for layer in layers}

    def loss(statistics, aux):
        return {layer: dict(zip(('mean', 'second'), _per_position(*sums), strict=True))
                for layer, sums in statistics.items()}

    return Objective(tuple(layers), statistics, loss)


def _per_position(count, sums, products):
    count = jnp.maximum(count, 1e-6)[:, None]  # a region may be empty
    return sums / count, products / count[..., None]


def _moments(maps, regions, mask):
    """([R] weights, [R, C] sums, [R, C, C] sums of products) over the R regions' positions."""
    if regions is None and mask is None:
        rows = maps.reshape(-1, maps.shape[-1])
        return (jnp.full((1,), len(rows), maps.dtype), rows.sum(0)[None], (rows.T @ rows)[None])
    if regions is None:
        regions = jnp.ones((*maps.shape[:2], 1), maps.dtype)
    if mask is not None:
        regions = regions * mask.astype(maps.dtype)[..., None]
    return (regions.sum((0, 1)), jnp.einsum('hwr,hwc->rc', regions, maps),
            jnp.einsum('hwr,hwc,hwd->rcd', regions, maps, maps))


def _wasserstein(mean, second, target_mean, target_second):
    """|m - n|^2 + trace(S + T - 2 (T^1/2 S T^1/2)^1/2), over C."""
    ridge = 1e-4 * jnp.eye(len(mean), dtype=mean.dtype)
    covariance = second - jnp.outer(mean, mean) + ridge
    target = target_second - jnp.outer(target_mean, target_mean) + ridge
    root = _square_root(target)
    both = _square_root(root @ covariance @ root)
    return ((mean - target_mean) ** 2).mean() + jnp.diag(covariance + target - 2 * both).mean()


def _square_root(matrix, iterations=12):
    """Of a positive definite matrix, by the iteration of Newton and Schulz (Higham 2008, eq. 6.35),
    whose gradient is finite where eigenvalues coincide."""
    norm = jnp.linalg.norm(matrix)
    identity = jnp.eye(len(matrix), dtype=matrix.dtype)
    root, inverse = matrix / norm, identity
    for _ in range(iterations):
        step = (3 * identity - inverse @ root) / 2
        root, inverse = root @ step, step @ inverse
    return root * jnp.sqrt(norm)


def relative(objective):
    """The objective on activations divided by aux['scale'][layer]: with their means, the weights of
    the terms mean the same in every network (Gatys et al. 2016, section 2, scale VGG's weights so
    that its activations have mean 1). Targets are those of divided activations, too."""
    def statistics(taps, aux, masks):
        taps = {layer: taps[layer] / aux['scale'][layer] for layer in objective.layers}
        return objective.statistics(taps, aux, masks)
    return dataclasses.replace(objective, statistics=statistics)


def _weights(layers, weights):
    """{layer: weight}; None: their mean."""
    if not layers:
        raise UserError('an objective needs at least one layer')
    weights = weights or [1 / len(layers)] * len(layers)
    if len(weights) != len(layers):
        raise UserError(f'{len(weights)} weights for {len(layers)} layers: {", ".join(layers)}')
    return dict(zip(layers, weights, strict=True))


def _known(kind, convention, conventions):
    if convention not in conventions:
        raise UserError(f"a {kind} has the conventions {', '.join(conventions)}, not "
                        f"'{convention}'")
