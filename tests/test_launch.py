"""The launcher: one line for every mistake that a user can make in a command."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
QUICKSTART = '--config=configs/quickstart.py'


def launch(*arguments, **env):
    return subprocess.run([sys.executable, 'launch.py', *arguments], cwd=ROOT, capture_output=True,
                          text=True, env={'PATH': '', 'JAX_PLATFORMS': 'cpu', **env}, check=False)


@pytest.mark.parametrize(('arguments', 'message'), [
    ([QUICKSTART], 'Flag --workdir must have a value'),
    (['--config=configs/none.py'], "No such file or directory: 'configs/none.py'"),
    (['--config=configs/quickstart.py:lenet'], "'resnet' or 'fractalnet', not 'lenet'"),
    ([QUICKSTART, '--config.epoch=3'], 'Did you mean "epochs" instead of "epoch"?'),
    ([QUICKSTART, '--config.model.nam=vgg11'], 'Did you mean "name" instead of "nam"?'),
    ([QUICKSTART, '--config.batch_size=many'], '--config.batch_size=many: invalid literal'),
    ([QUICKSTART, '--confg.epochs=3'], "Unknown command line flag 'confg.epochs'"),
    ([QUICKSTART, 'epochs=3'], "'epochs=3' is not a flag"),
    ([QUICKSTART, '--config.experiment=fly'], "experiment='fly' is none of train"),
    ([QUICKSTART, '--executor=cloud'], '--executor=cloud: value should be one of <|slurm|local|'),
    ([QUICKSTART, '--executor=slurm'], 'executor=slurm: there is no srun here'),
    (['--config=configs/folder.py', '--sweep'], 'configs/folder.py has no sweep(): write in it'),
    ([QUICKSTART, '--config.image_size=-5'], 'image_size=-5: take 0 or a larger number'),
    ([QUICKSTART, '--config.seed=-1'], 'seed=-1: take 0 or a larger number'),
    ([QUICKSTART, '--config.model.name=resnet21'], "no network 'resnet21'; did you mean resnet"),
])
def test_a_mistake_is_told_in_one_line(arguments, message, tmp_path):
    if 'workdir' not in message:
        arguments = [*arguments, f'--workdir={tmp_path / "run"}']
    done = launch(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith('error: ')
    assert message in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'run' / 'config.json').exists()


@pytest.mark.parametrize(('given', 'expected'), [
    ({}, 'glibc.malloc.hugetlb=1'),
    ({'GLIBC_TUNABLES': 'glibc.malloc.check=0'}, 'glibc.malloc.check=0:glibc.malloc.hugetlb=1'),
    ({'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=0'}, 'glibc.malloc.hugetlb=0')])
def test_memory_comes_in_huge_pages_unless_told_otherwise(tmp_path, given, expected):
    config = tmp_path / 'config.py'
    config.write_text("import os\ndef get_config():\n"
                      "    raise ValueError(os.environ.get('GLIBC_TUNABLES'))")
    done = launch(f'--config={config}', '--workdir=run', **given)
    assert done.stderr == f'error: {expected}\n'


def test_an_interrupt_has_its_exit_code_and_no_traceback():
    code = """
import runpy
import sys
from absl import app
def interrupted(*_, **__):
    raise KeyboardInterrupt
app.run = interrupted
runpy.run_path(sys.argv[1], run_name='__main__')
"""
    done = subprocess.run([sys.executable, '-c', code, ROOT / 'launch.py'], cwd=ROOT, check=False,
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, '')
