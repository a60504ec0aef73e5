"""simplify: local rules that make a graph smaller. Each rule's docstring is its equation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rainshed.compiler.passes.fold_products import PRODUCTS
from rainshed.compiler.setting import Setting
from rainshed.ops import CATALOGUE
from rainshed.ops.evaluate import empty, run_kernel
from rainshed.ops.ir import Graph, Node, users
from rainshed.ops.op import constant_op
from rainshed.ops.product import product
from rainshed.ops.types import Batch, TensorType, fixed, size_of

SMALL = 64  # constants up to this many elements are folded; larger ones would only make the plan larger

TURNED = ("matmul", "matrix_transpose")

Rule = Callable[[Node], Node | None]


def _number(node: Node) -> float | None:
    """The one number that a value holds everywhere, if it is known: a constant, or a stretched one."""
    while node.op.name in ("broadcast_to", "reshape"):
        (node,) = node.inputs
    if node.op.name != "constant" or node.attrs["value"].size != 1:
        return None
    return float(node.attrs["value"].reshape(()))


def _stretched(value: Node, like: Node) -> Node:
    return (
        value
        if value.shape == like.shape
        else CATALOGUE["broadcast_to"].make((value,), {"shape": like.shape}, like.origin)
    )


def add_zero(node: Node) -> Node | None:
    """x + 0 = x, 0 + x = x, x - 0 = x"""
    match node:
        case Node(op=op, inputs=(x, y)) if op.name in ("add", "subtract") and _number(y) == 0:
            return _stretched(x, node) if x.dtype == node.dtype else None
        case Node(op=op, inputs=(x, y)) if op.name == "add" and _number(x) == 0:
            return _stretched(y, node) if y.dtype == node.dtype else None
    return None


def multiply_one(node: Node) -> Node | None:
    """x * 1 = x, 1 * x = x, x / 1 = x"""
    match node:
        case Node(op=op, inputs=(x, y)) if op.name in ("multiply", "divide") and _number(y) == 1:
            return _stretched(x, node) if x.dtype == node.dtype else None
        case Node(op=op, inputs=(x, y)) if op.name == "multiply" and _number(x) == 1:
            return _stretched(y, node) if y.dtype == node.dtype else None
    return None


def twice(node: Node) -> Node | None:
    """-(-x) = x, reshape(reshape(x)) = reshape(x), transpose(transpose(x)) = x"""
    match node:
        case Node(op=op, inputs=(Node(op=inner, inputs=(x,)),)) if op is inner:
            if op.name in ("negative", "matrix_transpose"):
                return x
            if op.name == "reshape":
                return op.make((x,), node.attrs, node.origin)
    return None


def turned(node: Node) -> Node | None:
    """matmul(x, transpose(y)) = matmul_nt(x, y), matmul(transpose(x), y) = matmul_tn(x, y)"""
    match node:
        case Node(op=op, inputs=(x, Node(op=inner, inputs=(y,)))) if (op.name, inner.name) == TURNED:
            return CATALOGUE["matmul_nt"].make((x, y), node.attrs, node.origin)
        case Node(op=op, inputs=(Node(op=inner, inputs=(x,)), y)) if (op.name, inner.name) == TURNED:
            return CATALOGUE["matmul_tn"].make((x, y), node.attrs, node.origin)
    return None


def no_change(node: Node) -> Node | None:
    """reshape, broadcast_to, sum_to to the shape that x has, astype to the type that it has = x"""
    if node.op.name in ("reshape", "broadcast_to", "sum_to", "astype") and node.type == node.inputs[0].type:
        return node.inputs[0]
    return None


def stretched_anyway(node: Node) -> Node | None:
    """f(broadcast_to(x), y) = f(x, y), where y has the whole shape"""
    if node.op.formula is None or len(node.inputs) < 2:
        return None
    for i, value in enumerate(node.inputs):
        others = [v for j, v in enumerate(node.inputs) if j != i]
        if value.op.name == "broadcast_to" and any(v.shape == node.shape for v in others):
            inputs = (*node.inputs[:i], value.inputs[0], *node.inputs[i + 1 :])
            return node.op.make(inputs, node.attrs, node.origin)
    return None


def known_size(node: Node) -> Node | None:
    """axis_size(x) = the number, once the batch is bound"""
    if node.op.name != "axis_size":
        return None
    total = size_of(tuple(node.inputs[0].shape[a] for a in node.attrs["axis"]))
    if isinstance(total, Batch):
        return None
    return constant_op.make((), {"value": np.asarray(total, node.dtype.numpy)}, node.origin)


def fold(node: Node) -> Node | None:
    """f(constants) = the constant, if it is small"""
    if not node.inputs or any(i.op.name != "constant" for i in node.inputs) or not isinstance(node.type, TensorType):
        return None
    if (
        node.op.name not in CATALOGUE
        or any(isinstance(d, Batch) for d in node.shape)
        or np.prod(fixed(node.shape)) > SMALL
    ):
        return None
    out = empty(node.type)
    run_kernel(node, [i.attrs["value"] for i in node.inputs], out)
    out.flags.writeable = False
    return constant_op.make((), {"value": out}, node.origin)


def summed_product(node: Node) -> Node | None:
    """sum_to(matmul(a, b)) over leading axes = product(a, b), summed over these: its parts are added as small as their sum"""
    if node.op.name != "sum_to" or node.inputs[0].op not in PRODUCTS or node.dtype.kind != "float" or node.ndim < 2:
        return None
    (value,) = node.inputs
    lead = value.ndim - node.ndim
    if not lead or value.shape[lead:] != node.shape or any(i.dtype is not node.dtype for i in value.inputs):
        return None
    turn_a, turn_b = PRODUCTS[value.op]
    return product.make(value.inputs, {"turn_a": turn_a, "turn_b": turn_b, "summed": lead}, node.origin)


RULES: tuple[Rule, ...] = (
    known_size,
    no_change,
    add_zero,
    multiply_one,
    stretched_anyway,
    twice,
    turned,
    fold,
)


def simplify(graph: Graph, setting: Setting) -> Graph:
    """Rewrite nodes by RULES until none applies.

    In      any graph
    Out     the same function, with no more nodes; values change by at most what adding zero or multiplying by one changes
    """
    new: dict[Node, Node] = {}
    readers, roots = users(graph.nodes()), set(graph.roots)
    machines = setting.cluster.machines
    apart = len(machines) > 1 and not any(m.units for m in machines)  # a product of this kind runs on hosts
    for node in graph.nodes():
        current = node.with_inputs(new[i] for i in node.inputs)
        changed = True
        while changed:
            changed = False
            for rule in RULES:
                found = rule(current)
                if found is not None and found.type == current.type:
                    current, changed = found, True
                    break
        if apart and len(node.inputs) == 1 and len(readers[node.inputs[0]]) == 1 and node.inputs[0] not in roots:
            found = summed_product(current)
            current = current if found is None else found
        new[node] = current
    return graph.renamed(new)
