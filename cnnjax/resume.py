"""Checks whether a run may resume in its directory, and ends runs that are finished."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from cnnjax import checkpoint, cluster, early_stopping, reports, workdir
from cnnjax.dataset_json import Dataset
from cnnjax.errors import UserError
from cnnjax.plan import Plan, plan


def finished_without_data(config: ConfigDict, directory: Path, recorded: Dataset | None,
                          missing: Exception) -> dict[str, Any]:
    """The last row of a finished run whose data is not there. If the run is not finished, raises
    `missing`, the error about the data."""
    known = recorded and recorded.splits.get(config.train_split)
    if not recorded or not (known or config.steps):
        raise missing
    lengths = plan(config, known.examples if known else config.batch_size)
    with checkpoint.Checkpoints(directory / 'checkpoints', read_only=True) as checkpoints:
        start = checkpoints.latest()
        if start is None:
            raise missing
        past = checkpoints.past(start)
        errors = early_stopping.errors(past, lengths.eval_every)
        if start != lengths.steps and not early_stopping.due(errors, lengths.patience):
            raise missing
    check_config(directory, config, lengths, start, past)
    reports.recover(directory, past)
    return finished(directory, start,
                    f'; that its data is still the same cannot be told: {missing}')


def finished(directory: Path, steps: int, remark: str = '') -> dict[str, Any]:
    """Prints that the run is finished, and returns the last row of metrics.jsonl.

    Raises:
      UserError: the row of the last step is lost, and the checkpoint, from an older version, has no
        copy of it.
    """
    multihost_utils.sync_global_devices('rows')  # waits for rows that the first process restores
    last = (reports.read_metrics(directory) or [{'step': None}])[-1]
    if last['step'] != steps:
        raise UserError(f'{directory}: this run is finished, after {steps} steps, but the last row '
                        'of metrics.jsonl is lost; configs/evaluate.py tells its error')
    if cluster.first():
        print(f'{directory}: this run is finished, after {steps} steps{remark}', flush=True)
    return last


def check_config(directory: Path, config: ConfigDict, lengths: Plan, start: int,
                 past: Mapping[str, Any]) -> None:
    """Raises UserError if the run in `directory`, which has made `start` steps, has another config.

    Its length may change, if the steps so far had the same learning rates and the weights the same
    average. `past` is that of its checkpoint.
    """
    rows = [] if start else reports.read_metrics(directory)
    if rows and cluster.first():
        print(f'{directory} has rows up to step {rows[-1]["step"]} but no checkpoint: the training '
              'begins anew', flush=True)
    if not start and not any(map(reports.evaluated, rows)):  # An evaluation saves too.
        return
    saved = past['config'] if past else workdir.read_config(directory)
    if saved is None:
        raise UserError(f'{directory} has lost its config.json: take another workdir')
    changed = workdir.differences(saved, config)
    extended = set(changed) <= {'epochs', 'steps'}
    if extended and changed:
        then = plan(saved, lengths.steps_per_epoch * saved.batch_size)
        done = np.arange(start)
        before, now = (np.broadcast_to(np.asarray(rate(done), np.float32), done.shape)
                       for rate in (then.rate, lengths.rate))
        extended = (start <= lengths.steps and np.array_equal(before, now)
                    and then.average == lengths.average)
    if changed and not extended:
        workdir.refuse(directory, changed, ': the learning rates of the steps done would differ, '
                       'or the average of their weights would'
                       if set(changed) <= {'epochs', 'steps'} else '')
    if start > lengths.steps:  # The data has changed, and dataset.json is lost.
        raise UserError(f'{directory}: its run has made {start} steps, but {config.epochs:g} '
                        f'epochs of the data as it is now are only {lengths.steps}: restore the '
                        'data, or take another workdir')
