"""repeat: what is computed again sooner than it is read from memory."""

from __future__ import annotations

from rainshed.compiler.passes.fuse_sums import is_summed
from rainshed.compiler.setting import Setting
from rainshed.compiler.units import HOST
from rainshed.ops.fused import is_fusable
from rainshed.ops.ir import Graph, Node, users
from rainshed.ops.types import size_of

LARGE = 1 << 16  # elements of a value that is worth it
CHEAP = 8  # operations for one element that are done again


def repeat(graph: Graph, setting: Setting) -> Graph:
    """Give each reader of a cheap element-wise value one of its own, which `fuse` then puts into the reader's kernel.

    In      every node has a device
    Out     same bits. Repeated are large values that only element-wise ops and sums of their own shape and device read; in all
            they then read less than writing the value and reading it would take, and nothing is kept longer for it than one
            other value of the same size, or is read by the backward part only
    """
    if not setting.fuse:
        return graph
    nodes = graph.nodes()
    readers, roots = users(nodes), set(graph.roots)
    reads: dict[Node, frozenset[Node]] = {}  # of its own shape, if all is fused
    members: dict[Node, tuple[Node, ...]] = {}  # what is then computed for it
    copied: set[Node] = set()
    for node in nodes:
        if not _is_large(node) or not is_fusable(node) or not all(_is_in_rows(v, node) for v in node.inputs):
            continue
        inside = [v for v in dict.fromkeys(node.inputs) if v in members and (v in copied or len(readers[v]) == 1)]
        inside = [v for v in inside if v not in roots and v.device == node.device and v.shape == node.shape]
        own = [v for v in node.inputs if v.shape == node.shape and v not in inside]
        reads[node] = frozenset(own).union(*(reads[v] for v in inside))
        members[node] = tuple(dict.fromkeys([*(m for v in inside for m in members[v]), node]))
        cheap = sum(m.op.cost_of(m).flops for m in members[node]) <= CHEAP * node.tensor_type.size
        if node not in roots and cheap and _pays(node, readers[node], len(reads[node])):
            copied.update(members[node])
    return _rebuilt(graph, copied) if copied else graph


def _is_in_rows(value: Node, node: Node) -> bool:
    """Whether a value is read as it lies, or as rows that repeat: what sums can compute."""
    rows = [n for n in value.shape if n != 1]
    return value.shape == node.shape or tuple(rows) == node.shape[node.ndim - len(rows) :]


def _is_large(node: Node) -> bool:
    on_host = node.device is not None and node.device.unit == HOST
    return on_host and node.op.formula is not None and size_of(node.shape) >= LARGE  # type: ignore[operator]


def _pays(node: Node, readers: list[Node], reads: int) -> bool:
    many = len(readers)
    if many < 2 or many * reads >= reads + 1 + many or (reads > 1 and not node.origin.backward):
        return False
    return all(_takes(reader, node) for reader in readers)


def _takes(reader: Node, value: Node) -> bool:
    if reader.device != value.device or reader.origin.pin != value.origin.pin:
        return False
    return is_summed(reader) or (reader.shape == value.shape and is_fusable(reader))


def _rebuilt(graph: Graph, copied: set[Node]) -> Graph:
    new: dict[Node, Node] = {}

    def read(value: Node) -> Node:
        return (
            value.alike(tuple(map(read, value.inputs)), value.origin, value.device) if value in copied else new[value]
        )

    for node in graph.nodes():
        if node not in copied:
            new[node] = node.with_inputs([read(v) for v in node.inputs])
    return graph.renamed(new)
