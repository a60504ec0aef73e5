"""broadcast_to and sum_to: stretch axes of size 1, and add up what was stretched. Each is the gradient of the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rainshed.ops.access import WHOLE, Access, Axis, Reach
from rainshed.ops.cuda import Launches, move, steps_of, stretched
from rainshed.ops.errors import ShapeError
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.op import MOVED, REQUIRED, Cost, Op, Tile, Types, op
from rainshed.ops.scalar import reduce_axes
from rainshed.ops.types import Shape, TensorType, Type, broadcast, fixed, shape_of, shape_text


def _clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    return {"shape": shape_of("broadcast_to", attrs["shape"])}


def _infer_broadcast(types: Types, attrs: Attrs) -> Type:
    (x,) = types
    if broadcast("broadcast_to", x.shape, attrs["shape"]) != attrs["shape"]:
        raise ShapeError(f"broadcast_to: {x} does not stretch to {shape_text(attrs['shape'])}")
    return TensorType(x.dtype, attrs["shape"])


def _access_broadcast(types: Types, output: TensorType, attrs: Attrs) -> Access:
    (x,) = types
    shape = fixed(output.shape)
    lead = len(shape) - len(x.shape)
    return Access(
        axes=tuple(Axis(f"b{i}", size) for i, size in enumerate(shape)),
        inputs=(tuple(WHOLE if size == 1 else Reach(lead + i) for i, size in enumerate(x.shape)),),
        output=tuple(Reach(i) for i in range(len(shape))),
    )


def _infer_sum(types: Types, attrs: Attrs) -> Type:
    (x,) = types
    if broadcast("sum_to", x.shape, attrs["shape"]) != x.shape:
        raise ShapeError(f"sum_to: {x} is not a stretched {shape_text(attrs['shape'])}")
    return TensorType(x.dtype, attrs["shape"])


def _access_sum(types: Types, output: TensorType, attrs: Attrs) -> Access:
    (x,) = types
    shape, out = fixed(x.shape), fixed(output.shape)
    lead = len(shape) - len(out)
    kept = [i >= lead and out[i - lead] == shape[i] for i in range(len(shape))]
    return Access(
        axes=tuple(Axis(f"b{i}", size, "join" if kept[i] else "sum") for i, size in enumerate(shape)),
        inputs=(tuple(Reach(i) for i in range(len(shape))),),
        output=tuple(Reach(lead + i) if kept[lead + i] else WHOLE for i in range(len(out))),
        combine="add",
    )


def _tile_to_result(tile: Tile) -> Mapping[str, Any]:
    return {"shape": tuple(high - low for low, high in tile.result)}


def _broadcast_cpu(x: np.ndarray, out: np.ndarray, *, shape: Shape) -> None:
    out[...] = x


def _broadcast_cuda(types: Types, output: TensorType, attrs: Attrs) -> Launches:
    shape = fixed(output.shape)
    return move(shape, stretched(fixed(types[0].shape), shape), steps_of(shape))


def _summed(x: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of x that are added up."""
    lead = len(x) - len(shape)
    return tuple(i for i in range(len(x)) if i < lead or shape[i - lead] != x[i])


def _sum_cpu(x: np.ndarray, out: np.ndarray, *, shape: tuple[int, ...]) -> None:
    np.sum(x, axis=_summed(x.shape, shape), keepdims=True, out=out.reshape((1,) * (x.ndim - len(shape)) + shape))


def _sum_cuda(types: Types, output: TensorType, attrs: Attrs) -> Launches:
    return reduce_axes(types[0], _summed(fixed(types[0].shape), attrs["shape"]), "x0 + x1", "0")


broadcast_to: Op = op(
    name="broadcast_to",
    kinds=MOVED,
    work="layout",
    arity=1,
    attrs={"shape": REQUIRED},
    clean=_clean,
    infer=_infer_broadcast,
    access=_access_broadcast,
    tile=_tile_to_result,
    grad=lambda node, dy: (sum_to(dy, shape=node.inputs[0].shape),),
    cost=lambda types, output, attrs: Cost(0),
    cpu=_broadcast_cpu,
    cuda=_broadcast_cuda,
    doc="x with axes of size 1, and missing axes on the left, stretched to `shape`.",
)

sum_to: Op = op(
    name="sum_to",
    work="reduction",
    arity=1,
    attrs={"shape": REQUIRED},
    kinds=("float", "int"),
    clean=_clean,
    infer=_infer_sum,
    access=_access_sum,
    tile=_tile_to_result,
    grad=lambda node, dy: (broadcast_to(dy, shape=node.inputs[0].shape),),
    cpu=_sum_cpu,
    cuda=_sum_cuda,
    doc="x summed over the axes that broadcasting `shape` to x's shape would stretch.",
)


def unbroadcast(dy: Node, shape: Shape) -> Node:
    """The gradient for a value of this shape that was stretched to dy's."""
    return dy if dy.shape == shape else sum_to(dy, shape=shape)
