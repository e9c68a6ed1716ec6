"""A training ends when its error has not fallen for a while, wherever it is interrupted."""

import pytest

from cnnjax import checkpoint, data, dataset, early_stopping, reports, train
from cnnjax.errors import UserError
from tests import kill
from tests.kill import Killed, assert_same_run, rows
from tests.test_train import changed

ERRORS = (0.5, 0.4, 0.45, 0.4, 0.41, 0.1, 0.1)  # The fifth is the third in a row that is not lower.


@pytest.mark.parametrize(('errors', 'patience', 'expected'), [
    ((), 1, False), ((0.5,), 1, False), ((0.5, 0.4), 1, False), ((0.5, 0.5), 1, True),
    ((0.5, 0.6, 0.4), 2, False), ((0.5, 0.6, 0.5), 2, True), ((0.5, 0.4, 0.6), 2, False),
    ((0.5, 0.5, 0.5), 0, False), (ERRORS[:4], 3, False), (ERRORS[:5], 3, True)])
def test_the_last_errors_are_compared_with_all_before(errors, patience, expected):
    assert early_stopping.due(errors, patience) is expected


def test_the_errors_are_those_of_the_validation_set_if_there_is_one():
    past = {'rows': [{'step': 2}, {'step': 4, 'test/error': 0.5}, {'step': 6, 'val/error': 0.25},
                     {'step': 8, 'val/error': 0.2, 'test/error': 0.4}, {'step': 9, 'val/error': 0}]}
    assert early_stopping.errors(past, 2) == [0.5, 0.25, 0.2]
    assert early_stopping.errors(past, 0) == early_stopping.errors({}, 2) == []


@pytest.fixture
def scripted(tiny, monkeypatch):
    """A config whose evaluations, every second step, find the ERRORS one after another."""
    def evaluator(*_, **__):
        def evaluate(variables):
            return {'count': 1, 'error': ERRORS[len(seen())]}

        return evaluate

    def seen():
        return [row for row in rows(seen.directory) if 'test/error' in row]

    monkeypatch.setattr(train, 'evaluator', evaluator)

    def run(directory, **fields):
        seen.directory = directory
        return train.train(changed(tiny, **{'steps': 20, 'eval_every': 2.0, 'keep': 1,
                                            'checkpoint_every': 3.0, 'patience': 3, **fields}),
                           directory)

    return run


def test_it_ends_early_and_stays_ended(scripted, tmp_path, monkeypatch, capsys):
    last = scripted(tmp_path / 'run')
    assert last['step'] == rows(tmp_path / 'run')[-1]['step'] == 10
    assert 'stopped early, after step 10 of 20: the error was lowest after step ' in (
        capsys.readouterr().out)
    with checkpoint.Checkpoints(tmp_path / 'run' / 'checkpoints', read_only=True) as checkpoints:
        assert checkpoints.past(checkpoints.best())['rows'][-1]['test/error'] == 0.4
    assert scripted(tmp_path / 'run') == last
    assert 'this run is finished, after 10 steps' in capsys.readouterr().out
    assert scripted(tmp_path / 'run', steps=30) == last

    with pytest.raises(UserError, match='patience: 3 there, 4 here'):
        scripted(tmp_path / 'run', patience=4)
    with pytest.raises(UserError, match='eval_every: 2.0 there, 1.0 here'):
        scripted(tmp_path / 'run', eval_every=1.0)

    def missing(*_):
        raise data.Missing('gone')

    with monkeypatch.context() as patch:
        patch.setattr(dataset, 'load_sets', missing)
        assert scripted(tmp_path / 'run') == last
    assert 'cannot be told: gone' in capsys.readouterr().out

    with monkeypatch.context() as patch:  # after the last row, before its checkpoint
        patch.setattr(reports.Metrics, 'write', kill.dying_after(10))
        with pytest.raises(Killed):
            scripted(tmp_path / 'parts')
    scripted(tmp_path / 'parts')
    assert_same_run(tmp_path / 'parts', tmp_path / 'run', 10)


def test_without_evaluations_it_is_refused(tiny):
    with pytest.raises(UserError, match='patience=2 counts evaluations, and eval_every=0 has none'):
        train.check(changed(tiny, patience=2, eval_every=0.0))
