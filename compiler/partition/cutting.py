"""How the ops of a graph are cut into tiles: heavy ops into about as many as are asked for, the others as what they read is cut."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from rainshed.compiler.cost import WEIGHTLESS
from rainshed.compiler.partition.candidates import replaced
from rainshed.ops.access import Access, Box, boxes, cuts
from rainshed.ops.ir import Node
from rainshed.ops.types import TensorType, fixed

HEAVY = 0.02  # of all work: a layer with at least this share has to be spread evenly, whatever the others do
COARSE = 36  # machines, for which the axes of the tiles are chosen
AXES = 3  # along which one op is cut at most
WORTH = 16  # elements of a result for each tile: what makes smaller results is not cut, if it is no heavy layer


@dataclass(frozen=True, slots=True)
class Fineness:
    """About how many tiles a heavy layer is cut into, and how many any other op that is large."""

    heavy: int
    light: int


@dataclass(slots=True)
class Cut:
    """A node with its tiles, and the pieces in which its value then lies."""

    node: Node
    access: Access
    grid: tuple[int, ...]
    tiles: tuple[Box, ...]
    directions: tuple[int, ...]  # per axis of the loop nest; -1: none
    pieces: tuple[Box, ...]
    members: tuple[
        tuple[int, ...], ...
    ]  # per piece: the tiles whose results are added up to it; one, if nothing is added
    first: int = 0  # the number of the task of the first tile
    owners: tuple[int, ...] = ()  # per piece: the task that makes it, or adds it up
    owner_of: dict[Box, int] = field(default_factory=dict)


# -- what an op is to the others ---------------------------------------------------------------------------------------
def weights_of(node: Node) -> tuple[str, ...]:
    return tuple(i.name for i in node.inputs if i.op.name == "variable")


def kind_of(node: Node) -> object:
    """Nodes of one kind read the same weights in the same way: they are one layer, and stay together."""
    weights = weights_of(node)
    if not weights or not isinstance(node.type, TensorType):
        return node
    return (node.op.name, weights, node.access, node.origin.pin)


def heavy_kinds(nodes: Sequence[Node]) -> dict[object, float]:
    """The layers that have to be spread evenly, and the flops of each. What is pinned to a machine is none of them."""
    work: dict[object, float] = {}
    for node in nodes:
        if node.op.name not in WEIGHTLESS:
            work[kind_of(node)] = work.get(kind_of(node), 0.0) + node.op.cost_of(node).flops
    total = sum(work.values()) or 1.0
    held = {kind_of(node) for node in nodes if node.origin.pin is not None}
    return {kind: flops for kind, flops in work.items() if flops >= HEAVY * total and kind not in held}


# -- how finely, and along which axes ----------------------------------------------------------------------------------
def grids_of(access: Access, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to cut the loop nest into `parts` tiles along up to AXES axes; into fewer where it has not so many."""
    limits = [axis.max_parts for axis in access.axes]
    free = sorted((i for i, n in enumerate(limits) if n > 1), key=lambda i: -limits[i])[:6]
    count = min(parts, math.prod(limits[i] for i in free))
    while not (found := list(_factored(limits, free, count))):
        count -= 1
    yield from found


def _factored(limits: list[int], free: list[int], parts: int) -> Iterator[tuple[int, ...]]:
    def choose(rest: int, at: int, left: int, grid: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if at == len(free):
            if rest == 1:
                yield grid
            return
        for n in range(1, min(rest, limits[free[at]]) + 1):
            if rest % n == 0 and (n == 1 or left):
                yield from choose(rest // n, at + 1, left - (n > 1), (*grid, n))

    for chosen in choose(parts, 0, AXES, ()):
        grid = [1] * len(limits)
        for i, n in zip(free, chosen, strict=True):
            grid[i] = n
        yield tuple(grid)


def volume(node: Node, access: Access, grid: tuple[int, ...]) -> int:
    """Elements that cross if every tile of the grid has a machine of its own, and what it reads lies on others."""
    total = 0
    parts = [cuts(axis, n) for axis, n in zip(access.axes, grid, strict=True)]
    for value, reaches in zip(node.inputs, access.inputs, strict=True):
        shape = fixed(value.shape)
        read, used = 1, set()
        for reach, size in zip(reaches, shape, strict=True):
            if reach.axis is None:
                read *= size
                continue
            used.add(reach.axis)
            full: Box = tuple((0, axis.size) for axis in access.axes)
            ends = [replaced(full, reach.axis, cut) for cut in parts[reach.axis]]
            lengths = [high - low for low, high in (reach.interval(box, size) for box in ends)]
            read *= sum(lengths)
        read *= math.prod(len(p) for i, p in enumerate(parts) if i not in used)
        total += read - math.prod(shape)
    partial = math.prod(n for n, axis in zip(grid, access.axes, strict=True) if axis.role == "sum")
    return total + (partial - 1) * node.tensor_type.size


def finest(node: Node, access: Access, parts: int) -> tuple[int, ...]:
    """A grid of about `parts` tiles along the axes that are best for a few large ones: small tiles will be joined to such."""

    def least(grids: Iterator[tuple[int, ...]]) -> tuple[int, ...]:
        return min(grids, key=lambda g: (volume(node, access, g), max(g)))

    coarse = least(grids_of(access, min(parts, COARSE)))
    kept = [axis if n > 1 else structs.replace(axis, role="whole") for axis, n in zip(access.axes, coarse, strict=True)]
    fine = least(grids_of(structs.replace(access, axes=tuple(kept)), parts))
    return fine if 2 * math.prod(fine) > parts else least(grids_of(access, parts))


class Cutter:
    """Cuts nodes one after the other, in the order of the graph."""

    def __init__(self, nodes: Sequence[Node], fineness: Fineness) -> None:
        self.fineness = fineness
        self.heavy = heavy_kinds(nodes)
        self.cut: dict[Node, Cut] = {}
        self.grids: dict[tuple[Access, int], tuple[int, ...]] = {}
        self.directions: dict[Node, tuple[int, ...]] = {}  # of each axis of a value
        for node in nodes:
            self.cut[node] = self._cut(node)

    def _cut(self, node: Node) -> Cut:
        access = _apart(node.access)
        shape = fixed(node.shape) if isinstance(node.type, TensorType) else ()
        grid = self._grid(node, access, math.prod(shape))
        directions = self._directions(node, access, grid)
        self.directions[node] = tuple(
            directions[r.axis] if r.axis is not None else -1 for r in (access.output if shape else ())
        )
        tiles = boxes(access, grid)
        groups: dict[Box, list[int]] = {(): [0]}
        if isinstance(node.type, TensorType):
            groups = {}
            for i, box in enumerate(tiles):
                groups.setdefault(access.result(box, shape), []).append(i)
        return Cut(node, access, grid, tiles, directions, tuple(groups), tuple(map(tuple, groups.values())))

    def _grid(self, node: Node, access: Access, size: int) -> tuple[int, ...]:
        main = max(
            (i for i in node.inputs if i in self.cut and isinstance(i.type, TensorType)),
            key=lambda i: i.type.nbytes,
            default=None,
        )
        heavy, light = kind_of(node) in self.heavy, self.fineness.light
        follows = main is not None and not weights_of(node) and 2 * len(self.cut[main].pieces) > light
        large = (main is None or weights_of(node)) and size >= WORTH * light
        if (heavy or large) and access.axes and not follows and node.origin.pin is None:
            kind = access, self.fineness.heavy if heavy else light
            if kind not in self.grids:
                self.grids[kind] = finest(node, *kind)
            return self.grids[kind]
        if main is None or not access.axes or not isinstance(node.type, TensorType) or node.origin.pin is not None:
            return (1,) * len(access.axes)
        parts = [1] * len(access.axes)
        for value, reaches in zip(node.inputs, access.inputs, strict=True):
            if value is main:
                for reach, count in zip(reaches, self._counts(value), strict=True):
                    if reach.axis is not None and access.axes[reach.axis].role != "whole":
                        parts[reach.axis] = max(parts[reach.axis], min(count, access.axes[reach.axis].max_parts))
        return tuple(parts)

    def _counts(self, value: Node) -> tuple[int, ...]:
        """Into how many parts each axis of a value is cut."""
        cut = self.cut[value]
        return tuple(cut.grid[r.axis] if r.axis is not None else 1 for r in cut.access.output)

    def _directions(self, node: Node, access: Access, grid: tuple[int, ...]) -> tuple[int, ...]:
        """Axes go on in the direction of the value that they follow; new ones take a direction that is free."""
        found = [-1] * len(grid)
        for value, reaches in zip(node.inputs, access.inputs, strict=True):
            for reach, direction in zip(reaches, self.directions.get(value, ()), strict=False):
                if reach.axis is not None and found[reach.axis] < 0 and direction not in found:
                    found[reach.axis] = direction
        for axis, parts in enumerate(grid):
            if parts > 1 and found[axis] < 0:
                free = [d for d in range(AXES) if d not in found]
                found[axis] = free[0] if free else -1
        return tuple(found)


def _apart(access: Access) -> Access:
    """An access of which every two tiles give the same part of the result, or parts that do not overlap."""
    shared = {r.axis for r in access.output if r.axis is not None and access.axes[r.axis].role == "sum"}
    if not shared:
        return access
    axes = tuple(structs.replace(axis, role="whole") if i in shared else axis for i, axis in enumerate(access.axes))
    return structs.replace(access, axes=axes)
