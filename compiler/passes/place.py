"""place: every tile gets a device; as little as possible crosses the network."""

from __future__ import annotations

from rainshed.compiler.cost import FREE, seconds
from rainshed.compiler.machines import Cluster
from rainshed.compiler.setting import Setting
from rainshed.compiler.units import HOST, choose_units
from rainshed.ops.ir import Device, Graph, Node, users

SWEEPS = 3
CHEAP = 4.0  # a node is free to move if it takes no more than this many call overheads


def place(graph: Graph, setting: Setting) -> Graph:
    """Give each node a device: the home that `split` cut it for, or a neighbour's machine if that saves bytes; and there the
    host, or a unit where that is faster (compiler/units.py).

    In      every node has a home, and a pin names a machine of the cluster
    Out     every node has a device; pins hold; a gradient or update is where its variable is
    Source  Fiduccia and Mattheyses 1982 (moves by gain), on the bytes between machines
    """
    home = {node: max(0, node.origin.home) for node in graph.nodes()}
    _refine(graph, home, setting.cluster)
    names = setting.cluster.names
    machine_of = {node: names[home[node]] for node in home}
    units = choose_units(graph, machine_of, setting.cluster) if setting.units else {}
    new: dict[Node, Node] = {}
    for node in graph.nodes():
        device = Device(machine_of[node], units.get(node, HOST))
        new[node] = node.with_inputs(new[i] for i in node.inputs).at(device)
    return graph.renamed(new)


def _refine(graph: Graph, home: dict[Node, int], cluster: Cluster) -> None:
    """Move cheap nodes (slices, blocks, sums of few elements) to where fewer bytes cross, in sweeps, while it helps."""
    readers = users(graph.nodes())
    fixed_nodes = {*graph.roots, *(n for n in graph.nodes() if n.op.name in FREE or n.op.name == "variable")}
    fixed_nodes |= {n for n in graph.nodes() if n.origin.pin is not None or n.op.name == "pick"}
    fixed_nodes |= {i for n in graph.nodes() if n.op.name == "pick" for i in n.inputs}
    machine = cluster.machines[0]
    limit = CHEAP * machine.overhead_s
    movable = [
        n
        for n in graph.nodes()
        if n not in fixed_nodes and n.inputs and seconds(n, cluster, Device(machine.name)) <= limit
    ]
    for _ in range(SWEEPS):
        moved = False
        for node in movable:
            options = {home[i] for i in node.inputs if i.op.name not in FREE} | {home[r] for r in readers[node]}
            if options <= {home[node]}:
                continue
            here = _crossing(node, home[node], home, readers)
            best = min(sorted(options), key=lambda m: _crossing(node, m, home, readers))
            if _crossing(node, best, home, readers) < here:
                home[node], moved = best, True
        if not moved:
            return


def _crossing(node: Node, at: int, home: dict[Node, int], readers: dict[Node, list[Node]]) -> int:
    """Bytes that cross into and out of a node at a machine; a value crosses once to each machine."""
    total = node.type.nbytes * len({home[r] for r in readers[node]} - {at})
    for value in dict.fromkeys(node.inputs):
        if value.op.name in FREE:
            continue
        elsewhere = {home[r] for r in readers[value] if r is not node} | {at}
        total += value.type.nbytes * len(elsewhere - {home[value]})
    return total
