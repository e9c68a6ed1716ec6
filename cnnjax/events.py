"""TensorBoard events: the rows of a run as curves, its figures, and histograms of its weights."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

BINS = 50  # the bars of a histogram


class Events:
    """A file of events, which replace all earlier ones from step `begin` on. It is created with the
    first of them.

    Events are on disk at once. SummaryWriter writes in a thread: a killed process loses the last
    two minutes, and a full disk ends the thread with a traceback.

    Args:
      directory: that of the run.
      suffix: the end of the file's name.
    """

    def __init__(self, directory: str | Path, suffix: str, begin: int | None = None):
        self._folder, self._suffix, self._begin = Path(directory) / 'tensorboard', suffix, begin
        self._file: Any = None

    def rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds the numbers of rows of metrics.jsonl."""
        # Imported here, because it imports PyTorch if that is installed, which takes a second.
        from tensorboardX.summary import scalar

        for row in rows:
            for name, value in row.items():
                if name != 'step':
                    self._add(row['step'], summary=scalar(name, value))
        self._flush()

    def figures(self, step: int, paths: Iterable[Path]) -> None:
        """Adds pictures from PNG files; the name of a file is that of its picture."""
        from tensorboardX.proto import summary_pb2

        for path in paths:
            with Image.open(path) as picture:
                shape = {'width': picture.width, 'height': picture.height,
                         'colorspace': len(picture.getbands())}
            self._add(step, summary=summary_pb2.Summary(value=[summary_pb2.Summary.Value(
                tag=f'figures/{path.stem}', image=summary_pb2.Summary.Image(
                    encoded_image_string=path.read_bytes(), **shape))]))
        self._flush()

    def histograms(self, step: int, params: Any) -> None:
        """Adds a histogram of each array of a tree of parameters, which may be on devices. Values
        that are not finite are left out: the next step ends such a training with a message."""
        from tensorboardX.summary import histogram_raw

        for path, array in jax.tree.leaves_with_path(params):
            values = np.asarray(array, np.float32)
            values = values[np.isfinite(values)]
            if not values.size:
                continue
            # In float32, there are no 50 limits between values that hardly differ.
            limits = np.float64(values.min()), np.float64(values.max())
            counts, edges = np.histogram(values, BINS, limits)
            name = jax.tree_util.keystr(path, simple=True, separator='/')
            self._add(step, summary=histogram_raw(
                f'weights/{name}', values.min(), values.max(), values.size,
                values.sum(dtype=np.float64), np.vdot(values, values), edges[1:], counts))
        self._flush()

    def _add(self, step, **content):
        from tensorboardX import event_file_writer
        from tensorboardX.proto import event_pb2

        def event(step, **content):
            return event_pb2.Event(wall_time=time.time(), step=step, **content)

        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = event_file_writer.EventsWriter(str(self._folder / 'events'), self._suffix)
            if self._begin is not None:
                self._file.write_event(event(self._begin, session_log=event_pb2.SessionLog(
                    status=event_pb2.SessionLog.START)))
        self._file.write_event(event(step, **content))

    def _flush(self):
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
