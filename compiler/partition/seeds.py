"""Placements to start from: blocks of a regular grid of machines, and recursive bisection for any number and speed of machines."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rainshed.compiler.partition.atoms import Tiling
from rainshed.compiler.partition.cutting import AXES
from rainshed.compiler.partition.refine import loops, turned
from rainshed.compiler.partition.simulate_tiles import Rates

ROUNDS = 8  # in which vertices without a home are given one: so far from a heavy tile they may lie


def machine_grids(machines: int) -> Iterator[tuple[int, ...]]:
    """Every way to arrange machines in a grid along up to AXES directions."""

    def rest(left: int, axes: int) -> Iterator[tuple[int, ...]]:
        if axes == 1:
            yield (left,)
            return
        for n in range(1, left + 1):
            if left % n == 0:
                for tail in rest(left // n, axes - 1):
                    yield (n, *tail)

    yield from rest(machines, AXES)


def blocks(tiling: Tiling, grid: tuple[int, ...]) -> np.ndarray:
    """Each heavy layer in as many equal blocks along each direction as the grid of machines has; the rest goes with its nets."""
    home = np.full(tiling.vertices, -1, np.int64)
    for layer in range(len(tiling.layers)):
        members = np.flatnonzero(tiling.layer == layer)
        where = np.zeros(len(members), np.int64)
        groups = [np.arange(len(members))]
        for axis, parts in enumerate(grid):
            if parts == 1:
                continue
            new = []
            for group in groups:
                order = _along(tiling.place[members[group]], axis)
                cut = _cut(tiling.work[members[group[order]]], np.ones(parts))
                for part in range(parts):
                    chosen = group[order[cut == part]]
                    where[chosen] = where[chosen] * parts + part
                    new.append(chosen)
                where[group] = where[group]
            groups = new
        home[members] = where
    return follow(tiling, home, int(np.prod(grid)))


def bisected(tiling: Tiling, speed: np.ndarray, first: int, *, larger: bool = False) -> np.ndarray:
    """Each heavy layer cut in two again and again along its longest direction, in proportion to the machines' speed.

    first   the direction that is taken where several are longest
    larger  of an odd number of machines the larger half is on the left: tiles there run first, and where borders fall on a
            coarse grid of tiles it makes a difference in bytes, too
    """
    home = np.full(tiling.vertices, -1, np.int64)
    for layer in range(len(tiling.layers)):
        members = np.flatnonzero(tiling.layer == layer)
        _bisect(tiling, members, np.arange(len(speed)), (speed, first, larger), home)
    return follow(tiling, home, len(speed))


def _bisect(
    tiling: Tiling, members: np.ndarray, machines: np.ndarray, how: tuple[np.ndarray, int, bool], home: np.ndarray
) -> None:
    if len(machines) == 1:
        home[members] = machines[0]
        return
    speed, first, larger = how
    half = (len(machines) + larger) // 2
    left, right = machines[:half], machines[half:]
    place = tiling.place[members]
    extent = np.array([len(np.unique(place[:, d])) for d in range(AXES)], float)
    spans = np.where(extent > 1, np.ptp(place, axis=0) if len(place) else 0.0, -1.0)
    spans[first % AXES] *= 1.0 + 1e-6
    axis = int(np.argmax(spans))
    order = _along(place, axis)
    cut = _cut(tiling.work[members[order]], np.array([speed[left].sum(), speed[right].sum()]))
    _bisect(tiling, members[order[cut == 0]], left, how, home)
    _bisect(tiling, members[order[cut == 1]], right, how, home)


def earliest_finish(tiling: Tiling, rates: Rates) -> np.ndarray:
    """Each vertex, in the order of the graph, on the machine where it is done first, what it reads having come there.

    Source  list scheduling to the earliest finish: Topcuoglu et al. 2002 (HEFT); m-ETF of Jeon et al., Baechi, SoCC 2020
    """
    tasks, known = tiling.tasks, np.flatnonzero(tiling.tasks.maker >= 0)
    size = np.diff(tasks.starts)[known]
    at = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size) + np.repeat(tasks.starts[known], size)
    reader = tasks.readers[at]
    order = np.argsort(reader, kind="stable")
    first = np.searchsorted(reader[order], np.arange(len(tasks.vertex) + 1))
    maker, nbytes = np.repeat(tasks.maker[known], size)[order], np.repeat(tasks.nbytes[known], size)[order]
    home = np.full(tiling.vertices, -1, np.int64)
    loops().earliest(
        (tasks.vertex, tasks.work + tasks.behind, first, maker, nbytes), home, rates.flops, rates.bytes_per_s
    )
    return home


def layers_in_turn(tiling: Tiling, speed: np.ndarray) -> np.ndarray:
    """Vertices in the order of the graph, dealt to the machines in turn by work: whole layers, where there are many."""
    return _cut(tiling.work + 1e-12 * max(1.0, float(tiling.work.sum())), speed)


def _along(place: np.ndarray, axis: int) -> np.ndarray:
    """The order of tiles along one direction, and along the others where they are level."""
    others = [d for d in range(AXES) if d != axis]
    return np.lexsort((*(place[:, d] for d in reversed(others)), place[:, axis]))


def _cut(work: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The part of each item, in order, so that parts have about their share of the work."""
    middle = np.cumsum(work) - work / 2
    edges = np.cumsum(share) / share.sum() * work.sum()
    return np.minimum(np.searchsorted(edges, middle, side="right"), len(share) - 1).astype(np.int64)


def follow(tiling: Tiling, home: np.ndarray, machines: int) -> np.ndarray:
    """Vertices without a home go where most bytes of their nets are, those beside decided ones first."""
    home = home.copy()
    graph = (tiling.starts, tiling.pins, tiling.weight, *turned(tiling.starts, tiling.pins, tiling.vertices))
    loops().follow(graph, home, machines, ROUNDS)
    home[home < 0] = 0
    return home


def columns(tiling: Tiling) -> tuple[np.ndarray, int] | None:
    """Tiles at one place of every heavy layer as one: the column of each vertex, and their number; None where places differ."""
    heavy = np.flatnonzero(tiling.layer >= 0)
    if len(tiling.layers) < 2:
        return None
    unique, column = np.unique(np.round(tiling.place[heavy] * 1e6).astype(np.int64), axis=0, return_inverse=True)
    counts = np.zeros((len(tiling.layers), len(unique)), int)
    np.add.at(counts, (tiling.layer[heavy], column.ravel()), 1)
    if not (counts == counts[:, :1]).all() or not (counts > 0).all() or len(unique) < 2:
        return None
    of = np.full(tiling.vertices, -1, np.int64)
    of[heavy] = column.ravel()
    return follow(tiling, of, len(unique)), len(unique)
