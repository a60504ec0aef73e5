"""Matrix products: c[m,n] = sum over k of a[m,k] * b[k,n], also with an operand that lies transposed; axes to the left are a batch,
and broadcast.

The gradient of each is a product of the three again, so that no transposed copy is made, kept or sent.

Operands of bfloat16 are multiplied exactly, and added up in float32, which is the type of the result; their gradient is a product
of the same kind, which reads the gradient of the result rounded to bfloat16.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rainshed.ops.broadcast import unbroadcast
from rainshed.ops.cuda import TILE, Grid, Launch, Launches, Number, cuda, kernel, merged, move, steps_of, stretched
from rainshed.ops.elementwise import astype
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.op import MOVED, NUMBERS, Cost, Op, Types, op
from rainshed.ops.types import DType, TensorType, bfloat16, fixed, sum_type


def _rounded(dc: Node, *operands: Node) -> Node:
    """The gradient of a result as products with these operands read it."""
    return astype(dc, dtype=bfloat16) if all(x.dtype is bfloat16 for x in operands) else dc


def _grad(node: Node, dc: Node) -> tuple[Node, ...]:
    a, b = node.inputs
    dc = _rounded(dc, a, b)
    return unbroadcast(matmul_nt(dc, b), a.shape), unbroadcast(matmul_tn(a, dc), b.shape)


def _grad_nt(node: Node, dc: Node) -> tuple[Node, ...]:
    a, b = node.inputs
    dc = _rounded(dc, a, b)
    return unbroadcast(matmul(dc, b), a.shape), unbroadcast(matmul_tn(dc, a), b.shape)


def _grad_tn(node: Node, dc: Node) -> tuple[Node, ...]:
    a, b = node.inputs
    dc = _rounded(dc, a, b)
    return unbroadcast(matmul_nt(b, dc), a.shape), unbroadcast(matmul(a, dc), b.shape)


def _sum_type(types: Types) -> DType:
    return sum_type("matmul", *(t.dtype for t in types))


def _cpu(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    if a.dtype == b.dtype == out.dtype:
        np.matmul(a, b, out=out)
    else:
        np.matmul(a.astype(out.dtype), b.astype(out.dtype), out=out)


def _cpu_nt(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    _cpu(a, np.swapaxes(b, -1, -2), out)  # a view: BLAS reads it as it lies


def _cpu_tn(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    _cpu(np.swapaxes(a, -1, -2), b, out)


@kernel
def _tiles(
    a: Any, b: Any, out: Any, m: int, n: int, k: int, count: int, am: int, ak: int, bk: int, bn: int,
    batch: Any, a_steps: Any, b_steps: Any,
) -> None:  # fmt: skip
    """A block of threads per TILE x TILE tile of the result; tiles of a and b pass through shared memory.

    am, ak, bk, bn  elements from one index along an axis of a or b to the next
    """
    ours = cuda.shared.array((TILE, TILE), out.dtype)
    theirs = cuda.shared.array((TILE, TILE), out.dtype)
    y, x = cuda.threadIdx.y, cuda.threadIdx.x
    for z in range(cuda.blockIdx.z, count, cuda.gridDim.z):
        rest, at_a, at_b = z, 0, 0
        for axis in range(len(batch) - 1, -1, -1):
            at_a += rest % batch[axis] * a_steps[axis]
            at_b += rest % batch[axis] * b_steps[axis]
            rest //= batch[axis]
        for top in range(cuda.blockIdx.y * TILE, m, cuda.gridDim.y * TILE):
            for left in range(cuda.blockIdx.x * TILE, n, cuda.gridDim.x * TILE):
                i, j = top + y, left + x
                total = out.dtype.type(0)
                for start in range(0, k, TILE):
                    ours[y, x] = 0
                    if i < m and start + x < k:
                        ours[y, x] = a[at_a + i * am + (start + x) * ak]
                    theirs[y, x] = 0
                    if start + y < k and j < n:
                        theirs[y, x] = b[at_b + (start + y) * bk + j * bn]
                    cuda.syncthreads()
                    for e in range(TILE):
                        total += ours[y, e] * theirs[e, x]
                    cuda.syncthreads()
                if i < m and j < n:
                    out[(z * m + i) * n + j] = total


def _launches(types: Types, output: TensorType, turned_a: bool, turned_b: bool) -> Launches:
    a, b, c = (fixed(t.shape) for t in (*types, output))
    m, n, k, batch = c[-2], c[-1], a[-2 if turned_a else -1], c[:-2]
    count = output.size // (m * n) if m * n else 0
    if not count:
        return ()
    a_steps = tuple(step * m * k for step in stretched(a[:-2], batch))
    b_steps = tuple(step * k * n for step in stretched(b[:-2], batch))
    steps = ((1, m) if turned_a else (k, 1)) + ((1, k) if turned_b else (n, 1))
    numbers: tuple[Number, ...] = (m, n, k, count, *steps, *merged(batch, a_steps, b_steps))
    return (Launch(_tiles, (0, 1), numbers, Grid(tiles=(n, m, count))),)


matmul: Op = op(
    name="matmul",
    work="product",
    signature="(m,k),(k,n)->(m,n)",
    summed="k",
    dtype=_sum_type,
    kinds=(*NUMBERS, "bfloat16"),
    grad=_grad,
    cost=lambda *, m, k, n: Cost(flops=2 * m * k * n),
    cpu=_cpu,
    cuda=lambda types, output, attrs: _launches(types, output, False, False),
    doc="Matrix product over the last two axes; further axes are a batch.",
)

matmul_nt: Op = op(
    name="matmul_nt",
    work="product",
    signature="(m,k),(n,k)->(m,n)",
    summed="k",
    dtype=_sum_type,
    kinds=(*NUMBERS, "bfloat16"),
    grad=_grad_nt,
    cost=lambda *, m, k, n: Cost(flops=2 * m * k * n),
    cpu=_cpu_nt,
    cuda=lambda types, output, attrs: _launches(types, output, False, True),
    doc="Matrix product by the transpose of the second operand.",
)

matmul_tn: Op = op(
    name="matmul_tn",
    work="product",
    signature="(k,m),(k,n)->(m,n)",
    summed="k",
    dtype=_sum_type,
    kinds=(*NUMBERS, "bfloat16"),
    grad=_grad_tn,
    cost=lambda *, m, k, n: Cost(flops=2 * m * k * n),
    cpu=_cpu_tn,
    cuda=lambda types, output, attrs: _launches(types, output, True, False),
    doc="Matrix product of the transpose of the first operand by the second.",
)


def _transpose_cpu(x: np.ndarray, out: np.ndarray) -> None:
    out[...] = np.swapaxes(x, -1, -2)


def _transpose_cuda(types: Types, output: TensorType, attrs: Attrs) -> Launches:
    steps = steps_of(fixed(types[0].shape))
    return move(fixed(output.shape), (*steps[:-2], steps[-1], steps[-2]), steps_of(fixed(output.shape)))


matrix_transpose: Op = op(
    name="matrix_transpose",
    kinds=MOVED,
    work="layout",
    signature="(m,n)->(n,m)",
    grad=lambda node, dy: (matrix_transpose(dy),),
    cost=lambda *, m, n: Cost(flops=0),
    cpu=_transpose_cpu,
    cuda=_transpose_cuda,
    doc="The last two axes swapped.",
)
