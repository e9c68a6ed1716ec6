"""The numbers that a run reports: metrics.jsonl, and the same numbers as TensorBoard events.

Each report is one row. When a run is killed and resumed, no row is written twice and none is lost,
because every checkpoint has a copy of the rows so far.
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
    """The rows of metrics.jsonl, oldest first, without a last row that a kill cut off.

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


def evaluated(row: Mapping[str, Any]) -> str:
    """The set that a row of a training has results of, 'val' or 'test'; '' if it has none."""
    return next((name for name in ('val', 'test') if f'{name}/error' in row), '')


def test_errors(directory: str | Path) -> dict[str, float]:
    """{'error': ..., 'top5_error': ...} of the test set of the run in `directory`: those that its
    training ended with or, beside a validation set, those of its results.json; {} without any.
    There is also the lowest 'val_error'."""
    rows = [row for row in read_metrics(directory) if evaluated(row)]
    lowest = {'val_error': min(row['val/error'] for row in rows)} if (
        rows and evaluated(rows[-1]) == 'val') else {}
    if rows and not lowest:
        return {key.removeprefix('test/'): value for key, value in rows[-1].items()
                if key.startswith('test/') and key.endswith('error')}
    results = atomic.read_json(Path(directory) / 'results.json')
    found = results if isinstance(results, dict) else {}
    return lowest | {key: value for key, value in found.items()
                     if key.endswith('error') and isinstance(value, (int, float))}


def recover(directory: str | Path, past: Mapping[str, Any], begin: int = 0,
            end: float = math.inf) -> None:
    """Restores the rows of metrics.jsonl after step `begin` and up to step `end` from the `past` of
    a checkpoint, and prints how many were lost."""
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
    """Writes metrics.jsonl and TensorBoard events; a context manager. Of several processes only the
    first writes.

    Rows after `step`, where the run resumes, are dropped, because the run will write them again.

    Args:
      config: the config of the run, which its checkpoints copy.
      past: that of the checkpoint from which the run resumes; call `recover` first.
      begin: the rows after this step belong to this run's checkpoints.

    `pending` are the metrics of the steps that were not reported yet when the run stopped.
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
        """Adds rows, dicts of numbers with a 'step'. They are on disk when this returns."""
        if not self._first:
            return
        self._file.write(''.join(map(_line, rows)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._rows += rows
        self._events.add(rows)

    def past(self, pending: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any] | None:
        """What a checkpoint saves beside the state, for a JSON file: the config, the contents of
        dataset.json, all rows, and `pending`, the metrics of each step since the last row."""
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
    """A file of TensorBoard events, which replace all earlier ones from step `begin` on. It is
    created with the first rows.

    Events are on disk at once. SummaryWriter writes in a thread: a killed process loses the last
    two minutes, and a full disk ends the thread with a traceback.
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
        # Imported here, because it imports PyTorch if that is installed, which takes a second.
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
