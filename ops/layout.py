"""Moving elements: permute_dims, flip, concat; and stack, split, roll, repeat, tile, tril, ... built from them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rainshed.ops.access import WHOLE, Access, Axis, Reach
from rainshed.ops.broadcast import broadcast_to
from rainshed.ops.cuda import Launches, move, put_box, steps_of
from rainshed.ops.elementwise import greater_equal, where
from rainshed.ops.errors import RainshedError, ShapeError
from rainshed.ops.ir import Attrs, Node, current_origin
from rainshed.ops.op import MOVED, REQUIRED, Cost, Op, Types, constant_op, located, op
from rainshed.ops.reduce import Axes, clean_axes
from rainshed.ops.reshape import expand_dims, reshape, squeeze
from rainshed.ops.slice import take_range
from rainshed.ops.types import Batch, Dim, DType, TensorType, Type, fixed, ints_of, promote, shape_of


def one_axis(op: str, axis: Any, rank: int) -> int:
    """An axis argument as one non-negative axis. Raises ShapeError where it is none."""
    axes = clean_axes(op, axis, rank)
    if axis is None or len(axes) != 1:
        raise ShapeError(f"{op}: takes one axis; found {axis!r}")
    return axes[0]


# -- permute_dims -----------------------------------------------------------------------------------------------------
def _permute_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    rank = len(types[0].shape)
    axes = ints_of("permute_dims", "axes", attrs["axes"], rank)
    if sorted(a % rank if -rank <= a < rank else a for a in axes) != list(range(rank)):
        raise ShapeError(f"permute_dims: axes must name each of {rank} axes once; found {axes}")
    return {"axes": tuple(a % rank for a in axes)}


def _permute_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    shape = fixed(output.shape)
    return Access(
        axes=tuple(Axis(f"b{i}", size) for i, size in enumerate(shape)),
        inputs=(tuple(Reach(i) for i in _inverse(attrs["axes"])),),
        output=tuple(Reach(i) for i in range(len(shape))),
    )


def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axes.index(i) for i in range(len(axes)))


def _permute_cpu(x: np.ndarray, out: np.ndarray, *, axes: tuple[int, ...]) -> None:
    out[...] = np.transpose(x, axes)


def _permute_cuda(types: Types, output: TensorType, attrs: Attrs) -> Launches:
    steps, shape = steps_of(fixed(types[0].shape)), fixed(output.shape)
    return move(shape, tuple(steps[a] for a in attrs["axes"]), steps_of(shape))


permute_dims: Op = op(
    name="permute_dims",
    kinds=MOVED,
    work="layout",
    arity=1,
    attrs={"axes": REQUIRED},
    clean=_permute_clean,
    infer=lambda types, attrs: TensorType(types[0].dtype, tuple(types[0].shape[a] for a in attrs["axes"])),
    access=_permute_access,
    grad=lambda node, dy: (permute_dims(dy, axes=_inverse(node.attrs["axes"])),),
    cost=lambda types, output, attrs: Cost(0),
    cpu=_permute_cpu,
    cuda=_permute_cuda,
    doc="Axis i of the result is axis axes[i] of x.",
)


# -- flip -------------------------------------------------------------------------------------------------------------
def _flip_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    return {"axis": clean_axes("flip", attrs["axis"], len(types[0].shape))}


def _flip_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    shape = fixed(output.shape)
    turned = {i: Reach(i, scale=-1, low=shape[i] - 1, high=shape[i] - 1) for i in attrs["axis"]}
    return Access(
        axes=tuple(Axis(f"b{i}", size) for i, size in enumerate(shape)),
        inputs=(tuple(turned.get(i, Reach(i)) for i in range(len(shape))),),
        output=tuple(Reach(i) for i in range(len(shape))),
    )


def _flip_cpu(x: np.ndarray, out: np.ndarray, *, axis: tuple[int, ...]) -> None:
    out[...] = np.flip(x, axis)


def _flip_cuda(types: Types, output: TensorType, attrs: Attrs) -> Launches:
    shape, turned = fixed(output.shape), attrs["axis"]
    steps = steps_of(shape)
    base = sum((shape[i] - 1) * steps[i] for i in turned)
    return move(shape, tuple(-step if i in turned else step for i, step in enumerate(steps)), steps, x_base=base)


flip: Op = op(
    name="flip",
    kinds=MOVED,
    work="layout",
    arity=1,
    attrs={"axis": None},
    clean=_flip_clean,
    infer=lambda types, attrs: types[0],
    access=_flip_access,
    grad=lambda node, dy: (flip(dy, axis=node.attrs["axis"]),),
    cost=lambda types, output, attrs: Cost(0),
    cpu=_flip_cpu,
    cuda=_flip_cuda,
    doc="x backwards along some axes (None: all).",
)


# -- concat -----------------------------------------------------------------------------------------------------------
def _concat_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    return {"axis": one_axis("concat", attrs["axis"], len(types[0].shape))}


def _total(sizes: Sequence[Dim]) -> Dim:
    if all(isinstance(size, int) for size in sizes):
        return sum(size for size in sizes if isinstance(size, int))
    if all(isinstance(size, Batch) for size in sizes):
        return Batch(sum(size.times for size in sizes if isinstance(size, Batch)))
    raise ShapeError(
        "concat: an axis of length B meets one of known length", hint="bind the batch first: graph.bind(batch=...)"
    )


def _concat_infer(types: Types, attrs: Attrs) -> Type:
    axis = attrs["axis"]
    rest = {(*t.shape[:axis], *t.shape[axis + 1 :]) if axis < len(t.shape) else None for t in types}
    if len(rest) > 1 or len({len(t.shape) for t in types}) > 1:
        raise ShapeError(f"concat: the inputs differ in more than axis {axis}: {', '.join(map(str, types))}")
    shape = list(types[0].shape)
    shape[axis] = _total([t.shape[axis] for t in types])
    return TensorType(promote("concat", *(t.dtype for t in types)), tuple(shape))


def _concat_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    """Which input an element comes from is no affine function of its index along the axis: that stays whole."""
    axis, rank = attrs["axis"], len(output.shape)
    reach = tuple(WHOLE if i == axis else Reach(i) for i in range(rank))
    axes = tuple(Axis(f"b{i}", n, "whole" if i == axis else "join") for i, n in enumerate(fixed(output.shape)))
    return Access(axes, (reach,) * len(types), tuple(Reach(i) for i in range(rank)))


def _concat_grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    return tuple(cut_at(dy, node.attrs["axis"], [x.shape[node.attrs["axis"]] for x in node.inputs]))


def _concat_cpu(*operands: np.ndarray, axis: int) -> None:
    *inputs, out = operands
    np.concatenate(inputs, axis=axis, out=out)


def _concat_cuda(types: Types, output: TensorType, attrs: Attrs) -> Launches:
    launches: Launches = ()
    low = 0
    for i, t in enumerate(types):
        shape = fixed(t.shape)
        offset = tuple(low if axis == attrs["axis"] else 0 for axis in range(len(shape)))
        launches += put_box(types, output, i, tuple((at, at + n) for at, n in zip(offset, shape, strict=True)))
        low += shape[attrs["axis"]]
    return launches


concat_op: Op = op(
    name="concat",
    kinds=MOVED,
    work="layout",
    arity=None,
    attrs={"axis": 0},
    clean=_concat_clean,
    infer=_concat_infer,
    access=_concat_access,
    grad=_concat_grad,
    cost=lambda types, output, attrs: Cost(0),
    cpu=_concat_cpu,
    cuda=_concat_cuda,
    doc="The inputs one after the other along one axis.",
)


def concat(values: Sequence[Node], axis: int | None = 0) -> Node:
    """The values one after the other along an axis; axis=None flattens them first."""
    if axis is None:
        return concat_op(*(reshape(v, shape=(-1,)) for v in values), axis=0)
    return concat_op(*values, axis=axis)


def stack(values: Sequence[Node], axis: int = 0) -> Node:
    """Values of one shape side by side along a new axis, which stands at `axis` of the result."""
    if len({v.shape for v in values}) > 1:
        raise _wrong(f"stack: the values differ in shape: {', '.join(str(v.type) for v in values)}")
    return concat_op(*(expand_dims(v, axis) for v in values), axis=axis)


# -- taking apart -----------------------------------------------------------------------------------------------------
def cut_at(x: Node, axis: int, sizes: Sequence[Dim]) -> list[Node]:
    """Consecutive parts of these sizes along one axis."""
    found = []
    low: Dim = 0
    for size in sizes:
        high = size if low == 0 else _total([low, size])
        found.append(take_range(x, axis, low, high))
        low = high
    return found


def split(x: Node, parts: int | Sequence[int], axis: int = 0) -> list[Node]:
    """x in `parts` equal parts along an axis, or cut before each of the given indices."""
    at = _checked_axis("split", x, axis)
    size = x.shape[at]
    if isinstance(parts, (int, np.integer)):
        parts = int(parts)
        many = size.times if isinstance(size, Batch) else size
        if parts < 1 or many % parts:
            raise _wrong(f"split: axis {axis} of {x.type} cannot be cut into {parts} equal parts")
        each: Dim = Batch(many // parts) if isinstance(size, Batch) else many // parts
        return cut_at(x, at, [each] * parts)
    if isinstance(size, Batch):
        raise _wrong(f"split: the batch axis of {x.type} cannot be cut at indices")
    edges = [0, *parts, size]
    if any(not low <= high for low, high in itertools.pairwise(edges)):
        raise _wrong(f"split: the indices must rise from 0 to {size}; found {list(parts)}")
    return [take_range(x, at, low, high) for low, high in itertools.pairwise(edges)]


def unstack(x: Node, axis: int = 0) -> list[Node]:
    """The values along an axis, each without it."""
    at = _checked_axis("unstack", x, axis)
    size = x.shape[at]
    if isinstance(size, Batch):
        raise _wrong(f"unstack: the batch axis of {x.type} is not known yet")
    return [squeeze(take_range(x, at, i, i + 1), at) for i in range(size)]


def roll(x: Node, shift: int | tuple[int, ...], axis: Axes = None) -> Node:
    """x moved by `shift` along the axes; what leaves at one end comes in at the other. axis=None: as if flat."""
    if axis is None:
        if not isinstance(shift, (int, np.integer)):
            raise _wrong(f"roll: without an axis takes one shift; found {shift!r}")
        return reshape(roll(reshape(x, shape=(-1,)), shift, 0), shape=x.shape)
    axes = axis if isinstance(axis, tuple) else (axis,)
    shifts = shift if isinstance(shift, tuple) else (shift,) * len(axes)
    if len(shifts) != len(axes):
        raise _wrong(f"roll: {len(shifts)} shifts for {len(axes)} axes")
    for given, by in zip(axes, shifts, strict=True):
        at = _checked_axis("roll", x, given)
        size = x.shape[at]
        if isinstance(size, Batch):
            raise _wrong(f"roll: the batch axis of {x.type} is not known yet")
        if size and by % size:
            cut = size - by % size
            x = concat([take_range(x, at, cut, size), take_range(x, at, 0, cut)], at)
    return x


# -- repeating --------------------------------------------------------------------------------------------------------
def repeat(x: Node, repeats: int, axis: int | None = None) -> Node:
    """Each element `repeats` times in a row along an axis; axis=None flattens x first."""
    if isinstance(repeats, bool) or not isinstance(repeats, (int, np.integer)) or repeats < 0:
        raise _wrong(f"repeat: repeats is a whole number; found {repeats!r}")
    if axis is None:
        return repeat(reshape(x, shape=(-1,)), repeats, 0)
    at = _checked_axis("repeat", x, axis)
    before, size, after = x.shape[:at], x.shape[at], x.shape[at + 1 :]
    many = broadcast_to(expand_dims(x, at + 1), shape=(*before, size, int(repeats), *after))
    return reshape(many, shape=(*before, size * int(repeats), *after))


def tile(x: Node, reps: int | tuple[int, ...]) -> Node:
    """x repeated as a whole, reps[i] times along axis i; missing axes and reps on the left are 1."""
    counts = fixed(shape_of("tile", reps))
    rank = max(len(counts), x.ndim)
    counts = (1,) * (rank - len(counts)) + counts
    shape = (1,) * (rank - x.ndim) + x.shape
    apart = reshape(x, shape=tuple(dim for size in shape for dim in (1, size)))
    many = broadcast_to(apart, shape=tuple(dim for pair in zip(counts, shape, strict=True) for dim in pair))
    return reshape(many, shape=tuple(size * n for n, size in zip(counts, shape, strict=True)))


# -- axes and triangles -----------------------------------------------------------------------------------------------
def moveaxis(x: Node, source: int | tuple[int, ...], destination: int | tuple[int, ...]) -> Node:
    """x with the axes `source` moved to the places `destination`; the others keep their order."""
    sources = source if isinstance(source, tuple) else (source,)
    places = destination if isinstance(destination, tuple) else (destination,)
    if len(sources) != len(places):
        raise _wrong(f"moveaxis: {len(sources)} sources for {len(places)} destinations")
    moved = {
        _checked_axis("moveaxis", x, to): _checked_axis("moveaxis", x, old)
        for old, to in zip(sources, places, strict=True)
    }
    rest = iter([i for i in range(x.ndim) if i not in moved.values()])
    if len(moved) < len(sources) or len(set(moved.values())) < len(sources):
        raise _wrong(f"moveaxis: an axis is named twice in {source!r} or {destination!r}")
    return permute_dims(x, axes=tuple(moved[i] if i in moved else next(rest) for i in range(x.ndim)))


def diagonal_mask(rows: int, columns: int, k: int) -> Node:
    """bool[rows, columns]: whether an element lies on or below the k-th diagonal."""
    row = constant_op(value=np.arange(rows).reshape(rows, 1) + k)
    return greater_equal(row, constant_op(value=np.arange(columns)))


def tril(x: Node, *, k: int = 0) -> Node:
    """The lower triangles of the last two axes, with zeros above the k-th diagonal."""
    rows, columns = _matrix("tril", x)
    return where(diagonal_mask(rows, columns, k), x, _zero(x.dtype))


def triu(x: Node, *, k: int = 0) -> Node:
    """The upper triangles of the last two axes, with zeros below the k-th diagonal."""
    rows, columns = _matrix("triu", x)
    return where(diagonal_mask(rows, columns, k - 1), _zero(x.dtype), x)


def _matrix(name: str, x: Node) -> tuple[int, int]:
    if x.ndim < 2:
        raise _wrong(f"{name}: takes matrices; found {x.type}")
    rows, columns = fixed(x.shape[-2:])
    return rows, columns


def _zero(dtype: DType) -> Node:
    return constant_op(value=np.zeros((), dtype.numpy))


def _checked_axis(name: str, x: Node, axis: Any) -> int:
    try:
        return one_axis(name, axis, x.ndim)
    except RainshedError as error:
        raise located(error, current_origin()) from None


def _wrong(message: str) -> ShapeError:
    return ShapeError(message, built_at=current_origin())
