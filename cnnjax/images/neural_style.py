"""The objectives of style transfer, in the conventions of the systems that users know.

    objective = 5 * content(['relu4_2']) + 100 * style(['relu1_1', 'relu2_1'], None, 'neural-style')

objectives.py says what `aux` holds.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError
from cnnjax.images.objectives import Objective, absolute, count_of, maps_of, mask_of, sum_of
from cnnjax.limits import names

# What the sum of squares s (and of absolute values a) of n differences becomes.
CONTENT = {
    'gatys2016': lambda s, a, n: s / 2,  # equation 1; also lecture notes 1 and 4
    'mean': lambda s, a, n: s / n,  # neural-style, neural-style-pt, TensorFlow's tutorial ...
    'scaled': lambda s, a, n: s / (a + 1e-8),  # crowsonkb's former loss: its gradient is of size 1
    'distance': lambda s, a, n: jnp.sqrt(jnp.where(s < 1e-24, 1e-24, s)),  # lecture note 2
    'half_distance': lambda s, a, n: jnp.sqrt(jnp.where(s < 1e-24, 1e-24, s)) / 2,  # note 3's
}


def content(layers: Sequence[str], weights: Sequence[float] | None = None,
            convention: str = 'mean') -> Objective:
    """The distance of activations from aux['maps'][layer]['content'], in the form of CONTENT;
    Gatys et al. 2016, equation 1 (https://doi.org/10.1109/CVPR.2016.265)."""
    shares = _weights(layers, weights)
    _known('content', convention, CONTENT)

    def statistics(taps, aux, masks):
        found = {}
        for layer in layers:
            maps, mask = maps_of(taps[layer]), mask_of(masks, layer)
            difference = maps - maps_of(aux['maps'][layer]['content'])
            found[layer] = [sum_of((difference**2).sum(-1), mask),
                            sum_of(absolute(difference).sum(-1), mask),
                            count_of(maps, mask) * maps.shape[-1]]
        return found

    def loss(statistics, aux):
        return {'content': sum(weight * CONTENT[convention](*statistics[layer])
                               for layer, weight in shares.items())}

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
    'scaled': lambda d, c, m: (d**2).sum() / (absolute(d).sum() + 1e-8),  # crowsonkb's former loss
}
WASSERSTEIN = 'wasserstein'  # crowsonkb's


def style(layers: Sequence[str], weights: Sequence[float] | None = None,
          convention: str = 'gatys2016') -> Objective:
    """The distance of the statistics of activations from those of a style, aux['style'][layer].

    `convention`: a name of GRAM, or 'wasserstein': the squared 2-Wasserstein distance between
    normal distributions of the activations' mean and covariance, over C, as
    https://github.com/crowsonkb/style-transfer-pytorch has it. With 'regions' [h, w, regions] in
    aux['maps'][layer], every region has its own style (Gatys et al. 2017, section 4,
    https://arxiv.org/abs/1611.07865), weighted by its share of the image.
    """
    shares = _weights(layers, weights)
    _known('style', convention, (*GRAM, WASSERSTEIN))

    def loss(statistics, aux):
        total = 0.0
        for layer, weight in shares.items():
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


def moments(layers: Sequence[str]) -> Objective:
    """What `style` compares, as an objective without loss: of a style image it makes the target
    aux['style'], {layer: {'mean': [R, C], 'second': [R, C, C]}}, the first two moments of the
    activations in each of its R regions (one without 'regions'). Those of several styles may be
    averaged."""
    def statistics(taps, aux, masks):
        return {layer: _moments(maps_of(taps[layer]),
                                aux.get('maps', {}).get(layer, {}).get('regions'),
                                mask_of(masks, layer)) for layer in layers}

    def loss(statistics, aux):
        return {layer: dict(zip(('mean', 'second'), _per_position(*sums), strict=True))
                for layer, sums in statistics.items()}

    return Objective(tuple(layers), statistics, loss)


def mixed(found: Sequence[Any], shares: Sequence[float] = ()) -> Any:
    """The weighted mean of the moments of several styles; shares () are equal."""
    weights = np.asarray(shares or [1] * len(found), np.float32)
    weights = weights / weights.sum()
    return jax.tree.map(lambda *each: sum(weight * one for weight, one in
                                          zip(weights, each, strict=True)), *found)


def scales(found: Mapping[str, Any]) -> dict[str, jax.Array]:
    """{layer: the mean activation} of styles with these moments, the aux['scale'] of
    objectives.relative.

    Raises:
      UserError: a layer is 0 on all of them.
    """
    return _positive({layer: jnp.abs(own['mean']).mean() for layer, own in found.items()})


# VGG-19 with Caffe's weights: the width of each group of layers, and the root mean square of the
# style's Gram matrix / C in its first layer; then that of the content's activations. They follow
# from the losses of the first step, where the image is gray and its own activations hardly count:
# https://github.com/ProGamerGov/neural-style-pt/blob/master/INSTALL.md shows these losses.
GROUPS = {'1': (64, 17.29), '2': (128, 81.12), '3': (256, 38.12), '4': (512, 336.9),
          '5': (512, 2.374)}
CONTENT_SIZE = {'relu4_2': 568.5}


def scales_of_vgg19(found: Mapping[str, Any], style_layers: Sequence[str]) -> dict[str, jax.Array]:
    """{layer: what activations with these moments are divided by to be as large as those of VGG-19
    with Caffe's weights}, for layers with names of VGG's. So the terms of a loss for these weights
    are balanced with other networks, too, although the style grows with the fourth power of the
    activations and the content with their square.

    Raises:
      UserError: a layer is 0 on all styles.
    """
    scale = {}
    for layer, own in found.items():
        if not (group := re.match('relu([1-5])_', layer)):
            continue
        width, gram = GROUPS[group[1]]
        channels = own['second'].shape[-1]
        if layer in style_layers:
            size = jnp.sqrt((own['second'] ** 2).mean()) / channels / gram
        else:
            size = (jnp.trace(own['second'], axis1=1, axis2=2).mean() / channels
                    / CONTENT_SIZE.get(layer, np.sqrt(width * gram)) ** 2)
        scale[layer] = jnp.sqrt(size)
    return _positive(scale)


def divided(own: Mapping[str, jax.Array], scale: jax.Array) -> dict[str, jax.Array]:
    """The moments of a layer whose activations are divided by `scale`."""
    return {'mean': own['mean'] / scale, 'second': own['second'] / scale ** 2}


def _positive(scale: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The scale of layers, or a UserError if one is 0."""
    for layer, size in scale.items():
        if not size > 0:
            raise UserError(f"'{layer}' is 0 on every style: take other layers or styles, or "
                            "activations='own'")
    return scale


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


def weighted(style_layers: str, style_layer_weights: Sequence[float], style_convention: str,
             style_weight: float, content_layers: str, content_weight: float,
             content_layer_weights: Sequence[float] = (),
             content_convention: str = 'mean') -> Objective:
    """The sum of `content` and `style` with their weights; without content layers, the style alone.
    Layers are names with commas between them; weights () are equal."""
    objective = style_weight * style(names(style_layers), style_layer_weights, style_convention)
    if not names(content_layers):
        return objective
    return content_weight * content(names(content_layers), content_layer_weights,
                                    content_convention) + objective


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
