"""Plans as a user handles them: made from a graph, saved, loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rainshed.compiler import load
from rainshed.compiler.plan import Plan, save
from rainshed.ops import CATALOGUE
from rainshed.ops.errors import PlanError
from rainshed.ops.op import Op

__all__ = ["load_plan", "save_plan"]


def load_plan(path: str | Path, ops: Iterable[Op] = ()) -> Plan:
    """The plan of a file, checked whole. `ops`: those of the user's own that it may name.

    Raises  PlanError with the place in the file that is wrong
    """
    return load.load_plan(path, {**CATALOGUE, **{op.name: op for op in ops}})


def save_plan(plan: Plan, path: str | Path) -> None:
    """Write the plan as JSON: the same bytes for the same plan. Raises PlanError if the file cannot be written."""
    try:
        save(plan, path)
    except OSError as error:
        raise PlanError(f"cannot write the plan {path}: {error.strerror}") from None
