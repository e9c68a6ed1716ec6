"""The memory of this machine and its devices: what cannot fit is refused before it is tried."""

import os
from typing import Any

import jax

from cnnjax.errors import UserError

# Bytes that the arrays of this process may take on the host: half of the machine's memory.
HOST = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2


def device() -> int:
    """Bytes that arrays may take on a device: its own memory or, of a CPU, `HOST`."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get('bytes_limit', HOST)


def check(total: float, /, **given: Any) -> None:
    """Raises UserError, naming the fields that are `given`, if so many float32 fill the memory."""
    if 4 * total > device():
        named = ' with '.join(f'{field}={value}' for field, value in given.items())
        raise UserError(f'{named} takes {4 * total / 2 ** 30:,.1f} GiB, more than half of the '
                        'memory: take less')
