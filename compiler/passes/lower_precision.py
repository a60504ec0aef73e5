"""lower_precision: products and convolutions read bfloat16, and add up in float32."""

from __future__ import annotations

from rainshed.compiler.setting import Setting
from rainshed.ops.elementwise import astype
from rainshed.ops.errors import UsageError
from rainshed.ops.ir import Graph, Node, users
from rainshed.ops.op import constant_op
from rainshed.ops.source import input_op
from rainshed.ops.types import TensorType, bfloat16, float32

FLOAT32, BF16 = "float32", "bf16"
PRECISIONS = (FLOAT32, BF16)
LOWERED = ("product", "convolution")  # kinds of work


def lower_precision(graph: Graph, setting: Setting) -> Graph:
    """Round the operands of products and convolutions of float32 to bfloat16, with `setting.precision` "bf16"; else no change.

    A value is rounded once, before it is kept for backward or sent to another machine: half the bytes. Variables, sums, losses,
    softmax and updates stay float32, and so does every result. bfloat16 has the range of float32, so gradients neither vanish nor
    overflow more than before: the loss needs no scaling, which float16 does.

    In      gradients are in the graph; a machine with a GPU is refused by a UsageError: its kernels do not read bfloat16
    Out     a product or convolution of float32 reads bfloat16 only; each value has one rounding (of nearest, ties to even);
            an input that nothing else reads is of bfloat16 itself, and rounded where it is fed; so is a constant
    Source  Micikevicius et al. 2018, arXiv:1710.03740 (float32 masters and sums); Kalamkar et al. 2019, arXiv:1905.12322 (no
            scaling of the loss)
    """
    if setting.precision == FLOAT32:
        return graph
    units = [f"{m.name}/{u.name}" for m in setting.cluster.machines for u in m.units]
    if units:
        hint = "leave the units out of the cluster, or compile with precision='float32'"
        raise UsageError(
            "precision 'bf16' is for processors, and this cluster has GPUs", units=", ".join(units), hint=hint
        )
    return _Lowering(graph).run()


def is_lowered(node: Node) -> bool:
    """Whether a node is one whose operands are rounded."""
    if node.op.work not in LOWERED or not isinstance(node.type, TensorType) or node.dtype is not float32:
        return False
    return all(isinstance(i.type, TensorType) and i.dtype is float32 for i in node.inputs)


def lowered_text(graph: Graph) -> str:
    """What of a graph is in bfloat16, for people."""
    nodes = [n for n in graph.nodes() if isinstance(n.type, TensorType)]
    reading = sum(1 for n in nodes if n.op.work in LOWERED and any(i.dtype is bfloat16 for i in n.inputs))
    short = [n for n in nodes if n.dtype is bfloat16]
    return f"bf16: {reading} products and convolutions read bfloat16, {len(short)} values are rounded to it"


class _Lowering:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.rounded: dict[Node, Node] = {}  # a value of the new graph -> the value rounded
        nodes = graph.nodes()
        roots, readers = set(graph.roots), users(nodes)
        self.fed = {  # inputs that nothing reads in float32
            n for n in nodes if n.op is input_op and n not in roots and all(is_lowered(r) for r in readers[n])
        }

    def run(self) -> Graph:
        return self.graph.rebuild(self._change)

    def _change(self, node: Node, inputs: tuple[Node, ...]) -> Node:
        if node in self.fed:
            return input_op.make((), {**node.attrs, "dtype": bfloat16}, node.origin)
        if not is_lowered(node):
            return node.with_inputs(inputs)
        return node.op.make(tuple(map(self._round, inputs)), node.attrs, node.origin)

    def _round(self, value: Node) -> Node:
        if value.dtype is bfloat16:
            return value
        if value not in self.rounded:
            self.rounded[value] = _rounded(value)
        return self.rounded[value]


def _rounded(value: Node) -> Node:
    if value.op is constant_op:
        return constant_op.make((), {"value": value.attrs["value"].astype(bfloat16.numpy)}, value.origin)
    return astype.make((value,), {"dtype": bfloat16}, value.origin)
