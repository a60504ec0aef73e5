"""Element types, shapes with the batch axis, promotion and broadcasting."""

import itertools

import numpy as np
import pytest

from rainshed.ops.errors import DTypeError, ShapeError
from rainshed.ops.source import input
from rainshed.ops.types import (
    DTYPES,
    Batch,
    TensorType,
    TupleType,
    bool_,
    broadcast,
    dtype_of,
    fixed,
    float32,
    float64,
    int32,
    int64,
    ints_of,
    promote,
    shape_of,
    size_of,
    tensor,
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_names_of_a_type(dtype):
    for name in (dtype, dtype.name, dtype.short, dtype.numpy, dtype.numpy.type):
        assert dtype_of(name) is dtype
    assert dtype.numpy.itemsize == dtype.itemsize and str(dtype) == dtype.short
    assert dtype_of({"float": float, "int": int, "bool": bool}[dtype.kind]) in (float64, int64, bool_)


NO_TYPES = [None, "complex64", "a", "f4,f4", np.complex64, np.uint8, "object", object(), 5, [], ()]


@pytest.mark.parametrize("value", NO_TYPES, ids=range(len(NO_TYPES)))
def test_what_is_no_type(value):
    with pytest.raises(DTypeError, match="not an element type"):
        dtype_of(value)


def test_promotion():
    assert promote("op", float32, float64, float32) is float64
    assert promote("op", int32, int64) is int64
    assert promote("op", bool_, bool_) is bool_
    for a, b in itertools.combinations((float32, int32, bool_), 2):
        with pytest.raises(DTypeError, match="no common type"):
            promote("op", a, b)


def test_batch():
    assert str(Batch()) == "B" and repr(Batch(3)) == "3B"
    assert Batch(2) * 3 == 3 * Batch(2) == Batch(6)
    with pytest.raises(ShapeError, match="twice"):
        Batch() * Batch()
    assert size_of((2, Batch(), 3)) == Batch(6) and size_of(()) == 1 and size_of((0, 5)) == 0
    assert fixed((2, 3)) == (2, 3)
    with pytest.raises(ShapeError, match="still has the batch axis"):
        fixed((Batch(), 3))


@pytest.mark.parametrize(
    "value,shape", [((), ()), ([2, 3], (2, 3)), (4, (4,)), ((None, 2), (Batch(), 2)), (np.int64(3), (3,))]
)
def test_shape_of(value, shape):
    assert shape_of("op", value) == shape
    assert all(type(dim) in (int, Batch) for dim in shape_of("op", value))


@pytest.mark.parametrize("value", [-1, 2.0, True, "a", (2, "b"), ((2,),), (False,), np.ones(2)], ids=repr)
def test_what_is_no_shape(value):
    with pytest.raises(ShapeError, match="op: a size is a whole number"):
        shape_of("op", value)


@pytest.mark.parametrize("value", [None, 3, (1,), (1, 2, 3), (1, 2.0), (True, 1), "ab"], ids=repr)
def test_ints_of(value):
    assert ints_of("op", "axes", [np.int32(1), -2], 2) == (1, -2)
    with pytest.raises(ShapeError, match="op: axes must hold"):
        ints_of("op", "axes", value, 2)


SHAPES = [(), (1,), (3,), (2, 3), (2, 1), (1, 3), (4, 2, 3), (0,), (2, 0), (4, 1, 1), (5,)]


def test_broadcasting_is_numpys():
    for a, b in itertools.product(SHAPES, SHAPES):
        try:
            expected = np.broadcast_shapes(a, b)
        except ValueError:
            with pytest.raises(ShapeError, match="do not broadcast"):
                broadcast("op", a, b)
        else:
            assert broadcast("op", a, b) == expected, f"{a} and {b}"


def test_broadcasting_of_the_batch_axis():
    assert broadcast("op", (Batch(), 3), (3,)) == (Batch(), 3)
    assert broadcast("op", (Batch(), 3), (1, 1), ()) == (Batch(), 3)
    for other in [(2, 3), (Batch(2), 3)]:
        with pytest.raises(ShapeError, match="B"):
            broadcast("op", (Batch(), 3), other)


def test_bytes_and_text():
    t = TensorType(float64, (2, 3))
    assert (t.size, t.nbytes, str(t)) == (6, 48, "f64[2, 3]")
    pair = TupleType((t, TensorType(bool_, ())))
    assert (pair.nbytes, str(pair)) == (49, "(f64[2, 3], bool[])")
    with pytest.raises(DTypeError, match="pick"):
        tensor(pair)
    with pytest.raises(ShapeError):
        _ = TensorType(float32, (Batch(),)).nbytes


def test_a_bound_graph_has_no_batch_axis_left():
    x = input("x", (None, 3))
    assert (x + 1.0).shape == (Batch(), 3)
