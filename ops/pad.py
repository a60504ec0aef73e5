"""pad: x with a border of one value on each side of each axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rainshed.ops.access import Access, Axis, Interval, Reach
from rainshed.ops.cuda import Launches, fill, put_box
from rainshed.ops.errors import DTypeError, ShapeError
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.op import REQUIRED, Cost, Op, Tile, Types, op
from rainshed.ops.slice import slice_op
from rainshed.ops.types import Batch, Dim, DType, TensorType, Type, fixed, ints_of, whole_of

Widths = tuple[tuple[int, int], ...]


def _clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    (x,) = types
    given, rank = attrs["widths"], len(x.shape)
    if (width := whole_of(given)) is not None:
        given = ((width, width),) * rank
    if not isinstance(given, (tuple, list)) or len(given) != rank:
        raise ShapeError(
            f"pad: widths is one number, or (before, after) for each of {rank} axes; found {attrs['widths']!r}"
        )
    widths = []
    for size, pair in zip(x.shape, given, strict=True):
        low, high = ints_of("pad", "the widths of an axis", pair, 2)
        if low < 0 or high < 0:
            raise ShapeError(f"pad: widths must not be negative; found {(low, high)}", hint="slice x instead")
        if isinstance(size, Batch) and (low or high):
            raise ShapeError(
                f"pad: the batch axis of {x} cannot be padded", hint="bind the batch first: graph.bind(batch=...)"
            )
        widths.append((low, high))
    return {"widths": tuple(widths), "value": clean_number("pad", attrs["value"], x.dtype)}


def clean_number(op: str, value: Any, dtype: DType) -> bool | int | float:
    """A Python number as one of this element type. Raises DTypeError where it does not fit."""
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, (bool, int, float)):
        raise DTypeError(f"{op}: takes one number; found {value!r}")
    if dtype.kind == "float":
        return float(value)
    if isinstance(value, bool) != (dtype.kind == "bool") or isinstance(value, float):
        raise DTypeError(f"{op}: {value!r} does not fit {dtype}")
    if dtype.kind == "int" and not -(2 ** (8 * dtype.itemsize - 1)) <= value < 2 ** (8 * dtype.itemsize - 1):
        raise DTypeError(f"{op}: {value!r} does not fit {dtype}")
    return value


def _infer(types: Types, attrs: Attrs) -> Type:
    (x,) = types

    def grown(size: Dim, low: int, high: int) -> Dim:
        return size if isinstance(size, Batch) else size + low + high

    return TensorType(x.dtype, tuple(grown(size, *pair) for size, pair in zip(x.shape, attrs["widths"], strict=True)))


def _access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    shape = fixed(output.shape)
    return Access(
        axes=tuple(Axis(f"b{i}", size) for i, size in enumerate(shape)),
        inputs=(tuple(Reach(i, low=-low, high=-low) for i, (low, _) in enumerate(attrs["widths"])),),
        output=tuple(Reach(i) for i in range(len(shape))),
    )


def _tile(tile: Tile) -> Mapping[str, Any]:
    """The part of the border that lies inside the tile; a tile that lies in the border alone is all border."""

    def one(pair: tuple[int, int], box: Interval, region: Interval) -> tuple[int, int]:
        length = box[1] - box[0]
        if region[0] >= region[1]:
            return length, 0
        low = pair[0] + region[0] - box[0]
        return low, length - low - (region[1] - region[0])

    return {"widths": tuple(one(*axis) for axis in zip(tile.attrs["widths"], tile.box, tile.regions[0], strict=True))}


def _grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    widths, shape = node.attrs["widths"], node.inputs[0].shape
    stop = tuple(n if isinstance(n, Batch) else low + n for n, (low, _) in zip(shape, widths, strict=True))
    return (slice_op(dy, start=tuple(low for low, _ in widths), stop=stop),)


def _cpu(x: np.ndarray, out: np.ndarray, *, widths: Widths, value: bool | int | float) -> None:
    out[...] = value
    out[tuple(slice(low, low + n) for (low, _), n in zip(widths, x.shape, strict=True))] = x


def _cuda(types: Types, output: TensorType, attrs: Attrs) -> Launches:
    box = tuple((low, low + n) for (low, _), n in zip(attrs["widths"], fixed(types[0].shape), strict=True))
    return fill(output.size, attrs["value"]) + put_box(types, output, 0, box)


pad: Op = op(
    name="pad",
    work="layout",
    arity=1,
    attrs={"widths": REQUIRED, "value": 0},
    clean=_clean,
    infer=_infer,
    access=_access,
    tile=_tile,
    grad=_grad,
    cost=lambda types, output, attrs: Cost(0),
    cpu=_cpu,
    cuda=_cuda,
    doc="x with `value` around it: widths is one number for all sides, or (before, after) for each axis.",
)
