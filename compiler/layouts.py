"""How a node can be cut, where its tiles then lie, and the exact bytes that a choice makes cross between machines.

A layout cuts a node's loop nest by a grid and gives each tile a home (the number of a machine). Tiles along a "sum" axis give
partial results; these are added in slices, each slice by one of the machines that hold a partial, so that the adding is shared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

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
        for a, b in zip(edges[:-1], edges[1:], strict=True)
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


@lru_cache(maxsize=262144)
def flow(
    have: tuple[Placed, ...], access: Access, layout: Layout, input_index: int, shape: tuple[int, ...], itemsize: int, machines: int
) -> Flow:
    """What crosses so that each tile of a consumer gets its region of one input. Each element goes to a machine once."""
    wanted: dict[int, list[Box]] = {}
    for box, home in zip(tiles(access, layout), layout.homes, strict=True):
        reaches = access.inputs[input_index]
        region = tuple(r.interval(box, size) for r, size in zip(reaches, shape, strict=True))
        if region not in wanted.setdefault(home, []):
            wanted[home].append(region)
    out, into, messages = [0] * machines, [0] * machines, 0
    for home, regions in wanted.items():
        for piece in have:
            if piece.home == home:
                continue
            count = union_size([hit for r in regions if (hit := intersect(piece.box, r)) is not None])
            if count:
                out[piece.home] += count * itemsize
                into[home] += count * itemsize
                messages += 1
    return Flow(tuple(out), tuple(into), messages)


@lru_cache(maxsize=65536)
def partial_flow(access: Access, layout: Layout, shape: tuple[int, ...], itemsize: int, machines: int) -> Flow:
    """What crosses to add the partial results of a layout, each machine adding its own first."""
    out, into, messages = [0] * machines, [0] * machines, 0
    for piece in pieces(access, layout, shape):
        nbytes = box_size(piece.box) * itemsize
        for home in dict.fromkeys(layout.homes[m] for m in piece.members):
            if home != piece.home:
                out[home] += nbytes
                into[piece.home] += nbytes
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
            rest = [piece for r in rest for piece in _minus(r, other)]
        found.extend(rest)
    return found


def _minus(box: Box, other: Box) -> list[Box]:
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
