"""Jobs in this process, in another process, and on a Slurm that a few scripts imitate."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import ml_collections
import optax
import pytest
import submitit
from hypothesis import strategies

from cnnjax import cluster, jobs, reports, workdir
from cnnjax.errors import UserError
from configs import reproduce
from experiments import reproduce as reproduction
from experiments import train

STEPS = 400  # The steps of a training that takes seconds.

# Slurm's commands, as far as submitit relies on them. sbatch only notes the script; the tests start
# it when and as often as they want.
SLURM = {
    'sbatch': 'echo "$1" > "$SLURM_HOME/script"; echo "Submitted batch job 4242"',
    'scontrol': 'echo "$@" >> "$SLURM_HOME/requests"',
    'srun': r'''
        while [[ $1 == --* ]]; do
            case $1 in
                --output) output=$2; shift 2;;
                --error) error=$2; shift 2;;
                *) shift;;
            esac
        done
        log() { sed "s/%j/$SLURM_JOB_ID/; s/%t/$SLURM_PROCID/" <<< "$1"; }
        echo $$ > "$SLURM_HOME/pid"
        exec "$@" >> "$(log "$output")" 2>> "$(log "$error")"''',
}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """The tests' own process has used jax already: it cannot join others."""
    joined = []
    monkeypatch.setattr(cluster, 'connect', lambda *processes: joined.append(processes))
    jobs.connect.cache_clear()
    yield joined
    jobs.connect.cache_clear()


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The directory of a Slurm without machines."""
    home = tmp_path / 'slurm'
    home.mkdir()
    for name, script in SLURM.items():
        (home / name).write_text(f'#!/bin/bash\n{script}\n')
        (home / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{home}:{os.environ["PATH"]}')
    monkeypatch.setenv('SLURM_HOME', str(home))
    return home


@pytest.fixture
def experiment():
    """An experiment without jax: it notes its config, or fails as the config says."""
    done = []

    def run(config, directory):
        done.append((config, directory))
        if config.get('error'):
            raise UserError(config.error)

    run.done = done
    return run


def noted(**fields):
    return ml_collections.ConfigDict({'experiment': 'noted', **fields})


def test_optax_and_flax_run_whatever_promotion_the_environment_asks_for(experiment, tmp_path):
    """JAX_NUMPY_DTYPE_PROMOTION=strict and JAX_NUMPY_RANK_PROMOTION=raise: flax's average pool and
    optax's adam cannot do with these."""
    def steps():
        image, tx = jnp.ones((1, 4, 4, 1)), optax.adam(0.1)
        nn.avg_pool(image, (2, 2)) + jnp.ones(2)
        tx.update(image, tx.init(image))

    names = ('jax_numpy_dtype_promotion', 'jax_numpy_rank_promotion')
    before = {name: getattr(jax.config, name) for name in names}
    try:
        jax.config.update(names[0], 'strict')
        jax.config.update(names[1], 'raise')
        with pytest.raises(jax.dtypes.TypePromotionError):
            steps()
        assert jobs.Place(str(tmp_path)).run([jobs.Job(noted(), str(tmp_path), experiment)])
        steps()
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_here_and_debug_run_the_same_job(experiment, alone, tmp_path, capfd):
    for executor in ('', 'debug'):
        place = jobs.Place(str(tmp_path), executor)
        assert place.run([jobs.Job(noted(), str(tmp_path / executor), experiment)])
        assert not place.run([jobs.Job(noted(error='a b'), str(tmp_path / executor), experiment),
                              jobs.Job(noted(seed=1), str(tmp_path / executor), experiment)])
        assert capfd.readouterr().err == 'error: a b\n'
    assert [config.get('seed', 0) for config, _ in experiment.done] == [0, 0, 1] * 2
    assert alone == [(None, None, None)]  # only once in a process


def test_a_job_holds_its_directory_while_it_runs(tmp_path):
    def run(config, directory):
        with pytest.raises(UserError, match='another run writes in'), workdir.lock(directory):
            pass

    assert jobs.Place(str(tmp_path)).run([jobs.Job(noted(), str(tmp_path), run)])


def test_processes_are_joined_as_the_flags_say(experiment, alone, tmp_path):
    place = jobs.Place(str(tmp_path), processes=('host:1', 2, 1))
    assert place.run([jobs.Job(noted(), str(tmp_path), experiment)])
    assert alone == [('host:1', 2, 1)]


def test_a_local_job_that_fails_is_told_with_its_log(tiny, tmp_path, monkeypatch, capfd):
    """In a process of its own, started in another directory, with the GPUs of this one."""
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    with tiny.unlocked():
        tiny.model.name = 'resnet21'
    directory = tmp_path / 'run ü'
    place = jobs.Place(str(directory), 'local')
    assert not place.run([jobs.Job(tiny, str(directory), train.run)])
    output, error = capfd.readouterr()
    assert f'writes {directory}/submitit/' in output
    told, log = error.splitlines()
    assert told.startswith("error: there is no network 'resnet21'")
    assert 'Traceback' in Path(log.removeprefix('log: ')).read_text()


def test_preempted_by_slurm_a_job_goes_on_where_it_was(slurm, tmp_path, capsys):
    """sbatch, srun, SIGUSR2, checkpoint, scontrol requeue, srun, the end: of a reproduction."""
    config = reproduce.get_config('quickstart')
    config.seeds = 1
    config.recipe.update_from_flattened_dict({
        'model.widths': (4, 4, 4), 'batch_size': 32, 'devices': 1, 'steps': STEPS,
        'report_every': 20, 'eval_every': 0.0, 'checkpoint_every': 0.0})  # saved when asked to
    directory = tmp_path / 'my run'
    seed = directory / 'seed0'
    place = jobs.Place(str(directory), 'slurm', 'timeout_min=30,slurm_partition=gpu')
    assert place.run([jobs.Job(config.lock(), str(directory), reproduction.run)])
    output = capsys.readouterr().out
    log = directory / 'submitit' / '4242_0_log.out'
    assert f"tail -F '{log}'" in output
    assert 'scancel 4242' in output
    script = (slurm / 'script').read_text().strip()
    text = Path(script).read_text()
    for line in ('--partition=gpu', '--time=30', "--job-name='my run'", '--signal=USR2@90'):
        assert f'#SBATCH {line}\n' in text
    assert 'wckey' not in text

    def start():
        return subprocess.Popen(['bash', script], cwd=tmp_path, env={
            **os.environ, 'SLURM_JOB_ID': '4242', 'SLURM_NTASKS': '1', 'SLURM_PROCID': '0'})

    first = start()
    while not reports.read_metrics(seed) and first.poll() is None:
        time.sleep(0.002)
    os.kill(int((slurm / 'pid').read_text()), signal.SIGUSR2)
    first.wait()
    error = log.with_suffix('.err').read_text()
    assert (slurm / 'requests').read_text() == 'requeue 4242\n', error
    saved, = (int(path.name) for path in (seed / 'checkpoints').iterdir())
    assert 20 <= saved < STEPS
    assert not (directory / 'submitit' / '4242_0_result.pkl').exists()

    assert start().wait() == 0, log.with_suffix('.err').read_text()
    assert f'resuming after step {saved} of {STEPS}' in log.read_text()
    assert [row['step'] for row in reports.read_metrics(seed)] == list(range(20, STEPS + 1, 20))
    assert 'with the seed 0 alone' in (directory / 'results.md').read_text()
    assert (directory / 'submitit' / '4242_0_result.pkl').exists()


def test_several_jobs_are_one_array(slurm, experiment, tmp_path, capsys):
    place = jobs.Place(str(tmp_path / 'run'), 'slurm', 'slurm_array_parallelism=2,slurm_wckey=mine,'
                       'nodes=2,gpus_per_node=8,slurm_exclude=node[1,2],slurm_max_num_timeout=7')
    assert place.run([jobs.Job(noted(seed=seed), str(tmp_path), experiment)
                      for seed in range(3)])
    output = capsys.readouterr().out
    assert 'job 4242: an array of 3 runs' in output
    text = Path((slurm / 'script').read_text().strip()).read_text()
    for line in ('--array=0-2%2', '--wckey=mine', '--nodes=2', '--ntasks-per-node=8',
                 "--exclude='node[1,2]'", '--requeue'):
        assert f'#SBATCH {line}\n' in text
    for seed in range(3):
        path = tmp_path / 'run' / 'submitit' / f'4242_{seed}_submitted.pkl'
        delayed = pickle.loads(path.read_bytes())
        assert (delayed.function.config.seed, delayed._timeout_countdown) == (seed, 7)
        assert delayed.function.checkpoint().function is delayed.function
    assert experiment.done == []


@pytest.mark.parametrize(('executor', 'resources', 'message'), [
    ('slurm', '', 'executor=slurm: there is no srun here'),
    ('', 'nodes=2', 'resources are for an executor'),
    ('debug', 'nodes', "resources: 'nodes' is not of the form name=value"),
    ('debug', 'nodes=1,nodes=2', 'resources: nodes is given twice'),
    ('debug', 'gpus=2', "resources: Parameter 'gpus' need to be prefixed"),
    ('debug', 'slurm_partitio=gpu', "resources: Unknown argument 'partitio' for executor 'slurm'"),
    ('debug', 'partition=gpu', "resources: Setting 'partition' is deprecated. Use 'slurm_part"),
    ('debug', 'timeout_min=long', 'resources: Parameter "timeout_min" expected type'),
    ('debug', 'slurm_time=10:00', 'give timeout_min, in minutes'),
    ('local', 'tasks_per_node=2', 'a local job is one process'),
    ('local', 'nodes=2', 'resources: LocalExecutor can use only one node'),
])
def test_a_mistake_is_named(executor, resources, message, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', '')
    with pytest.raises(UserError) as error:
        jobs.Place(str(tmp_path), executor, resources)
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_mistakes_that_are_not_resources(slurm, experiment, tmp_path, monkeypatch):
    with pytest.raises(UserError, match='executor=local starts the processes itself'):
        jobs.Place(str(tmp_path), 'local', processes=('host:1', 2, 1))
    with pytest.raises(UserError, match="submitit replaces '%'"):
        jobs.Place(str(tmp_path / '50%'), 'local')
    (slurm / 'sbatch').write_text('#!/bin/bash\necho "invalid partition" >&2; exit 1\n')
    with pytest.raises(UserError, match='the job was not submitted: invalid partition'):
        jobs.Place(str(tmp_path), 'slurm').run([jobs.Job(noted(), str(tmp_path), experiment)])
    monkeypatch.setitem(sys.modules, 'submitit', None)
    with pytest.raises(UserError, match=r"executor=debug needs submitit: pip install -e '.\[slurm"):
        jobs.Place(str(tmp_path), 'debug')


@hypothesis.settings(database=None, deadline=None)
@hypothesis.given(strategies.text(alphabet='ab_=,1.[]"\' %', max_size=20))
def test_resources_are_read_or_refused(text):
    try:
        parameters = jobs.parse(text)
    except UserError:
        return
    assert all(name.isidentifier() for name in parameters)


def test_the_reason_of_a_failure():
    told = submitit.core.utils.FailedJobError(
        'Job (task=0) failed during processing with trace:\n----------------------\nTraceback:\n'
        '    f()\nkeys.UserError: x\n\nThe above\n\ncnnjax.errors.UserError: a b:\n  c\n\n'
        '----------------------\nYou can check')
    assert jobs.reason(told) == 'a b:\n  c'
    told = submitit.core.utils.FailedJobError(
        'failed with trace:\n----------------------\nTraceback:\n    f()\nOSError: full\n\n'
        '----------------------\nYou can check')
    assert jobs.reason(told) == 'OSError: full'
    told = submitit.core.utils.UncompletedJobError('Job 1 has not produced any output\n---\nKilled')
    assert jobs.reason(told) == 'Job 1 has not produced any output ... Killed'
    assert jobs.reason(OSError(17, 'File exists', 'x')) == "[Errno 17] File exists: 'x'"


def test_processes_may_have_their_data_in_different_places():
    here, there = reproduce.get_config(), reproduce.get_config()
    there.recipe.data_dir = '/scratch'
    assert jobs.facts(here, 'run') == jobs.facts(there, 'run')
    there.recipe.seed = 5
    assert jobs.facts(here, 'run') != jobs.facts(there, 'run')
