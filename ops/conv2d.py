"""Convolution of images: y[b, i, j, o] = sum over p, q, c of x[b, i*s - low + p*d, j*s - low + q*d, c] * w[p, q, c, o].

Images are [batch, height, width, channels], weights [kernel height, kernel width, channels / groups, out channels].
With groups, out channels of one group see the channels of that group only. The NumPy kernels copy out patches and
leave the rest to BLAS; the compiled ones are in conv2d_native.py. The two gradients are ops of their own, and each of
the three ops is the gradient of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rainshed.ops.access import WHOLE, Access, Axis, Reach
from rainshed.ops.conv2d_native import forward, input_gradient, weight_gradient
from rainshed.ops.errors import ShapeError
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.op import FACTORS, REQUIRED, Cost, Op, Tile, Types, op
from rainshed.ops.types import TensorType, Type, fixed, sum_type, whole_of
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
_GRAD_ATTRS = {"stride": 1, "low": (0, 0), "dilation": 1, "groups": 1}


def _kernel(name: str, w: TensorType) -> Pair:
    if len(w.shape) != 4 or not all(isinstance(n, int) and n > 0 for n in w.shape[:2]):
        raise ShapeError(f"{name}: w has the axes [kernel height, kernel width, channels, out channels]; found {w}")
    return w.shape[0], w.shape[1]  # type: ignore[return-value]


def _strides(name: str, attrs: dict[str, Any]) -> dict[str, Any]:
    groups = whole_of(attrs["groups"])
    if groups is None or groups < 1:
        raise ShapeError(f"{name}: groups is a whole number from 1 up; found {attrs['groups']!r}")
    stride, dilation = (clean_pair(name, what, attrs[what]) for what in ("stride", "dilation"))
    return {**attrs, "stride": stride, "dilation": dilation, "groups": groups}


def _check_channels(name: str, channels: Any, out: Any, per_group: Any, groups: int) -> None:
    if channels != per_group * groups or out % groups:
        raise ShapeError(
            f"{name}: x has {channels} channels, w takes {per_group} in each of {groups} groups and gives {out}",
            hint="w is [kernel height, kernel width, channels / groups, out channels]",
        )


CHANNELS = 3  # the number of the first channel axis, in the loop nest as in every operand's shape


@dataclass(frozen=True, slots=True)
class _Channels:
    """How channels lie in the loop nest: its axes for them, and how out, in and w's in channels follow these."""

    axes: tuple[Axis, ...]
    o: Reach
    c: Reach
    wc: Reach


def _channels(channels: int, out: int, groups: int, free: str) -> _Channels:
    """Without groups: two axes, `o` and `c`, summed unless `free`. With groups: one axis, cut between groups only."""
    first, other = ("o", "c") if "o" in free else ("c", "o")
    sizes = {"o": out, "c": channels}
    if groups == 1:
        axes = Axis(first, sizes[first]), Axis(other, sizes[other], "join" if other in free else "sum")
        follow = {first: Reach(CHANNELS), other: Reach(CHANNELS + 1)}
        return _Channels(axes, follow["o"], follow["c"], follow["c"])
    step = {k: max(1, n // groups) for k, n in sizes.items()}
    follow = {first: Reach(CHANNELS), other: Reach(CHANNELS, step[other], high=step[other] - 1, per=step[first])}
    return _Channels((Axis(first, sizes[first], step=step[first]),), follow["o"], follow["c"], WHOLE)


def _groups(tile: Tile, channels: int) -> int:
    """The groups within the tile, which is cut between groups only."""
    groups = int(tile.attrs["groups"])
    if groups == 1:
        return 1
    low, high = tile.box[CHANNELS]
    return (high - low) // max(1, channels // groups)


# -- forward ----------------------------------------------------------------------------------------------------------
def _clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    x, w = types
    kernel, size = _kernel("conv2d", w), image_size("conv2d", x)
    cleaned = _strides("conv2d", attrs)
    _check_channels("conv2d", x.shape[3], w.shape[3], w.shape[2], cleaned["groups"])
    return {**cleaned, "padding": clean_padding("conv2d", attrs["padding"], size, two_windows(kernel, cleaned))}


def _windows(w: TensorType, attrs: Attrs) -> Windows:
    return two_windows(_kernel("conv2d", w), attrs, lows(attrs["padding"]))


def _infer(types: Types, attrs: Attrs) -> Type:
    x, w = types
    sizes = [
        window.count(size, high)
        for window, size, (_, high) in zip(_windows(w, attrs), image_size("conv2d", x), attrs["padding"], strict=True)
    ]
    return TensorType(sum_type("conv2d", x.dtype, w.dtype), (x.shape[0], *sizes, w.shape[3]))


def _access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    x, w = types
    height, width = _windows(w, attrs)
    b, oh, ow, out = fixed(output.shape)
    channels = _channels(fixed(x.shape)[3], out, attrs["groups"], free="o")
    return Access(
        axes=(Axis("b", b), Axis("oh", oh), Axis("ow", ow), *channels.axes),
        inputs=((Reach(0), height.reach(1), width.reach(2), channels.c), (WHOLE, WHOLE, channels.wc, channels.o)),
        output=(Reach(0), Reach(1), Reach(2), channels.o),
        combine="add" if attrs["groups"] == 1 else None,
    )


def _tile(tile: Tile) -> Mapping[str, Any]:
    height, width = _windows(tile.inputs[1], tile.attrs)
    region = tile.regions[0]
    padding = (height.tile(tile.box[1], region[1]), width.tile(tile.box[2], region[2]))
    return {"padding": padding, "groups": _groups(tile, fixed(tile.output.shape)[3])}


def _grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    x, w = node.inputs
    attrs = {k: node.attrs[k] for k in ("stride", "dilation", "groups")}
    low = lows(node.attrs["padding"])
    return (
        conv2d_input_grad(dy, w, image=x.shape[1:3], low=low, **attrs),
        conv2d_weight_grad(x, dy, kernel=w.shape[:2], low=low, **attrs),
    )


def _by_group(part: np.ndarray, groups: int) -> np.ndarray:
    """[..., channels] or [..., kernel height, kernel width, channels] of patches, as [groups, rows, the rest]."""
    lead = 3  # images, rows, columns
    split = part.reshape(*part.shape[:-1], groups, part.shape[-1] // groups)
    rows, rest = int(np.prod(part.shape[:lead])), int(np.prod(part.shape[lead:]))
    if groups == 1:
        return part.reshape(1, rows, rest)
    return np.moveaxis(split, -2, 0).reshape(groups, rows, rest // groups)


def _weights(w: np.ndarray, groups: int) -> np.ndarray:
    """w as [groups, kernel height * kernel width * channels / groups, out channels / groups]."""
    kh, kw, channels, out = w.shape
    return np.moveaxis(w.reshape(kh * kw * channels, groups, out // groups), 1, 0)


def _row_bytes(w_shape: tuple[int, ...], groups: int, columns: int, itemsize: int) -> int:
    kh, kw, channels, _ = w_shape
    return kh * kw * channels * groups * columns * itemsize


def _cpu(
    x: np.ndarray,
    w: np.ndarray,
    out: np.ndarray,
    *,
    stride: Pair,
    padding: tuple[Pair, Pair],
    dilation: Pair,
    groups: int,
) -> None:
    x, w = x.astype(out.dtype, copy=False), w.astype(out.dtype, copy=False)
    windows = two_windows(w.shape[:2], {"stride": stride, "dilation": dilation}, lows(padding))
    view, weights = patches(x, windows, out.shape[1:3]), _weights(w, groups)
    for images, rows in chunks(len(out), out.shape[1], _row_bytes(w.shape, groups, out.shape[2], out.itemsize)):
        target, seen = out[images, rows], _by_group(view[images, rows], groups)
        if groups == 1 and target.flags.c_contiguous:
            np.matmul(seen[0], weights[0], out=target.reshape(seen.shape[1], out.shape[3]))
        else:
            product = np.matmul(seen, weights).reshape(groups, *target.shape[:3], -1)
            target[...] = np.moveaxis(product, 0, 3).reshape(target.shape)


def _cost(types: Types, output: Type, attrs: Attrs) -> Cost:
    w = types[1]
    return Cost(flops=2 * output.size * TensorType(w.dtype, w.shape[:3]).size)  # type: ignore[union-attr]


conv2d: Op = op(
    name="conv2d",
    work="convolution",
    arity=2,
    attrs={"stride": 1, "padding": "valid", "dilation": 1, "groups": 1},
    kinds=FACTORS,
    clean=_clean,
    infer=_infer,
    access=_access,
    tile=_tile,
    grad=_grad,
    cost=_cost,
    cpu=_cpu,
    native=forward,
    doc='Convolution of x[B,H,W,C] with w[KH,KW,C/groups,O]; padding is "valid", "same", a width, or pairs per side.',
)


# -- gradient for x ---------------------------------------------------------------------------------------------------
def _input_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    dy, w = types
    name = "conv2d_input_grad"
    _kernel(name, w)
    image_size(name, dy, "dy")
    cleaned = _strides(name, attrs)
    if dy.shape[3] != w.shape[3] or dy.shape[3] % cleaned["groups"]:
        raise ShapeError(f"{name}: dy {dy} and w {w} do not have the same out channels")
    return {**cleaned, "image": tuple(attrs["image"]), "low": tuple(attrs["low"])}


def _input_infer(types: Types, attrs: Attrs) -> Type:
    dy, w = types
    channels = w.shape[2] * attrs["groups"]
    return TensorType(sum_type("conv2d_input_grad", dy.dtype, w.dtype), (dy.shape[0], *attrs["image"], channels))


def _input_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    """Two ways to cut height and width, of which the one that moves less: windows that stay where their dy is and add what they
    give (the borders of dx move), or positions of x, to which the windows that touch them come (the borders of dy move)."""
    dy, w = types
    height, width = two_windows(_kernel("conv2d_input_grad", w), attrs, attrs["low"])
    b, h, v, c = fixed(output.shape)
    _, rows, columns, out = fixed(dy.shape)
    channels = _channels(c, out, attrs["groups"], free="c")
    weights = (WHOLE, WHOLE, channels.wc, channels.o)
    combine = "add" if attrs["groups"] == 1 else None
    if c <= out and height.covers(h, rows) and width.covers(v, columns):
        return Access(
            axes=(Axis("b", b), Axis("oh", rows, "sum"), Axis("ow", columns, "sum"), *channels.axes),
            inputs=((Reach(0), Reach(1), Reach(2), channels.o), weights),
            output=(Reach(0), height.gives(1), width.gives(2), channels.c),
            combine="add",
        )
    return Access(
        axes=(Axis("b", b), Axis("h", h), Axis("w", v), *channels.axes),
        inputs=((Reach(0), height.inverse(1), width.inverse(2), channels.o), weights),
        output=(Reach(0), Reach(1), Reach(2), channels.c),
        combine=combine,
    )


def _input_tile(tile: Tile) -> Mapping[str, Any]:
    windows = two_windows(_kernel("conv2d_input_grad", tile.inputs[1]), tile.attrs, tile.attrs["low"])
    return {
        "image": tuple(high - low for low, high in tile.result[1:3]),
        "low": tuple(w.inverse_low(tile.result[i], tile.regions[0][i]) for i, w in enumerate(windows, 1)),
        "groups": _groups(tile, fixed(tile.output.shape)[3]),
    }


def _input_grad(node: Node, dg: Node) -> tuple[Node | None, ...]:
    dy, w = node.inputs
    attrs = {k: node.attrs[k] for k in ("stride", "dilation", "groups")}
    low = node.attrs["low"]
    return _again(dg, w, dy, low, attrs), conv2d_weight_grad(dg, dy, kernel=w.shape[:2], low=low, **attrs)


def _again(x: Node, w: Node, like: Node, low: Pair, attrs: Mapping[str, Any]) -> Node:
    """conv2d(x, w) with as many windows as `like` has."""
    windows = two_windows(w.shape[:2], attrs, low)  # type: ignore[arg-type]
    padding = tuple((v.low, v.high(n, m)) for v, n, m in zip(windows, x.shape[1:3], like.shape[1:3], strict=True))  # type: ignore[arg-type]
    return conv2d(x, w, padding=padding, **attrs)


def _input_cpu(
    dy: np.ndarray, w: np.ndarray, out: np.ndarray, *, image: Pair, stride: Pair, low: Pair, dilation: Pair, groups: int
) -> None:
    dy, w = dy.astype(out.dtype, copy=False), w.astype(out.dtype, copy=False)
    height, width = two_windows(w.shape[:2], {"stride": stride, "dilation": dilation}, low)
    weights = np.swapaxes(_weights(w, groups), 1, 2)
    kh, kw, channels, _ = w.shape
    out[...] = 0
    for images, rows in chunks(len(dy), dy.shape[1], _row_bytes(w.shape, groups, dy.shape[2], out.itemsize)):
        part = dy[images, rows]
        given = np.matmul(_by_group(part, groups), weights)  # [groups, rows, kernel * channels / groups]
        given = given.reshape(groups, *part.shape[:3], kh, kw, channels)
        joined = np.moveaxis(given, 0, -2).reshape(*part.shape[:3], kh, kw, groups * channels)
        add_patches(out[images], joined, (height.after(rows.start), width))


def _input_cost(types: Types, output: Type, attrs: Attrs) -> Cost:
    dy, w = types
    return Cost(flops=2 * dy.size * TensorType(w.dtype, w.shape[:3]).size)


conv2d_input_grad: Op = op(
    name="conv2d_input_grad",
    work="convolution",
    arity=2,
    attrs={"image": REQUIRED, **_GRAD_ATTRS},
    kinds=FACTORS,
    clean=_input_clean,
    infer=_input_infer,
    access=_input_access,
    tile=_input_tile,
    grad=_input_grad,
    cost=_input_cost,
    cpu=_input_cpu,
    native=input_gradient,
    doc="The gradient of conv2d for x, whose height and width are `image`; `low` is the padding at top and left.",
)


# -- gradient for w ---------------------------------------------------------------------------------------------------
def _weight_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    x, dy = types
    name = "conv2d_weight_grad"
    image_size(name, x)
    image_size(name, dy, "dy")
    cleaned = _strides(name, attrs)
    if x.shape[0] != dy.shape[0] or x.shape[3] % cleaned["groups"] or dy.shape[3] % cleaned["groups"]:
        raise ShapeError(f"{name}: x {x} and dy {dy} do not fit together", groups=cleaned["groups"])
    return {**cleaned, "kernel": tuple(attrs["kernel"]), "low": tuple(attrs["low"])}


def _weight_infer(types: Types, attrs: Attrs) -> Type:
    x, dy = types
    dtype = sum_type("conv2d_weight_grad", x.dtype, dy.dtype)
    return TensorType(dtype, (*attrs["kernel"], x.shape[3] // attrs["groups"], dy.shape[3]))


def _weight_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    """Images and positions are summed, channels are free."""
    x, dy = types
    height, width = two_windows(attrs["kernel"], attrs, attrs["low"])
    b, oh, ow, out = fixed(dy.shape)
    channels = _channels(fixed(x.shape)[3], out, attrs["groups"], free="oc")
    return Access(
        axes=(Axis("b", b, "sum"), Axis("oh", oh, "sum"), Axis("ow", ow, "sum"), *channels.axes),
        inputs=((Reach(0), height.reach(1), width.reach(2), channels.c), (Reach(0), Reach(1), Reach(2), channels.o)),
        output=(WHOLE, WHOLE, channels.wc, channels.o),
        combine="add",
    )


def _weight_tile(tile: Tile) -> Mapping[str, Any]:
    windows = two_windows(tile.attrs["kernel"], tile.attrs, tile.attrs["low"])
    return {
        "low": tuple(w.tile(tile.box[i], tile.regions[0][i])[0] for i, w in enumerate(windows, 1)),
        "groups": _groups(tile, fixed(tile.output.shape)[3]),
    }


def _weight_grad(node: Node, dg: Node) -> tuple[Node | None, ...]:
    x, dy = node.inputs
    attrs = {k: node.attrs[k] for k in ("stride", "dilation", "groups")}
    low = node.attrs["low"]
    return conv2d_input_grad(dy, dg, image=x.shape[1:3], low=low, **attrs), _again(x, dg, dy, low, attrs)


def _weight_cpu(
    x: np.ndarray,
    dy: np.ndarray,
    out: np.ndarray,
    *,
    kernel: Pair,
    stride: Pair,
    low: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    x, dy = x.astype(out.dtype, copy=False), dy.astype(out.dtype, copy=False)
    windows = two_windows(kernel, {"stride": stride, "dilation": dilation}, low)
    view = patches(x, windows, dy.shape[1:3])
    kh, kw, channels, outs = out.shape
    total = np.zeros((groups, kh * kw * channels, outs // groups), out.dtype)
    for images, rows in chunks(len(dy), dy.shape[1], _row_bytes(out.shape, groups, dy.shape[2], out.itemsize)):
        seen = _by_group(view[images, rows], groups)
        total += np.matmul(np.swapaxes(seen, 1, 2), _by_group(dy[images, rows], groups))
    out[...] = np.moveaxis(total, 0, 1).reshape(out.shape)


def _weight_cost(types: Types, output: Type, attrs: Attrs) -> Cost:
    kh, kw, channels, _ = fixed(output.shape)  # type: ignore[union-attr]
    return Cost(flops=2 * types[1].size * kh * kw * channels)


conv2d_weight_grad: Op = op(
    name="conv2d_weight_grad",
    work="convolution",
    arity=2,
    attrs={"kernel": REQUIRED, **_GRAD_ATTRS},
    kinds=FACTORS,
    clean=_weight_clean,
    infer=_weight_infer,
    access=_weight_access,
    tile=_weight_tile,
    grad=_weight_grad,
    cost=_weight_cost,
    cpu=_weight_cpu,
    native=weight_gradient,
    doc="The gradient of conv2d for w, whose height and width are `kernel`; `low` is the padding at top and left.",
)
