"""What an image is optimized for: objective(taps, aux) -> {term: value}; their sum is minimised.

    objective = channel('relu4_2') + 0.1 * dream('relu5_1')

`taps` holds the activations of one image, {name: [h, w, C] or [C]}; for `each` and `diversity`
those of a stack of images, {name: [K, h, w, C] or [K, C]}. `aux` holds the objective's arrays,
which are arguments of the compiled program: the index of a unit, so that one compilation serves all
units of a layer, and targets made from other images:

    unit       int, the channel of `channel`, `neuron` and `logit`
    direction  [C], of `direction`
    guide      {layer: [positions, C]}, the codes of the guide of `dream`
    style      {layer: the `moments` of the style}
    scale      {layer: what `relative` divides activations by}
    maps       {layer: {name: [h, w, ...]}}, what belongs to positions of the layer: 'content' and
               'code', the activations to come near to, 'regions', the masks of a style's parts

Most objectives are functions of sums over positions, which tiles.py adds up tile by tile. Those of
style transfer are in neural_style.py.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from cnnjax.errors import UserError, suggest


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """objective(taps, aux) -> {term: value}, by way of statistics; sums and multiples are too."""

    layers: tuple[str, ...]  # the taps it looks at
    # (taps, aux, masks) -> a tree of sums over the positions of the layers; masks: None or
    # {layer: [h, w]}, the weights of the positions.
    statistics: Callable[[Any, Any, Any], Any]
    loss: Callable[[Any, Any], dict[str, Any]]  # (statistics, aux) -> {term: value}
    tileable: bool = True  # whether the statistics are sums over positions

    def __call__(self, taps: Mapping[str, Any],
                 aux: Mapping[str, Any] | None = None) -> dict[str, Any]:
        missing(self.layers, taps)
        aux = aux or {}
        fitting(self.layers, taps, aux)
        return self.loss(self.statistics(taps, aux, None), aux)

    def __add__(self, other: 'Objective') -> 'Objective':
        def statistics(taps, aux, masks):
            return (self.statistics(taps, aux, masks), other.statistics(taps, aux, masks))

        def loss(statistics, aux):
            terms = self.loss(statistics[0], aux)
            for term, value in other.loss(statistics[1], aux).items():
                terms[term] = terms[term] + value if term in terms else value
            return terms

        layers = tuple(dict.fromkeys(self.layers + other.layers))
        return Objective(layers, statistics, loss, self.tileable and other.tileable)

    def __mul__(self, weight: ArrayLike) -> 'Objective':
        def loss(statistics, aux):
            return {term: weight * value for term, value in self.loss(statistics, aux).items()}
        return dataclasses.replace(self, loss=loss)

    __rmul__ = __mul__


def missing(layers: Iterable[str], taps: Collection[str]) -> None:
    """Raises UserError if one of `layers` is not among `taps`."""
    for layer in layers:
        if layer not in taps:
            raise UserError(
                f"layer '{layer}' is not in the network at this size of image: it has "
                f'{", ".join(taps)} (full layers exist at the size of training only)'
                f'{suggest(layer, taps)}')


def select(layer: str, channels: Sequence[int], maps: jax.Array) -> jax.Array:
    """These channels of a layer's maps [..., C]; () are all.

    Raises UserError for one that the layer does not have.
    """
    if not channels:
        return maps
    if not 0 <= min(channels) <= max(channels) < maps.shape[-1]:
        raise UserError(f"channels={tuple(channels)}: '{layer}' has the channels 0 to "
                        f'{maps.shape[-1] - 1}')
    return maps[..., np.asarray(channels)]


def fitting(layers: Iterable[str], taps: Mapping[str, Any], aux: Mapping[str, Any]) -> None:
    """Raises UserError if an array of aux['maps'] has other positions than its layer in `taps`."""
    for layer in layers:
        for name, target in aux.get('maps', {}).get(layer, {}).items():
            if np.shape(maps_of(target))[:2] != np.shape(maps_of(taps[layer]))[:2]:
                raise UserError(f"aux['maps']['{layer}']['{name}'] is {list(target.shape)}, the "
                                f'activations are {list(taps[layer].shape)}: make it from an image '
                                'of the size of the optimized one')


def maps_of(tap: jax.Array) -> jax.Array:
    """[h, w, C]; a layer without positions has one."""
    return tap if tap.ndim == 3 else tap[None, None]


def sum_of(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The sum over positions of values [h, w, ...], weighted by a mask [h, w]."""
    if mask is None:
        return values.sum((0, 1))
    return jnp.einsum('hw,hw...->...', mask.astype(values.dtype), values)


def absolute(x: jax.Array) -> jax.Array:
    """|x| with gradient 0 at 0, where jnp.abs has 1."""
    return jnp.where(x == 0, 0, jnp.abs(x))


def mask_of(masks: Mapping[str, jax.Array] | None, layer: str) -> jax.Array | None:
    """The weights [h, w] of a layer's positions; None: all are 1."""
    return None if masks is None else masks[layer]


def count_of(maps: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The number of positions of maps [h, w, C], or their weight."""
    return jnp.asarray(maps.shape[0] * maps.shape[1] if mask is None else mask.sum(), maps.dtype)


def _mean(term, layer, values):
    """The objective that maximises the mean over positions of values(tap [h, w, C], aux)."""
    def statistics(taps, aux, masks):
        maps, mask = maps_of(taps[layer]), mask_of(masks, layer)
        return sum_of(values(maps, aux), mask), count_of(maps, mask)

    def loss(statistics, aux):
        total, count = statistics
        return {term: -total / count}

    return Objective((layer,), statistics, loss)


def channel(layer: str) -> Objective:
    """Maximises the mean of channel aux['unit'] (Olah et al. 2017,
    https://distill.pub/2017/feature-visualization); of a full layer, the unit."""
    return _mean('channel', layer, lambda maps, aux: jnp.take(maps, aux['unit'], -1))


def logit(layer: str) -> Objective:
    """Maximises the score aux['unit'] of a class before softmax (Simonyan et al. 2013, eq. 1,
    https://arxiv.org/abs/1312.6034): `channel` of the last layer."""
    return channel(layer)


def neuron(layer: str, position: tuple[int, int] | None = None) -> Objective:
    """Maximises unit aux['unit'] at one position, (row, column); default: the middle one."""
    def statistics(taps, aux, masks):
        maps = maps_of(taps[layer])
        row, column = position or (maps.shape[0] // 2, maps.shape[1] // 2)
        if not (0 <= row < maps.shape[0] and 0 <= column < maps.shape[1]):
            raise UserError(f"position={position}: layer '{layer}' has {maps.shape[:2]} positions")
        return jnp.take(maps[row, column], aux['unit'])

    return Objective((layer,), statistics, lambda value, aux: {'neuron': -value}, tileable=False)


def peaks(layer: str, sign: int = 1) -> Objective:
    """Maximises `sign` times a mean of channel aux['unit'] over positions, in which the better ones
    count more, by softmax(sign a / deviation of a); gradients do not go through the weights.
    `channel` leaves the best place as it is where others would lose more, `neuron` leaves most of
    the image as it is."""
    def statistics(taps, aux, masks):
        values = sign * jnp.take(maps_of(taps[layer]), aux['unit'], -1)
        fixed = lax.stop_gradient(values)
        weights = jax.nn.softmax(fixed / (fixed.std() + 1e-6), (0, 1))
        return (weights * values).sum()

    return Objective((layer,), statistics, lambda value, aux: {'peaks': -value}, tileable=False)


def direction(layer: str, cosine_power: float = 0.0) -> Objective:
    """Maximises the mean of <a, d> max(0.1, cos(a, d))^cosine_power, with d = aux['direction']
    (lucid's `direction`, https://github.com/tensorflow/lucid).

    The sum of two units' axes is their joint optimization, weighted sums lead from one unit to the
    other (Olah et al. 2017, section 'The Space of Neurons',
    https://distill.pub/2017/feature-visualization). The activation vector of a place in a
    photograph is a cell of its activation grid (Olah et al. 2018,
    https://distill.pub/2018/building-blocks); the mean of such vectors, whitened, one of an
    activation atlas (Carter et al. 2019, https://distill.pub/2019/activation-atlas).
    """
    def values(maps, aux):
        dot = maps @ aux['direction']
        if not cosine_power:
            return dot
        lengths = jnp.sqrt(1e-12 + (maps**2).sum(-1)) * jnp.linalg.norm(aux['direction'])
        cosine = dot / lengths  # the gradient of jnp.maximum would ask which of the two it equals
        return dot * jnp.where(cosine < 0.1, 0.1, cosine) ** cosine_power
    return _mean('direction', layer, values)


def each(objective: Objective) -> Objective:
    """The mean of an objective over a stack of images, of which all taps [K, ...] are; `aux` is the
    same for all. (`parametrizations.stack` makes such stacks.)"""
    def statistics(taps, aux, masks):
        own = {layer: taps[layer] for layer in objective.layers}
        return jax.vmap(lambda taps: objective.statistics(taps, aux, None))(own)

    def loss(statistics, aux):
        terms = jax.vmap(lambda one: objective.loss(one, aux))(statistics)
        return {term: value.mean() for term, value in terms.items()}

    return Objective(objective.layers, statistics, loss, tileable=False)


def diversity(layer: str) -> Objective:
    """Minimises how alike the textures of the K images of a stack are: the sum of the cosines
    between the Gram matrices of image i and of the other images j, averaged over i; from 0 to
    K - 1 (Olah et al. 2017, section 'Diversity', https://distill.pub/2017/feature-visualization;
    lucid's `diversity`)."""
    return Objective((layer,), lambda taps, aux, masks: _grams(taps[layer]),
                     lambda grams, aux: {'diversity': _likeness(grams, grams).mean()},
                     tileable=False)


def diverse(objective: Objective, layer: str, weight: float) -> Objective:
    """`each` of an objective with values below 0, for K images that differ: that of an image counts
    1 - weight * (the mean cosine between its Gram matrix of `layer` and those of the others) times.
    With `peaks` it shows several facets of one unit.

    In a sum with `diversity`, as in lucid, an image in which the unit is dead has the gradient of
    the other term alone; Adam makes full steps of it, however small, and the unit stays dead. Here
    such an image waits until a random transform awakens the unit.
    """
    def statistics(taps, aux, masks):
        return each(objective).statistics(taps, aux, None), _grams(taps[layer])

    def loss(statistics, aux):
        found, grams = statistics
        # An image moves away from the others, not the others from it.
        alike = _likeness(grams, lax.stop_gradient(grams)) / (len(grams) - 1)
        terms = jax.vmap(lambda one: objective.loss(one, aux))(found)
        return {term: ((1 - weight * alike) * value).mean() for term, value in terms.items()}

    return Objective(tuple(dict.fromkeys((*objective.layers, layer))), statistics, loss,
                     tileable=False)


def _grams(tap):
    """The Gram matrices of K images, each as a vector of length 1, [K, C * C]."""
    maps = jnp.stack([maps_of(one).reshape(-1, one.shape[-1]) for one in tap])
    grams = jnp.einsum('kpc,kpd->kcd', maps, maps).reshape(len(maps), -1)
    # A gram of 0 has no direction; without the small number its gradient would be nan.
    return grams / jnp.sqrt((grams**2).sum(-1, keepdims=True) + 1e-10)


def _likeness(grams, others):
    """[K]: the sums of the cosines between each Gram matrix and those of the other images."""
    alike = grams @ others.T
    return alike.sum(-1) - jnp.diagonal(alike)


def dream(layer: str, kind: str = 'l2', channels: Sequence[int] = ()) -> Objective:
    """Activates further what is active (Mordvintsev et al. 2015,
    https://github.com/google/deepdream).

    `kind`: 'l2' maximises half the sum of squares, whose gradient is the activation itself; 'log'
    the logarithm of the mean square, so that in a sum of layers each counts alike, whatever its
    scale and size; 'mean' the mean; 'guided' the sum over positions of the best match
    max_q <a_p, y_q> with the codes y = aux['guide'][layer]. `channels`: only these; () are all.
    """
    own = functools.partial(select, layer, channels)

    if kind == 'mean':
        return _mean('dream', layer, lambda maps, aux: own(maps).mean(-1))

    def l2(maps, aux):
        return (own(maps) ** 2).sum(-1) / 2

    def log(maps, aux):
        return (own(maps) ** 2).mean(-1)

    def guided(maps, aux):
        maps, guide = own(maps), own(aux['guide'][layer])
        return (maps * jnp.take(guide, (maps @ guide.T).argmax(-1), axis=0)).sum(-1)

    kinds = {'l2': l2, 'log': log, 'guided': guided}
    if kind not in kinds:
        raise UserError("the kind of a dream is 'l2', 'log', 'mean' or 'guided', not "
                        f"'{kind}'")

    def statistics(taps, aux, masks):
        maps, mask = maps_of(taps[layer]), mask_of(masks, layer)
        return sum_of(kinds[kind](maps, aux), mask), count_of(maps, mask)

    def loss(statistics, aux):
        total, count = statistics
        if kind == 'log':
            total = jnp.log(jnp.maximum(total / count, jnp.finfo(total.dtype).tiny))
        return {'dream': -total}

    return Objective((layer,), statistics, loss)


def match(layer: str, kind: str = 'l2', term: str = 'match',
          channels: Sequence[int] = ()) -> Objective:
    """Comes near to the code aux['maps'][layer]['code'] (Mahendran & Vedaldi 2015, eq. 2,
    https://arxiv.org/abs/1412.0035).

    `kind`: 'l2' |a - code|^2 / |code|^2, 'l1' the same of absolute values, 'inner' the negative
    inner product -<a, code> / |code|^2. `channels`: only these, which are then all that the code
    has; () are all.
    """
    values = {'l2': lambda maps, code: ((maps - code) ** 2, code**2),
              'l1': lambda maps, code: (absolute(maps - code), jnp.abs(code)),
              'inner': lambda maps, code: (-maps * code, code**2)}
    if kind not in values:
        raise UserError(f"a code is matched by {', '.join(values)}, not '{kind}'")

    def statistics(taps, aux, masks):
        code = maps_of(aux['maps'][layer]['code'])
        maps = select(layer, channels, maps_of(taps[layer]))
        return [sum_of(value.sum(-1), mask_of(masks, layer))
                for value in values[kind](maps, code)]

    def loss(statistics, aux):
        distance, norm = statistics
        return {term: distance / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)}

    return Objective((layer,), statistics, loss)


def relative(objective: Objective) -> Objective:
    """The objective on activations divided by aux['scale'][layer]: with their means, the weights of
    the terms mean the same in every network (Gatys et al. 2016, section 2, scale VGG's weights so
    that its activations have mean 1). Targets are those of divided activations, too."""
    def statistics(taps, aux, masks):
        taps = {layer: taps[layer] / aux['scale'][layer] for layer in objective.layers}
        return objective.statistics(taps, aux, masks)
    return dataclasses.replace(objective, statistics=statistics)
