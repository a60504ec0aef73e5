"""Operators on images: convolutions, pools, normalisation. Values of 3 axes are images one position wide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from rainshed.engine.onnx.call import Call, Converter, Result, Unsupported
from rainshed.engine.onnx.values import Order, Tensor, last, shaped
from rainshed.ops import reduce
from rainshed.ops.conv2d import conv2d, conv2d_input_grad
from rainshed.ops.elementwise import sqrt, square
from rainshed.ops.errors import GraphError
from rainshed.ops.ir import Node
from rainshed.ops.local_response_norm import window_sum
from rainshed.ops.pool2d import avg_pool2d, max_pool2d, sum_pool2d
from rainshed.ops.types import Shape
from rainshed.ops.window import Pair, Window

Sides = tuple[Pair, Pair]


# -- images -----------------------------------------------------------------------------------------------------------
def _image(call: Call) -> tuple[Node, int]:
    """Input 0 as [batch, height, width, channels], and how many axes it has in the file."""
    x = call.value(0)
    rank = len(x.shape)
    if rank not in (3, 4):
        raise Unsupported(f"{rank - 2} spatial axes")
    node = call.in_order(x, last(rank))
    if rank == 3:
        node = shaped(node, (*node.shape[:2], 1, node.shape[2]))
    if not all(isinstance(n, int) for n in node.shape[1:]):
        raise Unsupported("an image of unknown height, width or channels")
    return node, rank


def _result(node: Node, rank: int) -> Tensor:
    if rank == 3:
        node = shaped(node, (*node.shape[:2], node.shape[3]))
    return Tensor(node, last(rank))


def _pair(call: Call, name: str, rank: int, default: Any = None) -> Pair:
    given = tuple(call.attr(name, default or (1,) * (rank - 2)))
    if len(given) != rank - 2:
        raise GraphError(f"{name} is {list(given)} for {rank - 2} spatial axes")
    return given if rank == 4 else (*given, 1)


def _sides(call: Call, image: Shape, windows: tuple[Window, Window], rank: int) -> Sides:
    """The padding: above and below, left and right."""
    auto = (call.attr("auto_pad") or b"NOTSET").decode()
    given = tuple(call.attr("pads", (0,) * (2 * (rank - 2))))
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        first, second = (_same(w, n, auto == "SAME_LOWER") for w, n in zip(windows, image[1:3], strict=True))
        return first, second
    if auto not in ("NOTSET", "VALID"):
        raise Unsupported(f"auto_pad={auto}")
    if auto == "VALID":
        return (0, 0), (0, 0)
    if len(given) != 2 * (rank - 2) or min(given) < 0:
        raise GraphError(f"pads is {list(given)} for {rank - 2} spatial axes")
    return ((given[0], given[2]), (given[1], given[3])) if rank == 4 else ((given[0], given[1]), (0, 0))


def _same(window: Window, size: Any, lower: bool) -> Pair:
    total = max(0, window.extent(-(-size // window.stride)) - size)
    return (total - total // 2, total // 2) if lower else (total // 2, total - total // 2)


def _windows(kernel: Pair, stride: Pair, dilation: Pair = (1, 1)) -> tuple[Window, Window]:
    return Window(kernel[0], stride[0], 0, dilation[0]), Window(kernel[1], stride[1], 0, dilation[1])


# -- convolution ------------------------------------------------------------------------------------------------------
def _filters(call: Call, rank: int) -> Node:
    """Input 1, [out, in, kernel axes] in the file, as [kernel height, kernel width, in, out]."""
    w = call.value(1)
    if len(w.shape) != rank:
        raise GraphError(f"the image has {rank} axes, the filters {len(w.shape)}")
    wide: Any = (*w.shape, 1) if rank == 3 else w.shape
    return call.weight(1, ("reshape", wide), ("permute", (2, 3, 1, 0)))


def _with_bias(call: Call, y: Node) -> Node:
    return y + call.weight(2) if call.has(2) else y


def _conv(call: Call) -> Result:
    x, rank = _image(call)
    w = _filters(call, rank)
    kernel: Any = w.shape[:2]
    if _pair(call, "kernel_shape", rank, kernel[: rank - 2]) != kernel:
        raise GraphError(
            f"kernel_shape is {list(call.attr('kernel_shape'))}, the filters are {list(call.value(1).shape)}"
        )
    stride, dilation = _pair(call, "strides", rank), _pair(call, "dilations", rank)
    padding = _sides(call, x.shape, _windows(kernel, stride, dilation), rank)
    y = conv2d(x, w, stride=stride, padding=padding, dilation=dilation, groups=int(call.attr("group", 1)))
    return _result(_with_bias(call, y), rank)


def _conv_transpose(call: Call) -> Result:
    """The gradient of a convolution whose filters are [in, out, kernel axes] in the file."""
    x, rank = _image(call)
    call.refuse("auto_pad", b"NOTSET")
    if call.attr("output_shape") is not None:
        raise Unsupported("output_shape")
    w = _filters(call, rank)
    kernel: Any = w.shape[:2]
    stride, dilation, more = (
        _pair(call, "strides", rank), _pair(call, "dilations", rank), _pair(call, "output_padding", rank, (0,) * (rank - 2))
    )  # fmt: skip
    if rank == 3:
        more = (more[0], 0)
    _pair(call, "kernel_shape", rank, kernel[: rank - 2])
    sides = _sides(call, x.shape, _windows(kernel, stride, dilation), rank)
    sizes = zip(_windows(kernel, stride, dilation), x.shape[1:3], sides, more, strict=True)
    image = tuple(w.extent(n) - low - high + extra for w, n, (low, high), extra in sizes)  # type: ignore[arg-type]
    low = (sides[0][0], sides[1][0])
    groups = int(call.attr("group", 1))
    y = conv2d_input_grad(x, w, image=image, low=low, stride=stride, dilation=dilation, groups=groups)
    return _result(_with_bias(call, y), rank)


# -- pools ------------------------------------------------------------------------------------------------------------
def _pool(make: Callable[[Call, Node, Pair, Pair, Sides], Node]) -> Converter:
    def convert(call: Call) -> Result:
        x, rank = _image(call)
        call.attr("storage_order")
        if call.outputs > 1:
            raise Unsupported("the output Indices")
        if set(_pair(call, "dilations", rank)) != {1}:
            raise Unsupported(f"dilations={list(call.attr('dilations'))}")
        kernel, stride = _pair(call, "kernel_shape", rank), _pair(call, "strides", rank)
        windows = _windows(kernel, stride)
        sides = _sides(call, x.shape, windows, rank)
        if call.attr("ceil_mode", 0):
            whole = zip(windows, x.shape[1:3], sides, strict=True)
            first, second = (_rounded_up(w, n, side) for w, n, side in whole)  # type: ignore[arg-type]
            if (first, second) != sides and call.attr("count_include_pad", 0):
                raise Unsupported("ceil_mode with count_include_pad")
            sides = first, second
        return _result(make(call, x, kernel, stride, sides), rank)

    return convert


def _rounded_up(window: Window, size: int, sides: Pair) -> Pair:
    """Padding for one more window, if one that begins on the image or before it would still reach over its end."""
    low, high = sides
    count = -(-(size + low + high - window.kernel) // window.stride) + 1
    if (count - 1) * window.stride >= size + low:
        count -= 1
    return low, max(high, window.extent(count) - low - size)


def _average(call: Call, x: Node, size: Pair, stride: Pair, padding: Sides) -> Node:
    if call.attr("count_include_pad", 0):
        return sum_pool2d(x, size=size, stride=stride, padding=padding) * (1 / math.prod(size))
    return avg_pool2d(x, size, stride, padding)


def _greatest(call: Call, x: Node, size: Pair, stride: Pair, padding: Sides) -> Node:
    return max_pool2d(x, size=size, stride=stride, padding=padding)


def _global(function: Callable[..., Node]) -> Converter:
    """A reduction over all spatial axes."""

    def convert(call: Call) -> Result:
        x = call.tensor(0)
        over = tuple(i for i, axis in enumerate(x.order) if axis >= 2)
        return Tensor(function(x.node, axis=over, keepdims=True), x.order)

    return convert


# -- normalisation ----------------------------------------------------------------------------------------------------
def _batch_norm(call: Call) -> Result:
    """With the running statistics of the file, which training leaves as they are."""
    call.attr("momentum")
    call.refuse("training_mode", 0)
    call.refuse("spatial", 1)
    if call.outputs > 1:
        raise Unsupported("statistics as outputs")
    x = call.tensor(0)
    scale, shift = call.weight(1), call.weight(2)
    mean, var = call.weight(3, trainable=False), call.weight(4, trainable=False)
    factor = scale / sqrt(var + float(call.attr("epsilon", 1e-5)))
    return Tensor(x.node * _channels(factor, x) + _channels(shift - mean * factor, x), x.order)


def _channels(value: Node, x: Tensor) -> Node:
    """Values per channel, which is axis 1 in the file, shaped to broadcast against x."""
    after = len(x.order) - 1 - x.place(1)
    return shaped(value, (*value.shape, *(1,) * after)) if after else value


class _Normal(NamedTuple):
    """A value with mean 0 and variance 1, what its mean was, and 1 / its standard deviation."""

    y: Node
    mean: Node
    scale: Node


def _normal(x: Node, over: Order, eps: float) -> _Normal:
    mean = reduce.mean(x, axis=over, keepdims=True)
    centred = x - mean
    scale = 1 / sqrt(reduce.mean(square(centred), axis=over, keepdims=True) + eps)
    return _Normal(centred * scale, mean, scale)


def _instance_norm(call: Call) -> Result:
    x = call.tensor(0)
    over = tuple(i for i, axis in enumerate(x.order) if axis >= 2)
    y = _normal(x.node, over, float(call.attr("epsilon", 1e-5))).y
    return Tensor(y * _channels(call.weight(1), x) + _channels(call.weight(2), x), x.order)


def _layer_norm(call: Call) -> Result:
    call.refuse("stash_type", 1)
    x = call.plain(0)
    axis = call.axis(-1, x.ndim)
    y, mean, scale = _normal(x, tuple(range(axis, x.ndim)), float(call.attr("epsilon", 1e-5)))
    y = y * call.weight(1)
    return Tensor.plain(y + call.weight(2) if call.has(2) else y), Tensor.plain(mean), Tensor.plain(scale)


def _lrn(call: Call) -> Result:
    """x / (bias + alpha / size * s)**beta, with s the sum of squares over the channels around; the odd one is behind."""
    value = call.value(0)
    order = last(len(value.shape))
    x, size = call.in_order(value, order), int(call.attr("size"))
    energy = window_sum(square(x), size=size, padding=((size - 1) // 2, size // 2))
    scale = energy * (float(call.attr("alpha", 1e-4)) / size) + float(call.attr("bias", 1.0))
    return Tensor(x * scale ** -float(call.attr("beta", 0.75)), order)


TABLE: Mapping[str, Converter] = MappingProxyType(
    {
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "MaxPool": _pool(_greatest),
        "AveragePool": _pool(_average),
        "GlobalAveragePool": _global(reduce.mean),
        "GlobalMaxPool": _global(reduce.max),
        "BatchNormalization": _batch_norm,
        "InstanceNormalization": _instance_norm,
        "LayerNormalization": _layer_norm,
        "LRN": _lrn,
    }
)
