"""fuse_sums: large sums, and the element-wise values that only they read, become one kernel."""

from __future__ import annotations

import math

from rainshed.compiler.setting import Setting
from rainshed.compiler.units import HOST
from rainshed.ops.broadcast import sum_to
from rainshed.ops.fused import fused, is_fusable
from rainshed.ops.fused_sum import fused_sum, is_read_in_rows, sizes_of
from rainshed.ops.ir import Graph, Node, users
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.source import input_op
from rainshed.ops.text import graph_text
from rainshed.ops.types import fixed, float32

LARGE = 1 << 16  # elements that are added up; what is smaller is part of a longer run of machine code
COLUMNS = 16  # sums side by side, at least


def fuse_sums(graph: Graph, setting: Setting) -> Graph:
    """Let large sums over neighbouring axes be added up in vectors, by all threads, while what is added up is computed.

    In      every node has a device
    Out     such a sum is a fused_sum; the value it alone read, on its device, is no longer a node
    """
    if not setting.fuse:
        return graph
    nodes = graph.nodes()
    readers, roots = users(nodes), set(graph.roots)
    inside = {node.inputs[0] for node in nodes if is_summed(node) and _is_inside(node, readers, roots)}
    new: dict[Node, Node] = {}
    for node in nodes:
        if node in inside:
            continue
        new[node] = _kernel(node, inside, new) if is_summed(node) else node.with_inputs([new[v] for v in node.inputs])
    return graph.renamed(new)


def is_summed(node: Node) -> bool:
    """Whether the node is a sum that becomes a fused_sum."""
    if node.op not in (sum_, sum_to) or node.dtype is not float32 or node.device is None or node.device.unit != HOST:
        return False
    shape, axis = fixed(node.inputs[0].shape), _axes(node)
    if math.prod(shape) < LARGE or not axis or axis != tuple(range(axis[0], axis[-1] + 1)):
        return False
    if node.shape not in (_without(shape, axis), tuple(1 if i in axis else n for i, n in enumerate(shape))):
        return False
    return sizes_of(shape, axis)[2] >= COLUMNS


def _axes(node: Node) -> tuple[int, ...]:
    if node.op is sum_:
        return tuple(node.attrs["axis"])
    shape, lead = node.inputs[0].shape, node.inputs[0].ndim - node.ndim
    return tuple(i for i, n in enumerate(shape) if i < lead or node.shape[i - lead] != n)


def _without(shape: tuple[int, ...], axis: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for i, n in enumerate(shape) if i not in axis)


def _is_inside(node: Node, readers: dict[Node, list[Node]], roots: set[Node]) -> bool:
    """Whether what the sum adds up can be computed meanwhile."""
    (value,) = node.inputs
    if len(readers[value]) > 1 or value in roots or value.device != node.device or value.origin.pin != node.origin.pin:
        return False
    if value.op is not fused and not (value.op.formula is not None and is_fusable(value)):
        return False
    shape, axis = fixed(value.shape), _axes(node)
    return all(v.dtype is float32 and is_read_in_rows(fixed(v.shape), shape, axis) for v in value.inputs)


def _kernel(node: Node, inside: set[Node], new: dict[Node, Node]) -> Node:
    (value,) = node.inputs
    inputs = tuple(dict.fromkeys(value.inputs)) if value in inside else (value,)
    attrs = {"body": _body(value, inputs, value in inside), "axis": _axes(node), "keepdims": node.ndim == value.ndim}
    return fused_sum.make(tuple(new[v] for v in inputs), attrs, node.origin, node.device)


def _body(value: Node, inputs: tuple[Node, ...], computed: bool) -> str:
    if computed and value.op is fused:
        body: str = value.attrs["body"]
        return body
    leaves = {v: input_op.make((), {"name": f"x{i}", "shape": v.shape, "dtype": v.dtype}) for i, v in enumerate(inputs)}
    y = value.alike(tuple(leaves[v] for v in value.inputs), value.origin) if computed else leaves[value]
    return graph_text(Graph({"y": y}))
