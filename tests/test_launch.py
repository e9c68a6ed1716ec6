"""The launcher: one line for every mistake that a user can make in a command."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from absl.testing import flagsaver

import launch as launcher
from cnnjax import config_file

ROOT = Path(__file__).parent.parent
QUICKSTART, WORKDIR = '--config=configs/quickstart.py', '--workdir=runs/none'


def launch(*arguments, **env):
    return subprocess.run([sys.executable, 'launch.py', *arguments], cwd=ROOT, capture_output=True,
                          text=True, env={'PATH': '', 'JAX_PLATFORMS': 'cpu', **env}, check=False)


@pytest.fixture
def parse(monkeypatch):
    """launch.parse, of a command that is over after it."""
    def run(*arguments):
        argv = ['launch.py', *arguments]
        monkeypatch.setattr(sys, 'argv', argv)  # ml_collections reads it.
        return launcher.parse(argv)

    monkeypatch.chdir(ROOT)
    with flagsaver.flagsaver():
        yield run


ALL = 'configs has base.py, benchmark.py, cifar.py'


@pytest.mark.parametrize(('arguments', 'messages'), [
    ([QUICKSTART], ['--workdir is missing: the directory for all']),
    ([WORKDIR], ['--config is missing', 'launch.py --help lists the configs']),
    (['configs/quickstart.py'], ['did you mean --config=configs/quickstart.py?']),
    ([QUICKSTART, WORKDIR, 'epochs=3'], ["'epochs=3' is not a flag"]),
    # Config files.
    (['--config=configs/quickstrat.py'], ['did you mean configs/quickstart.py?\n' + ALL]),
    (['--config', 'quickstart'], ['did you mean configs/quickstart.py?\n' + ALL]),
    (['--config=configs'], ['config=configs: this is a directory\n' + ALL]),
    (['--config='], ['config=: there is no such file\n' + ALL]),
    (['--config=README.md'], ['README.md is no config file: it has no function get_config']),
    (['--config=launch.py'], ['launch.py is no config file: it has no function get_config']),
    (['--config=configs/quickstart.py:lenet'], ["'resnet' or 'fractalnet', not 'lenet'"]),
    (['--config=configs/folder.py:x'], ["configs/folder.py takes no argument, such as 'x',"]),
    # Fields.
    ([QUICKSTART, '--config.whatever=adam'],
     ['config.whatever: there is no such field\nThe config has accumulate, adamw_beta2,']),
    ([QUICKSTART, '--config.model.foo=1'], ['config.model.foo: ', '\nmodel has anchor_ratios']),
    ([QUICKSTART, '--config.epoch=3'], ['config.epoch: there', 'did you mean --config.epochs?']),
    ([QUICKSTART, '--config.epoch', '3'], ['did you mean --config.epochs?']),
    ([QUICKSTART, '--noconfig.flap'], ['did you mean --config.flip?']),
    ([QUICKSTART, '--config.batch-size=3'], ['did you mean --config.batch_size?']),
    ([QUICKSTART, '--config.lr=3'], ['did you mean', 'or --config.learning_rate?']),
    ([QUICKSTART, '--config.model.nam=vgg11'], ['did you mean --config.model.name?']),
    ([QUICKSTART, '--config.modle.name=vgg11'], ['did you mean --config.model.name?']),
    ([QUICKSTART, '--config.name=vgg11'], ['did you mean --config.model.name?']),
    ([QUICKSTART, '--config.model=vgg11'], ['config.model is a group', '--config.model.name?']),
    ([QUICKSTART, '--config.seed.x=1'], ["config.seed.x: 'seed' is a value"]),
    ([QUICKSTART, '--config.=1'], ['config.: there is no such field\n']),
    (['--config=configs/reproduce.py', '--config.lr=1'], ['or --config.recipe.learning_rate?']),
    (['--config=configs/style.py', '--config.stlye=a.jpg'], ['did you mean --config.styles?']),
    # Flags.
    ([QUICKSTART, WORKDIR, '--lr=0.1'], ['--lr is not a flag', 'or --config.learning_rate?']),
    ([QUICKSTART, WORKDIR, '--learning_rate', '1'], ['did you mean --config.learning_rate?']),
    ([QUICKSTART, WORKDIR, '--batch-size=3'], ['did you mean --config.batch_size?']),
    ([QUICKSTART, WORKDIR, '--model=vgg11'], ['did you mean --config.model.name?']),
    ([QUICKSTART, WORKDIR, '--confg.epochs=3'], ['did you mean --config.epochs?']),
    ([QUICKSTART, WORKDIR, '--wrkdir=3'], ["flag 'wrkdir'. Did you mean: workdir"]),
    ([QUICKSTART, '--executor=cloud'], ['--executor=cloud: value should be one of <|slurm|local|']),
    # Values.
    ([QUICKSTART, '--config.batch_size=many'], ['--config.batch_size=many: give a whole number']),
    ([QUICKSTART, '--config.seed=1.5'], ['--config.seed=1.5: give a whole number']),
    ([QUICKSTART, '--config.image_size=None'], ['--config.image_size=None: give a whole number']),
    ([QUICKSTART, '--config.epochs=a: b'], ['--config.epochs=a: b: give a number']),
    ([QUICKSTART, '--config.stream=maybe'], ['--config.stream=maybe: give True or False']),
    ([QUICKSTART, '--config.drops=(1,'], ['--config.drops=(1,: give values with commas']),
    ([QUICKSTART, '--config.model.widths=1 2'], ['widths=1 2: give values with commas']),
    ([QUICKSTART, '--sweep=maybe'], ['--sweep=maybe: give True or False']),
    ([QUICKSTART, '--processes=x'], ['--processes=x: give a whole number']),
    # Files of flags.
    (['--flagfile=none.txt'], ["Unable to open flagfile", 'none.txt']),
    ([QUICKSTART, '--flagfile'], ['--flagfile with no argument']),
])
def test_a_mistake_in_the_flags_is_told_in_a_line(parse, arguments, messages):
    with pytest.raises(SystemExit) as stopped:
        parse(*arguments)
    told = stopped.value.code
    assert told.startswith('error: ')
    assert len(told.splitlines()) == 1 + any('\n' in message for message in messages)
    for message in messages:
        assert message in told


@pytest.mark.parametrize(('given', 'field', 'expected'), [
    ('--config.drops=60', 'drops', (60,)), ('--config.drops=1,2', 'drops', (1, 2)),
    ('--config.seed=7', 'seed', 7), ('--config.epochs=2', 'epochs', 2.0),
    ('--noconfig.nesterov', 'nesterov', False), ('--config.stream', 'stream', True),
    ('--config.data_dir=None', 'data_dir', None), ('--config.data_dir None', 'data_dir', None),
    ('--config.model.stem=None', 'model.stem', None),
    ('--config.model.dropout=None', 'model.dropout', None)])
def test_values_have_the_type_of_their_field(parse, given, field, expected):
    parse(QUICKSTART, WORKDIR, *given.split())
    value = config_file.flat(launcher.CONFIG.value)[field]
    assert value == expected
    assert type(value) is type(expected)


def test_a_file_of_flags_is_checked_as_they_are(parse, tmp_path):
    file = tmp_path / 'flags.txt'
    file.write_text(f'{QUICKSTART}\n--config.data_dir=None\n--config.epochs=2\n')
    parse(f'--flagfile={file}', WORKDIR)
    assert (launcher.CONFIG.value.epochs, launcher.CONFIG.value.data_dir) == (2, None)
    file.write_text(f'{QUICKSTART}\n--config.epoch=2\n')
    with pytest.raises(SystemExit, match='did you mean --config.epochs?'):
        parse(f'--flagfile={file}', WORKDIR)


def test_a_file_of_flags_that_is_missing_is_told_also_before_they_are_parsed():
    done = launch('--flagfile=none.txt')
    assert done.returncode == 1
    assert done.stderr.startswith('error: Unable to open flagfile')
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(('arguments', 'code', 'lines'), [
    ([], 1, ['configs/quickstart.py         A network on real scans of handwritten', '--[no]sweep',
             'python launch.py --config=configs/quickstart.py --workdir=runs/quickstart']),
    (['--help'], 0, ['configs/cifar.py              The papers']),
    (['-h'], 0, ['configs/cifar.py              The papers']),
    ([QUICKSTART, '--help'], 0, ['--config.learning_rate=0.1              the rate after']),
    (['-h', '--config', 'configs/dream.py:google'], 0,
     ['DeepDream: amplifies', '--config.octaves=4']),
])
def test_help_lists_configs_and_fields(parse, arguments, code, lines, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '100')
    monkeypatch.setattr(signal, 'signal', lambda *_: None)  # keeps this process's handlers
    with pytest.raises(SystemExit) as stopped:
        parse(*arguments)
    assert stopped.value.code == code
    told = capsys.readouterr().out
    for line in lines:
        assert line in told


@pytest.mark.parametrize(('arguments', 'message'), [
    ([QUICKSTART, '--config.experiment=fly'], "experiment='fly' is none of benchmark"),
    ([QUICKSTART, '--executor=slurm'], 'executor=slurm: there is no srun here'),
    (['--config=configs/folder.py', '--sweep'], 'configs/folder.py has no sweep(): write in it'),
    ([QUICKSTART, '--config.image_size=-5'], 'image_size=-5: take 0 or a larger number'),
    ([QUICKSTART, '--config.loss=dice'], "loss='dice': dice compares masks: it needs task='seg"),
    (['--config=configs/segment.py', '--config.loss=dise'], "'dise' is none of cross_entropy, fo"),
    ([QUICKSTART, '--config.model.name=resnet21'], "no network 'resnet21'; did you mean resnet"),
])
def test_a_mistake_is_told_in_one_line(arguments, message, tmp_path):
    done = launch(*arguments, f'--workdir={tmp_path / "run"}')
    assert done.returncode == 1
    assert done.stderr.startswith('error: ')
    assert message in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'run' / 'config.json').exists()


@pytest.mark.parametrize('platforms', ['gpuu', 'cuda'])  # jax has two kinds of errors for them
def test_a_kind_of_device_that_is_not_there(tmp_path, platforms):
    done = launch(QUICKSTART, f'--workdir={tmp_path / "run"}', JAX_PLATFORMS=platforms)
    assert done.returncode == 1
    assert done.stderr.startswith(f'error: JAX_PLATFORMS={platforms}: ')
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / 'run').exists()


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
