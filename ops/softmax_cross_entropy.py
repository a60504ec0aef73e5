"""Losses per example or element: softmax and sigmoid cross entropy, the squared error. Take `mean` of them to train."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rainshed.ops.broadcast import unbroadcast
from rainshed.ops.cuda import THREADS, Grid, Launch, Launches, cuda, kernel, merged, stretched
from rainshed.ops.elementwise import softplus, square
from rainshed.ops.errors import DataError, DTypeError, ShapeError
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.op import NUMBERS, Cost, Op, Types, as_nodes, op
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.reshape import expand_dims
from rainshed.ops.softmax import exponentials, shifted_rows, softmax
from rainshed.ops.types import DType, TensorType, fixed


def _dtype(types: Types) -> DType:
    logits, labels = types[:2]
    if logits.dtype.kind != "float" or labels.dtype.kind != "int":
        raise DTypeError(f"softmax_cross_entropy: takes float logits and int labels; found {logits} and {labels}")
    if len(types) == 3 and types[2].dtype is not logits.dtype:
        raise DTypeError(f"softmax_cross_entropy_grad: logits and dy have one type; found {logits} and {types[2]}")
    return logits.dtype


def _checked(labels: np.ndarray, classes: int) -> np.ndarray:
    """The labels as [..., 1]. Raises DataError where one is not a class."""
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        first = labels[wrong].flat[0]
        raise DataError(
            f"softmax_cross_entropy: a label is from 0 to {classes - 1}; found {first}",
            wrong=f"{int(wrong.sum())} of {labels.size} labels",
        )
    return labels[..., None]


def _spread(rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels [..., 1] under their common batch shape."""
    batch = np.broadcast_shapes(rows.shape[:-1], labels.shape[:-1])
    return np.broadcast_to(rows, (*batch, rows.shape[-1])), np.broadcast_to(labels, (*batch, 1))


def _cpu(logits: np.ndarray, labels: np.ndarray, out: np.ndarray) -> None:
    labels = _checked(labels, logits.shape[-1])
    with np.errstate(all="ignore"):
        rows = shifted_rows(logits, -1)
        total = np.log(exponentials(rows)[1].astype(np.float64)).astype(rows.dtype)
        wide, at = _spread(rows, labels)
        np.subtract(total, np.take_along_axis(wide, at, -1)[..., 0], out=out)


def _grad_cpu(logits: np.ndarray, labels: np.ndarray, dy: np.ndarray, out: np.ndarray) -> None:
    labels = _checked(labels, logits.shape[-1])
    with np.errstate(all="ignore"):
        rows, total = exponentials(shifted_rows(logits, -1))
        rows /= total[..., None]
        out[...] = rows
        at = np.broadcast_to(labels, (*out.shape[:-1], 1))
        np.put_along_axis(out, at, np.take_along_axis(out, at, -1) - 1, -1)
        out *= dy[..., None]


@kernel
def _rows(
    x: Any,
    labels: Any,
    dy: Any,
    out: Any,
    rows: int,
    c: int,
    back: int,
    batch: Any,
    steps: Any,
    label_steps: Any,
    dy_steps: Any,
) -> None:
    """A block of threads per example: the loss, or its gradient times dy. A label that is no class gives NaN: a GPU
    cannot stop the step as the CPU's kernel does."""
    part = cuda.shared.array(THREADS, x.dtype)
    t, width = cuda.threadIdx.x, cuda.blockDim.x
    for row in range(cuda.blockIdx.x, rows, cuda.gridDim.x):
        rest, base, at_label, at_dy = row, 0, 0, 0
        for axis in range(len(batch) - 1, -1, -1):
            base += rest % batch[axis] * steps[axis]
            at_label += rest % batch[axis] * label_steps[axis]
            at_dy += rest % batch[axis] * dy_steps[axis]
            rest //= batch[axis]
        label = labels[at_label]
        high = x[base]
        for e in range(t, c, width):
            high = max(high, x[base + e])
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
            total += math.exp(x[base + e] - high)
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
        known, wrong = label >= 0 and label < c, x.dtype.type(math.nan)
        if back:
            for e in range(t, c, width):
                p = math.exp(x[base + e] - high) / total
                if e == label:
                    p -= x.dtype.type(1)
                out[row * c + e] = p * dy[at_dy] if known else wrong
        elif t == 0:
            out[row] = math.log(total) - (x[base + label] - high) if known else wrong


def _launch(types: Types, batch: tuple[int, ...], back: bool) -> Launches:
    """The same kernel for both: the loss reads the labels in the place of dy, and does not use them."""
    c, rows = fixed(types[0].shape)[-1], math.prod(batch)
    if not rows or not c:
        return ()
    steps = [tuple(c * step for step in stretched(fixed(types[0].shape)[:-1], batch))]
    steps += [stretched(fixed(t.shape), batch) for t in (types[1], types[-1])]
    reads = (0, 1, 2) if back else (0, 1, 1)
    return (Launch(_rows, reads, (rows, c, int(back), *merged(batch, *steps)), Grid(blocks=rows)),)


def _cuda(types: Types, output: TensorType, attrs: Attrs) -> Launches:
    return _launch(types, fixed(output.shape), False)


def _grad_cuda(types: Types, output: TensorType, attrs: Attrs) -> Launches:
    return _launch(types, fixed(output.shape)[:-1], True)


def _grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    logits, labels = node.inputs
    return unbroadcast(softmax_cross_entropy_grad(logits, labels, dy), logits.shape), None


def _grad_grad(node: Node, dg: Node) -> tuple[Node | None, ...]:
    """g = (p - onehot) * dy, with p the softmax of the logits."""
    logits, labels, dy = node.inputs
    p = softmax(logits)
    slope = p * (dg - sum_(dg * p, axis=-1, keepdims=True)) * expand_dims(dy, -1)
    error = softmax_cross_entropy_grad(logits, labels, dy * 0 + 1)
    return unbroadcast(slope, logits.shape), None, unbroadcast(sum_(dg * error, axis=-1), dy.shape)


softmax_cross_entropy: Op = op(
    name="softmax_cross_entropy",
    work="reduction",
    signature="(c),()->()",
    whole="c",
    dtype=_dtype,
    kinds=NUMBERS,
    grad=_grad,
    cost=lambda *, c: Cost(flops=15 * c),
    cpu=_cpu,
    cuda=_cuda,
    doc="-log(softmax(logits)[label]) per example; a label is the number of a class, any other raises DataError.",
)

softmax_cross_entropy_grad: Op = op(
    name="softmax_cross_entropy_grad",
    work="reduction",
    signature="(c),(),()->(c)",
    whole="c",
    dtype=_dtype,
    kinds=NUMBERS,
    grad=_grad_grad,
    cost=lambda *, c: Cost(flops=15 * c),
    cpu=_grad_cpu,
    cuda=_grad_cuda,
    doc="(softmax(logits) - onehot(labels)) * dy.",
)


def sigmoid_cross_entropy(logits: Node, targets: Node) -> Node:
    """-(t * log(sigmoid(x)) + (1 - t) * log(1 - sigmoid(x))) per element, for targets t from 0 to 1.

    Exact to the last digits for large logits of either sign. Raises ShapeError unless the shapes are equal.
    """
    x, t = _alike("sigmoid_cross_entropy", logits, targets)
    return (1.0 - t) * softplus(x) + t * softplus(-x)


def squared_error(a: Node, b: Node) -> Node:
    """(a - b)**2 per element. Raises ShapeError unless the shapes are equal."""
    a, b = _alike("squared_error", a, b)
    return square(a - b)


def _alike(name: str, a: Node, b: Node) -> tuple[Node, ...]:
    """Losses do not broadcast: [B] against [B, 1] would be B * B numbers, and is always a mistake."""
    pair = as_nodes(name, (a, b))
    if pair[0].shape != pair[1].shape and () not in (pair[0].shape, pair[1].shape):
        raise ShapeError(f"{name}: the shapes of {pair[0].type} and {pair[1].type} differ", built_at=pair[0].origin)
    return pair
