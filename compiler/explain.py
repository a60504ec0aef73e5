"""Why a value was cut and placed as it is, and what crosses because of it: candidates with costs, transfers with reasons.

`compile` leaves in a plan, for each value of weight, the layouts that the search could have given it, with what each would have
cost while everything else stayed as it is. `explain` puts them beside where the pieces lie and what they send.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from msgspec.structs import replace

from rainshed.compiler.gathered import CARRIERS, Gathered, gathered
from rainshed.compiler.partition.options import Option
from rainshed.compiler.partition.search import NEVER, Search
from rainshed.compiler.passes.split import value_names
from rainshed.compiler.plan import Assign, Candidate, Plan, Program, Recv, Run, Transfer
from rainshed.ops.access import Box
from rainshed.ops.errors import UsageError
from rainshed.ops.ir import Node

MOST_VALUES = 150  # of a plan whose candidates are kept: the heaviest, and as many variables
MOST_CANDIDATES = 6  # of a value, the cheapest
BIG_SHARE = 0.01  # of all bytes: what moves as much is listed by itself unless the user says otherwise

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Piece:
    """A region of a value on a machine."""

    machine: str
    op: str
    box: Box | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Crossing:
    """A transfer, and who reads it where it arrives."""

    of: str
    source: str
    to: str
    nbytes: int
    reason: str
    reader: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """All there is to say of one value, variable or layer; of the whole plan if `name` is empty."""

    name: str
    values: Mapping[str, tuple[Piece, ...]]
    candidates: Mapping[str, tuple[Candidate, ...]]
    crossings: tuple[Crossing, ...]
    gathered: tuple[Gathered, ...]  # values that go whole to every machine, or to several; the largest first
    small: int  # transfers below the threshold, and their bytes
    small_nbytes: int
    threshold: int
    notes: Mapping[str, str]  # how the plan itself was found


# -- while compiling --------------------------------------------------------------------------------------------------
def kept_candidates(search: Search | None, strategy: str) -> dict[str, tuple[Candidate, ...]]:
    """Of each of the heaviest values, the cheapest first. Nothing where there was nothing to choose."""
    if search is None or search.machines == 1 or strategy not in search.ends:
        return {}
    search.chosen = dict(search.ends[strategy])
    names = value_names(search.graph)
    free = [n for n in search.nodes if len(search.facts[n].kind.options) > 1]
    heavy = sorted(free, key=lambda n: -float(search.facts[n].spent.max()))[:MOST_VALUES]
    variables = [n for n in free if n.op.name == "variable"][:MOST_VALUES]
    return {names[n]: _candidates(search, n) for n in dict.fromkeys([*heavy, *variables])}


def _candidates(search: Search, node: Node) -> tuple[Candidate, ...]:
    """The cheapest options; seconds with 4 digits are enough."""
    chosen, fact = search.chosen[node], search.facts[node]
    sums = [search.adding(o, fact.itemsize) for o in fact.kind.options]
    compute = fact.spent - sums
    inputs, others = np.zeros(len(sums)), np.zeros(len(sums))
    for other, seconds in search.near[node]:
        own = seconds[:, search.chosen[other]]
        if other in node.inputs:
            inputs = inputs + own
        else:
            others = others + own
    total = compute + sums + inputs + others
    order = sorted(range(len(sums)), key=lambda i: (total[i], i != chosen))
    possible = [i for i in order if total[i] < NEVER]

    def candidate(i: int) -> Candidate:
        return Candidate(
            layout=_layout_text(search, node, fact.kind.options[i], search.cluster.names),
            chosen=i == chosen,
            compute_s=float(f"{compute[i]:.4g}"),
            inputs_s=float(f"{inputs[i]:.4g}"),
            sums_s=float(f"{sums[i]:.4g}"),
            readers_s=float(f"{others[i]:.4g}"),
        )

    return _different((candidate(i) for i in possible), candidate(chosen))


def _different(candidates: Iterable[Candidate], chosen: Candidate) -> tuple[Candidate, ...]:
    """The first few of those that differ in words or figures; the chosen one is among them, last if it has to be."""
    found: dict[Candidate, Candidate] = {}
    for one in candidates:
        words = replace(one, chosen=False)
        found.setdefault(words, chosen if words == replace(chosen, chosen=False) else one)
        if len(found) == MOST_CANDIDATES:
            break
    kept = list(found.values())
    return tuple(kept if chosen in kept else [*kept[: MOST_CANDIDATES - 1], chosen])


def _layout_text(search: Search, node: Node, one: Option, names: tuple[str, ...]) -> str:
    axes, layout = search.facts[node].access.axes, one.layout
    grid = layout.grid if layout.cut is None else [len(set(intervals)) for intervals in zip(*layout.cut, strict=True)]
    uneven = "" if layout.cut is None else " uneven parts"
    cuts = [
        f"{axis.name} in {parts}{uneven}" + (" (partial sums)" if axis.role == "sum" else "")
        for axis, parts in zip(axes, grid, strict=True)
        if parts > 1
    ]
    homes = [names[m] for m in dict.fromkeys(layout.homes)]
    where = homes[0] if len(homes) == 1 else f"{homes[0]} ... {homes[-1]}" if len(homes) > 4 else ", ".join(homes)
    return f"{' x '.join(cuts) or 'whole'} on {where}"


# -- of a plan --------------------------------------------------------------------------------------------------------
def explain(plan: Plan, name: str = "", *, threshold: int | None = None) -> Explanation:
    """What decided about a value ("dense/matmul"), a variable ("dense/w"), an input ("x"), an output ("loss", "grad/dense/w") or
    a layer ("dense"), and what crosses because of it.

    threshold  the transfers of a value for one reason are listed if they move as many bytes together; None: a hundredth of
               all bytes of the plan
    Raises     UsageError if the plan has nothing of this name
    """
    values = _pieces(plan, name)
    if name and not values:
        known = sorted({x for p in plan.programs for x in _names(p)})
        near = [x for x in known if name.lower() in x.lower()] or known
        raise UsageError(f"the plan has no value, variable or layer {name!r}", known=", ".join(near[:20]))
    readers = _readers(plan)
    mine = [t for t in plan.transfers if not name or _about(t, name, values)]
    moved: dict[tuple[str, str], int] = {}
    for t in mine:
        moved[_flow(t)] = moved.get(_flow(t), 0) + t.nbytes
    listed, least = worth_listing(moved, plan.prediction.bytes, threshold)
    big = sorted((t for t in mine if _flow(t) in listed), key=lambda t: (-t.nbytes, t.key))
    return Explanation(
        name=name,
        values=values if name else {},
        candidates={value: plan.candidates[value] for value in values if value in plan.candidates} if name else {},
        crossings=tuple(Crossing(t.of, t.source, t.to, t.nbytes, t.reason, readers.get(t.key, "")) for t in big),
        gathered=gathered(plan, readers, {t.key for t in mine}),
        small=len(mine) - len(big),
        small_nbytes=sum(t.nbytes for t in mine) - sum(t.nbytes for t in big),
        threshold=least,
        notes=plan.notes,
    )


def worth_listing(nbytes: Mapping[Key, int], total: int, threshold: int | None = None) -> tuple[set[Key], int]:
    """Which of some flows (a value, the reason why it moves) move enough bytes to be listed, and how many that are at least.

    total  bytes of the whole plan, of which BIG_SHARE is enough where no threshold is given
    """
    least = int(BIG_SHARE * total) if threshold is None else threshold
    return {key for key, n in nbytes.items() if n >= least}, least


def over_steps(of: str) -> str:
    """A value's name with the numbers of inner scopes left out: what the steps of an unrolled layer have in common."""
    outer, slash, inner = of.partition("/")
    return outer + slash + re.sub(r"\d+(?=/)", "*", inner)


def _flow(transfer: Transfer) -> tuple[str, str]:
    return over_steps(transfer.of.partition("[")[0]), transfer.reason


def _names(program: Program) -> Iterable[str]:
    """All that a program has a name for."""
    scopes = (i.scope for i in program.instructions if isinstance(i, Run))
    values = (v.of for v in program.values)
    feeds, variables = (f.name for f in program.feeds), (v.name for v in program.variables)
    outputs = (o.name for o in program.outputs)
    return filter(None, (*feeds, *variables, *outputs, *scopes, *values))


def _pieces(plan: Plan, name: str) -> dict[str, tuple[Piece, ...]]:
    """The values meant by a name, and where each lies; those that only carry parts of others (slices, blocks) come with them."""
    found: dict[str, list[Piece]] = {}
    asked = {name, *(p.values[o.value].of or name for p in plan.programs for o in p.outputs if o.name == name)}
    for program in plan.programs:
        for kind, sources in (("input", program.feeds), ("variable", program.variables)):
            for source in sources:
                if not name or source.name in asked:
                    found.setdefault(source.name, []).append(Piece(program.machine, kind, source.box, 0.0))
        for run in program.instructions:
            if isinstance(run, Run):
                for number in run.outputs:
                    value = program.values[number]
                    if not name or value.of in asked or (name == run.scope and run.op not in CARRIERS):
                        found.setdefault(value.of, []).append(Piece(program.machine, run.op, value.box, run.seconds))
    return {value: tuple(pieces) for value, pieces in found.items()}


def _about(transfer: Transfer, name: str, values: Mapping[str, Any]) -> bool:
    return transfer.of.partition("[")[0] in values or name in (transfer.scope, transfer.for_scope)


def _readers(plan: Plan) -> dict[int, str]:
    """Key of a transfer -> the ops, outputs and updates that read it where it arrives, through slices and blocks."""
    found = {}
    for program in plan.programs:
        reading: dict[int, list[Run]] = {}
        roots: dict[int, list[str]] = {}
        for output in program.outputs:
            roots.setdefault(output.value, []).append(f"the output {output.name}")
        names = {v.value: v.name for v in program.variables}
        for i in program.instructions:
            if isinstance(i, Run):
                for value in dict.fromkeys(i.inputs):
                    reading.setdefault(value, []).append(i)
            elif isinstance(i, Assign):
                roots.setdefault(i.value, []).append(f"the update of {names[i.variable]}")
        for i in program.instructions:
            if isinstance(i, Recv):
                found[i.key] = ", ".join(dict.fromkeys(_ends(i.value, reading, roots)))
    return found


def _ends(value: int, reading: Mapping[int, list[Run]], roots: Mapping[int, list[str]]) -> Iterable[str]:
    """What is done with a value in the end, where slices and blocks only carry it on."""
    left, seen = [value], {value}
    while left:
        now = left.pop()
        yield from roots.get(now, ())
        for run in reading.get(now, ()):
            if run.op in CARRIERS:
                left.extend(v for v in run.outputs if v not in seen)
                seen.update(run.outputs)
            else:
                yield f"{run.op} of {run.scope}" if run.scope else run.op
