"""Timeouts of a job in one object, and deadlines that are measured with a clock that never jumps."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields
from typing import NamedTuple

from rainshed.ops.errors import UsageError


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each kind of waiting may last. Tests scale all of them down together.

    A rate is no time: `min_bytes_per_s`, the slowest link that is not yet a fault, does not scale.
    """

    connect_s: float = 5.0
    handshake_s: float = 5.0
    rpc_s: float = 5.0  # an exchange of small frames; large ones get more, see for_bytes
    min_bytes_per_s: float = 1e6
    heartbeat_s: float = 1.0
    suspect_s: float = 3.0
    dead_s: float = 10.0
    step_s: float = 60.0
    start_s: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (value > 0 and math.isfinite(value)):
                raise UsageError(f"timeouts: {field.name} is {value!r}, not a positive number")
        if not self.heartbeat_s < self.suspect_s < self.dead_s:
            raise UsageError(
                "timeouts: heartbeat_s < suspect_s < dead_s does not hold",
                found=f"{self.heartbeat_s}, {self.suspect_s}, {self.dead_s}",
            )

    def scaled(self, factor: float) -> Timeouts:
        """The same timeouts, every time multiplied by `factor`."""
        times = {f.name: getattr(self, f.name) * factor for f in fields(self) if f.name != "min_bytes_per_s"}
        return Timeouts(**{**times, "min_bytes_per_s": self.min_bytes_per_s})

    def for_bytes(self, nbytes: int) -> float:
        """Seconds that an exchange of `nbytes` may take: a slow link is not a dead one."""
        return self.rpc_s + nbytes / self.min_bytes_per_s


class Listening:
    """Since when this process has listened without a gap: while it stood still itself (Ctrl-Z, a frozen container), nobody could
    be heard, and nobody's silence is counted.

    every_s   how often `tick` is called, as long as the process runs
    gap_s     a tick that is later by so much ends a gap
    """

    def __init__(self, every_s: float, gap_s: float, now: float) -> None:
        self._late_s = every_s + gap_s
        self._last = self._since = now

    def tick(self, now: float) -> None:
        """The process runs now."""
        if now - self._last > self._late_s:
            self._since = now
        self._last = now

    def silent_s(self, heard: float) -> float:
        """How long one who was last heard at `heard` has been silent while we listened, up to the last tick."""
        return self._last - max(heard, self._since)


class Deadline(NamedTuple):
    """A point in time after which waiting is over."""

    at: float  # of time.monotonic
    total_s: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds, seconds)

    def left(self) -> float:
        """Seconds left, 0 when it has passed: fit for any `timeout=`."""
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self.at
