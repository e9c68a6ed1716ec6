"""The numbers that a run reports: metrics.jsonl, and the same numbers in metrics.csv, in
TensorBoard events and in a tracker.

Each report is one row. When a run is killed and resumed, no row is written twice and none is lost,
because every checkpoint has a copy of the rows so far.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cnnjax import atomic, cluster, tables, trackers, user_network, views, workdir
from cnnjax.errors import UserError
from cnnjax.events import Events

CSV = 'metrics.csv'
FIRST_BATCH = 'figures/first_batch.png'
FIGURES = '.figures'  # The name of the events with the figures of a finished run ends so.


def called(directory: str | Path, config: ConfigDict) -> str:
    """What the titles of a training call it: 'quickstart: resnet20 on digits'."""
    network = user_network.short(config.model.name)
    return f'{Path(directory).name}: {network} on {config.dataset}'


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
    training ended with or, beside a validation set and with several views of a picture, those of
    its results.json; {} without any. There is also the lowest 'val_error'."""
    rows = [row for row in read_metrics(directory) if evaluated(row)]
    lowest = {'val_error': min(row['val/error'] for row in rows)} if (
        rows and evaluated(rows[-1]) == 'val') else {}
    config = workdir.read_config(directory)
    one_view = config is None or views.Views.of(config).single
    if rows and not lowest and one_view:
        return {key.removeprefix('test/'): value for key, value in rows[-1].items()
                if key.startswith('test/') and key.endswith('error')}
    results = atomic.read_json(Path(directory) / 'results.json')
    found = results if isinstance(results, dict) else {}
    return lowest | {key: value for key, value in found.items()
                     if key.endswith('error') and isinstance(value, (int, float))}


def training_seconds(rows: Iterable[Mapping[str, Any]], batch_size: int) -> float | None:
    """How many seconds the steps of a training took, without compilation, evaluations and
    checkpoints, by the speeds in its rows; None if no row has a speed."""
    step = measured = seconds = 0
    for row in rows:
        if speed := row.get('images_per_second'):
            measured += row['step'] - step
            seconds += (row['step'] - step) * batch_size / speed
        step = row['step']
    return seconds * step / measured if measured else None


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
        with contextlib.closing(Events(directory, '.restored')) as events:
            events.rows(lost)
    changed = list(map(_line, rows)) != list(map(_line, found))
    if changed:
        atomic.write_text(Path(directory) / 'metrics.jsonl', ''.join(map(_line, rows)))
    if changed or not (Path(directory) / CSV).exists():
        _Table(directory, rows).close()


class Metrics:
    """Writes metrics.jsonl, metrics.csv and TensorBoard events; a context manager. Of several
    processes only the first writes.

    Rows after `step`, where the run resumes, are dropped, because the run will write them again.

    Args:
      config: the config of the run, which its checkpoints copy.
      past: that of the checkpoint from which the run resumes; call `recover` first.
      begin: the rows after this step belong to this run's checkpoints.
      tracker: it gets the rows too.

    `pending` are the metrics of the steps that were not reported yet when the run stopped.
    """

    def __init__(self, directory: str | Path, step: int, config: ConfigDict | None = None,
                 past: Mapping[str, Any] | None = None, begin: int = 0,
                 tracker: trackers.Tracker | None = None):
        self.pending = past['pending'] if past else []
        self._config: Any = config
        self._directory = Path(directory)
        self._dataset = atomic.read_json(self._directory / workdir.DATASET)
        self._first = cluster.first()
        if not self._first:
            return
        rows = [row for row in read_metrics(directory) if row['step'] <= step]
        self._rows = [row for row in rows if row['step'] > begin]
        path = self._directory / 'metrics.jsonl'
        atomic.write_text(path, ''.join(map(_line, rows)))
        self._file, self._table = path.open('a'), _Table(directory, rows)
        self._events = Events(directory, f'.{step}', step + 1)
        self._tracker = tracker
        if tracker:
            tracker.write(rows)

    def write(self, *rows: dict[str, Any]) -> None:
        """Adds rows, dicts of numbers with a 'step'. They are on disk when this returns."""
        if not self._first:
            return
        self._file.write(''.join(map(_line, rows)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._rows += rows
        self._table.add(rows)
        self._events.rows(rows)
        if self._tracker:
            self._tracker.write(rows)

    def first_batch(self) -> None:
        """Shows the figure of the first batch in TensorBoard."""
        if self._first:
            self._events.figures(1, [self._directory / FIRST_BATCH])

    def weights(self, step: int, params: Any) -> None:
        """Adds histograms of the parameters after `step` to TensorBoard."""
        if self._first:
            self._events.histograms(step, params)

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
            self._table.close()
            self._events.close()


def finish(directory: str | Path, config: ConfigDict, anew: bool = True) -> None:
    """Shows the figures of a finished run in TensorBoard, and completes its tracker.

    Args:
      anew: whether the figures are new; if not, TensorBoard has them.
    """
    if not cluster.first():
        return
    rows, directory = read_metrics(directory), Path(directory)
    figures = sorted((directory / 'figures').glob('*.png'))
    shown = [path for path in figures if path != directory / FIRST_BATCH]  # since the first step
    if anew:
        for earlier in directory.glob(f'tensorboard/*{FIGURES}'):
            earlier.unlink()
        with contextlib.closing(Events(directory, FIGURES)) as events:
            events.figures(rows[-1]['step'], shown)
    name = f'{evaluated(rows[-1])}/error'
    best = min((row for row in rows if name in row), key=lambda row: row[name])
    trackers.finish(directory, config, rows, figures,
                    {'best/step': best['step'], 'best/error': best[name]})


class _Table:
    """metrics.csv: a table of the rows with a column for each name, in the order in which the names
    appear in them. It is a copy, which each start writes anew."""

    def __init__(self, directory, rows):
        self._path = Path(directory) / CSV
        self._path.unlink(missing_ok=True)
        self._rows, self._columns = [], []
        self._file: Any = None
        self.add(rows)

    def add(self, rows):
        """Adds rows. With a new name, which is rare, the whole table is written anew."""
        self._rows += rows
        columns = [*dict.fromkeys((*self._columns, *(name for row in rows for name in row)))]
        anew = columns != self._columns
        lines = [[row.get(name, '') for name in columns] for row in (self._rows if anew else rows)]
        if anew:
            self.close()
            atomic.write_text(self._path, tables.comma_separated(columns, lines))
            self._columns, self._file = columns, self._path.open('a', encoding='utf-8')
        elif lines:
            self._file.write(tables.comma_separated(lines[0], lines[1:]))
            self._file.flush()

    def close(self):
        if self._file:
            self._file.close()


def _line(row):
    return json.dumps(row) + '\n'
