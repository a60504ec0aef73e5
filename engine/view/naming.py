"""What things of a plan are called: the layer of an op, the ops of a fused one, a value's type."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import NamedTuple

from rainshed.compiler.plan import Plan, Run


class Place(NamedTuple):
    """A box of the picture: a layer, an input or an output."""

    kind: str  # "layer", "input" or "output"
    name: str


class Names:
    """Which box an op belongs to: the first part of its scope in which the scopes differ, or its source line."""

    def __init__(self, plan: Plan) -> None:
        runs = (i for p in plan.programs for i in p.instructions if isinstance(i, Run))
        scopes = [tuple(s.split("/")) for s in sorted({r.scope for r in runs if r.scope})]
        self.depth = 0
        while scopes and all(len(s) > self.depth + 1 and s[self.depth] == scopes[0][self.depth] for s in scopes):
            self.depth += 1

    def of_scope(self, scope: str) -> Place:
        return Place("layer", scope.split("/")[min(self.depth, scope.count("/"))])

    def of(self, run: Run) -> Place:
        if run.scope:
            return self.of_scope(run.scope)
        return Place("layer", PurePath(run.line).name if run.line else run.op)


def op_names(run: Run) -> tuple[str, ...]:
    """The op; those it consists of, if it is fused."""
    if run.op != "fused":
        return (run.op,)
    inner = dict.fromkeys(re.findall(r"= (\w+)\(", run.attrs.get("body", "")))
    return tuple(op for op in inner if op not in ("input", "constant")) or (run.op,)


def type_text(dtype: str, shape: Iterable[int]) -> str:
    return f"{dtype}[{', '.join(map(str, shape))}]"
