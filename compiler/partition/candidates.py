"""Which layouts a node can choose from: cut along one axis, or along two, for all of some machines; or whole on one of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import zip_longest

import numpy as np

from rainshed.compiler.layouts import Layout, regions_of
from rainshed.ops.access import Access, Box, Interval, Reach, box_size, cuts

MOST = 28  # candidates of one kind of node
LONG = 2.5  # a grid of machines longer than this, against its width, is not the only one that is tried


@lru_cache(maxsize=4096)
def candidates(
    access: Access,
    shapes: tuple[tuple[int, ...], ...],
    shape: tuple[int, ...],
    speeds: tuple[float, ...],
) -> tuple[Layout, ...]:
    """Layouts on machines 0, 1, ... of these speeds: the whole on the first one, then cuts, for each choice of axes those that
    read least.

    The same tiles in another order of machines are another candidate: which tile lies beside which decides what crosses.
    """
    machines = tuple(range(len(speeds)))
    single = Layout((1,) * len(access.axes), (0,))
    if len(machines) == 1:
        return (single,)
    even = max(speeds) <= min(speeds) * (1 + 1e-9)
    found = list(_even(access, machines) if even else ())
    if not even or not _has_square(len(machines)):
        found += _bisections(access, machines, speeds)
    found = list(dict.fromkeys(found or _on_most(access, speeds)))
    reading = _Reading(access, shapes, shape)
    worth = {layout: reading.of(layout) for layout in found}
    found.sort(key=lambda layout: (worth[layout], _surface(access, layout)))
    kept: dict[tuple[int, ...], list[Layout]] = {}
    for layout in found:
        kept.setdefault(tuple(i for i, n in enumerate(layout.grid) if n > 1), []).append(layout)
    # the best of each choice of axes, then the second best of each, ..., so that neighbours find the same ones
    turns = zip_longest(*(kept[axes] for axes in sorted(kept, key=len)))
    return (single, *[layout for turn in turns for layout in turn if layout is not None][: MOST - 1])


def _surface(access: Access, layout: Layout) -> float:
    """How long the borders of a grid are: what a neighbour with windows would read across them."""
    return sum((n - 1) / max(1, axis.size) for n, axis in zip(layout.grid, access.axes, strict=True))


def _has_square(count: int) -> bool:
    a = next(a for a in range(math.isqrt(count), 0, -1) if count % a == 0)
    return count // a <= LONG * a


def _even(access: Access, machines: tuple[int, ...]) -> Iterator[Layout]:
    count, rank = len(machines), len(access.axes)
    free = [i for i, axis in enumerate(access.axes) if axis.max_parts > 1]
    for i in free:
        if access.axes[i].max_parts >= count:
            yield Layout(tuple(count if k == i else 1 for k in range(rank)), machines)
    for a in range(2, count):
        b = count // a
        if count % a:
            continue
        for i in free:
            for j in free:
                if i < j and access.axes[i].max_parts >= a and access.axes[j].max_parts >= b:
                    grid = tuple(a if k == i else b if k == j else 1 for k in range(rank))
                    yield Layout(grid, machines)
                    yield Layout(grid, tuple(machines[y * a + x] for x in range(a) for y in range(b)))


def _on_most(access: Access, speeds: tuple[float, ...]) -> Iterator[Layout]:
    """Cuts along one axis that is too short for all machines: on the fastest of them, at least half."""
    count, rank = len(speeds), len(access.axes)
    fastest = sorted(range(count), key=lambda m: -speeds[m])
    for i, axis in enumerate(access.axes):
        divisor = next((n for n in range(min(axis.max_parts, count - 1), 0, -1) if count % n == 0), 1)
        for parts in dict.fromkeys((axis.max_parts, divisor)):
            if count <= 2 * parts < 2 * count:
                yield Layout(tuple(parts if k == i else 1 for k in range(rank)), tuple(sorted(fastest[:parts])))


def _bisections(access: Access, machines: tuple[int, ...], speeds: tuple[float, ...]) -> Iterator[Layout]:
    """Cuts in proportion to speed, along one axis or along two in turn; for any number of machines."""
    free = [i for i, axis in enumerate(access.axes) if axis.max_parts > 1]
    for i in free:
        for j in free:
            limits = access.axes[i].max_parts, access.axes[j].max_parts
            if limits[0] < 2 or (i == j and limits[0] < len(machines)) or limits[0] * limits[1] < 2 * len(machines):
                continue
            boxes: dict[int, Box] = {}
            full = access.full
            _bisect(access, (i, j), full, machines, speeds, boxes)
            if len(boxes) == len(machines) and all(map(box_size, boxes.values())):
                grid = tuple(2 if k in (i, j) else 1 for k in range(len(full)))
                order = sorted(boxes, key=lambda m: boxes[m])
                yield Layout(grid, tuple(order), tuple(boxes[m] for m in order))


def _bisect(
    access: Access,
    axes: tuple[int, int],
    box: Box,
    machines: Sequence[int],
    speeds: Sequence[float],
    found: dict[int, Box],
) -> None:
    """Halve machines and box again and again, across the side of the box with more steps."""
    if len(machines) == 1:
        found[machines[0]] = box
        return
    half = len(machines) // 2

    def steps(i: int) -> int:
        return (box[i][1] - box[i][0]) // access.axes[i].step

    axis = max(axes, key=lambda i: (steps(i), i == axes[0]))
    share = sum(speeds[:half]) / sum(speeds)
    step, (low, high) = access.axes[axis].step, box[axis]
    total = -(-(high - low) // step)
    first = (
        min(max(round(total * share), min(half, total - 1)), max(total - (len(machines) - half), 1)) if total > 1 else 1
    )
    middle = min(high, low + first * step)
    _bisect(access, axes, replaced(box, axis, (low, middle)), machines[:half], speeds[:half], found)
    _bisect(access, axes, replaced(box, axis, (middle, high)), machines[half:], speeds[half:], found)


def replaced(box: Box, axis: int, interval: Interval) -> Box:
    """The box with another interval along one axis."""
    return tuple(interval if i == axis else iv for i, iv in enumerate(box))


class _Reading:
    """How many elements the tiles of a grid read and give, all together: what at worst crosses, and what is read in any case."""

    def __init__(self, access: Access, shapes: tuple[tuple[int, ...], ...], shape: tuple[int, ...]) -> None:
        self.access = access
        self.operands = (*zip(access.inputs, shapes, strict=True), (access.output, shape))
        self._spans: dict[tuple[Reach, int, int], int] = {}

    def of(self, layout: Layout) -> int:
        return self._grid(layout.grid) if layout.cut is None else self._boxes(layout.cut)

    def _grid(self, grid: tuple[int, ...]) -> int:
        total = 0
        for reaches, size in self.operands:
            elements, used = 1, set()
            for reach, n in zip(reaches, size, strict=True):
                if reach.axis is None:
                    elements *= n
                    continue
                used.add(reach.axis)
                elements *= self._span(reach, n, grid[reach.axis])
            total += elements * math.prod(n for i, n in enumerate(grid) if i not in used)
        return total

    def _span(self, reach: Reach, size: int, parts: int) -> int:
        """What so many parts of an axis reach of an operand's axis, all together."""
        key = reach, size, parts
        if key not in self._spans:
            assert reach.axis is not None
            full = self.access.full
            found = [
                reach.interval(replaced(full, reach.axis, cut), size)
                for cut in cuts(self.access.axes[reach.axis], parts)
            ]
            self._spans[key] = sum(high - low for low, high in found)
        return self._spans[key]

    def _boxes(self, tiles: Sequence[Box]) -> int:
        cut = np.array(tiles, np.int64).reshape(len(tiles), len(self.access.axes), 2)
        regions = (regions_of(reaches, cut, size) for reaches, size in self.operands)
        return sum(int(np.maximum(r[..., 1] - r[..., 0], 0).prod(axis=-1).sum()) for r in regions)
