"""Layouts that follow from other layouts: where the tiles of a placement lie, and what lies beside them.

A placement of tiles (placement.py) says where the forward part of a graph is computed. Everything else is computed where
its operands lie: a gradient's loop nest has the axes of the values it reads, so their pieces cut it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rainshed.compiler.layouts import Layout, block_runs
from rainshed.ops.access import Access, Box, Interval, Reach, box_size, intersect

Piece = tuple[Box, int]  # of a value, and the machine on which it lies


def joined(access: Access, tiles: Sequence[Box], homes: Sequence[int]) -> Layout:
    """The layout of these tiles, which cover the loop nest without overlap; those of one machine that lie side by side as one."""
    if not access.axes or len(set(homes)) == 1:
        return Layout((1,) * len(access.axes), (int(homes[0]),))
    edges = [sorted({edge for box in tiles for edge in box[a]}) for a in range(len(access.axes))]
    at = [{edge: i for i, edge in enumerate(axis)} for axis in edges]
    table = np.zeros([max(1, len(axis) - 1) for axis in edges], np.int64)
    for box, home in zip(tiles, homes, strict=True):
        table[tuple(slice(at[a][low], at[a][high]) for a, (low, high) in enumerate(box))] = home
    cut, own = [], []
    for first, last in block_runs(table):
        cut.append(tuple((edges[a][i], edges[a][j]) for a, (i, j) in enumerate(zip(first, last, strict=True))))
        own.append(int(table[first]))
    grid = tuple(2 if any(box[a] != (0, axis.size) for box in cut) else 1 for a, axis in enumerate(access.axes))
    return Layout(grid, tuple(own), tuple(cut))


def followed(
    access: Access, reaches: tuple[Reach, ...], shape: tuple[int, ...], pieces: Sequence[Piece]
) -> Layout | None:
    """The layout that computes each index of the loop nest where most of what it reads (or gives) of one operand lies.

    None where the pieces do not tell: they differ only along axes of the operand that the loop nest does not follow.
    """
    at: dict[int, int] = {}
    for d, reach in enumerate(reaches):
        if reach.axis is not None and reach.axis not in at and access.axes[reach.axis].max_parts > 1:
            at[reach.axis] = d
    found: dict[Box, int] = {}
    for box, home in pieces:
        cut = list(access.full)
        for axis, d in at.items():
            cut[axis] = _along(access, axis, reaches[d], box[d], shape[d])
        tile = tuple(cut)
        if box_size(tile):
            found.setdefault(tile, home)
    if not found:
        return None
    if sum(map(box_size, found)) != box_size(access.full) or _overlap(list(found)):
        return None
    return joined(access, list(found), list(found.values()))


def _along(access: Access, axis: int, reach: Reach, interval: Interval, whole: int) -> Interval:
    """The indices of an axis whose middle of what they touch lies in the operand's interval."""
    size, step = access.axes[axis].size, access.axes[axis].step

    def border(edge: int) -> int:
        # index i touches from (scale i + low) / per to (scale i + high) / per; twice the middle, to stay in whole numbers
        index = -(-(2 * edge * reach.per - reach.low - reach.high) // (2 * max(1, reach.scale)))
        return min(size, max(0, round(index / step) * step))

    low, high = interval
    return (0 if low <= 0 else border(low)), (size if high >= whole else border(high))


def _overlap(found: list[Box]) -> bool:
    return len(found) <= 64 and any(intersect(a, b) is not None for i, a in enumerate(found) for b in found[i + 1 :])


def regions_as_pieces(regions: Sequence[Box], homes: Sequence[int], shape: tuple[int, ...]) -> list[Piece] | None:
    """The regions of an operand that tiles need, as where it should lie; None where two machines need the same."""
    found: dict[Box, int] = {}
    for region, home in zip(regions, homes, strict=True):
        if found.setdefault(region, home) != home:
            return None
    if sum(map(box_size, found)) != box_size(tuple((0, n) for n in shape)) or _overlap(list(found)):
        return None
    return list(found.items())
