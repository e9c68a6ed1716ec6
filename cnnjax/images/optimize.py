"""Optimizing images: any optax optimizer descends on what a network makes of them.

    problem = Problem(network, channel('conv4_2'), sigmoid(fourier((64, 64, 3))))
    result = optimize(problem, optax.adam(0.05), 200, jax.random.key(0),
                      aux={'unit': jnp.arange(32)})
    result.images  # [32, 64, 64, 3] in [0, 1]

A problem is about one image. The loop runs many of them at once: everything has a leading axis of
images, which is mapped (vmap) in one compiled program and split over devices. The state resumes
exactly: 20 and 20 steps are 40 steps, bit for bit, with the same number of images and `loop`.

An image on which ReLUs block the whole gradient would stay as it is. Where that is so at the first
step, `descent.AWAKENING` steps come before it, with the rule 'redirected' of rules.py, for that
image alone.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from cnnjax import parallel
from cnnjax.errors import UserError
from cnnjax.images import descent, diagnosis
from cnnjax.images.parametrizations import Parametrization
from cnnjax.trained import Trained


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
    average: Any  # the mean of decoded images, its bias not yet corrected; None: not used


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


def init(problem: Problem, tx: optax.GradientTransformation, keys: jax.Array,
         images: ArrayLike | None = None) -> State:
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
        return State(jnp.int32(0), theta, tx.init(theta), descent.first_average(problem, theta))

    if images is None:
        return jax.vmap(lambda key: one(key, None))(keys)
    return jax.vmap(one)(keys, images)


@functools.partial(jax.jit, static_argnames='problem')
def decode(problem: Problem, state: State) -> jax.Array:
    """The images [N, H, W, C] of a state; their average where the problem has one."""
    def one(state):
        if problem.average:
            count = (state.step + 1).astype(state.average.dtype)
            return state.average / (1 - problem.average ** count)
        return problem.parametrization.decode(state.theta)
    return jax.vmap(one)(state)


def carry(problem: Problem, tx: optax.GradientTransformation, keys: jax.Array, images: ArrayLike,
          opt_state: Any) -> State:
    """The first `State` of another size: from `images` [N, H, W, C], with an optimizer's state of
    the size before, resized; that of a line search starts anew. As in
    https://github.com/crowsonkb/style-transfer-pytorch the mean of gradients is resized by cubic
    interpolation (Keys's a is -1/2 here, -3/4 in torch) and that of squares, which must not become
    negative, linearly."""
    state = init(problem, tx, keys, images)
    if descent.searches(state.opt_state):  # Its memory would be of another image.
        return state

    def resize(path, old, new):
        squares = jax.tree_util.GetAttrKey('nu') in path
        return old if old.shape == new.shape else jax.image.resize(
            old, new.shape, 'linear' if squares else 'cubic')

    return state._replace(
        opt_state=jax.tree_util.tree_map_with_path(resize, opt_state, state.opt_state))


def normalize_gradient(kind: str = 'mean_abs') -> optax.GradientTransformation:
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


def iterate(problem: Problem, tx: optax.GradientTransformation, state: State, steps: int,
            keys: jax.Array, aux: Mapping[str, Any] | None = None,
            shared: Mapping[str, Any] | None = None, *, every: int = 50, mesh: Mesh | None = None,
            loop: str = 'auto', strict: bool = True,
            stop: Callable[[], bool] | None = None) -> Iterator[Report]:
    """Descends up to step number `steps`, with a `Report` at every multiple of `every` steps.

    Args:
      problem, tx, state, keys: as in `init`; `state` is donated, use the report's.
      aux: what the objective needs, leaves [N, ...].
      shared: the same for all images, without a leading axis; merged with `aux`.
      mesh: devices that share the images, whose number they divide; None: one device.
      loop: 'python' calls the compiled step; 'compiled' runs all steps between two reports in one
        program, where XLA:CPU's convolutions are slow; 'auto' takes the better one.
      strict: False leaves it to the caller to ask for the `diagnosis.health` of reports.
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
    program = descent.Descent(tx, mesh, variables, keys, aux, shared, every, loop)
    done = reported = int(state.step[0])
    parts, stopped = [], False
    # A line search would find no descent along a redirected gradient.
    redirected = None
    if not (done or descent.searches(state.opt_state)):
        redirected = descent.with_redirected_rule(problem)
    if redirected and steps:
        state, values = _first_step(program, problem, redirected, state)
        done, parts = 1, [values]
    while reported < steps and not stopped:
        end = min(reported - reported % every + every, steps)
        if done < end:
            state, values, stopped = program.advance(problem, state, end - done, stop)
            done += len(values['loss'])
            parts.append(values)
        values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        complaints = [diagnosis.health(values, i) for i in range(len(keys))]
        if strict and all(complaints):
            raise UserError(diagnosis.failure(problem.network, decode(problem, state)[0],
                                              complaints[0], done, values))
        yield Report(done, state, values)
        reported, parts = done, []


def _first_step(program, problem, redirected, state):
    """The state and the values after the first step; images whose gradient is 0 are awakened."""
    first = jax.tree.map(jnp.copy, state)
    state, values, _ = program.advance(problem, state, 1)
    asleep = values['gradient'][0] == 0
    if asleep.any():
        state, values, _ = program.advance(problem, program.awaken(redirected, first, asleep), 1)
    return state, values


def optimize(problem: Problem, tx: optax.GradientTransformation, steps: int, key: jax.Array, *,
             images: ArrayLike | None = None, count: int | None = None,
             aux: Mapping[str, Any] | None = None, shared: Mapping[str, Any] | None = None,
             state: State | None = None, every: int = 0, mesh: Mesh | None = None,
             loop: str = 'auto') -> Result:
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
        if complaint := diagnosis.verdict(trace, i, first[i], images[i]):
            warnings.warn(f'image {i}: {complaint}{diagnosis.remedy(complaint)}', stacklevel=2)
    return Result(images, state, trace, snapshots)


def _keys(keys):
    return keys if keys.ndim else keys[None]
