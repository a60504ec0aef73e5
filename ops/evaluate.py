"""Plain evaluation: every node by its NumPy kernel, one after the other, in one thread. The truth that plans are held to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rainshed.ops.errors import DataError, KernelError, RainshedError
from rainshed.ops.ir import Graph, Node, walk
from rainshed.ops.op import located
from rainshed.ops.types import TupleType, Type, as_fed, fixed

Value = Any  # np.ndarray, or a tuple of them for a node with several results


def empty(type: Type) -> Value:
    """A fresh, unfilled value of this type."""
    if isinstance(type, TupleType):
        return tuple(empty(item) for item in type.items)
    return np.empty(fixed(type.shape), type.dtype.numpy)


def run_kernel(node: Node, inputs: Iterable[Value], out: Value) -> None:
    """Fill `out` by the node's NumPy kernel. Raises KernelError with the user's line if the kernel raises."""
    try:
        node.op.cpu(*inputs, out, **node.attrs)
    except RainshedError as error:
        raise located(error, node.origin) from None
    except Exception as error:
        shapes = ", ".join(str(i.type) for i in node.inputs)
        raise KernelError(
            f"{node.op.name}: its kernel raised {type(error).__name__}: {error}", inputs=shapes, built_at=node.origin
        ) from error


def fed_value(node: Node, value: Any) -> np.ndarray:
    """The value given for a leaf, checked against its type. Raises DataError."""
    expected = node.tensor_type
    array = as_fed(np.asarray(value), expected.dtype)
    if array.dtype != expected.dtype.numpy:
        raise DataError(
            f"{node.op.name} {node.name!r} is {expected}; found element type {array.dtype}", built_at=node.origin
        )
    if array.shape != fixed(expected.shape):
        raise DataError(
            f"{node.op.name} {node.name!r} is {expected}; found shape {list(array.shape)}", built_at=node.origin
        )
    return array


def initial_value(node: Node, seed: int) -> np.ndarray:
    """The first value of a variable, or of the part of it that this node is."""
    out: np.ndarray = empty(node.type)
    shape = fixed(node.shape)
    whole, offset = node.attrs["whole"] or shape, node.attrs["offset"] or (0,) * len(shape)
    node.attrs["init"].fill(out, seed=seed, name=node.name, whole=whole, offset=offset)
    return out


def evaluate_nodes(
    roots: Iterable[Node],
    feeds: Mapping[str, Any],
    variables: Mapping[str, Any] | None = None,
    *,
    step: int = 0,
    seed: int = 0,
) -> list[Value]:
    """The values of the roots; inputs and variables by name. A variable that is not given has its initial value."""
    roots = tuple(roots)
    values: dict[Node, Value] = {}
    for node in walk(roots):
        if node.op.name == "input":
            if node.name not in feeds:
                raise DataError(f"input {node.name!r} was not given", given=", ".join(feeds) or "none")
            values[node] = _part(node, fed_or_whole(node, feeds[node.name]))
        elif node.op.name == "variable":
            given = (variables or {}).get(node.name)
            values[node] = initial_value(node, seed) if given is None else _part(node, given)
        elif node.op.name == "step":
            values[node] = np.asarray(step, np.int64)
        else:
            out = empty(node.type)
            run_kernel(node, [values[i] for i in node.inputs], out)
            values[node] = out
    return [values[root] for root in roots]


def fed_or_whole(node: Node, value: Any) -> np.ndarray:
    """The array of a leaf; where the leaf is one tile of an input, the array of the whole input is given."""
    return fed_value(node, value) if node.attrs["offset"] is None else as_fed(np.asarray(value), node.dtype)


def _part(node: Node, value: Any) -> np.ndarray:
    offset = node.attrs["offset"]
    array = np.asarray(value)
    if offset is None or array.shape == fixed(node.shape):
        return array
    return array[tuple(slice(o, o + n) for o, n in zip(offset, fixed(node.shape), strict=True))]


def evaluate(
    graph: Graph, feeds: Mapping[str, Any], variables: Mapping[str, Any] | None = None, *, step: int = 0, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The graph's outputs, and the new values of the variables that it updates."""
    values = evaluate_nodes((*graph.outputs.values(), *graph.updates.values()), feeds, variables, step=step, seed=seed)
    outputs = dict(zip(graph.outputs, values, strict=False))
    updates = dict(zip(graph.updates, values[len(outputs) :], strict=True))
    return outputs, updates
