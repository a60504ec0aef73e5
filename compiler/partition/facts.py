"""What the search knows of a node, and what all searches of a graph have worked out once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rainshed.compiler.cost import pace
from rainshed.compiler.machines import Cluster
from rainshed.compiler.partition.options import Block, Kind, Nest
from rainshed.compiler.partition.traffic import Wires, edge_seconds
from rainshed.ops.access import Access
from rainshed.ops.ir import Node
from rainshed.ops.op import Op


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What the search asks of a node again and again.

    busy   seconds that each machine computes, per option: f64[options, machines]
    spent  seconds of the node itself, per option
    """

    node: Node
    access: Access
    itemsize: int
    kind: Kind
    busy: np.ndarray
    spent: np.ndarray


class Shared:
    """What all searches of a graph on one cluster have in common, whichever machines each layer may use."""

    def __init__(self) -> None:
        self.nests: dict[object, Nest] = {}
        self.blocks: dict[object, Block] = {}
        self.kinds: dict[object, Kind] = {}
        self.spent: dict[object, tuple[np.ndarray, np.ndarray]] = {}  # of blocks, and of kinds
        self.edges: dict[object, np.ndarray] = {}  # likewise
        self.crossing: dict[
            object, np.ndarray
        ] = {}  # elements from machine to machine, of two options: see estimate.py

    def seconds(self, have: Kind, its: Kind, i: int, itemsize: int, wires: Wires) -> np.ndarray:
        """Seconds to bring a value to input `i` of a reader (-1: to where it lies itself), put together from those of blocks."""
        rows = []
        for block, taken in have.blocks:
            row = [self._of_blocks(block, b, i, itemsize, wires)[np.ix_(taken, those)] for b, those in its.blocks]
            rows.append(np.concatenate(row, axis=1))
        return np.concatenate(rows)

    def _of_blocks(self, have: Block, its: Block, i: int, itemsize: int, wires: Wires) -> np.ndarray:
        key = (have, its, i, itemsize)
        if key not in self.edges:
            self.edges[key] = edge_seconds(have.lies, its.wants(i), itemsize, wires)
        return self.edges[key]


def paces(cluster: Cluster, op: Op) -> tuple[np.ndarray, ...]:
    """Of each machine: flops per second, bytes per second, seconds per call, and whether these are measured (then their times
    add up). A machine with a faster unit that has a kernel for the op counts as that."""
    rows = []
    for machine in cluster.machines:
        rate = pace(machine, op).rate
        unit = max(machine.units, key=lambda u: u.flops, default=None) if op.cuda is not None else None
        if unit is not None and unit.flops > machine.flops:
            rows.append((unit.flops, unit.bytes_per_s, unit.overhead_s, False))
        elif rate is not None:
            rows.append((rate.flops_per_s, rate.bytes_per_s, rate.overhead_s, True))
        else:
            rows.append((machine.flops, machine.bytes_per_s, machine.overhead_s, False))
    return tuple(np.array(column) for column in zip(*rows, strict=True))
