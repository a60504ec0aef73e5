"""widen: where a kernel does not read bfloat16, it gets a float32 copy of what it reads."""

from __future__ import annotations

from rainshed.compiler.alike import Maker
from rainshed.compiler.passes.lower_precision import LOWERED
from rainshed.compiler.setting import Setting
from rainshed.ops.elementwise import astype
from rainshed.ops.ir import Graph, Node
from rainshed.ops.types import TensorType, bfloat16, float32

Key = tuple[Node, bool]


def widen(graph: Graph, setting: Setting) -> Graph:
    """Let products and convolutions read float32 copies of bfloat16 values; but a product reads them as they are on a machine whose
    processor multiplies bfloat16.

    A copy is exact, so that the result differs in the order of additions only. Forward and backward have copies of their own: in
    between the short form is kept alone.

    In      every node has a device; edges join nodes of one device
    Out     no convolution reads bfloat16, and no product on a machine without `bfloat16`
    """
    if not any(map(_is_short, graph.nodes())):
        return graph
    short = {m.name for m in setting.cluster.machines if m.bfloat16}
    make = Maker()
    wide: dict[Key, Node] = {}

    def copy(value: Node, reader: Node) -> Node:
        if not _is_short(value):
            return value
        key = (value, reader.origin.backward)
        if key not in wide:
            wide[key] = make(astype, (value,), {"dtype": float32}, value.origin, value.device)
        return wide[key]

    def change(node: Node, inputs: tuple[Node, ...]) -> Node:
        if node.op.work not in LOWERED or not any(map(_is_short, inputs)):
            return node.with_inputs(inputs)
        assert node.device is not None
        if node.op.work == "product" and node.device.machine in short:
            return node.with_inputs(inputs)
        return make(node.op, tuple([copy(i, node) for i in inputs]), node.attrs, node.origin, node.device)

    return graph.rebuild(change)


def _is_short(value: Node) -> bool:
    return isinstance(value.type, TensorType) and value.dtype is bfloat16
