"""Pools over windows of an image: the greatest value, the sum, the mean. Images are [batch, height, width, channels].

Taps are visited in one fixed order, so that a tile gives the same bits as the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from rainshed.ops.access import Access, Axis, Interval, Reach
from rainshed.ops.errors import ShapeError
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.op import FLOATS, REQUIRED, Cost, Op, Tile, Types, op
from rainshed.ops.pool2d_native import handed, largest, total, winners
from rainshed.ops.source import constant
from rainshed.ops.types import TensorType, Type, fixed, promote
from rainshed.ops.window import Pair, Window, clean_padding, clean_pair, image_size, lows, two_windows

Windows = tuple[Window, Window]


# -- what both pools share --------------------------------------------------------------------------------------------
def _clean(name: str, types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    (x,) = types
    image = image_size(name, x)
    size = clean_pair(name, "size", attrs["size"])
    stride = size if attrs["stride"] is None else clean_pair(name, "stride", attrs["stride"])
    padding = clean_padding(name, attrs["padding"], image, two_windows(size, {"stride": stride}))
    for n, sides in zip(size, padding, strict=True):
        if not all(0 <= side < n for side in sides):
            raise ShapeError(f"{name}: padding is less than the window, which is {n}; found {sides[0]} and {sides[1]}")
    return {"size": size, "stride": stride, "padding": padding}


def _windows(attrs: Attrs) -> Windows:
    return two_windows(attrs["size"], attrs, lows(attrs["padding"]))


def _counts(x: TensorType, attrs: Attrs) -> Pair:
    sides = zip(_windows(attrs), image_size("pool", x), attrs["padding"], strict=True)
    height, width = (window.count(n, high) for window, n, (_, high) in sides)
    return height, width


def _infer(types: Types, attrs: Attrs) -> Type:
    (x,) = types
    return TensorType(x.dtype, (x.shape[0], *_counts(x, attrs), x.shape[3]))


def _access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    height, width = _windows(attrs)
    axes = tuple(Axis(name, n) for name, n in zip(("b", "oh", "ow", "c"), fixed(output.shape), strict=True))
    return Access(
        axes=axes,
        inputs=((Reach(0), height.reach(1), width.reach(2), Reach(3)),),
        output=(Reach(0), Reach(1), Reach(2), Reach(3)),
    )


def _tile(tile: Tile) -> Mapping[str, Any]:
    height, width = _windows(tile.attrs)
    region = tile.regions[0]
    return {"padding": (height.tile(tile.box[1], region[1]), width.tile(tile.box[2], region[2]))}


def _cost(types: Types, output: Type, attrs: Attrs) -> Cost:
    return Cost(flops=output.size * attrs["size"][0] * attrs["size"][1])  # type: ignore[union-attr]


def _largest(x: np.ndarray, windows: Windows, out: np.ndarray) -> None:
    out[...] = -np.inf
    for _, oh, ih in windows[0].taps(x.shape[1], out.shape[1]):
        for _, ow, iw in windows[1].taps(x.shape[2], out.shape[2]):
            part = out[:, oh, ow]
            np.maximum(part, x[:, ih, iw], out=part)


# -- the greatest value -----------------------------------------------------------------------------------------------
def _max_cpu(x: np.ndarray, out: np.ndarray, *, size: Pair, stride: Pair, padding: tuple[Pair, Pair]) -> None:
    _largest(x, two_windows(size, {"stride": stride}, lows(padding)), out)


def _max_grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    attrs = node.attrs
    return (
        max_pool2d_grad(node.inputs[0], dy, size=attrs["size"], stride=attrs["stride"], low=lows(attrs["padding"])),
    )


max_pool2d: Op = op(
    name="max_pool2d",
    work="reduction",
    arity=1,
    attrs={"size": REQUIRED, "stride": None, "padding": "valid"},
    kinds=FLOATS,
    clean=partial(_clean, "max_pool2d"),
    infer=_infer,
    access=_access,
    tile=_tile,
    grad=_max_grad,
    cost=_cost,
    cpu=_max_cpu,
    native=largest,
    doc="The greatest value in each window of x[B,H,W,C]; `stride` None: the window's size. Padding never wins.",
)


def _max_grad_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    x, dy = types
    name = "max_pool2d_grad"
    height, width = image_size(name, x)
    image_size(name, dy, "dy")
    if x.shape[0] != dy.shape[0] or x.shape[3] != dy.shape[3]:
        raise ShapeError(f"{name}: x {x} and dy {dy} do not fit together")
    inside = ((0, height), (0, width)) if attrs["inside"] is None else tuple(tuple(pair) for pair in attrs["inside"])
    size, stride = (clean_pair(name, what, attrs[what]) for what in ("size", "stride"))
    return {"size": size, "stride": stride, "low": tuple(attrs["low"]), "inside": inside}


def _max_grad_infer(types: Types, attrs: Attrs) -> Type:
    x, dy = types
    sizes = tuple(high - low for low, high in attrs["inside"])
    return TensorType(promote("max_pool2d_grad", x.dtype, dy.dtype), (x.shape[0], *sizes, x.shape[3]))


def _neighbours(window: Window, inside: Interval, size: int, axis: int) -> Reach:
    """How far the windows that touch a position of the result reach on x.

    The result is cut on multiples of the stride only, where these ends are affine; so pools whose windows do not
    overlap need nothing of their neighbours.
    """
    first, last = inside
    low, stride, kernel = window.low, window.stride, window.kernel
    before = min(first, stride * -((kernel - 1 - low - first) // stride) - low)
    behind = max(first, stride * ((first + low - 1) // stride) - low + kernel)
    if (last - first) % stride and last < size:
        behind = first + kernel - 1
    return Reach(axis, low=before, high=behind)


def _max_grad_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    x = types[0]
    windows = two_windows(attrs["size"], attrs, attrs["low"])
    b, h, w, c = fixed(output.shape)
    near, touching = [], []
    for axis, (window, inside, size) in enumerate(zip(windows, attrs["inside"], fixed(x.shape)[1:3], strict=True), 1):
        near.append(_neighbours(window, inside, size, axis))
        shifted = Window(window.kernel, window.stride, window.low + inside[0])
        touching.append(shifted.inverse(axis))
    return Access(
        axes=(Axis("b", b), Axis("h", h, step=windows[0].stride), Axis("w", w, step=windows[1].stride), Axis("c", c)),
        inputs=((Reach(0), *near, Reach(3)), (Reach(0), *touching, Reach(3))),
        output=(Reach(0), Reach(1), Reach(2), Reach(3)),
    )


def _max_grad_tile(tile: Tile) -> Mapping[str, Any]:
    low, inside = [], []
    for axis in (1, 2):
        (start, stop), (base, _) = tile.box[axis], tile.attrs["inside"][axis - 1]
        x_from, dy_from = tile.regions[0][axis][0], tile.regions[1][axis][0]
        low.append(tile.attrs["low"][axis - 1] + x_from - dy_from * tile.attrs["stride"][axis - 1])
        inside.append((start + base - x_from, stop + base - x_from))
    return {"low": tuple(low), "inside": tuple(inside)}


def _max_grad_cpu(
    x: np.ndarray, dy: np.ndarray, out: np.ndarray, *, size: Pair, stride: Pair, low: Pair, inside: tuple[Pair, Pair]
) -> None:
    """dy goes to the first of the greatest values in each window, in row-major order."""
    windows = two_windows(size, {"stride": stride}, low)
    best, taken = np.empty(dy.shape, x.dtype), np.zeros(dy.shape, bool)
    _largest(x, windows, best)
    dx, zero = np.zeros(x.shape, out.dtype), dy.dtype.type(0)
    for _, oh, ih in windows[0].taps(x.shape[1], dy.shape[1]):
        for _, ow, iw in windows[1].taps(x.shape[2], dy.shape[2]):
            wins = (x[:, ih, iw] == best[:, oh, ow]) & ~taken[:, oh, ow]
            taken[:, oh, ow] |= wins
            dx[:, ih, iw] += np.where(wins, dy[:, oh, ow], zero)
    out[...] = dx[:, slice(*inside[0]), slice(*inside[1])]


def _max_grad_cost(types: Types, output: Type, attrs: Attrs) -> Cost:
    return Cost(flops=4 * types[1].size * attrs["size"][0] * attrs["size"][1])


# `inside`: which part of x the result is for; None: all of it. A tile sees more of x than it gives.
max_pool2d_grad: Op = op(
    name="max_pool2d_grad",
    work="reduction",
    arity=2,
    attrs={"size": REQUIRED, "stride": REQUIRED, "low": (0, 0), "inside": None},
    kinds=FLOATS,
    clean=_max_grad_clean,
    infer=_max_grad_infer,
    access=_max_grad_access,
    tile=_max_grad_tile,
    cost=_max_grad_cost,
    cpu=_max_grad_cpu,
    native=winners,
    doc="The gradient of max_pool2d for x, from x and dy; of equal values the first wins.",
)


# -- the sum ----------------------------------------------------------------------------------------------------------
def _sum_cpu(x: np.ndarray, out: np.ndarray, *, size: Pair, stride: Pair, padding: tuple[Pair, Pair]) -> None:
    height, width = two_windows(size, {"stride": stride}, lows(padding))
    out[...] = 0
    for _, oh, ih in height.taps(x.shape[1], out.shape[1]):
        for _, ow, iw in width.taps(x.shape[2], out.shape[2]):
            out[:, oh, ow] += x[:, ih, iw]


def _sum_grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    (x,), attrs = node.inputs, node.attrs
    low = lows(attrs["padding"])
    return (sum_pool2d_grad(dy, image=x.shape[1:3], size=attrs["size"], stride=attrs["stride"], low=low),)


sum_pool2d: Op = op(
    name="sum_pool2d",
    work="reduction",
    arity=1,
    attrs={"size": REQUIRED, "stride": None, "padding": "valid"},
    kinds=FLOATS,
    clean=partial(_clean, "sum_pool2d"),
    infer=_infer,
    access=_access,
    tile=_tile,
    grad=_sum_grad,
    cost=_cost,
    cpu=_sum_cpu,
    native=total,
    doc="The sum of each window of x[B,H,W,C]; `stride` None: the window's size.",
)


def _sum_grad_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    name = "sum_pool2d_grad"
    image_size(name, types[0], "dy")
    size, stride = (clean_pair(name, what, attrs[what]) for what in ("size", "stride"))
    return {"image": tuple(attrs["image"]), "size": size, "stride": stride, "low": tuple(attrs["low"])}


def _sum_grad_infer(types: Types, attrs: Attrs) -> Type:
    (dy,) = types
    return TensorType(dy.dtype, (dy.shape[0], *attrs["image"], dy.shape[3]))


def _sum_grad_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    height, width = two_windows(attrs["size"], attrs, attrs["low"])
    return Access(
        axes=tuple(Axis(name, n) for name, n in zip(("b", "h", "w", "c"), fixed(output.shape), strict=True)),
        inputs=((Reach(0), height.inverse(1), width.inverse(2), Reach(3)),),
        output=(Reach(0), Reach(1), Reach(2), Reach(3)),
    )


def _sum_grad_tile(tile: Tile) -> Mapping[str, Any]:
    windows = two_windows(tile.attrs["size"], tile.attrs, tile.attrs["low"])
    return {
        "image": tuple(high - low for low, high in tile.result[1:3]),
        "low": tuple(w.inverse_low(tile.box[i], tile.regions[0][i]) for i, w in enumerate(windows, 1)),
    }


def _sum_grad_grad(node: Node, dg: Node) -> tuple[Node | None, ...]:
    (dy,), attrs = node.inputs, node.attrs
    sides = zip(two_windows(attrs["size"], attrs, attrs["low"]), attrs["image"], dy.shape[1:3], strict=True)
    padding = tuple((w.low, max(0, w.high(n, m))) for w, n, m in sides)  # type: ignore[arg-type]
    return (sum_pool2d(dg, size=attrs["size"], stride=attrs["stride"], padding=padding),)


def _sum_grad_cpu(dy: np.ndarray, out: np.ndarray, *, image: Pair, size: Pair, stride: Pair, low: Pair) -> None:
    height, width = two_windows(size, {"stride": stride}, low)
    out[...] = 0
    for _, oh, ih in height.taps(out.shape[1], dy.shape[1]):
        for _, ow, iw in width.taps(out.shape[2], dy.shape[2]):
            out[:, ih, iw] += dy[:, oh, ow]


sum_pool2d_grad: Op = op(
    name="sum_pool2d_grad",
    work="reduction",
    arity=1,
    attrs={"image": REQUIRED, "size": REQUIRED, "stride": REQUIRED, "low": (0, 0)},
    kinds=FLOATS,
    clean=_sum_grad_clean,
    infer=_sum_grad_infer,
    access=_sum_grad_access,
    tile=_sum_grad_tile,
    grad=_sum_grad_grad,
    cost=lambda types, output, attrs: Cost(flops=types[0].size * attrs["size"][0] * attrs["size"][1]),
    cpu=_sum_grad_cpu,
    native=handed,
    doc="The gradient of sum_pool2d for x of height and width `image`, from dy; `low` is the padding at top and left.",
)


# -- the mean ---------------------------------------------------------------------------------------------------------
def avg_pool2d(x: Node, size: Any, stride: Any = None, padding: Any = "valid") -> Node:
    """The mean of each window of x[B,H,W,C], over what of it lies on the image; `stride` None: the window's size."""
    total = sum_pool2d(x, size=size, stride=stride, padding=padding)
    lengths = []
    for window, n, m in zip(_windows(total.attrs), x.shape[1:3], total.shape[1:3], strict=True):
        assert isinstance(n, int) and isinstance(m, int)
        counts = np.zeros(m, x.dtype.numpy)
        for _, windows, _ in window.taps(n, m):
            counts[windows] += 1
        lengths.append(counts)
    area = np.multiply.outer(*lengths)[:, :, None]
    return total / (float(area.flat[0]) if (area == area.flat[0]).all() else constant(area))
