"""reshape: the same elements, in the same row-major order, under another shape; expand_dims and squeeze are reshapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rainshed.ops.access import WHOLE, Access, Axis, Reach
from rainshed.ops.cuda import same_order
from rainshed.ops.errors import ShapeError
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.op import MOVED, REQUIRED, Cost, Op, Tile, Types, op
from rainshed.ops.types import Batch, Dim, Shape, TensorType, Type, fixed, shape_text, size_of, whole_of


def _clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    (x,) = types
    shape = attrs["shape"]
    shape = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    for dim in shape:
        if (
            not isinstance(dim, (int, np.integer, Batch))
            or isinstance(dim, bool)
            or (isinstance(dim, int) and dim < -1)
        ):
            raise ShapeError(f"reshape: {dim!r} is not a size in {shape!r}")
    if sum(isinstance(d, int) and d == -1 for d in shape) > 1:
        raise ShapeError(f"reshape: only one size can be -1, found {shape_text(shape)}")
    if -1 in shape:
        known = size_of(tuple(d for d in shape if d != -1))
        shape = tuple(_quotient(x, known) if d == -1 else d for d in shape)
    return {"shape": shape}


def _quotient(x: TensorType, known: Dim) -> Dim:
    total = size_of(x.shape)
    many, unit = (
        (total.times if isinstance(total, Batch) else total),
        (known.times if isinstance(known, Batch) else known),
    )
    if unit == 0 or many % unit or (isinstance(known, Batch) and not isinstance(total, Batch)):
        raise ShapeError(f"reshape: the {total} elements of {x} are not a multiple of {known}")
    if isinstance(total, Batch) and not isinstance(known, Batch):
        return Batch(many // unit)
    return many // unit


def _infer(types: Types, attrs: Attrs) -> Type:
    (x,) = types
    if size_of(x.shape) != size_of(attrs["shape"]):
        raise ShapeError(
            f"reshape: {x} has {size_of(x.shape)} elements, {shape_text(attrs['shape'])} has {size_of(attrs['shape'])}"
        )
    return TensorType(x.dtype, attrs["shape"])


def _groups(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The axes in the smallest runs of equal product: (axes of old, axes of new) each."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        p = old[i] if i < len(old) else 1
        q = new[j] if j < len(new) else 1
        a, b = ([i] if i < len(old) else []), ([j] if j < len(new) else [])
        i, j = i + 1, j + 1
        while p != q:
            if (p < q and i < len(old)) or j >= len(new):
                p, a, i = p * old[i], a + [i], i + 1
            else:
                q, b, j = q * new[j], b + [j], j + 1
        groups.append((a, b))
    return groups


def _access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    """Within a run of axes that are merged or divided, only the first (slowest) axis of the result can be cut, and only
    where the cut falls between rows of the input."""
    old, new = fixed(types[0].shape), fixed(output.shape)
    axes = [Axis(f"b{i}", size, "whole") for i, size in enumerate(new)]
    reach = [WHOLE] * len(old)
    if 0 not in old:
        for a, b in _groups(old, new):
            a = [i for i in a if old[i] > 1]
            b = [i for i in b if new[i] > 1]
            if a and b:
                axis, found = _lead(old, new, a, b)
                if axis is not None:
                    axes[b[0]], reach[a[0]] = axis, found
    return Access(tuple(axes), (tuple(reach),), tuple(Reach(i) for i in range(len(new))))


def _lead(old: tuple[int, ...], new: tuple[int, ...], a: list[int], b: list[int]) -> tuple[Axis | None, Reach]:
    rows, out_rows = old[a[0]], new[b[0]]
    name = f"b{b[0]}"
    if out_rows % rows == 0:  # finer rows: several of the result's make one of the input's
        per = out_rows // rows
        return Axis(name, out_rows, "join", step=per), Reach(b[0], per=per)
    if rows % out_rows == 0:  # coarser rows
        many = rows // out_rows
        return Axis(name, out_rows), Reach(b[0], scale=many, high=many - 1)
    return None, WHOLE


def _tile(tile: Tile) -> Mapping[str, Any]:
    return {"shape": tuple(high - low for low, high in tile.result)}


def _cpu(x: np.ndarray, out: np.ndarray, *, shape: Shape) -> None:
    out[...] = x.reshape(out.shape)


reshape: Op = op(
    name="reshape",
    kinds=MOVED,
    work="layout",
    arity=1,
    attrs={"shape": REQUIRED},
    clean=_clean,
    infer=_infer,
    access=_access,
    tile=_tile,
    grad=lambda node, dy: (reshape(dy, shape=node.inputs[0].shape),),
    cost=lambda types, output, attrs: Cost(0),
    cpu=_cpu,
    cuda=same_order,
    doc="The same elements under another shape; one size may be -1.",
)


def expand_dims(x: Node, axis: int | tuple[int, ...] = 0) -> Node:
    """x with new axes of size 1 at these positions of the result."""
    given = axis if isinstance(axis, tuple) else (axis,)
    rank = x.ndim + len(given)
    for a in given:
        if whole_of(a) is None or not -rank <= a < rank:
            raise ShapeError(f"expand_dims: there is no axis {a!r} in a result with {rank} axes", built_at=x.origin)
    places = {a % rank for a in given}
    if len(places) < len(given):
        raise ShapeError(f"expand_dims: an axis is named twice in {axis!r}", built_at=x.origin)
    left = iter(x.shape)
    return reshape(x, shape=tuple(1 if i in places else next(left) for i in range(rank)))


def squeeze(x: Node, axis: int | tuple[int, ...]) -> Node:
    """x without these axes, each of size 1."""
    given = axis if isinstance(axis, tuple) else (axis,)
    for a in given:
        if whole_of(a) is None or not -x.ndim <= a < x.ndim or x.shape[a] != 1:
            raise ShapeError(f"squeeze: axis {a!r} of {x.type} is not of size 1", built_at=x.origin)
    drop = {a % x.ndim for a in given}
    return reshape(x, shape=tuple(size for i, size in enumerate(x.shape) if i not in drop))
