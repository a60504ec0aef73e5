"""fused: a run of element-wise ops as one kernel. Made by the pass `fuse`; users never write it.

`body` is the text of a small element-wise graph: inputs x0, x1, ... , one output y, of the fused node's own types. The NumPy
kernel walks over the rows in blocks that stay in the cache, so that no intermediate value goes to memory; every element goes
through the same NumPy functions as without fusing, so the result has the same bits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from rainshed.ops.access import WHOLE, Access, Axis, Reach, box_shape
from rainshed.ops.broadcast import broadcast_to
from rainshed.ops.cuda import Launches
from rainshed.ops.elementwise import ELEMENTWISE, astype, where
from rainshed.ops.errors import GraphError
from rainshed.ops.ir import Attrs, Graph, Known, Node
from rainshed.ops.op import REQUIRED, Cost, Op, Tile, Types, constant_op, op
from rainshed.ops.scalar import Line, elementwise, number_text
from rainshed.ops.source import input_op
from rainshed.ops.text import graph_text, parse
from rainshed.ops.types import TensorType, Type, bfloat16, broadcast, fixed

BLOCK = 1 << 13  # elements at a time

BODY_OPS: Mapping[str, Op] = {
    **ELEMENTWISE,
    **{o.name: o for o in (where, astype, broadcast_to, input_op, constant_op)},
}


@lru_cache(maxsize=4096)
def body_of(text: str) -> Graph:
    """The parsed body. Raises GraphError if it holds anything but element-wise ops, or has no output y."""
    graph = parse(text, BODY_OPS)
    if set(graph.outputs) != {"y"} or graph.updates:
        raise GraphError("the body of a fused op has one output, y")
    for name in graph.inputs:
        if not re.fullmatch(r"x\d+", name):
            raise GraphError(f"the body of a fused op reads x0, x1, ...; found {name!r}")
    if any(node.dtype is bfloat16 for node in graph.nodes()):
        raise GraphError("the body of a fused op holds no bfloat16: there is no formula for it")
    return graph


def _infer(types: Types, attrs: Attrs) -> Type:
    leaves, result = _types(attrs["body"])
    for i, t in enumerate(types):
        leaf = leaves.get(f"x{i}")
        if leaf != t:
            raise GraphError(f"fused: input {i} is {t}, but the body reads {leaf or 'nothing there'}")
    if len(leaves) != len(types):
        raise GraphError(f"fused: the body reads {len(leaves)} values, found {len(types)}")
    return result


@lru_cache(maxsize=4096)
def _types(text: str) -> tuple[Mapping[str, Type], Type]:
    """The types of the values that a body reads, by name, and that of its result."""
    body = body_of(text)
    return MappingProxyType({name: leaf.type for name, leaf in body.inputs.items()}), body.outputs["y"].type


def _access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    shape = fixed(output.shape)
    reach = []
    for t in types:
        lead = len(shape) - len(t.shape)
        reach.append(tuple(WHOLE if n == 1 else Reach(lead + i) for i, n in enumerate(t.shape)))
    return Access(
        axes=tuple(Axis(f"b{i}", n) for i, n in enumerate(shape)),
        inputs=tuple(reach),
        output=tuple(Reach(i) for i in range(len(shape))),
    )


def _tile(tile: Tile) -> Mapping[str, Any]:
    return {"body": resized(tile.attrs["body"], tuple(box_shape(r) for r in tile.regions))}


@lru_cache(maxsize=4096)
def resized(text: str, shapes: tuple[tuple[int, ...], ...]) -> str:
    """The body for inputs of other shapes. Broadcasts inside a body are implicit, so only the leaves change."""

    def change(node: Node, inputs: tuple[Node, ...]) -> Node:
        if node.op is input_op:
            return input_op.make((), {**node.attrs, "shape": shapes[int(node.name[1:])]}, node.origin)
        if node.op is broadcast_to:
            raise GraphError("a body with broadcast_to cannot be cut")
        return node.with_inputs(inputs)

    return graph_text(body_of(text).rebuild(change))


def _cost(types: Types, output: Type, attrs: Attrs) -> Cost:
    return Cost(flops=_flops(attrs["body"]))


@lru_cache(maxsize=4096)
def _flops(body: str) -> int:
    return sum(n.op.cost_of(n).flops for n in body_of(body).nodes())


def _cpu(*operands: np.ndarray, body: str) -> None:
    *inputs, out = operands
    nodes = body_of(body).nodes()
    rows = max(1, BLOCK // max(1, math.prod(out.shape[1:])))
    if out.ndim == 0 or out.shape[0] <= rows:
        _block(nodes, inputs, out)
        return
    full = [x.ndim == out.ndim and x.shape[0] == out.shape[0] for x in inputs]
    for start in range(0, out.shape[0], rows):
        part = slice(start, start + rows)
        _block(nodes, [x[part] if cut else x for x, cut in zip(inputs, full, strict=True)], out[part])


def _block(nodes: tuple[Node, ...], inputs: list[np.ndarray], out: np.ndarray) -> None:
    values: dict[Node, np.ndarray] = {}
    for node in nodes:
        if node.op is input_op:
            values[node] = inputs[int(node.name[1:])]
        elif node.op is constant_op:
            values[node] = node.attrs["value"]
        else:
            args = [values[i] for i in node.inputs]
            target = (
                out if node is nodes[-1] else np.empty(np.broadcast_shapes(*(a.shape for a in args)), node.dtype.numpy)
            )
            node.op.cpu(*args, target, **node.attrs)
            values[node] = target


@lru_cache(maxsize=4096)
def lines_of(body: str) -> tuple[Line, ...]:
    """The body as formulas, one per op: the form from which loops for the GPU and the CPU are generated."""
    graph = body_of(body)
    number = {node: int(name[1:]) for name, node in graph.inputs.items()}
    lines: list[Line] = []
    for node in graph.nodes():
        if node in number:
            continue
        if node.op is broadcast_to:  # every value of a loop is one element: its shape is that of the loop
            number[node] = number[node.inputs[0]]
            continue
        value = node.attrs["value"] if node.op is constant_op else None
        if value is not None and value.size != 1:
            raise GraphError(f"the body of a fused op holds single numbers; found a constant of {value.size}")
        formula = (node.op.formula or "") if value is None else number_text(value, node.dtype)
        number[node] = len(graph.inputs) + len(lines)
        lines.append(Line(formula, tuple(number[i] for i in node.inputs), node.dtype))
    if number[graph.outputs["y"]] != len(graph.inputs) + len(lines) - 1:
        lines.append(Line("x0", (number[graph.outputs["y"]],), graph.outputs["y"].dtype))
    return tuple(lines)


def _cuda(types: Types, output: TensorType, attrs: Attrs) -> Launches:
    return elementwise(types, output, lines_of(attrs["body"]))


fused: Op = op(
    name="fused",
    work="elementwise",
    arity=None,
    attrs={"body": REQUIRED},
    infer=_infer,
    access=_access,
    tile=_tile,
    cost=_cost,
    cpu=_cpu,
    cuda=_cuda,
    doc="A run of element-wise ops as one kernel.",
)


def kernel_of(body: Graph, inputs: tuple[Node, ...]) -> Node:
    """The fused node of a body of checked nodes: what `fused.make` gives for its text, which is not read again.

    In  the body reads x0, x1, ... of the types of `inputs`, and gives y
    """
    y, text = body.outputs["y"], graph_text(body)
    flops = sum(n.op.cost_of(n).flops for n in body.nodes())
    cost = Cost(flops, sum(value.type.nbytes for value in inputs) + y.type.nbytes)
    return Node(op=fused, inputs=inputs, type=y.type, attrs=MappingProxyType({"body": text}), known=Known(cost=cost))


def is_fusable(node: Node) -> bool:
    """Whether a node may be part of a body: element-wise, all sizes known, no bfloat16 (which no formula takes)."""
    if node.op.name not in ELEMENTWISE and node.op not in (where, astype):
        return False
    if node.op is astype and bfloat16 in (node.dtype, node.inputs[0].dtype):
        return False
    return isinstance(node.type, TensorType) and broadcast("fused", *(i.shape for i in node.inputs)) == node.shape
