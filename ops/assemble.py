"""assemble: blocks put side by side into one array, each at its own box. The inverse of cutting a value into tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rainshed.ops.access import Box, cover_fault
from rainshed.ops.cuda import Launches, put_box
from rainshed.ops.errors import DTypeError, ShapeError
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.op import MOVED, REQUIRED, Cost, Op, Types, op
from rainshed.ops.slice import slice_op
from rainshed.ops.types import TensorType, Type, fixed, ints_of, shape_of, shape_text


def _clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    shape = fixed(shape_of("assemble", attrs["shape"]))
    given = attrs["boxes"]
    if not isinstance(given, (tuple, list)) or len(given) != len(types):
        raise ShapeError(f"assemble: takes one box per input, here {len(types)}; found {given!r}")
    boxes: list[Box] = []
    for block, box in zip(types, given, strict=True):
        if not isinstance(box, (tuple, list)) or len(box) != len(shape):
            raise ShapeError(f"assemble: a box has one interval per axis of {shape_text(shape)}; found {box!r}")
        pairs = tuple((low, high) for low, high in (ints_of("assemble", "an interval", pair, 2) for pair in box))
        if any(not 0 <= low <= high <= size for (low, high), size in zip(pairs, shape, strict=True)):
            raise ShapeError(f"assemble: box {pairs} does not lie inside {shape_text(shape)}")
        if block.shape != tuple(high - low for low, high in pairs):
            raise ShapeError(f"assemble: block {block} does not fill its box {pairs}")
        boxes.append(pairs)
    wrong = cover_fault(shape, boxes)
    if wrong:
        raise ShapeError(f"assemble: {wrong}")
    return {"boxes": tuple(boxes), "shape": shape}


def _infer(types: Types, attrs: Attrs) -> Type:
    if len({t.dtype for t in types}) > 1:
        raise DTypeError(f"assemble: the blocks must have one element type; found {', '.join(map(str, types))}")
    return TensorType(types[0].dtype, attrs["shape"])


def _grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    return tuple(
        slice_op(dy, start=tuple(low for low, _ in box), stop=tuple(high for _, high in box))
        for box in node.attrs["boxes"]
    )


def _cpu(*operands: np.ndarray, boxes: tuple[Box, ...], shape: tuple[int, ...]) -> None:
    *blocks, out = operands
    for block, box in zip(blocks, boxes, strict=True):
        out[tuple(slice(low, high) for low, high in box)] = block


def _cuda(types: Types, output: TensorType, attrs: Attrs) -> Launches:
    return sum((put_box(types, output, i, box) for i, box in enumerate(attrs["boxes"])), ())


assemble: Op = op(
    name="assemble",
    kinds=MOVED,
    work="layout",
    arity=None,
    attrs={"boxes": REQUIRED, "shape": REQUIRED},
    clean=_clean,
    infer=_infer,
    grad=_grad,
    cost=lambda types, output, attrs: Cost(0),
    cpu=_cpu,
    cuda=_cuda,
    doc="Blocks at their boxes of an array of `shape`; the boxes are disjoint and cover it.",
)
