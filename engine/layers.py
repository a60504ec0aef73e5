"""Layers: functions that make their variables and the nodes over them, under a name scope of their own.

    h = dense(x, 256, activation=rs.relu)          # variables dense/w and dense/b
    y = dense(h, 10)                               # dense_1/w and dense_1/b

A layer without a `name` is numbered after those that its input comes from: a build function that is called again gives
the same names. Layers side by side do not see each other, and need names of their own. Images are
[batch, height, width, channels].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rainshed.engine.graph import variable
from rainshed.engine.init import glorot_uniform, he_uniform, normal, start
from rainshed.engine.recurrent import gru, lstm
from rainshed.engine.scopes import known_size, layer, positive
from rainshed.ops.conv2d import conv2d as conv2d_op
from rainshed.ops.errors import GraphError, ShapeError
from rainshed.ops.gather import take
from rainshed.ops.ir import Node, current_origin
from rainshed.ops.local2d import local2d as local2d_op
from rainshed.ops.local_response_norm import local_response_norm as local_response_norm_op
from rainshed.ops.matmul import matmul
from rainshed.ops.normalize import batch_norm as normalize_batch
from rainshed.ops.normalize import batch_statistics
from rainshed.ops.normalize import layer_norm as normalize_layer
from rainshed.ops.pool2d import avg_pool2d as avg_pool2d_op
from rainshed.ops.pool2d import max_pool2d as max_pool2d_op
from rainshed.ops.random import dropout as dropout_op
from rainshed.ops.reshape import reshape
from rainshed.ops.types import DType, number_of, shape_text
from rainshed.ops.window import clean_padding, clean_pair, image_size, lows, two_windows

__all__ = [
    "avg_pool2d",
    "batch_norm",
    "conv2d",
    "dense",
    "dropout",
    "embedding",
    "flatten",
    "gru",
    "layer_norm",
    "local2d",
    "local_response_norm",
    "lstm",
    "max_pool2d",
]

Activation = Callable[[Node], Node] | None


def _finished(y: Node, bias: tuple[int, ...] | None, activation: Activation) -> Node:
    if bias is not None:
        y = y + variable("b", bias, y.dtype)
    return y if activation is None else activation(y)


def dense(
    x: Node,
    units: int,
    *,
    activation: Activation = None,
    bias: bool = True,
    init: Any = glorot_uniform,
    name: str | None = None,
) -> Node:
    """Fully connected: activation(x @ w + b).

    Shapes  x: [..., n]; w: [n, units]; b: [units]; result: [..., units]
    """
    with layer("dense", x, name):
        n, units = known_size("dense", x, -1), positive("dense", "units", units)
        w = variable("w", (n, units), x.dtype, init=start(init, n, units))
        return _finished(matmul(x, w), (units,) if bias else None, activation)


def conv2d(
    x: Node,
    filters: int,
    size: int | tuple[int, int],
    *,
    stride: int | tuple[int, int] = 1,
    padding: Any = "same",
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    activation: Activation = None,
    bias: bool = True,
    init: Any = he_uniform,
    name: str | None = None,
) -> Node:
    """Convolution with windows of `size`.

    Shapes   x: [B, H, W, C]; w: [size, size, C / groups, filters]; b: [filters]; result: [B, OH, OW, filters]
    padding  "same", "valid", a width, or ((top, bottom), (left, right))
    """
    with layer("conv2d", x, name):
        channels, filters = known_size("conv2d", x, -1), positive("conv2d", "filters", filters)
        if channels % positive("conv2d", "groups", groups):
            raise ShapeError(f"conv2d: {channels} channels are no {groups} equal groups", built_at=current_origin())
        high, wide = _pair("conv2d", "size", size)
        fans = high * wide * channels // groups, high * wide * filters // groups
        w = variable("w", (high, wide, channels // groups, filters), x.dtype, init=start(init, *fans))
        y = conv2d_op(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups)
        return _finished(y, (filters,) if bias else None, activation)


def local2d(
    x: Node,
    filters: int,
    size: int | tuple[int, int],
    *,
    stride: int | tuple[int, int] = 1,
    padding: Any = "valid",
    activation: Activation = None,
    bias: bool = True,
    init: Any = he_uniform,
    name: str | None = None,
) -> Node:
    """Locally connected: windows as in a convolution, but each position has weights and a bias of its own.

    Shapes  x: [B, H, W, C]; w: [OH, OW, size, size, C, filters]; b: [OH, OW, filters]; result: [B, OH, OW, filters]
    Source  Dean et al. 2012, figure 1
    """
    with layer("local2d", x, name):
        channels, filters = known_size("local2d", x, -1), positive("local2d", "filters", filters)
        high, wide = _pair("local2d", "size", size)
        rows, columns = _windows("local2d", x, (high, wide), stride, padding)
        init = start(init, high * wide * channels, high * wide * filters)
        w = variable("w", (rows, columns, high, wide, channels, filters), x.dtype, init=init)
        y = local2d_op(x, w, stride=stride, padding=padding)
        return _finished(y, (rows, columns, filters) if bias else None, activation)


def _pair(kind: str, what: str, value: Any) -> tuple[int, int]:
    try:
        return clean_pair(kind, what, value)
    except ShapeError as error:
        raise ShapeError(error.message, built_at=current_origin()) from None


def _windows(kind: str, x: Node, size: tuple[int, int], stride: Any, padding: Any) -> tuple[int, int]:
    """How many windows lie on x, down and across."""
    stride = _pair(kind, "stride", stride)
    try:
        image = image_size(kind, x.tensor_type)
        sides = clean_padding(kind, padding, image, two_windows(size, {"stride": stride}))
    except ShapeError as error:
        raise ShapeError(error.message, **{**error.detail, "built_at": current_origin()}) from None
    windows = two_windows(size, {"stride": stride}, lows(sides))
    rows, columns = (w.count(n, high) for w, n, (_, high) in zip(windows, image, sides, strict=True))
    return rows, columns


def max_pool2d(x: Node, size: Any, *, stride: Any = None, padding: Any = "valid", name: str | None = None) -> Node:
    """The greatest value in each window; `stride` None: the window's size."""
    with layer("max_pool2d", x, name):
        return max_pool2d_op(x, size=size, stride=stride, padding=padding)


def avg_pool2d(x: Node, size: Any, *, stride: Any = None, padding: Any = "valid", name: str | None = None) -> Node:
    """The mean of each window, over the positions that lie on the image; `stride` None: the window's size."""
    with layer("avg_pool2d", x, name):
        return avg_pool2d_op(x, size, stride, padding)


def local_response_norm(
    x: Node, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, name: str | None = None
) -> Node:
    """x / (k + alpha * s)**beta, with s the sum of x**2 over the `size` channels around each."""
    with layer("local_response_norm", x, name):
        return local_response_norm_op(x, size=size, alpha=alpha, beta=beta, k=k)


def layer_norm(x: Node, *, eps: float = 1e-5, name: str | None = None) -> Node:
    """Each example's last axis shifted to mean 0 and scaled to variance 1, then scaled and shifted as learned."""
    with layer("layer_norm", x, name):
        n = known_size("layer_norm", x, -1)
        scale, shift = variable("scale", (n,), x.dtype, init=1.0), variable("shift", (n,), x.dtype)
        return normalize_layer(x, scale, shift, eps=eps)


def batch_norm(
    x: Node, *, training: bool, momentum: float = 0.9, eps: float = 1e-5, name: str | None = None
) -> tuple[Node, dict[str, Node]]:
    """Each channel (last axis) brought to mean 0 and variance 1, then scaled and shifted as learned.

    training  True: by the mean and variance of this batch; the second result then holds the updates of the running
              means, for `rs.graph(..., updates=...)`. False: by the running means; no updates
    momentum  how much of a running mean is kept at each step
    """
    share = number_of(momentum)
    if share is None or not 0 <= share < 1:
        what = f"batch_norm: momentum is at least 0 and below 1; found {momentum!r}"
        raise GraphError(what, built_at=current_origin())
    with layer("batch_norm", x, name):
        n = known_size("batch_norm", x, -1)
        scale, shift = variable("scale", (n,), x.dtype, init=1.0), variable("shift", (n,), x.dtype)
        mean = variable("mean", (n,), x.dtype, trainable=False)
        var = variable("var", (n,), x.dtype, init=1.0, trainable=False)
        if not training:
            return normalize_batch(x, scale, shift, statistics=(mean, var), eps=eps), {}
        now = batch_statistics(x)
        pairs = ((mean, now.mean), (var, now.var))
        updates = {old.name: old * share + new * (1 - share) for old, new in pairs}
        return normalize_batch(x, scale, shift, eps=eps), updates


def dropout(x: Node, rate: float, *, training: bool = True, seed: int = 0, name: str | None = None) -> Node:
    """x with each element set to 0 with probability `rate` and the others scaled up; x itself where not training."""
    with layer("dropout", x, name):
        return dropout_op(x, rate, name=current_origin().scope, seed=seed) if training else x


def embedding(
    ids: Node, count: int, size: int, *, dtype: str | DType = "float32", init: Any = None, name: str | None = None
) -> Node:
    """A learned vector for each id from 0 to count - 1.

    Shapes  ids: int[...]; w: [count, size]; result: [..., size]
    """
    with layer("embedding", ids, name):
        count, size = positive("embedding", "count", count), positive("embedding", "size", size)
        init = normal() if init is None else start(init, count, size)
        return take(variable("w", (count, size), dtype, init=init), ids, axis=0)


def flatten(x: Node) -> Node:
    """All axes but the first as one."""
    if not x.ndim or not all(isinstance(n, int) for n in x.shape[1:]):
        what = f"flatten: {shape_text(x.shape)} has no known axes behind the first"
        raise ShapeError(what, built_at=current_origin())
    return reshape(x, shape=(x.shape[0], math.prod(n for n in x.shape[1:] if isinstance(n, int))))
