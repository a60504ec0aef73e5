"""Values that go whole to every machine of a plan, or to several: no all-gather is silent."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from rainshed.compiler.plan import Plan, Program, Recv, Run, Send, Transfer, Value
from rainshed.ops.access import Box, box_size, whole

CARRIERS = ("slice", "assemble", "copy")
PARTIAL = "partial sum"  # the reason of transfers that bring no part of a value yet


@dataclass(frozen=True, slots=True)
class Gathered:
    """A value of which machines get all.

    kind      "all-gather": every machine that works has all of it in the end, parts of it came from several machines;
              "broadcast": the same from one; "gather": only some machines have all of it
    machines  those that get it, or what they lack of it; `sources`: where it comes from
    nbytes    that cross for this
    reasons   of the transfers; `readers`: the ops that read it where it arrives
    """

    of: str
    kind: str
    machines: tuple[str, ...]
    sources: tuple[str, ...]
    nbytes: int
    reasons: tuple[str, ...]
    readers: tuple[str, ...]


def gathered(
    plan: Plan, readers: Mapping[int, str] = MappingProxyType({}), about: Collection[int] | None = None
) -> tuple[Gathered, ...]:
    """The values that every machine has all of in the end, or that several get all of; the largest first.

    readers  key of a transfer -> the ops that read it where it arrives
    about    only those with one of these transfers; None: all
    """
    by_key = {t.key: t for t in plan.transfers}
    working = [p for p in plan.programs if p.instructions]
    there: dict[str, dict[str, list[Box]]] = {}  # value -> machine -> what it has of it
    came: dict[str, dict[str, list[Transfer]]] = {}
    for program in working:
        for value in _made(program, by_key):
            there.setdefault(value.of, {}).setdefault(program.machine, []).append(_box(value))
        for i in program.instructions:
            if isinstance(i, Recv) and by_key[i.key].reason != PARTIAL:
                value = program.values[i.value]
                there.setdefault(value.of, {}).setdefault(program.machine, []).append(_box(value))
                came.setdefault(value.of, {}).setdefault(program.machine, []).append(by_key[i.key])
    found = []
    for of, arrivals in came.items():
        full = _hull([box for boxes in there[of].values() for box in boxes])
        has_all = {machine for machine, boxes in there[of].items() if _cover(boxes, full)}
        takers = [machine for machine in arrivals if machine in has_all]
        transfers = [t for machine in takers for t in arrivals[machine]]
        everywhere = len(has_all) == len(working)
        if (everywhere or len(takers) > 1) and (about is None or any(t.key in about for t in transfers)):
            found.append(_gathered(of, everywhere, takers, transfers, readers))
    return tuple(sorted(found, key=lambda g: (-g.nbytes, g.of)))


def _gathered(
    of: str, everywhere: bool, takers: list[str], transfers: list[Transfer], readers: Mapping[int, str]
) -> Gathered:
    sources = tuple(sorted({t.source for t in transfers}))
    kind = "gather" if not everywhere else "all-gather" if len(sources) > 1 else "broadcast"
    return Gathered(
        of=of,
        kind=kind,
        machines=tuple(takers),
        sources=sources,
        nbytes=sum(t.nbytes for t in transfers),
        reasons=tuple(dict.fromkeys(t.reason for t in transfers)),
        readers=tuple(dict.fromkeys(r for t in transfers for r in readers.get(t.key, "").split(", ") if r)),
    )


def _box(value: Value) -> Box:
    return whole(value.shape) if value.box is None else value.box


def _hull(boxes: list[Box]) -> Box:
    """The whole value, of which every part is somewhere."""
    return tuple((0, max(box[d][1] for box in boxes)) for d in range(len(boxes[0])))


def _cover(boxes: list[Box], full: Box) -> bool:
    """Whether boxes have every element of the whole value together."""
    if sum(map(box_size, boxes)) < box_size(full) or not box_size(full):
        return False
    edges = [sorted({edge for box in (*boxes, full) for edge in box[d]}) for d in range(len(full))]
    at = [{edge: i for i, edge in enumerate(axis)} for axis in edges]
    cells = np.zeros([len(axis) - 1 for axis in edges], bool)
    for box in boxes:
        cells[tuple(slice(at[d][low], at[d][high]) for d, (low, high) in enumerate(box))] = True
    return bool(cells.all())


def _made(program: Program, by_key: Mapping[int, Transfer]) -> Iterator[Value]:
    """The values that a machine holds from the start or makes itself, less those that are partial results."""
    partial = _partial(program, by_key)
    yield from (program.values[v.value] for v in program.variables)
    for run in program.instructions:
        if isinstance(run, Run) and run.op not in CARRIERS:
            yield from (program.values[v] for v in run.outputs if v not in partial)


def _partial(program: Program, by_key: Mapping[int, Transfer]) -> set[int]:
    """Partial results on one machine, and what is cut out of them: they are sent as such, or added to others."""
    values = program.values
    partial = {i.value for i in program.instructions if isinstance(i, Recv | Send) and by_key[i.key].reason == PARTIAL}
    for run in reversed(program.instructions):
        if not isinstance(run, Run):
            continue
        made = {values[v].of for v in run.outputs}
        if run.op in CARRIERS:
            carried = not partial.isdisjoint(run.outputs)
            partial |= {v for v in run.inputs if carried and values[v].of in made}
            continue
        parts = [(values[v].of, values[v].box) for v in dict.fromkeys(run.inputs)]
        twice = {part for part in parts if parts.count(part) > 1}  # added inside of a larger kernel
        partial |= {v for v in run.inputs if values[v].of in made or (values[v].of, values[v].box) in twice}
    return partial
