"""Checks what fits in the memory of this machine and its devices, before it is tried."""

import os
from typing import Any

import jax

from cnnjax.errors import UserError

# Bytes that the arrays of this process may take on the host: half of the machine's memory.
HOST = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2


def device() -> int:
    """Bytes that arrays may take on a device: all of its memory, or `HOST` for a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get('bytes_limit', HOST)


def check(total: float, /, **given: Any) -> None:
    """Raises UserError if `total` float32 numbers do not fit in the memory of a device; the message
    names the fields that are `given`."""
    if 4 * total > device():
        named = ' with '.join(f'{field}={value}' for field, value in given.items())
        raise UserError(f'{named} takes {4 * total / 2 ** 30:,.1f} GiB, more than half of the '
                        'memory: take less')
