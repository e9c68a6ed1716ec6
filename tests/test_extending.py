"""The examples in docs/extending.md work exactly as printed."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import atomic, tasks, train
from cnnjax.tasks.task import WholeBatch
from tests.kill import rows

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / 'docs' / 'extending.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)


def written(name, folder):
    """The module of the page's file `name`, which is written to the folder."""
    path = folder / Path(name).name
    path.write_text(next(block for block in BLOCKS if block.startswith(f'# {name}\n')))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_network_of_your_own(tmp_path):
    written('my_nets.py', tmp_path)
    for command, options in zip(
            re.findall(r'\.venv/bin/python (launch\.py .*)', PAGE),
            (['--config.steps=2', '--config.devices=1', '--config.eval_every=0.0'], []),
            strict=True):
        script, config, *arguments = shlex.split(command)
        done = subprocess.run(
            [sys.executable, ROOT / script, config.replace('configs/', f'{ROOT}/configs/'),
             *arguments, *options], cwd=tmp_path, capture_output=True, text=True)
        assert not done.returncode, done.stdout + done.stderr
    assert rows(tmp_path / 'runs' / 'mine')[-1]['step'] == 2
    results = atomic.read_json(tmp_path / 'runs' / 'mine-errors' / 'results.json')
    assert results['error'] == pytest.approx(rows(tmp_path / 'runs' / 'mine')[-1]['test/error'])


def test_data_of_your_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    block, = (block for block in BLOCKS if 'from_arrays' in block)
    exec(block, {})
    assert "{'count': 32, 'error': " in capsys.readouterr().out


def test_a_task_of_your_own(tiny, tmp_path, monkeypatch):
    hinge = written('cnnjax/tasks/hinge.py', tmp_path)
    monkeypatch.setitem(tasks.TASKS, 'hinge', hinge)
    logits, labels = jnp.array([[2.0, 1.5, 0.0], [0.0, 3.0, 1.0]]), jnp.array([0, 2])
    value, (metrics, _) = hinge.loss(lambda images: (logits, {}, {}),
                                     {'image': None, 'label': labels}, WholeBatch())
    assert float(value) == pytest.approx((0.5 + 3.0) / 2)
    assert float(metrics['error']) == 0.5
    with tiny.unlocked():
        tiny.task = 'hinge'
    last = train.train(tiny, tmp_path / 'run')
    assert np.isfinite(last['test/error'])


def test_an_experiment_of_your_own(tmp_path, capsys):
    config = written('configs/confidence.py', tmp_path).get_config()
    experiment = written('experiments/confidence.py', tmp_path)
    config.update(source='embedded', dataset='photos', count=4)
    with jax.numpy_rank_promotion('raise'):
        experiment.run(config, tmp_path)
    results = atomic.read_json(tmp_path / 'results.json')
    assert 0 < results['confidence'] <= 1
    assert str(results) in capsys.readouterr().out
