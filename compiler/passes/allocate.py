"""allocate: every value gets a fixed place in its machine's arena; places are taken again once their value is read no more."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np

ALIGN = 64  # bytes: a cache line, and the widest vector
LOOSE = 1.02  # times what is alive at once: an arena that is larger is packed again
MOST_PACKED = 3000  # values: the time that this takes grows with their square


class Life(NamedTuple):
    """How long a value needs its place: from the turn in which it is made to the one in which it is read last, both included."""

    nbytes: int
    first: int
    last: int


def allocate(lives: Sequence[Life], *, pack: bool = True) -> tuple[list[int], int]:
    """An offset for every value, and the bytes of the arena. Values that are alive in one turn never share a byte.

    `pack`  whether an arena that is loose is packed again, which takes time

    In      by `first`
    Source  packing by size: Pisarchyk and Lee 2020, "Efficient memory management for deep neural net inference", arXiv:2001.03288
    """
    offsets, peak = _in_turn(lives)
    if pack and len(lives) <= MOST_PACKED and peak > LOOSE * live_nbytes(lives):
        packed, smaller = _by_size(lives)
        if smaller < peak:
            return packed, smaller
    return offsets, peak


def live_nbytes(lives: Sequence[Life]) -> int:
    """The most bytes that are alive in one turn: no arena can be smaller."""
    if not lives:
        return 0
    change = [0] * (max(life.last for life in lives) + 2)
    for life in lives:
        change[life.first] += _rounded(life.nbytes)
        change[life.last + 1] -= _rounded(life.nbytes)
    return max(accumulate(change))


def _rounded(nbytes: int) -> int:
    return max(ALIGN, -(-nbytes // ALIGN) * ALIGN)


def _in_turn(lives: Sequence[Life]) -> tuple[list[int], int]:
    """Places as they are needed, one value after the other."""
    arena = Arena()
    offsets: list[int] = []
    alive: list[tuple[int, int]] = []  # (last turn, number), the first to end first
    for i, life in enumerate(lives):
        while alive and alive[0][0] < life.first:
            ended = alive.pop(0)[1]
            arena.free(offsets[ended], lives[ended].nbytes)
        offsets.append(arena.take(life.nbytes))
        insort(alive, (life.last, i))
    return offsets, arena.peak


def _by_size(lives: Sequence[Life]) -> tuple[list[int], int]:
    """The largest values first, each into the tightest gap between those that are alive at the same time."""
    first, last = np.array([life.first for life in lives]), np.array([life.last for life in lives])
    sizes = np.array([_rounded(life.nbytes) for life in lives])
    start, end = np.zeros_like(sizes), np.zeros_like(sizes)
    order = sorted(range(len(lives)), key=lambda i: (-int(sizes[i]), i))
    placed = np.zeros(len(lives), bool)
    for i in order:
        beside = np.flatnonzero(placed & (first <= last[i]) & (last >= first[i]))
        beside = beside[np.argsort(start[beside], kind="stable")]
        lows = np.concatenate(([0], np.maximum.accumulate(end[beside]))).astype(np.int64)
        gaps = start[beside] - lows[:-1]
        fitting = np.flatnonzero(gaps >= sizes[i])
        start[i] = lows[fitting[np.argmin(gaps[fitting])]] if len(fitting) else lows[-1]
        end[i] = start[i] + sizes[i]
        placed[i] = True
    return start.tolist(), int(end.max(initial=0))


@dataclass(slots=True)
class Arena:
    """Offsets in one arena: best fit among the gaps, lowest first. `peak` is the size it needs."""

    peak: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)  # (offset, nbytes), by offset
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (nbytes, offset) of the same gaps, smallest first

    def take(self, nbytes: int) -> int:
        """An offset for so many bytes."""
        size = _rounded(nbytes)
        fitting = bisect_left(self.sizes, (size, -1))
        if fitting < len(self.sizes):
            gap, offset = self.sizes.pop(fitting)
            del self.gaps[bisect_left(self.gaps, (offset, 0))]
            if gap > size:
                insort(self.gaps, (offset + size, gap - size))
                insort(self.sizes, (gap - size, offset + size))
            return offset
        if self.gaps and sum(self.gaps[-1]) == self.peak:  # grow the last gap rather than leave it
            offset, gap = self.gaps.pop()
            self._forget(offset, gap)
        else:
            offset = self.peak
        self.peak = offset + size
        return offset

    def free(self, offset: int, nbytes: int) -> None:
        """Give a place back; it joins the gaps beside it."""
        size = _rounded(nbytes)
        low, high = offset, offset + size
        first = last = bisect_left(self.gaps, (offset, 0))
        if first and sum(self.gaps[first - 1]) == low:
            first -= 1
            low = self.gaps[first][0]
            self._forget(*self.gaps[first])
        if last < len(self.gaps) and self.gaps[last][0] == high:
            high = sum(self.gaps[last])
            self._forget(*self.gaps[last])
            last += 1
        self.gaps[first:last] = [(low, high - low)]
        insort(self.sizes, (high - low, low))

    def _forget(self, offset: int, nbytes: int) -> None:
        del self.sizes[bisect_left(self.sizes, (nbytes, offset))]
