"""Trains the networks of a paper's table, and prints ours beside the paper's numbers.

    python launch.py --config=configs/tables.py:fractalnet1 --workdir=runs/fractalnet1
    python launch.py --config=configs/tables.py:digits --workdir=runs/digits

The argument is a table: fractalnet1, stochastic_depth1 and stochastic_depth2 (training times),
resnet6, densenet2, vgg3, allcnn, or digits, which needs no download. configs/recipes/tables.py has
all of their rows, columns and published numbers.

Each cell is a training of its own, in its own directory of the workdir, by the recipe of its
network's paper with the data set and the augmentation of its column. With --executor=slurm all are
one array job. The same command again runs what is not finished. After each cell NAME.md,
NAME.json and figures/NAME.png of the table are written anew; a cell whose data is not there says
so. A part of a table, shortened:

    --config.rows=nin,allcnn --config.columns=C10,C10+ --config.epochs=5
"""

import ml_collections
from ml_collections.config_dict import placeholder

from cnnjax.errors import UserError, suggest
from configs import cifar, imagenet
from configs.recipes import columns, digits, lengths
from configs.recipes.tables import TABLES, Row, Table

FAMILIES = {'cifar': cifar, 'imagenet': imagenet, 'digits': digits}


def get_config(table='fractalnet1'):
    config = ml_collections.ConfigDict()
    config.experiment = 'tables'
    config.table = table  # the name of the table
    config.rows = ''  # the rows to train, by their names, as in 'nin,allcnn'; '': all
    config.columns = ''  # the columns to train, as in 'C10,C10+'; '': all
    config.unpublished = False  # True: also train the cells for which the paper has no number
    config.seed = 0  # the first seed
    config.seeds = 1  # how many seeds, each a training
    config.epochs = 0.0  # the length of longer trainings, with the same schedule; 0: the recipes'
    config.data_dir = placeholder(str)  # where the data sets are; None: tensorflow-datasets' place
    config.dtype = 'float32'  # the type of activations; 'bfloat16' is faster on accelerators
    config.devices = 0  # how many local devices to use; 0: all
    named(config)
    return config


def named(config) -> Table:
    """The table of that name.

    Raises:
      UserError: there is none.
    """
    if config.table not in TABLES:
        raise UserError(f"table='{config.table}' is none of {', '.join(TABLES)}"
                        f'{suggest(config.table, TABLES)}')
    return TABLES[config.table]


def published(table: Table, row: str) -> dict[str, str]:
    """The printed numbers of a row, {column: number}."""
    numbers = table.rows[row].published
    return dict(zip(table.columns, numbers.split() if isinstance(numbers, str) else numbers,
                    strict=True))


def recipe(row: Row, setting: str) -> str:
    """The name of the recipe that trains a row's network in a setting; '' if there is none."""
    recipes = row.recipe
    return recipes if isinstance(recipes, str) else recipes.get(setting, recipes.get('', ''))


def training(config, row: Row, setting: str, seed: int):
    """The config of the training that gives a row's number in a setting, and its share of the
    length of the recipe; None if no network of ours is the row's."""
    name = recipe(row, setting)
    if not name:
        return None
    family, _, network = name.partition('/')
    found = FAMILIES[family].get_config(network)
    columns.apply(found, setting)
    found.update_from_flattened_dict(row.fields | row.columns.get(setting, {}))
    share = 1.0
    length = lengths.epochs(found, columns.DATA[found.dataset].examples)
    if 0 < config.epochs < length:
        share = config.epochs / length
        lengths.stretch(found, share)
    found.seed, found.dtype, found.devices = seed, config.dtype, config.devices
    if found.dataset != 'digits':  # They come with scikit-learn.
        found.data_dir = config.data_dir
    return found, share
