"""Locally connected layer: a convolution with weights of their own for each position of the result, w[i,j,p,q,c,o].

Weights follow the positions of the result: a layer that is cut along height or width keeps its weights where they are,
and only the border that the windows share crosses between machines.

Source  Dean et al. 2012, figure 1; Le et al. 2012, arXiv:1112.6209
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rainshed.ops.access import WHOLE, Access, Axis, Reach
from rainshed.ops.errors import ShapeError
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.local2d_native import forward, input_gradient, weight_gradient, weight_step
from rainshed.ops.op import FACTORS, FLOATS, REQUIRED, Cost, Op, Tile, Types, op
from rainshed.ops.types import TensorType, Type, fixed, sum_type
from rainshed.ops.window import (
    Pair,
    Window,
    add_patches,
    chunks,
    clean_padding,
    clean_pair,
    image_size,
    lows,
    patches,
    two_windows,
)

Windows = tuple[Window, Window]


def _check_weights(name: str, w: TensorType) -> None:
    if len(w.shape) != 6 or not all(isinstance(n, int) for n in w.shape) or 0 in w.shape[2:4]:
        axes = "[out height, out width, kernel height, kernel width, channels, out channels]"
        raise ShapeError(f"{name}: w has the axes {axes}; found {w}")


def _windows(w: TensorType, attrs: Attrs, low: Pair) -> Windows:
    return two_windows(w.shape[2:4], attrs, low)  # type: ignore[arg-type]


# -- forward ----------------------------------------------------------------------------------------------------------
def _clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    x, w = types
    size = image_size("local2d", x)
    _check_weights("local2d", w)
    stride = clean_pair("local2d", "stride", attrs["stride"])
    windows = _windows(w, {"stride": stride}, (0, 0))
    return {"stride": stride, "padding": clean_padding("local2d", attrs["padding"], size, windows)}


def _infer(types: Types, attrs: Attrs) -> Type:
    x, w = types
    windows, size = _windows(w, attrs, lows(attrs["padding"])), image_size("local2d", x)
    counts = tuple(v.count(n, high) for v, n, (_, high) in zip(windows, size, attrs["padding"], strict=True))
    if counts != w.shape[:2]:
        raise ShapeError(f"local2d: {counts[0]} x {counts[1]} windows lie on x {x}, but w {w} holds weights for others")
    if x.shape[3] != w.shape[4]:
        raise ShapeError(f"local2d: x has {x.shape[3]} channels, w takes {w.shape[4]}", x=x, w=w)
    return TensorType(sum_type("local2d", x.dtype, w.dtype), (x.shape[0], *counts, w.shape[5]))


def _access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    x, w = types
    height, width = _windows(w, attrs, lows(attrs["padding"]))
    b, oh, ow, out = fixed(output.shape)
    return Access(
        axes=(Axis("b", b), Axis("oh", oh), Axis("ow", ow), Axis("o", out), Axis("c", fixed(x.shape)[3], "sum")),
        inputs=(
            (Reach(0), height.reach(1), width.reach(2), Reach(4)),
            (Reach(1), Reach(2), WHOLE, WHOLE, Reach(4), Reach(3)),
        ),
        output=(Reach(0), Reach(1), Reach(2), Reach(3)),
        combine="add",
    )


def _tile(tile: Tile) -> Mapping[str, Any]:
    height, width = _windows(tile.inputs[1], tile.attrs, lows(tile.attrs["padding"]))
    region = tile.regions[0]
    return {"padding": (height.tile(tile.box[1], region[1]), width.tile(tile.box[2], region[2]))}


def _grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    x, w = node.inputs
    stride, low = node.attrs["stride"], lows(node.attrs["padding"])
    return (
        local2d_input_grad(dy, w, image=x.shape[1:3], stride=stride, low=low),
        local2d_weight_grad(x, dy, kernel=w.shape[2:4], stride=stride, low=low),
    )


def _positions(part: np.ndarray) -> np.ndarray:
    """[batch, rows, columns, ...] as [rows * columns, batch, the rest]: one matrix for each position."""
    batch, rows, columns = part.shape[:3]
    rest = int(np.prod(part.shape[3:]))
    return np.moveaxis(part, 0, 2).reshape(rows * columns, batch, rest)


def _images(positions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `_positions`: back to `shape` [batch, rows, columns, ...]."""
    return np.moveaxis(positions.reshape(shape[1], shape[2], shape[0], *shape[3:]), 2, 0)


def _matrices(w: np.ndarray) -> np.ndarray:
    """Weights as [rows * columns, kernel height * kernel width * channels, out channels]."""
    rows, columns, kh, kw, channels, out = w.shape
    return w.reshape(rows * columns, kh * kw * channels, out)


def _bands(w_shape: tuple[int, ...], batch: int, itemsize: int) -> list[slice]:
    """Rows of positions whose patches fit the cache together."""
    rows, columns, kh, kw, channels, _ = w_shape
    return [band for _, band in chunks(1, rows, batch * columns * kh * kw * channels * itemsize)]


def _cpu(x: np.ndarray, w: np.ndarray, out: np.ndarray, *, stride: Pair, padding: tuple[Pair, Pair]) -> None:
    x, w = x.astype(out.dtype, copy=False), w.astype(out.dtype, copy=False)
    windows = two_windows(w.shape[2:4], {"stride": stride}, lows(padding))
    view = patches(x, windows, out.shape[1:3])
    for band in _bands(w.shape, len(x), out.itemsize):
        target = out[:, band]
        target[...] = _images(np.matmul(_positions(view[:, band]), _matrices(w[band])), target.shape)


def _cost(types: Types, output: Type, attrs: Attrs) -> Cost:
    x, w = types
    return Cost(flops=2 * fixed(x.shape)[0] * w.size)


local2d: Op = op(
    name="local2d",
    work="convolution",
    arity=2,
    attrs={"stride": 1, "padding": "valid"},
    kinds=FACTORS,
    clean=_clean,
    infer=_infer,
    access=_access,
    tile=_tile,
    grad=_grad,
    cost=_cost,
    cpu=_cpu,
    native=forward,
    doc="Convolution of x[B,H,W,C] with weights w[OH,OW,KH,KW,C,O] of their own for each position of the result.",
)


# -- gradient for x ---------------------------------------------------------------------------------------------------
def _input_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    dy, w = types
    name = "local2d_input_grad"
    _check_weights(name, w)
    image_size(name, dy, "dy")
    if dy.shape[1:3] != w.shape[:2] or dy.shape[3] != w.shape[5]:
        raise ShapeError(f"{name}: dy {dy} and w {w} do not fit together")
    return {
        "image": tuple(attrs["image"]),
        "stride": clean_pair(name, "stride", attrs["stride"]),
        "low": tuple(attrs["low"]),
    }


def _input_infer(types: Types, attrs: Attrs) -> Type:
    dy, w = types
    return TensorType(sum_type("local2d_input_grad", dy.dtype, w.dtype), (dy.shape[0], *attrs["image"], w.shape[4]))


def _input_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    """Windows that stay with their weights and add what they give to each position that they cover.

    Where windows leave positions out: positions of x, to which the windows that touch them bring their dy and their weights.
    """
    dy, w = types
    height, width = _windows(w, attrs, attrs["low"])
    b, h, v, c = fixed(output.shape)
    rows, columns = fixed(dy.shape)[1:3]
    out = Axis("o", fixed(dy.shape)[3], "sum")
    if height.covers(h, rows) and width.covers(v, columns):
        return Access(
            axes=(Axis("b", b), Axis("oh", rows, "sum"), Axis("ow", columns, "sum"), Axis("c", c), out),
            inputs=((Reach(0), Reach(1), Reach(2), Reach(4)), (Reach(1), Reach(2), WHOLE, WHOLE, Reach(3), Reach(4))),
            output=(Reach(0), height.gives(1), width.gives(2), Reach(3)),
            combine="add",
        )
    return Access(
        axes=(Axis("b", b), Axis("h", h), Axis("w", v), Axis("c", c), out),
        inputs=(
            (Reach(0), height.inverse(1), width.inverse(2), Reach(4)),
            (height.inverse(1), width.inverse(2), WHOLE, WHOLE, Reach(3), Reach(4)),
        ),
        output=(Reach(0), Reach(1), Reach(2), Reach(3)),
        combine="add",
    )


def _input_tile(tile: Tile) -> Mapping[str, Any]:
    windows = _windows(tile.inputs[1], tile.attrs, tile.attrs["low"])
    return {
        "image": tuple(high - low for low, high in tile.result[1:3]),
        "low": tuple(w.inverse_low(tile.result[i], tile.regions[0][i]) for i, w in enumerate(windows, 1)),
    }


def _input_grad(node: Node, dg: Node) -> tuple[Node | None, ...]:
    dy, w = node.inputs
    stride, low = node.attrs["stride"], node.attrs["low"]
    return _again(dg, w, stride, low), local2d_weight_grad(dg, dy, kernel=w.shape[2:4], stride=stride, low=low)


def _again(x: Node, w: Node, stride: Pair, low: Pair) -> Node:
    """local2d(x, w) with as many windows as w has weights for."""
    windows = _windows(w.tensor_type, {"stride": stride}, low)
    padding = tuple((v.low, v.high(n, m)) for v, n, m in zip(windows, x.shape[1:3], w.shape[:2], strict=True))  # type: ignore[arg-type]
    return local2d(x, w, stride=stride, padding=padding)


def _input_cpu(dy: np.ndarray, w: np.ndarray, out: np.ndarray, *, image: Pair, stride: Pair, low: Pair) -> None:
    dy, w = dy.astype(out.dtype, copy=False), w.astype(out.dtype, copy=False)
    height, width = two_windows(w.shape[2:4], {"stride": stride}, low)
    out[...] = 0
    for band in _bands(w.shape, len(dy), out.itemsize):
        part = dy[:, band]
        given = np.matmul(_positions(part), np.swapaxes(_matrices(w[band]), 1, 2))
        add_patches(out, _images(given, (*part.shape[:3], *w.shape[2:5])), (height.after(band.start), width))


local2d_input_grad: Op = op(
    name="local2d_input_grad",
    work="convolution",
    arity=2,
    attrs={"image": REQUIRED, "stride": 1, "low": (0, 0)},
    kinds=FACTORS,
    clean=_input_clean,
    infer=_input_infer,
    access=_input_access,
    tile=_input_tile,
    grad=_input_grad,
    cost=lambda types, output, attrs: Cost(flops=2 * fixed(types[0].shape)[0] * types[1].size),
    cpu=_input_cpu,
    native=input_gradient,
    doc="The gradient of local2d for x, whose height and width are `image`; `low` is the padding at top and left.",
)


# -- gradient for w ---------------------------------------------------------------------------------------------------
def _weight_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    x, dy = types
    name = "local2d_weight_grad"
    image_size(name, x)
    image_size(name, dy, "dy")
    if x.shape[0] != dy.shape[0]:
        raise ShapeError(f"{name}: x {x} and dy {dy} do not have the same batch")
    return {
        "kernel": tuple(attrs["kernel"]),
        "stride": clean_pair(name, "stride", attrs["stride"]),
        "low": tuple(attrs["low"]),
    }


def _weight_infer(types: Types, attrs: Attrs) -> Type:
    x, dy = types
    dtype = sum_type("local2d_weight_grad", x.dtype, dy.dtype)
    return TensorType(dtype, (*dy.shape[1:3], *attrs["kernel"], x.shape[3], dy.shape[3]))


def _weight_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    """Only images are summed: the gradient of a weight stays with its position."""
    x, dy = types
    height, width = two_windows(attrs["kernel"], attrs, attrs["low"])
    b, oh, ow, out = fixed(dy.shape)
    return Access(
        axes=(Axis("b", b, "sum"), Axis("oh", oh), Axis("ow", ow), Axis("c", fixed(x.shape)[3]), Axis("o", out)),
        inputs=((Reach(0), height.reach(1), width.reach(2), Reach(3)), (Reach(0), Reach(1), Reach(2), Reach(4))),
        output=(Reach(1), Reach(2), WHOLE, WHOLE, Reach(3), Reach(4)),
        combine="add",
    )


def _weight_tile(tile: Tile) -> Mapping[str, Any]:
    windows = two_windows(tile.attrs["kernel"], tile.attrs, tile.attrs["low"])
    return {"low": tuple(w.tile(tile.box[i], tile.regions[0][i])[0] for i, w in enumerate(windows, 1))}


def _weight_grad(node: Node, dg: Node) -> tuple[Node | None, ...]:
    x, dy = node.inputs
    stride, low = node.attrs["stride"], node.attrs["low"]
    return local2d_input_grad(dy, dg, image=x.shape[1:3], stride=stride, low=low), _again(x, dg, stride, low)


def _weight_cpu(x: np.ndarray, dy: np.ndarray, out: np.ndarray, *, kernel: Pair, stride: Pair, low: Pair) -> None:
    x, dy = x.astype(out.dtype, copy=False), dy.astype(out.dtype, copy=False)
    view = patches(x, two_windows(kernel, {"stride": stride}, low), dy.shape[1:3])
    for band in _bands(out.shape, len(x), out.itemsize):
        product = np.matmul(np.swapaxes(_positions(view[:, band]), 1, 2), _positions(dy[:, band]))
        out[band] = product.reshape(out[band].shape)


local2d_weight_grad: Op = op(
    name="local2d_weight_grad",
    work="convolution",
    arity=2,
    attrs={"kernel": REQUIRED, "stride": 1, "low": (0, 0)},
    kinds=FACTORS,
    clean=_weight_clean,
    infer=_weight_infer,
    access=_weight_access,
    tile=_weight_tile,
    grad=_weight_grad,
    cost=lambda types, output, attrs: Cost(flops=2 * fixed(types[0].shape)[0] * output.size),
    cpu=_weight_cpu,
    native=weight_gradient,
    doc="The gradient of local2d for w, whose windows are `kernel`; `low` is the padding at top and left.",
)


# -- a step of w along its gradient -----------------------------------------------------------------------------------
def _step_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    return {**_weight_clean(types[:2], attrs), "alpha": float(attrs["alpha"])}


def _step_infer(types: Types, attrs: Attrs) -> Type:
    found, w = _weight_infer(types[:2], attrs), types[2]
    if found != w:
        raise ShapeError(f"local2d_weight_step: the gradient is {found}; found w {w}")
    return found


def _step_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    """Images stay together: w is added once."""
    access = _weight_access(types[:2], output, attrs)
    batch = Axis("b", access.axes[0].size, "whole")
    return Access((batch, *access.axes[1:]), (*access.inputs, access.output), access.output)


def _step_cpu(x: np.ndarray, dy: np.ndarray, w: np.ndarray, out: np.ndarray, *, alpha: float, **attrs: Any) -> None:
    # A row of positions at a time: of the gradient no more than that is ever there.
    height, width = two_windows(attrs["kernel"], {"stride": attrs["stride"]}, attrs["low"])
    view = patches(x, (height, width), dy.shape[1:3])
    for row in range(len(out)):
        band = slice(row, row + 1)
        gradient = np.matmul(
            np.swapaxes(_positions(view[:, band]), 1, 2), _positions(dy[:, band] * dy.dtype.type(alpha))
        )
        np.add(w[band], gradient.reshape(out[band].shape), out=out[band])


local2d_weight_step: Op = op(
    name="local2d_weight_step",
    work="convolution",
    arity=3,
    attrs={"kernel": REQUIRED, "stride": 1, "low": (0, 0), "alpha": REQUIRED},
    kinds=FLOATS,
    clean=_step_clean,
    infer=_step_infer,
    access=_step_access,
    tile=_weight_tile,
    cost=lambda types, output, attrs: Cost(flops=2 * fixed(types[0].shape)[0] * output.size),
    cpu=_step_cpu,
    native=weight_step,
    doc="w + alpha * local2d_weight_grad(x, dy), which may be written over w: the gradient is never there as a whole.",
)
