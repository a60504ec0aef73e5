"""clip, and arrays filled by a rule, against NumPy."""

import numpy as np
import pytest
from laws import check_op, f32, f64, i64

from rainshed.ops import compose
from rainshed.ops.errors import RainshedError
from rainshed.ops.evaluate import evaluate, evaluate_nodes
from rainshed.ops.ir import Graph
from rainshed.ops.source import input
from rainshed.ops.types import Batch


def value(node):
    (got,) = evaluate_nodes([node], {})
    return got


@pytest.mark.parametrize("low,high", [(-0.5, 0.5), (None, 0.2), (0.1, None), (None, None)])
def test_clip(low, high):
    check_op(
        compose.clip,
        f64(3, 4),
        min=low,
        max=high,
        reference=lambda x: x if low is high is None else np.clip(x, low, high),
    )


def test_clip_by_values():
    check_op(compose.clip, f64(3, 4), f64(4, low=-1.0, high=-0.5), reference=np.maximum)
    check_op(compose.clip, i64(3, 4), min=-2, max=2, reference=lambda x: np.clip(x, -2, 2))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
def test_filled(dtype):
    for name in ("zeros", "ones"):
        np.testing.assert_array_equal(
            value(getattr(compose, name)((2, 3), dtype)), getattr(np, name)((2, 3), dtype), strict=True
        )
        like = getattr(compose, f"{name}_like")(input("x", (2, 3)), dtype)
        np.testing.assert_array_equal(value(like), getattr(np, name)((2, 3), dtype), strict=True)
    np.testing.assert_array_equal(value(compose.eye(3, 4, k=1, dtype=dtype)), np.eye(3, 4, 1, dtype), strict=True)


def test_types_by_default():
    x = input("x", (2,), "int32")
    assert compose.zeros_like(x).dtype.name == "int32" and compose.full_like(x, 7).dtype.name == "int32"
    assert compose.full((2,), 1.5).dtype.name == "float32" and compose.full((2,), 1).dtype.name == "int64"
    assert compose.full((), True).dtype.name == "bool" and compose.zeros(3).shape == (3,)


def test_the_batch_axis():
    x = input("x", (None, 2))
    assert compose.zeros_like(x).shape == (Batch(), 2) == compose.ones((None, 2)).shape
    got, _ = evaluate(Graph({"y": x + compose.ones_like(x)}).bind(batch=3), {"x": f32(3, 2)})
    np.testing.assert_array_equal(got["y"], f32(3, 2) + 1)


@pytest.mark.parametrize("given", [(5,), (2, 9), (9, 2, -3), (0.0, 1.0, 0.25), (3, 3)])
def test_arange(given):
    np.testing.assert_array_equal(
        value(compose.arange(*given)), np.arange(*given).astype(np.float32 if 0.25 in given else np.int64), strict=True
    )


def test_linspace():
    np.testing.assert_array_equal(value(compose.linspace(0, 1, 5)), np.linspace(0, 1, 5, dtype=np.float32), strict=True)
    got = value(compose.linspace(0, 1, 4, dtype="float64", endpoint=False))
    np.testing.assert_array_equal(got, np.linspace(0, 1, 4, endpoint=False), strict=True)


@pytest.mark.parametrize(
    "build,text",
    [
        (lambda: compose.full((2,), [1, 2]), "takes one number"),
        (lambda: compose.zeros((-1,)), "a size is a whole number"),
        (lambda: compose.arange(0, 3, 0), "must not be 0"),
        (lambda: compose.arange(3, dtype="bool"), "no element type bool"),
        (lambda: compose.linspace(0, 1, -2), "negative"),
        (lambda: compose.eye(-1), "negative"),
    ],
)
def test_errors(build, text):
    with pytest.raises(RainshedError, match=text):
        build()
