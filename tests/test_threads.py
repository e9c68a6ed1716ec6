"""A function called for many items in several threads."""

import pytest

from cnnjax.data import threads


@pytest.mark.parametrize('count', [0, 1, 5, 1000, 10_001])
@pytest.mark.parametrize('least', [1, 3, 16])
def test_the_order_is_kept(monkeypatch, count, least):
    monkeypatch.setattr(threads, 'LEAST', least)
    assert threads.mapped(lambda i: i * i, count, 'numbers') == [i * i for i in range(count)]


def test_the_first_error_is_raised():
    def function(i):
        if i >= 700:
            raise ValueError(i)

    with pytest.raises(ValueError, match='^700$'):
        threads.mapped(function, 5000, 'numbers')
