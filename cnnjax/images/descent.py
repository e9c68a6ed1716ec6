"""The steps of an optimization: one on one image, and the compiled programs of many on many."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from cnnjax import parallel
from cnnjax.errors import UserError
from cnnjax.images import tiles
from cnnjax.images.rules import RULES, RULES6, with_rule

AWAKENING = 16  # lucid's number of steps with the rule 'redirected'


def first_average(problem: Any, theta: Any) -> jax.Array | None:
    """The average of the first image alone; it counts in all that follow, as in crowsonkb's."""
    if not problem.average:
        return None
    return (1 - problem.average) * problem.parametrization.decode(theta)


def loss(problem: Any, variables: Any, theta: Any, key: jax.Array, aux: Mapping[str, Any],
         nudge: ArrayLike = 0.0) -> tuple[jax.Array, dict[str, jax.Array]]:
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
    total: Any = sum(terms.values())
    return total.astype(jnp.result_type(*jax.tree.leaves(theta))), terms


def update(problem: Any, tx: optax.GradientTransformation, variables: Any, state: Any,
           key: jax.Array, aux: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """One step on one image: (state, {'loss', its terms, 'gradient'})."""
    key = jax.random.fold_in(key, state.step + 1)  # 0 was the initialization's

    def value(theta):
        return loss(problem, variables, theta, key, aux)[0]

    if searches(state.opt_state):  # it keeps the loss and gradient of the point it has found
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
    return state._replace(step=state.step + 1, theta=theta, opt_state=opt_state,
                          average=average), values


def searches(opt_state: Any) -> bool:
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


class Descent(NamedTuple):
    """The programs that descend, with what stays the same between their calls."""

    tx: Any
    mesh: Any
    variables: Any
    keys: jax.Array
    aux: Any
    shared: Any
    every: int
    loop: str

    def advance(self, problem: Any, state: Any, count: int,
                stop: Callable[[], bool] | None = None) -> tuple[Any, dict[str, np.ndarray], bool]:
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

    def awaken(self, redirected: Any, state: Any, asleep: np.ndarray) -> Any:
        """`state`, at step 0, where the images that are `asleep` [N] have made AWAKENING steps on
        the `redirected` problem. They do not count, and the optimizer forgets them."""
        moved, *_ = self.advance(redirected, jax.tree.map(jnp.copy, state), AWAKENING)
        theta = jax.tree.map(lambda new, old: jnp.where(
            asleep.reshape(-1, *[1] * (new.ndim - 1)), new, old), moved.theta, state.theta)
        average = jax.vmap(functools.partial(first_average, redirected))(theta)
        return state._replace(theta=theta, average=average)


@functools.lru_cache(8)
def with_redirected_rule(problem: Any) -> Any:
    """The same problem with the rule 'redirected'; None for a network without the plain ReLU."""
    net = problem.network.net
    if getattr(net, 'relu', None) not in (RULES['gradient'], RULES6['gradient']):
        return None
    return dataclasses.replace(problem, network=problem.network._replace(
        net=with_rule(net, 'redirected')))


def merge(shared: Any, aux: Any) -> Any:
    """The two trees of dicts as one; a leaf of `aux` wins."""
    if not (isinstance(shared, dict) and isinstance(aux, dict)):
        return aux
    return shared | {key: merge(shared[key], value) if key in shared else value
                     for key, value in aux.items()}
