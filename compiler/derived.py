"""Values that a machine makes for itself rather than receive: slices, reshapes and the like of what it can be fed."""

from __future__ import annotations

from collections.abc import Iterable

from rainshed.compiler.cost import FREE
from rainshed.ops.ir import Node
from rainshed.ops.types import TensorType

LARGER = 2.0  # times a value's own bytes that may be fed to make it
LONGEST = 8  # ops, one after the other, from what is fed to the value


def derived(nodes: Iterable[Node]) -> set[Node]:
    """What only moves elements of inputs and constants around, and needs little more of them than it holds.

    In      `nodes`, inputs before users
    Out     none that is pinned, and none that costs nothing in any case (inputs, constants)
    """
    found: set[Node] = set()
    fed: dict[Node, dict[Node, None]] = {}  # of each value that can be made anywhere: the leaves that it is made from
    length: dict[Node, int] = {}
    for node in nodes:
        if node.op.name in FREE:
            fed[node], length[node] = {node: None}, 0
        elif node.op.work == "layout" and node.origin.pin is None and isinstance(node.type, TensorType):
            if not node.inputs or any(value not in fed for value in node.inputs):
                continue
            leaves = {leaf: None for value in node.inputs for leaf in fed[value]}
            length[node] = 1 + max(length[value] for value in node.inputs)
            nbytes = sum(leaf.type.nbytes for leaf in leaves)
            if nbytes <= LARGER * node.type.nbytes and length[node] <= LONGEST:
                fed[node] = leaves
                found.add(node)
    return found
