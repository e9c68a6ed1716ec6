"""What does not fit in memory is refused before it is tried."""

import pytest

from cnnjax import memory
from cnnjax.errors import UserError


def test_what_fills_the_memory(monkeypatch):
    monkeypatch.setattr(memory, 'device', lambda: 2 ** 30)
    memory.check(2 ** 28, size=1)
    with pytest.raises(UserError, match='^size=1 with count=2 takes 1.5 GiB of memory, of which it '
                                        'may take 1.0: take less$'):
        memory.check(1.5 * 2 ** 28, size=1, count=2)
    memory.check(1.5 * 2 ** 28, 2 ** 31, size=1)
    with pytest.raises(UserError, match='may take 0.5'):
        memory.check(2 ** 28, 2 ** 29, size=1)
