"""place: every tile gets a device; as little as possible crosses the network."""

from __future__ import annotations

from rainshed.compiler.cost import FREE, Clock
from rainshed.compiler.derived import derived
from rainshed.compiler.machines import Cluster
from rainshed.compiler.setting import Setting
from rainshed.compiler.units import HOST, choose_units
from rainshed.ops.ir import Device, Graph, Node, numbered

SWEEPS = 3
CHEAP = 4.0  # a node is free to move if it takes no more than this many call overheads


def place(graph: Graph, setting: Setting) -> Graph:
    """Give each node a device: the home that `split` cut it for, or a neighbour's machine if that saves bytes; and there the
    host, or a unit where that is faster (compiler/units.py).

    In      every node has a home, and a pin names a machine of the cluster
    Out     every node has a device; pins hold; a gradient or update is where its variable is
    Source  Fiduccia and Mattheyses 1982 (moves by gain), on the bytes between machines
    """
    nodes = graph.nodes()
    home = _Refinement(graph, setting.cluster).run()
    names = setting.cluster.names
    machine_of = {node: names[m] for node, m in zip(nodes, home, strict=True)}
    units = choose_units(graph, machine_of, setting.cluster) if setting.units else {}
    devices: dict[tuple[str, str], Device] = {}
    new: dict[Node, Node] = {}
    for node in nodes:
        where = (machine_of[node], units.get(node, HOST))
        device = devices.get(where)
        if device is None:
            device = devices[where] = Device(*where)
        new[node] = node.placed([new[i] for i in node.inputs], device)
    return graph.renamed(new, same_order=True)


class _Refinement:
    """Moves cheap nodes (slices, blocks, sums of few elements) to where fewer bytes cross, in sweeps, while it helps.

    Nodes are numbers here: their places in the graph's order. `at_home[v]` counts the readers of a value by their homes.
    """

    def __init__(self, graph: Graph, cluster: Cluster) -> None:
        self.nodes = graph.nodes()
        reads, _ = numbered(self.nodes)
        self.home = [max(0, node.origin.home) for node in self.nodes]
        anywhere = derived(self.nodes)
        self.free = [node.op.name in FREE or node in anywhere for node in self.nodes]
        self.inputs = [[v for v in values if not self.free[v]] for values in reads]
        self.at_home: list[dict[int, int]] = [{} for _ in self.nodes]
        for reader, values in enumerate(self.inputs):
            at = self.home[reader]
            for v in values:
                self.at_home[v][at] = self.at_home[v].get(at, 0) + 1
        types = {id(node.type): node.type for node in self.nodes}  # far fewer than nodes
        nbytes = {key: type.nbytes for key, type in types.items()}
        self.nbytes = [nbytes[id(node.type)] for node in self.nodes]
        self.movable = self._movable(set(graph.roots), cluster)

    def _movable(self, held: set[Node], cluster: Cluster) -> list[int]:
        """`held`: what stays where it is, in any case."""
        for node in self.nodes:
            if node.op.name in FREE or node.op.name in ("variable", "pick") or node.origin.pin is not None:
                held.add(node)
            if node.op.name == "pick":
                held.update(node.inputs)
        machine, clock = cluster.machines[0], Clock(cluster)
        limit, device = CHEAP * machine.overhead_s, Device(machine.name)
        return [i for i, n in enumerate(self.nodes) if n.inputs and n not in held and clock.seconds(n, device) <= limit]

    def run(self) -> list[int]:
        """The home of every node."""
        for _ in range(SWEEPS):
            moved = False
            for node in self.movable:
                moved |= self._move(node)
            if not moved:
                break
        return self.home

    def _move(self, node: int) -> bool:
        home, here, readers = self.home, self.home[node], self.at_home[node]
        options = {home[v] for v in self.inputs[node]}
        options.update(readers)
        if options <= {here}:
            return False
        bytes_at = {m: self._crossing(node, m) for m in sorted({*options, here})}
        best = min(sorted(options), key=bytes_at.__getitem__)
        if bytes_at[best] >= bytes_at[here]:
            return False
        home[node] = best
        for v in self.inputs[node]:
            counts = self.at_home[v]
            counts[best] = counts.get(best, 0) + 1
            counts[here] -= 1
            if not counts[here]:
                del counts[here]
        return True

    def _crossing(self, node: int, at: int) -> int:
        """Bytes that cross into and out of a node at a machine, but for those that cross wherever it is.

        A value crosses once to each machine.
        """
        here = self.home[node]
        total = -self.nbytes[node] if at in self.at_home[node] else 0
        for v in self.inputs[node]:
            if at != self.home[v] and self.at_home[v].get(at, 0) <= (at == here):
                total += self.nbytes[v]
        return total
