"""softmax and log_softmax along each axis; large numbers; parts of the rows give the bits of the whole."""

import numpy as np
import pytest
from laws import check_op, f32, f64, i64

from rainshed.ops.errors import DTypeError, ShapeError
from rainshed.ops.softmax import log_softmax, softmax
from rainshed.ops.source import input


def reference(x, axis=-1):
    e = np.exp(x.astype(np.float64))
    return e / e.sum(axis=axis, keepdims=True)


@pytest.mark.parametrize("shape,axis", [((3, 4), -1), ((3, 4), 0), ((2, 3, 5), 1), ((7,), 0), ((3, 1), 1), ((2, 0), 0)])
def test_softmax(shape, axis):
    check_op(softmax, f64(*shape), axis=axis, reference=lambda x: reference(x, axis))
    check_op(softmax, f32(*shape), axis=axis, reference=lambda x: reference(x, axis))
    check_op(log_softmax, f64(*shape), axis=axis, reference=lambda x: np.log(reference(x, axis)))
    check_op(log_softmax, f32(*shape), axis=axis, reference=lambda x: np.log(reference(x, axis)))


@pytest.mark.parametrize("columns", [9, 130, 1000])
def test_rows_do_not_depend_on_how_many_there_are(columns):
    for op in (softmax, log_softmax):
        check_op(op, f32(5, columns, low=-9, high=9), gradient=False)
        check_op(op, f32(columns, 5, low=-9, high=9), axis=0, gradient=False)


def test_large_numbers():
    x = np.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]])
    check_op(softmax, x, reference=lambda x: np.array([[1, 0, 0], [1 / 3] * 3]), gradient=False)
    wanted = np.array([[0, -1e4, -2e4], [-np.log(3)] * 3])
    check_op(log_softmax, x, reference=lambda x: wanted, gradient=False)


def test_wrong_arguments():
    with pytest.raises(ShapeError, match="log_softmax: there is no axis 2"):
        log_softmax(input("x", (3, 4)), axis=2)
    with pytest.raises(ShapeError, match="takes one axis"):
        softmax(input("x", (3, 4)), axis=(0, 1))
    with pytest.raises(DTypeError, match="takes float"):
        softmax(i64(3))
