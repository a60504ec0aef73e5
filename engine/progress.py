"""How training goes, while it goes: what replicas and processes tell, and the newest of all replicas."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rainshed.runtime.cluster.coordinator import OnWork

WINDOW_S = 10.0  # rates and losses are means over about so much of a replica's time


@dataclass(frozen=True, slots=True)
class Progress:
    """What one replica did since it last told: `examples` and `bytes_sent` in `seconds`."""

    replica: int
    step: int  # the steps this replica has made so far
    loss: float | None  # mean over the examples; None if it was not computed
    examples: int
    seconds: float
    staleness: float | None  # mean age, in updates, of the parameters that gradients were computed with
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a process is busy with, such as "first values: 1,048,576 of 6,968,360,000 bytes"."""

    who: str
    what: str


def telling(on_work: Callable[[Work], None] | None) -> OnWork | None:
    """What tells, at heartbeats of a job's workers, what they are busy with."""
    return None if on_work is None else lambda agent: on_work(Work(agent.title or agent.joined.name, agent.doing))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Rates are per second."""

    name: str
    step: int
    loss: float | None
    examples_per_s: float
    staleness: float | None
    bytes_per_s: float
    running: bool = True


class Board:
    """The newest of every replica. Pure: no clock, no output."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self.window_s = window_s
        self._recent: dict[int, deque[Progress]] = {}
        self._finished: set[int] = set()

    def on(self, event: Progress) -> None:
        recent = self._recent.setdefault(event.replica, deque())
        recent.append(event)
        self._finished.discard(event.replica)
        while len(recent) > 1 and sum(e.seconds for e in recent) > self.window_s:
            recent.popleft()

    def finish(self, replica: int) -> None:
        """The replica works no more: its line stays, its rate counts no longer."""
        self._finished.add(replica)

    def rows(self) -> list[Row]:
        """A row for each replica, in order."""
        return [self._row(replica, events) for replica, events in sorted(self._recent.items())]

    def total(self) -> Row | None:
        """All replicas together: the sum of steps and rates, the means of loss and staleness."""
        rows = self.rows()
        if not rows:
            return None
        at_work = [r for r in rows if r.running]
        return Row(
            name="all",
            step=sum(r.step for r in rows),
            loss=_mean([(r.loss, 1.0) for r in rows]),
            examples_per_s=sum(r.examples_per_s for r in at_work),
            staleness=_mean([(r.staleness, 1.0) for r in rows]),
            bytes_per_s=sum(r.bytes_per_s for r in at_work),
            running=bool(at_work),
        )

    def _row(self, replica: int, events: Sequence[Progress]) -> Row:
        seconds = sum(e.seconds for e in events)
        return Row(
            name=str(replica),
            step=events[-1].step,
            loss=_mean([(e.loss, float(max(1, e.examples))) for e in events]),
            examples_per_s=sum(e.examples for e in events) / seconds if seconds > 0 else 0.0,
            staleness=_mean([(e.staleness, 1.0) for e in events]),
            bytes_per_s=sum(e.bytes_sent for e in events) / seconds if seconds > 0 else 0.0,
            running=replica not in self._finished,
        )


def _mean(values: Sequence[tuple[float | None, float]]) -> float | None:
    known = [(value, weight) for value, weight in values if value is not None]
    return sum(v * w for v, w in known) / sum(w for _, w in known) if known else None
