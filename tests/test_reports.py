"""Rows of metrics are on disk at once; damaged rows are reported."""

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
