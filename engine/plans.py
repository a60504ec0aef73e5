"""Plans as a user handles them: made from a graph, saved, loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from rainshed.compiler import load
from rainshed.compiler.plan import Plan, to_json
from rainshed.ops import CATALOGUE
from rainshed.ops.errors import PlanError, UsageError
from rainshed.ops.op import Op
from rainshed.runtime.whole_file import whole_file

__all__ = ["load_plan", "save_plan"]


def load_plan(path: str | Path, ops: Iterable[Op] = ()) -> Plan:
    """The plan of a file, checked whole. `ops`: those of the user's own that it may name.

    Raises  PlanError with the place in the file that is wrong
    """
    return load.load_plan(path, {**CATALOGUE, **{op.name: op for op in ops}})


def save_plan(plan: Plan, path: str | Path) -> None:
    """Write the plan as JSON: the same bytes for the same plan. The file is there whole or as it was.

    Raises  UsageError for what is no plan; PlanError if the file cannot be written
    """
    if not isinstance(plan, Plan):
        raise UsageError(
            f"a plan is saved; found {type(plan).__name__}", hint="rs.compile(graph, cluster), session.plan"
        )
    try:
        with whole_file(path) as file:
            file.write(msgspec.json.format(to_json(plan), indent=1))
    except OSError as error:
        raise PlanError(f"cannot write the plan {path}: {error.strerror}") from None
