"""What a node can choose from, worked out: per layout where it computes, what it reads, where its result lies, what sums move.

What depends on the grid alone is worked out once for all machines on which such a grid is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rainshed.compiler.layouts import MIN_SLICE, Layout, Placed, pieces, regions_of
from rainshed.compiler.partition.traffic import Parts
from rainshed.ops.access import Access, Reach, box_size, cuts

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Option:
    """A layout of one kind of node, with all that the search asks of it again and again. Compared by identity.

    regions  per input: the region each tile needs, i64[tiles, axes of the input, 2]
    corners  the pieces of the result, i64[pieces, axes, 2], and the home of each
    share    of the loop nest, per machine; `calls`: tiles per machine
    partial  what crosses to add partial results: i64[flows, 3] of (from, to, elements)
    plain    whether each tile is a piece by itself
    """

    layout: Layout
    homes: np.ndarray
    regions: tuple[np.ndarray, ...]
    corners: np.ndarray
    piece_homes: np.ndarray
    share: np.ndarray
    calls: np.ndarray
    partial: np.ndarray
    plain: bool


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The tiles of a loop nest, whoever computes them.

    size     of each tile, as a share of the nest: f64[tiles]
    regions  as in Option; results: the region that each tile gives, i64[tiles, axes, 2]
    groups   the tiles that give partial results of the same region, i64[regions, tiles]; None where they are not of one number
             or overlap without being equal
    """

    size: np.ndarray
    regions: tuple[np.ndarray, ...]
    results: np.ndarray
    groups: np.ndarray | None


class Nest:
    """The loop nest that all nodes of one access, of the same shapes, have in common."""

    def __init__(self, access: Access, shapes: tuple[Shape, ...], shape: Shape, machines: int) -> None:
        self.access, self.shapes, self.shape, self.machines = access, shapes, shape, machines
        self.square = tuple(_is_apart(reaches) for reaches in (*access.inputs, access.output))
        self._grids: dict[object, Grid] = {}
        self._options: dict[Layout, Option] = {}

    def option(self, layout: Layout) -> Option:
        """A layout worked out."""
        if layout not in self._options:
            self._options[layout] = self._option(layout)
        return self._options[layout]

    def _option(self, layout: Layout) -> Option:
        key = layout.grid, layout.cut
        if key not in self._grids:
            self._grids[key] = self._grid(layout)
        grid, homes = self._grids[key], np.array(layout.homes, np.int64)
        corners, piece_homes, partial = self._lying(layout, grid, homes)
        return Option(
            layout=layout,
            homes=homes,
            regions=grid.regions,
            corners=corners,
            piece_homes=piece_homes,
            share=np.bincount(homes, weights=grid.size, minlength=self.machines),
            calls=np.bincount(homes, minlength=self.machines),
            partial=partial,
            plain=corners is grid.results,
        )

    def _grid(self, layout: Layout) -> Grid:
        access = self.access
        cut = _tiles(access, layout)
        size = np.maximum(cut[..., 1] - cut[..., 0], 0).prod(axis=-1) / max(1, box_size(access.full))
        results = regions_of(access.output, cut, self.shape)
        return Grid(
            size=size if access.axes else np.ones(len(cut)),
            regions=tuple(regions_of(r, cut, n) for r, n in zip(access.inputs, self.shapes, strict=True)),
            results=results,
            groups=_groups(results, self.shape),
        )

    def _lying(self, layout: Layout, grid: Grid, homes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the value lies under a layout, as `pieces` has it, and what crosses to add its partial results."""
        groups = grid.groups
        if groups is not None and groups.shape[1] == 1:
            return grid.results, homes, np.zeros((0, 3), np.int64)
        if groups is not None and _are_apart(homes[groups]):
            boxes = grid.results[groups[:, 0]]
            parts = _sliced(boxes, groups.shape[1])
            if parts is not None:
                return self._added(parts, homes[groups])
        placed = pieces(self.access, layout, self.shape)
        corners = np.array([p.box for p in placed], np.int64).reshape(len(placed), len(self.shape), 2)
        return corners, np.array([p.home for p in placed], np.int64), _partial_flow(placed, layout.homes, self.machines)

    def _added(self, parts: np.ndarray, homes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Slices of sums i64[groups, slices, axes, 2], by machines i64[groups, partial results] of which the first add them."""
        count = parts.shape[1]
        elements = (parts[..., 1] - parts[..., 0]).prod(axis=-1)
        flow = np.zeros((self.machines, self.machines), np.int64)
        np.add.at(flow, (homes[:, :, None], homes[:, None, :count]), elements[:, None, :])
        np.fill_diagonal(flow, 0)
        source, target = np.nonzero(flow)
        partial = np.stack([source, target, flow[source, target]], axis=1)
        return parts.reshape(len(parts) * count, *parts.shape[2:]), homes[:, :count].ravel(), partial


class Block:
    """Some layouts of one loop nest, packed for traffic.py. What is worked out of it holds for every kind of node that may choose
    from these layouts. Compared by identity.

    share, calls  of each option, per machine: f64[options, machines], i64[options, machines]
    """

    def __init__(self, nest: Nest, layouts: Sequence[Layout]) -> None:
        self.nest = nest
        self.options = tuple(nest.option(one) for one in layouts)
        self.number = {one: i for i, one in enumerate(layouts)}
        self.share = np.array([o.share for o in self.options])
        self.calls = np.array([o.calls for o in self.options])
        self._parts: dict[int, Parts] = {}

    @property
    def lies(self) -> Parts:
        """Where the value lies, per option."""
        if -1 not in self._parts:
            known = [self.nest.square[-1] and o.layout.cut is None and o.plain for o in self.options]
            self._parts[-1] = Parts.of([(o.corners, o.piece_homes) for o in self.options], known)
        return self._parts[-1]

    def wants(self, i: int) -> Parts:
        """What input `i` must bring, per option; what the value itself is if `i` is -1."""
        if i < 0:
            return self.lies
        if i not in self._parts:
            known = [self.nest.square[i] and o.layout.cut is None for o in self.options]
            self._parts[i] = Parts.of([(o.regions[i], o.homes) for o in self.options], known)
        return self._parts[i]


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """Nodes of one access, of the same shapes and on the same machines: they share their options.

    blocks  what the options are taken from, in their order, and which of each block: i64[options of the block that are taken]
    rows    of each option, its block and its place there
    """

    options: tuple[Option, ...]
    blocks: tuple[tuple[Block, np.ndarray], ...]
    rows: tuple[tuple[Block, int], ...]

    @classmethod
    def of(cls, nest: Nest, layouts: Sequence[Layout]) -> Kind:
        return cls.joined(((Block(nest, layouts), layouts),))

    @classmethod
    def joined(cls, taken: Sequence[tuple[Block, Sequence[Layout]]]) -> Kind:
        """Some layouts of each of some blocks."""
        rows = [(block, block.number[one]) for block, layouts in taken for one in layouts]
        blocks = [(block, np.array([block.number[one] for one in layouts])) for block, layouts in taken if layouts]
        return cls(tuple(block.options[i] for block, i in rows), tuple(blocks), tuple(rows))


def _is_apart(reaches: tuple[Reach, ...]) -> bool:
    """Whether no two axes of an operand follow the same axis: then the regions of a grid are a grid."""
    axes = [reach.axis for reach in reaches if reach.axis is not None]
    return len(set(axes)) == len(axes)


def _tiles(access: Access, layout: Layout) -> np.ndarray:
    """The tiles of a layout in their order: i64[tiles, axes, 2]."""
    if layout.cut is not None:
        return np.array(layout.cut, np.int64).reshape(len(layout.cut), len(access.axes), 2)
    edges = [np.array(cuts(axis, parts), np.int64) for axis, parts in zip(access.axes, layout.grid, strict=True)]
    count = int(np.prod([len(e) for e in edges]))
    found = np.zeros((count, len(edges), 2), np.int64)
    for d, index in enumerate(np.indices([len(e) for e in edges]).reshape(len(edges), count)):
        found[:, d] = edges[d][index]
    return found


def _groups(results: np.ndarray, shape: Shape) -> np.ndarray | None:
    """Which tiles give the same region, in the order of the first of each: i64[regions, tiles]. None: see Grid."""
    found: dict[bytes, list[int]] = {}
    for i, box in enumerate(results):
        found.setdefault(box.tobytes(), []).append(i)
    first = results[[members[0] for members in found.values()]]
    if int((first[..., 1] - first[..., 0]).prod(axis=-1).sum()) > int(np.prod(shape, dtype=np.int64)):
        return None
    if len({len(members) for members in found.values()}) > 1:
        return None
    return np.array(list(found.values()), np.int64)


def _are_apart(homes: np.ndarray) -> bool:
    """Whether the machines of each row are different ones."""
    rows = np.sort(homes, axis=1)
    return not (rows[:, 1:] == rows[:, :-1]).any()


def _sliced(boxes: np.ndarray, count: int) -> np.ndarray | None:
    """Each box in so many slices, or whole, as `pieces` cuts it: i64[boxes, slices, axes, 2]; None where boxes differ in that."""
    length = boxes[..., 1] - boxes[..., 0]
    small = length.prod(axis=1) < MIN_SLICE
    if boxes.shape[1] == 0 or small.all():
        return boxes[:, None]
    axis = length.argmax(axis=1)
    rows = np.arange(len(boxes))
    if small.any() or (length[rows, axis] < count).any():
        return None
    parts = np.repeat(boxes[:, None], count, axis=1)
    edges = boxes[rows, axis, 0][:, None] + length[rows, axis][:, None] * np.arange(count + 1) // count
    parts[rows, :, axis, 0], parts[rows, :, axis, 1] = edges[:, :-1], edges[:, 1:]
    return parts


def _partial_flow(placed: tuple[Placed, ...], homes: tuple[int, ...], machines: int) -> np.ndarray:
    """What crosses to add the partial results of a layout, each machine adding its own first."""
    flow: dict[int, int] = {}
    for piece in placed:
        if len(piece.members) > 1:
            elements = box_size(piece.box)
            for home in {homes[m] for m in piece.members}:
                key = home * machines + piece.home
                flow[key] = flow.get(key, 0) + elements
    found = [(key // machines, key % machines, flow[key]) for key in sorted(flow) if key // machines != key % machines]
    return np.array(found, np.int64).reshape(len(found), 3)
