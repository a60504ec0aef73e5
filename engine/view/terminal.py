"""What texts for a terminal share: tables without frames, and names that cannot steer it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from rainshed.engine.view.units import printable, shortened


def coloured(colour: bool | None) -> bool:
    """What was asked for; else whether stdout is a terminal and NO_COLOR is not set."""
    if colour is None:
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return colour


def rendered(what: RenderableType, width: int, colour: bool) -> str:
    """What rich would print on a terminal of this width."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=max(40, width),
        force_terminal=colour,
        no_color=not colour,
        color_system="truecolor" if colour else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    console.print(what)
    lines = stream.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"


def heading(title: str) -> Text:
    return Text(f"\n{title}", style="bold")


def columns_table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="dim", show_edge=False)
    for column in columns:
        number = column in numbers
        table.add_column(Text(column), justify="right" if number else "left", no_wrap=number, overflow="ellipsis")
    return table


def name_text(text: str) -> Text:
    return Text(shortened(printable(text), 28))
