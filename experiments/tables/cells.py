"""The cells of a table: which trainings they have, and what has become of these."""

import functools
import re
import statistics
from typing import Any, NamedTuple

from ml_collections import FrozenConfigDict

from cnnjax import limits, sweeps
from configs import tables
from configs.recipes import lengths
from configs.recipes.columns import DATA, NoSetting

UNKNOWN = '-'  # the papers' sign for a number that they do not have


class Cell(NamedTuple):
    """A number of a table."""

    row: str  # the name of its row
    column: str  # the title of its column
    paper: str  # the number as it is printed, or UNKNOWN
    measure: str  # what it takes from a training: 'error', 'column3/error', 'seconds', ...
    recipe: str  # 'cifar/nin'; '': no network of ours
    trainings: dict[str, tuple[Any, dict[str, Any]]]  # {directory: (config, fields to show)}
    length: str  # '5 of 250 epochs' if the trainings are shorter than the recipe's; else ''
    chosen: bool  # whether the command trains it


def cells(config) -> list[Cell]:
    """All cells of the table that the config names, row by row."""
    return _cells(FrozenConfigDict(config))


@functools.lru_cache(1)  # A table is written anew after each training.
def _cells(config):
    table, found = tables.named(config), []
    rows, columns = (limits.names(config[field]) for field in ('rows', 'columns'))
    for name, row in table.rows.items():
        papers = tables.published(table, name)
        for column, (setting, measure) in table.columns.items():
            paper = papers[column]
            wanted = paper != UNKNOWN or config.unpublished or table.own
            trainings, length = trained_by(config, name, row, setting) if wanted else ({}, '')
            found.append(Cell(
                name, column, paper, row.measure or measure,
                tables.recipe(row, setting) if trainings or paper != UNKNOWN else '', trainings,
                length, bool(trainings) and name in (rows or table.rows)
                and column in (columns or table.columns)))
    return found


def trained_by(config, name: str, row: tables.Row, setting: str) -> tuple[dict[str, Any], str]:
    """The trainings of a cell, one for each seed, and how short they are; see Cell."""
    trainings, length = {}, ''
    for seed in range(config.seed, config.seed + config.seeds):
        try:
            found = tables.training(config, row, setting, seed)
        except NoSetting:  # and no number in it
            if config.unpublished:
                return {}, ''
            raise
        if found is None:
            return {}, ''
        recipe, share = found
        label = f'{row.of or name},{setting}'
        if share < 1:
            epochs = lengths.epochs(recipe, DATA[recipe.dataset].examples)
            length = f'{epochs:.3g} of {epochs / share:.3g} epochs'
            label += f',epochs={epochs:.3g}'
        if config.dtype != 'float32':
            label += f',{config.dtype}'
        trainings[f'{label},seed{seed}'] = recipe, {
            'row': row.of or name, 'setting': setting, 'seed': seed}
    return trainings, length


def compare(config, entries: sweeps.Entries) -> dict[str, Any]:
    """The contents of the table's json file, from the entries of sweep.json; errors are in %."""
    table, rows = tables.named(config), {}
    for cell in cells(config):
        rows.setdefault(cell.row, {})[cell.column] = _compared(cell, entries)
    compared = {'table': config.table, 'title': table.title, 'source': table.source,
                'remark': table.remark, 'columns': list(table.columns), 'own': table.own, 'rows': [
                    {'name': name, 'label': table.rows[name].label,
                     'remark': table.rows[name].remark, 'cells': row}
                    for name, row in rows.items()]}
    if table.own:
        for row in compared['rows']:
            # A row of another one's trainings has no network of its own.
            row |= _facts({} if table.rows[row['name']].of else row['cells'], entries)
    if table.ratio:
        label, above, below = table.ratio
        compared['rows'].append({'name': 'ratio', 'label': label, 'remark': '', 'cells': {
            column: _ratio(rows[above][column], rows[below][column]) for column in table.columns}})
    return compared


def _compared(cell, entries):
    known = {label: entries.get(label, {'state': 'not run'}) for label in cell.trainings}
    values = {label: entry[cell.measure] * (1 if cell.measure == 'seconds' else 100)
              for label, entry in known.items()
              if entry['state'] == 'finished' and entry.get(cell.measure) is not None}
    ours = statistics.fmean(values.values()) if values else None
    paper = number(cell.paper)
    return {'paper': cell.paper, 'ours': ours,
            'deviation': statistics.stdev(values.values()) if len(values) > 1 else None,
            'difference': None if ours is None or paper is None or cell.measure == 'seconds'
            else ours - paper, 'state': _state(cell, known, values), 'length': cell.length,
            'seeds': f'{len(values)} of {len(known)} seeds' if 0 < len(values) < len(known) else '',
            'measure': cell.measure, 'recipe': cell.recipe,
            'trainings': {label: values.get(label) for label in known}}


def _state(cell, known, values):
    """What a reader must know of a cell without a number of ours."""
    if values:
        return 'finished'
    if not cell.recipe:
        return '' if cell.paper == UNKNOWN else 'no network'
    if not known:
        return ''
    label, entry = min(known.items(), key=lambda item: (
        'failed', 'no data', 'not finished', 'not run', 'finished').index(item[1]['state']))
    said = {'failed': f'failed: {entry.get("message", "")}', 'not finished': 'not finished',
            'no data': f'no data: {cell.trainings[label][0].dataset}', 'not run': 'not run',
            'finished': f'no {cell.measure}'}
    return said[entry['state']]


def _facts(row, entries):
    """The parameters of a row's network, and the seconds of its trainings, on average."""
    known = [entries[label] for cell in row.values() for label in cell['trainings']
             if entries.get(label, {}).get('state') == 'finished']
    times = [entry['seconds'] for entry in known if entry.get('seconds')]
    return {'parameters': known[0].get('parameters') if known else None,
            'seconds': statistics.fmean(times) if times else None}


def _ratio(above, below):
    paper, ours = ((number(above[key]) / number(below[key])
                    if number(above[key]) and number(below[key]) else None)
                   for key in ('paper', 'ours'))
    return {'paper': UNKNOWN if paper is None else f'{paper:.2f}', 'ours': ours, 'deviation': None,
            'difference': None if None in (paper, ours) else ours - paper,
            'state': '' if ours is None else 'finished', 'measure': 'ratio', 'length': '',
            'seeds': '', 'recipe': '', 'trainings': {}}


def number(printed: str | float | None) -> float | None:
    """'5.22' -> 5.22; '20h 42m' -> its seconds; None for UNKNOWN. Numbers stay as they are."""
    if printed in (None, UNKNOWN) or not isinstance(printed, str):
        return None if isinstance(printed, str) else printed
    if time := re.fullmatch(r'(\d+)h (\d+)m', printed):
        return 3600 * int(time[1]) + 60 * int(time[2])
    return float(printed)
