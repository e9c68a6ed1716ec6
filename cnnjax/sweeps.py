"""Runs all variants that a config's sweep() yields, and makes a table of their test errors.

    sweep.json    every run of the directory, the best first: fields, state, errors
    sweep.md      the same as a table

sweep() is in the config file, takes the argument of get_config, and yields {field: value}:

    def sweep():
        for learning_rate in (0.05, 0.1):
            yield {'learning_rate': learning_rate, 'model.name': 'resnet32'}
"""

import contextlib
import copy
import functools
import hashlib
import inspect
import json
import math
import urllib.parse
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cnnjax import (
    atomic,
    cluster,
    config_file,
    data,
    dataset,
    dataset_json,
    jobs,
    reports,
    tables,
    workdir,
)
from cnnjax.errors import UserError

# The errors in a table. Where there is a validation set, the sweep chooses by its lowest error.
MEASURED = {'val_error': 'validation error, %', 'error': 'test error, %'}
LONGEST = 200  # The most characters in a directory's name; file systems allow 255 bytes.

Entries = dict[str, dict[str, Any]]  # {name of a run: what sweep.json says of it}
Find = Callable[[str], Callable[[ConfigDict, str], Any]]  # name of an experiment -> its function


class Run(jobs.Job):
    """One run of a sweep, which adds its result to the sweep's table.

    Args:
      config: all of its fields, of which the table shows `fields`.
      sweep: the directory of the sweep; the run is in its folder `label`.
      experiment: the function of config and directory that it calls.
    """

    TABLE = 'sweep.md'  # the table's file

    def __init__(self, config: ConfigDict, fields: dict[str, Any], sweep: Path,
                 experiment: Callable[[ConfigDict, str], Any], label: str = ''):
        self.label = label or name(fields)
        super().__init__(config, str(sweep / self.label), experiment)
        self.fields, self.sweep = fields, sweep

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            message = str(error) if isinstance(error, UserError) else repr(error)
            self.note(state='no data' if isinstance(error, data.Missing) else 'failed',
                      message=message.splitlines()[0])
            raise
        self.note(state='finished', **self.results())

    def results(self) -> dict[str, float]:
        """The numbers of the finished run that its entry keeps."""
        return reports.test_errors(self.directory)

    def note(self, **entry: Any) -> None:
        """Replaces the run's entry in sweep.json and in the table."""
        if cluster.first():
            record(self.sweep, {self.label: {'fields': self.fields, 'config': self.digest(),
                                             **entry}}, self.draw)

    def draw(self, entries: Entries) -> None:
        """Writes the table of all entries."""
        atomic.write_text(self.sweep / self.TABLE, table(entries))

    def digest(self) -> str:
        """A checksum of the config, by which a finished run with the same config is known."""
        values = json.dumps(self.config.to_dict(), sort_keys=True, default=str)
        return hashlib.sha256(values.encode()).hexdigest()

    def finished(self, entries: Entries) -> bool:
        """Whether the sweep's table says that this run, with this config, is finished."""
        entry = entries.get(self.label, {})
        return (entry.get('state') == 'finished' and entry.get('config') == self.digest()
                and Path(self.directory).is_dir())


def run(config: ConfigDict, place: jobs.Place, file: str, changed: Collection[str],
        find: Find) -> bool:
    """Runs at `place` (a jobs.Place) all runs of the config's sweep() that are not finished.

    Args:
      config: the config of the command line, whose flags set the fields in `changed`, a dict.
      file: where the config was read from, such as 'configs/quickstart.py:resnet'.
      find: a function from an experiment's name to its function of config and directory.

    Returns:
      Whether all runs succeeded.

    Raises:
      UserError: the sweep is wrong. This is raised before anything runs.
    """
    runs = []
    for fields in read(file):
        own, shown = variant(config, fields, changed)
        runs.append(Run(own, shown, Path(place.directory), find(own.experiment)))
    names = [run.label for run in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f'sweep() yields {sorted(twice)[0]} twice')
    return run_all(runs, place)


def run_all(runs: Sequence[Run], place: jobs.Place) -> bool:
    """Runs at `place` those of the runs that are not finished, and returns whether all succeeded.

    Raises:
      UserError: the directory has other work, or a run has begun on other data. This is raised
        before anything runs.
    """
    directory = Path(place.directory)
    path = directory / runs[0].TABLE
    workdir.check_free(directory, 'sweep')
    if not place.executor:
        jobs.connect(place.processes, place.verbosity)
    entries = read_entries(directory)
    left = [run for run in runs if not run.finished(entries)]
    told = functools.cache(identity)  # Most sweeps use few data sets.
    for run in runs:
        if run.config.experiment == 'train':
            check_data(run, told, dataset_json.of_run if run in left else dataset_json.read)
    if not place.executor:
        cluster.agree(sweep=[run.label for run in left])
    # A run that failed before is tried last: with several processes its failure ends them all.
    left.sort(key=lambda run: entries.get(run.label, {}).get('state') == 'failed')
    alone = place.executor or cluster.first()
    if alone:
        print(f'{len(runs)} runs, {len(runs) - len(left)} of them finished', flush=True)
        record(directory, {
            run.label: {'fields': run.fields, 'state': 'not finished'}
            for run in left if run.label not in entries}, runs[0].draw)
    with contextlib.ExitStack() as stack:
        if alone and not place.executor:  # To another one its runs would seem failed.
            stack.enter_context(workdir.lock(directory))
        succeeded = place.run(left) if left else True
    if alone and place.executor == 'slurm':
        print(f'table, as the runs finish: {path}')
    elif alone:
        print(f'\n{path.read_text()}\ntable: {path}')
    return succeeded


def identity(split: str, *fields: Any) -> data.Identity | None:
    """The identity of a split of the set that a config with these fields, those of dataset.FIELDS,
    names; None if it is gone."""
    config = ConfigDict(dict(zip(dataset.FIELDS, fields, strict=True)))
    try:
        return data.identity(dataset.source(config, split))
    except data.Missing:
        return None


def check_data(run: Run, identity: Callable[..., data.Identity | None],
               read: Callable[[str], dataset_json.Dataset | None]) -> None:
    """Raises UserError if a finished or interrupted run was trained on other data than the rest of
    the sweep will be, because one table cannot compare their errors."""
    recorded, config = read(run.directory), run.config
    if recorded:
        splits = {split: identity(split, *(config[field] for field in dataset.FIELDS))
                  for split in (config.train_split, config.test_split, dataset.val_split(config))
                  if split}
        dataset_json.check(run.directory, recorded,
                      {split: found for split, found in splits.items() if found})


def read(file: str) -> list[dict[str, Any]]:
    """The dicts that the sweep() of 'configs/quickstart.py:resnet' yields."""
    path, *argument = file.split(':', 1)
    module = config_file.module(path)
    if not callable(getattr(module, 'sweep', None)):
        raise UserError(f'{path} has no sweep(): write in it, for example, def sweep(): return '
                        "[{'learning_rate': 0.05}, {'learning_rate': 0.1}]")
    try:
        inspect.signature(module.sweep).bind(*argument)
    except TypeError as error:
        raise UserError(f'sweep() in {path} must take the same argument as get_config: '
                        f'{error}') from error
    try:
        found = list(module.sweep(*argument))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f'sweep() in {path}: {error}') from error
    for fields in found:
        if (not isinstance(fields, dict) or not all(isinstance(field, str) for field in fields)
                or any(isinstance(value, dict) for value in fields.values())):
            raise UserError(f"sweep() in {path} yields {fields!r}, not a dict such as "
                            "{'learning_rate': 0.1, 'model.name': 'vgg11'}")
    if not found:
        raise UserError(f'sweep() in {path} yields no run')
    return found


def variant(config: ConfigDict, fields: dict[str, Any],
            changed: Collection[str]) -> tuple[ConfigDict, dict[str, Any]]:
    """A copy of `config` with these values, {field: value}, and the values as the copy holds them:
    0.0 for a 0, a tuple for a list.

    Raises:
      UserError: a field does not exist or does not take its value.
    """
    for field in fields:
        for other in changed:
            if f'{field}.'.startswith(f'{other}.') or f'{other}.'.startswith(f'{field}.'):
                raise UserError(f'{other} is given on the command line, and sweep() yields values '
                                f'of {field}: leave one of them out')
    config = copy.deepcopy(config)  # ConfigDict's own copy loses the types.
    try:
        for field in fields:
            config_file.check_field(config, field)
        config.update_from_flattened_dict(fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f'sweep() yields {fields}: {error.args[0]}') from error
    return config, {field: functools.reduce(getattr, field.split('.'), config) for field in fields}


def name(fields: Mapping[str, Any]) -> str:
    """The name of a run's directory, 'learning_rate=0.1,seed=2', unique to its fields."""
    def shown(value):
        if isinstance(value, (tuple, list)):
            return f'({",".join(map(shown, value))})'
        return urllib.parse.quote(str(value), safe='') or '%'

    text = ','.join(f'{field}={shown(value)}' for field, value in sorted(fields.items()))
    if len(text) > LONGEST:
        text = f'{text[:LONGEST]}...{hashlib.sha256(text.encode()).hexdigest()[:16]}'
    return text or 'unchanged'


def read_entries(directory: str | Path) -> Entries:
    """{name: entry} of sweep.json. A damaged file gives {} and a message; the file is made again,
    and finished runs add their entries again."""
    path = Path(directory) / 'sweep.json'
    if path.is_dir():
        raise UserError(f'{path} is a directory: move it away')
    try:
        return dict(map(_entry, atomic.read_json(path) or []))
    except Exception as error:  # A damaged file can hold any value and raise any error.
        if cluster.first():
            print(f'{path} is damaged ({error!r}): it is made anew', flush=True)
        return {}


def _entry(entry):
    """An entry of sweep.json as (name, entry). Raises an error if `record` cannot have made it."""
    for field, kind in (('name', str), ('fields', dict), ('state', str)):
        if not isinstance(entry[field], kind):
            raise ValueError(f'{field}={entry[field]!r}')
    for name, value in entry.items():
        if name in MEASURED and not math.isfinite(value) or value != value:
            raise ValueError(f'{name}={value}')
    return entry.pop('name'), entry


def record(directory: str | Path, entries: Entries, draw: Callable[[Entries], None]) -> None:
    """Adds entries to sweep.json, and draws the table of all. Several jobs may do this at the same
    time."""
    directory = Path(directory)
    with workdir.lock(directory, 'sweep.lock', wait=True):
        entries = ranked(read_entries(directory) | entries)
        atomic.write_json(directory / 'sweep.json',
                           [{'name': name, **entry} for name, entry in entries.items()])
        draw(entries)


def ranked(entries: Entries) -> Entries:
    """The entries, the best first, by their validation error if they have one, else by their test
    error; those without an error come last, sorted by name."""
    return dict(sorted(entries.items(), key=lambda item: (
        item[1].get('val_error', item[1].get('error', math.inf)), item[0])))


def table(entries: Entries) -> str:
    """The entries in Markdown, aligned."""
    fields = list(dict.fromkeys(field for entry in entries.values() for field in entry['fields']))
    measured = {name: title for name, title in MEASURED.items() if name == 'error' or any(
        name in entry for entry in entries.values())}
    header, rows = [*measured.values(), *fields, 'state'], []
    for entry in entries.values():
        state = entry['state']
        rows.append([*(f'{100 * entry[name]:.2f}' if name in entry else '' for name in measured),
                     *(str(entry['fields'].get(field, '')) for field in fields),
                     f'{state}: {entry["message"]}' if 'message' in entry else state])
    return tables.markdown(header, rows, left=len(header))
