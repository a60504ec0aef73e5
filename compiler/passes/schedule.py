"""schedule: one order of all nodes, from which each machine takes its own: sends early, receives late, values freed early."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from rainshed.compiler.cost import Clock
from rainshed.compiler.machines import Cluster
from rainshed.compiler.setting import Setting
from rainshed.ops.assemble import assemble
from rainshed.ops.ir import Graph, Node, numbered, users
from rainshed.ops.op import constant_op
from rainshed.ops.slice import slice_op
from rainshed.ops.source import input_op, variable_op
from rainshed.ops.transfer import recv, send

CUT = (slice_op, assemble)
LATE = (recv, constant_op, input_op)  # cost nothing until they are read


def schedule(graph: Graph, setting: Setting, *, slices: bool = False) -> list[Node]:
    """The nodes in an order in which every machine can run its own part, one after the other, without waiting for ever.

    slices  whether of several slices of a batch the first is sent before the second is computed (see `_remote`)

    In      every node has a device; edges cross machines only from send to recv
    Out     every node once, inputs first; a send directly follows its value; a recv, and what is computed a second time, directly
            precedes its first reader; a new value of a variable, read by nobody here, follows all readers of the old one, so that
            it can be written in its place
    With `thrifty` the order is that of the graph, depth first: what other machines wait for does not go before the rest, so that
    fewer values are alive at once.

    Source  list scheduling by rank: Topcuoglu et al. 2002 (HEFT); receives as late as possible: Abadi et al. 2015, section 5.2
    """
    order = list(graph.nodes()) if setting.thrifty else _ranked(graph, setting.cluster, slices)
    return late_last(_early_sends(_late_updates(graph, order)))


def _ranked(graph: Graph, cluster: Cluster, slices: bool) -> list[Node]:
    """Topological order. Among ready nodes: those that another machine waits for, by the length of what hangs on them; then as
    the graph was walked, which is depth first and so frees values early."""
    nodes = graph.nodes()
    reads, readers = numbered(nodes)
    remote = _remote(nodes, readers, cluster, slices)
    waiting = [len(values) for values in reads]
    ready = [(-remote[i], i) for i in range(len(nodes)) if not waiting[i]]
    heapq.heapify(ready)
    order: list[Node] = []
    while ready:
        _, i = heapq.heappop(ready)
        order.append(nodes[i])
        for reader in readers[i]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, (-remote[reader], reader))
    return order


def _remote(nodes: Sequence[Node], readers: list[list[int]], cluster: Cluster, slices: bool) -> list[float]:
    """For each node, seconds on the longest way from it through a send; 0 where there is none.

    With `slices`, what this machine computes before the send is left out, as for jobs on one machine that differ in the time
    that follows (Jackson 1955). Otherwise the product of the second slice would go before the sum and the sending of the first,
    for which the next machine waits.
    """
    clock = Clock(cluster)
    remote = [0.0] * len(nodes)
    tail = [0.0] * len(nodes)  # on the longest way at all
    for i in range(len(nodes) - 1, -1, -1):
        node, after = nodes[i], 0.0
        assert node.device is not None
        own = clock.seconds(node, node.device)
        far = 0.0
        for reader in readers[i]:
            after = max(after, tail[reader])
            far = max(far, remote[reader])
        tail[i] = own + after
        if node.op is send:
            wait = cluster.link(node.device.machine, node.attrs["to"]).seconds(node.type.nbytes)
            remote[i] = wait + after
        elif far:
            remote[i] = far if slices else far + own
    return remote


def _late_updates(graph: Graph, order: list[Node]) -> list[Node]:
    moved = set(graph.updates.values())
    at = {node: i for i, node in enumerate(order)}
    last = {}  # a variable -> where its last reader stands that is no new value
    for i, node in enumerate(order):
        if node in moved:
            continue
        for value in node.inputs:
            if value.op is variable_op:
                last[value] = i
            if value in moved:
                moved.discard(value)
    late: dict[int, list[Node]] = {}
    for node in moved:
        until = max((last.get(v, -1) for v in node.inputs if v.op is variable_op), default=-1)
        if until > at[node]:
            late.setdefault(until, []).append(node)
    if not late:
        return order
    waiting = {node for group in late.values() for node in group}
    found: list[Node] = []
    for i, node in enumerate(order):
        if node not in waiting:
            found.append(node)
        found.extend(sorted(late.get(i, ()), key=at.__getitem__))
    return found


def _early_sends(order: list[Node]) -> list[Node]:
    sends: dict[Node, list[Node]] = {}
    for node in order:
        if node.op is send:
            sends.setdefault(node.inputs[0], []).append(node)
    found: list[Node] = []
    for node in order:
        if node.op is not send:
            found.append(node)
            found.extend(sends.get(node, ()))
    return found


def late_last(order: list[Node]) -> list[Node]:
    """Move what can wait to just before its first reader: every node that costs nothing until it is read (recv, leaves), and what
    is computed a second time to save memory, with what it is sent by."""
    late = {n for n in order if n.op in LATE}
    sends: dict[Node, list[Node]] = {}
    if any(n.origin.again for n in order):
        _add_second(order, late, sends)
    placed: set[Node] = set()
    found: list[Node] = []

    def place(node: Node) -> None:
        stack = [node]
        while stack:
            waiting = [v for v in stack[-1].inputs if v in late and v not in placed]
            if waiting:
                stack += reversed(waiting)
                continue
            done = stack.pop()
            if done not in placed:
                following = (done, *sends.get(done, ()))
                placed.update(following)
                found.extend(following)

    for node in order:
        if node in late:
            continue
        for value in node.inputs:
            if value in late and value not in placed:
                place(node)
                break
        else:
            if sends:
                place(node)
            else:  # most nodes
                placed.add(node)
                found.append(node)
    for node in order:
        if node not in placed:
            place(node)
    return found


def _add_second(order: list[Node], late: set[Node], sends: dict[Node, list[Node]]) -> None:
    """To what can wait: second computations, the pieces that are cut for these alone, and their sends (by value)."""
    readers = users(order)
    second: set[Node] = set()
    for node in reversed(order):
        if node.origin.again or (node.op in CUT and readers[node] and all(r in second for r in readers[node])):
            second.add(node)
            sends[node] = [r for r in readers[node] if r.op is send]
            late.update((node, *sends[node]))
