"""merge_equal: equal expressions become one node."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from rainshed.compiler.setting import Setting
from rainshed.ops.init import Init
from rainshed.ops.ir import Graph, Node


def merge_equal(graph: Graph, setting: Setting) -> Graph:
    """Keep one node of those with the same op, inputs, attributes and device.

    In      any graph
    Out     no two nodes are equal; the kept node is the first in the graph's order
    """
    seen: dict[Hashable, Node] = {}

    def keep(node: Node, inputs: tuple[Node, ...]) -> Node:
        key: Hashable = (
            node.op.name,
            tuple(map(id, inputs)),
            key_of(node.attrs),
            node.device,
            node.origin.pin,
            node.origin.home,
        )
        if node.op.name in ("variable", "input"):
            key = (node.op.name, node.name, key_of(node.attrs["offset"]), node.type, node.device, node.origin.home)
        if key not in seen:
            seen[key] = node.with_inputs(inputs)
        return seen[key]

    return graph.rebuild(keep)


def key_of(value: Any) -> Hashable:
    """An attribute as something that can be compared and hashed."""
    if isinstance(value, np.ndarray):
        return (value.dtype.name, value.shape, value.tobytes())
    if isinstance(value, Init):
        return (value.kind, value.numbers, key_of(value.values) if value.values is not None else None)
    if hasattr(value, "items"):
        return tuple(sorted((k, key_of(v)) for k, v in value.items()))
    if isinstance(value, (tuple, list)):
        return tuple(key_of(v) for v in value)
    return (type(value).__name__, value) if isinstance(value, (bool, int, float)) else value
