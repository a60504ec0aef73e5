"""join_products: products of many values by one weight, ready at once, become one product of all their rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msgspec import structs

from rainshed.compiler.setting import Setting
from rainshed.compiler.units import HOST
from rainshed.ops.ir import Graph, Node, Origin, users
from rainshed.ops.layout import concat_op
from rainshed.ops.matmul import matmul, matmul_nt
from rainshed.ops.slice import take_range
from rainshed.ops.types import fixed

FEW_ROWS = 128  # a product of more has long read its weight fast enough


@dataclass(frozen=True, slots=True)
class Member:
    """One product; `result` is the product itself, or its sum over leading axes, which alone reads it."""

    product: Node
    result: Node


def join_products(graph: Graph, setting: Setting) -> Graph:
    """Put the rows of products by one matrix below each other where no product waits for another one.

        matmul(x0, w), matmul(x1, w), ...    matmul(concat(x0, x1, ...), w), and a slice of it for each

    A product of few rows takes as long as reading its weight. In a recurrent network these are the products of the inputs of
    all time steps, and the gradients of these inputs.

    In      every node has a device
    Out     the same function, rows of sums in the same order; with several machines nothing changes: there a step is sent on
            while the next is computed
    """
    if not setting.fuse or setting.thrifty or len(setting.cluster.machines) > 1:
        return graph
    candidates = [group for group in _candidates(graph) if len(group) > 1]
    if not candidates:
        return graph
    readers = users(graph.nodes())
    joined: dict[Node, Sequence[Member]] = {}  # products and results -> all members of their group
    for group in candidates:
        if not _reaches_itself(group, readers, joined):
            joined.update((node, group) for m in group for node in (m.product, m.result))
    return _rebuilt(graph, joined)


def _candidates(graph: Graph) -> Iterable[list[Member]]:
    """Products of one form by one weight, in the order of the graph."""
    nodes, roots = graph.nodes(), set(graph.roots)
    readers = users(nodes)
    groups: dict[object, list[Member]] = {}
    for node in nodes:
        if node.op not in (matmul, matmul_nt) or node.device is None or node.device.unit != HOST:
            continue
        (a, b), result = node.inputs, node
        if a is b or not 0 < fixed(a.shape)[-2] <= FEW_ROWS or a.ndim < b.ndim - 1:
            continue
        if len(readers[node]) == 1 and node not in roots and _sums_leading(readers[node][0], node):
            (result,) = readers[node]
        key = (node.op, id(b), a.type, b.type, node.device, node.origin.pin, result is node, result.type)
        groups.setdefault(key, []).append(Member(node, result))
    return groups.values()


def _sums_leading(reader: Node, value: Node) -> bool:
    lead = value.ndim - reader.ndim
    rows_stay = reader.ndim >= 2 and lead > 0 and value.shape[lead:] == reader.shape
    return reader.op.name == "sum_to" and rows_stay and reader.device == value.device


def _reaches_itself(
    group: Sequence[Member], readers: dict[Node, list[Node]], joined: dict[Node, Sequence[Member]]
) -> bool:
    """Whether a product of the group waits for another one, also by way of those that are joined already."""
    own = {m.product for m in group}
    waiting, seen = [r for m in group for r in readers[m.result]], set[Node]()
    while waiting:
        node = waiting.pop()
        if node in own:
            return True
        if node in seen:
            continue
        seen.add(node)
        if node in joined:
            seen.update(n for m in joined[node] for n in (m.product, m.result))
            waiting += [r for m in joined[node] for r in readers[m.result]]
        else:
            waiting += readers[node]
    return False


def _rebuilt(graph: Graph, joined: dict[Node, Sequence[Member]]) -> Graph:
    new: dict[Node, Node] = {}
    stack = list(reversed(graph.roots))
    while stack:
        node = stack[-1]
        group = joined.get(node, ())
        reads = [v for m in group for v in m.product.inputs] if group else node.inputs
        missing = [v for v in reads if v not in new] if node not in new else []
        if missing:
            stack += reversed(missing)
            continue
        stack.pop()
        if node in new:
            continue
        if group:
            new.update(_join(group, new))
        else:
            new[node] = node.with_inputs([new[v] for v in node.inputs])
    return graph.renamed(new)


def _join(group: Sequence[Member], new: dict[Node, Node]) -> dict[Node, Node]:
    """Each result of the group -> its rows of the one product."""
    first = group[0]
    device, origin = first.product.device, _common([m.product.origin for m in group])
    a = [new[m.product.inputs[0]] for m in group]
    rows = fixed(a[0].shape)[-2]
    every = concat_op.make(tuple(a), {"axis": a[0].ndim - 2}, origin, device)
    found = first.product.op.make((every, new[first.product.inputs[1]]), {}, origin, device)
    if first.result is not first.product:
        shape = (*fixed(first.result.shape)[:-2], len(group) * rows, first.result.shape[-1])
        found = first.result.op.make((found,), {"shape": shape}, origin, device)
    axis = found.ndim - 2
    parts = {}
    for i, m in enumerate(group):
        part = take_range(found, axis, i * rows, (i + 1) * rows)
        parts[m.result] = part.alike((found,), m.result.origin, device)
    return parts


def _common(origins: Sequence[Origin]) -> Origin:
    """That of the first, in the innermost layer that holds all of them."""
    scopes = [origin.scope.split("/") for origin in origins]
    same = 0
    while all(len(s) > same and s[same] == scopes[0][same] for s in scopes):
        same += 1
    return structs.replace(origins[0], scope="/".join(scopes[0][:same]), of="", box=None)
