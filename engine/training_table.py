"""How training goes, shown: a live table on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rainshed.engine.progress import Board, Progress, Row, Work
from rainshed.engine.view.units import bytes_text, count_text

REFRESH_S = 0.25
LINE_EVERY_S = 5.0
LISTED = 8  # steps of so many replicas stand in a plain line


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
