"""Imports only go down the list RANKS: launch, experiments, cnnjax, and the files within it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the top down; a module may import those of the lines below it. Modules of one line are kin.
RANKS = [
    ['launch'],
    ['experiments'],
    ['configs'],
    ['cnnjax.sweeps'],
    ['cnnjax.jobs'],
    ['cnnjax.features', 'cnnjax.images.atlas'],
    ['cnnjax.train', 'cnnjax.images.directions', 'cnnjax.images.run', 'cnnjax.images.units'],
    ['cnnjax.class_weights', 'cnnjax.loop', 'cnnjax.training', 'cnnjax.training_config'],
    ['cnnjax.distillation', 'cnnjax.perceptual', 'cnnjax.report'],
    ['cnnjax.early_stopping', 'cnnjax.figures', 'cnnjax.plan', 'cnnjax.progress', 'cnnjax.resume'],
    ['cnnjax.images.optimize'],
    ['cnnjax.images.descent', 'cnnjax.images.diagnosis'],
    ['cnnjax.images.tiles'],
    ['cnnjax.images'],
    ['cnnjax.export', 'cnnjax.trained'],
    ['cnnjax.predict_classes'],
    ['cnnjax.predict'],
    ['cnnjax.evaluate'],
    ['cnnjax.checkpoint', 'cnnjax.dataset', 'cnnjax.dataset_json', 'cnnjax.weights',
     'cnnjax.reports', 'cnnjax.microscope'],
    ['cnnjax.workdir', 'cnnjax.counterparts', 'cnnjax.metadata', 'cnnjax.trackers',
     'cnnjax.views'],
    ['cnnjax.charts', 'cnnjax.curves', 'cnnjax.network', 'cnnjax.thumbnails'],
    ['cnnjax.step', 'cnnjax.tasks', 'cnnjax.tensors'],
    ['cnnjax.averages', 'cnnjax.lsuv', 'cnnjax.optim', 'cnnjax.parallel', 'cnnjax.plateau',
     'cnnjax.transfer', 'cnnjax.diagram', 'cnnjax.collectives', 'cnnjax.overlays', 'cnnjax.plots'],
    ['cnnjax.summary'],
    ['cnnjax.forward_pass'],
    ['cnnjax.data'],
    ['cnnjax.models'],
    ['cnnjax.detection', 'cnnjax.residual'],
    ['cnnjax.layers', 'cnnjax.losses', 'cnnjax.regions', 'cnnjax.toeplitz'],
    ['cnnjax.boxes', 'cnnjax.average_precision'],
    ['cnnjax.convolution'],
    ['cnnjax.winograd', 'cnnjax.receptive_fields'],
    ['cnnjax.cluster', 'cnnjax.config_file', 'cnnjax.user_network'],
    ['cnnjax.frozen_graph', 'cnnjax.limits', 'cnnjax.memory', 'cnnjax.python_file'],
    ['cnnjax.atomic', 'cnnjax.embedding', 'cnnjax.errors', 'cnnjax.events', 'cnnjax.fonts',
     'cnnjax.layer_names', 'cnnjax.page', 'cnnjax.quiet', 'cnnjax.tables'],
]
FILES = sorted([ROOT / 'launch.py', *(path for name in ('cnnjax', 'configs', 'experiments')
                                      for path in (ROOT / name).rglob('*.py'))])


def rank(module):
    """The line of a module, by its longest prefix in RANKS; None for a library."""
    lines = {name: line for line, names in enumerate(RANKS) for name in names}
    parts = module.split('.')
    prefixes = ('.'.join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((lines[prefix] for prefix in prefixes if prefix in lines), None)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path):
    own = '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
    if own == 'cnnjax':
        return
    assert rank(own) is not None, f'{own} has no rank'
    for module in imports(path):
        below = rank(module)
        assert below is None or below >= rank(own), f'{own} imports {module}'


def test_configs_hold_values_only():
    for path in (ROOT / 'configs').glob('*.py'):
        for module in imports(path):
            assert (module.split('.')[0] in ('ml_collections', 'configs')
                    or module.startswith('cnnjax.errors.')), f'{path}: {module}'


def test_only_the_launcher_has_flags():
    for path in FILES:
        if path.name not in ('launch.py', 'loader.py'):  # the latter has none: grain has
            assert not any(module.startswith('absl.flags') for module in imports(path)), path


SETTINGS = '''
import importlib, logging, os, pkgutil, sys, warnings
import matplotlib
import cnnjax

def import_all():
    for module in pkgutil.walk_packages(cnnjax.__path__, 'cnnjax.'):
        importlib.import_module(module.name)

import_all()  # and the libraries, which have settings of their own
for name in [name for name in sys.modules if name.startswith('cnnjax.')]:
    del sys.modules[name]
warnings.resetwarnings()
loggers = [logging.getLogger(name) for name in (None, *logging.root.manager.loggerDict)]
for logger in loggers:
    logger.setLevel(logging.INFO)
    logger.filters.clear()
before = dict(matplotlib.rcParams), dict(os.environ)
import_all()
assert not warnings.filters, warnings.filters
for logger in loggers:
    assert (logger.level, logger.filters) == (logging.INFO, []), logger
assert before == (dict(matplotlib.rcParams), dict(os.environ))
'''


def test_importing_the_library_changes_no_settings_of_the_process():
    """Warnings, logs, pictures and the environment belong to the program that imports it."""
    subprocess.run([sys.executable, '-c', SETTINGS], check=True, cwd=ROOT)
