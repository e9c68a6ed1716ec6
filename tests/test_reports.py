"""Rows of metrics are on disk at once, as lines and as a table; damaged rows are reported."""

import csv

import pytest

from cnnjax import reports
from cnnjax.errors import UserError


def test_events_do_not_wait_for_the_end(tmp_path):
    with reports.Metrics(tmp_path, 0) as metrics:
        metrics.write({'step': 1, 'train/loss': 2.5})
        file, = (tmp_path / 'tensorboard').iterdir()
        assert b'train/loss' in file.read_bytes()


@pytest.mark.parametrize('line', [
    '5', '[]', 'null', '"step"', '{}', '{"step": null}', '{"step": 1.5}', '{"step": true}',
    '{"step": 1e999}', '{"step": "1"}', '{"step": 1, "test/error": "x"}', '{"step": 1, "a": null}',
    '{"step": 1, "a": [1]}', '{"step": 1', '\x00', '{"step": 1, "a": true}'])
def test_odd_rows(line, tmp_path):
    (tmp_path / 'metrics.jsonl').write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(UserError, match='metrics.jsonl: line 2 is damaged: .*; delete it') as error:
        reports.read_metrics(tmp_path)
    assert '\n' not in str(error.value)


def table(directory):
    with (directory / 'metrics.csv').open(newline='', encoding='utf-8') as file:
        return list(csv.reader(file))


def test_a_table_of_the_rows(tmp_path):
    """Its columns are the names, in the order in which they appear; a row may lack some."""
    rows = [{'step': 1, 'train/loss': 2.5}, {'step': 2, 'train/loss': 0.1, 'test/error': 0.25},
            {'step': 3, 'train/loss': float('nan')}, {'step': 4, 'test/iou/a,"b" é': 1e-9}]
    expected = [['step', 'train/loss', 'test/error', 'test/iou/a,"b" é'], ['1', '2.5', '', ''],
                ['2', '0.1', '0.25', ''], ['3', 'nan', '', ''], ['4', '', '', '1e-09']]
    with reports.Metrics(tmp_path, 0) as metrics:
        for count, row in enumerate(rows, 1):
            metrics.write(row)  # on disk at once
            assert [line[:2] for line in table(tmp_path)[1:]] == [
                line[:2] for line in expected[1:1 + count]]
    assert table(tmp_path) == expected
    (tmp_path / 'metrics.csv').write_text('step,trai')  # killed while it was written
    with reports.Metrics(tmp_path, 2) as metrics:
        assert table(tmp_path) == [line[:3] for line in expected[:3]]
        metrics.write(*rows[2:])
    assert table(tmp_path) == expected

    (tmp_path / 'metrics.csv').unlink()
    reports.recover(tmp_path, {'rows': rows})
    assert table(tmp_path) == expected


def test_a_row_is_added_without_writing_the_table_anew(tmp_path):
    """A long run has 100,000 rows."""
    with reports.Metrics(tmp_path, 0) as metrics:
        metrics.write({'step': 1, 'a': 1.0})
        file = (tmp_path / 'metrics.csv').stat().st_ino
        metrics.write({'step': 2}, {'step': 3, 'a': 2.0})
        assert (tmp_path / 'metrics.csv').stat().st_ino == file
    assert table(tmp_path) == [['step', 'a'], ['1', '1.0'], ['2', ''], ['3', '2.0']]
