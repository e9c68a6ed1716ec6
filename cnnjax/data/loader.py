"""Reads examples ahead of the training, in threads and in worker processes, with grain."""

import contextlib
import dataclasses
import itertools
import multiprocessing.util
import os
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from cnnjax import quiet
from cnnjax.errors import UserError
from cnnjax.limits import Whole

LIMITS = {'loader_threads': Whole(1, 1024), 'loader_workers': Whole(0, 1024)}


def batches(examples: Any, batch_size: int, rows: np.ndarray, threads: int, workers: int, *,
            start: int = 0, count: int | None = None) -> Generator[dict[str, np.ndarray]]:
    """These rows of the batches of `batch_size` examples, from the batch with the number `start`
    on, as dicts of arrays.

    Args:
      examples: endless; examples[i], a dict, for any i.
      rows: int [R], without gaps.
      threads, workers: see pipeline.Stream.
      count: how many batches; None: endlessly many.

    Raises:
      UserError: the system has ended a worker.
    """
    workers = min(workers, count or workers)
    readers = max(workers, 1)  # the number of processes that read
    threads = -(-threads // readers)
    # Threads read ahead by single examples; by whole batches, many more would be in memory.
    options = grain.ReadOptions(threads, max(4 * threads, 2 * len(rows) // readers))
    dealt = _Dealt(examples, batch_size, int(rows[0]), len(rows), start, readers)
    if workers and not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads flags, which not every program parses
    found = (grain.MapDataset.source(dealt).to_iter_dataset(options).batch(len(rows))
             .mp_prefetch(grain.MultiprocessingOptions(workers), _begin_worker))
    found = iter(found)
    try:
        yield from itertools.islice(found, count)
    except RuntimeError as error:
        if 'Worker process was terminated' not in str(error):
            raise
        raise UserError(f'loader_workers={workers}: {error} Where memory or /dev/shm is '
                        'short, take fewer; with 0 there are none') from error
    finally:
        with contextlib.suppress(Exception):  # An earlier error counts more.
            found.get_state()  # Without this grain does not close all workers.
        found.close()


@dataclasses.dataclass(frozen=True, repr=False)
class _Dealt(Sequence):
    """Endless examples, in an order that suits grain: it deals them to its workers one by one, yet
    each worker gets whole batches, in turn."""

    examples: Any  # examples[i] for any i
    batch_size: int  # in all processes together
    first: int  # this process takes `rows` rows of each batch from this one on
    rows: int
    start: int  # the number of the first batch
    workers: int

    def __len__(self) -> int:
        return sys.maxsize // self.workers * self.workers

    def __getitem__(self, i):
        i, worker = divmod(i, self.workers)
        turn, row = divmod(i, self.rows)
        batch = self.start + turn * self.workers + worker
        return self.examples[batch * self.batch_size + self.first + row]


def _begin_worker(index, count):
    """Prepares a worker process; grain calls it there first."""
    del index, count
    jax.config.update('jax_platforms', 'cpu')  # The parent has the accelerator.
    quiet.pictures()
    # Ctrl-C and a cluster's signal to stop reach all processes. A worker goes on, because the
    # parent may need one more batch before it saves its state.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(60))  # ends it after a minute
    # A killed parent cannot stop its workers, so each watches its parent.
    threading.Thread(target=_follow, args=(multiprocessing.parent_process(),), daemon=True).start()
    # At the very end the worker exits without waiting for threads that still read ahead.
    multiprocessing.util.Finalize(None, os._exit, args=(0,), exitpriority=-100)


def _follow(parent):
    parent.join()
    os._exit(1)
