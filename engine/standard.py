"""The functions of the Python Array API standard that are more than one op, or whose arguments are more than nodes.

Wherever the standard asks for an array, a node, a NumPy array, a list or a number is taken. Missing are complex
numbers, sorting, and functions whose shapes depend on values (`nonzero`, `unique_values`, ...): no graph can hold them.

Source  data-apis.org/array-api, version 2025.12
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from rainshed.ops import compose, elementwise, layout, reduce
from rainshed.ops.broadcast import broadcast_to as broadcast_to_op
from rainshed.ops.errors import DTypeError, GraphError, RainshedError, ShapeError
from rainshed.ops.gather import take as take_op
from rainshed.ops.gather import take_along_axis as take_along_axis_op
from rainshed.ops.ir import Node, current_origin
from rainshed.ops.matmul import matmul as matmul_op
from rainshed.ops.matmul import matrix_transpose as transpose_op
from rainshed.ops.op import located
from rainshed.ops.reshape import expand_dims as expand
from rainshed.ops.reshape import reshape as reshape_op
from rainshed.ops.reshape import squeeze as squeeze_op
from rainshed.ops.slice import take_range
from rainshed.ops.source import constant
from rainshed.ops.types import Dim, Shape, broadcast, int32, int64, size_of

Array = Any  # a node, or what becomes one
Axes = int | tuple[int, ...] | None


def as_node(value: Array) -> Node:
    """A node as it is, all else as a constant; True and False are no arrays, but what comparing nodes by == gives."""
    if isinstance(value, bool):
        hint = (
            "nodes are compared as objects by == and !=; rs.equal(a, b) and rs.not_equal(a, b) compare their elements"
        )
        raise GraphError(f"found {value} where an array is expected", hint=hint)
    return value if isinstance(value, Node) else constant(value)


def asarray(obj: Array, /, *, dtype: Any = None, device: None = None, copy: bool | None = None) -> Node:
    """A node as it is, anything else as a constant; in the element type asked for."""
    if isinstance(obj, Node):
        return obj if dtype is None else astype(obj, dtype)
    if not isinstance(obj, np.ndarray) and hasattr(obj, "__dlpack__"):
        obj = np.from_dlpack(obj)
    return constant(obj, dtype)


from_dlpack = asarray


def full_like(x: Array, /, fill_value: float, *, dtype: Any = None) -> Node:
    """One number everywhere, in x's shape and, unless another is given, in x's element type."""
    return compose.full_like(as_node(x), fill_value, dtype)


def zeros_like(x: Array, /, *, dtype: Any = None) -> Node:
    """0 everywhere, in x's shape."""
    return full_like(x, 0, dtype=dtype)


def ones_like(x: Array, /, *, dtype: Any = None) -> Node:
    """1 everywhere, in x's shape."""
    return full_like(x, 1, dtype=dtype)


# -- element-wise -----------------------------------------------------------------------------------------------------
def astype(x: Array, dtype: Any, /, *, copy: bool = True, device: None = None) -> Node:
    """x with its elements converted to another type; itself if that is its type."""
    x = as_node(x)
    converted = elementwise.astype(x, dtype=dtype)
    return x if converted.dtype is x.dtype else converted


def positive(x: Array, /) -> Node:
    """x itself."""
    return as_node(x)


def bitwise_invert(x: Array, /) -> Node:
    """Every bit turned round; for bool: not x."""
    x = as_node(x)
    return elementwise.logical_not(x) if x.dtype.kind == "bool" else elementwise.bitwise_invert(x)


def where(condition: Array, x1: Array, x2: Array, /) -> Node:
    """x1 where the condition holds, else x2."""
    if not isinstance(x1, Node) and not isinstance(x2, Node):
        x1 = constant(x1)
    # A plain number takes the type of the other value, not that of the condition.
    if isinstance(x1, Node) and isinstance(x2, (int, float)):
        x1, x2 = x1, _like(x2, x1)
    elif isinstance(x2, Node) and isinstance(x1, (int, float)):
        x1 = _like(x1, x2)
    return elementwise.where(as_node(condition), as_node(x1), as_node(x2))


def _like(number: float, x: Node) -> Node:
    kind = x.dtype.kind
    if isinstance(number, bool) != (kind == "bool") or (isinstance(number, float) and kind != "float"):
        raise DTypeError(f"where: the number {number!r} does not fit {x.dtype}", built_at=current_origin())
    return constant(number, x.dtype)


def clip(x: Array, /, min: Array = None, max: Array = None) -> Node:
    """x with what lies below `min` or above `max` set to it, in x's element type."""
    x = as_node(x)
    y = x if min is None else elementwise.maximum(x, min)
    y = y if max is None else elementwise.minimum(y, max)
    return astype(y, x.dtype)


# -- reductions -------------------------------------------------------------------------------------------------------
def sum(x: Array, /, *, axis: Axes = None, dtype: Any = None, keepdims: bool = False) -> Node:
    """The sum over `axis` (None: all axes); int32 is added up as int64."""
    return reduce.sum(_summand(x, dtype), axis=axis, keepdims=keepdims)


def prod(x: Array, /, *, axis: Axes = None, dtype: Any = None, keepdims: bool = False) -> Node:
    """The product over `axis` (None: all axes); int32 is multiplied as int64."""
    return reduce.prod(_summand(x, dtype), axis=axis, keepdims=keepdims)


def _summand(x: Array, dtype: Any) -> Node:
    x = as_node(x)
    if dtype is None:
        return astype(x, int64) if x.dtype is int32 else x
    return astype(x, dtype)


def mean(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Node:
    """The mean over `axis` (None: all axes)."""
    return reduce.mean(as_node(x), axis=axis, keepdims=keepdims)


def var(x: Array, /, *, axis: Axes = None, correction: float = 0.0, keepdims: bool = False) -> Node:
    """The variance over `axis`, divided by N - correction."""
    return reduce.var(as_node(x), axis=axis, correction=correction, keepdims=keepdims)


def std(x: Array, /, *, axis: Axes = None, correction: float = 0.0, keepdims: bool = False) -> Node:
    """The standard deviation over `axis`."""
    return reduce.std(as_node(x), axis=axis, correction=correction, keepdims=keepdims)


def max(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Node:
    """The greatest element along `axis` (None: of all)."""
    return reduce.max(as_node(x), axis=axis, keepdims=keepdims)


def min(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Node:
    """The least element along `axis` (None: of all)."""
    return reduce.min(as_node(x), axis=axis, keepdims=keepdims)


def all(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Node:
    """Whether all elements along `axis` are true, or not zero."""
    return reduce.all(_truth(x), axis=axis, keepdims=keepdims)


def any(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Node:
    """Whether an element along `axis` is true, or not zero."""
    return reduce.any(_truth(x), axis=axis, keepdims=keepdims)


def count_nonzero(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Node:
    """How many elements along `axis` are true, or not zero: int64."""
    return reduce.sum(astype(_truth(x), int64), axis=axis, keepdims=keepdims)


def _truth(x: Array) -> Node:
    x = as_node(x)
    return x if x.dtype.kind == "bool" else elementwise.not_equal(x, 0)


def argmax(x: Array, /, *, axis: int | None = None, keepdims: bool = False) -> Node:
    """The index of the first greatest element along one axis, or of the flat value: int64."""
    return _arg(reduce.argmax, as_node(x), axis, keepdims)


def argmin(x: Array, /, *, axis: int | None = None, keepdims: bool = False) -> Node:
    """The index of the first least element along one axis, or of the flat value: int64."""
    return _arg(reduce.argmin, as_node(x), axis, keepdims)


def _arg(find: Any, x: Node, axis: int | None, keepdims: bool) -> Node:
    if axis is not None:
        return find(x, axis=axis, keepdims=keepdims)  # type: ignore[no-any-return]
    flat: Node = find(reshape_op(x, shape=(-1,)), axis=0)
    return reshape_op(flat, shape=(1,) * x.ndim) if keepdims else flat


def cumulative_sum(x: Array, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False) -> Node:
    """Running sums along one axis, which may be left out where there is only one; with a 0 before them if asked for."""
    x = _summand(x, dtype)
    if axis is None and x.ndim != 1:
        raise ShapeError(f"cumulative_sum: {x.type} has {x.ndim} axes; axis= must name one", built_at=current_origin())
    at = _axis("cumulative_sum", 0 if axis is None else axis, x.ndim)
    total = reduce.cumulative_sum(x, axis=at)
    if not include_initial:
        return total
    first = tuple(1 if i == at else size for i, size in enumerate(x.shape))
    return layout.concat([compose.zeros(first, x.dtype), total], at)


def diff(x: Array, /, *, axis: int = -1, n: int = 1, prepend: Array = None, append: Array = None) -> Node:
    """The differences of neighbours along one axis, n times over."""
    x = as_node(x)
    at = _axis("diff", axis, x.ndim)
    given = [as_node(part) for part in (prepend, x, append) if part is not None]
    y = layout.concat(given, at) if len(given) > 1 else given[0]
    size = y.shape[at]
    if not isinstance(size, int):
        raise ShapeError(f"diff: the batch axis of {y.type} is not known yet", built_at=current_origin())
    for left in range(size, builtins.max(size - n, 0), -1):
        y = take_range(y, at, 1, left) - take_range(y, at, 0, left - 1)
    return y


# -- shape ------------------------------------------------------------------------------------------------------------
def reshape(x: Array, /, shape: Sequence[Dim], *, copy: bool | None = None) -> Node:
    """The same elements, in row-major order, under another shape; one size may be -1."""
    return reshape_op(as_node(x), shape=shape)


def expand_dims(x: Array, /, *, axis: int | tuple[int, ...] = 0) -> Node:
    """x with new axes of size 1 at these positions of the result."""
    return expand(as_node(x), axis)


def squeeze(x: Array, /, axis: int | tuple[int, ...]) -> Node:
    """x without these axes, each of size 1."""
    return squeeze_op(as_node(x), axis)


def permute_dims(x: Array, /, axes: tuple[int, ...]) -> Node:
    """x with its axes in another order: axis i of the result is axis axes[i] of x."""
    return layout.permute_dims(as_node(x), axes=axes)


def matrix_transpose(x: Array, /) -> Node:
    """The last two axes swapped."""
    return transpose_op(as_node(x))


def moveaxis(x: Array, source: int | tuple[int, ...], destination: int | tuple[int, ...], /) -> Node:
    """x with the axes `source` moved to the places `destination`; the others keep their order."""
    return layout.moveaxis(as_node(x), source, destination)


def broadcast_to(x: Array, /, shape: Sequence[Dim | None]) -> Node:
    """x stretched to a shape; None is the batch axis."""
    return broadcast_to_op(as_node(x), shape=shape)


def broadcast_arrays(*arrays: Array) -> tuple[Node, ...]:
    """The values stretched to their common shape."""
    nodes = [as_node(a) for a in arrays]
    shape = _broadcast("broadcast_arrays", *(n.shape for n in nodes))
    return tuple(n if n.shape == shape else broadcast_to_op(n, shape=shape) for n in nodes)


def meshgrid(*arrays: Array, indexing: str = "xy") -> tuple[Node, ...]:
    """The coordinates of a grid, one value for each of the given 1-D axes."""
    nodes = [as_node(a) for a in arrays]
    if indexing not in ("xy", "ij") or builtins.any(n.ndim != 1 for n in nodes):
        found = ", ".join(str(n.type) for n in nodes)
        what = f"meshgrid: takes 1-D values, and indexing 'xy' or 'ij'; found {found}, {indexing!r}"
        raise ShapeError(what, built_at=current_origin())
    places = list(range(len(nodes)))
    if indexing == "xy":
        places[:2] = reversed(places[:2])
    rank = len(nodes)
    lines = [
        reshape_op(n, shape=tuple(n.shape[0] if i == place else 1 for i in range(rank)))
        for n, place in zip(nodes, places, strict=True)
    ]
    return broadcast_arrays(*lines)


def concat(arrays: Sequence[Array], /, *, axis: int | None = 0) -> Node:
    """The values one after the other along an axis; None flattens them first."""
    return layout.concat(_several("concat", arrays), axis)


def stack(arrays: Sequence[Array], /, *, axis: int = 0) -> Node:
    """Values of one shape side by side along a new axis."""
    return layout.stack(_several("stack", arrays), axis)


def _several(name: str, arrays: Sequence[Array]) -> list[Node]:
    if isinstance(arrays, Node) or not isinstance(arrays, Sequence) or not arrays:
        raise GraphError(f"{name}: takes a list of at least one value; found {arrays!r}", built_at=current_origin())
    return [as_node(a) for a in arrays]


def unstack(x: Array, /, *, axis: int = 0) -> tuple[Node, ...]:
    """The values along an axis, each without it."""
    return tuple(layout.unstack(as_node(x), axis))


def split(x: Array, /, parts: int | Sequence[int], *, axis: int = 0) -> tuple[Node, ...]:
    """x in equal parts along an axis, or cut before each of the given indices. Not in the standard; as in NumPy."""
    return tuple(layout.split(as_node(x), parts, axis))


def flip(x: Array, /, *, axis: Axes = None) -> Node:
    """x backwards along some axes (None: all)."""
    return layout.flip(as_node(x), axis=axis)


def roll(x: Array, /, shift: int | tuple[int, ...], *, axis: Axes = None) -> Node:
    """x moved along the axes; what leaves at one end comes in at the other."""
    return layout.roll(as_node(x), shift, axis)


def repeat(x: Array, repeats: int, /, *, axis: int | None = None) -> Node:
    """Each element `repeats` times in a row along an axis; None flattens x first."""
    return layout.repeat(as_node(x), repeats, axis)


def tile(x: Array, repetitions: int | tuple[int, ...], /) -> Node:
    """x repeated as a whole, repetitions[i] times along axis i."""
    return layout.tile(as_node(x), repetitions)


def tril(x: Array, /, *, k: int = 0) -> Node:
    """The lower triangles of the last two axes, with zeros above the k-th diagonal."""
    return layout.tril(as_node(x), k=k)


def triu(x: Array, /, *, k: int = 0) -> Node:
    """The upper triangles of the last two axes, with zeros below the k-th diagonal."""
    return layout.triu(as_node(x), k=k)


# -- choosing ---------------------------------------------------------------------------------------------------------
def take(x: Array, indices: Array, /, *, axis: int | None = None) -> Node:
    """x's elements at `indices` along one axis. Indices run from 0; others are refused when they are met."""
    return take_op(as_node(x), as_node(indices), axis=axis)


def take_along_axis(x: Array, indices: Array, /, *, axis: int = -1) -> Node:
    """For each position of `indices`, the element of x at its index along one axis and at the same place elsewhere."""
    return take_along_axis_op(as_node(x), as_node(indices), axis=axis)


# -- products ---------------------------------------------------------------------------------------------------------
def matmul(x1: Array, x2: Array, /) -> Node:
    """The product over the last axis of x1 and the last but one of x2; a vector stands for one row, or one column."""
    a, b = as_node(x1), as_node(x2)
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(f"matmul: takes vectors and matrices; found {a.type} and {b.type}", built_at=current_origin())
    row, column = a.ndim == 1, b.ndim == 1
    product = matmul_op(
        expand(a, 0) if row else a,
        expand(b, 1) if column else b,
    )
    drop = tuple(axis for axis, vector in ((-2, row), (-1, column)) if vector)
    return squeeze_op(product, drop) if drop else product


def vecdot(x1: Array, x2: Array, /, *, axis: int = -1) -> Node:
    """The sum of products along one axis, counted from the end; the others broadcast."""
    a, b = as_node(x1), as_node(x2)
    rank = builtins.min(a.ndim, b.ndim)
    if not -rank <= axis < 0 or a.shape[axis] != b.shape[axis]:
        found = f"axis {axis} of {a.type} and of {b.type}"
        raise ShapeError(f"vecdot: {found} are no vectors of one size", built_at=current_origin())
    return reduce.sum(a * b, axis=axis)


def tensordot(x1: Array, x2: Array, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Node:
    """The sum of products over the last `axes` axes of x1 and the first of x2, or over the pairs of axes named."""
    a, b = as_node(x1), as_node(x2)
    if isinstance(axes, (int, np.integer)):
        axes = (range(a.ndim - axes, a.ndim), range(axes))
    over_a = [_axis("tensordot", i, a.ndim) for i in axes[0]]
    over_b = [_axis("tensordot", i, b.ndim) for i in axes[1]]
    if [a.shape[i] for i in over_a] != [b.shape[i] for i in over_b] or len(set(over_a)) < len(over_a):
        found = f"axes {over_a} of {a.type} and {over_b} of {b.type}"
        raise ShapeError(f"tensordot: {found} do not pair off", built_at=current_origin())
    free_a = [i for i in range(a.ndim) if i not in over_a]
    free_b = [i for i in range(b.ndim) if i not in over_b]
    product = matmul_op(_matrix(a, free_a, over_a), _matrix(b, over_b, free_b))
    shape = (*(a.shape[i] for i in free_a), *(b.shape[i] for i in free_b))
    return product if product.shape == shape else reshape_op(product, shape=shape)


def _matrix(x: Node, rows: list[int], columns: list[int]) -> Node:
    """x as a matrix, from its axes `rows` and `columns`."""
    order = (*rows, *columns)
    if order != tuple(range(x.ndim)):
        x = layout.permute_dims(x, axes=order)
    shape = (size_of(x.shape[: len(rows)]), size_of(x.shape[len(rows) :]))
    return x if x.shape == shape else reshape_op(x, shape=shape)


# -- checks -----------------------------------------------------------------------------------------------------------
def _axis(name: str, axis: int, rank: int) -> int:
    try:
        return layout.one_axis(name, axis, rank)
    except RainshedError as error:
        raise located(error, current_origin()) from None


def _broadcast(name: str, *shapes: Shape) -> Shape:
    try:
        return broadcast(name, *shapes)
    except RainshedError as error:
        raise located(error, current_origin()) from None
