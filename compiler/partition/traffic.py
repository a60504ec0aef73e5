"""What two choices of layout make cross: exact bytes between every pair of machines, and the seconds that this takes.

The layouts of one kind of node are packed into arrays, so that one call answers for all pairs of layouts of two kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rainshed.compiler.machines import Cluster


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Boxes of several layouts, with their machines: what lies somewhere, or what is wanted there.

    boxes  i64[layouts, parts, axes, 2], empty ones where a layout has fewer parts; homes: i64[layouts, parts]
    apart  whether no machine has two parts of one layout
    """

    boxes: np.ndarray
    homes: np.ndarray
    apart: bool

    @classmethod
    def of(cls, layouts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Parts:
        """From (boxes i64[parts, axes, 2], homes i64[parts]) of each layout."""
        most = max(len(homes) for _, homes in layouts)
        boxes = np.zeros((len(layouts), most, *layouts[0][0].shape[1:]), np.int64)
        homes = np.zeros((len(layouts), most), np.int64)
        for i, (box, home) in enumerate(layouts):
            boxes[i, : len(home)], homes[i, : len(home)] = box, home
            if not boxes.shape[2]:  # a number, not an array: padding would not be empty
                homes[i, len(home) :] = home[0]
        apart = all(len(set(h.tolist())) == len(h) for _, h in layouts)
        return cls(boxes, homes, apart)

    @property
    def layouts(self) -> int:
        return len(self.homes)


@dataclass(frozen=True, slots=True, eq=False)
class Wires:
    """Seconds per byte from machine to machine, f64[machines, machines], and what a message takes besides."""

    per_byte: np.ndarray
    latency_s: float
    overhead_s: float

    @classmethod
    def of(cls, cluster: Cluster) -> Wires:
        names = cluster.names
        per_byte = np.array([[0.0 if a == b else 1 / cluster.link(a, b).bytes_per_s for b in names] for a in names])
        latency = max((link.latency_s for link in (cluster.default_link, *cluster.links.values())), default=0.0)
        return cls(per_byte, latency, max(m.overhead_s + m.message_s for m in cluster.machines))

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
    """Seconds to bring a value to a reader, for every layout of the value and of the reader: f64[layouts, layouts]."""
    machines = len(wires.per_byte)
    found, mean = np.zeros((have.layouts, want.layouts)), np.zeros((have.layouts, want.layouts))
    overlaps, flat = _overlaps(have, want)
    per_byte = (wires.per_byte * float(flat * itemsize)).astype(np.float32)
    for i in range(have.layouts):
        cost = per_byte[have.homes[i][:, None, None], want.homes[None]]  # [parts, layouts, parts wanted]
        for table, rows, columns in overlaps:
            cost *= table[rows[i]][:, columns]
        out = _sum_at(cost.sum(axis=2).T, np.broadcast_to(have.homes[i], (want.layouts, len(have.homes[i]))), machines)
        into = cost.sum(axis=0)
        if not want.apart:
            into = _sum_at(into, want.homes, machines)
        found[i] = np.maximum(out.max(axis=1), into.max(axis=1))
        mean[i] = np.count_nonzero(cost, axis=(0, 2)) / machines
    return wires.seconds(found, mean)


def _overlaps(have: Parts, want: Parts) -> tuple[list[tuple[np.ndarray, np.ndarray, np.ndarray]], int]:
    """Per axis that layouts cut: the common length of every two intervals, and which interval each part has; and the elements
    that all parts share along the other axes."""
    tables, flat = [], 1
    for d in range(have.boxes.shape[2]):
        a, rows = _intervals(have.boxes[:, :, d])
        b, columns = _intervals(want.boxes[:, :, d])
        length = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
        if length.size == 1:
            flat *= max(0, int(length[0, 0]))
        else:
            tables.append((np.maximum(length, 0).astype(np.float32), rows, columns))
    return tables, flat


def _intervals(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct intervals among i64[layouts, parts, 2], and the number of each part's."""
    key = ends[..., 0] * (1 << 32) + ends[..., 1]
    unique, where = np.unique(key, return_inverse=True)
    return np.stack([unique >> 32, unique & ((1 << 32) - 1)], axis=1), where.reshape(key.shape)


def _sum_at(values: np.ndarray, homes: np.ndarray, machines: int) -> np.ndarray:
    """Per row, the values of each machine added up: f64[rows, machines]."""
    rows = np.arange(len(values))[:, None] * machines
    flat = np.bincount((rows + homes).ravel(), weights=values.ravel(), minlength=len(values) * machines)
    return flat.reshape(len(values), machines)
