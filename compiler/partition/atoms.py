"""The atom hypergraph of a graph's tiles: what crosses between machines for any placement of the tiles, exactly.

A vertex is what must be placed together: a tile of a heavy op with its backward part and its own weights, the cheap tiles that read
just what it makes, and the same tile of every other op that reads the same weights (the steps of a recurrent layer). An atom is a
largest set of elements of one value with one set of readers; its net joins the tile that makes them and those that read
them. With each element sent to a machine once, a placement moves sum(weight * (machines of the net - 1)) bytes.

Source  Catalyurek and Aykanat 1999 (connectivity - 1 is the volume); Wang et al., EuroSys 2019 (regions from affine signatures)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product

import numpy as np

from rainshed.compiler.cost import FREE, WEIGHTLESS
from rainshed.compiler.partition.cutting import AXES, Cut, Cutter, Fineness, kind_of
from rainshed.ops.access import Box, box_size
from rainshed.ops.ir import Graph, Node
from rainshed.ops.types import TensorType, fixed

BACKWARD = 2.0  # the work of both gradients of an op, in units of its own
CONSTANT = frozenset({"constant", "axis_size"})
KNOWN = FREE | CONSTANT  # on every machine, without being sent
LINEAR = frozenset({"sum", "negative", "multiply", "divide", "reshape"})  # of one value, beside constants


@dataclass(frozen=True, slots=True)
class Tiling:
    """The hypergraph.

    work      f64[vertices], flops of one step, forward and backward
    layer     i64[vertices], the number of the heavy layer, or -1
    nbytes    i64[vertices], weights and values that live on the vertex
    place     f64[vertices, AXES], where the tile lies along each direction, 0 to 1; -1 where it has no place
    pins      the vertices of net e are pins[starts[e]:starts[e + 1]]; `weight` in bytes per step
    tasks     the tiles as they run, for the simulation
    cuts      of each node: its grid, its tiles, and the number of the task of the first
    pinned    the machine of each vertex that the user has pinned to one
    """

    work: np.ndarray
    layer: np.ndarray
    nbytes: np.ndarray
    place: np.ndarray
    starts: np.ndarray
    pins: np.ndarray
    weight: np.ndarray
    layers: tuple[str, ...]
    tasks: Tasks
    cuts: Mapping[Node, Cut]
    pinned: Mapping[int, str] = field(default_factory=dict)

    @property
    def vertices(self) -> int:
        return len(self.work)

    @property
    def nets(self) -> int:
        return len(self.weight)


@dataclass(frozen=True, slots=True)
class Tasks:
    """Tiles in an order in which they can run, and what they hand on.

    vertex, work       of each task; backward work is `behind`
    maker              of each parcel (an atom with its readers), the task that makes it; -1: a shared weight
    starts, readers    the tasks that read parcel i are readers[starts[i]:starts[i + 1]]; `nbytes` of it, one way
    returns            whether its gradient comes back
    """

    vertex: np.ndarray
    work: np.ndarray
    behind: np.ndarray
    maker: np.ndarray
    starts: np.ndarray
    readers: np.ndarray
    nbytes: np.ndarray
    returns: np.ndarray


def tiling(graph: Graph, parts: int, light: int | None = None) -> Tiling:
    """The hypergraph of a graph before `differentiate`.

    parts, light  about how many tiles a heavy op is cut into, and any other op that is large (None: the same)
    Raises        nothing for a graph that `compile` takes; sizes must be known
    """
    return _Builder(graph, Fineness(parts, light or parts)).build()


class _Builder:
    def __init__(self, graph: Graph, fineness: Fineness) -> None:
        self.graph = graph
        self.training = graph.loss is not None
        self.nodes = [n for n in graph.nodes() if n.op.name not in KNOWN and n.op.name != "variable"]
        cutter = Cutter(self.nodes, fineness)
        self.cut, self.heavy = cutter.cut, cutter.heavy
        self.users: dict[Node, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                self.users.setdefault(value, []).append(node)
        self.task_vertex: list[int] = []
        self.task_work: list[float] = []
        self.task_behind: list[float] = []
        self.layer: list[int] = []
        self.nbytes: list[int] = []
        self.place: list[tuple[float, ...]] = []
        self.layers: list[str] = []
        self.tied: dict[tuple[object, int], int] = {}
        self.pinned: dict[int, str] = {}
        self.grows = self._grows()
        self.returns = self._returns()
        self.parcels: dict[tuple[int, tuple[int, ...], bool], int] = {}

    def _grows(self) -> set[Node]:
        """Values that a gradient is computed of."""
        found: set[Node] = set()
        for node in self.graph.nodes():
            if node.op.name == "variable" or any(i in found for i in node.inputs):
                found.add(node)
        return found if self.training else set()

    def _returns(self) -> set[Node]:
        """Values that a gradient comes back to. The gradients of the loss, and of what it is the sum or the mean of, are
        constants, which every machine knows."""
        if self.graph.loss is None:
            return set()
        known = [self.graph.outputs[self.graph.loss]]
        for node in known:
            if node.op.name in LINEAR and all(i.op.name in CONSTANT for i in node.inputs[1:]):
                known += node.inputs[:1] if self.users[node.inputs[0]] == [node] else ()
        return self.grows.difference(known)

    def build(self) -> Tiling:
        for node in self.nodes:
            self._place(self.cut[node])
        for node in self.nodes:
            self._atoms(node)
        self._shared()
        return self._done()

    # vertices
    def _place(self, cut: Cut) -> None:
        node, access = cut.node, cut.access
        kind = kind_of(node)
        cost = 0 if node.op.name in WEIGHTLESS else node.op.cost_of(node).flops
        behind = BACKWARD * cost if node in self.grows else 0.0
        total = max(1, box_size(access.full))
        number = -1
        if kind in self.heavy:
            name = node.origin.scope or node.op.name
            number = self._layer(kind, name)
        own = sum(i.type.nbytes for i in node.inputs if i.op.name == "variable")
        cut.first = len(self.task_vertex)
        for i, box in enumerate(cut.tiles):
            share = box_size(box) / total if access.axes else 1.0
            vertex = self._vertex(cut, kind, i, box)
            self.task_vertex.append(vertex)
            self.task_work.append(cost * share)
            self.task_behind.append(behind * share)
            self.nbytes[vertex] += int((own + node.type.nbytes) * share)
            if number >= 0:
                self.layer[vertex] = number
        self._pieces(cut)

    def _layer(self, kind: object, name: str) -> int:
        key = (kind, -1)
        if key not in self.tied:
            self.tied[key] = len(self.layers)
            self.layers.append(name)
        return self.tied[key]

    def _vertex(self, cut: Cut, kind: object, i: int, box: Box) -> int:
        if kind in self.heavy:
            if (kind, i) not in self.tied:
                self.tied[kind, i] = self._new(cut, box)
            return self.tied[kind, i]
        regions = cut.access.regions(box, tuple(fixed(v.shape) for v in cut.node.inputs)) if cut.access.axes else ()
        for value, region in zip(cut.node.inputs, regions, strict=False):
            made = self.cut.get(value)
            if made is not None and region in made.owner_of and len(made.pieces) > 1 and cut.node.origin.pin is None:
                return self.task_vertex[made.owner_of[region]]
        vertex = self._new(cut, box)
        if cut.node.origin.pin is not None:
            self.pinned[vertex] = cut.node.origin.pin
        return vertex

    def _new(self, cut: Cut, box: Box) -> int:
        where = [-1.0] * AXES
        for interval, axis, parts, direction in zip(box, cut.access.axes, cut.grid, cut.directions, strict=True):
            if parts > 1 and direction >= 0:
                where[direction] = (interval[0] + interval[1]) / 2 / axis.size
        self.place.append(tuple(where))
        self.layer.append(-1)
        self.nbytes.append(0)
        return len(self.layer) - 1

    def _pieces(self, cut: Cut) -> None:
        owners = []
        for box, members in zip(cut.pieces, cut.members, strict=True):
            tasks = [cut.first + i for i in members]
            if len(tasks) > 1:
                owner = self._adder(cut, box, tasks)
                pins = tuple(dict.fromkeys([owner, *tasks]))
                self._parcel(tasks[0], pins, box_size(box) * cut.node.dtype.itemsize, cut.node in self.returns)
                owners.append(owner)
            else:
                owners += tasks
        cut.owners = tuple(owners)
        cut.owner_of = dict(zip(cut.pieces, cut.owners, strict=True))

    def _adder(self, cut: Cut, box: Box, members: list[int]) -> int:
        """The task that adds partial results; one vertex for all that lie in the same place of one layer."""
        key = (("sum", kind_of(cut.node)), hash(box))
        if key not in self.tied:
            where = [-1.0] * AXES
            for interval, reach, size in zip(box, cut.access.output, fixed(cut.node.shape), strict=True):
                if reach.axis is not None and cut.directions[reach.axis] >= 0 and cut.grid[reach.axis] > 1:
                    where[cut.directions[reach.axis]] = (interval[0] + interval[1]) / 2 / size
            self.place.append(tuple(where))
            self.layer.append(-1)
            self.nbytes.append(0)
            self.tied[key] = len(self.layer) - 1
        self.task_vertex.append(self.tied[key])
        self.task_work.append(float(box_size(box) * (len(members) - 1)))
        self.task_behind.append(0.0)
        return len(self.task_vertex) - 1

    # nets
    def _parcel(self, maker: int, pins: tuple[int, ...], nbytes: int, returns: bool) -> None:
        key = (maker, pins, returns)
        self.parcels[key] = self.parcels.get(key, 0) + nbytes

    def _atoms(self, node: Node) -> None:
        """Cut the value of a node where the regions that its readers need begin and end."""
        made = self.cut[node]
        if not isinstance(node.type, TensorType):
            for reader in self.users.get(node, ()):
                self._parcel(made.first, (made.first, self.cut[reader].first), 0, False)
            return
        wanted: list[tuple[tuple[Box, ...], Sequence[int]]] = [(made.pieces, made.owners)]
        wanted += [(regions, range(c.first, c.first + len(c.tiles))) for c, regions in self._readers(node)]
        if len(wanted) > 1:
            for size, sets in _cells(fixed(node.shape), [list(w[0]) for w in wanted]):
                (maker,) = (made.owners[k] for k in sets[0])
                readers = [wanted[i][1][k] for i in range(1, len(wanted)) for k in sets[i]]
                pins = tuple(dict.fromkeys([maker, *readers]))
                self._parcel(maker, pins, size * node.dtype.itemsize, node in self.returns)

    def _readers(self, value: Node) -> Iterator[tuple[Cut, tuple[Box, ...]]]:
        for node in self.users.get(value, ()):
            cut = self.cut[node]
            for i, given in enumerate(node.inputs):
                if given is value:
                    yield cut, _regions(cut, i)

    def _shared(self) -> None:
        """Weights that several vertices read: they, and their gradients, go round these."""
        for value in self.graph.nodes():
            if value.op.name != "variable":
                continue
            wanted = [(regions, range(c.first, c.first + len(c.tiles))) for c, regions in self._readers(value)]
            for size, sets in _cells(fixed(value.shape), [list(w[0]) for w in wanted]):
                readers = [wanted[i][1][k] for i in range(len(wanted)) for k in sets[i]]
                if readers:
                    first = {self.task_vertex[t]: t for t in reversed(readers)}
                    pins = tuple(first.values())
                    if len(pins) > 1:
                        self._parcel(-1, pins, size * value.dtype.itemsize, self.training)

    def _done(self) -> Tiling:
        nets: dict[tuple[int, ...], int] = {}
        for (_, pins, returns), nbytes in self.parcels.items():
            own = tuple(sorted({self.task_vertex[t] for t in pins}))
            if len(own) > 1 and nbytes:
                nets[own] = nets.get(own, 0) + nbytes * (2 if returns else 1)
        order = np.argsort([-1 if maker < 0 else maker for maker, _, _ in self.parcels], kind="stable")
        parcels = [(key, nbytes) for key, nbytes in self.parcels.items()]
        parcels = [parcels[i] for i in order]
        vertex = np.array(self.task_vertex, np.int64)
        work = np.zeros(len(self.layer))
        np.add.at(work, vertex, np.array(self.task_work) + np.array(self.task_behind))
        starts, members = _packed(list(nets))
        reader_starts, readers = _packed([tuple(p for p in pins if p != maker) for (maker, pins, _), _ in parcels])
        return Tiling(
            work=work,
            layer=np.array(self.layer, np.int64),
            nbytes=np.array(self.nbytes, np.int64),
            place=np.array(self.place).reshape(len(self.place), AXES),
            starts=starts,
            pins=members,
            weight=np.array(list(nets.values()), np.int64),
            layers=tuple(self.layers),
            tasks=Tasks(
                vertex=vertex,
                work=np.array(self.task_work),
                behind=np.array(self.task_behind),
                maker=np.array([maker for (maker, _, _), _ in parcels], np.int64),
                starts=reader_starts,
                readers=readers,
                nbytes=np.array([nbytes for _, nbytes in parcels], np.int64),
                returns=np.array([returns for (_, _, returns), _ in parcels], bool),
            ),
            cuts=self.cut,
            pinned=self.pinned,
        )


def _regions(cut: Cut, i: int) -> tuple[Box, ...]:
    """For each tile, the region of input i that it needs."""
    if not cut.access.axes:
        return tuple(tuple((0, n) for n in fixed(cut.node.inputs[i].shape)) for _ in cut.tiles)
    shape, reaches = fixed(cut.node.inputs[i].shape), cut.access.inputs[i]
    return tuple(tuple(r.interval(box, n) for r, n in zip(reaches, shape, strict=True)) for box in cut.tiles)


def _packed(rows: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(r) for r in rows], out=starts[1:])
    return starts, np.array([p for row in rows for p in row], np.int64)


def _cells(shape: tuple[int, ...], wanted: list[list[Box]]) -> Iterator[tuple[int, list[list[int]]]]:
    """The value in cells in which every set of regions is constant: (elements, for each list the regions around the cell).

    Every list of regions is a product of intervals per axis, possibly with some combinations equal.
    """
    if not wanted:
        return
    per_axis: list[list[tuple[int, tuple[tuple[int, ...], ...]]]] = []
    tables = []
    for regions in wanted:
        intervals = [list(dict.fromkeys(r[a] for r in regions)) for a in range(len(shape))]
        index = [{iv: k for k, iv in enumerate(axis)} for axis in intervals]
        table: dict[tuple[int, ...], list[int]] = {}
        for k, r in enumerate(regions):
            table.setdefault(tuple(index[a][iv] for a, iv in enumerate(r)), []).append(k)
        tables.append((intervals, table))
    for a, size in enumerate(shape):
        edges = sorted({0, size, *(e for intervals, _ in tables for iv in intervals[a] for e in iv if 0 <= e <= size)})
        merged: dict[tuple[tuple[int, ...], ...], int] = {}
        for low, high in pairwise(edges):
            inside = tuple(
                tuple(k for k, iv in enumerate(intervals[a]) if iv[0] <= low and high <= iv[1])
                for intervals, _ in tables
            )
            merged[inside] = merged.get(inside, 0) + high - low
        per_axis.append([(length, inside) for inside, length in merged.items()])
    for combination in product(*per_axis):
        size = math.prod(length for length, _ in combination)
        sets = []
        for i, (_, table) in enumerate(tables):
            keys = product(*(inside[i] for _, inside in combination))
            sets.append([k for key in keys for k in table.get(key, ())])
        yield size, sets
