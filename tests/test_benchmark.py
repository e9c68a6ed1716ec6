"""The benchmark's own half: its rows, table and ratio. PyTorch is no dependency of the tests."""

import json
import sys

import pytest

from cnnjax.errors import UserError
from configs import benchmark as configs
from experiments import benchmark


def test_a_row_is_timed_and_written(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, 'UNITS', 2)
    monkeypatch.setitem(sys.modules, 'torch', None)  # as where it is not installed
    config = configs.get_config()
    monkeypatch.setattr(benchmark, 'BATCH', 2)
    monkeypatch.setattr(benchmark, 'FILES', 6)
    config.rows, config.rounds = 'units_32, input_24', 3
    benchmark.run(config, tmp_path)
    for name, row in json.loads((tmp_path / 'results.json').read_text())['rows'].items():
        assert set(row) == {'cnnjax'}
        low, high = row['cnnjax']['quartiles']
        assert 0 < low <= row['cnnjax']['median'] <= high
        assert f'| {name} | ' in (tmp_path / 'results.md').read_text()
    assert row['cnnjax']['images/s per core'] == 2 / row['cnnjax']['median']
    assert 'input_24, images/s per core: cnnjax ' in (tmp_path / 'results.md').read_text()


def test_sides_take_turns_and_are_compared():
    calls = []
    sides = {name: lambda name=name: calls.append(name) for name in ('cnnjax', 'torch')}
    result = benchmark.compare(sides, rounds=2, steps=2, name='row')
    assert calls == ['cnnjax', 'torch', *['cnnjax', 'cnnjax', 'torch', 'torch'] * 2]
    assert result['ratio'] == result['torch']['median'] / result['cnnjax']['median']


@pytest.mark.parametrize('row', ['units', 'singing_256', 'units_big'])
def test_an_unknown_row_is_refused(row, tmp_path):
    config = configs.get_config()
    config.rows = row
    with pytest.raises(UserError, match=f"'{row}' is none of style, visualization, units"):
        benchmark.run(config, tmp_path)
