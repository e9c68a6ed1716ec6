"""A tracker gets each row of a run once, whatever happens to the run or to the tracker's service.

The packages of both services are replaced by fakes with the same functions.
"""

import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from cnnjax import cluster, reports, trackers, train
from cnnjax.errors import UserError
from experiments import train as experiment


class Service:
    """A service with its runs, {name: {'config', 'rows': [(step, {name: value})], 'figures', ...}},
    which cannot be reached while it is `down`."""

    def __init__(self):
        self.runs, self.down, self.offline = {}, False, False

    def reach(self):
        if self.down:
            raise ConnectionError('the network is\ndown')


class FakeWandb(Service):
    Image = staticmethod(lambda path: SimpleNamespace(path=path))

    def init(self, *, project, id, resume, name, dir, config, reinit, settings):
        self.reach()
        assert (project, resume, reinit) == ('cnnjax', 'allow', 'create_new')
        assert settings['finish_timeout'] > 0
        run = {'config': config, 'rows': [], 'figures': {}, 'summary': {}, 'name': name}
        if self.offline:  # a folder of its own
            id = f'{len(self.runs)}-{id}'
        run = self.runs.setdefault(id, run)
        run['status'] = 'running'
        following = run['rows'][-1][0] + 1 if run['rows'] else 0

        def log(values, step=None):
            self.reach()
            if step is None:
                run['figures'] |= {name: image.path for name, image in values.items()}
                return
            assert not run['rows'] or step > run['rows'][-1][0], 'the service drops this row'
            run['rows'].append((step, values))

        def finish(exit_code):
            self.reach()
            run['status'] = 'failed' if exit_code else 'finished'

        return SimpleNamespace(starting_step=following, log=log, finish=finish,
                               summary=run['summary'])


class FakeMLflow(Service):
    entities = SimpleNamespace(
        Param=lambda key, value: SimpleNamespace(key=key, value=value),
        Metric=lambda key, value, timestamp, step: SimpleNamespace(
            key=key, value=value, timestamp=timestamp, step=step))

    def MlflowClient(self):  # noqa: N802 - the service's name
        return self

    def get_experiment_by_name(self, name):
        self.reach()
        assert name == 'cnnjax'
        return SimpleNamespace(experiment_id='1') if self.runs else None

    def create_experiment(self, name):
        return '1'

    def create_run(self, experiment, run_name):
        name = f'run{len(self.runs)}'
        self.runs[name] = {'config': {}, 'metrics': {}, 'figures': {}, 'name': run_name}
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def update_run(self, run, status):
        self.reach()
        self.runs[run]['status'] = 'running'

    def get_run(self, run):
        metrics = self.runs[run]['metrics']
        return SimpleNamespace(data=SimpleNamespace(metrics={
            name: max(points)[1] for name, points in metrics.items()}))

    def log_batch(self, run, metrics=(), params=()):
        self.reach()
        assert len(metrics) <= 1000
        assert len(params) <= 100
        for param in params:
            assert isinstance(param.value, str)
            assert self.runs[run]['config'].setdefault(param.key, param.value) == param.value
        for metric in metrics:
            assert metric.key.replace('_', '').replace('/', '').replace(' ', '').isalnum()
            assert metric.timestamp > 1e12
            self.runs[run]['metrics'].setdefault(metric.key, []).append((metric.step, metric.value))

    def log_artifact(self, run, path, folder):
        self.reach()
        self.runs[run]['figures'][path.rpartition('/')[2]] = path

    def set_terminated(self, run, status):
        self.reach()
        self.runs[run]['status'] = status.lower()


def rows(run):
    """The rows that a service has of a run, as in metrics.jsonl."""
    if 'rows' in run:
        return [{'step': step, **values} for step, values in run['rows']]
    metrics = {name: dict(points) for name, points in run['metrics'].items()
               if not name.startswith('best/')}
    assert all(len(metrics[name]) == len(run['metrics'][name]) for name in metrics), 'twice'
    return [{name: metrics[name][step] for name in metrics if step in metrics[name]}
            for step in metrics['step']]


@pytest.fixture(params=trackers.SERVICES)
def service(request, monkeypatch, tiny):
    made = {'wandb': FakeWandb, 'mlflow': FakeMLflow}[request.param]()
    monkeypatch.setitem(sys.modules, request.param, made)
    for variable in ('WANDB_PROJECT', 'MLFLOW_EXPERIMENT_NAME'):
        monkeypatch.delenv(variable, raising=False)
    with tiny.unlocked():
        tiny.log = request.param
    return made


def part(config, directory, start, end):
    """Writes the rows after step `start` as a training does that resumes there."""
    with (trackers.Tracker(directory, config, anew=not start) as tracker,
          reports.Metrics(directory, start, config, tracker=tracker) as metrics):
        for step in range(start + 1, end + 1):
            metrics.write({'step': step, 'train/loss': 1 / step, 'test/error': abs(step - 4) / 10})


def finished(service, directory):
    """The one run of a service, after checking that it has all rows, once, and their best."""
    run, = service.runs.values()
    assert rows(run) == reports.read_metrics(directory)
    assert run['status'] == 'finished'
    summary = run.get('summary') or {name: points[0][1] for name, points in run['metrics'].items()}
    assert (summary['best/step'], summary['best/error']) == (4, 0.0)
    return run


def test_a_killed_run_goes_on_in_its_place(service, tiny, tmp_path):
    part(tiny, tmp_path / 'my run', 0, 5)
    part(tiny, tmp_path / 'my run', 3, 6)
    (tmp_path / 'my run' / 'figures').mkdir()
    Image.new('L', (2, 2)).save(tmp_path / 'my run' / 'figures' / 'curves.png')
    reports.finish(tmp_path / 'my run', tiny)
    run = finished(service, tmp_path / 'my run')
    assert run['name'] == 'my run'
    assert [*run['figures'].values()] == [str(tmp_path / 'my run' / 'figures' / 'curves.png')]
    config = run['config']
    widths = config['model']['widths'] if 'model' in config else config['model.widths']
    assert str(widths) == '(4, 4, 4)'

    service.down = True  # A finished run has nothing to send.
    reports.finish(tmp_path / 'my run', tiny)


def test_what_a_service_missed_it_gets_later(service, tiny, tmp_path, capsys):
    part(tiny, tmp_path, 0, 2)
    service.down = True
    part(tiny, tmp_path, 2, 6)
    line = f"log='{tiny.log}' failed: ConnectionError: the network is down\nThe run goes on"
    assert capsys.readouterr().out.count(line) == 1
    reports.finish(tmp_path, tiny)
    assert capsys.readouterr().out.count(line) == 1
    run, = service.runs.values()
    assert [row['step'] for row in rows(run)] == [1, 2]
    assert [row['step'] for row in reports.read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]

    service.down = False
    reports.finish(tmp_path, tiny)
    finished(service, tmp_path)
    assert not capsys.readouterr().out


def test_a_run_that_is_followed_from_its_middle_on(service, tiny, tmp_path):
    name = tiny.log
    with tiny.unlocked():
        tiny.log = ''
    part(tiny, tmp_path, 0, 5)
    assert not service.runs
    with tiny.unlocked():
        tiny.log = name
    part(tiny, tmp_path, 5, 6)
    reports.finish(tmp_path, tiny)
    finished(service, tmp_path)


def test_a_training_that_begins_anew_is_another_run(service, tiny, tmp_path):
    first = trackers.Tracker(tmp_path, tiny, anew=True)
    with first:
        first.write([{'step': 1, 'train/loss': 1.0}])
    with trackers.Tracker(tmp_path, tiny) as same:
        same.write([{'step': step, 'test/iou/a,b': 1.0} for step in (1, 2)])
    assert len(service.runs) == 1
    with trackers.Tracker(tmp_path, tiny, anew=True):
        assert len(service.runs) == 2


def test_offline_each_start_has_all_rows(tiny, tmp_path, monkeypatch):
    """W&B keeps each start in a folder, and loses what a killed process has not written there."""
    service = FakeWandb()
    service.offline = True
    monkeypatch.setitem(sys.modules, 'wandb', service)
    with tiny.unlocked():
        tiny.log = 'wandb'
    for start, end in ((0, 5), (3, 6)):
        part(tiny, tmp_path, start, end)
    assert [[row['step'] for row in rows(run)] for run in service.runs.values()] == [
        [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]]
    assert len({name.partition('-')[2] for name in service.runs}) == 1


def test_a_training_sends_its_rows(tiny, tmp_path, monkeypatch, capsys):
    service = FakeWandb()
    monkeypatch.setitem(sys.modules, 'wandb', service)
    with tiny.unlocked():
        tiny.update(log='wandb', report_every=3)
    experiment.run(tiny, tmp_path)
    run, = service.runs.values()
    assert rows(run) == reports.read_metrics(tmp_path)
    assert run['status'] == 'finished'
    assert {'figures/curves', 'figures/first_batch'} <= run['figures'].keys()
    service.down = True  # Nothing is left to send.
    experiment.run(tiny, tmp_path)
    assert 'failed' not in capsys.readouterr().out


@pytest.mark.parametrize('name', trackers.SERVICES)
def test_a_package_that_is_not_there(name, tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with tiny.unlocked():
        tiny.log = name
    with pytest.raises(UserError, match=f"^log='{name}' needs its package .*pip install {name}$"):
        train.train(tiny, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
    with tiny.unlocked():
        tiny.log = 'tensorboard'
    with pytest.raises(UserError, match="log='tensorboard' is none of '', 'wandb', 'mlflow'"):
        train.train(tiny, tmp_path / 'run')


def test_of_several_processes_only_the_first_has_one(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    monkeypatch.setattr(cluster, 'first', lambda: False)
    with tiny.unlocked():
        tiny.log = 'wandb'
    trackers.check(tiny.log)
    with trackers.Tracker(tmp_path, tiny, anew=True) as tracker:
        tracker.write([{'step': 1}])
    assert not list(tmp_path.iterdir())
