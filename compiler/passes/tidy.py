"""tidy: what the backward part only moves about is moved once."""

from __future__ import annotations

from rainshed.compiler.setting import Setting
from rainshed.ops.ir import Graph, Node, users
from rainshed.ops.layout import concat_op
from rainshed.ops.slice import slice_op, unslice
from rainshed.ops.types import fixed

Box = tuple[tuple[int, int], ...]


def tidy(graph: Graph, setting: Setting) -> Graph:
    """Leave out slices of everything, and put parts side by side where they were added up among zeros.

        slice(x, all of it)                        x
        unslice(a) + unslice(b) + unslice(c)       concat(a, b, c), where they fill the whole, next to each other on one axis

    In      every node has a device
    Out     the same function; nothing crosses to another device that did not
    """
    if not setting.fuse:
        return graph
    nodes = graph.nodes()
    readers, roots = users(nodes), set(graph.roots)
    inside: set[Node] = set()
    parts: dict[Node, tuple[Node, ...]] = {}  # a sum -> the unslices that it adds up, all read here alone
    for node in nodes:
        if node.op is unslice:
            parts[node] = (node,)
        elif node.op.name == "add" and all(_alone(v, node, readers, roots) and v in parts for v in node.inputs):
            parts[node] = (*parts[node.inputs[0]], *parts[node.inputs[1]])
    whole = {node: found for node in nodes if len(found := parts.get(node, ())) > 1 and _axis(found) is not None}
    for node in whole:
        inside.update(_within(node, parts))
    new: dict[Node, Node] = {}
    for node in nodes:
        if node in inside:
            continue
        if node in whole:
            new[node] = _side_by_side(node, whole[node], new)
        elif node.op is slice_op and node not in roots and _takes_all(node) and _same_place(node):
            new[node] = new[node.inputs[0]]
        else:
            new[node] = node.with_inputs([new[v] for v in node.inputs])
    return graph.renamed(new)


def _alone(value: Node, reader: Node, readers: dict[Node, list[Node]], roots: set[Node]) -> bool:
    alike = value.type == reader.type and value.device == reader.device and value.origin.pin == reader.origin.pin
    return alike and len(readers[value]) == 1 and value not in roots and reader.inputs.count(value) == 1


def _within(node: Node, parts: dict[Node, tuple[Node, ...]]) -> set[Node]:
    """The sums and unslices that a sum is made of."""
    found, waiting = set[Node](), list(node.inputs)
    while waiting:
        value = waiting.pop()
        found.add(value)
        if value.op is not unslice and value in parts:
            waiting += value.inputs
    return found


def _box(node: Node) -> Box | None:
    """Which elements an unslice fills; None where they do not lie together in their order."""
    if any(step != 1 for step in node.attrs["step"]):
        return None
    return tuple(zip(fixed(node.attrs["start"]), fixed(node.attrs["stop"]), strict=True))


def _axis(parts: tuple[Node, ...]) -> int | None:
    """The axis on which the parts lie side by side, and fill the whole; None where they do not."""
    shape, boxes = fixed(parts[0].shape), [_box(p) for p in parts]
    known = [box for box in boxes if box is not None]
    cut = {i for box in known for i, (n, span) in enumerate(zip(shape, box, strict=True)) if span != (0, n)}
    if len(known) < len(parts) or len(cut) != 1:
        return None
    (axis,) = cut
    end = 0
    for low, high in sorted(box[axis] for box in known):
        if low != end or high == low:
            return None
        end = high
    return axis if end == shape[axis] else None


def _side_by_side(node: Node, parts: tuple[Node, ...], new: dict[Node, Node]) -> Node:
    axis = _axis(parts)
    ordered = sorted(parts, key=lambda p: fixed(p.attrs["start"])[axis or 0])
    return concat_op.make(tuple(new[p.inputs[0]] for p in ordered), {"axis": axis}, node.origin, node.device)


def _takes_all(node: Node) -> bool:
    return node.type == node.inputs[0].type and all(step == 1 for step in node.attrs["step"])


def _same_place(node: Node) -> bool:
    """Leaving the node out leaves nothing where it must not be."""
    (x,) = node.inputs
    return x.device == node.device and x.origin.pin == node.origin.pin
