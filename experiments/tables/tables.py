"""Trains the networks of a paper's table, and puts ours beside the paper's numbers.

    nin,C10,seed0/, ...  the trainings, each a workdir of the experiment 'train'
    sweep.json           what became of each training
    fractalnet1.md           the paper's table with our numbers beside the published ones
    fractalnet1.json         the same with all seeds
    figures/fractalnet1.png  the same as a picture, in the colours of the differences
"""

import functools
from pathlib import Path

import jax

from cnnjax import atomic, cluster, data, limits, reports, sweeps, trained
from cnnjax.errors import UserError, suggest
from configs import tables
from experiments import train
from experiments.tables import cells, figure, text

LIMITS = {'seed': limits.SEED, 'seeds': limits.Whole(1), 'epochs': limits.Number(0),
          'devices': limits.Whole(), 'dtype': ('float32', 'bfloat16'), 'unpublished': (False, True)}


def sweep(config, place):
    """Runs, at a jobs.Place, the trainings of the chosen cells that are not finished, and returns
    whether all have succeeded."""
    check(config)
    runs = {}
    for cell in cells.cells(config):
        for label, (recipe, fields) in cell.trainings.items() if cell.chosen else ():
            runs[label] = Training(recipe, fields, Path(place.directory), label, config)
    if not runs:
        raise UserError('none of the chosen cells has a network of ours with a published number: '
                        'choose others, or give unpublished=True')
    done = sweeps.run_all(list(runs.values()), place)
    if place.executor == 'slurm':
        return done
    entries = sweeps.read_entries(place.directory)
    return done and all(run.finished(entries) for run in runs.values())


def check(config):
    """Raises UserError for values that no table has."""
    limits.check(config, LIMITS)
    table = tables.named(config)
    for field, known in (('rows', table.rows), ('columns', table.columns)):
        for name in limits.names(config[field]):
            if name not in known:
                raise UserError(f"{field}={config[field]}: {config.table} has no '{name}'"
                                f'{suggest(name, known)}; it has {", ".join(known)}')


class Training(sweeps.Run):
    """The training of one cell, or of several, and one seed. `table` is the config of the table."""

    def __init__(self, recipe, fields, directory, label, table):
        super().__init__(recipe, fields, directory, train.run, label)
        self.table, self.TABLE = table, f'{table.table}.md'

    def run(self):
        try:
            super().run()
        except data.Missing as error:  # The others go on, and the table says what is missing.
            tell(str(error))
        finally:
            jax.clear_caches()  # No two cells have a program in common.

    def results(self):
        """Errors, seconds, epochs and parameters of the finished training."""
        network = trained.load(self.directory)
        rows = reports.read_metrics(self.directory)
        return {**super().results(), 'epochs': rows[-1]['epoch'],
                'seconds': reports.training_seconds(rows, self.config.batch_size),
                'parameters': sum(array.size for array in jax.tree.leaves(
                    network.variables['params']))}

    def draw(self, entries):
        found = cells.compare(self.table, entries)
        atomic.write_json(self.sweep / f'{found["table"]}.json', found)
        atomic.write_text(self.sweep / self.TABLE, text.markdown(found))
        figure.draw(found, self.sweep / 'figures' / f'{found["table"]}.png')


@functools.cache
def tell(message):
    """Prints a message, but only once."""
    if cluster.first():
        print(message, flush=True)
