"""Which instructions may write a variable that they read, where it lies."""

from __future__ import annotations

from rainshed.compiler.plan import Run
from rainshed.compiler.units import HOST
from rainshed.ops import CATALOGUE
from rainshed.ops.ir import Node


def overwrites(node: Node, variable: Node) -> bool:
    """Whether the kernel of this node may write its result over a variable, which it may read."""
    reads = [i for i, value in enumerate(node.inputs) if value is variable]
    on_host = node.device is not None and node.device.unit == HOST
    return on_host and _safe(node.op.name, len(node.inputs), reads)


def in_place(run: Run, value: int) -> bool:
    """The same of an instruction of a plan."""
    return len(run.outputs) == 1 and _safe(run.op, len(run.inputs), [i for i, v in enumerate(run.inputs) if v == value])


def _safe(op: str, arity: int, reads: list[int]) -> bool:
    """`reads`: at which inputs the op reads what it writes. Element i of an element-wise op needs element i alone; a product
    begins with its last input, if the number of its inputs is odd, as does a step of weights."""
    if op in ("product", "local2d_weight_step", "scatter_step"):
        return not reads or (reads == [arity - 1] and arity % 2 == 1)
    return op == "fused" or (op in CATALOGUE and CATALOGUE[op].formula is not None)
