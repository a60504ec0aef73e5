"""What two choices of layout make cross: exact bytes between every pair of machines, and the seconds that this takes.

The layouts of one kind of node are packed into arrays, so that one call answers for all pairs of layouts of two kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rainshed.compiler.machines import Cluster

Overlap = tuple[
    np.ndarray, np.ndarray, np.ndarray
]  # of intervals along an axis; which one each part has; each wanted one


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Boxes of several layouts, with their machines: what lies somewhere, or what is wanted there.

    boxes    i64[layouts, parts, axes, 2], empty ones where a layout has fewer parts; homes: i64[layouts, parts]
    counts   how many parts each layout has, i64[layouts]
    axes     of each axis, its distinct intervals i64[intervals, 2], and the number of each part's, i64[layouts, parts]
    slots    the parts of each machine, or -1: i64[layouts, machines, as many as any machine has]
    product  whether the boxes of a layout are all combinations of intervals of each axis, as those of a grid are: bool[layouts]
    """

    boxes: np.ndarray
    homes: np.ndarray
    counts: np.ndarray
    axes: tuple[tuple[np.ndarray, np.ndarray], ...]
    slots: np.ndarray
    product: np.ndarray

    @classmethod
    def of(cls, layouts: Sequence[tuple[np.ndarray, np.ndarray]], grids: Sequence[bool] = ()) -> Parts:
        """From (boxes i64[parts, axes, 2], homes i64[parts]) of each layout. `grids`: which are known to be products."""
        counts = np.array([len(homes) for _, homes in layouts])
        rank = max(1, layouts[0][0].shape[1])  # a number is an array of one element here, so that padding is empty
        boxes = np.zeros((len(layouts), counts.max(), rank, 2), np.int64)
        homes = np.zeros((len(layouts), counts.max()), np.int64)
        for i, (box, home) in enumerate(layouts):
            boxes[i, : len(home)], homes[i, : len(home)] = box if box.shape[1] else (0, 1), home
        axes = tuple(_intervals(boxes[:, :, d]) for d in range(rank))
        known = {i for i, grid in enumerate(grids) if grid}
        product = np.array([i in known or _is_product(boxes[i, :n]) for i, n in enumerate(counts)])
        return cls(boxes, homes, counts, axes, _slots(homes, counts), product)

    @property
    def layouts(self) -> int:
        return len(self.homes)

    @property
    def apart(self) -> bool:
        """Whether no machine has two parts of one layout."""
        return bool(self.slots.shape[2] == 1)

    @property
    def real(self) -> np.ndarray:
        """Which parts are there, not padding: bool[layouts, parts]."""
        return np.arange(self.homes.shape[1]) < self.counts[:, None]

    def some(self, chosen: np.ndarray) -> Parts:
        """Some of the layouts, by a mask."""
        return Parts(
            self.boxes[chosen],
            self.homes[chosen],
            self.counts[chosen],
            tuple((intervals, where[chosen]) for intervals, where in self.axes),
            self.slots[chosen],
            self.product[chosen],
        )


def _intervals(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct intervals among i64[layouts, parts, 2], and the number of each part's."""
    key = ends[..., 0] * (1 << 32) + ends[..., 1]
    unique, where = np.unique(key, return_inverse=True)
    return np.stack([unique >> 32, unique & ((1 << 32) - 1)], axis=1), where.reshape(key.shape)


def _slots(homes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    found = []
    for own, count in zip(homes, counts, strict=True):
        order = np.argsort(own[:count], kind="stable")
        machine = own[order]
        found.append((machine, np.arange(count) - np.searchsorted(machine, machine), order))
    most = 1 + max(int(turn.max()) for _, turn, _ in found)
    table = np.full((len(homes), homes.max() + 1, most), -1, np.int64)
    for i, (machine, turn, order) in enumerate(found):
        table[i, machine, turn] = order
    return table


def _is_product(boxes: np.ndarray) -> bool:
    """Whether boxes i64[parts, axes, 2], as often as each is there, are all combinations of intervals of each axis."""
    code, share = np.zeros(len(boxes), np.int64), np.ones(1)
    for d in range(boxes.shape[1]):
        _, where, times = np.unique(
            boxes[:, d, 0] * (1 << 32) + boxes[:, d, 1], return_inverse=True, return_counts=True
        )
        if len(times) == 1:
            continue
        code = code * len(times) + where.ravel()
        share = np.outer(share, times / len(boxes)).ravel()
        if len(share) > len(boxes):
            return False
    return bool(np.allclose(np.bincount(code, minlength=len(share)), share * len(boxes), rtol=0, atol=1e-6))


@dataclass(frozen=True, slots=True, eq=False)
class Wires:
    """Seconds per byte from machine to machine, f64[machines, machines], and what a message takes besides."""

    per_byte: np.ndarray
    latency_s: float
    overhead_s: float
    even: float | None  # seconds per byte, where they are the same between all machines
    handling: np.ndarray  # seconds of each whole machine per byte that it sends or receives: f64[machines]

    @classmethod
    def of(cls, cluster: Cluster) -> Wires:
        names = cluster.names
        per_byte = np.array([[0.0 if a == b else 1 / cluster.link(a, b).bytes_per_s for b in names] for a in names])
        latency = max((link.latency_s for link in (cluster.default_link, *cluster.links.values())), default=0.0)
        apart = per_byte[~np.eye(len(names), dtype=bool)]
        even = float(apart[0]) if len(apart) and (apart == apart[0]).all() else None
        overhead = max(m.overhead_s + m.message_s for m in cluster.machines)
        handling = np.array([1 / (m.message_bytes_per_s * m.cores) for m in cluster.machines])
        return cls(per_byte, latency, overhead, even, handling)

    def seconds(self, busy: np.ndarray, messages: np.ndarray) -> np.ndarray:
        """Of a transfer: the busiest interface, one latency, and the handling of messages (per machine)."""
        return np.where(messages > 0, busy + self.latency_s + self.overhead_s * messages, 0.0)


def between(have: Parts, i: int, want: Parts, j: int, machines: int) -> np.ndarray:
    """Elements that go from machine to machine so that layout j has what it wants of layout i: i64[machines, machines]."""
    common = _common(have.boxes[i], want.boxes[j])
    moved = np.zeros((machines, machines), np.int64)
    np.add.at(moved, (have.homes[i][:, None], want.homes[j][None, :]), common)
    if not want.apart:  # two parts on one machine may want the same: at most all that is there
        size = np.maximum(have.boxes[i][..., 1] - have.boxes[i][..., 0], 0).prod(axis=-1)
        whole = np.bincount(have.homes[i], weights=size, minlength=machines).astype(np.int64)
        moved = np.minimum(moved, whole[:, None])
    np.fill_diagonal(moved, 0)
    return moved


def _common(have: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Elements that each box of `have` shares with each of `want`."""
    common = np.ones((*have.shape[:-3], have.shape[-3], *want.shape[:-3], want.shape[-3]), np.int64)
    for d in range(have.shape[-2]):
        a, b = have[..., d, :], want[..., d, :]
        lead = (slice(None),) * (have.ndim - 2) + (None,) * (want.ndim - 2)
        length = np.minimum(a[..., 1][lead], b[..., 1]) - np.maximum(a[..., 0][lead], b[..., 0])
        common *= np.maximum(length, 0)
    return common


def edge_seconds(have: Parts, want: Parts, itemsize: int, wires: Wires) -> np.ndarray:
    """Seconds to bring a value to a reader, for every layout of the value and of the reader: f64[layouts, layouts].

    In  the parts of each layout of `have` are the whole value, each element once
    """
    if wires.even is None:
        return general_seconds(have, want, itemsize, wires)
    found = np.zeros((have.layouts, want.layouts))
    grids = want.product
    if grids.any():
        found[:, grids] = _even_seconds(have, want.some(grids), itemsize * wires.even, wires)
    if not grids.all():
        found[:, ~grids] = general_seconds(have, want.some(~grids), itemsize, wires)
    return found


def _even_seconds(have: Parts, want: Parts, each_s: float, wires: Wires) -> np.ndarray:
    """The same where an element takes `each_s` between any two machines, and wanted boxes are products of intervals.

    What a part shares with all wanted boxes is then a product over axes of sums; what a machine has of that already is the
    only thing that is looked up box by box.
    """
    overlaps, flat = _overlaps(have, want)
    shape = (have.layouts, want.layouts, max(have.slots.shape[1], want.slots.shape[1]))
    out, into = np.zeros(shape), np.zeros(shape)
    sent, messages = _with_all(have, want, overlaps, flat)
    for slot in have.slots.transpose(2, 0, 1):  # [layouts, machines]
        rows = np.arange(have.layouts)[:, None]
        out[:, :, : slot.shape[1]] += np.where(slot[:, None] >= 0, sent[rows, slot].transpose(0, 2, 1), 0)
    size = np.maximum(want.boxes[..., 1] - want.boxes[..., 0], 0).prod(axis=-1)
    for slot in want.slots.transpose(2, 0, 1):
        into[:, :, : slot.shape[1]] += np.where(slot >= 0, size[np.arange(want.layouts)[:, None], slot], 0)
    both = min(have.slots.shape[1], want.slots.shape[1])
    shared = np.flatnonzero((have.slots[:, :both, 0] >= 0).any(axis=0) & (want.slots[:, :both, 0] >= 0).any(axis=0))
    for a in have.slots[:, shared].transpose(2, 0, 1) if len(shared) else ():
        for b in want.slots[:, shared].transpose(2, 0, 1):
            own = _of_pairs(overlaps, a, b) * flat
            out[..., shared] -= own
            into[..., shared] -= own
            messages -= np.count_nonzero(own, axis=2)
    busy = np.maximum(out.max(axis=2), into.max(axis=2))
    return wires.seconds(busy * each_s, messages / len(wires.per_byte))


def _with_all(have: Parts, want: Parts, overlaps: Sequence[Overlap], flat: int) -> tuple[np.ndarray, np.ndarray]:
    """Elements that each part shares with all wanted boxes together, f64[layouts, parts, layouts wanted], and how many pairs of
    a part and a wanted box share any, f64[layouts, layouts wanted]."""
    elements = np.full((*have.homes.shape, want.layouts), flat, np.float64) * want.counts
    pairs = np.broadcast_to(want.counts * float(flat > 0), elements.shape)
    pairs = pairs * have.real[..., None]
    for table, rows, columns in overlaps:
        weights = np.zeros((table.shape[1], want.layouts))  # the share of each interval among the boxes of a layout
        np.add.at(weights, (columns, np.arange(want.layouts)[:, None]), want.real / want.counts[:, None])
        elements *= _product(table, weights)[rows]
        pairs *= _product((table > 0).astype(np.float64), weights)[rows]
    return np.rint(elements), np.rint(pairs.sum(axis=1))


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product of two small matrices, by one thread: waking those of BLAS takes longer."""
    return np.einsum("ij,jk->ik", a, b)  # type: ignore[no-any-return]


def _of_pairs(overlaps: Sequence[Overlap], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What a part of each machine shares with a wanted one, along the axes that are cut: f64[layouts, layouts wanted, machines].

    In  a, b: i64[layouts, machines], numbers of parts, or -1
    """
    found = (a >= 0)[:, None].astype(np.float64) * (b >= 0)[None]
    for table, rows, columns in overlaps:
        i, j = rows[np.arange(len(a))[:, None], a], columns[np.arange(len(b))[:, None], b]
        found *= table.ravel()[i[:, None] * table.shape[1] + j[None]]
    return found


def general_seconds(have: Parts, want: Parts, itemsize: int, wires: Wires) -> np.ndarray:
    """As `edge_seconds`, for any boxes and any links: every part against every wanted one."""
    machines = len(wires.per_byte)
    found, mean = np.zeros((have.layouts, want.layouts)), np.zeros((have.layouts, want.layouts))
    overlaps, flat = _overlaps(have, want)
    per_byte = (wires.per_byte * float(flat * itemsize)).astype(np.float32)
    for i in range(have.layouts):
        cost = per_byte[have.homes[i][:, None, None], want.homes[None]]  # [parts, layouts, parts wanted]
        for table, rows, columns in overlaps:
            cost *= table[rows[i]][:, columns].astype(np.float32)
        out = _sum_at(cost.sum(axis=2).T, np.broadcast_to(have.homes[i], (want.layouts, len(have.homes[i]))), machines)
        into = cost.sum(axis=0)
        if not want.apart:
            into = _sum_at(into, want.homes, machines)
        found[i] = np.maximum(out.max(axis=1), into.max(axis=1))
        mean[i] = np.count_nonzero(cost, axis=(0, 2)) / machines
    return wires.seconds(found, mean)


def _overlaps(have: Parts, want: Parts) -> tuple[list[Overlap], int]:
    """Per axis that layouts cut: the common length of every two intervals, and which interval each part has; and the elements
    that all parts share along the other axes."""
    tables, flat = [], 1
    for (a, rows), (b, columns) in zip(have.axes, want.axes, strict=True):
        length = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
        if length.size == 1:
            flat *= max(0, int(length[0, 0]))
        else:
            tables.append((np.maximum(length, 0).astype(np.float64), rows, columns))
    return tables, flat


def _sum_at(values: np.ndarray, homes: np.ndarray, machines: int) -> np.ndarray:
    """Per row, the values of each machine added up: f64[rows, machines]."""
    rows = np.arange(len(values))[:, None] * machines
    flat = np.bincount((rows + homes).ravel(), weights=values.ravel(), minlength=len(values) * machines)
    return flat.reshape(len(values), machines)
