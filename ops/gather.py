"""take, take_along_axis, one_hot: elements chosen by index; and scatter_add, scatter_add_along_axis, their gradients.

An index outside its axis is refused with DataError, negative ones too: they are data, and hide mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from rainshed.ops.access import WHOLE, Access, Axis, Reach
from rainshed.ops.errors import DataError, DTypeError, ShapeError
from rainshed.ops.gather_native import added
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.layout import one_axis
from rainshed.ops.op import NUMBERS, REQUIRED, Cost, Op, Tile, Types, op
from rainshed.ops.types import Dim, DType, TensorType, Type, dtype_of, fixed, ints_of, shape_of

CHUNK = 1 << 18  # elements whose flat indices are held at a time


def check_indices(op: str, indices: np.ndarray, size: int) -> None:
    """Raises DataError if an index does not lie in [0, size)."""
    if indices.size and (indices.min() < 0 or indices.max() >= size):
        where = np.argwhere((indices < 0) | (indices >= size))[0]
        raise DataError(
            f"{op}: index {indices[tuple(where)]} at {where.tolist()} is not one of the {size} positions of the axis",
            hint="indices run from 0; negative ones are not counted from the end",
        )


def _integers(op: str, t: TensorType) -> None:
    if t.dtype.kind != "int":
        raise DTypeError(f"{op}: indices are int32 or int64; found {t}", hint="astype(indices, 'int64')")


def _joined(*groups: tuple[str, tuple[int, ...]]) -> list[Axis]:
    return [Axis(f"{letter}{i}", n) for letter, shape in groups for i, n in enumerate(shape)]


def _run(first: int, count: int) -> tuple[Reach, ...]:
    return tuple(Reach(first + i) for i in range(count))


# -- take -------------------------------------------------------------------------------------------------------------
def _take_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    x, indices = types
    _integers("take", indices)
    rank = len(x.shape)
    return {"axis": 0 if attrs["axis"] is None and rank == 1 else one_axis("take", attrs["axis"], rank)}


def _take_infer(types: Types, attrs: Attrs) -> Type:
    x, indices = types
    axis = attrs["axis"]
    return TensorType(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _take_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    """The axis that is chosen from is needed whole; all axes of the result are free."""
    x, indices = types
    axis, many = attrs["axis"], len(indices.shape)
    rank = len(output.shape)
    return Access(
        axes=tuple(_joined(("b", fixed(output.shape)))),
        inputs=((*_run(0, axis), WHOLE, *_run(axis + many, len(x.shape) - axis - 1)), _run(axis, many)),
        output=_run(0, rank),
    )


def _take_grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    x, indices = node.inputs
    axis = node.attrs["axis"]
    return scatter_add(dy, indices, axis=axis, size=x.shape[axis]), None


def _take_cpu(x: np.ndarray, indices: np.ndarray, out: np.ndarray, *, axis: int) -> None:
    check_indices("take", indices, x.shape[axis])
    if out.size:
        np.take(x, indices, axis=axis, out=out, mode="clip")


take: Op = op(
    name="take",
    work="layout",
    arity=2,
    attrs={"axis": None},
    clean=_take_clean,
    infer=_take_infer,
    access=_take_access,
    grad=_take_grad,
    cost=lambda types, output, attrs: Cost(0, 2 * output.nbytes + types[1].nbytes),
    cpu=_take_cpu,
    doc="x's elements at `indices` along one axis, which the axes of `indices` replace.",
)


def embedding(table: Node, ids: Node) -> Node:
    """Row ids[...] of the table for each id: table [n, ...], ids int[...]."""
    return take(table, ids, axis=0)


# -- scatter_add ------------------------------------------------------------------------------------------------------
def _clean_rows(op: str, attrs: dict[str, Any]) -> dict[str, Any]:
    """`size` rows from `base` on, of `whole` rows in all (None: these are all)."""
    (size,) = shape_of(op, (attrs["size"],))
    (base,) = ints_of(op, "base", (attrs["base"],), 1)
    whole = attrs["whole"]
    if whole is not None:
        (whole,) = fixed(shape_of(op, (whole,)))
        if not isinstance(size, int) or not 0 <= base <= base + size <= whole:
            raise ShapeError(f"{op}: rows {base} to {base}+{size} are not among {whole}")
    elif base:
        raise ShapeError(f"{op}: base {base} needs `whole`")
    return {"size": size, "base": base, "whole": whole}


def _tile_rows(position: Callable[[Attrs], int]) -> Callable[[Tile], Mapping[str, Any]]:
    """Attributes of a tile of the rows, which are the axis `position(attrs)` of the result."""

    def tile(tile: Tile) -> Mapping[str, Any]:
        at = position(tile.attrs)
        low, high = tile.result[at]
        whole = fixed(tile.output.shape)[at] if tile.attrs["whole"] is None else tile.attrs["whole"]
        return {"size": high - low, "base": tile.attrs["base"] + low, "whole": whole}

    return tile


ROWS: Mapping[str, Any] = {"size": REQUIRED, "base": 0, "whole": None}


def scatter_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    values, indices = types
    _integers("scatter_add", indices)
    (axis,) = ints_of("scatter_add", "axis", (attrs["axis"],), 1)
    many = len(indices.shape)
    if not 0 <= axis <= len(values.shape) - many or values.shape[axis : axis + many] != indices.shape:
        raise ShapeError(f"scatter_add: the values {values} do not have the axes of {indices} at axis {axis}")
    return {"axis": axis, **_clean_rows("scatter_add", attrs)}


def _scatter_infer(types: Types, attrs: Attrs) -> Type:
    values, indices = types
    axis = attrs["axis"]
    return TensorType(values.dtype, (*values.shape[:axis], attrs["size"], *values.shape[axis + len(indices.shape) :]))


def scatter_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    """The result's axes are free (rows too: a tile of them skips what is not its own); those of the indices sum."""
    indices, rank, axis = fixed(types[1].shape), len(output.shape), attrs["axis"]
    return Access(
        axes=(*_joined(("b", fixed(output.shape))), *(Axis(f"i{i}", n, "sum") for i, n in enumerate(indices))),
        inputs=(
            (*_run(0, axis), *_run(rank, len(indices)), *_run(axis + 1, rank - axis - 1)),
            _run(rank, len(indices)),
        ),
        output=_run(0, rank),
        combine="add",
    )


def _scatter_grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    return take(dy, node.inputs[1], axis=node.attrs["axis"]), None


def _scatter_cpu(
    values: np.ndarray, indices: np.ndarray, out: np.ndarray, *, axis: int, size: int, base: int, whole: int | None
) -> None:
    """Seen as [before, size, after] += [before, indices, after], one index after the other."""
    check_indices("scatter_add", indices, size if whole is None else whole)
    out[...] = 0
    if not out.size or not values.size:
        return
    flat = indices.reshape(-1).astype(np.int64) - base
    before, after = int(np.prod(out.shape[:axis])), int(np.prod(out.shape[axis + 1 :]))
    values = values.reshape(before, flat.size, after)
    own = (flat >= 0) & (flat < size)
    if not own.all():
        flat, values = flat[own], values[:, own]
    target = np.zeros(out.size, out.dtype)
    rows = max(1, CHUNK // after)
    for b in range(before):
        for start in range(0, flat.size, rows):
            part = flat[start : start + rows, None] + b * size
            np.add.at(target, (part * after + np.arange(after)).ravel(), values[b, start : start + rows].ravel())
    out[...] = target.reshape(out.shape)


scatter_tile = _tile_rows(lambda attrs: int(attrs["axis"]))

scatter_add: Op = op(
    name="scatter_add",
    work="layout",
    arity=2,
    attrs={"axis": 0, **ROWS},
    kinds=NUMBERS,
    clean=scatter_clean,
    infer=_scatter_infer,
    access=scatter_access,
    tile=scatter_tile,
    grad=_scatter_grad,
    cost=lambda types, output, attrs: Cost(types[0].size),
    cpu=_scatter_cpu,
    native=lambda types, output, attrs: added(partial(check_indices, "scatter_add"), types, output, attrs),
    doc="Zeros with `size` positions along one axis, plus the values at their indices: the gradient of take.",
)


# -- take_along_axis --------------------------------------------------------------------------------------------------
def _along_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    x, indices = types
    _integers("take_along_axis", indices)
    axis = one_axis("take_along_axis", attrs["axis"], len(x.shape))
    _same_but("take_along_axis", x, indices, axis)
    return {"axis": axis}


def _same_but(op: str, x: TensorType, indices: TensorType, axis: int) -> None:
    a, b = list(x.shape), list(indices.shape)
    if len(a) != len(b) or a[:axis] + a[axis + 1 :] != b[:axis] + b[axis + 1 :]:
        raise ShapeError(f"{op}: {x} and the indices {indices} differ in more than axis {axis}")


def _along_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    rank, axis = len(output.shape), attrs["axis"]
    same = _run(0, rank)
    return Access(
        axes=tuple(_joined(("b", fixed(output.shape)))),
        inputs=((*same[:axis], WHOLE, *same[axis + 1 :]), same),
        output=same,
    )


def _along_grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    x, indices = node.inputs
    axis = node.attrs["axis"]
    return scatter_add_along_axis(dy, indices, axis=axis, size=x.shape[axis]), None


def _along_cpu(x: np.ndarray, indices: np.ndarray, out: np.ndarray, *, axis: int) -> None:
    check_indices("take_along_axis", indices, x.shape[axis])
    out[...] = np.take_along_axis(x, indices, axis)


take_along_axis: Op = op(
    name="take_along_axis",
    work="layout",
    arity=2,
    attrs={"axis": -1},
    clean=_along_clean,
    infer=lambda types, attrs: TensorType(types[0].dtype, types[1].shape),
    access=_along_access,
    grad=_along_grad,
    cost=lambda types, output, attrs: Cost(0, 2 * output.nbytes + types[1].nbytes),
    cpu=_along_cpu,
    doc="At each position of `indices` the element of x that its index names along one axis.",
)


def _add_along_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    values, indices = types
    _integers("scatter_add_along_axis", indices)
    if values.shape != indices.shape:
        raise ShapeError(f"scatter_add_along_axis: the values {values} do not have the shape of the indices {indices}")
    return {
        "axis": one_axis("scatter_add_along_axis", attrs["axis"], len(values.shape)),
        **_clean_rows("scatter_add_along_axis", attrs),
    }


def _add_along_infer(types: Types, attrs: Attrs) -> Type:
    shape: list[Dim] = list(types[0].shape)
    shape[attrs["axis"]] = attrs["size"]
    return TensorType(types[0].dtype, tuple(shape))


def _add_along_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    axis, rank = attrs["axis"], len(output.shape)
    own = tuple(Reach(rank) if i == axis else Reach(i) for i in range(rank))
    return Access(
        axes=(*_joined(("b", fixed(output.shape))), Axis("i", fixed(types[1].shape)[axis], "sum")),
        inputs=(own, own),
        output=_run(0, rank),
        combine="add",
    )


def _add_along_grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    return take_along_axis(dy, node.inputs[1], axis=node.attrs["axis"]), None


def _add_along_cpu(
    values: np.ndarray, indices: np.ndarray, out: np.ndarray, *, axis: int, size: int, base: int, whole: int | None
) -> None:
    check_indices("scatter_add_along_axis", indices, size if whole is None else whole)
    target = np.zeros(out.shape, out.dtype)
    places: list[np.ndarray] = list(np.indices(indices.shape, sparse=True))
    places[axis] = indices.astype(np.int64) - base
    own = (places[axis] >= 0) & (places[axis] < size)
    everywhere = np.broadcast_arrays(*places)
    np.add.at(target, tuple(place[own] for place in everywhere), values[own])
    out[...] = target


scatter_add_along_axis: Op = op(
    name="scatter_add_along_axis",
    work="layout",
    arity=2,
    attrs={"axis": -1, **ROWS},
    kinds=NUMBERS,
    clean=_add_along_clean,
    infer=_add_along_infer,
    access=_add_along_access,
    tile=_tile_rows(lambda attrs: int(attrs["axis"])),
    grad=_add_along_grad,
    cost=lambda types, output, attrs: Cost(types[0].size),
    cpu=_add_along_cpu,
    doc="Zeros with `size` positions along one axis, plus the values at their indices along it.",
)


# -- one_hot ----------------------------------------------------------------------------------------------------------
def _hot_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    _integers("one_hot", types[0])
    return {"dtype": dtype_of(attrs["dtype"]), **_clean_rows("one_hot", attrs)}


def _hot_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    rank = len(output.shape)
    return Access(tuple(_joined(("b", fixed(output.shape)))), (_run(0, rank - 1),), _run(0, rank))


def _hot_cpu(indices: np.ndarray, out: np.ndarray, *, dtype: DType, size: int, base: int, whole: int | None) -> None:
    check_indices("one_hot", indices, size if whole is None else whole)
    out[...] = indices[..., None] == np.arange(base, base + size)


one_hot_op: Op = op(
    name="one_hot",
    work="layout",
    arity=1,
    attrs={"dtype": "float32", **ROWS},
    clean=_hot_clean,
    infer=lambda types, attrs: TensorType(attrs["dtype"], (*types[0].shape, attrs["size"])),
    access=_hot_access,
    tile=_tile_rows(lambda attrs: -1),
    cpu=_hot_cpu,
    doc="1 at the index along a new last axis with `size` positions, 0 elsewhere.",
)


def one_hot(indices: Node, depth: int, dtype: Any = "float32") -> Node:
    """[..., depth] with 1 at each index and 0 elsewhere."""
    return one_hot_op(indices, size=depth, dtype=dtype)
