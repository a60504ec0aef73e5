"""How a node can be cut, where its tiles then lie, and the exact bytes that a choice makes cross between machines.

A layout cuts a node's loop nest by a grid and gives each tile a home (the number of a machine). Tiles along a "sum" axis give
partial results; these are added in slices, each slice by one of the machines that hold a partial, so that the adding is shared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise, product

import msgspec
import numpy as np

from rainshed.ops.access import Access, Box, Interval, Reach, box_size, boxes, cuts, intersect

Cell = tuple[Box, tuple[int, ...], tuple[int, ...]]  # of a result; the tiles that give something to it, and that own it

MIN_SLICE = 256  # elements: smaller results of partial sums are added in one place


class Layout(msgspec.Struct, frozen=True, cache_hash=True):
    """A grid of parts per iteration axis, and the home of each tile in row-major order.

    With `cut`, these boxes are the tiles instead: uneven ones, for uneven machines; the grid then only says along which axes.
    """

    grid: tuple[int, ...]
    homes: tuple[int, ...]
    cut: tuple[Box, ...] | None = None


class Placed(msgspec.Struct, frozen=True):
    """A piece of a value: its box and its home. `members` are the tiles that make it: several for a partial sum."""

    box: Box
    home: int
    members: tuple[int, ...]


@lru_cache(maxsize=65536)
def tiles(access: Access, layout: Layout) -> tuple[Box, ...]:
    return boxes(access, layout.grid) if layout.cut is None else layout.cut


def _array(found: tuple[Box, ...], axes: int) -> np.ndarray:
    return np.array(found, np.int64).reshape(len(found), axes, 2)


def _boxes(array: np.ndarray) -> list[Box]:
    return [tuple((low, high) for low, high in box) for box in array.tolist()]


def regions_of(reaches: tuple[Reach, ...], cut: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """For each tile, the region of an operand: `Reach.interval` on arrays.

    Shapes  cut: i64[tiles, axes of the loop nest, 2]; result: i64[tiles, axes of the operand, 2]
    """
    found = np.zeros((len(cut), len(shape), 2), np.int64)
    for d, (reach, size) in enumerate(zip(reaches, shape, strict=True)):
        if reach.axis is None:
            found[:, d] = 0, size
            continue
        low, high = cut[:, reach.axis, 0], cut[:, reach.axis, 1]
        ends = reach.scale * low, reach.scale * (high - 1)
        start = np.maximum((np.minimum(*ends) + reach.low) // reach.per, 0)
        stop = np.minimum((np.maximum(*ends) + reach.high) // reach.per + 1, size)
        empty, at = start >= stop, np.minimum(start, size)
        nothing = low >= high
        found[:, d, 0] = np.where(nothing, 0, np.where(empty, at, start))
        found[:, d, 1] = np.where(nothing, 0, np.where(empty, at, stop))
    return found


@lru_cache(maxsize=65536)
def pieces(access: Access, layout: Layout, shape: tuple[int, ...]) -> tuple[Placed, ...]:
    """The pieces in which the value lies under a layout, after partial results are added."""
    if len(layout.homes) == 1:
        (box,) = tiles(access, layout)
        return (Placed(access.result(box, shape), layout.homes[0], (0,)),)
    results = _boxes(regions_of(access.output, _array(tiles(access, layout), len(access.axes)), shape))
    groups: dict[Box, list[int]] = {}
    for i, result in enumerate(results):
        groups.setdefault(result, []).append(i)
    if sum(map(box_size, groups)) > box_size(tuple((0, n) for n in shape)):
        return _cells(access, layout, shape, results)
    found: list[Placed] = []
    for box, members in groups.items():
        homes = list(dict.fromkeys(layout.homes[m] for m in members))
        for part, home in zip(_slices(box, len(homes)), homes, strict=False):
            found.append(Placed(part, home, tuple(members)))
    return tuple(found)


def _cells(access: Access, layout: Layout, shape: tuple[int, ...], results: list[Box]) -> tuple[Placed, ...]:
    """The pieces where partial results overlap without being equal: largest boxes with one set of partial results and one owner.

    Where tiles lie side by side, the border between their owners is in the middle of what both give something to.
    """
    along = [reach.axis for reach in access.output if reach.axis is not None]
    grid = layout.cut is None and len(set(along)) == len(along)
    cells = _grid_cells(access, layout.grid, shape) if grid else _any_cells(access, layout, shape, results)
    found = []
    for box, members, owners in cells:
        homes = list(dict.fromkeys([layout.homes[m] for m in owners or members[:1]]))
        for part, home in zip(_slices(box, len(homes)), homes, strict=False):
            found.append(Placed(part, home, members))
    return tuple(found)


@lru_cache(maxsize=4096)
def _grid_cells(access: Access, grid: tuple[int, ...], shape: tuple[int, ...]) -> tuple[Cell, ...]:
    """The cells of a grid: axis by axis, since what overlaps along one does so whatever lies along the others."""
    parts = [cuts(axis, n) for axis, n in zip(access.axes, grid, strict=True)]
    strides = [math.prod(map(len, parts[i + 1 :])) for i in range(len(parts))]
    every = [list(range(len(p))) for p in parts]
    runs = [
        _runs(reach, access, parts[reach.axis] if reach.axis is not None else (), n)
        for reach, n in zip(access.output, shape, strict=True)
    ]
    found = []
    for cell in product(*runs):
        gives, owns = list(every), list(every)
        for reach, (_, some, own) in zip(access.output, cell, strict=True):
            if reach.axis is not None:
                gives[reach.axis], owns[reach.axis] = some, own
        found.append((tuple([one[0] for one in cell]), _numbers(gives, strides), _numbers(owns, strides)))
    return tuple(found)


def _numbers(chosen: list[list[int]], strides: list[int]) -> tuple[int, ...]:
    """The tiles of a grid at these places of each axis, in row-major order."""
    found = [0]
    for places, stride in zip(chosen, strides, strict=True):
        found = [n + i * stride for n in found for i in places]
    return tuple(found)


def _runs(
    reach: Reach, access: Access, parts: Sequence[Interval], size: int
) -> list[tuple[Interval, list[int], list[int]]]:
    """Along one axis of the result: longest intervals to which the same parts of the loop nest give, and which own them."""
    if reach.axis is None:
        return [((0, size), [], [])]
    nests = [tuple(part if i == reach.axis else (0, 0) for i in range(len(access.axes))) for part in parts]
    given = [reach.interval(nest, size) for nest in nests]
    owned = [_owned(reach, access, nest, size) for nest in nests]
    edges = sorted({e for interval in (*given, *owned) for e in interval} | {0, size})
    found: list[tuple[Interval, list[int], list[int]]] = []
    for low, high in pairwise(edges):
        gives, owns = ([i for i, (a, b) in enumerate(ends) if a <= low and high <= b] for ends in (given, owned))
        if found and found[-1][1:] == (gives, owns):
            low = found.pop()[0][0]
        found.append(((low, high), gives, owns))
    return found


def _any_cells(access: Access, layout: Layout, shape: tuple[int, ...], results: list[Box]) -> Iterator[Cell]:
    """The cells of any tiles."""
    owned = [
        tuple(_owned(reach, access, box, n) for reach, n in zip(access.output, shape, strict=True))
        for box in tiles(access, layout)
    ]
    edges = [sorted({e for box in (*results, *owned) for e in box[d]}) for d in range(len(shape))]
    at = [{e: i for i, e in enumerate(axis)} for axis in edges]
    table = np.zeros((2, len(results), *(max(1, len(axis) - 1) for axis in edges)), bool)
    for kind, given in enumerate((results, owned)):
        for i, box in enumerate(given):
            table[kind, i][tuple(slice(at[d][low], at[d][high]) for d, (low, high) in enumerate(box))] = True
    codes: dict[bytes, int] = {}
    flat = np.ascontiguousarray(table.reshape(2 * len(results), -1).T)
    marks = np.array([codes.setdefault(row.tobytes(), len(codes)) for row in flat]).reshape(table.shape[2:])
    for low, high in block_runs(marks):
        gives, owns = table[np.index_exp[:, :] + low]
        box = tuple((edges[d][a], edges[d][b]) for d, (a, b) in enumerate(zip(low, high, strict=True)))
        yield box, tuple(np.flatnonzero(gives).tolist()), tuple(np.flatnonzero(owns).tolist())


def _owned(reach: Reach, access: Access, box: Box, size: int) -> Interval:
    """Which part of an axis of the result belongs to a tile."""
    if reach.axis is None:
        return 0, size

    def border(edge: int) -> int:
        if edge in (0, access.axes[reach.axis].size):  # type: ignore[index]
            return size if edge else 0
        after, before = (
            (reach.scale * edge + reach.low) // reach.per,
            (reach.scale * (edge - 1) + reach.high) // reach.per,
        )
        return min(size, max(0, (after + before + 1) // 2))

    low, high = box[reach.axis]
    return border(low), border(high)


def block_runs(marks: np.ndarray) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Boxes of equal marks that cover the array, each grown along one axis after the other."""
    done = np.zeros(marks.shape, bool)
    for first in np.ndindex(marks.shape):
        if done[first]:
            continue
        high = [i + 1 for i in first]
        for d in reversed(range(marks.ndim)):
            while high[d] < marks.shape[d]:
                new = tuple(
                    slice(high[k], high[k] + 1) if k == d else slice(first[k], high[k]) for k in range(marks.ndim)
                )
                if (marks[new] != marks[first]).any() or done[new].any():
                    break
                high[d] += 1
        done[tuple(slice(a, b) for a, b in zip(first, high, strict=True))] = True
        yield first, tuple(high)


def _slices(box: Box, parts: int) -> list[Box]:
    """The box in up to `parts` slices along its longest axis; whole if it is small."""
    if parts == 1 or box_size(box) < MIN_SLICE or not box:
        return [box]
    axis = max(range(len(box)), key=lambda i: box[i][1] - box[i][0])
    low, high = box[axis]
    edges = [low + (high - low) * i // parts for i in range(parts + 1)]
    return [tuple((a, b) if i == axis else iv for i, iv in enumerate(box)) for a, b in pairwise(edges) if a < b]


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
