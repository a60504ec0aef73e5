"""Element-wise ops: one row each. A row holds NumPy's function (the truth), the scalar formula from which fused kernels for
CPU and CUDA are generated, the element types it takes, and its gradient.

Names and type rules follow the Python Array API standard; the rest (sigmoid, relu, ...) is named as neural networks name it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from rainshed.ops.access import Access, Axis, Reach
from rainshed.ops.bf16_cast import cast_calls, is_short_cast
from rainshed.ops.broadcast import unbroadcast
from rainshed.ops.errors import DTypeError
from rainshed.ops.exponential import kernel as float32_kernel
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.op import ANY, FLOATS, MOVED, NUMBERS, REQUIRED, Bind, Call, Cost, Op, Types, op
from rainshed.ops.scalar import formula_rule
from rainshed.ops.types import DType, TensorType, Type, bool_, dtype_of, fixed, promote

INTS = ("int",)
BITS = ("int", "bool")
BOOLS = ("bool",)

# The gradient of a row: (inputs..., y, dy) -> one node per input, before un-broadcasting; None where there is none.
Slope = Callable[..., tuple[Node | None, ...]]


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    ufunc: Callable[..., Any]
    formula: str
    kinds: tuple[str, ...] = FLOATS
    slope: Slope | None = None
    to_bool: bool = False
    flops: int = 1

    @property
    def arity(self) -> int:
        return 1 + ("x1" in self.formula)


def _sigmoid(x: np.ndarray, out: np.ndarray) -> None:
    np.negative(x, out=out)
    np.exp(out, out=out, where=np.isfinite(out) | (out < 0))
    out += 1
    np.reciprocal(out, out=out)


def _tanh(x: np.ndarray, out: np.ndarray) -> None:
    np.tanh(x, out=out)


def _softplus(x: np.ndarray, out: np.ndarray) -> None:
    np.logaddexp(x, x.dtype.type(0), out=out)


def _relu(x: np.ndarray, out: np.ndarray) -> None:
    np.maximum(x, x.dtype.type(0), out=out)


def _step_positive(x: np.ndarray, out: np.ndarray) -> None:
    np.greater(x, 0, out=out, casting="unsafe")


def _erf_cpu(x: np.ndarray, out: np.ndarray) -> None:
    flat, result = np.ravel(x), np.empty(x.size, x.dtype)
    for i in range(flat.size):
        result[i] = math.erf(flat[i])
    out[...] = result.reshape(x.shape)


def _pow_slope(x: Node, p: Node, y: Node, dy: Node) -> tuple[Node, Node]:
    positive = x > 0
    safe = where(positive, x, x * 0 + 1)
    return dy * p * x ** (p - 1), where(positive, dy * y * log(safe), y * 0)


def _tie(x: Node, b: Node, y: Node, dy: Node) -> tuple[Node, Node]:
    """max and min: the gradient goes to the winner, half to each where they are equal."""
    to_x = astype(equal(x, y), dtype=dy.dtype)
    to_b = astype(equal(b, y), dtype=dy.dtype)
    both = to_x + to_b
    return dy * to_x / both, dy * to_b / both


# Python's roundings give whole numbers: the sign of zero is put back; what is too large to have a fraction stays.
_ROUNDED = "(math.copysign({}(x0), x0) if abs(x0) < 4503599627370496.0 else x0)"

ROWS = (
    # Array API, arithmetic
    Row("add", np.add, "x0 + x1", NUMBERS, lambda a, b, y, d: (d, d)),
    Row("subtract", np.subtract, "x0 - x1", NUMBERS, lambda a, b, y, d: (d, -d)),
    Row("multiply", np.multiply, "x0 * x1", NUMBERS, lambda a, b, y, d: (d * b, d * a)),
    Row("divide", np.divide, "x0 / x1", FLOATS, lambda a, b, y, d: (d / b, -d * y / b), flops=4),
    Row("floor_divide", np.floor_divide, "x0 // x1", NUMBERS, lambda a, b, y, d: (None, None), flops=4),
    Row("remainder", np.remainder, "x0 % x1", NUMBERS, lambda a, b, y, d: (d, -d * floor(a / b)), flops=4),
    Row("pow", np.power, "x0 ** x1", NUMBERS, _pow_slope, flops=20),
    Row("negative", np.negative, "-x0", NUMBERS, lambda x, y, d: (-d,)),
    Row("abs", np.abs, "abs(x0)", NUMBERS, lambda x, y, d: (d * sign(x),)),
    Row("sign", np.sign, "(1 if x0 > 0 else (-1 if x0 < 0 else x0))", NUMBERS, lambda x, y, d: (None,)),
    Row("square", np.square, "x0 * x0", NUMBERS, lambda x, y, d: (d * x * 2,)),
    Row("sqrt", np.sqrt, "math.sqrt(x0)", FLOATS, lambda x, y, d: (d * 0.5 / y,), flops=4),
    Row("reciprocal", np.reciprocal, "1 / x0", FLOATS, lambda x, y, d: (-d * y * y,), flops=4),
    Row("maximum", np.maximum, "(x0 if x0 > x1 or x0 != x0 else x1)", NUMBERS, _tie),
    Row("minimum", np.minimum, "(x0 if x0 < x1 or x0 != x0 else x1)", NUMBERS, _tie),
    Row("hypot", np.hypot, "math.hypot(x0, x1)", FLOATS, lambda a, b, y, d: (d * a / y, d * b / y), flops=8),
    Row("copysign", np.copysign, "math.copysign(x0, x1)", FLOATS, lambda a, b, y, d: (d * sign(a) * sign(y), None)),
    # exponentials and logarithms
    Row("exp", np.exp, "math.exp(x0)", FLOATS, lambda x, y, d: (d * y,), flops=10),
    Row("expm1", np.expm1, "math.expm1(x0)", FLOATS, lambda x, y, d: (d * (y + 1),), flops=10),
    Row("log", np.log, "math.log(x0)", FLOATS, lambda x, y, d: (d / x,), flops=10),
    Row("log1p", np.log1p, "math.log1p(x0)", FLOATS, lambda x, y, d: (d / (x + 1),), flops=10),
    Row("log2", np.log2, "math.log2(x0)", FLOATS, lambda x, y, d: (d / (x * math.log(2.0)),), flops=10),
    Row("log10", np.log10, "math.log10(x0)", FLOATS, lambda x, y, d: (d / (x * math.log(10.0)),), flops=10),
    Row(
        "logaddexp",
        np.logaddexp,
        "(x0 + 0.6931471805599453 if x0 == x1 else (x0 if x0 > x1 else x1) + math.log1p(math.exp(-abs(x0 - x1))))",
        FLOATS,
        lambda a, b, y, d: (d * exp(a - y), d * exp(b - y)),
        flops=20,
    ),
    # trigonometry
    Row("sin", np.sin, "math.sin(x0)", FLOATS, lambda x, y, d: (d * cos(x),), flops=10),
    Row("cos", np.cos, "math.cos(x0)", FLOATS, lambda x, y, d: (-d * sin(x),), flops=10),
    Row("tan", np.tan, "math.tan(x0)", FLOATS, lambda x, y, d: (d * (y * y + 1),), flops=10),
    Row("asin", np.arcsin, "math.asin(x0)", FLOATS, lambda x, y, d: (d / sqrt(1.0 - x * x),), flops=10),
    Row("acos", np.arccos, "math.acos(x0)", FLOATS, lambda x, y, d: (-d / sqrt(1.0 - x * x),), flops=10),
    Row("atan", np.arctan, "math.atan(x0)", FLOATS, lambda x, y, d: (d / (x * x + 1),), flops=10),
    Row(
        "atan2",
        np.arctan2,
        "math.atan2(x0, x1)",
        FLOATS,
        lambda a, b, y, d: (d * b / (a * a + b * b), -d * a / (a * a + b * b)),
        flops=10,
    ),
    Row("sinh", np.sinh, "math.sinh(x0)", FLOATS, lambda x, y, d: (d * cosh(x),), flops=10),
    Row("cosh", np.cosh, "math.cosh(x0)", FLOATS, lambda x, y, d: (d * sinh(x),), flops=10),
    Row("tanh", float32_kernel("tanh", _tanh), "math.tanh(x0)", FLOATS, lambda x, y, d: (d * (1.0 - y * y),), flops=10),
    Row("asinh", np.arcsinh, "math.asinh(x0)", FLOATS, lambda x, y, d: (d / sqrt(x * x + 1),), flops=10),
    Row("acosh", np.arccosh, "math.acosh(x0)", FLOATS, lambda x, y, d: (d / sqrt(x * x - 1),), flops=10),
    Row("atanh", np.arctanh, "math.atanh(x0)", FLOATS, lambda x, y, d: (d / (1.0 - x * x),), flops=10),
    # rounding: constant between the steps, so no gradient passes
    Row("floor", np.floor, _ROUNDED.format("math.floor"), FLOATS, lambda x, y, d: (None,)),
    Row("ceil", np.ceil, _ROUNDED.format("math.ceil"), FLOATS, lambda x, y, d: (None,)),
    Row("trunc", np.trunc, _ROUNDED.format("math.trunc"), FLOATS, lambda x, y, d: (None,)),
    Row("round", np.rint, _ROUNDED.format("round"), FLOATS, lambda x, y, d: (None,)),
    # comparisons and tests
    Row("equal", np.equal, "x0 == x1", ANY, to_bool=True),
    Row("not_equal", np.not_equal, "x0 != x1", ANY, to_bool=True),
    Row("less", np.less, "x0 < x1", NUMBERS, to_bool=True),
    Row("less_equal", np.less_equal, "x0 <= x1", NUMBERS, to_bool=True),
    Row("greater", np.greater, "x0 > x1", NUMBERS, to_bool=True),
    Row("greater_equal", np.greater_equal, "x0 >= x1", NUMBERS, to_bool=True),
    Row("isfinite", np.isfinite, "math.isfinite(x0)", FLOATS, to_bool=True),
    Row("isinf", np.isinf, "math.isinf(x0)", FLOATS, to_bool=True),
    Row("isnan", np.isnan, "x0 != x0", FLOATS, to_bool=True),
    Row("signbit", np.signbit, "math.copysign(1.0, x0) < 0", FLOATS, to_bool=True),
    # logic and bits
    Row("logical_and", np.logical_and, "x0 and x1", BOOLS, to_bool=True),
    Row("logical_or", np.logical_or, "x0 or x1", BOOLS, to_bool=True),
    Row("logical_xor", np.logical_xor, "x0 != x1", BOOLS, to_bool=True),
    Row("logical_not", np.logical_not, "not x0", BOOLS, to_bool=True),
    Row("bitwise_and", np.bitwise_and, "x0 & x1", BITS),
    Row("bitwise_or", np.bitwise_or, "x0 | x1", BITS),
    Row("bitwise_xor", np.bitwise_xor, "x0 ^ x1", BITS),
    Row("bitwise_invert", np.invert, "~x0", INTS),
    Row("bitwise_left_shift", np.left_shift, "x0 << x1", INTS),
    Row("bitwise_right_shift", np.right_shift, "x0 >> x1", INTS),
    # neural networks
    Row(
        "sigmoid",
        float32_kernel("sigmoid", _sigmoid),
        "1 / (1 + math.exp(-x0))",
        FLOATS,
        lambda x, y, d: (d * y * (1.0 - y),),
        flops=12,
    ),
    Row("relu", _relu, "(x0 if x0 > 0 or x0 != x0 else 0)", NUMBERS, lambda x, y, d: (d * step_positive(y),)),
    Row("step_positive", _step_positive, "(1 if x0 > 0 else 0)", FLOATS, lambda x, y, d: (None,)),
    Row(
        "softplus",
        _softplus,
        "(x0 if x0 > 0 else 0) + math.log1p(math.exp(-abs(x0)))",
        FLOATS,
        lambda x, y, d: (d * sigmoid(x),),
        flops=20,
    ),
    Row(
        "erf",
        _erf_cpu,
        "math.erf(x0)",
        FLOATS,
        lambda x, y, d: (d * exp(-x * x) * (2.0 / math.sqrt(math.pi)),),
        flops=20,
    ),
)


def same_index(types: Types, output: TensorType, attrs: Attrs) -> Access:
    """The access of an op whose inputs all have the result's shape: element i needs element i."""
    axes = tuple(Axis(f"b{i}", size) for i, size in enumerate(fixed(output.shape)))
    reach = tuple(Reach(i) for i in range(len(axes)))
    return Access(axes=axes, inputs=(reach,) * len(types), output=reach)


def _gradient(slope: Slope) -> Callable[[Node, Node], tuple[Node | None, ...]]:
    def grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
        parts = slope(*node.inputs, node, dy)
        return tuple(
            None if part is None else unbroadcast(part, x.shape) for part, x in zip(parts, node.inputs, strict=True)
        )

    return grad


def _same_dtype(name: str) -> Callable[[Types], DType]:
    return lambda types: promote(name, *(t.dtype for t in types))


def _compared(name: str) -> Callable[[Types], DType]:
    def rule(types: Types) -> DType:
        promote(name, *(t.dtype for t in types))
        return bool_

    return rule


def _kernel(ufunc: Callable[..., Any], mixed: bool) -> Callable[..., None]:
    def cpu(*operands: np.ndarray) -> None:
        # A division by zero or an overflow gives inf or NaN, as IEEE 754 and the Array API say: no warning.
        with np.errstate(all="ignore"):
            *inputs, out = operands
            if mixed and inputs[0].dtype != inputs[1].dtype:
                common = np.result_type(*inputs)
                inputs = [x.astype(common) for x in inputs]
            ufunc(*inputs, out=out)

    return cpu


def _from_row(row: Row) -> Op:
    return op(
        name=row.name,
        signature=",".join(["()"] * row.arity) + "->()",
        dtype=_compared(row.name) if row.to_bool else _same_dtype(row.name),
        kinds=row.kinds,
        grad=_gradient(row.slope) if row.slope is not None else None,
        cost=lambda: Cost(flops=row.flops),
        cpu=_kernel(row.ufunc, mixed=row.arity == 2),
        formula=row.formula,
        cuda=formula_rule(row.formula),
        doc=f"Element-wise {row.name.replace('_', ' ')}.",
    )


ELEMENTWISE: Mapping[str, Op] = MappingProxyType({row.name: _from_row(row) for row in ROWS})

add: Op = ELEMENTWISE["add"]
subtract: Op = ELEMENTWISE["subtract"]
multiply: Op = ELEMENTWISE["multiply"]
divide: Op = ELEMENTWISE["divide"]
floor_divide: Op = ELEMENTWISE["floor_divide"]
remainder: Op = ELEMENTWISE["remainder"]
pow: Op = ELEMENTWISE["pow"]
negative: Op = ELEMENTWISE["negative"]
abs: Op = ELEMENTWISE["abs"]
sign: Op = ELEMENTWISE["sign"]
square: Op = ELEMENTWISE["square"]
sqrt: Op = ELEMENTWISE["sqrt"]
reciprocal: Op = ELEMENTWISE["reciprocal"]
maximum: Op = ELEMENTWISE["maximum"]
minimum: Op = ELEMENTWISE["minimum"]
hypot: Op = ELEMENTWISE["hypot"]
copysign: Op = ELEMENTWISE["copysign"]
exp: Op = ELEMENTWISE["exp"]
expm1: Op = ELEMENTWISE["expm1"]
log: Op = ELEMENTWISE["log"]
log1p: Op = ELEMENTWISE["log1p"]
log2: Op = ELEMENTWISE["log2"]
log10: Op = ELEMENTWISE["log10"]
logaddexp: Op = ELEMENTWISE["logaddexp"]
sin: Op = ELEMENTWISE["sin"]
cos: Op = ELEMENTWISE["cos"]
tan: Op = ELEMENTWISE["tan"]
asin: Op = ELEMENTWISE["asin"]
acos: Op = ELEMENTWISE["acos"]
atan: Op = ELEMENTWISE["atan"]
atan2: Op = ELEMENTWISE["atan2"]
sinh: Op = ELEMENTWISE["sinh"]
cosh: Op = ELEMENTWISE["cosh"]
tanh: Op = ELEMENTWISE["tanh"]
asinh: Op = ELEMENTWISE["asinh"]
acosh: Op = ELEMENTWISE["acosh"]
atanh: Op = ELEMENTWISE["atanh"]
floor: Op = ELEMENTWISE["floor"]
ceil: Op = ELEMENTWISE["ceil"]
trunc: Op = ELEMENTWISE["trunc"]
round: Op = ELEMENTWISE["round"]
equal: Op = ELEMENTWISE["equal"]
not_equal: Op = ELEMENTWISE["not_equal"]
less: Op = ELEMENTWISE["less"]
less_equal: Op = ELEMENTWISE["less_equal"]
greater: Op = ELEMENTWISE["greater"]
greater_equal: Op = ELEMENTWISE["greater_equal"]
isfinite: Op = ELEMENTWISE["isfinite"]
isinf: Op = ELEMENTWISE["isinf"]
isnan: Op = ELEMENTWISE["isnan"]
signbit: Op = ELEMENTWISE["signbit"]
logical_and: Op = ELEMENTWISE["logical_and"]
logical_or: Op = ELEMENTWISE["logical_or"]
logical_xor: Op = ELEMENTWISE["logical_xor"]
logical_not: Op = ELEMENTWISE["logical_not"]
bitwise_and: Op = ELEMENTWISE["bitwise_and"]
bitwise_or: Op = ELEMENTWISE["bitwise_or"]
bitwise_xor: Op = ELEMENTWISE["bitwise_xor"]
bitwise_invert: Op = ELEMENTWISE["bitwise_invert"]
bitwise_left_shift: Op = ELEMENTWISE["bitwise_left_shift"]
bitwise_right_shift: Op = ELEMENTWISE["bitwise_right_shift"]
sigmoid: Op = ELEMENTWISE["sigmoid"]
relu: Op = ELEMENTWISE["relu"]
step_positive: Op = ELEMENTWISE["step_positive"]
softplus: Op = ELEMENTWISE["softplus"]
erf: Op = ELEMENTWISE["erf"]


# -- the two that fit no row ------------------------------------------------------------------------------------------
def _where_dtype(types: Types) -> DType:
    condition, a, b = types
    if condition.dtype is not bool_:
        raise DTypeError(f"where: the condition must be bool; found {condition}")
    return promote("where", a.dtype, b.dtype)


def _where_cpu(condition: np.ndarray, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    out[...] = np.where(condition, a, b)


def _where_grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    condition, a, b = node.inputs
    zero = dy * 0
    return (
        None,
        unbroadcast(where(condition, dy, zero), a.shape),
        unbroadcast(where(condition, zero, dy), b.shape),
    )


where: Op = op(
    name="where",
    signature="(),(),()->()",
    dtype=_where_dtype,
    grad=_where_grad,
    cost=lambda: Cost(flops=1),
    cpu=_where_cpu,
    formula="(x1 if x0 else x2)",
    cuda=formula_rule("(x1 if x0 else x2)"),
    doc="a where the condition holds, else b.",
)


def _astype_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    return {"dtype": dtype_of(attrs["dtype"])}


def _astype_cpu(x: np.ndarray, out: np.ndarray, *, dtype: DType) -> None:
    with np.errstate(all="ignore"):
        out[...] = x.astype(dtype.numpy)


def _astype_native(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The vector code of rounding and widening; NumPy's kernel for all other conversions."""
    return _cast if is_short_cast(types[0].dtype, output.dtype) else None


def _cast(operands: tuple[np.ndarray, ...], pieces: int) -> list[Call]:
    x, out = operands
    return cast_calls(x, out, pieces)


def _astype_grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    (x,) = node.inputs
    return (astype(dy, dtype=x.dtype) if x.dtype.kind == node.dtype.kind == "float" else None,)


def _astype_infer(types: Types, attrs: Attrs) -> Type:
    return TensorType(attrs["dtype"], types[0].shape)


astype: Op = op(
    name="astype",
    kinds=MOVED,
    arity=1,
    attrs={"dtype": REQUIRED},
    clean=_astype_clean,
    infer=_astype_infer,
    access=same_index,
    grad=_astype_grad,
    cost=lambda types, output, attrs: Cost(flops=output.nbytes),
    cpu=_astype_cpu,
    native=_astype_native,
    formula="x0",
    cuda=formula_rule("x0"),
    doc="x with its elements converted to another type.",
)
