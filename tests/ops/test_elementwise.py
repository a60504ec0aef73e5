"""Element-wise ops: each row of the table, held to the laws; and what NumPy leaves to us (ties, kinks, types)."""

import numpy as np
import pytest
from laws import boolean, check_op, f32, f64, i32, i64

from rainshed.ops.elementwise import ELEMENTWISE, ROWS, astype, where
from rainshed.ops.errors import DTypeError, ShapeError
from rainshed.ops.source import constant, input

# Where a function is defined, or smooth enough for a numerical gradient.
DOMAIN = {
    "sqrt": (0.1, 2.0), "log": (0.1, 3.0), "log2": (0.1, 3.0), "log10": (0.1, 3.0), "log1p": (-0.5, 2.0),
    "reciprocal": (0.5, 2.0), "divide": (0.5, 2.0), "floor_divide": (0.5, 3.0), "remainder": (0.6, 0.9), "pow": (0.5, 2.0),
    "asin": (-0.8, 0.8), "acos": (-0.8, 0.8), "atanh": (-0.8, 0.8), "acosh": (1.2, 3.0), "hypot": (0.5, 2.0),
    "bitwise_left_shift": (0, 4), "bitwise_right_shift": (0, 4),
}  # fmt: skip
SMOOTH = {"floor", "ceil", "trunc", "round", "sign", "step_positive", "floor_divide", "remainder", "copysign"}


def operands(row, kind, shapes):
    low, high = DOMAIN.get(row.name, (-1.5, 1.5))
    if kind == "float":
        return [f64(*s, low=low, high=high) for s in shapes]
    if kind == "int":
        return [np.abs(i64(*s)) + 1 if row.name in DOMAIN else i64(*s) for s in shapes]
    return [boolean(*s) for s in shapes]


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_row(row):
    op = ELEMENTWISE[row.name]
    gradient = None if row.slope is not None and row.name not in SMOOTH else False
    for kind in row.kinds:
        for shapes in ([(3, 4)] * row.arity, [(3, 1), (4,)][: row.arity], [()] * row.arity, [(2, 0)] * row.arity):
            arrays = operands(row, kind, shapes)
            check_op(op, *arrays, reference=reference(row), gradient=gradient if kind == "float" else False)


def reference(row):
    plain = {
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "tanh": np.tanh,
        "relu": lambda x: np.maximum(x, 0),
        "step_positive": lambda x: (x > 0).astype(x.dtype),
        "softplus": lambda x: np.log1p(np.exp(x)),
        "erf": lambda x: np.vectorize(__import__("math").erf, otypes=[x.dtype])(x) if x.size else x,
    }
    return plain.get(row.name, row.ufunc)


def test_types_follow_the_array_api_standard():
    assert (constant(f32(2)) + constant(f64(2))).dtype.name == "float64"
    assert (constant(i32(2)) + constant(i64(2))).dtype.name == "int64"
    assert (constant(f32(2)) + 1).dtype.name == "float32"
    with pytest.raises(DTypeError, match="no common type"):
        constant(f32(2)) + constant(i32(2))
    with pytest.raises(DTypeError, match="does not fit"):
        constant(i32(2)) + 1.5


def test_shapes_must_broadcast():
    with pytest.raises(ShapeError, match="do not broadcast") as caught:
        input("a", (3, 4)) + input("b", (5, 4))
    assert "test_elementwise.py" in caught.value.detail["built at"]


def test_sigmoid_does_not_overflow():
    check_op(
        ELEMENTWISE["sigmoid"],
        np.array([-1e4, -90.0, 0.0, 90.0, 1e4]),
        reference=lambda x: np.array([0, 0, 0.5, 1, 1]),
        tolerance=1e-30 + 1e-12,
        gradient=False,
    )


@pytest.mark.parametrize("target", ["float32", "float64", "int32", "int64", "bool"])
@pytest.mark.parametrize("source", [f32(3, 4), i64(3, 4), boolean(3, 4)], ids=str)
def test_astype(source, target):
    check_op(astype, source, dtype=target, reference=lambda x: x.astype(target), gradient=False)


def test_where():
    check_op(where, boolean(3, 4), f64(3, 4), f64(4), reference=np.where)
