"""What devices tell each other: the collectives of a compiled program, and the time they take.

A program of the compiler (HLO, `compiled.as_text()`) names every collective with its shapes:
https://openxla.org/xla/operation_semantics#allreduce. Its time is modelled by a latency per message
and the bytes over the bandwidth of a link, the alpha-beta model:

- ring: n - 1 steps that reduce a share each, n - 1 that hand it round. Patarasuk & Yuan 2009,
  "Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations",
  https://doi.org/10.1016/j.jpdc.2008.09.002: no algorithm sends fewer bytes.
- double binary tree: Sanders, Speck & Traff 2009, "Two-tree algorithms for full bandwidth
  broadcast, reduction and scan", https://doi.org/10.1016/j.parco.2009.09.001, which NCCL has since
  2.4: a few more bytes and a latency that grows with the logarithm of the devices.
- two levels: reduce inside each node, all-reduce between the nodes, hand round inside.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

KINDS = ('all-reduce', 'reduce-scatter', 'all-gather', 'all-to-all', 'collective-permute',
         'collective-broadcast', 'ragged-all-to-all')
_INSTRUCTION = re.compile(rf'%?(\S+) = (.*?) ({"|".join(KINDS)})(-start)?\((.*)')
_COMPUTATION = re.compile(r'(?:ENTRY )?%?(\S+) \(.*\) -> .* \{$')
_CALLED = re.compile(r'(body|condition|calls|to_apply|\w+_computations?)=(\{[^}]*\}|[^,\s]+)')
_ARRAY = re.compile(r'([a-z]+\d*\w*)\[([\d,]*)\]')


class Collective(NamedTuple):
    """One collective of a program, as a device runs it."""

    kind: str  # one of KINDS
    arrays: tuple  # its results, ((dtype, shape), ...); an all-reduce's are like its operands
    bytes: int  # the size of these arrays
    devices: int  # how many are in a group; 0: all, as where the program names no groups
    in_loop: bool  # whether it runs more than once

    def count(self, dtype: str | None = None) -> int:
        """The numbers in its arrays, of one dtype or of all."""
        return sum(math.prod(shape) for name, shape in self.arrays if dtype in (None, name))


def read(program: Any) -> list[Collective]:
    """The collectives of a compiled program, in the order of its text.

    Args:
      program: what `jax.jit(f).lower(...).compile()` returns, or its `as_text()`.
    """
    text = program if isinstance(program, str) else program.as_text()
    found, calls, loops, inside = [], {}, set(), None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            inside = header[1]
            continue
        for role, names in _CALLED.findall(line):
            names = re.findall(r'[^\s,{}%]+', names)
            calls.setdefault(inside, set()).update(names)
            if role in ('body', 'condition'):
                loops.update(names)
        if match := _INSTRUCTION.match(line.strip().removeprefix('ROOT ')):
            _, result, kind, start, rest = match.groups()
            arrays = tuple((dtype, tuple(map(int, filter(None, shape.split(',')))))
                           for dtype, shape in _ARRAY.findall(result))
            if start and kind == 'collective-permute':  # (operand, result, ...)
                arrays = arrays[1:2]
            elif start and kind != 'all-reduce':  # (operands, results)
                arrays = arrays[len(arrays) // 2:]
            found.append((inside, kind, arrays, _group(rest)))
    repeated, new = set(), loops
    while new:
        repeated |= new
        new = set().union(*(calls.get(name, ()) for name in new)) - repeated
    return [Collective(kind, arrays, sum(_bytes(*array) for array in arrays), devices,
                       where in repeated) for where, kind, arrays, devices in found]


def _bytes(dtype, shape):
    bits = 8 if dtype == 'pred' else int(re.findall(r'\d+', dtype)[0])
    return math.ceil(bits * math.prod(shape) / 8)


def _group(attributes):
    """The devices in a group, in each of the notations of replica_groups."""
    if match := re.search(r'replica_groups=\{\{([\d,]*)\}', attributes):
        return len(match[1].split(','))
    if match := re.search(r'replica_groups=\[\d+,(\d+)\]<=', attributes):
        return int(match[1])
    if match := re.search(r'replica_groups=mesh\[(.*?)\] \{(.*?)\}', attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", match[2]))
    return 0


class Link(NamedTuple):
    """What connects devices, or nodes."""

    bandwidth: float  # bytes per second that each of them sends while it receives as many
    latency: float  # seconds until a message arrives


def ring(size: float, devices: int, link: Link, messages: int = 1) -> float:
    """Seconds of the all-reduce of `size` bytes in a ring, sent in so many messages."""
    return (2 * (devices - 1) / devices * size / link.bandwidth
            + 2 * (devices - 1) * messages * link.latency)


def tree(size: float, devices: int, link: Link, messages: int = 1) -> float:
    """Seconds of the all-reduce of `size` bytes in a double binary tree."""
    if devices == 1:
        return 0.0
    return 2 * size / link.bandwidth + 2 * math.log2(devices) * messages * link.latency


def best(size: float, devices: int, link: Link, messages: int = 1) -> float:
    """The faster of the two, which NCCL's tuning picks."""
    return min(ring(size, devices, link, messages), tree(size, devices, link, messages))


def two_levels(size: float, devices: int, inside: Link, between: Link, per_node: int,
               messages: int = 1, algorithm: Callable[..., float] = best) -> float:
    """Seconds of an all-reduce over nodes of `per_node` devices each.

    Inside a node a ring first reduces, every device being left with a share, and at the end hands
    the results round. In the meantime all devices of a node share its link `between` the nodes.
    """
    local = min(devices, per_node)
    nodes = math.ceil(devices / per_node)
    return ring(size, local, inside, messages) + algorithm(size, nodes, between, messages)


ALGORITHMS = {'ring': ring, 'tree': tree, 'best': best}


def step_seconds(alone: float, communication: float, backward: float, overlap: bool) -> float:
    """Seconds of a step that takes `alone` seconds on one device.

    Args:
      communication: seconds of its all-reduce.
      backward: share of the step in which gradients become ready.
      overlap: whether the all-reduce runs meanwhile, as far as it fits (an upper bound: the first
        layer's gradient is ready only at the end), or begins when all are ready.
    """
    return alone + max(0.0, communication - (backward * alone if overlap else 0.0))
