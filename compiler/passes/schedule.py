"""schedule: one order of all nodes, from which each machine takes its own: sends early, receives late, values freed early."""

from __future__ import annotations

import heapq

from rainshed.compiler.cost import seconds
from rainshed.compiler.machines import Cluster
from rainshed.compiler.setting import Setting
from rainshed.ops.ir import Graph, Node, users


def schedule(graph: Graph, setting: Setting) -> list[Node]:
    """The nodes in an order in which every machine can run its own part, one after the other, without waiting for ever.

    In      every node has a device; edges cross machines only from send to recv
    Out     every node once, inputs first; a send directly follows its value, a recv directly precedes its first reader
    Source  list scheduling by rank: Topcuoglu et al. 2002 (HEFT); receives as late as possible: Abadi et al. 2015, section 5.2
    """
    order = _ranked(graph, setting.cluster)
    return _late_receives(_early_sends(order), graph)


def _ranked(graph: Graph, cluster: Cluster) -> list[Node]:
    """Topological order. Among ready nodes: those that another machine waits for, by the length of what hangs on them; then as
    the graph was walked, which is depth first and so frees values early."""
    nodes = graph.nodes()
    readers = users(nodes)
    place = {node: i for i, node in enumerate(nodes)}
    remote: dict[Node, float] = {}  # seconds on the longest way from a node through a send
    tail: dict[Node, float] = {}
    for node in reversed(nodes):
        assert node.device is not None
        own = seconds(node, cluster, node.device)
        tail[node] = own + max((tail[r] for r in readers[node]), default=0.0)
        through = [remote[r] for r in readers[node]]
        if node.op.name == "send":
            target = readers[node][0].device
            assert target is not None
            wait = cluster.link(node.device.machine, target.machine).seconds(node.type.nbytes)
            remote[node] = wait + max((tail[r] for r in readers[node]), default=0.0)
        else:
            remote[node] = max(through, default=0.0) + (own if any(through) else 0.0)
    waiting = {node: len(set(node.inputs)) for node in nodes}
    ready = [(-remote[n], place[n]) for n in nodes if not waiting[n]]
    heapq.heapify(ready)
    order: list[Node] = []
    while ready:
        _, i = heapq.heappop(ready)
        node = nodes[i]
        order.append(node)
        for reader in readers[node]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, (-remote[reader], place[reader]))
    return order


def _early_sends(order: list[Node]) -> list[Node]:
    sends: dict[Node, list[Node]] = {}
    for node in order:
        if node.op.name == "send":
            sends.setdefault(node.inputs[0], []).append(node)
    found: list[Node] = []
    for node in order:
        if node.op.name != "send":
            found.append(node)
            found.extend(sends.get(node, ()))
    return found


def _late_receives(order: list[Node], graph: Graph) -> list[Node]:
    """Move every node that costs nothing until it is read (recv, leaves) to just before its first reader."""
    late = {n for n in order if n.op.name in ("recv", "constant", "input")}
    placed: set[Node] = set()
    found: list[Node] = []
    for node in order:
        if node in late:
            continue
        for value in dict.fromkeys(node.inputs):
            if value in late and value not in placed:
                placed.add(value)
                found.append(value)
        found.append(node)
    found.extend(n for n in order if n in late and n not in placed)
    return found
