"""Operators that move elements, choose some, or tell sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from rainshed.engine.onnx.call import Call, Converter, Result, Unsupported
from rainshed.engine.onnx.elementwise import aligned
from rainshed.engine.onnx.values import Known, Order, Tensor, Value, identity, reshaped
from rainshed.ops import layout
from rainshed.ops.broadcast import broadcast_to
from rainshed.ops.errors import GraphError, ShapeError
from rainshed.ops.gather import take
from rainshed.ops.ir import Node
from rainshed.ops.pad import pad
from rainshed.ops.source import constant
from rainshed.ops.types import Batch, Dim, Shape, broadcast, shape_text, size_of


# -- shape ------------------------------------------------------------------------------------------------------------
def under(value: Value, shape: Shape) -> Value:
    """The value under another shape; nothing is computed for one that is known."""
    return value.reshaped(_ints(shape)) if isinstance(value, Known) else reshaped(value, shape)


def _ints(shape: Shape) -> tuple[int, ...]:
    if not all(isinstance(n, int) for n in shape):
        raise Unsupported("a constant with the batch axis in its shape")
    return tuple(int(n) for n in shape)  # type: ignore[arg-type]


def _reshape(call: Call) -> Result:
    x, given = call.value(0), call.ints(1, "the shape")
    keep = not call.attr("allowzero", 0)
    shape: list[Dim] = [x.shape[i] if n == 0 and keep and i < len(x.shape) else n for i, n in enumerate(given)]
    if -1 in given:
        shape[given.index(-1)] = _rest(x.shape, [n for n in shape if n != -1])
    if size_of(tuple(shape)) != size_of(x.shape):
        shape = _rebatched(call, x.shape, shape)
    return under(x, tuple(shape))


def _rest(old: Shape, known: Sequence[Dim]) -> Dim:
    """What -1 stands for, 0 if nothing fits."""
    total, part = size_of(old), size_of(tuple(known))
    many, unit = (n.times if isinstance(n, Batch) else n for n in (total, part))
    if not unit or many % unit:
        return 0
    free = isinstance(total, Batch) and not isinstance(part, Batch)
    return Batch(many // unit) if free else many // unit


def _rebatched(call: Call, old: Shape, shape: list[Dim]) -> list[Dim]:
    """The shape with the batch that was asked for, where the file's own stands in front."""
    if call.batch is not None and shape and shape[0] == call.batch[0]:
        fit = [call.batch[1], *shape[1:]]
        if size_of(tuple(fit)) == size_of(old):
            return fit
    raise ShapeError(f"{shape_text(old)} cannot be reshaped to {shape_text(tuple(shape))}")


def _flatten(call: Call) -> Result:
    x = call.value(0)
    axis = call.attr("axis", 1)
    axis = axis if axis == len(x.shape) else call.at(axis, len(x.shape))
    return under(x, (size_of(x.shape[:axis]), size_of(x.shape[axis:])))


def _axes(call: Call) -> tuple[int, ...] | None:
    """Axes as the attribute of old versions, or as input 1 of new ones."""
    given = call.attr("axes")
    if given is None and call.has(1):
        return call.ints(1, "the axes")
    return None if given is None else tuple(given)


def _squeeze(call: Call) -> Result:
    x, axes = call.value(0), _axes(call)
    rank = len(x.shape)
    drop = {i for i, n in enumerate(x.shape) if n == 1} if axes is None else {call.at(a, rank) for a in axes}
    return under(x, tuple(n for i, n in enumerate(x.shape) if i not in drop))


def _unsqueeze(call: Call) -> Result:
    x, axes = call.value(0), _axes(call) or ()
    rank = len(x.shape) + len(axes)
    new = {call.at(a, rank) for a in axes}
    left = iter(x.shape)
    return under(x, tuple(1 if i in new else next(left) for i in range(rank)))


def _transpose(call: Call) -> Result:
    x = call.value(0)
    axes = tuple(call.attr("perm", tuple(reversed(range(len(x.shape))))))
    if sorted(axes) != list(range(len(x.shape))):
        raise GraphError(f"perm is {list(axes)} for {len(x.shape)} axes")
    return x.permuted(axes)


def _shape(call: Call) -> Result:
    shape = call.value(0).shape
    rank = len(shape)
    start, end = (min(max(n + rank if n < 0 else n, 0), rank) for n in (call.attr("start", 0), call.attr("end", rank)))
    part = shape[start:end]
    if not all(isinstance(n, int) for n in part):
        raise Unsupported("the size of the open batch axis; give batch= a number")
    return Known.of(np.array(part, np.int64), call.output)


def _size(call: Call) -> Result:
    return Known.of(np.array(size_of(_ints(call.value(0).shape)), np.int64), call.output)


# -- moving -----------------------------------------------------------------------------------------------------------
def _concat(call: Call) -> Result:
    values = [call.value(i) for i in range(len(call.inputs))]
    order: Order = next((v.order for v in values if isinstance(v, Tensor)), identity(len(values[0].shape)))
    axis = order.index(call.axis(0, len(order)))
    return Tensor(layout.concat([call.in_order(v, order) for v in values], axis), order)


def _split(call: Call) -> Result:
    x = call.tensor(0)
    axis = x.place(call.axis(0, len(x.order)))
    size = x.node.shape[axis]
    sizes: Any = call.attr("split") or (call.ints(1, "the sizes") if call.has(1) else None)
    many = call.attr("num_outputs", call.given)
    if sizes is None:
        if not isinstance(size, int):
            raise Unsupported("the open batch axis split")
        each = -(-size // many)
        sizes = [min(each, size - low) for low in range(0, size, each)]
    return tuple(Tensor(part, x.order) for part in layout.cut_at(x.node, axis, [int(n) for n in sizes]))


def _slice(call: Call) -> Result:
    x = call.tensor(0)
    if call.has(1):
        starts, ends = call.ints(1, "the starts"), call.ints(2, "the ends")
        axes = call.ints(3, "the axes") if call.has(3) else identity(len(starts))
        steps = call.ints(4, "the steps") if call.has(4) else (1,) * len(starts)
    else:
        starts, ends = tuple(call.attr("starts")), tuple(call.attr("ends"))
        axes, steps = tuple(call.attr("axes", identity(len(starts)))), (1,) * len(starts)
    key = [slice(None)] * len(x.order)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = x.place(call.at(axis, len(x.order)))
        size = x.node.shape[at]
        stop = None if isinstance(size, int) and (end < -size or end >= size) and (step < 0) == (end < 0) else end
        key[at] = slice(start, stop, step)
    return Tensor(x.node[tuple(key)], x.order)


def _pad(call: Call) -> Result:
    call.refuse("mode", *PAD_MODES)
    mode = call.attr("mode", b"constant").decode()
    x = call.tensor(0)
    rank = len(x.order)
    number = call.attr("value", 0.0)
    widths = tuple(call.attr("pads", ())) or call.ints(1, "the pads")
    if call.has(2):
        number = call.known(2, "the padding value").item()
    axes = call.ints(3, "the axes") if call.has(3) else identity(rank)
    sides = [(0, 0)] * rank
    for low, high, axis in zip(widths, widths[len(axes) :], axes, strict=False):
        sides[x.place(call.at(axis, rank))] = low, high
    node = x.node
    if any(min(pair) < 0 for pair in sides):
        node = node[tuple(slice(max(0, -low), -max(0, -high) or None) for low, high in sides)]
        sides = [(max(0, low), max(0, high)) for low, high in sides]
    if mode == "constant":
        value = number if node.dtype.kind == "float" else int(number)
        return Tensor(pad(node, widths=tuple(sides), value=value), x.order)
    return Tensor(_repeated(node, sides, mode), x.order)


PAD_MODES = (b"constant", b"edge", b"reflect", b"wrap")


def _repeated(node: Node, sides: list[tuple[int, int]], mode: Any) -> Node:
    """Padded with elements of its own: each axis takes its positions anew."""
    for axis, (low, high) in enumerate(sides):
        if low or high:
            size = node.shape[axis]
            if not isinstance(size, int):
                raise Unsupported("padding of the open batch axis")
            node = take(node, constant(np.pad(np.arange(size), (low, high), mode=mode)), axis=axis)
    return node


def _expand(call: Call) -> Result:
    x, given = call.tensor(0), call.ints(1, "the shape")
    shape = broadcast("Expand", x.shape, given)
    (node,), order = aligned(call, [x]) if len(shape) == len(x.shape) else ([call.plain(0)], identity(len(shape)))
    return Tensor(broadcast_to(node, shape=tuple(shape[axis] for axis in order)), order)


def _tile(call: Call) -> Result:
    return Tensor.plain(layout.tile(call.plain(0), call.ints(1, "the repeats")))


def _blocks(call: Call, to_space: bool) -> Result:
    """Channels to blocks of positions, or back, as reshapes and a transposition."""
    x, b = call.tensor(0), int(call.attr("blocksize"))
    n, c, h, w = x.shape
    if not (isinstance(c, int) and isinstance(h, int) and isinstance(w, int)):
        raise Unsupported("an image of unknown size")
    if not to_space:
        cut = reshaped(x, (n, c, h // b, b, w // b, b)).permuted((0, 3, 5, 1, 2, 4))
        return reshaped(cut, (n, c * b * b, h // b, w // b))
    call.refuse("mode", b"DCR", b"CRD")
    few = c // (b * b)
    if call.attr("mode", b"DCR") == b"DCR":
        cut = reshaped(x, (n, b, b, few, h, w)).permuted((0, 3, 4, 1, 5, 2))
    else:
        cut = reshaped(x, (n, few, b, b, h, w)).permuted((0, 1, 4, 2, 5, 3))
    return reshaped(cut, (n, few, h * b, w * b))


# -- choosing ---------------------------------------------------------------------------------------------------------
def _gather(call: Call) -> Result:
    """Negative indices count from the end where they are known now; computed ones must run from 0."""
    x, indices = call.plain(0), call.value(1)
    axis = call.axis(0, x.ndim)
    if isinstance(indices, Known):
        size, array = x.shape[axis], indices.array
        if array.size and (array < 0).any():
            if not isinstance(size, int):
                raise Unsupported("negative indices on the open batch axis")
            indices = Known.of(np.where(array < 0, array + size, array), f"{call.output}/indices")
    chosen: Node = call.in_order(indices, identity(len(indices.shape)))
    return Tensor.plain(take(x, chosen, axis=axis))


# -- constants --------------------------------------------------------------------------------------------------------
def _constant_of_shape(call: Call) -> Result:
    """One number in a shape. Where the file gives the shape as it is, this is a weight without its values."""
    given: np.ndarray = call.attr("value", np.zeros(1, np.float32))
    shape = call.ints(0, "the shape")
    array = np.broadcast_to(given.reshape(()), shape)
    first = call.value(0)
    return Known.of(array, call.output, isinstance(first, Known) and first.stored)


def _constant(call: Call) -> Result:
    for name, dtype in {"value": None, "value_float": "float32", "value_floats": "float32", "value_int": "int64",
                        "value_ints": "int64"}.items():  # fmt: skip
        given = call.attr(name)
        if given is not None:
            return Known.of(np.asarray(given, dtype), call.output)
    raise Unsupported(f"a constant given as {', '.join(call.attrs) or 'nothing'}")


TABLE: Mapping[str, Converter] = MappingProxyType(
    {
        "Concat": _concat,
        "Constant": _constant,
        "ConstantOfShape": _constant_of_shape,
        "DepthToSpace": lambda call: _blocks(call, True),
        "Expand": _expand,
        "Flatten": _flatten,
        "Gather": _gather,
        "Pad": _pad,
        "Reshape": _reshape,
        "Shape": _shape,
        "Size": _size,
        "Slice": _slice,
        "SpaceToDepth": lambda call: _blocks(call, False),
        "Split": _split,
        "Squeeze": _squeeze,
        "Tile": _tile,
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
    }
)
