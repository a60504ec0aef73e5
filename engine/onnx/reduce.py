"""Operators that reduce axes: sums, extremes, softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from rainshed.engine.onnx.call import Call, Converter, Result
from rainshed.engine.onnx.values import Tensor, identity, shaped
from rainshed.engine.standard import where
from rainshed.ops import reduce
from rainshed.ops.elementwise import abs, exp, isfinite, log, sqrt, square
from rainshed.ops.ir import Node
from rainshed.ops.softmax import log_softmax, softmax
from rainshed.ops.types import size_of

Function = Callable[..., Node]


def _result(x: Tensor, node: Node, over: tuple[int, ...], keepdims: bool) -> Tensor:
    if keepdims:
        return Tensor(node, x.order)
    kept = [axis for i, axis in enumerate(x.order) if i not in over]
    return Tensor(node, tuple(sorted(kept).index(axis) for axis in kept))


def _over(function: Function, before: Function | None = None, after: Function | None = None) -> Converter:
    """A reduction, with element-wise functions before and after it."""

    def convert(call: Call) -> Result:
        x, keepdims = call.tensor(0), bool(call.attr("keepdims", 1))
        rank = len(x.order)
        given = call.attr("axes") or (call.ints(1, "the axes") if call.has(1) else ())
        nothing = bool(call.attr("noop_with_empty_axes", 0)) and not given
        over = tuple(x.place(call.at(axis, rank)) for axis in given or identity(rank)) if not nothing else ()
        node = before(x.node) if before else x.node
        node = function(node, axis=over, keepdims=keepdims) if over else node
        return _result(x, after(node) if after else node, over, keepdims)

    return convert


def _extreme(numbers: Function, truths: Function) -> Function:
    return lambda x, *, axis, keepdims: (truths if x.dtype.kind == "bool" else numbers)(x, axis=axis, keepdims=keepdims)


def _log_sum_exp(x: Node, *, axis: tuple[int, ...], keepdims: bool) -> Node:
    top = reduce.max(x, axis=axis, keepdims=True)
    top = where(isfinite(top), top, 0)
    return log(reduce.sum(exp(x - top), axis=axis, keepdims=keepdims)) + reduce.max(top, axis=axis, keepdims=keepdims)


def _arg(function: Function) -> Converter:
    def convert(call: Call) -> Result:
        call.refuse("select_last_index", 0)
        x, keepdims = call.tensor(0), bool(call.attr("keepdims", 1))
        at = x.place(call.axis(0, len(x.order)))
        return _result(x, function(x.node, axis=at, keepdims=keepdims), (at,), keepdims)

    return convert


def _soft(function: Function) -> Converter:
    """Along one axis; before version 13 over all axes from one on."""

    def convert(call: Call) -> Result:
        x = call.tensor(0)
        rank = len(x.order)
        if call.opset >= 13:
            return Tensor(function(x.node, axis=x.place(call.axis(-1, rank))), x.order)
        axis = call.axis(1, rank)
        long = [a for a in range(axis, rank) if x.shape[a] != 1]
        if len(long) <= 1:
            return Tensor(function(x.node, axis=x.place(long[0] if long else axis)), x.order)
        flat = shaped(call.plain(0), (*x.shape[:axis], size_of(x.shape[axis:])))
        return Tensor.plain(shaped(function(flat, axis=axis), x.shape))

    return convert


TABLE: Mapping[str, Converter] = MappingProxyType(
    {
        "ReduceSum": _over(reduce.sum),
        "ReduceMean": _over(reduce.mean),
        "ReduceMax": _over(_extreme(reduce.max, reduce.any)),
        "ReduceMin": _over(_extreme(reduce.min, reduce.all)),
        "ReduceProd": _over(reduce.prod),
        "ReduceL1": _over(reduce.sum, before=abs),
        "ReduceL2": _over(reduce.sum, before=square, after=sqrt),
        "ReduceSumSquare": _over(reduce.sum, before=square),
        "ReduceLogSum": _over(reduce.sum, after=log),
        "ReduceLogSumExp": _over(_log_sum_exp),
        "ArgMax": _arg(reduce.argmax),
        "ArgMin": _arg(reduce.argmin),
        "Softmax": _soft(softmax),
        "LogSoftmax": _soft(log_softmax),
    }
)
