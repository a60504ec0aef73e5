"""fused_sum: a sum over neighbouring axes, of element-wise ops that are done while it is added up. Made by the pass `fuse_sums`.

`body` is as that of `fused`. The NumPy kernel fills the body's result and adds it up by numpy.sum; the compiled one reads the
inputs once, in groups of rows that are added to each other before they are added to the sums, and keeps nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np

from rainshed.ops.access import Access, box_shape
from rainshed.ops.array_kernel import ArrayKernel, array_kernel, ints
from rainshed.ops.code_cache import can_compile
from rainshed.ops.errors import GraphError
from rainshed.ops.fused import body_of, fused, lines_of, resized
from rainshed.ops.ir import Attrs
from rainshed.ops.op import REQUIRED, Bind, Call, Cost, Op, Tile, Types, op
from rainshed.ops.reduce import reduce_access, reduced_shape
from rainshed.ops.scalar import Line, expression, made
from rainshed.ops.sweeps import cuts
from rainshed.ops.types import DType, TensorType, Type, fixed, float32

ROWS: Final = 4  # that are added to each other before they are added to the sums
LEAST: Final = 16  # columns of a piece: the numbers of a line of the cache


def _value(attrs: Attrs) -> TensorType:
    """The type of what is added up."""
    found = body_of(attrs["body"]).outputs["y"].type
    assert isinstance(found, TensorType)
    return found


def _infer(types: Types, attrs: Attrs) -> Type:
    fused.infer(types, attrs)
    value, axis = _value(attrs), attrs["axis"]
    if not axis or tuple(axis) != tuple(range(axis[0], axis[-1] + 1)) or axis[-1] >= len(value.shape):
        raise GraphError(f"fused_sum: the axes {axis} of {value} do not lie side by side")
    return TensorType(value.dtype, reduced_shape(value.shape, tuple(axis), attrs["keepdims"]))


def _access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    value = _value(attrs)
    read, summed = fused.access(types, value, attrs), reduce_access("add")((value,), output, attrs)
    return Access(summed.axes, read.inputs, summed.output, summed.combine)


def _tile(tile: Tile) -> Mapping[str, Any]:
    return {"body": resized(tile.attrs["body"], tuple(box_shape(r) for r in tile.regions))}


def _cost(types: Types, output: Type, attrs: Attrs) -> Cost:
    return Cost(flops=fused.cost(types, output, attrs).flops + _value(attrs).size)


def _cpu(*operands: np.ndarray, body: str, axis: tuple[int, ...], keepdims: bool) -> None:
    *inputs, out = operands
    value = inputs[0]
    if lines_of(body):
        value = np.empty(np.broadcast_shapes(*(x.shape for x in inputs)), out.dtype)
        fused.cpu(*inputs, value, body=body)
    np.sum(value, axis=tuple(axis), keepdims=keepdims, out=out)


# -- compiled ---------------------------------------------------------------------------------------------------------
def sizes_of(shape: tuple[int, ...], axis: tuple[int, ...]) -> tuple[int, int, int]:
    """The value as [many, rows, columns], of which rows are added up."""
    parts = shape[: axis[0]], shape[axis[0] : axis[-1] + 1], shape[axis[-1] + 1 :]
    return math.prod(parts[0]), math.prod(parts[1]), math.prod(parts[2])


def is_read_in_rows(shape: tuple[int, ...], value: tuple[int, ...], axis: tuple[int, ...]) -> bool:
    """Whether an input of this shape is the whole value's, one row of it, or one number: what the compiled kernel reads."""
    return shape == value or math.prod(shape) == 1 or _led(shape) == _led(value[axis[-1] + 1 :])


def _led(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the axes of size 1 at its begin."""
    first = next((i for i, n in enumerate(shape) if n != 1), len(shape))
    return shape[first:]


def native(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls: a piece is some of the columns, or of the sums of a row, so that no sum is divided."""
    value, axis = fixed(_value(attrs).shape), tuple(attrs["axis"])
    lines = lines_of(attrs["body"])
    if not can_compile() or any(t.dtype.name != "float32" or not t.size for t in (*types, output)):
        return None
    if any(line.dtype.short != "f32" for line in lines):
        return None
    shapes = [fixed(t.shape) for t in types]
    sizes = sizes_of(value, axis)
    if not all(is_read_in_rows(shape, value, axis) for shape in shapes):
        return None
    reads = tuple("whole" if s == value else "number" if math.prod(s) == 1 else "row" for s in shapes)
    return partial(_bound, _compiled(reads, lines), sizes)


def _bound(run: ArrayKernel, sizes: tuple[int, int, int], operands: tuple[np.ndarray, ...], pieces: int) -> list[Call]:
    flat = [operand.reshape(-1) for operand in operands]
    many, _, columns = sizes
    if many >= pieces:
        spans = [(*span, 0, columns) for span in cuts(many, pieces)]
    else:
        spans = [(0, many, *span) for span in cuts(columns, pieces, LEAST)]
    return [run.bind(*flat, sizes[1:], span) for span in spans]


@lru_cache(maxsize=4096)
def _compiled(reads: tuple[str, ...], lines: tuple[Line, ...]) -> ArrayKernel:
    source = _source(reads, lines)
    form = (*("f32" for _ in reads), "f32", ints(2), ints(4))
    return array_kernel("sum_loop", form, source, lambda: made(source, u64=np.uint64))


def _source(reads: tuple[str, ...], lines: tuple[Line, ...]) -> str:
    """kernel(x0, ..., out, (rows, columns), (first and last of many, first and last column)).

    Indices are unsigned: with others, an array could be read from its end, and LLVM makes no vectors of that.
    """
    names = "".join(f"x{i}, " for i in range(len(reads)))
    text = [f"def kernel({names}out, n, span):", "    rows, columns = u64(n[0]), u64(n[1])"]
    text += ["    first, last, low, high = u64(span[0]), u64(span[1]), u64(span[2]), u64(span[3])"]
    text += ["    for b in range(first, last):", "        to = b * columns", "        for j in range(low, high):"]
    text += ["            out[to + j] = 0", f"        whole = rows // u64({ROWS}) * u64({ROWS})"]
    for begin, end, many in (("u64(0)", "whole", ROWS), ("whole", "rows", 1)):
        text += [f"        for i in range({begin}, {end}, u64({many})):", "            at = (b * rows + i) * columns"]
        text += ["            for j in range(low, high):"]
        for row in range(many):
            text += _lines(reads, lines, row)
        total = "t0" if many == 1 else " + ".join(f"(t{row} + t{row + 1})" for row in range(0, many, 2))
        text.append(f"                out[to + j] += {total}")
    return "\n".join([*text, ""])


def _lines(reads: tuple[str, ...], lines: tuple[Line, ...], row: int) -> list[str]:
    """t{row} = what is added of one row."""
    pad, place = " " * 16, f"at + u64({row}) * columns + j"
    text = [f"{pad}v{i} = x{i}[{ {'whole': place, 'row': 'j', 'number': '0'}[read] }]" for i, read in enumerate(reads)]
    dtypes: list[DType] = [float32] * len(reads)
    for line in lines:
        own, names = tuple(dtypes[a] for a in line.args), tuple(f"v{a}" for a in line.args)
        value = expression(line.formula, names, own, line.dtype) if line.args else line.formula
        text.append(f"{pad}v{len(dtypes)} = {value}")
        dtypes.append(line.dtype)
    return [*text, f"{pad}t{row} = v{len(dtypes) - 1}"]


fused_sum: Op = op(
    name="fused_sum",
    work="reduction",
    arity=None,
    attrs={"body": REQUIRED, "axis": REQUIRED, "keepdims": False},
    infer=_infer,
    access=_access,
    tile=_tile,
    cost=_cost,
    cpu=_cpu,
    native=native,
    doc="The sum over some axes of a run of element-wise ops.",
)
