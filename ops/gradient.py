"""Gradients as graphs: reverse accumulation over nodes.

Source  Griewank and Walther, Evaluating Derivatives, 2008, chapter 3
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from msgspec import structs

from rainshed.ops.broadcast import broadcast_to
from rainshed.ops.elementwise import add, astype
from rainshed.ops.errors import GraphError
from rainshed.ops.ir import Node, on_behalf, walk
from rainshed.ops.op import constant_op
from rainshed.ops.types import TensorType, TupleType, bfloat16, float32


def gradients(loss: Node, wrt: Iterable[Node]) -> list[Node]:
    """One node per value of `wrt`: the gradient of the loss, of the value's own type, or float32 for one of bfloat16, whose
    gradients are added up in it. The loss must be one float number.

    Where the loss does not depend on a value, or only through ops without a gradient, the gradient is zero.
    """
    wrt = tuple(wrt)
    if not isinstance(loss.type, TensorType) or loss.dtype.kind != "float" or loss.shape != ():
        raise GraphError(
            f"a loss is one float number; found {loss.type}", built_at=loss.origin, hint="take rs.mean or rs.sum of it"
        )
    order = walk([loss])
    needed = _depends_on(order, set(wrt))
    with on_behalf(structs.replace(loss.origin, backward=True)):
        seed = constant_op(value=np.ones((), loss.dtype.numpy))
    arriving: dict[Node, list[Node]] = {loss: [seed]}
    picked: dict[Node, dict[int, Node]] = {}
    final: dict[Node, Node] = {}
    for node in reversed(order):
        if node not in needed:
            continue
        with on_behalf(structs.replace(node.origin, backward=True)):
            if isinstance(node.type, TupleType):
                if node not in picked:
                    continue
                slots = picked[node]
                total = tuple(slots[i] if i in slots else zeros(item) for i, item in enumerate(node.type.items))
                parts = node.op.grad(node, *total) if node.op.grad else ()
            elif node not in arriving:
                continue
            else:
                dy = _total(arriving.pop(node))
                final[node] = dy
                if node.op.name == "pick":
                    slot = picked.setdefault(node.inputs[0], {})
                    index = node.attrs["index"]
                    slot[index] = add(slot[index], dy) if index in slot else dy
                    continue
                parts = node.op.grad(node, dy) if node.op.grad and node.inputs else ()
        for value, part in zip(node.inputs, parts, strict=False):
            if part is None or value not in needed:
                continue
            wanted = gradient_type(value)
            if part.dtype != wanted.dtype and part.dtype.kind == wanted.dtype.kind == "float":
                with on_behalf(structs.replace(node.origin, backward=True)):
                    part = astype(part, dtype=wanted.dtype)  # the op had promoted its input
            if part.type != wanted:
                raise GraphError(
                    f"the gradient of {node.op.name} for {value.type} has type {part.type}", built_at=node.origin
                )
            arriving.setdefault(value, []).append(part)
    with on_behalf(structs.replace(loss.origin, backward=True)):
        return [final[v] if v in final else zeros(gradient_type(v)) for v in wrt]


def _depends_on(order: tuple[Node, ...], wrt: set[Node]) -> set[Node]:
    found: set[Node] = set()
    for node in order:
        if node in wrt or any(i in found for i in node.inputs):
            found.add(node)
    return found


def gradient_type(value: Node) -> TensorType:
    """The type of a value's gradient."""
    return TensorType(float32, value.shape) if value.dtype is bfloat16 else value.tensor_type


def _total(parts: list[Node]) -> Node:
    total = parts[0]
    for part in parts[1:]:
        total = add(total, part)
    return total


def zeros(type: TensorType) -> Node:
    """A value of this type that is zero everywhere."""
    zero = constant_op(value=np.zeros((), type.dtype.numpy))
    return zero if type.shape == () else broadcast_to(zero, shape=type.shape)
