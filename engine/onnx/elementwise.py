"""Element-wise operators: each input is put in the order that the first whole one has, and the op applied."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from types import MappingProxyType
from typing import Any

import numpy as np

from rainshed.engine.onnx.call import Call, Converter, Result, Unsupported
from rainshed.engine.onnx.values import Known, Order, Tensor, Value, identity, shaped
from rainshed.engine.standard import clip
from rainshed.ops import elementwise as ew
from rainshed.ops.ir import Node
from rainshed.ops.types import DTYPES

Function = Callable[..., Node]


def aligned(call: Call, values: Sequence[Value]) -> tuple[list[Node], Order]:
    """The values as nodes that broadcast against each other, and the order of their axes."""
    rank = max(len(v.shape) for v in values)
    order = next((v.order for v in values if isinstance(v, Tensor) and len(v.shape) == rank), None)
    if order is None:
        order = identity(rank)
        return [_stretched(call, v, order) for v in values], order
    return [_short(call, v, order) if isinstance(v, Known) else _stretched(call, v, order) for v in values], order


def _stretched(call: Call, value: Value, order: Order) -> Node:
    """The value with axes of size 1 before its own, in this order."""
    more = len(order) - len(value.shape)
    if isinstance(value, Known):
        return call.in_order(value.reshaped((1,) * more + value.shape), order)
    node = call.in_order(value, tuple(axis - more for axis in order if axis >= more))
    return shaped(node, tuple(value.shape[axis - more] if axis >= more else 1 for axis in order)) if more else node


def _short(call: Call, value: Known, order: Order) -> Node:
    """The same without the axes of size 1 in front, which say nothing beside a value that has them all."""
    whole = value.reshaped((1,) * (len(order) - len(value.shape)) + value.shape).permuted(order)
    first = next((i for i, size in enumerate(whole.shape) if size != 1), len(order))
    short = whole.reshaped(whole.shape[first:])
    return call.in_order(short, identity(len(short.shape)))


def _applied(call: Call, function: Function, values: Sequence[Value]) -> Tensor:
    nodes, order = aligned(call, values)
    node = function(*nodes)
    return Tensor(node, order if node.ndim == len(order) else identity(node.ndim))


def _of(function: Function) -> Converter:
    """One ONNX input for each argument."""
    return lambda call: _applied(call, function, [call.value(i) for i in range(len(call.inputs))])


def _chain(function: Function) -> Converter:
    """Any number of inputs, two by two."""

    def convert(call: Call) -> Result:
        values: list[Value] = [call.value(i) for i in range(len(call.inputs))]
        return reduce(lambda a, b: _applied(call, function, [a, b]), values[1:], values[0])

    return convert


def _with(make: Callable[[Call, Node], Node]) -> Converter:
    """One input, and attributes."""

    def convert(call: Call) -> Result:
        x = call.tensor(0)
        return Tensor(make(call, x.node), x.order)

    return convert


# -- operators that are more than one op of ours ----------------------------------------------------------------------
def _divide(a: Node, b: Node) -> Node:
    """Integers are divided towards zero."""
    if a.dtype.kind == "float":
        return ew.divide(a, b)
    return ew.floor_divide(ew.abs(a), ew.abs(b)) * ew.sign(a) * ew.sign(b)


def _pow(call: Call) -> Result:
    """The result has the base's type, whatever the exponent's is; whole numbers to others are powers of floats, cut off."""
    base, power = call.value(0), call.value(1)
    (b, p), order = aligned(call, [base, power])
    if isinstance(power, Known) and power.array.size == 1 and power.array.item() == 2:
        return Tensor(ew.square(b), order)
    if b.dtype.kind == "int" and p.dtype.kind == "float":
        wide = ew.pow(ew.astype(b, dtype="float64"), ew.astype(p, dtype="float64"))
        return Tensor(ew.astype(wide, dtype=b.dtype), order)
    return Tensor(ew.pow(b, p if p.dtype is b.dtype else ew.astype(p, dtype=b.dtype)), order)


def _mean(call: Call) -> Result:
    total = _chain(ew.add)(call)
    assert not isinstance(total, tuple)
    summed = call.as_tensor(total)
    return Tensor(summed.node * (1 / len(call.inputs)), summed.order)


NAMES: Mapping[int, str] = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 11: "float64"}  # of TensorProto.DataType


def dtype_named(number: int) -> Any:
    """The element type that a number of the file stands for."""
    if number not in NAMES:
        raise Unsupported(f"element type {number}; known are {', '.join(d.name for d in DTYPES)}")
    return NAMES[number]


def _cast(call: Call) -> Result:
    call.attr("saturate")  # concerns 8-bit floats only
    dtype = dtype_named(call.attr("to"))
    x = call.value(0)
    if isinstance(x, Known) and x.weight and x.array.dtype == dtype:
        return x
    x = call.as_tensor(x)
    return x if x.node.dtype.name == dtype else Tensor(ew.astype(x.node, dtype=dtype), x.order)


def _clip(call: Call) -> Result:
    x = call.tensor(0)
    low: Any = call.attr("min")
    high: Any = call.attr("max")
    if call.has(1):
        low = call.in_order(call.value(1), ())
    if call.has(2):
        high = call.in_order(call.value(2), ())
    return Tensor(clip(x.node, low, high), x.order)


def _dropout(call: Call) -> Result:
    """The identity: an imported graph predicts. The mask, if it is read, is all true."""
    for name in ("ratio", "seed"):
        call.attr(name)
    if call.has(2) and bool(call.known(2, "training_mode")):
        raise Unsupported("training_mode=1")
    x = call.value(0)
    if call.outputs < 2:
        return x
    if not all(isinstance(n, int) for n in x.shape):
        raise Unsupported("a mask of unknown size")
    return x, Known.of(np.ones(x.shape, bool), f"{call.output}/mask")  # type: ignore[arg-type]


def _leaky(call: Call, x: Node) -> Node:
    return ew.relu(x) + ew.minimum(x, 0) * float(call.attr("alpha", 0.01))


def _prelu(x: Node, slope: Node) -> Node:
    return ew.relu(x) + ew.minimum(x, 0) * slope


def _elu(call: Call, x: Node) -> Node:
    return ew.relu(x) + ew.expm1(ew.minimum(x, 0)) * float(call.attr("alpha", 1.0))


def _selu(call: Call, x: Node) -> Node:
    alpha, gamma = call.attr("alpha", 1.67326319217681884765625), call.attr("gamma", 1.05070102214813232421875)
    return ew.relu(x) * float(gamma) + ew.expm1(ew.minimum(x, 0)) * float(alpha * gamma)


def _hard_sigmoid(call: Call, x: Node) -> Node:
    return clip(x * float(call.attr("alpha", 0.2)) + float(call.attr("beta", 0.5)), 0, 1)


def _gelu(call: Call, x: Node) -> Node:
    call.refuse("approximate", b"none", b"tanh")
    if call.attr("approximate") == b"tanh":
        inner = ew.tanh((x + x * ew.square(x) * 0.044715) * math.sqrt(2 / math.pi))
    else:
        inner = ew.erf(x * math.sqrt(0.5))
    return x * (inner + 1) * 0.5


SIMPLE: Mapping[str, Function] = MappingProxyType(
    {
        "Sub": ew.subtract, "Mul": ew.multiply, "Add": ew.add, "Div": _divide,
        "Relu": ew.relu, "Sigmoid": ew.sigmoid, "Tanh": ew.tanh, "Exp": ew.exp, "Log": ew.log, "Neg": ew.negative,
        "Sqrt": ew.sqrt, "Reciprocal": ew.reciprocal, "Abs": ew.abs, "Erf": ew.erf, "Sign": ew.sign,
        "Floor": ew.floor, "Ceil": ew.ceil, "Round": ew.round, "Softplus": ew.softplus, "IsNaN": ew.isnan,
        "Sin": ew.sin, "Cos": ew.cos, "Tan": ew.tan, "Asin": ew.asin, "Acos": ew.acos, "Atan": ew.atan,
        "Sinh": ew.sinh, "Cosh": ew.cosh, "Asinh": ew.asinh, "Acosh": ew.acosh, "Atanh": ew.atanh,
        "Equal": ew.equal, "Less": ew.less, "LessOrEqual": ew.less_equal,
        "Greater": ew.greater, "GreaterOrEqual": ew.greater_equal, "Where": ew.where,
        "And": ew.logical_and, "Or": ew.logical_or, "Xor": ew.logical_xor, "Not": ew.logical_not,
        "PRelu": _prelu, "Softsign": lambda x: x / (ew.abs(x) + 1),
        "HardSwish": lambda x: x * clip(x * (1 / 6) + 0.5, 0, 1), "Mish": lambda x: x * ew.tanh(ew.softplus(x)),
    }
)  # fmt: skip

TABLE: Mapping[str, Converter] = MappingProxyType(
    {
        **{name: _of(function) for name, function in SIMPLE.items()},
        "Sum": _chain(ew.add), "Max": _chain(ew.maximum), "Min": _chain(ew.minimum), "Mean": _mean,
        "Pow": _pow, "Cast": _cast, "Clip": _clip, "Dropout": _dropout, "Identity": lambda call: call.value(0),
        "LeakyRelu": _with(_leaky), "Elu": _with(_elu), "Selu": _with(_selu),
        "HardSigmoid": _with(_hard_sigmoid), "Gelu": _with(_gelu),
    }
)  # fmt: skip
