"""pool_first: what rises is done behind the pool, where there are fewer numbers."""

from __future__ import annotations

from rainshed.compiler.setting import Setting
from rainshed.ops.elementwise import add, relu
from rainshed.ops.ir import Graph, Node, users
from rainshed.ops.pool2d import max_pool2d


def pool_first(graph: Graph, setting: Setting) -> Graph:
    """Exchange the greatest value of a window with functions that never fall, so that they, and their gradients, are small.

        max_pool2d(relu(x))     relu(max_pool2d(x))
        max_pool2d(x + b)       max_pool2d(x) + b, where b is the same at all positions

    In      no gradients yet
    Out     same bits; a gradient goes to the same element, save where adding b makes different numbers of a window equal
    """
    if not setting.fuse:
        return graph
    nodes = graph.nodes()
    readers, roots = users(nodes), set(graph.roots)
    new: dict[Node, Node] = {}
    for node in nodes:
        passed: list[Node] = []
        value = node.inputs[0] if node.op is max_pool2d else node
        while node.op is max_pool2d and value not in roots and len(readers[value]) == 1 and _rises(value, node):
            passed.append(value)
            value = value.inputs[_moved(value)]
        if not passed:
            new[node] = node.with_inputs([new[v] for v in node.inputs])
            continue
        result = max_pool2d.make((new[value],), node.attrs, node.origin)
        for one in reversed(passed):
            inputs = [result if i == _moved(one) else new[v] for i, v in enumerate(one.inputs)]
            result = one.op.make(tuple(inputs), one.attrs, one.origin)
        new[node] = result
    return graph.renamed(new)


def _rises(value: Node, pool: Node) -> bool:
    if value.dtype.kind != "float" or value.origin.pin != pool.origin.pin:
        return False
    if value.op is not add:
        return value.op is relu
    moved, other = value.inputs[_moved(value)], value.inputs[1 - _moved(value)]
    alike = moved.type == value.type and other.dtype is value.dtype and other is not moved
    return alike and all(n == 1 for n in other.shape[:-1])


def _moved(value: Node) -> int:
    """Which input is the image."""
    return 1 if value.op is add and value.inputs[0].type != value.type else 0
