"""The static memory plan: buffers whose lifetimes do not overlap share the arena."""

from collections.abc import Sequence
from typing import NamedTuple

from deploy_jetson.kernels.plan.tensors import Buffer, round_up


class BufferLifetime(NamedTuple):
    """A buffer is written first in step `first` and read last in step `last`."""

    buffer: Buffer
    first: int
    last: int


def plan_memory(lifetimes: Sequence[BufferLifetime]) -> int:
    """Give every buffer its offset; returns the arena's size in floats.

    Largest first, each at the lowest gap that is free during its whole life.
    """
    placed: list[BufferLifetime] = []
    size = 0
    for life in sorted(lifetimes, key=lambda life: (-life.buffer.floats, life.first)):
        needed = round_up(life.buffer.floats)
        offset = 0
        rivals = [p for p in placed if p.first <= life.last and life.first <= p.last]
        for rival in sorted(rivals, key=lambda p: p.buffer.offset):
            if offset + needed <= rival.buffer.offset:
                break
            offset = max(offset, rival.buffer.offset + round_up(rival.buffer.floats))
        life.buffer.offset = offset
        placed.append(life)
        size = max(size, offset + needed)
    return size
