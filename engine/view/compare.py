"""Two plans side by side: `rs.compare(a, b)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rainshed.compiler.plan import Plan
from rainshed.engine.view.comparison import Comparison, comparison_of, data_of
from rainshed.engine.view.comparison_page import comparison_html, comparison_small
from rainshed.engine.view.comparison_text import comparison_text
from rainshed.engine.view.notebook import framed
from rainshed.engine.view.terminal import coloured
from rainshed.ops.errors import UsageError


class PlanComparison:
    """What differs between two plans. `print(rs.compare(a, b))` shows it."""

    def __init__(self, found: Comparison) -> None:
        self._found = found

    @property
    def same(self) -> bool:
        """Whether they are one and the same plan."""
        return self._found.same

    def text(self, width: int = 100, *, colour: bool | None = None) -> str:
        """Lines of at most `width` characters. `colour` None: colours if stdout is a terminal and NO_COLOR is not set."""
        return comparison_text(self._found, width, coloured(colour))

    def html(self, title: str | None = None) -> str:
        """One self-contained page."""
        a, b = self._found.names
        return comparison_html(self._found, title or f"{a} beside {b}")

    def data(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return data_of(self._found)

    def _repr_html_(self) -> str:
        return framed(comparison_small(self._found))

    def __str__(self) -> str:
        return self.text(colour=False)


def compare(a: Plan, b: Plan, names: Sequence[str] = ("A", "B")) -> PlanComparison:
    """Put two plans side by side: step time, bytes, messages, memory, phase balance, and the layers that are cut differently.

    They may be of different clusters and graphs: what differs there is said first, and layers meet by their names.

    names   what to call them
    Raises  UsageError unless there are two names
    """
    if len(names) != 2:
        raise UsageError(f"two plans have two names; found {len(names)}")
    first, second = (str(name) for name in names)
    return PlanComparison(comparison_of(a, b, (first, second)))
