"""A layered drawing of a directed graph: ranks from the top down, few crossings, straight chains. Pure arithmetic.

Source  Sugiyama, Tagawa, Toda 1981, in its usual four steps; positions within a rank are the exact least
        squares under the order (pool adjacent violators).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]
_Cell = tuple[int, int]  # (node, -1), or (edge, rank) for the point of a long edge on a rank it passes
_SWEEPS = 12


@dataclass(frozen=True, slots=True)
class Spacing:
    """Sizes in pixels. A long edge is given `lane` pixels where it passes a rank."""

    rank_gap: float
    node_gap: float
    lane: float


@dataclass(frozen=True, slots=True)
class Drawing:
    """Where things are: each node's centre, each edge's points from its source to its target, and the whole size."""

    centres: tuple[Point, ...]
    ranks: tuple[int, ...]
    routes: tuple[tuple[Point, ...], ...]
    width: float
    height: float


def layered(
    sizes: Sequence[tuple[float, float]],
    edges: Sequence[tuple[int, int]],
    spacing: Spacing,
    pulls: Sequence[float] | None = None,
) -> Drawing:
    """A drawing of nodes 0..n-1 of these (width, height). Edges that close a cycle are drawn upwards.

    pulls  how strongly each edge wants to be straight, against the others; all alike if not given
    """
    down = _acyclic(len(sizes), edges)
    ranks = _ranks(len(sizes), down)
    rows, ways = _rows(ranks, down)
    links = [(a, b) for way in ways for a, b in pairwise(way)]
    _order(rows, links)
    strength = pulls or [1.0] * len(edges)
    near = [(a, b, pull) for way, pull in zip(ways, strength, strict=True) for a, b in pairwise(way)]
    x = _positions(rows, near, sizes, spacing)
    heights = [max((sizes[i][1] for i, tag in row if tag < 0), default=0.0) for row in rows]
    y, top = [], 0.0
    for height in heights:
        y.append(top + height / 2)
        top += height + spacing.rank_gap
    routes = []
    for (source, target), (first, _), way in zip(edges, down, ways, strict=True):
        points = _route(way, ranks, x, y, heights, sizes)
        routes.append(points if source in (first, target) else points[::-1])
    return Drawing(
        centres=tuple((x[i, -1], y[ranks[i]]) for i in range(len(sizes))),
        ranks=tuple(ranks),
        routes=tuple(routes),
        width=max((x[c] + _width(c, sizes, spacing) / 2 for row in rows for c in row), default=0.0),
        height=max(0.0, top - spacing.rank_gap),
    )


def _acyclic(count: int, edges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The edges, those turned round that lead back into the path they were found on."""
    out: list[list[int]] = [[] for _ in range(count)]
    for i, (a, _) in enumerate(edges):
        out[a].append(i)
    state = [0] * count  # 0 not seen, 1 on the path, 2 done
    turned: set[int] = set()
    for start in range(count):
        stack = [(start, 0)] if not state[start] else []
        while stack:
            node, i = stack.pop()
            state[node] = 1
            if i == len(out[node]):
                state[node] = 2
                continue
            stack.append((node, i + 1))
            edge = out[node][i]
            target = edges[edge][1]
            if state[target] == 1:
                turned.add(edge)
            elif not state[target]:
                stack.append((target, 0))
    return [(b, a) if i in turned else (a, b) for i, (a, b) in enumerate(edges)]


def _ranks(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Longest path from the top; nodes without inputs then sink to just above their first reader."""
    waiting = [0] * count
    after: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        if a != b:
            waiting[b] += 1
            after[a].append(b)
    sources = [i for i in range(count) if not waiting[i]]
    ready, ranks = list(sources), [0] * count
    for node in ready:
        for b in after[node]:
            ranks[b] = max(ranks[b], ranks[node] + 1)
            waiting[b] -= 1
            if not waiting[b]:
                ready.append(b)
    for node in sources:
        if after[node]:
            ranks[node] = min(ranks[b] for b in after[node]) - 1
    return ranks


def _rows(ranks: Sequence[int], edges: Sequence[tuple[int, int]]) -> tuple[list[list[_Cell]], list[list[_Cell]]]:
    """The cells of each rank, and for each edge the cells it goes through."""
    rows: list[list[_Cell]] = [[] for _ in range(max(ranks, default=-1) + 1)]
    for node, rank in enumerate(ranks):
        rows[rank].append((node, -1))
    ways = []
    for i, (a, b) in enumerate(edges):
        passed = [(i, rank) for rank in range(ranks[a] + 1, ranks[b])]
        for cell in passed:
            rows[cell[1]].append(cell)
        ways.append([(a, -1), *passed, (b, -1)] if a != b else [])
    return rows, ways


def _beside(links: Iterable[tuple[_Cell, _Cell]]) -> tuple[dict[_Cell, list[_Cell]], dict[_Cell, list[_Cell]]]:
    above: dict[_Cell, list[_Cell]] = {}
    below: dict[_Cell, list[_Cell]] = {}
    for a, b in links:
        below.setdefault(a, []).append(b)
        above.setdefault(b, []).append(a)
    return above, below


def _order(rows: list[list[_Cell]], links: Sequence[tuple[_Cell, _Cell]]) -> None:
    """Order each rank by the mean place of its neighbours, down and up in turn; the best order found stays."""
    above, below = _beside(links)
    best, fewest = [list(row) for row in rows], _crossings(rows, below)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        near = below if sweep % 2 else above
        for row in reversed(rows) if sweep % 2 else rows:
            place = {cell: i for other in rows for i, cell in enumerate(other)}
            mean = {c: sum(place[o] for o in near[c]) / len(near[c]) if c in near else place[c] for c in row}
            row.sort(key=lambda c: mean[c])
        found = _crossings(rows, below)
        if found < fewest:
            best, fewest = [list(row) for row in rows], found
    for row, kept in zip(rows, best, strict=True):
        row[:] = kept


def _crossings(rows: Sequence[Sequence[_Cell]], below: Mapping[_Cell, list[_Cell]]) -> int:
    total = 0
    for upper, lower in pairwise(rows):
        place = {cell: i for i, cell in enumerate(lower)}
        ends = [place[b] for a in upper for b in sorted(below.get(a, ()), key=lambda c: place[c])]
        total += sum(1 for i, p in enumerate(ends) for q in ends[i + 1 :] if q < p)
    return total


def _width(cell: _Cell, sizes: Sequence[tuple[float, float]], spacing: Spacing) -> float:
    return sizes[cell[0]][0] if cell[1] < 0 else spacing.lane


def _positions(
    rows: Sequence[Sequence[_Cell]],
    links: Sequence[tuple[_Cell, _Cell, float]],
    sizes: Sequence[tuple[float, float]],
    spacing: Spacing,
) -> dict[_Cell, float]:
    """Centres along x: every cell as near to the mean of its neighbours as order and gaps allow."""
    above: dict[_Cell, list[tuple[_Cell, float]]] = {}
    below: dict[_Cell, list[tuple[_Cell, float]]] = {}
    for a, b, pull in links:
        below.setdefault(a, []).append((b, pull))
        above.setdefault(b, []).append((a, pull))
    x: dict[_Cell, float] = {}
    apart: list[list[float]] = []
    for row in rows:
        offsets, at = [], 0.0
        for i, cell in enumerate(row):
            if i:
                at += (_width(row[i - 1], sizes, spacing) + _width(cell, sizes, spacing)) / 2 + spacing.node_gap
            offsets.append(at)
        apart.append(offsets)
        x.update({cell: offset - at / 2 for cell, offset in zip(row, offsets, strict=True)})
    for sweep in range(_SWEEPS):
        near = below if sweep % 2 else above
        order = range(len(rows) - 1, -1, -1) if sweep % 2 else range(len(rows))
        for r in order:
            row, offsets = rows[r], apart[r]
            force = [sum(pull for _, pull in near.get(c, ())) or 0.01 for c in row]
            both = zip(row, force, offsets, strict=True)
            wish = [(sum(x[o] * p for o, p in near[c]) / f if c in near else x[c]) - at for c, f, at in both]
            settled = nondecreasing(wish, force)
            x.update({cell: s + o for cell, s, o in zip(row, settled, offsets, strict=True)})
    left = min((x[c] - _width(c, sizes, spacing) / 2 for c in x), default=0.0)
    return {cell: value - left for cell, value in x.items()}


def nondecreasing(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The non-decreasing sequence nearest to `values` in the sense of weighted least squares."""
    pools: list[tuple[float, float, int]] = []  # weighted sum, weight and number of the values that share one level
    for value, weight in zip(values, weights, strict=True):
        total, heavy, count = value * weight, weight, 1
        while pools and pools[-1][0] / pools[-1][1] > total / heavy:
            last = pools.pop()
            total, heavy, count = total + last[0], heavy + last[1], count + last[2]
        pools.append((total, heavy, count))
    return [total / heavy for total, heavy, count in pools for _ in range(count)]


def _route(
    way: Sequence[_Cell],
    ranks: Sequence[int],
    x: Mapping[_Cell, float],
    y: Sequence[float],
    heights: Sequence[float],
    sizes: Sequence[tuple[float, float]],
) -> tuple[Point, ...]:
    if not way:
        return ()
    points: list[Point] = []
    for cell in way:
        node, tag = cell
        if tag >= 0:
            points += [(x[cell], y[tag] - heights[tag] / 2), (x[cell], y[tag] + heights[tag] / 2)]
            continue
        half = sizes[node][1] / 2
        points.append((x[cell], y[ranks[node]] + (-half if points else half)))
    return tuple(points)
