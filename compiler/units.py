"""Host or unit: which nodes of a machine run on its GPU, and where its variables live.

A node goes to the unit where that makes the machine's step shorter: its kernel there and the copies that this makes or saves,
against its kernel on the host. A value is copied once for all its readers on the other side; what a step gives out, sends or
is fed, passes through the host; variables and constants live where it costs least, and do not cross each step.

Method  moves of single nodes while they gain, from two starts (all on the host, all on the unit); the better end is taken
"""

from __future__ import annotations

from collections.abc import Mapping

from rainshed.compiler.cost import FREE, copy_seconds, seconds
from rainshed.compiler.machines import Cluster, Unit
from rainshed.ops.access import Box, whole
from rainshed.ops.fused import is_fusable
from rainshed.ops.ir import Device, Graph, Node, users
from rainshed.ops.types import TensorType, TupleType, bfloat16, fixed

HOST = "cpu"
SWEEPS = 6
GAIN_S = 1e-12  # what is less is rounding


def choose_units(graph: Graph, machine_of: Mapping[Node, str], cluster: Cluster) -> dict[Node, str]:
    """The unit of every node; "cpu" is the host. Of several units of a machine the first is used."""
    found = dict.fromkeys(machine_of, HOST)
    for machine in cluster.machines:
        if machine.units:
            found.update(_Choice(graph, machine_of, cluster, machine.name, machine.units[0]).best())
    return found


def can_run(node: Node) -> bool:
    """Whether a unit can hold the node: a variable, or an op with a kernel for it, and nothing in bfloat16."""
    if isinstance(node.type, TupleType) or node.op.name in FREE:
        return False
    if any(isinstance(x.type, TensorType) and x.dtype is bfloat16 for x in (node, *node.inputs)):
        return False
    return node.op.name == "variable" or node.op.cuda is not None


class _Choice:
    """The nodes of one machine, each here (on the host) or there (on the unit)."""

    def __init__(
        self, graph: Graph, machine_of: Mapping[Node, str], cluster: Cluster, machine: str, unit: Unit
    ) -> None:
        self.machine_of, self.machine, self.unit = machine_of, machine, unit
        self.readers = users(graph.nodes())
        self.outputs, self.roots = set(graph.outputs.values()), set(graph.roots)
        self.variables_of: dict[Node, list[Node]] = {}  # a new value -> the variables that get it
        self.updates: dict[Node, list[Node]] = {}
        for name, variable in variables_of(graph).items():
            self.variables_of.setdefault(graph.updates[name], []).append(variable)
            self.updates.setdefault(variable, []).append(graph.updates[name])
        mine = [n for n in graph.nodes() if machine_of[n] == machine]
        self.movable = [n for n in mine if can_run(n)]
        host, there = Device(machine), Device(machine, unit.name)
        self.seconds = {n: (seconds(n, cluster, host), seconds(n, cluster, there)) for n in self.movable}
        overhead_s = (cluster.machine(machine).overhead_s, unit.overhead_s)
        for node in filter(self._fuses, self.movable):
            self.seconds[node] = (self.seconds[node][0] - overhead_s[0], self.seconds[node][1] - overhead_s[1])
        self.on_unit: set[Node] = set()

    def _fuses(self, node: Node) -> bool:
        """Whether the node will be part of its reader's kernel, and so is no call of its own (compiler/passes/fuse.py)."""
        readers = self.readers[node]
        return (
            len(readers) == 1
            and node not in self.roots
            and is_fusable(node)
            and is_fusable(readers[0])
            and readers[0].shape == node.shape
        )

    def best(self) -> dict[Node, str]:
        ends: list[tuple[float, int, set[Node]]] = []
        for start in ((), self.movable):
            self.on_unit = set(start)
            self._improve()
            ends.append((self._total(), len(ends), self.on_unit))
        return dict.fromkeys(min(ends)[2], self.unit.name)

    def _improve(self) -> None:
        for sweep in range(SWEEPS):
            moved = False
            for node in self.movable if sweep % 2 == 0 else reversed(self.movable):
                before = self._around(node)
                self._flip(node)
                if self._around(node) < before - GAIN_S:
                    moved = True
                else:
                    self._flip(node)
            if not moved:
                return

    def _flip(self, node: Node) -> None:
        self.on_unit ^= {node}

    def _around(self, node: Node) -> float:
        """Seconds of all that changes with where one node is."""
        values = dict.fromkeys((node, *node.inputs, *self.updates.get(node, ())))
        return self.seconds[node][node in self.on_unit] + sum(self._copy_s(v) for v in values)

    def _total(self) -> float:
        values = dict.fromkeys(v for n in self.movable for v in (n, *n.inputs))
        return sum(self.seconds[n][n in self.on_unit] for n in self.movable) + sum(self._copy_s(v) for v in values)

    def _copy_s(self, value: Node) -> float:
        """Seconds of the copy between host and unit that a value needs; 0 where nobody reads it on the other side."""
        if value.op.name == "constant":
            return 0.0
        there = value in self.on_unit
        if not self._read_on(value, not there):
            return 0.0
        return copy_seconds(self.unit, value.type.nbytes)

    def _read_on(self, value: Node, unit: bool) -> bool:
        """Whether somebody reads the value on the unit, or else on the host."""
        if not unit and value in self.outputs:
            return True
        for reader in (*self.readers[value], *self.variables_of.get(value, ())):
            there = self.machine_of[reader] == self.machine and reader in self.on_unit
            # What other machines read of this machine's value goes through its host.
            if there == unit and (unit or self.machine_of[value] == self.machine):
                return True
        return False


def variables_of(graph: Graph) -> dict[str, Node]:
    """The name of each update -> the piece of a variable that it gives a new value."""
    pieces = {(n.name, _box(n)): n for n in graph.nodes() if n.op.name == "variable"}
    return {key: pieces[key.rpartition("@")[0], _box(node)] for key, node in graph.updates.items()}


def _box(node: Node) -> Box:
    return node.origin.box if node.origin.box is not None else whole(fixed(node.shape))
