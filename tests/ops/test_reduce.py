"""Reductions over every choice of axes."""

import numpy as np
import pytest
from laws import boolean, check_op, f64, i64

from rainshed.ops import reduce
from rainshed.ops.errors import ShapeError
from rainshed.ops.source import input

AXES = [None, 0, -1, (0, 2), (1,)]


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "mean", "var", "std"])
def test_reduction(name, axis, keepdims):
    numpy = getattr(np, name)
    check_op(
        getattr(reduce, name),
        f64(3, 4, 2),
        axis=axis,
        keepdims=keepdims,
        reference=lambda x: numpy(x, axis=axis, keepdims=keepdims),
    )


@pytest.mark.parametrize("name", ["any", "all"])
def test_logic(name):
    check_op(getattr(reduce, name), boolean(3, 4), axis=1, reference=lambda x: getattr(np, name)(x, axis=1))


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_gradient_of_prod_with_zeros(zeros):
    x = f64(3, 4, low=0.5, high=1.5)
    x[1, :zeros] = 0.0
    check_op(reduce.prod, x, axis=1, reference=lambda x: x.prod(1))


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_arg(name):
    check_op(getattr(reduce, name), f64(3, 4), axis=1, reference=lambda x: getattr(np, name)(x, axis=1))
    check_op(
        getattr(reduce, name),
        i64(3, 4),
        axis=0,
        keepdims=True,
        reference=lambda x: getattr(np, name)(x, axis=0, keepdims=True),
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_cumulative_sum(axis):
    check_op(reduce.cumulative_sum, f64(3, 4), axis=axis, reference=lambda x: np.cumsum(x, axis))


def test_bad_axes():
    x = input("x", (3, 4))
    for axis, text in [(2, "no axis 2"), ((0, 0), "named twice"), ("a", "whole number")]:
        with pytest.raises(ShapeError, match=text):
            reduce.sum(x, axis=axis)
    with pytest.raises(ShapeError, match="size 0"):
        reduce.max(input("z", (0, 3)), axis=0)
