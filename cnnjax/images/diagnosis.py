"""What is wrong with an optimization, in a sentence that says what to do about it."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cnnjax.images import tiles
from cnnjax.trained import Trained


def health(values: Mapping[str, np.ndarray], image: int = 0) -> str:
    """What is wrong with the steps of a report: '' if they are sound.

    `values` {name: [steps, N]} as in `Report`; `image` counts along N.
    """
    for name in ('loss', 'gradient'):
        broken = ~np.isfinite(values[name][:, image])
        if broken.any():
            return f'the {name} is not finite'
    if not values['gradient'][:, image].any():
        return 'the gradient of the objective is exactly 0'
    return ''


def remedy(complaint: str) -> str:
    """What to do about a complaint of `health`, to be written behind it."""
    if 'exactly 0' in complaint:
        return '; take the layer before the ReLU, another seed, or start from another image'
    return '; take a lower learning rate' if 'not finite' in complaint else ''


def verdict(values: Mapping[str, np.ndarray], image: int, before: ArrayLike,
            after: ArrayLike) -> str:
    """What is wrong with all steps of an image, that was `before` and is `after` [H, W, C]."""
    return (health(values, image) or unmoved(before, after)
            or unfallen(values['loss'][:, image]))


def unmoved(before: ArrayLike, after: ArrayLike) -> str:
    """Whether an image has stayed what it was, [H, W, C] in [0, 1]: then a sentence, else ''."""
    if not np.abs(np.asarray(after) - np.asarray(before)).max() * 255 < 1:  # nan: see `health`
        return ''
    return ('the image has not moved: no value has changed by a level of 255; take a higher '
            'learning rate or more steps, or give the terms of the loss other weights: one of '
            'them may hold it where it is')


def unfallen(losses: Sequence[float] | np.ndarray) -> str:
    """Whether the loss [steps] is nowhere in its last quarter below the first: then a sentence,
    else ''. Less than four steps say nothing."""
    if len(losses) < 4:
        return ''
    last = min(losses[-(len(losses) // 4):])
    if not last >= losses[0]:
        return ''
    return (f'the loss has not fallen: {losses[0]:.4g} at the first step, at best {last:.4g} in '
            'the last quarter of the steps; take a lower learning rate')


def failure(network: Trained, image: jax.Array, complaint: str, done: int,
            values: Mapping[str, np.ndarray]) -> str:
    """The message of a failed optimization: since when, and which layer shows it first."""
    first = done - len(values['loss']) + 1
    where = 'no activation is 0 everywhere or not finite'
    advice = remedy(complaint)
    if 'finite' in complaint:
        first += int(np.argmin(np.isfinite(values[complaint.split()[1]]).all(1)))
        where = 'all activations are finite'
        advice = ("; check what the objective is given: a loss is nan if aux['unit'] is no channel "
                  'of the layer')
    whose = ''
    if not np.isfinite(image).all():  # the step that followed has spread it everywhere
        image, whose = jnp.full_like(image, 0.5), ' of a gray image'
        where, advice = 'the image itself is not finite', remedy(complaint)
    for name, tap in tiles.taps(network, network.variables, image).items():
        if not (sound := np.isfinite(tap)).all():
            where = f"'{name}'{whose} is not finite at {np.mean(~sound):.0%} of its positions"
            advice = "; check the network's weights, or take a lower learning rate"
            break
        if not whose and not np.any(tap):
            where = f"'{name}' is 0 everywhere"
            break
    return f'{complaint}, at step {first}: {where}{advice}'
