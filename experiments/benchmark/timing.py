"""How the benchmark measures: the sides in turn, and the best speed of the device."""

import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

LIMIT = 2 ** 20  # The most steps in a turn.


class Unmeasured(Exception):
    """The reason why a row, or one side of it, cannot be measured here; the others go on."""


class Setting(NamedTuple):
    """The settings that all rows share."""

    torch: Any  # the module torch_steps; None if torch is not installed
    dtype: str
    steps_per_call: int  # training steps in one program
    compile_mode: str  # the mode of torch.compile; '' leaves that side out
    measure: Callable  # `compare` with the number of rounds and their length
    best: Callable  # () -> {'flops', 'bytes'}: the device's best per second, measured once
    checked: set  # the networks whose losses were equal to PyTorch's


def advance(step, wait=lambda value: jax.block_until_ready(value)):
    """A side of `compare`: a function that makes n steps and then waits for the last."""
    def steps(count):
        for _ in range(count):
            value = step()
        wait(value)
    return steps


def compare(sides, name, rounds, seconds, chance=False):
    """{side: {'first', 'seconds', 'quartiles', 'steps'}} and 'ratios', {side: its time / ours}.

    The sides take turns, so that other work on the machine slows down all of them. A turn lasts
    `seconds`, but at least one step. It begins with a step that is not timed, because the memory of
    a side goes back to the system during the others' turns. 'first' is the time of the first step,
    with its compilation; 'seconds' is the median time of a step over the rounds. If `chance`
    decides how much work a step has, turns have four steps or more, and 'seconds' is the mean.
    """
    result, counts, times = {}, {}, {side: [] for side in sides}
    for side, steps in sides.items():
        result[side] = {'first': timed(steps, 1)}
        once = min(timed(steps, 1), timed(steps, 1))
        counts[side] = min(max(math.ceil(seconds / once), 4 if chance else 1), LIMIT)
    for _ in tqdm(range(rounds), desc=name, unit='round', disable=None):
        for side, steps in sides.items():
            steps(1)
            times[side].append(timed(steps, counts[side]) / counts[side])
    typical = statistics.mean if chance else statistics.median
    for side, taken in times.items():
        result[side] |= {'seconds': typical(taken), 'steps': counts[side],
                         'quartiles': np.percentile(taken, (25, 75)).tolist()}
    ours = result['cnnjax']['seconds']
    result['ratios'] = {side: result[side]['seconds'] / ours for side in sides if side != 'cnnjax'}
    return result


def timed(steps, count):
    start = time.perf_counter()
    steps(count)
    return time.perf_counter() - start


# The arguments of `best`, {accelerator: ...}: the side of the matrices, the elements of the array,
# and how many operations are queued before it waits for them.
SIZES = {False: (2048, 2 ** 26, 1), True: (8192, 2 ** 28, 10)}


def best(dtype, side, elements, count):
    """The best of seven trials: the floating-point operations per second of a product of two large
    matrices, and the bytes per second that are read from and written to a large array."""
    matrix = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = jax.jit(jnp.matmul)
    array, increase = jnp.zeros(elements), jax.jit(lambda x: x + 1, donate_argnums=0)

    def copy(count):
        nonlocal array
        for _ in range(count):
            array = increase(array)
        array.block_until_ready()

    multiply, seconds = advance(lambda: product(matrix, matrix)), []
    for steps in (multiply, copy):
        timed(steps, count)
        seconds.append(min(timed(steps, count) for _ in range(7)) / count)
    return {'flops': 2 * side ** 3 / seconds[0], 'bytes': 2 * array.nbytes / seconds[1]}


def cores():
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
