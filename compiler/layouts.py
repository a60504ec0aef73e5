"""How a node can be cut, where its tiles then lie, and the exact bytes that a choice makes cross between machines.

A layout cuts a node's loop nest by a grid and gives each tile a home (the number of a machine). Tiles along a "sum" axis give
partial results; these are added in slices, each slice by one of the machines that hold a partial, so that the adding is shared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from rainshed.ops.access import Access, Box, box_size, boxes, intersect

MIN_SLICE = 256  # elements: smaller results of partial sums are added in one place


@dataclass(frozen=True, slots=True)
class Layout:
    """A grid of parts per iteration axis, and the home of each tile in row-major order."""

    grid: tuple[int, ...]
    homes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """A piece of a value: its box and its home. `members` are the tiles that make it: several for a partial sum."""

    box: Box
    home: int
    members: tuple[int, ...]


def factor_grids(access: Access, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to cut the loop nest into exactly `parts` tiles along one or two axes."""
    free = [i for i, axis in enumerate(access.axes) if axis.max_parts > 1]
    rank = len(access.axes)
    for i in free:
        if access.axes[i].max_parts >= parts:
            yield tuple(parts if k == i else 1 for k in range(rank))
    for a in range(2, parts):
        if parts % a:
            continue
        b = parts // a
        for i in free:
            for j in free:
                if i < j and access.axes[i].max_parts >= a and access.axes[j].max_parts >= b:
                    yield tuple(a if k == i else b if k == j else 1 for k in range(rank))


def spread(parts: int, machines: int) -> tuple[int, ...]:
    """Homes of `parts` tiles over all machines, in order."""
    return tuple(i * machines // parts for i in range(parts))


@lru_cache(maxsize=65536)
def tiles(access: Access, layout: Layout) -> tuple[Box, ...]:
    return boxes(access, layout.grid)


@lru_cache(maxsize=65536)
def pieces(access: Access, layout: Layout, shape: tuple[int, ...]) -> tuple[Placed, ...]:
    """The pieces in which the value lies under a layout, after partial results are added."""
    groups: dict[Box, list[int]] = {}
    for i, box in enumerate(tiles(access, layout)):
        groups.setdefault(access.result(box, shape), []).append(i)
    found: list[Placed] = []
    for box, members in groups.items():
        homes = list(dict.fromkeys(layout.homes[m] for m in members))
        for part, home in zip(_slices(box, len(homes)), homes, strict=False):
            found.append(Placed(part, home, tuple(members)))
    return tuple(found)


def _slices(box: Box, parts: int) -> list[Box]:
    """The box in up to `parts` slices along its longest axis; whole if it is small."""
    if parts == 1 or box_size(box) < MIN_SLICE or not box:
        return [box]
    axis = max(range(len(box)), key=lambda i: box[i][1] - box[i][0])
    low, high = box[axis]
    edges = [low + (high - low) * i // parts for i in range(parts + 1)]
    return [
        tuple((a, b) if i == axis else iv for i, iv in enumerate(box))
        for a, b in pairwise(edges)
        if a < b
    ]


@dataclass(frozen=True, slots=True)
class Flow:
    """Bytes between machines: out of each, into each, and the number of messages."""

    out: tuple[int, ...]
    into: tuple[int, ...]
    messages: int

    @property
    def total(self) -> int:
        return sum(self.out)


@dataclass(frozen=True, slots=True, eq=False)
class Option:
    """A layout of one kind of node, with all that the search asks of it again and again. Compared by identity.

    regions  per input: the region each tile needs, i64[tiles, axes of the input, 2]
    corners  the pieces of the result, i64[pieces, axes, 2], and the home of each
    share    of the loop nest, per machine; `calls`: tiles per machine
    partial  what crosses to add partial results
    """

    layout: Layout
    homes: np.ndarray
    regions: tuple[np.ndarray, ...]
    corners: np.ndarray
    piece_homes: np.ndarray
    share: tuple[float, ...]
    calls: tuple[int, ...]
    partial: Flow


def option(
    access: Access, layout: Layout, shapes: tuple[tuple[int, ...], ...], shape: tuple[int, ...], machines: int
) -> Option:
    """A layout worked out for nodes of this access, these input shapes and this result; partial flow in elements."""
    cut = tiles(access, layout)
    placed = pieces(access, layout, shape)
    total = max(1, box_size(access.full))
    share, calls = [0.0] * machines, [0] * machines
    for box, home in zip(cut, layout.homes, strict=True):
        share[home] += box_size(box) / total if access.axes else 1.0
        calls[home] += 1
    by_tile = [access.regions(box, shapes) for box in cut]
    regions = tuple(
        np.array([r[i] for r in by_tile], np.int64).reshape(len(cut), len(shapes[i]), 2) for i in range(len(shapes))
    )
    return Option(
        layout=layout,
        homes=np.array(layout.homes, np.int64),
        regions=regions,
        corners=np.array([p.box for p in placed], np.int64).reshape(len(placed), len(shape), 2),
        piece_homes=np.array([p.home for p in placed], np.int64),
        share=tuple(share),
        calls=tuple(calls),
        partial=_partial_flow(placed, layout, machines),
    )


def flow(have: Option, want: np.ndarray, homes: np.ndarray, machines: int) -> Flow:
    """What crosses, in elements, so that a tile at each of `homes` gets its region `want`; each element goes to a machine once.

    Shapes  want: i64[tiles, axes, 2]; homes: i64[tiles]
    """
    corners = have.corners
    low = np.maximum(corners[:, None, :, 0], want[None, :, :, 0])
    high = np.minimum(corners[:, None, :, 1], want[None, :, :, 1])
    common = np.maximum(high - low, 0).prod(axis=-1)  # [pieces, tiles]
    common[have.piece_homes[:, None] == homes[None, :]] = 0
    counts = np.zeros((len(corners), machines), np.int64)
    np.add.at(counts.T, homes, common.T)
    if len(homes) > len(set(homes.tolist())):
        _without_overlaps(counts, have, want, homes)
    into = counts.sum(axis=0)
    out = np.zeros(machines, np.int64)
    np.add.at(out, have.piece_homes, counts.sum(axis=1))
    return Flow(tuple(out.tolist()), tuple(into.tolist()), int((counts > 0).sum()))


def _without_overlaps(counts: np.ndarray, have: Option, want: np.ndarray, homes: np.ndarray) -> None:
    """Where several tiles of one machine want the same elements of a piece, count these once."""
    for machine in set(homes.tolist()):
        mine = [_as_box(w) for w in want[homes == machine]]
        distinct = list(dict.fromkeys(mine))
        if len(mine) == 1 or (len(distinct) == len(mine) and union_size(distinct) == sum(map(box_size, distinct))):
            continue
        for i, home in enumerate(have.piece_homes.tolist()):
            if home != machine and counts[i, machine]:
                piece = _as_box(have.corners[i])
                counts[i, machine] = union_size([hit for w in distinct if (hit := intersect(piece, w)) is not None])


def _as_box(corners: np.ndarray) -> Box:
    return tuple((int(low), int(high)) for low, high in corners)


def _partial_flow(placed: tuple[Placed, ...], layout: Layout, machines: int) -> Flow:
    """What crosses, in elements, to add the partial results of a layout, each machine adding its own first."""
    out, into, messages = [0] * machines, [0] * machines, 0
    for piece in placed:
        for home in dict.fromkeys(layout.homes[m] for m in piece.members):
            if home != piece.home:
                out[home] += box_size(piece.box)
                into[piece.home] += box_size(piece.box)
                messages += 1
    return Flow(tuple(out), tuple(into), messages)


def union_size(regions: list[Box]) -> int:
    """Elements in the union of boxes."""
    return sum(box_size(b) for b in disjoint(regions))


def disjoint(regions: list[Box]) -> list[Box]:
    """The union of boxes as boxes that do not overlap; those of the list that stand alone stay as they are."""
    unique = list(dict.fromkeys(regions))
    found: list[Box] = []
    for box in unique:
        rest = [box]
        for other in found:
            rest = [piece for r in rest for piece in minus(r, other)]
        found.extend(rest)
    return found


def minus(box: Box, other: Box) -> list[Box]:
    """`box` without `other`, as boxes."""
    common = intersect(box, other)
    if common is None:
        return [box]
    parts: list[Box] = []
    rest = list(box)
    for axis, (low, high) in enumerate(common):
        first, last = rest[axis]
        if first < low:
            parts.append(tuple((first, low) if i == axis else iv for i, iv in enumerate(rest)))
        if high < last:
            parts.append(tuple((high, last) if i == axis else iv for i, iv in enumerate(rest)))
        rest[axis] = (low, high)
    return parts
