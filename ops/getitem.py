"""x[key] as NumPy reads it: numbers, slices, None, Ellipsis, and one array (or node) of indices."""

from __future__ import annotations

from typing import Any

import numpy as np

from rainshed.ops.errors import RainshedError, ShapeError
from rainshed.ops.gather import take
from rainshed.ops.ir import Node, current_origin
from rainshed.ops.layout import moveaxis
from rainshed.ops.op import constant_op, located
from rainshed.ops.reshape import reshape
from rainshed.ops.slice import slice_op
from rainshed.ops.types import Batch, Dim

FULL = slice(None)


def getitem(x: Node, key: Any) -> Node:
    """x[key], with NumPy's shapes. Raises ShapeError where an index does not exist or cannot be known yet."""
    try:
        return _index(x, key)
    except RainshedError as error:
        raise located(error, current_origin()) from None


def _index(x: Node, key: Any) -> Node:
    items = [_plain(item) for item in (key if isinstance(key, tuple) else (key,))]
    advanced = [i for i, item in enumerate(items) if _is_index(item)]
    arrays = [i for i in advanced if not isinstance(items[i], int)]
    if len(arrays) > 1:
        raise ShapeError(f"{x!r} can be indexed by one array at a time", hint="index twice, or use take_along_axis")
    # NumPy puts the axes of an index array first where other axes separate it from a number.
    to_front = bool(arrays) and advanced[-1] - advanced[0] >= len(advanced)
    items = _spread(x, items)
    sliced = _slice(x, items)
    shape, place, chosen = _reshaped(sliced, items)
    result = sliced if shape == sliced.shape else reshape(sliced, shape=shape)
    if chosen is None:
        return result
    indices = chosen if isinstance(chosen, Node) else _from_zero(chosen, shape[place])
    result = take(result, indices, axis=place)
    if to_front and indices.ndim:
        many = tuple(range(indices.ndim))
        result = moveaxis(result, tuple(place + i for i in many), many)
    return result


def _plain(item: Any) -> Any:
    """One part of a key as an int, slice, None, Ellipsis, integer array or node."""
    if item is None or item is Ellipsis or isinstance(item, slice):
        return item
    if isinstance(item, Node):
        if item.dtype.kind != "int":
            raise ShapeError(f"an index is an integer; found {item!r}", hint="for a condition use rs.where")
        return item
    if isinstance(item, bool) or not isinstance(item, (int, np.integer, np.ndarray, list)):
        raise ShapeError(f"an index is a number, slice, None, Ellipsis or an array of numbers; found {item!r}")
    array = np.asarray(item)
    if array.dtype.kind not in "iu" and array.size:
        raise ShapeError(
            f"an array of indices holds integers; found {array.dtype}", hint="for a condition use rs.where"
        )
    return int(array) if array.ndim == 0 else array.astype(np.int64)


def _is_index(item: Any) -> bool:
    return isinstance(item, (int, np.ndarray, Node))


def _spread(x: Node, items: list[Any]) -> list[Any]:
    """The key with one part for each axis of x, and None for each new one."""
    used = sum(item is not None and item is not Ellipsis for item in items)
    if used > x.ndim:
        raise ShapeError(f"{x!r} has {x.ndim} axes, but {used} indices were given")
    dots = [i for i, item in enumerate(items) if item is Ellipsis]
    if len(dots) > 1:
        raise ShapeError("an index can have one Ellipsis ('...') only")
    at = dots[0] if dots else len(items)
    return [*items[:at], *[FULL] * (x.ndim - used), *items[at + 1 :]]


def _slice(x: Node, items: list[Any]) -> Node:
    """x cut along every axis that has a number or a slice; a number leaves an axis of size 1."""
    cuts = [_cut(size, item) for size, item in zip(x.shape, (i for i in items if i is not None), strict=True)]
    if all(cut == (0, size, 1) for cut, size in zip(cuts, x.shape, strict=True)):
        return x
    start, stop, step = (tuple(cut[i] for cut in cuts) for i in range(3))
    return slice_op(x, start=start, stop=stop, step=step)


def _cut(size: Dim, item: Any) -> tuple[Dim, Dim, int]:
    if isinstance(item, (np.ndarray, Node)) or item is FULL:
        return 0, size, 1
    if isinstance(size, Batch):
        if isinstance(item, slice) and item.start in (None, 0) and item.stop is None and item.step in (None, 1):
            return 0, size, 1
        raise ShapeError(
            f"the batch axis {size} can only be taken whole (with ':'); found {item!r}",
            hint="bind the batch first: graph.bind(batch=...), or choose with an array of indices",
        )
    if isinstance(item, int):
        if not -size <= item < size:
            raise ShapeError(f"index {item} is not one of the {size} positions of its axis")
        return item % size, item % size + 1, 1
    try:
        return item.indices(size)  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise ShapeError(f"{item!r} is not a slice of numbers: {error}") from None


def _reshaped(sliced: Node, items: list[Any]) -> tuple[tuple[Dim, ...], int, Any]:
    """The shape without the axes of numbers and with the new ones; where the index array stands in it; that array."""
    shape: list[Dim] = []
    sizes = iter(sliced.shape)
    place, chosen = 0, None
    for item in items:
        size: Dim = 1 if item is None else next(sizes)
        if isinstance(item, int):
            continue
        if isinstance(item, (np.ndarray, Node)):
            place, chosen = len(shape), item
        shape.append(size)
    return tuple(shape), place, chosen


def _from_zero(indices: np.ndarray, size: Dim) -> Node:
    """Known indices as a constant that counts from the start. Raises ShapeError where one does not exist."""
    if isinstance(size, int):
        if indices.size and not (-size <= indices.min() and indices.max() < size):
            raise ShapeError(
                f"indices from {indices.min()} to {indices.max()} are not all among the {size} positions of their axis"
            )
        indices = np.where(indices < 0, indices + size, indices)
    return constant_op(value=indices)
