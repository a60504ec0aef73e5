"""Messages that share network interfaces evenly: when the last byte of each has left.

A message goes at the slower of its two shares: that of the interface it leaves by, and that of the one it comes in by. It waits
in the line of the slower one, ordered by what each message of that interface will have had when it is done; so one that begins or
ends changes the number of an interface, and not the times of all others that go through it.

Source  fair queueing by virtual time: Demers, Keshav, Shenker 1989
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Interface:
    """A machine's network interface, one way. `had`: seconds of it that each message that goes through it has had so far."""

    routes: dict[Route, None] = field(default_factory=dict)  # that have a message under way
    count: int = 0  # of these
    had: float = 0.0
    since: float = 0.0  # when `had` was counted
    line: list[tuple[float, int, Route]] = field(
        default_factory=list
    )  # heap: what it will have had; some have left it since
    turn: int = 0
    version: int = 0  # of what `next_done` has told

    def next_done(self, now: float) -> float:
        """When the first message of the line will be gone if nothing changes before; infinite where there is none."""
        self.count_up_to(now)
        line = self.line
        while line and (line[0][2].at is not self or line[0][2].turn != line[0][1]):
            heapq.heappop(line)
        self.version += 1
        return now + max(0.0, line[0][0] - self.had) * self.count if line else math.inf

    def first_done(self, now: float) -> Route:
        """The route whose message is gone now, as `next_done` has told."""
        self.had, _, route = heapq.heappop(self.line)  # no rounding in between: it is done now
        self.since = now
        return route

    def count_up_to(self, now: float) -> None:
        if self.count:
            self.had += (now - self.since) / self.count
        self.since = now

    def take(self, route: Route, seconds: float) -> None:
        """A message that needs so many more seconds of the whole interface joins the line."""
        self.turn += 1
        route.at, route.turn, route.ends = self, self.turn, self.had + seconds
        heapq.heappush(self.line, (route.ends, self.turn, route))


@dataclass(eq=False, slots=True)
class Route:
    """Out by one interface, in by another; at most one message at a time.

    then  what is to be done when its last byte has left
    at    the interface in whose line it waits: the one that more messages share; the place there and what it will have had
    """

    out: Interface
    into: Interface
    then: Callable[[], None]
    at: Interface | None = None
    turn: int = 0
    ends: float = 0.0

    def begin(self, seconds: float, now: float) -> Iterable[Interface]:
        """A message that needs so many seconds of a whole interface; gives the interfaces whose first message may be another."""
        changed: dict[Interface, None] = {}
        for interface in (self.out, self.into):
            interface.count_up_to(now)
            interface.count += 1
            interface.routes[self] = changed[interface] = None
        (self.out if self.out.count >= self.into.count else self.into).take(self, seconds)
        for interface in (self.out, self.into):
            count = interface.count
            for other in interface.routes:
                at = other.at
                if at is not interface and at is not None and at.count < count:
                    other._change(interface, now)
                    changed[at] = None
        return changed

    def end(self, now: float) -> Iterable[Interface]:
        """Its message is gone; gives the interfaces whose first message may be another."""
        self.at = None
        changed: dict[Interface, None] = {}
        for interface in (self.out, self.into):
            interface.count_up_to(now)
            interface.count -= 1
            del interface.routes[self]
            changed[interface] = None
        count = self.out.count
        for other in self.out.routes:
            if other.at is self.out and other.into.count > count:
                other._change(other.into, now)
                changed[other.into] = None
        count = self.into.count
        for other in self.into.routes:
            if other.at is self.into and other.out.count > count:
                other._change(other.out, now)
                changed[other.out] = None
        return changed

    def left_s(self, now: float) -> float:
        """Seconds of the whole interface that the message under way still needs."""
        if self.at is None:
            return 0.0
        self.at.count_up_to(now)
        return max(0.0, self.ends - self.at.had)

    def _change(self, line: Interface, now: float) -> None:
        """Go to the line of the other interface, which has become the slower one."""
        assert self.at is not None
        self.at.count_up_to(now)
        line.count_up_to(now)
        line.take(self, self.ends - self.at.had)
