"""softmax and log_softmax along one axis, safe from overflow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from rainshed.ops.access import Access, Axis, Reach
from rainshed.ops.cuda import THREADS, Grid, Launch, Launches, cuda, kernel
from rainshed.ops.elementwise import exp
from rainshed.ops.errors import ShapeError
from rainshed.ops.exponential import kernel as float32_kernel
from rainshed.ops.exponential import row_sums
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.op import FLOATS, Cost, Op, Types, op
from rainshed.ops.reduce import clean_axes
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.types import TensorType, Type, fixed


def _clean(name: str, types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    (x,) = types
    axis = clean_axes(name, attrs["axis"], len(x.shape))
    if len(axis) != 1:
        raise ShapeError(f"{name}: takes one axis; found {attrs['axis']!r} for {x}")
    return {"axis": axis[0]}


def _access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    """The axis must stay whole; all others are free."""
    axes = tuple(Axis(f"b{i}", n, "whole" if i == attrs["axis"] else "join") for i, n in enumerate(fixed(output.shape)))
    reach = tuple(Reach(i) for i in range(len(axes)))
    return Access(axes, (reach,), reach)


def shifted_rows(x: np.ndarray, axis: int) -> np.ndarray:
    """A copy of x, less its maximum along the axis, with that axis last.

    Always contiguous: NumPy then adds up each row in the same order, however many rows there are, so that a part of the
    rows gives the same bits as the whole.
    """
    rows = np.array(np.moveaxis(x, axis, -1), order="C")
    rows -= rows.max(axis=-1, keepdims=True, initial=-np.inf)
    return rows


def _exp(x: np.ndarray, out: np.ndarray) -> None:
    np.exp(x, out=out)


_falling = float32_kernel("falling", _exp)


def exponentials(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """exp of rows that are nowhere positive, and the sum of each; those of float32 have the bits that machine code gives them."""
    found = np.empty_like(rows)
    _falling(rows, found)
    return found, row_sums(found) if found.dtype == np.float32 else found.sum(axis=-1)


def _softmax_cpu(x: np.ndarray, out: np.ndarray, *, axis: int) -> None:
    with np.errstate(all="ignore"):
        rows, total = exponentials(shifted_rows(x, axis))
        rows /= total[..., None]
    np.moveaxis(out, axis, -1)[...] = rows


def _log_softmax_cpu(x: np.ndarray, out: np.ndarray, *, axis: int) -> None:
    with np.errstate(all="ignore"):
        rows = shifted_rows(x, axis)
        rows -= np.log(np.exp(rows).sum(axis=-1, keepdims=True))
    np.moveaxis(out, axis, -1)[...] = rows


@kernel
def _rows(x: Any, out: Any, rows: int, c: int, inner: int, log: int) -> None:
    """A block of threads per row: its maximum, its sum of exponentials, its result. `inner`: the step along a row."""
    part = cuda.shared.array(THREADS, x.dtype)
    t, width = cuda.threadIdx.x, cuda.blockDim.x
    for row in range(cuda.blockIdx.x, rows, cuda.gridDim.x):
        base = row // inner * c * inner + row % inner
        high = x[base]
        for e in range(t, c, width):
            high = max(high, x[base + e * inner])
        part[t] = high
        cuda.syncthreads()
        half = width // 2
        while half > 0:
            if t < half:
                part[t] = max(part[t], part[t + half])
            cuda.syncthreads()
            half //= 2
        high = part[0]
        cuda.syncthreads()
        total = x.dtype.type(0)
        for e in range(t, c, width):
            total += math.exp(x[base + e * inner] - high)
        part[t] = total
        cuda.syncthreads()
        half = width // 2
        while half > 0:
            if t < half:
                part[t] += part[t + half]
            cuda.syncthreads()
            half //= 2
        total = part[0]
        cuda.syncthreads()
        for e in range(t, c, width):
            above = x[base + e * inner] - high
            out[base + e * inner] = above - math.log(total) if log else math.exp(above) / total


def _cuda(log: bool, types: Types, output: TensorType, attrs: Attrs) -> Launches:
    shape, axis = fixed(output.shape), attrs["axis"]
    if not output.size:
        return ()
    rows, inner = output.size // shape[axis], math.prod(shape[axis + 1 :])
    return (Launch(_rows, (0,), (rows, shape[axis], inner, int(log)), Grid(blocks=rows)),)


def _softmax_grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    return (node * (dy - sum_(dy * node, axis=node.attrs["axis"], keepdims=True)),)


def _log_softmax_grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    return (dy - exp(node) * sum_(dy, axis=node.attrs["axis"], keepdims=True),)


def _infer(types: Types, attrs: Attrs) -> Type:
    return types[0]


def _cost(types: Types, output: Type, attrs: Attrs) -> Cost:
    return Cost(flops=15 * types[0].size)


softmax: Op = op(
    name="softmax",
    work="reduction",
    arity=1,
    attrs={"axis": -1},
    kinds=FLOATS,
    clean=partial(_clean, "softmax"),
    infer=_infer,
    access=_access,
    grad=_softmax_grad,
    cost=_cost,
    cpu=_softmax_cpu,
    cuda=partial(_cuda, False),
    doc="exp(x) / sum(exp(x)) along one axis.",
)

log_softmax: Op = op(
    name="log_softmax",
    work="reduction",
    arity=1,
    attrs={"axis": -1},
    kinds=FLOATS,
    clean=partial(_clean, "log_softmax"),
    infer=_infer,
    access=_access,
    grad=_log_softmax_grad,
    cost=_cost,
    cpu=_log_softmax_cpu,
    cuda=partial(_cuda, True),
    doc="log(softmax(x)) along one axis.",
)
