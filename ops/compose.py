"""Small functions of the Array API built from other ops: clip, and arrays that are filled by a rule."""

from __future__ import annotations

from typing import Any

import numpy as np

from rainshed.ops.broadcast import broadcast_to
from rainshed.ops.elementwise import astype, equal, maximum, minimum
from rainshed.ops.errors import DTypeError, ShapeError
from rainshed.ops.ir import Node, current_origin
from rainshed.ops.op import constant_op
from rainshed.ops.source import constant
from rainshed.ops.types import dtype_of, float32, shape_of, tensor


def clip(x: Node, min: Any = None, max: Any = None) -> Node:
    """x with what lies below `min` or above `max` set to it; either may be None, a number or a value."""
    if min is not None:
        x = maximum(x, min)
    return x if max is None else minimum(x, max)


def full(shape: Any, value: Any, dtype: Any = None) -> Node:
    """One number everywhere. A size of None is the batch axis."""
    number = constant(value, dtype)
    if number.shape != ():
        raise ShapeError(f"full: takes one number; found {number.type}", built_at=current_origin())
    return broadcast_to(number, shape=shape_of("full", shape))


def zeros(shape: Any, dtype: Any = float32) -> Node:
    """0 everywhere."""
    return full(shape, 0, dtype)


def ones(shape: Any, dtype: Any = float32) -> Node:
    """1 everywhere."""
    return full(shape, 1, dtype)


def full_like(x: Node, value: Any, dtype: Any = None) -> Node:
    """One number everywhere, in x's shape, and x's element type unless another is given."""
    return full(tensor(x.type).shape, value, x.dtype if dtype is None else dtype)


def zeros_like(x: Node, dtype: Any = None) -> Node:
    """0 everywhere, in x's shape."""
    return full_like(x, 0, dtype)


def ones_like(x: Node, dtype: Any = None) -> Node:
    """1 everywhere, in x's shape."""
    return full_like(x, 1, dtype)


def arange(start: float, stop: float | None = None, step: float = 1, dtype: Any = None) -> Node:
    """start, start + step, ... below stop; with one number, 0 up to it. int64, or float32 if a number is a float."""
    if step == 0:
        raise ShapeError("arange: the step must not be 0", built_at=current_origin())
    first, last = (0, start) if stop is None else (start, stop)
    whole = all(isinstance(n, (int, np.integer)) for n in (first, last, step))
    return constant_op(value=np.arange(first, last, step).astype(_number_type(dtype, "int64" if whole else "float32")))


def linspace(start: float, stop: float, num: int, *, dtype: Any = None, endpoint: bool = True) -> Node:
    """`num` numbers evenly spaced from start to stop."""
    if num < 0:
        raise ShapeError(f"linspace: the number of points is negative: {num}", built_at=current_origin())
    return constant_op(value=np.linspace(start, stop, num, endpoint=endpoint).astype(_number_type(dtype, "float32")))


def _number_type(dtype: Any, default: str) -> np.dtype[Any]:
    found = dtype_of(default if dtype is None else dtype)
    if found.kind == "bool":
        raise DTypeError("a range has no element type bool", built_at=current_origin())
    return found.numpy


def eye(n_rows: int, n_cols: int | None = None, *, k: int = 0, dtype: Any = float32) -> Node:
    """1 on the k-th diagonal, 0 elsewhere."""
    columns = n_rows if n_cols is None else n_cols
    if n_rows < 0 or columns < 0:
        raise ShapeError(f"eye: a size is negative: {n_rows}, {columns}", built_at=current_origin())
    row = constant_op(value=np.arange(n_rows).reshape(n_rows, 1) + k)
    return astype(equal(row, constant_op(value=np.arange(columns))), dtype=dtype)
