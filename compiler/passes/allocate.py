"""allocate: every value gets a fixed place in its machine's arena; places are taken again once their value is read no more."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

ALIGN = 64  # bytes: a cache line, and the widest vector


@dataclass(slots=True)
class Arena:
    """Offsets in one arena: best fit among the gaps, lowest first. `peak` is the size it needs."""

    peak: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)  # (offset, nbytes), by offset
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (nbytes, offset) of the same gaps, smallest first

    def take(self, nbytes: int) -> int:
        """An offset for so many bytes."""
        size = max(ALIGN, -(-nbytes // ALIGN) * ALIGN)
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
        size = max(ALIGN, -(-nbytes // ALIGN) * ALIGN)
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
