"""Local response normalisation: each channel divided by the energy of its neighbours among the channels.

Source  Krizhevsky et al. 2012, section 3.3
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rainshed.ops.access import Access, Axis, Reach
from rainshed.ops.elementwise import square
from rainshed.ops.errors import ShapeError
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.op import FLOATS, REQUIRED, Cost, Op, Tile, Types, op
from rainshed.ops.types import TensorType, Type, fixed, whole_of
from rainshed.ops.window import Pair, Window


def _clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    (x,) = types
    size = whole_of(attrs["size"])
    if size is None or size < 1:
        raise ShapeError(f"window_sum: size is a whole number from 1 up; found {attrs['size']!r}")
    if not x.shape or not isinstance(x.shape[-1], int):
        raise ShapeError(f"window_sum: the last axis of x must be known; found {x}")
    padding = (size // 2, size - 1 - size // 2) if attrs["padding"] is None else tuple(attrs["padding"])
    return {"size": size, "padding": padding}


def _infer(types: Types, attrs: Attrs) -> Type:
    (x,) = types
    low, high = attrs["padding"]
    count = Window(attrs["size"], low=low).count(x.shape[-1], high)  # type: ignore[arg-type]
    if count < 0:
        raise ShapeError(f"window_sum: a window of {attrs['size']} does not fit {x} with padding {low} and {high}")
    return TensorType(x.dtype, (*x.shape[:-1], count))


def _access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    axes = tuple(Axis(f"b{i}", n) for i, n in enumerate(fixed(output.shape)))
    last = len(axes) - 1
    window = Window(attrs["size"], low=attrs["padding"][0])
    lead = tuple(Reach(i) for i in range(last))
    return Access(axes, ((*lead, window.reach(last)),), (*lead, Reach(last)))


def _tile(tile: Tile) -> Mapping[str, Any]:
    window = Window(tile.attrs["size"], low=tile.attrs["padding"][0])
    return {"padding": window.tile(tile.box[-1], tile.regions[0][-1])}


def _grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    """The transpose of a windowed sum is the windowed sum with the padding that is left."""
    size, (low, high) = node.attrs["size"], node.attrs["padding"]
    return (window_sum(dy, size=size, padding=(size - 1 - low, size - 1 - high)),)


def _cpu(x: np.ndarray, out: np.ndarray, *, size: int, padding: Pair) -> None:
    out[...] = 0
    for _, windows, at in Window(size, low=padding[0]).taps(x.shape[-1], out.shape[-1]):
        out[..., windows] += x[..., at]


# `padding`: zeros before and after the axis; None: as many as keep its length, the odd one before.
window_sum: Op = op(
    name="window_sum",
    work="reduction",
    arity=1,
    attrs={"size": REQUIRED, "padding": None},
    kinds=FLOATS,
    clean=_clean,
    infer=_infer,
    access=_access,
    tile=_tile,
    grad=_grad,
    cost=lambda types, output, attrs: Cost(flops=output.size * attrs["size"]),
    cpu=_cpu,
    doc="The sum over each window of `size` elements along the last axis.",
)


def local_response_norm(x: Node, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> Node:
    """x / (k + alpha * s)**beta, with s the sum of x**2 over the `size` channels (last axis) around each."""
    return x * (window_sum(square(x), size=size) * alpha + k) ** -beta
