"""The progress of a training on the terminal, and a trace of its programs."""

import datetime
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from cnnjax import cluster, reports
from cnnjax.plan import Plan


class Profile:
    """Traces `steps` steps of a run, after its first ten, for TensorBoard or ui.perfetto.dev, in
    `directory`/profile (https://docs.jax.dev/en/latest/profiling.html); a context manager."""

    FIRST = 10

    def __init__(self, directory: Path, steps: int):
        self.directory, self.running = directory / 'profile', False
        self.traced = range(self.FIRST, self.FIRST + steps)

    def step(self, done: int, state: Any) -> None:
        """Starts or stops the trace; called before each step, with the newest state."""
        if (done in self.traced) == self.running:
            return
        jax.block_until_ready(state)  # so that the trace has whole steps
        if self.running:
            jax.profiler.stop_trace()
        else:
            jax.profiler.start_trace(self.directory)
        self.running = not self.running

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.running:
            jax.profiler.stop_trace()


class Progress:
    """A progress bar on a terminal, else a line per report; only the first process shows it."""

    def __init__(self, lengths: Plan, batch_size: int, start: int):
        self.lengths, self.batch_size, self.done = lengths, batch_size, start
        self.bar = tqdm(total=lengths.steps, initial=start, unit='step',
                        disable=None if cluster.first() else True, dynamic_ncols=True)
        self.start_time = self.time = time.perf_counter()
        self.timed = start
        if start:
            self.print(f'resuming after step {start} of {lengths.steps}')

    def print(self, line: str) -> None:
        if not self.bar.disable:
            self.bar.write(line)
        elif cluster.first():
            print(line, flush=True)

    def compiled(self, count: int) -> None:
        """Prints how long the first `count` steps took, and measures speed from here on."""
        self.time, self.timed = time.perf_counter(), self.done + count
        self.print(f'first step after {self.time - self.start_time:.1f} s (compilation)')

    def advance(self, count: int) -> None:
        self.done += count
        self.bar.update(count)

    def rate(self) -> float | None:
        """Images per second since the last report; None if no step was made."""
        now, images = time.perf_counter(), (self.done - self.timed) * self.batch_size
        rate = images / (now - self.time) if images else None
        self.time, self.timed = now, self.done
        return rate

    def report(self, row: Mapping[str, Any]) -> None:
        """Shows a row. The time that it takes to evaluate and save does not count as training."""
        shown = f'epoch {row["epoch"]:.1f}  step {row["step"]}/{self.lengths.steps}  ' \
                f'loss {row["train/loss"]:.4f}'
        shown += ''.join(f'  {name.removeprefix("train/")} {100 * value:.2f}%'
                         for name, value in row.items()
                         if name.endswith(('/error', 'top5_error', 'pixel_accuracy', 'mean_iou',
                                           '/ap', '/ap50')))
        if 'images_per_second' in row:
            shown += f'  {row["images_per_second"]:,.0f} images/s'
            left = (self.lengths.steps - row['step']) * self.batch_size / row['images_per_second']
            shown += f'  {datetime.timedelta(seconds=round(left))} left'
        if self.bar.disable or reports.evaluated(row):
            self.print(shown)
        else:
            self.bar.set_postfix_str(shown)
        self.time = time.perf_counter()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()
