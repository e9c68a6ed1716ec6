"""How the benchmark measures: sides in turn, and what the device could do at best."""

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

LIMIT = 2 ** 20  # steps of a turn, at most


class Unmeasured(Exception):
    """Why a row, or a side of it, cannot be measured here; the others go on."""


class Setting(NamedTuple):
    """What the rows have in common."""

    torch: Any  # the module torch_steps, None where torch is not installed
    dtype: str
    steps_per_call: int  # of a training on an accelerator
    compile_mode: str  # of torch.compile; '': not measured
    measure: Callable  # compare, with the number of rounds and their length
    best: Callable  # () -> {'flops', 'bytes'}: what the device does in a second, measured once
    checked: set  # the networks whose losses have been found equal to PyTorch's


def advance(step, wait=lambda value: jax.block_until_ready(value)):
    """A side of `compare`: a function that does so many steps and then waits for the last."""
    def steps(count):
        for _ in range(count):
            value = step()
        wait(value)
    return steps


def compare(sides, name, rounds, seconds, chance=False):
    """{side: {'first', 'seconds', 'quartiles', 'steps'}} and 'ratios', {side: its time / ours}.

    The sides take turns, so that what else runs on the machine slows down all of them. A turn is as
    many steps as take `seconds`, at least one, after one that is not timed: a side's memory went
    back to the system during the others' turns. 'first' is the first step, compilation included;
    'seconds' are of a step, the median over the rounds. Where `chance` decides how much there is to
    do, turns have four steps or more and 'seconds' are the mean.
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


# Of `best`, by whether there is an accelerator: the matrices' side, the array's elements, and how
# often each operation is queued before it is waited for.
SIZES = {False: (2048, 2 ** 26, 1), True: (8192, 2 ** 28, 10)}


def best(dtype, side, elements, count):
    """The floating-point operations of a product of two large matrices and the bytes of a large
    array read and written, per second: the best of seven trials."""
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
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
