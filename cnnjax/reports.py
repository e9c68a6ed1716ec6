"""The numbers that a run reports: metrics.jsonl, and the same numbers as TensorBoard events.

There is one row for each report; none is written twice and none is lost where a run is killed and
resumed, because every checkpoint has a copy of the rows so far.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cnnjax import atomic, cluster, workdir
from cnnjax.errors import UserError


def read_metrics(directory: str | Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, oldest first; a last row cut off by a kill is left out.

    Raises:
      UserError: the file is damaged.
    """
    path = Path(directory) / 'metrics.jsonl'
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except (ValueError, OSError) as error:
        raise UserError(f'{path} cannot be read: {error}') from None
    rows = []
    for number, line in enumerate((line for line in lines if line.endswith('\n')), 1):
        try:
            rows.append(workdir.checked_row(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise UserError(f'{path}: line {number} is damaged: {error}; delete it') from None
    return rows


def recover(directory: str | Path, past: Mapping[str, Any], begin: int = 0,
            end: float = math.inf) -> None:
    """Gives metrics.jsonl back the rows that a checkpoint's `past` has, and tells how many were
    lost. They are all that it may have after the step `begin`, up to `end`."""
    if not past or not cluster.first():
        return
    try:
        found = read_metrics(directory)
    except UserError as error:
        print(error, flush=True)
        found = []
    lines, kept = set(map(_line, found)), past['rows']
    rows = [*(row for row in found if row['step'] <= begin), *kept,
            *(row for row in found if row['step'] > end)]
    lost = [row for row in kept if _line(row) not in lines]
    if lost:
        print(f'{Path(directory) / "metrics.jsonl"}: {len(lost)} of {len(kept)} rows were lost or '
              'damaged; they are restored from the checkpoint', flush=True)
        with contextlib.closing(_Events(directory, '.restored')) as events:
            events.add(lost)
    if list(map(_line, rows)) != list(map(_line, found)):
        atomic.write_text(Path(directory) / 'metrics.jsonl', ''.join(map(_line, rows)))


class Metrics:
    """Writes metrics.jsonl and TensorBoard events; a context manager. Of several processes the
    first writes.

    Rows after `step`, where the run resumes, are dropped: they are about to be written again.

    Args:
      config: that of the run; its checkpoints get a copy.
      past: that of the checkpoint from which it resumes; `recover` comes before.
      begin: the step after which the rows belong into this run's checkpoints.

    `pending` are the values, of each step, that the run had not reported yet when it was stopped.
    """

    def __init__(self, directory: str | Path, step: int, config: ConfigDict | None = None,
                 past: Mapping[str, Any] | None = None, begin: int = 0):
        self.pending = past['pending'] if past else []
        self._config: Any = config
        self._dataset = atomic.read_json(Path(directory) / workdir.DATASET)
        self._first = cluster.first()
        if not self._first:
            return
        rows = [row for row in read_metrics(directory) if row['step'] <= step]
        self._rows = [row for row in rows if row['step'] > begin]
        path = Path(directory) / 'metrics.jsonl'
        atomic.write_text(path, ''.join(map(_line, rows)))
        self._file = path.open('a')
        self._events = _Events(directory, f'.{step}', step + 1)

    def write(self, *rows: dict[str, Any]) -> None:
        """Adds rows, dicts of numbers with 'step'; they are on disk when this returns."""
        if not self._first:
            return
        self._file.write(''.join(map(_line, rows)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._rows += rows
        self._events.add(rows)

    def past(self, pending: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any] | None:
        """What a checkpoint must know of the run beside its state, as JSON has it: the config, what
        dataset.json holds, all rows, and `pending`, the values of each step since the last one."""
        if not self._first:
            return None
        return {'config': self._config.to_dict(), 'dataset': self._dataset,
                'rows': list(self._rows), 'pending': [
                    {name: float(value) for name, value in values.items()} for values in pending]}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._first:
            self._file.close()
            self._events.close()


class _Events:
    """A file of TensorBoard events, which replace those from step `begin` on. The first rows make
    it.

    What is added is on disk at once. SummaryWriter leaves it to a thread, which loses two minutes
    where the process is killed, and stops with a traceback where the disk is full.
    """

    def __init__(self, directory, suffix, begin=None):
        self._folder, self._suffix, self._begin = Path(directory) / 'tensorboard', suffix, begin
        self._file: Any = None

    def _open(self):
        from tensorboardX import event_file_writer
        from tensorboardX.proto import event_pb2

        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = event_file_writer.EventsWriter(str(self._folder / 'events'), self._suffix)
        if self._begin is not None:
            self._file.write_event(event_pb2.Event(
                wall_time=time.time(), step=self._begin,
                session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)))

    def add(self, rows):
        # Not above: it imports PyTorch where that is installed, which takes more than a second.
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        if not self._file:
            self._open()
        for row in rows:
            for name, value in row.items():
                if name != 'step':
                    self._file.write_event(event_pb2.Event(
                        wall_time=time.time(), step=row['step'], summary=scalar(name, value)))
        self._file.flush()

    def close(self):
        if self._file is not None:
            self._file.close()


def _line(row):
    return json.dumps(row) + '\n'
