"""Experiments are found by name, and only the wanted one is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

import experiments
from cnnjax import config_file
from cnnjax.errors import UserError
from experiments import evaluate
from experiments.benchmark import scaling

ROOT = Path(__file__).parent.parent


def test_an_experiment_is_the_module_of_its_name():
    assert experiments.find('evaluate') is evaluate.run
    assert experiments.find('scaling') is scaling.run


def test_every_config_names_one():
    for path in (ROOT / 'configs').glob('*.py'):
        if path.name != '__init__.py':
            assert callable(experiments.find(config_file.load(str(path)).experiment))


@pytest.mark.parametrize(('name', 'message'), [
    ('fly', r"^experiment='fly' is none of benchmark, convolution, .*, visualize$"),
    ('visualise', "none of .*; did you mean visualize"),
    ('training', '; did you mean train'),
    ('filters', "'filters' is none of"),  # a module here, but no experiment
    ('__init__', 'is none of'), ('', 'is none of'),
    ('benchmark.scaling', '; did you mean benchmark or scaling?'),
])
def test_an_unknown_one_is_told_with_those_that_there_are(name, message):
    with pytest.raises(UserError, match=message):
        experiments.find(name)


def test_no_other_is_imported():
    """Nor what only others need: each would add to the time of every start."""
    code = '''
import sys
import experiments
experiments.find('train')
loaded = {name for name in sys.modules if name.startswith('experiments.')}
assert loaded == {'experiments.train'}, loaded
for name in ('skimage', 'sklearn', 'matplotlib.figure', 'tensorflow_datasets', 'torch', 'requests'):
    assert name not in sys.modules, name
'''
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def test_other_files_in_the_folder_change_nothing(tmp_path, monkeypatch):
    """Such as copies that systems and people leave there."""
    (tmp_path / 'old').mkdir()
    for path in ('train.py', 'old/train.py'):
        (tmp_path / path).write_text('def run(config, directory):\n    pass\n')
    (tmp_path / '._train.py').write_bytes(b'\x00\x05\x16\x07\xff\ndef run(')
    monkeypatch.setattr(experiments, 'FOLDER', tmp_path)
    monkeypatch.syspath_prepend(tmp_path.parent)
    assert experiments.find('train').__code__.co_filename == str(tmp_path / 'train.py')
