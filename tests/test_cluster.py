"""Several processes train as one: equal results, stopped together, resumed by any number."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

from cnnjax import checkpoint, cluster, train
from cnnjax.errors import UserError
from configs import base
from tests import test_step
from tests.kill import ROOT, assert_same_run, rows, saved

# A network of few arrays, because each is a message between the processes. It learns slowly,
# because batch normalization over few values magnifies rounding with every step.
FIELDS = {'model.name': 'vgg11_bn', 'model.widths': (4, 4, 4, 4, 4), 'model.hidden': (),
          'image_size': 32, 'padding': 1, 'whiten': True, 'mixup': 0.2, 'cutmix': 1.0, 'repeats': 2,
          'batch_size': 32, 'learning_rate': 0.0001,
          'report_every': 1, 'eval_every': 10.0, 'checkpoint_every': 20.0, 'average': 'ema',
          # No error is so much lower than the first: the rate falls after each further evaluation.
          'schedule': 'plateau', 'plateau_patience': 1, 'plateau_threshold': 0.99,
          'drop_factor': 0.9}
LONG = 100_000  # More steps than any test makes.


def config(steps):
    values = base.get_config()
    values.update_from_flattened_dict(FIELDS | {'steps': steps})
    return values


def free_port():
    with socket.socket() as free:
        free.bind(('localhost', 0))
        return free.getsockname()[1]


def launch(directory, steps=LONG, different=()):
    """Two processes with two devices each; `different` are arguments of the second alone."""
    port = free_port()
    fields = [f'--config.{name}={value}' for name, value in (FIELDS | {'steps': steps}).items()]
    return [subprocess.Popen(
        [sys.executable, 'launch.py', '--config=configs/base.py', *fields,
         f'--workdir={directory}', f'--coordinator=localhost:{port}', '--processes=2',
         f'--process={i}', *(different if i else ())], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=2 '
                                        '--xla_backend_optimization_level=0'}) for i in range(2)]


def wait_for(directory, processes, step):
    while not (written := rows(directory)) or written[-1]['step'] < step:
        assert all(process.poll() is None for process in processes), outputs(processes)
        time.sleep(0.01)


def outputs(processes):
    return [process.communicate(timeout=100)[0] for process in processes]


@pytest.mark.parametrize('number', cluster.SIGNALS)
def test_a_signal_saves_and_ends_with_its_code(tiny, tmp_path, monkeypatch, number):
    """And the run that goes on from there leaves the rows of one that was not interrupted."""
    with tiny.unlocked():
        tiny.update(report_every=4, eval_every=0.0, checkpoint_every=0.0)
    advance = train.Progress.advance

    def interrupted(progress, count):
        advance(progress, count)
        if progress.done == 3:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(train.Progress, 'advance', interrupted)
        with pytest.raises(SystemExit) as ended:
            train.train(tiny, tmp_path / 'parts')
    assert ended.value.code == 128 + number
    assert rows(tmp_path / 'parts') == []
    train.train(tiny, tmp_path / 'parts')
    if number == signal.SIGTERM:
        train.train(tiny, tmp_path / 'whole')
        assert_same_run(tmp_path / 'parts', tmp_path / 'whole', 6)
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


def test_the_same_signal_again_does_not_wait():
    with cluster.Preemption() as preemption:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # another one is noted too
        assert preemption.reached()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        preemption.signal = None


def test_a_signal_after_the_last_step_is_not_lost():
    with pytest.raises(SystemExit) as ended, cluster.Preemption():  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143


def test_a_handler_of_others_runs_after_the_checkpoint():
    """submitit's asks Slurm to queue the job again."""
    calls = []
    before = signal.signal(signal.SIGUSR2, lambda *_: calls.append('queued'))
    try:
        with cluster.Preemption() as preemption:
            signal.raise_signal(signal.SIGUSR2)
            assert calls == []
            with pytest.raises(SystemExit):
                preemption.leave()
            assert calls == ['queued']
            preemption.signal = None
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_processes_that_do_not_fit_are_refused():
    """In a process of its own, where jax has not started."""
    calls = [(None, 2, None), ('localhost', 2, 0), ('localhost:1', 2, 3), ('localhost:1', None, 0)]
    script = f'''
from cnnjax import cluster
from cnnjax.errors import UserError
for call in {calls}:
    try:
        cluster.connect(*call)
    except UserError as error:
        print(error)
'''
    output = subprocess.run([sys.executable, '-c', script], cwd=ROOT, text=True, check=True,
                            capture_output=True).stdout.splitlines()
    for line, message in zip(output, [
            'need a coordinator', "'localhost' is not of the form host:port", "'process': 3",
            "'processes': None"], strict=True):
        assert message in line


class Store(dict):
    """What the processes of a run share, without any."""

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self
        self[key] = value

    def key_value_dir_get(self, prefix):
        return [(key, value) for key, value in self.items() if key.startswith(prefix)]

    def blocking_key_value_get(self, key, timeout):
        return self[key]


class Ended(BaseException):
    pass


@pytest.fixture
def store(monkeypatch):
    """This process is the first of two, whose store it is."""
    def end(message):
        raise Ended(message)

    found = Store()
    monkeypatch.setattr(cluster.distributed, 'global_state', types.SimpleNamespace(
        num_processes=2, process_id=0, client=found))
    monkeypatch.setattr(cluster, '_meetings', itertools.count())
    monkeypatch.setattr(cluster, '_end', end)
    monkeypatch.setattr(cluster, 'PERIOD', 0.01)
    monkeypatch.setattr(cluster.atexit, 'register', lambda function: None)
    return found


def test_processes_agree_on_all_facts(store):
    facts = {'workdir': 'a', 'config': {'seed': 0, 'drops': (1, 2), 'model': {'name': 'x'}}}
    store['cnnjax/facts/0/1'] = json.dumps(facts)
    cluster.agree(**facts)
    assert json.loads(store['cnnjax/facts/0/0']) == json.loads(json.dumps(facts))
    store['cnnjax/facts/1/1'] = json.dumps(
        {'workdir': 'b', 'config': {'seed': 0, 'drops': (1, 3, 4), 'model': {}}})
    with pytest.raises(UserError) as error:
        cluster.agree(**facts)
    assert str(error.value).splitlines()[1:] == [
        "  workdir: 'a' in process 0, 'b' in process 1",
        '  config.drops.1: 2 in process 0, 3 in process 1',
        "  config.model.name: 'x' in process 0, None in process 1",
        '  config.drops.2: None in process 0, 4 in process 1']


def test_a_process_that_fails_ends_the_others_with_its_words(store):
    with pytest.raises(Ended) as first, cluster.together():
        raise UserError('photos/train cannot be read')
    assert str(first.value) == 'error: process 0 of 2: photos/train cannot be read'
    with pytest.raises(Ended) as watched:
        cluster._Watch(wait=60).run()
    with pytest.raises(Ended) as second, cluster.together():
        raise RuntimeError('connection closed')
    assert str(second.value) == str(watched.value) == str(first.value)


def test_an_error_without_words_ends_the_others_too(store):
    with pytest.raises(Ended, match='process 0 of 2 cannot go on: AssertionError'), \
            cluster.together():
        raise AssertionError


def test_a_process_that_is_silent_is_not_waited_for(store, monkeypatch):
    store['cnnjax/alive/1'] = '7'
    begun = time.monotonic()
    with pytest.raises(Ended, match='process 1 of 2 has given no sign of life for 0.2 seconds'):
        cluster._Watch(wait=0.2).run()
    assert time.monotonic() - begun > 0.2
    assert int(store['cnnjax/alive/0']) > 1  # This process gave signs of life.
    store['cnnjax/alive/1'] = 'left'  # That process finished.
    watch = cluster._Watch(wait=0.05)
    watch.start()
    time.sleep(0.3)
    watch.leave()
    assert store['cnnjax/alive/0'] == 'left'


def test_one_that_never_comes_is_not_waited_for():
    """jax would abort after minutes, with the stack of its C++."""
    script = f"from cnnjax import cluster; cluster.connect('localhost:{free_port()}', 2, 0, wait=1)"
    found = subprocess.run([sys.executable, '-c', script], cwd=ROOT, text=True, capture_output=True)
    assert found.returncode == 1
    line, = found.stderr.splitlines()
    assert line.startswith('error: the processes of this run did not find each other in 1 seconds')


def test_processes_with_different_commands_are_refused_in_all(tmp_path):
    processes = launch(tmp_path / 'run', different=['--config.learning_rate=0.5', '--config.seed=7',
                                                    '--config.loader_threads=2'])
    for said in outputs(processes):
        first, *lines = said.splitlines()
        assert first.startswith('error: process ')
        assert lines == ['  config.learning_rate: 0.0001 in process 0, 0.5 in process 1',
                         '  config.seed: 0 in process 0, 7 in process 1']
    assert [process.returncode for process in processes] == [1, 1]
    assert not (tmp_path / 'run').exists()


def test_alone_without_a_cluster(monkeypatch):
    cluster.connect()
    assert cluster.first()
    monkeypatch.setenv('SLURM_NTASKS', '1')
    cluster.connect()
    assert not jax.distributed.is_initialized()


def test_two_processes_are_one(tmp_path, capsys):
    """Begun by one process, resumed by two until a signal to one of them, resumed by two until one
    is killed, finished by one: the result is that of one process that nothing interrupts."""
    directory = tmp_path / 'run'
    train.train(config(20), directory)

    processes = launch(directory)
    wait_for(directory, processes, 22)
    processes[1].send_signal(signal.SIGTERM)
    first, second = outputs(processes)
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM] * 2
    assert 'asked to stop: saved after step' in first
    assert 'step' not in second  # Only the first reports.
    with checkpoint.Checkpoints(directory / 'checkpoints', read_only=True) as checkpoints:
        stopped = checkpoints.latest()
    assert stopped >= 22

    processes = launch(directory)
    wait_for(directory, processes, stopped + 2)
    processes[1].kill()
    first, _ = outputs(processes)
    # Either the reduction fails first, or, if it waits, the silence is noticed; or gloo aborts the
    # process, where one of its devices begins the next message while another still waits.
    if processes[0].returncode == -signal.SIGABRT:
        assert 'gloo::EnforceNotMet' in first
    else:
        assert processes[0].returncode == 1, first
        assert re.search('process 0 of 2 cannot go on|process 1 of 2 has given no sign of life',
                         first)
        assert 'they resume from the last checkpoint' in first
        assert 'Traceback' not in first

    capsys.readouterr()
    steps = (rows(directory)[-1]['step'] // 20 + 1) * 20
    train.train(config(steps), directory)
    resumed, = re.findall(r'resuming after step (\d+)', capsys.readouterr().out)
    assert int(resumed) >= stopped
    train.train(config(steps), tmp_path / 'whole')
    for a, b in zip(rows(directory), rows(tmp_path / 'whole'), strict=True):
        shared = a.keys() & b.keys()
        assert a['learning_rate'] == b['learning_rate'] == pytest.approx(
            0.0001 * 0.9 ** max((a['step'] - 1) // 10 - 1, 0))
        assert shared >= {'step', 'train/loss', 'train/error'}
        assert {name: a[name] for name in shared} == pytest.approx(
            {name: b[name] for name in shared}, abs=1e-4)  # sums over devices in another order
    for a, b in zip(jax.tree.leaves(saved(directory, steps)),
                    jax.tree.leaves(saved(tmp_path / 'whole', steps)), strict=True):
        # Rounding; the second step alone moves a parameter by up to 9e-5.
        np.testing.assert_allclose(a, b, atol=1e-5)


KEEPS = '''
import sys
import jax
import numpy as np
import flax.linen as nn
from cnnjax import cluster, data, parallel
from cnnjax.evaluate import evaluator
from cnnjax.tasks.task import Task

class Pixels(nn.Module):
    def __call__(self, images, train=False):
        return images[:, :, 0, 0], {}

cluster.connect(sys.argv[1], 2, int(sys.argv[2]))
images = np.random.default_rng(0).integers(0, 256, (21, 2, 2, 1)).astype(np.uint8)
source = data.from_arrays(images, 'ab', label=np.zeros(21, int))
task = Task(None, None, lambda apply, examples: (
    {'sum': apply(examples['image'])[0]}, {'pixels': apply(examples['image'])[0]}),
    lambda sums, kept, count, classes: {**sums, **kept})
normalize = data.Normalization(np.float32([0]), np.float32([1 / 255]))
for examples in (data.Resident(source, data.Crops()),
                 data.Stream(source, data.Crops(2, shorter_side=(2, 2)))):
    found = evaluator(task, Pixels(), normalize, examples, parallel.data_mesh(), batch_size=8)({})
    np.testing.assert_allclose(found['pixels'], images[:, :, 0, 0])
    np.testing.assert_allclose(found['sum'], images[:, :, 0, 0].sum(0, dtype=int))

# Whole pictures of several shapes.
from cnnjax import evaluate
from tests import test_views
network = test_views.untrained()
network = network._replace(evaluation={'crops': 'dense', 'test_flip': True})
call = jax.jit(lambda images: network(images))
expected = [test_views.by_hand(call, picture, 'dense') for picture in test_views.PICTURES]
for stream in (False, True):
    scores = evaluate.log_probabilities(network, test_views.prepared(stream), batch_size=8)
    np.testing.assert_allclose(np.exp(scores['scores/']), expected, rtol=1e-4)
print('kept', found['count'], flush=True)
'''


def test_all_processes_have_what_an_evaluation_keeps_of_each_example():
    port = free_port()
    processes = [subprocess.Popen(
        [sys.executable, '-c', KEEPS, f'localhost:{port}', str(i)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=2'})
        for i in range(2)]
    for said in outputs(processes):
        assert 'kept 21' in said


DETECTS = '''
import json
import sys
from cnnjax import cluster
cluster.connect(sys.argv[1], 2, int(sys.argv[2]))
import numpy as np
from cnnjax import data, evaluate, parallel, tasks
from cnnjax.data.examples import Arrays
from tests import test_step

mine = slice(4 * int(sys.argv[2]), 4 * int(sys.argv[2]) + 4)
share = {name: values[mine] for name, values in test_step.BATCHES['detect'].items()}
losses = test_step.update(test_step.narrow('detect'), task='detect', devices=4, batch=share)[1]
net, images, targets, expected = test_step.known('detect')
source = data.Source(Arrays({'image': images, **targets}), tuple('0123456789'))
normalize = data.Normalization(np.float32([0]), np.float32([1]))
for kind, examples in (('shard_map', data.Resident(source, test_step.CROPS['detect'])),
                       ('pmap', data.Stream(source, test_step.CROPS['detect']))):
    found = evaluate.evaluator(tasks.create('detect', net), net, normalize, examples,
                               parallel.data_mesh(), batch_size=8, kind=kind)({})
    assert {name: found[name] for name in expected} == expected, found
print(json.dumps(losses), flush=True)
'''


def test_two_processes_detect_as_one():
    """What was sampled for the loss is the same, and an evaluation has each image once."""
    port = free_port()
    processes = [subprocess.Popen(
        [sys.executable, '-c', DETECTS, f'localhost:{port}', str(i)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=2'})
        for i in range(2)]
    _, expected = test_step.update(test_step.narrow('detect'), task='detect')
    for process in processes:
        said, errors = process.communicate(timeout=100)
        assert not process.returncode, errors
        assert json.loads(said.splitlines()[-1]) == pytest.approx(expected, rel=1e-5)
