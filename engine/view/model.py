"""What a plan looks like from afar: its layers, what flows between them, and what of that crosses machines.

All views (page, terminal, notebook) draw from this one summary, so that they show the same numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rainshed.compiler.explain import over_steps
from rainshed.compiler.plan import Plan, Run, Transfer, Variable
from rainshed.engine.view.naming import Names, Place, op_names, type_text
from rainshed.engine.view.spread import Spread, balance_of, speeds_of, spreads
from rainshed.engine.view.trail import Trail, variable_name
from rainshed.ops.access import Box, box_size
from rainshed.ops.errors import UsageError
from rainshed.ops.types import dtype_of


@dataclass(frozen=True, slots=True)
class OpRow:
    """The like ops of one layer from one line of the user: the tiles on all machines together."""

    ops: tuple[str, ...]  # several where element-wise neighbours were fused
    line: str
    backward: bool
    tiles: int
    shapes: tuple[str, ...]  # of the results, the most frequent first
    flops: int
    seconds: float


@dataclass(frozen=True, slots=True)
class VariableRow:
    """A variable and where its parts live."""

    name: str
    type: str
    nbytes: int
    parts: Mapping[str, int]  # machine -> bytes
    trainable: bool
    slot_nbytes: int = 0  # what the optimizer keeps beside it


@dataclass(frozen=True, slots=True)
class Flow:
    """The transfers of one value for one reason between one pair of layers."""

    of: str
    reason: str
    source: Place
    target: Place
    backward: bool
    nbytes: int
    messages: int
    largest: Transfer


@dataclass(frozen=True, slots=True)
class Edge:
    """What one layer gives to another. `nbytes` is the size of the values, `crossing` what machines send each other."""

    source: Place
    target: Place
    backward: bool
    nbytes: int
    crossing: int
    messages: int
    flows: tuple[Flow, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One box: its ops, its variables, its share per machine, and what crosses machines inside it."""

    place: Place
    type: str  # of an input or output
    ops: tuple[OpRow, ...]
    variables: tuple[VariableRow, ...]
    flops: Mapping[str, int]
    nbytes: Mapping[str, int]
    seconds: Mapping[str, float]
    inside: tuple[Flow, ...]

    @property
    def load(self) -> Mapping[str, int]:
        """The share of each machine: its flops, or its memory traffic in a layer that computes nothing."""
        return self.flops if sum(self.flops.values()) else self.nbytes

    @property
    def crossing(self) -> int:
        return sum(f.nbytes for f in self.inside)


@dataclass(frozen=True, slots=True)
class PlanView:
    """The summary that the views draw."""

    plan: Plan
    layers: tuple[Layer, ...]
    edges: tuple[Edge, ...]
    flows: tuple[Flow, ...]  # all of them, the largest first
    parameters: int
    memory: Mapping[str, int]  # machine -> bytes it has
    backward: bool
    spread: Mapping[Place, Spread]  # of each layer
    speeds: Mapping[str, float]  # machine -> flops per second

    @property
    def reasons(self) -> dict[str, int]:
        """Reason -> bytes per step, the largest first."""
        total: Counter[str] = Counter()
        for flow in self.flows:
            total[flow.reason] += flow.nbytes
        return dict(total.most_common())

    @property
    def balance(self) -> float | None:
        """The phase balance: layers one after the other, each pass at its slowest machine, over an even spread."""
        return balance_of(self.spread, self.speeds)

    def share_of(self, layer: Layer) -> list[float]:
        """What each machine does in a layer, over what it would do if all worked equally long."""
        spread = self.spread.get(layer.place)
        total: int = sum(layer.load.values())
        if spread is not None and layer.load is layer.flops:
            return spread.shares(self.speeds)
        return [layer.load.get(m, 0) * len(self.speeds) / total if total else 0.0 for m in self.speeds]


def view_of(plan: Plan) -> PlanView:
    """The summary of a plan. Raises UsageError for what is none."""
    if not isinstance(plan, Plan):
        raise UsageError(
            f"a plan is shown; found {type(plan).__name__}", hint="rs.compile(graph, cluster), session.plan"
        )
    trail = Trail(plan)
    name = Names(plan)
    flows = _flows(plan, trail, name)
    layers = _layers(plan, trail, name, flows)
    memory = {row["name"]: row["memory_bytes"] for row in plan.cluster.get("machine", ()) if "memory_bytes" in row}
    wholes = {v.name: (v.whole, v.trainable) for p in plan.programs for v in p.variables}
    return PlanView(
        plan=plan,
        layers=layers,
        edges=_edges(plan, trail, name, flows),
        flows=tuple(sorted(flows, key=lambda f: -f.nbytes)),
        parameters=sum(box_size(tuple((0, n) for n in whole)) for whole, trainable in wholes.values() if trainable),
        memory=memory,
        backward=any(isinstance(i, Run) and i.backward for p in plan.programs for i in p.instructions),
        spread=spreads(plan, name.of),
        speeds=speeds_of(plan),
    )


class _FlowKey(NamedTuple):
    of: str
    reason: str
    source: Place
    target: Place
    backward: bool


def _flows(plan: Plan, trail: Trail, name: Names) -> list[Flow]:
    """The transfers, those put together that carry parts of the same value for the same reason."""
    found: dict[_FlowKey, list[Transfer]] = {}
    working = {name.of(i) for p in plan.programs for i in p.instructions if isinstance(i, Run)}
    for t in plan.transfers:
        reader, maker = trail.reader_of_transfer(t), trail.maker_of_transfer(t)
        target = name.of(reader) if reader else name.of_scope(t.for_scope) if t.for_scope else None
        source = name.of(maker) if maker else name.of_scope(t.scope) if t.scope else None
        if source not in working:  # a variable's: what is sent belongs to its reader
            source = target or source or Place("layer", t.of)
        backward = reader.backward if reader else bool(maker and maker.backward)
        key = _FlowKey(trail.name_of_transfer(t), t.reason, source, target or source, backward)
        found.setdefault(key, []).append(t)
    alike: dict[_FlowKey, list[_FlowKey]] = {}
    for key in found:
        alike.setdefault(key._replace(of=over_steps(key.of)), []).append(key)
    flows = []
    for starred, keys in alike.items():
        group = [t for key in keys for t in found[key]]
        key = starred if len(keys) > 1 else keys[0]
        flows.append(Flow(*key, sum(t.nbytes for t in group), len(group), max(group, key=lambda t: t.nbytes)))
    return flows


def _edges(plan: Plan, trail: Trail, name: Names, flows: Iterable[Flow]) -> tuple[Edge, ...]:
    """What flows between boxes: values read across layers, inputs, outputs, and the transfers among them."""
    read: dict[tuple[Place, Place, bool], dict[str, int]] = {}
    extent = _extents(plan, trail, name)
    for program in plan.programs:
        for run in program.instructions:
            if not isinstance(run, Run):
                continue
            target = name.of(run)
            for source, of in _sources(program.machine, run, trail, name):
                if source != target and not (run.backward and source.kind == "input"):
                    read.setdefault((source, target, run.backward), {})[of] = extent[source, of]
        for output in program.outputs:
            maker = trail.maker(program.machine, output.value)
            if maker is not None and not _is_gradient(output.name):
                target = Place("output", output.name)
                size = box_size(tuple((0, n) for n in output.whole)) * _itemsize(program.values[output.value].dtype)
                read.setdefault((name.of(maker), target, False), {})[output.name] = size
    crossing: dict[tuple[Place, Place, bool], list[Flow]] = {}
    for flow in flows:
        if flow.source != flow.target:
            crossing.setdefault((flow.source, flow.target, flow.backward), []).append(flow)
    return tuple(
        Edge(
            *key,
            nbytes=sum(read.get(key, {}).values()),
            crossing=sum(f.nbytes for f in crossing.get(key, ())),
            messages=sum(f.messages for f in crossing.get(key, ())),
            flows=tuple(sorted(crossing.get(key, ()), key=lambda f: -f.nbytes)),
        )
        for key in dict.fromkeys([*read, *crossing])
    )


def _sources(machine: str, run: Run, trail: Trail, name: Names) -> Iterable[tuple[Place, str]]:
    """For each operand that a box gives: the box, and the operand's name. Variables are given by nobody."""
    for value in run.inputs:
        origin, number = trail.origin(machine, value)
        maker, feed = trail.made[origin].get(number), trail.fed[origin].get(number)
        if isinstance(maker, Run):
            yield name.of(maker), trail.label(origin, number)
        elif feed is not None:
            yield Place("input", feed), feed


def _extents(plan: Plan, trail: Trail, name: Names) -> dict[tuple[Place, str], int]:
    """The bytes of each value as a whole, from the corner boxes of its parts."""
    corners: dict[tuple[Place, str], tuple[Box, int]] = {}
    for p in plan.programs:
        for number, value in enumerate(p.values):
            maker, feed = trail.made[p.machine].get(number), trail.fed[p.machine].get(number)
            place = name.of(maker) if isinstance(maker, Run) else Place("input", feed) if feed is not None else None
            if place is None:
                continue
            key = place, feed if feed is not None else trail.label(p.machine, number)
            box = value.box if value.box is not None else tuple((0, n) for n in value.shape)
            old = corners.get(key, (box, 0))[0]
            if len(old) == len(box):
                box = tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(old, box, strict=True))
            corners[key] = box, _itemsize(value.dtype)
    return {key: box_size(box) * size for key, (box, size) in corners.items()}


class _Ran(NamedTuple):
    machine: str
    run: Run
    shape: str


def _layers(plan: Plan, trail: Trail, name: Names, flows: Iterable[Flow]) -> tuple[Layer, ...]:
    """The boxes in the order in which a step reaches them: inputs, layers, outputs."""
    runs: dict[Place, list[_Ran]] = {}
    ends: dict[Place, str] = {}
    for p in plan.programs:
        for feed in p.feeds:
            ends.setdefault(Place("input", feed.name), _feed_type(plan, feed.name))
        for run in p.instructions:
            if isinstance(run, Run):
                value = p.values[run.outputs[0]] if run.outputs else None
                shape = type_text(value.dtype, value.shape) if value else ""
                runs.setdefault(name.of(run), []).append(_Ran(p.machine, run, shape))
        for out in p.outputs:
            if not _is_gradient(out.name):
                ends.setdefault(Place("output", out.name), type_text(p.values[out.value].dtype, out.whole))
    variables = _variables(plan, trail, name)
    inside: dict[Place, list[Flow]] = {}
    for flow in flows:
        runs.setdefault(flow.source, [])
        if flow.source == flow.target:
            inside.setdefault(flow.source, []).append(flow)
    layers = [
        _layer(place, plan.machines, found, variables.get(place, ()), inside.get(place, []))
        for place, found in runs.items()
    ]
    boxes = [Layer(place, text, (), (), {}, {}, {}, ()) for place, text in ends.items()]
    inputs = [box for box in boxes if box.place.kind == "input"]
    return (*inputs, *layers, *(box for box in boxes if box.place.kind == "output"))


def _layer(
    place: Place,
    machines: Iterable[str],
    runs: Sequence[_Ran],
    variables: Iterable[VariableRow],
    inside: Iterable[Flow],
) -> Layer:
    flops, nbytes, seconds = dict.fromkeys(machines, 0), dict.fromkeys(machines, 0), dict.fromkeys(machines, 0.0)
    for machine, run, _ in runs:
        flops[machine] += run.flops
        nbytes[machine] += run.nbytes
        seconds[machine] += run.seconds
    ordered = tuple(sorted(inside, key=lambda f: -f.nbytes))
    return Layer(place, "", _op_rows(runs), tuple(variables), flops, nbytes, seconds, ordered)


def _op_rows(runs: Iterable[_Ran]) -> tuple[OpRow, ...]:
    groups: dict[tuple[tuple[str, ...], str, bool], list[_Ran]] = {}
    for ran in runs:
        groups.setdefault((op_names(ran.run), ran.run.line, ran.run.backward), []).append(ran)
    rows = []
    for key in sorted(groups, key=lambda k: k[2]):
        group = groups[key]
        shapes = tuple(shape for shape, _ in Counter(r.shape for r in group).most_common())
        flops, seconds = sum(r.run.flops for r in group), sum(r.run.seconds for r in group)
        rows.append(OpRow(*key, len(group), shapes, flops, seconds))
    return tuple(rows)


def _variables(plan: Plan, trail: Trail, name: Names) -> dict[Place, list[VariableRow]]:
    """The variables of each box: where they are read first, else by the first part of their name."""
    parts: dict[str, dict[str, int]] = {}
    known: dict[str, tuple[Variable, str]] = {}
    for p in plan.programs:
        for v in p.variables:
            known.setdefault(v.name, (v, p.values[v.value].dtype))
            share = parts.setdefault(v.name, {})
            share[p.machine] = share.get(p.machine, 0) + p.values[v.value].nbytes
    found: dict[Place, list[VariableRow]] = {}
    slots: Counter[str] = Counter()
    for key in known:
        slots[variable_name(key)] += sum(parts[key].values())
    for key, (v, dtype) in known.items():
        if variable_name(key) in known:
            continue
        reader = trail.variable_reader(key)
        place = name.of(reader) if reader else name.of_scope(key)
        held = sum(parts[key].values())
        row = VariableRow(key, type_text(dtype, v.whole), held, parts[key], v.trainable, slots[key])
        found.setdefault(place, []).append(row)
    return found


def _feed_type(plan: Plan, feed: str) -> str:
    boxes = [(f.box, p.values[f.value].dtype) for p in plan.programs for f in p.feeds if f.name == feed]
    shape = (max(high for _, high in axis) for axis in zip(*(box for box, _ in boxes), strict=True))
    return type_text(boxes[0][1], shape)


def _itemsize(dtype: str) -> int:
    return dtype_of(dtype).itemsize


def _is_gradient(name: str) -> bool:
    return name.startswith("grad/")
