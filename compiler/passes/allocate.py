"""allocate: every value gets a fixed place in its machine's arena; places are taken again once their value is read no more."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

ALIGN = 64  # bytes: a cache line, and the widest vector


@dataclass(slots=True)
class Arena:
    """Offsets in one arena: best fit among the gaps, lowest first. `peak` is the size it needs."""

    peak: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)  # (offset, nbytes), by offset

    def take(self, nbytes: int) -> int:
        """An offset for so many bytes."""
        size = max(ALIGN, -(-nbytes // ALIGN) * ALIGN)
        fitting = [(gap, offset) for offset, gap in self.gaps if gap >= size]
        if fitting:
            gap, offset = min(fitting)
            self.gaps.remove((offset, gap))
            if gap > size:
                insort(self.gaps, (offset + size, gap - size))
            return offset
        if self.gaps and sum(self.gaps[-1]) == self.peak:  # grow the last gap rather than leave it
            offset, _ = self.gaps.pop()
        else:
            offset = self.peak
        self.peak = offset + size
        return offset

    def free(self, offset: int, nbytes: int) -> None:
        """Give a place back; it joins the gaps beside it."""
        size = max(ALIGN, -(-nbytes // ALIGN) * ALIGN)
        merged = []
        low, high = offset, offset + size
        for start, length in self.gaps:
            if start + length == low:
                low = start
            elif start == high:
                high = start + length
            else:
                merged.append((start, length))
        insort(merged, (low, high - low))
        self.gaps = merged
