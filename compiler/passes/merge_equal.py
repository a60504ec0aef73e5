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
    Out     no two nodes are equal; the kept node is the first in the graph's order; nodes that differ in what they read and
            where they are share what is known of them
    """
    seen: dict[Hashable, Node] = {}
    alike: dict[Hashable, Node] = {}

    def keep(node: Node, inputs: tuple[Node, ...]) -> Node:
        attrs = key_of(node.attrs)
        key: Hashable = (node.op, tuple(map(id, inputs)), attrs, node.device, node.origin.pin, node.origin.home)
        if node.op.name in ("variable", "input"):
            key = (node.op, node.name, key_of(node.attrs["offset"]), node.type, node.device, node.origin.home)
        if key not in seen:
            first = alike.setdefault((node.op, attrs, tuple(i.type for i in inputs), node.type), node)
            if first is node or not inputs:
                seen[key] = node.with_inputs(inputs)
            else:
                seen[key] = first.alike(inputs, node.origin, node.device)
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
    if isinstance(value, float):
        return ("float", value.hex())  # 0.0 is not -0.0
    return (type(value).__name__, value) if isinstance(value, (bool, int)) else value
