"""How training goes, while it goes: a live table on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rainshed.engine.view.units import bytes_text, count_text

WINDOW_S = 10.0  # rates and losses are means over about so much of a replica's time
REFRESH_S = 0.25
LINE_EVERY_S = 5.0
LISTED = 8  # steps of so many replicas stand in a plain line


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


def cells(row: Row) -> tuple[str, str, str, str, str, str]:
    """The row as text: replica, steps, loss, examples/s, staleness, sent/s."""
    return (
        row.name,
        f"{row.step:,}",
        "–" if row.loss is None else f"{row.loss:.4g}",
        count_text(row.examples_per_s) if row.running else "done",
        "–" if row.staleness is None else f"{row.staleness:.1f}",
        f"{bytes_text(row.bytes_per_s)}/s" if row.running else "",
    )


def plain_line(board: Board) -> str:
    """Everything in one line; empty before the first event."""
    total, rows = board.total(), board.rows()
    if total is None:
        return ""
    _, step, loss, rate, staleness, sent = cells(total)
    each = f" ({' '.join(str(r.step) for r in rows)})" if 1 < len(rows) <= LISTED else ""
    parts = [f"steps {step}{each}", f"loss {loss}", f"{rate} examples/s" if total.running else "done"]
    parts += [f"staleness {staleness}"] * (total.staleness is not None) + [f"{sent} sent"] * bool(sent)
    return " | ".join(parts)


def table(board: Board) -> Table:
    """A row for each replica, and all of them together below."""
    rows, total = board.rows(), board.total()
    made = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False, show_footer=len(rows) > 1)
    feet = cells(total) if total else ("",) * 6
    for title, foot in zip(("replica", "steps", "loss", "examples/s", "staleness", "sent"), feet, strict=True):
        side: JustifyMethod = "left" if title == "replica" else "right"
        made.add_column(title, footer=Text(foot, "bold"), justify=side, min_width=9)
    for row in rows:
        made.add_row(*(Text(cell, "" if row.running else "dim") for cell in cells(row)))
    return made


class TrainingTable:
    """Shows events as they come, from any thread. Use it in a `with` block.

    stream   where to: stderr if not given. A terminal gets a live table, anything else a line every `every_s`
    quiet    show nothing
    clock    seconds that only go forward
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        every_s: float = LINE_EVERY_S,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.board = Board()
        self._console = Console(file=stream or sys.stderr, highlight=False, markup=False, emoji=False)
        self._quiet, self._clock = quiet, clock
        live = self._console.is_terminal and not self._console.is_dumb_terminal and not quiet
        self._live = Live(console=self._console, auto_refresh=False) if live else None
        self._every_s = REFRESH_S if live else every_s
        self._next = clock() if live else clock() + every_s
        self._told = True
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def on(self, event: Progress) -> None:
        """Take in what a replica did; show it if it is time."""
        with self._lock:
            self.board.on(event)
            self._told = False
            if self._clock() >= self._next:
                self._show()

    def working(self, event: Work) -> None:
        """Show, if it is time, what a process is busy with before there are steps to tell of."""
        with self._lock:
            if self._clock() < self._next or self.board.rows():
                return
            self._next = self._clock() + self._every_s
            line = f"{event.who}: {event.what}"
            if self._live is not None:
                self._live.update(Text(line), refresh=True)
            elif not self._quiet:
                self._console.print(line, soft_wrap=True)

    def finish(self, replica: int) -> None:
        """The replica works no more."""
        with self._lock:
            self.board.finish(replica)
            self._told = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            try:
                if not self._told:
                    self._show()
            finally:
                if self._live is not None:
                    self._live.stop()

    def _show(self) -> None:
        self._next, self._told = self._clock() + self._every_s, True
        if self._live is not None:
            self._live.update(table(self.board), refresh=True)
        elif not self._quiet and (line := plain_line(self.board)):
            self._console.print(line, soft_wrap=True)
