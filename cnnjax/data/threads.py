"""A function called for many items in threads, with a progress bar."""

import os
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

from tqdm import tqdm

from cnnjax import cluster

LEAST = 16  # The fewest threads, even on few cores: they wait for the disk or the network.
LONGEST = 64  # The most items that a thread takes at once, to save the time of handing over.

Result = TypeVar('Result')


def mapped(function: Callable[[int], Result], count: int, title: str) -> list[Result]:
    """[function(0), ..., function(count - 1)], whatever the number of threads.

    The first error in that order is raised. On a terminal a bar counts images.
    """
    threads = max(os.cpu_count() or 1, LEAST)
    length = min(max(count // (8 * threads), 1), LONGEST)

    def part(first):
        return [function(i) for i in range(first, min(first + length, count))]

    found = []
    with (futures.ThreadPoolExecutor(threads) as pool,
          tqdm(total=count, unit='image', desc=title, leave=False,
               disable=None if cluster.first() else True) as progress):
        for results in pool.map(part, range(0, count, length)):
            found += results
            progress.update(len(results))
    return found
