"""The leaves of a graph: inputs, variables, constants, the number of the step; and `pick`, which takes one of several results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rainshed.ops.access import Access, Axis, Reach
from rainshed.ops.errors import DTypeError, GraphError, ShapeError
from rainshed.ops.init import Init
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.op import REQUIRED, Cost, Op, Tile, Types, constant_op, op
from rainshed.ops.types import (
    Batch,
    Shape,
    TensorType,
    TupleType,
    Type,
    bfloat16,
    dtype_of,
    fixed,
    int64,
    ints_of,
    shape_of,
    shape_text,
)


def _clean_leaf(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    name, shape = attrs["name"], attrs["shape"]
    if not isinstance(name, str) or not name or name.strip() != name or any(c in name for c in "\"'\n{}"):
        raise GraphError(f"a name must be a non-empty text without quotes, braces or line breaks; found {name!r}")
    dims = shape_of(name, shape)
    return {**attrs, **clean_part(name, dims, attrs), "shape": dims, "dtype": dtype_of(attrs["dtype"])}


def clean_part(name: str, shape: Shape, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes `offset` and `whole` of a value that may be one part of a larger one, checked against each other."""
    part: dict[str, Any] = {}
    for key in ("offset", "whole"):
        if key in attrs:
            part[key] = None if attrs[key] is None else ints_of(name, key, attrs[key], len(shape))
    offset, whole = part.get("offset") or (0,) * len(shape), part.get("whole")
    if min(offset, default=0) < 0:
        raise ShapeError(f"{name}: offset {offset} is negative")
    if whole is not None:
        for low, size, total in zip(offset, shape, whole, strict=True):
            if low + size > total if isinstance(size, int) else low > total:
                raise ShapeError(
                    f"{name}: the part {shape_text(shape)} at {offset} does not lie inside {shape_text(whole)}"
                )
    return part


def _clean_variable(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    cleaned = dict(_clean_leaf(types, attrs))
    cleaned["init"] = Init.of(cleaned["init"])
    cleaned["trainable"] = bool(cleaned["trainable"])
    if any(isinstance(dim, Batch) for dim in cleaned["shape"]):
        raise GraphError(f"variable {cleaned['name']!r} cannot have the batch axis in its shape")
    if cleaned["dtype"] is bfloat16:
        what = f"variable {cleaned['name']!r} cannot be kept in bfloat16: small steps would be rounded away"
        raise DTypeError(what, hint="keep it in float32; astype(w, 'bfloat16') where a product reads it")
    cleaned["init"].check(cleaned["name"], cleaned["shape"], cleaned["dtype"])
    return cleaned


def _infer_leaf(types: Types, attrs: Attrs) -> Type:
    return TensorType(attrs["dtype"], attrs["shape"])


def leaf_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    """Every axis of a leaf is free: any box of it stands by itself."""
    shape = fixed(output.shape)
    return Access(
        axes=tuple(Axis(f"b{i}", size) for i, size in enumerate(shape)),
        inputs=(),
        output=tuple(Reach(i) for i in range(len(shape))),
    )


def _tile_leaf(tile: Tile) -> Mapping[str, Any]:
    """A part of a leaf is a leaf of the same name; `offset` tells which part of `whole` it is."""
    base = tile.attrs["offset"] or (0,) * len(tile.box)
    return {
        "shape": tuple(high - low for low, high in tile.box),
        "offset": tuple(b + low for b, (low, _) in zip(base, tile.box, strict=True)),
        "whole": tile.attrs["whole"] or fixed(tile.output.shape),
    }


def _tile_variable(tile: Tile) -> Mapping[str, Any]:
    part = dict(_tile_leaf(tile))
    values = tile.attrs["init"].values
    if values is not None:
        part["init"] = Init("array", (), values[tuple(slice(low, high) for low, high in tile.box)].copy())
    return part


def _fed(out: np.ndarray, **attrs: Any) -> None:
    raise GraphError(f"{attrs['name']!r} is a leaf: its value is given by the runtime, not computed")


def _free(types: Types, output: Type, attrs: Attrs) -> Cost:
    return Cost(0, 0)


input_op: Op = op(
    name="input",
    arity=0,
    attrs={"name": REQUIRED, "shape": REQUIRED, "dtype": "float32", "offset": None, "whole": None},
    clean=_clean_leaf,
    infer=_infer_leaf,
    access=leaf_access,
    tile=_tile_leaf,
    cost=_free,
    cpu=_fed,
    doc="A value given at each step.",
)

# `whole`: the shape of the variable before it was split; the initialiser's random numbers are counted in it.
variable_op: Op = op(
    name="variable",
    arity=0,
    attrs={
        "name": REQUIRED,
        "shape": REQUIRED,
        "dtype": "float32",
        "init": 0.0,
        "offset": None,
        "whole": None,
        "trainable": True,
    },
    clean=_clean_variable,
    infer=_infer_leaf,
    access=leaf_access,
    tile=_tile_variable,
    cost=_free,
    cpu=_fed,
    doc="A value kept from step to step.",
)

step_op: Op = op(
    name="step",
    arity=0,
    infer=lambda types, attrs: TensorType(int64, ()),
    access=leaf_access,
    cost=_free,
    cpu=_fed,
    doc="The number of the current step, from 0: i64[].",
)


def _infer_size(types: Types, attrs: Attrs) -> Type:
    return TensorType(dtype_of(attrs["dtype"]), ())


def _clean_size(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    rank, axis = len(types[0].shape), attrs["axis"]
    if axis is None:
        axis = tuple(range(rank))
    axes = ints_of("axis_size", "axis", axis, len(axis) if isinstance(axis, (tuple, list)) else 1)
    if any(not -rank <= a < rank for a in axes):
        raise ShapeError(f"axis_size: {types[0]} has no axes {axes}")
    return {"axis": tuple(sorted({a % rank for a in axes})), "dtype": dtype_of(attrs["dtype"])}


def _size_cpu(x: np.ndarray, out: np.ndarray, *, axis: tuple[int, ...], dtype: Any) -> None:
    size = 1
    for a in axis:
        size *= x.shape[a]
    out[...] = size


# Needed because a mean over the batch divides by B, which is not a number yet; `simplify` makes it a constant.
axis_size: Op = op(
    name="axis_size",
    arity=1,
    attrs={"axis": None, "dtype": "float32"},
    clean=_clean_size,
    infer=_infer_size,
    cost=_free,
    cpu=_size_cpu,
    doc="How many elements the axes hold together, as a scalar.",
)


def _infer_pick(types: Any, attrs: Attrs) -> Type:
    (given,) = types
    index = attrs["index"]
    if not isinstance(given, TupleType):
        raise GraphError(f"pick: {given} is one value, not a tuple")
    if not isinstance(index, int) or not 0 <= index < len(given.items):
        raise GraphError(f"pick: index {index!r} is not one of the {len(given.items)} results")
    return given.items[index]


def _grad_pick(node: Node, dnode: Node) -> tuple[Node | None, ...]:
    return (dnode,)  # `differentiate` gathers the picks of one tuple before it asks the op behind


def _pick_cpu(values: Any, out: np.ndarray, *, index: int) -> None:
    out[...] = values[index]


pick_op: Op = op(
    name="pick",
    arity=1,
    attrs={"index": REQUIRED},
    infer=_infer_pick,
    grad=_grad_pick,
    cost=_free,
    cpu=_pick_cpu,
    doc="One of the results of an op that has several.",
)


def input(name: str, shape: Any, dtype: Any = "float32") -> Node:
    """A value given at each step. One axis may be None: the batch axis, printed B."""
    return input_op(name=name, shape=shape, dtype=dtype)


def variable(name: str, shape: Any, dtype: Any = "float32", *, init: Any = 0.0, trainable: bool = True) -> Node:
    """A value kept from step to step, and trained. `init`: an `Init`, a number, or an array of the same shape."""
    return variable_op(name=name, shape=shape, dtype=dtype, init=init, trainable=trainable)


def constant(value: Any, dtype: Any = None) -> Node:
    """A value known now: a number, a nested list or an array; Python floats are float32, Python ints int64."""
    if dtype is None and not isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        dtype = {"f": "float32", "i": "int64", "b": "bool"}.get(array.dtype.kind)
    array = np.asarray(value, dtype=None if dtype is None else dtype_of(dtype).numpy)
    return constant_op(value=array)


def pick(node: Node, index: int) -> Node:
    """The result number `index` of an op with several results."""
    return pick_op(node, index=index)
