"""Matrix product: c[m,n] = sum over k of a[m,k] * b[k,n]; further axes to the left are a batch, and broadcast."""

from __future__ import annotations

import numpy as np

from rainshed.ops.broadcast import unbroadcast
from rainshed.ops.ir import Node
from rainshed.ops.op import NUMBERS, Cost, Op, op


def _grad(node: Node, dc: Node) -> tuple[Node, ...]:
    a, b = node.inputs
    return (
        unbroadcast(matmul(dc, matrix_transpose(b)), a.shape),
        unbroadcast(matmul(matrix_transpose(a), dc), b.shape),
    )


def _cpu(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    if a.dtype == b.dtype == out.dtype:
        np.matmul(a, b, out=out)
    else:
        np.matmul(a.astype(out.dtype), b.astype(out.dtype), out=out)


matmul: Op = op(
    name="matmul",
    signature="(m,k),(k,n)->(m,n)",
    summed="k",
    kinds=NUMBERS,
    grad=_grad,
    cost=lambda *, m, k, n: Cost(flops=2 * m * k * n),
    cpu=_cpu,
    doc="Matrix product over the last two axes; further axes are a batch.",
)


def _transpose_cpu(x: np.ndarray, out: np.ndarray) -> None:
    out[...] = np.swapaxes(x, -1, -2)


matrix_transpose: Op = op(
    name="matrix_transpose",
    signature="(m,n)->(n,m)",
    grad=lambda node, dy: (matrix_transpose(dy),),
    cost=lambda *, m, n: Cost(flops=0),
    cpu=_transpose_cpu,
    doc="The last two axes swapped.",
)
