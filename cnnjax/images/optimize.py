"""Optimizing images: any optax optimizer descends on what a network makes of them.

    problem = Problem(network, channel('conv4_2'), sigmoid(fourier((64, 64, 3))))
    result = optimize(problem, optax.adam(0.05), 200, jax.random.key(0),
                      aux={'unit': jnp.arange(32)})
    result.images  # [32, 64, 64, 3] in [0, 1]

A problem is about one image. The loop runs many of them at once: everything has a leading axis of
images, which is mapped (vmap) in one compiled program and split over devices. The state resumes
exactly: 20 and 20 steps are 40 steps, bit for bit, with the same number of images and `loop`.

An image on which ReLUs block the whole gradient would stay as it is. Where that is so at the first
step, AWAKENING steps come before it, with the rule 'redirected' of rules.py, for that image alone.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cnnjax import parallel
from cnnjax.errors import UserError
from cnnjax.images import tiles
from cnnjax.images.parametrizations import Parametrization
from cnnjax.images.rules import RULES, RULES6, with_rule
from cnnjax.trained import Trained

AWAKENING = 16  # lucid's number of steps with the rule 'redirected'


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What is optimized. A compiled program is kept for each problem: use the same one again."""

    network: Trained
    objective: Callable  # (taps, aux) -> a scalar or {term: value}; see objectives.py
    parametrization: Parametrization
    regularizer: Callable | None = None  # image -> a scalar or {term: value}
    transform: Callable | None = None  # (key, image) -> what the network sees
    project: Callable | None = None  # theta -> theta, after every step
    average: float = 0.0  # decay of a mean of the first image and all iterates, the result; 0: none
    tile: int = 0  # side of the tiles in which the gradient is computed; 0: all at once


class State(NamedTuple):
    """All that a resumed optimization needs, beside its key; leaves have a leading axis [N]."""

    step: jax.Array  # int32
    theta: Any
    opt_state: Any
    average: Any  # of decoded images, before its bias is corrected; None where it is not used


class Report(NamedTuple):
    """Where an optimization stands."""

    step: int
    state: State
    values: dict[str, np.ndarray]  # [steps since the last report, N]: loss, its terms, gradient


class Result(NamedTuple):
    images: jax.Array  # [N, H, W, C]
    state: State
    trace: dict[str, np.ndarray]  # [steps, N]: loss, its terms, and the gradient's norm
    snapshots: dict[int, jax.Array]  # {step: images}


def init(problem, tx, keys, images=None):
    """The `State` before the first step: random, or from `images` [N, H, W, C].

    Args:
      problem: see `Problem`.
      tx: an optax optimizer.
      keys: N random keys.
      images: where to start; needs a parametrization that encodes images.
    """
    if images is not None and problem.parametrization.encode is None:
        raise UserError('this parametrization cannot start from an image')
    keys = _keys(keys)
    return _init(problem, tx, keys, images)


@functools.partial(jax.jit, static_argnames=('problem', 'tx'))
def _init(problem, tx, keys, images):
    def one(key, image):
        if image is None:
            theta = problem.parametrization.init(jax.random.fold_in(key, 0))
        else:
            theta = problem.parametrization.encode(image)
        if problem.project:
            theta = problem.project(theta)
        return State(jnp.int32(0), theta, tx.init(theta), _first_average(problem, theta))

    if images is None:
        return jax.vmap(lambda key: one(key, None))(keys)
    return jax.vmap(one)(keys, images)


def _first_average(problem, theta):
    """The average of the first image alone; it counts in all that follow, as in crowsonkb's."""
    if not problem.average:
        return None
    return (1 - problem.average) * problem.parametrization.decode(theta)


@functools.partial(jax.jit, static_argnames='problem')
def decode(problem, state):
    """The images [N, H, W, C] of a state; their average where the problem has one."""
    def one(state):
        if problem.average:
            count = (state.step + 1).astype(state.average.dtype)
            return state.average / (1 - problem.average ** count)
        return problem.parametrization.decode(state.theta)
    return jax.vmap(one)(state)


def carry(problem, tx, keys, images, opt_state):
    """The first `State` of another size: from `images` [N, H, W, C], with an optimizer's state of
    the size before, resized; that of a line search starts anew. As in
    https://github.com/crowsonkb/style-transfer-pytorch the mean of gradients is resized by cubic
    interpolation (Keys's a is -1/2 here, -3/4 in torch) and that of squares, which must not become
    negative, linearly."""
    state = init(problem, tx, keys, images)
    if _searches(state.opt_state):  # what it remembers is the loss of another image
        return state

    def resize(path, old, new):
        squares = jax.tree_util.GetAttrKey('nu') in path
        return old if old.shape == new.shape else jax.image.resize(
            old, new.shape, 'linear' if squares else 'cubic')

    return state._replace(
        opt_state=jax.tree_util.tree_map_with_path(resize, opt_state, state.opt_state))


def normalize_gradient(kind='mean_abs'):
    """An optax transformation that divides the gradient by its size: 'mean_abs' (DeepDream's
    notebook), 'std' (TensorFlow's DeepDream tutorial) or 'l2' (lucid); a gradient of 0 stays 0."""
    sizes = {'mean_abs': lambda g: jnp.abs(g).mean(), 'std': jnp.std, 'l2': jnp.linalg.norm}
    if kind not in sizes:
        raise UserError(f"a gradient is divided by its {', '.join(sizes)}, not '{kind}'")

    def divide(gradient):
        flat, restore = jax.flatten_util.ravel_pytree(gradient)
        size = sizes[kind](flat)
        return restore(flat / jnp.where(size > 0, size, 1))

    return optax.stateless(lambda updates, params: divide(updates))


def loss(problem, variables, theta, key, aux, nudge=0.0):
    """The loss of one image, and its terms {name: value}. `nudge` is added to what the network
    sees: the gradient with respect to it is the objective's own, without regularizer."""
    image = problem.parametrization.decode(theta)
    seen = (problem.transform(key, image) if problem.transform else image) + nudge
    terms = tiles.value(problem.network, problem.objective, problem.tile, variables, seen, aux)
    terms = terms if isinstance(terms, dict) else {'objective': terms}
    if problem.regularizer:
        extra = problem.regularizer(image)
        terms = terms | (extra if isinstance(extra, dict) else {'regularizer': extra})
    # A line search compares it with numbers of the type of theta.
    return sum(terms.values()).astype(jnp.result_type(*jax.tree.leaves(theta))), terms


def update(problem, tx, variables, state, key, aux):
    """One step on one image: (state, {'loss', its terms, 'gradient'})."""
    key = jax.random.fold_in(key, state.step + 1)  # 0 was the initialization's

    def value(theta):
        return loss(problem, variables, theta, key, aux)[0]

    if _searches(state.opt_state):  # it keeps the loss and gradient of the point it has found
        if problem.transform or problem.project:
            raise UserError('an optimizer with a line search, such as L-BFGS, needs a loss that '
                            'stays the same: no random transform, and a bound by sigmoid instead '
                            'of a projection; or take Adam')
        total, gradient = optax.value_and_grad_from_state(value)(
            state.theta, state=state.opt_state)
        values = {'loss': total, 'gradient': optax.tree.norm(gradient)}
    else:
        seen = jax.eval_shape(
            lambda theta: problem.transform(key, problem.parametrization.decode(theta))
            if problem.transform else problem.parametrization.decode(theta), state.theta)
        (total, terms), (gradient, own) = jax.value_and_grad(
            lambda theta, nudge: loss(problem, variables, theta, key, aux, nudge), (0, 1),
            has_aux=True)(state.theta, jnp.zeros(seen.shape, seen.dtype))
        values = {'loss': total, **terms, 'gradient': optax.tree.norm(own)}
    with jax.numpy_dtype_promotion('standard'):  # optax.adam raises under strict promotion
        updates, opt_state = optax.with_extra_args_support(tx).update(
            gradient, state.opt_state, state.theta, value=total, grad=gradient, value_fn=value)
    theta = optax.apply_updates(state.theta, updates)
    if problem.project:
        theta = problem.project(theta)
    average = state.average
    if problem.average:
        average = optax.incremental_update(problem.parametrization.decode(theta), average,
                                           1 - problem.average)
    return State(state.step + 1, theta, opt_state, average), values


def _searches(opt_state):
    """Whether an optimizer with this state has a line search, which keeps the loss it found."""
    return optax.tree_utils.tree_get(opt_state, 'value', None) is not None


def _many(problem, tx, mesh, variables, state, keys, aux, shared):
    """`update` over the leading axis, split over the devices of `mesh`."""
    def one(state, key, aux):
        return update(problem, tx, variables, state, key, merge(shared, aux))

    def some(state, keys, aux):
        if len(keys) > 1:
            return jax.vmap(one)(state, keys, aux)
        first = jax.tree.map(lambda x: x[0], (state, keys, aux))  # conditions stay conditions
        return jax.tree.map(lambda x: x[None], one(*first))

    if mesh is None:
        return some(state, keys, aux)
    return jax.shard_map(some, mesh=mesh, in_specs=P(parallel.AXIS), out_specs=P(parallel.AXIS),
                         check_vma=False)(state, keys, aux)


@functools.partial(jax.jit, static_argnames=('problem', 'tx', 'mesh'), donate_argnames='state')
def _step(problem, tx, mesh, variables, state, keys, aux, shared):
    return _many(problem, tx, mesh, variables, state, keys, aux, shared)


@functools.partial(jax.jit, static_argnames=('problem', 'tx', 'mesh', 'size'),
                   donate_argnames='state')
def _steps(problem, tx, mesh, variables, state, keys, aux, shared, count, size):
    """`count` steps, an argument of the program, so that every length runs the same code; their
    values are the first of `size` rows."""
    def body(i, carry):
        state, rows = carry
        state, values = _many(problem, tx, mesh, variables, state, keys, aux, shared)
        return state, jax.tree.map(lambda row, value: row.at[i].set(value), rows, values)

    values = jax.eval_shape(
        lambda: _many(problem, tx, mesh, variables, state, keys, aux, shared)[1])
    rows = jax.tree.map(lambda value: jnp.zeros((size, *value.shape), value.dtype), values)
    return lax.fori_loop(0, count, body, (state, rows))


class _Descent(NamedTuple):
    """The programs that descend, with what stays the same between their calls."""

    tx: Any
    mesh: Any
    variables: Any
    keys: jax.Array
    aux: Any
    shared: Any
    every: int
    loop: str

    def advance(self, problem, state, count, stop=None):
        """(`state`, which is donated, `count` steps further; the values of these steps; whether
        to stop): `stop` is asked after every program, and there may be fewer steps."""
        fixed, given = (self.tx, self.mesh, self.variables), (self.keys, self.aux, self.shared)
        if self.loop == 'compiled':
            state, values = _steps(problem, *fixed, state, *given, count, self.every)
            values = {name: value[:count] for name, value in jax.device_get(values).items()}
            return state, values, bool(stop and stop())
        rows, stopped = [], False
        while len(rows) < count and not stopped:
            state, row = _step(problem, *fixed, state, *given)
            jax.block_until_ready(rows[-1:])  # one step ahead at most, to stop in time
            rows.append(row)
            stopped = bool(stop and stop())
        rows = jax.device_get(rows)
        return state, {name: np.stack([row[name] for row in rows]) for name in rows[0]}, stopped

    def awaken(self, redirected, state, asleep):
        """`state`, at step 0, where the images that are `asleep` [N] have made AWAKENING steps on
        the `redirected` problem. They do not count, and the optimizer forgets them."""
        moved, *_ = self.advance(redirected, jax.tree.map(jnp.copy, state), AWAKENING)
        theta = jax.tree.map(lambda new, old: jnp.where(
            asleep.reshape(-1, *[1] * (new.ndim - 1)), new, old), moved.theta, state.theta)
        average = jax.vmap(functools.partial(_first_average, redirected))(theta)
        return state._replace(theta=theta, average=average)


@functools.lru_cache(8)
def _redirected(problem):
    """The same problem with the rule 'redirected'; None for a network without the plain ReLU."""
    net = problem.network.net
    if getattr(net, 'relu', None) not in (RULES['gradient'], RULES6['gradient']):
        return None
    return dataclasses.replace(problem, network=problem.network._replace(
        net=with_rule(net, 'redirected')))


def iterate(problem, tx, state, steps, keys, aux=None, shared=None, *, every=50, mesh=None,
            loop='auto', strict=True, stop=None) -> Iterator[Report]:
    """Descends up to step number `steps`, with a `Report` at every multiple of `every` steps.

    Args:
      problem, tx, state, keys: as in `init`; `state` is donated, use the report's.
      aux: what the objective needs, leaves [N, ...].
      shared: the same for all images, without a leading axis; merged with `aux`.
      mesh: devices that share the images, whose number they divide; None: one device.
      loop: 'python' calls the compiled step; 'compiled' runs all steps between two reports in one
        program, where XLA:CPU's convolutions are slow; 'auto' takes the better one.
      strict: False leaves it to the caller to ask for the `health` of reports.
      stop: called between two programs; once it returns True, a report of the steps so far is the
        last.

    Raises:
      UserError: the gradient of every image is blocked or not finite; the message says where.
    """
    if loop not in ('auto', 'python', 'compiled'):
        raise UserError(f"loop is 'auto', 'python' or 'compiled', not '{loop}'")
    if every < 1 or steps < 0:
        raise UserError(f'steps={steps}, every={every}: there are no such steps')
    if loop == 'auto':
        loop = 'python' if jax.default_backend() == 'cpu' else 'compiled'
    keys, aux, shared = _keys(keys), aux or {}, shared or {}
    variables = jax.device_put(problem.network.variables)
    if mesh is not None:
        if len(keys) % mesh.size:
            raise UserError(f'{len(keys)} images do not divide evenly over {mesh.size} devices')
        split, same = (NamedSharding(mesh, spec) for spec in (P(parallel.AXIS), P()))
        state, keys, aux = jax.device_put((state, keys, aux), split)
        variables, shared = jax.device_put((variables, shared), same)
    descent = _Descent(tx, mesh, variables, keys, aux, shared, every, loop)
    done = reported = int(state.step[0])
    parts, stopped = [], False
    # A line search would find no descent along a redirected gradient.
    redirected = None if done or _searches(state.opt_state) else _redirected(problem)
    if redirected and steps:
        first = jax.tree.map(jnp.copy, state)
        state, values, _ = descent.advance(problem, state, 1)
        asleep = values['gradient'][0] == 0
        if asleep.any():
            state, values, _ = descent.advance(
                problem, descent.awaken(redirected, first, asleep), 1)
        done, parts = 1, [values]
    while reported < steps and not stopped:
        end = min(reported - reported % every + every, steps)
        if done < end:
            state, values, stopped = descent.advance(problem, state, end - done, stop)
            done += len(values['loss'])
            parts.append(values)
        values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        complaints = [health(values, i) for i in range(len(keys))]
        if strict and all(complaints):
            raise UserError(_diagnosis(problem, state, complaints[0], done, values))
        yield Report(done, state, values)
        reported, parts = done, []


def optimize(problem, tx, steps, key, *, images=None, count=None, aux=None, shared=None,
             state=None, every=0, mesh=None, loop='auto'):
    """Runs `iterate` to the end.

    Args:
      key: one random key for everything.
      images: where to start, [N, H, W, C]; None: random.
      count: N; default: that of `state`, else of `images`, else of `aux`, else 1.
      state: resumes an optimization with the same key; counts its steps too.
      every: steps between two snapshots; 0: none.
      aux, shared, mesh, loop: as in `iterate`.

    Returns:
      A `Result`. A warning names the images that are not what was asked for: their gradient is
      blocked or not finite, they have not moved, or their loss has not fallen.
    """
    leaves = jax.tree.leaves(state) or jax.tree.leaves(aux if images is None else images)
    keys = jax.random.split(key, count or (len(leaves[0]) if leaves else 1))
    state = init(problem, tx, keys, images) if state is None else jax.tree.map(jnp.copy, state)
    first = decode(problem, state)
    rows, snapshots = [], {}
    for report in iterate(problem, tx, state, steps, keys, aux, shared, every=every or steps or 1,
                          mesh=mesh, loop=loop):
        state = report.state
        rows.append(report.values)
        if every:
            snapshots[report.step] = decode(problem, state)
    trace = {name: np.concatenate([row[name] for row in rows]) for name in (rows or [{}])[0]}
    images = decode(problem, state)
    for i in range(len(keys) if rows else 0):
        if complaint := verdict(trace, i, first[i], images[i]):
            warnings.warn(f'image {i}: {complaint}{remedy(complaint)}', stacklevel=2)
    return Result(images, state, trace, snapshots)


def health(values, image=0):
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


def remedy(complaint):
    """What to do about a complaint of `health`, to be written behind it."""
    if 'exactly 0' in complaint:
        return '; take the layer before the ReLU, another seed, or start from another image'
    return '; take a lower learning rate' if 'not finite' in complaint else ''


def verdict(values, image, before, after):
    """What is wrong with all steps of an image, that was `before` and is `after` [H, W, C]."""
    return (health(values, image) or unmoved(before, after)
            or unfallen(values['loss'][:, image]))


def unmoved(before, after):
    """Whether an image has stayed what it was, [H, W, C] in [0, 1]: then a sentence, else ''."""
    if not np.abs(np.asarray(after) - np.asarray(before)).max() * 255 < 1:  # nan: see `health`
        return ''
    return ('the image has not moved: no value has changed by a level of 255; take a higher '
            'learning rate or more steps, or give the terms of the loss other weights: one of '
            'them may hold it where it is')


def unfallen(losses):
    """Whether the loss [steps] is nowhere in its last quarter below the first: then a sentence,
    else ''. Less than four steps say nothing."""
    if len(losses) < 4:
        return ''
    last = min(losses[-(len(losses) // 4):])
    if not last >= losses[0]:
        return ''
    return (f'the loss has not fallen: {losses[0]:.4g} at the first step, at best {last:.4g} in '
            'the last quarter of the steps; take a lower learning rate')


def _diagnosis(problem, state, complaint, done, values):
    """The message of a failed optimization: since when, and which layer shows it first."""
    first = done - len(values['loss']) + 1
    where = 'no activation is 0 everywhere or not finite'
    advice = remedy(complaint)
    if 'finite' in complaint:
        first += int(np.argmin(np.isfinite(values[complaint.split()[1]]).all(1)))
        where = 'all activations are finite'
        advice = ("; check what the objective is given: a loss is nan if aux['unit'] is no channel "
                  'of the layer')
    image, whose = decode(problem, state)[0], ''
    if not np.isfinite(image).all():  # the step that followed has spread it everywhere
        image, whose = jnp.full_like(image, 0.5), ' of a gray image'
        where, advice = 'the image itself is not finite', remedy(complaint)
    for name, tap in tiles.taps(problem.network, problem.network.variables, image).items():
        if not (sound := np.isfinite(tap)).all():
            where = f"'{name}'{whose} is not finite at {np.mean(~sound):.0%} of its positions"
            advice = "; check the network's weights, or take a lower learning rate"
            break
        if not whose and not np.any(tap):
            where = f"'{name}' is 0 everywhere"
            break
    return f'{complaint}, at step {first}: {where}{advice}'


def merge(shared, aux):
    """The two trees of dicts as one; a leaf of `aux` wins."""
    if not (isinstance(shared, dict) and isinstance(aux, dict)):
        return aux
    return shared | {key: merge(shared[key], value) if key in shared else value
                     for key, value in aux.items()}


def _keys(keys):
    return keys if keys.ndim else keys[None]
