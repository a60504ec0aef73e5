"""rematerialize: what backward reads of the forward part is computed a second time instead of being kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from msgspec import structs

from rainshed.compiler.cost import WEIGHTLESS
from rainshed.compiler.limits import memory_there
from rainshed.compiler.passes.schedule import late_last
from rainshed.compiler.setting import Setting
from rainshed.ops.ir import Graph, Node, users
from rainshed.ops.source import pick_op

TRIED = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # segments


def rematerialize(graph: Graph, setting: Setting) -> Graph:
    """Cut the forward part into `setting.segments` pieces, of each of which backward reads about as many bytes. Kept are the last
    of them and what a later one reads; the rest is computed a second time, when backward comes to it. One segment: no change.

    In      gradients are in the graph; the nodes that `differentiate` made say so in their origin
    Out     the same values, bit for bit; backward reads of the forward part only what is kept, or a second node, whose
            `origin.again` is true: `schedule` puts it just before its first reader
    Source  Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv:1604.06174, section 4
    """
    if setting.segments < 2:
        return graph
    segment = _segments(graph, setting.segments)
    kept = _kept(graph, segment)
    backward: dict[Node, Node] = {}  # a node -> the one that backward reads

    def change(node: Node, inputs: tuple[Node, ...]) -> Node:
        if node.origin.backward:
            backward[node] = node.with_inputs(backward[i] for i in node.inputs)
            return backward[node]
        made = node.with_inputs(inputs)
        backward[node] = made
        if node in segment and node not in kept:
            again = structs.replace(node.origin, backward=True, again=True)
            backward[node] = node.alike(tuple(backward[i] for i in node.inputs), again)
        return made

    return graph.rebuild(change)


def worth_trying(graph: Graph, setting: Setting) -> Iterator[Graph]:
    """The graph with more and more segments: each needs less memory than those before it, for more work; none that needs more
    than all machines together have."""
    most = sum(map(memory_there, setting.cluster.machines)) - sum(v.type.nbytes for v in graph.variables.values())
    least = min(live_nbytes(graph), most)
    for segments in TRIED:
        found = rematerialize(graph, replace(setting, segments=segments))
        needed = live_nbytes(found)
        if needed < least:
            least = needed
            yield found


def second_flops(graph: Graph) -> int:
    """Operations per step that are done a second time."""
    return sum(node.op.cost_of(node).flops for node in graph.nodes() if node.origin.again)


def live_nbytes(graph: Graph) -> int:
    """The most bytes that are alive at once when the graph runs in its own order; leaves are not counted."""
    order = late_last(list(graph.nodes()))
    last = {_held(value): i for i, node in enumerate(order) for value in (node, *node.inputs)}
    last |= {_held(root): len(order) for root in graph.roots}
    ends: dict[int, int] = {}
    alive = most = 0
    for i, node in enumerate(order):
        if node.op.name not in WEIGHTLESS:
            alive += node.type.nbytes
            ends[last[node]] = ends.get(last[node], 0) + node.type.nbytes
        most = max(most, alive)
        alive -= ends.pop(i, 0)
    return most


def _held(node: Node) -> Node:
    """The node whose bytes a value is: an item of a tuple is not a copy."""
    return node.inputs[0] if node.op is pick_op else node


def _segments(graph: Graph, count: int) -> dict[Node, int]:
    """The segment of every node of the forward part, leaves apart.

    Cuts are where few bytes cross, near those places where each segment would have an even share of what backward reads.
    """
    nodes = _forward(graph)
    readers = users(graph.nodes())
    read = [node.type.nbytes if any(r.origin.backward for r in readers[node]) else 0 for node in nodes]
    so_far = list(accumulate(read))
    if not so_far or not so_far[-1]:
        return {}
    crossing = _crossing(nodes, readers)
    share = so_far[-1] / count
    cuts = []
    for j in range(1, count):
        near = [i for i, nbytes in enumerate(so_far) if abs(nbytes - j * share) <= share / 2] or [
            min(range(len(nodes)), key=lambda i: abs(so_far[i] - j * share))
        ]
        cuts.append(min(near, key=lambda i: (crossing[i], abs(so_far[i] - j * share), i)))
    found: dict[Node, int] = {}
    for i, node in enumerate(nodes):
        held = _held(node)
        found[node] = found[held] if held is not node else sum(cut < i for cut in set(cuts))
    return found


def _forward(graph: Graph) -> list[Node]:
    """Nodes that are not leaves, and need nothing of backward."""
    after: set[Node] = set()
    found = []
    for node in graph.nodes():
        if node.origin.backward or any(i in after for i in node.inputs):
            after.add(node)
        elif node.inputs:
            found.append(node)
    return found


def _crossing(nodes: Sequence[Node], readers: Mapping[Node, Sequence[Node]]) -> list[int]:
    """Behind each node: bytes of values made up to it that nodes of the list after it read."""
    at = {node: i for i, node in enumerate(nodes)}
    change = [0] * (len(nodes) + 1)
    for i, node in enumerate(nodes):
        last = max((at[r] for r in readers[node] if r in at), default=i)
        change[i] += node.type.nbytes
        change[last] -= node.type.nbytes
    return list(accumulate(change[:-1]))


def _kept(graph: Graph, segment: Mapping[Node, int]) -> set[Node]:
    """What backward reads as forward made it: the last segment, what a later segment reads, and what is asked for."""
    last = max(segment.values(), default=0)
    kept = {node for node, i in segment.items() if i == last}
    kept.update(root for root in graph.roots if root in segment)
    for node, i in segment.items():
        kept.update(value for value in node.inputs if segment.get(value, i) != i)
    kept.update([_held(node) for node in kept])
    return kept
