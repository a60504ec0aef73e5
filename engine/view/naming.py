"""What things of a plan are called: the layer of an op, the ops of a fused one, a value's type."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import NamedTuple

from rainshed.compiler.plan import Plan, Run

INSIDE = 16  # so many inner scopes at most become boxes in place of the one around them


class Place(NamedTuple):
    """A box of the picture: a layer, an input or an output."""

    kind: str  # "layer", "input" or "output"
    name: str


class Names:
    """Which box an op belongs to: the first part of its scope in which the scopes differ, or its source line.

    A box with more than half of the work and some scopes inside is opened: each of these is a box. So the layers of an
    LSTM are told apart though they share a scope.
    """

    def __init__(self, plan: Plan) -> None:
        work: Counter[tuple[str, ...]] = Counter()
        for run in (i for p in plan.programs for i in p.instructions if isinstance(i, Run)):
            work[tuple(run.scope.split("/")) if run.scope else ()] += run.flops
        total = sum(work.values())
        del work[()]
        scopes = sorted(work)
        self._depth = 0
        while scopes and all(len(s) > self._depth + 1 and s[self._depth] == scopes[0][self._depth] for s in scopes):
            self._depth += 1
        self._known = {scope[:k] for scope in scopes for k in range(1, len(scope) + 1)}
        self._opened: set[tuple[str, ...]] = set()
        while (heavy := self._heavy(work, total)) is not None:
            self._opened.add(heavy)
        self._places: dict[str, Place] = {}

    def _heavy(self, work: Mapping[tuple[str, ...], int], total: int) -> tuple[str, ...] | None:
        """A box to be opened."""
        held: Counter[tuple[str, ...]] = Counter()
        for scope, flops in work.items():
            held[self._box(scope)] += flops
        for box, flops in held.items():
            inside = {s[: len(box) + 1] for s in work if s[: len(box)] == box and len(s) > len(box)}
            if 2 * flops > total and box not in self._opened and 2 <= len(inside) <= INSIDE:
                return box
        return None

    def _box(self, scope: tuple[str, ...]) -> tuple[str, ...]:
        end = min(self._depth + 1, len(scope))
        while scope[:end] in self._opened and scope[: end + 1] in self._known and end < len(scope):
            end += 1
        return scope[:end]

    def of_scope(self, scope: str) -> Place:
        if scope not in self._places:
            box = self._box(tuple(scope.split("/")))
            self._places[scope] = Place("layer", "/".join(box[min(self._depth, len(box) - 1) :]))
        return self._places[scope]

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
