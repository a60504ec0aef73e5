"""Deep plans from afar: neighbouring layers put together, so that the picture has a few boxes; each can be opened."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rainshed.engine.view.model import Edge, Flow, Layer, OpRow, PlanView
from rainshed.engine.view.naming import Place
from rainshed.engine.view.spread import Spread

MOST = 30  # layers that each have a box of their own
GROUPS = 16  # about so many boxes where there are more


@dataclass(frozen=True, slots=True)
class Afar:
    """What the picture shows. `members`: group -> its layers; empty where every layer has a box of its own."""

    view: PlanView
    members: Mapping[Place, tuple[Layer, ...]]


def afar(view: PlanView) -> Afar:
    """The view itself if its layers are few, else one of groups of neighbouring layers, cut where little flows past."""
    layers = _ordered([x for x in view.layers if x.place.kind == "layer"], view.edges)
    if len(layers) <= MOST:
        return Afar(view, {})
    groups = [layers[a:b] for a, b in _cuts(layers, view.edges)]
    members = {Place("layer", _name(group)): tuple(group) for group in groups}
    home = {layer.place: group for group, mine in members.items() for layer in mine}
    flows = [replace(f, source=home[f.source], target=home[f.target]) for f in view.flows]
    inside: dict[Place, list[Flow]] = {}
    for flow in flows:
        if flow.source == flow.target:
            inside.setdefault(flow.source, []).append(flow)
    boxes = [_group(place, mine, inside.get(place, ())) for place, mine in members.items()]
    inputs = [x for x in view.layers if x.place.kind == "input"]
    outputs = [x for x in view.layers if x.place.kind == "output"]
    spread = {
        place: _spread([view.spread[x.place] for x in mine if x.place in view.spread])
        for place, mine in members.items()
    }
    whole = replace(
        view, layers=(*inputs, *boxes, *outputs), edges=_edges(view.edges, home), flows=tuple(flows), spread=spread
    )
    return Afar(whole, members)


def _name(group: Sequence[Layer]) -> str:
    first, last = group[0].place.name, group[-1].place.name
    return first if len(group) == 1 else f"{first} … {last}"


def _ordered(layers: Sequence[Layer], edges: Iterable[Edge]) -> list[Layer]:
    """Layers after those that they read, else in the order given."""
    number = {layer.place: i for i, layer in enumerate(layers)}
    forward = {(number[e.source], number[e.target]) for e in edges if _between(e, number)}
    waits = Counter(b for _, b in forward)
    after: dict[int, list[int]] = {}
    for a, b in sorted(forward):
        after.setdefault(a, []).append(b)
    ready = [i for i in range(len(layers)) if not waits[i]]
    left, order = dict.fromkeys(range(len(layers))), []
    while left:
        i = heapq.heappop(ready) if ready else next(iter(left))  # in a cycle: the first of the others
        if i not in left:
            continue
        del left[i]
        order.append(layers[i])
        for b in after.get(i, ()):
            waits[b] -= 1
            if not waits[b]:
                heapq.heappush(ready, b)
    return order


def _between(edge: Edge, number: Mapping[Place, int]) -> bool:
    known = edge.source in number and edge.target in number
    return known and not edge.backward and edge.source != edge.target


def _cuts(layers: Sequence[Layer], edges: Iterable[Edge]) -> list[tuple[int, int]]:
    """Ranges of about equal length, cut where the fewest edges pass: the shortest way over the possible cuts."""
    count = len(layers)
    number = {layer.place: i for i, layer in enumerate(layers)}
    passing = [0] * (count + 1)
    for e in edges:
        if _between(e, number):
            low, high = sorted((number[e.source], number[e.target]))
            passing[low + 1] += 1
            passing[high + 1] -= 1
    for i in range(count):
        passing[i + 1] += passing[i]
    length = -(-count // GROUPS)
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, count + 1):
        starts = range(max(0, end - 2 * length), max(1, end - length // 2 + 1))
        cost = float(passing[end]) if end < count else 0.0
        best.append(min((best[a][0] + cost + ((end - a) / length - 1) ** 2, a) for a in starts))
    found, end = [], count
    while end:
        start = best[end][1]
        found.append((start, end))
        end = start
    return found[::-1]


def _group(place: Place, layers: Sequence[Layer], inside: Iterable[Flow]) -> Layer:
    """The layers as one. Their ops are put together by name, those that compute most first."""
    ops: dict[tuple[tuple[str, ...], bool], list[OpRow]] = {}
    for layer in layers:
        for op in layer.ops:
            ops.setdefault((op.ops, op.backward), []).append(op)
    rows = [_op(rows) for rows in ops.values()]
    flops, nbytes = Counter[str](), Counter[str]()
    seconds: dict[str, float] = {}
    for layer in layers:
        flops.update(layer.flops)
        nbytes.update(layer.nbytes)
        for machine, amount in layer.seconds.items():
            seconds[machine] = seconds.get(machine, 0.0) + amount
    return Layer(
        place=place,
        type="",
        ops=tuple(sorted(rows, key=lambda r: -r.flops)),
        variables=tuple(v for layer in layers for v in layer.variables),
        flops=dict(flops),
        nbytes=dict(nbytes),
        seconds=seconds,
        inside=tuple(sorted(inside, key=lambda f: -f.nbytes)),
    )


def _op(rows: Sequence[OpRow]) -> OpRow:
    shapes = tuple(dict.fromkeys(shape for row in rows for shape in row.shapes))
    lines = {row.line for row in rows}
    return OpRow(
        ops=rows[0].ops,
        line=rows[0].line if len(lines) == 1 else "",
        backward=rows[0].backward,
        tiles=sum(r.tiles for r in rows),
        shapes=shapes,
        flops=sum(r.flops for r in rows),
        seconds=sum(r.seconds for r in rows),
    )


def _spread(spreads: Iterable[Spread]) -> Spread:
    whole = Spread()
    for one in spreads:
        for backward, share in one.work.items():
            for machine, flops in share.items():
                whole.work[backward][machine] = whole.work[backward].get(machine, 0) + flops
    return whole


def _edges(edges: Iterable[Edge], home: Mapping[Place, Place]) -> tuple[Edge, ...]:
    """The edges between groups; those within a group are its own."""
    found: dict[tuple[Place, Place, bool], list[Edge]] = {}
    for e in edges:
        source, target = home.get(e.source, e.source), home.get(e.target, e.target)
        if source != target:
            found.setdefault((source, target, e.backward), []).append(e)
    return tuple(
        Edge(
            *key,
            nbytes=sum(e.nbytes for e in same),
            crossing=sum(e.crossing for e in same),
            messages=sum(e.messages for e in same),
            flows=tuple(sorted((f for e in same for f in e.flows), key=lambda f: -f.nbytes)),
        )
        for key, same in found.items()
    )
