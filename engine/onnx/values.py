"""What a value of an ONNX graph is while it is imported: known now, or a node whose axes may lie in another order.

Transposing a value moves nothing: it only says anew which axis of the ONNX value each axis of the node is. Axes move when
an op needs them elsewhere, so images are turned to channels-last once, where they come in, and stay so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from rainshed.ops.ir import Node
from rainshed.ops.layout import permute_dims
from rainshed.ops.reshape import reshape
from rainshed.ops.types import Batch, Dim, Shape, size_of

Order = tuple[int, ...]
Step = tuple[str, tuple[int, ...]]  # ("reshape", shape) or ("permute", axes)
FREE = 2**31 - 1  # a prime that stands for the batch axis where sizes are multiplied


def identity(rank: int) -> Order:
    return tuple(range(rank))


def last(rank: int) -> Order:
    """Channels last: the order of a node [batch, spatial axes, channels] whose ONNX value is [batch, channels, spatial axes]."""
    return (0, *range(2, rank), 1)


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A value known at the import, or a view of one.

    array   as the ONNX graph reads it
    name    of the value that this is a view of
    base    the shape of that value
    steps   how the view follows from it
    stored  it stands in the file as one of its initial values, or is made of one number in a shape that does
    """

    array: np.ndarray
    name: str
    base: tuple[int, ...]
    steps: tuple[Step, ...] = ()
    stored: bool = False

    @classmethod
    def of(cls, array: np.ndarray, name: str, stored: bool = False) -> Known:
        return cls(array, name, array.shape, stored=stored)

    @property
    def weight(self) -> bool:
        """It becomes a variable wherever it is read; a constant becomes one only where an op has its weights."""
        return self.stored and self.array.dtype.kind == "f" and self.array.size > 1

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def reshaped(self, shape: Iterable[int]) -> Known:
        wanted = tuple(shape)
        return self if wanted == self.shape else self._view("reshape", wanted, self.array.reshape(wanted))

    def permuted(self, axes: Order) -> Known:
        if axes == identity(self.array.ndim):
            return self
        return self._view("permute", axes, self.array.transpose(axes))

    def _view(self, kind: str, how: tuple[int, ...], array: np.ndarray) -> Known:
        return replace(self, array=array, steps=(*self.steps, (kind, how)))


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A value that is computed: axis i of the node is axis order[i] of the ONNX value."""

    node: Node
    order: Order

    @classmethod
    def plain(cls, node: Node) -> Tensor:
        return cls(node, identity(node.ndim))

    @property
    def shape(self) -> Shape:
        return tuple(self.node.shape[self.order.index(axis)] for axis in range(len(self.order)))

    def place(self, axis: int) -> int:
        """Which axis of the node an axis of the ONNX value is."""
        return self.order.index(axis % len(self.order))

    def in_order(self, order: Order) -> Node:
        """The node with its axes in this order."""
        return turned(self.node, tuple(self.order.index(axis) for axis in order))

    def permuted(self, axes: Order) -> Tensor:
        """The ONNX value whose axis i is axis axes[i] of this one."""
        return Tensor(self.node, tuple(axes.index(axis) for axis in self.order))


Value = Known | Tensor


def turned(node: Node, axes: Order) -> Node:
    """The node with its axes permuted; a reshape where only axes of size 1 change places."""
    if axes == identity(node.ndim):
        return node
    long = [axis for axis in axes if node.shape[axis] != 1]
    if long == sorted(long):
        return shaped(node, tuple(node.shape[axis] for axis in axes))
    return permute_dims(node, axes=axes)


def shaped(node: Node, shape: Shape) -> Node:
    """The node under another shape; of two reshapes in a row only the second is made."""
    if node.op is reshape:
        node = node.inputs[0]
    return node if node.shape == shape else reshape(node, shape=shape)


# -- reshaping a value whose axes lie in any order --------------------------------------------------------------------
@dataclass(slots=True)
class _Run:
    """The smallest consecutive axes before and after a reshape that hold equally many elements."""

    old: list[int]
    new: list[int]


def _runs(old: tuple[int, ...], new: tuple[int, ...]) -> list[_Run]:
    runs: list[_Run] = []
    i = j = 0
    while i < len(old) or j < len(new):
        run = _Run([i] if i < len(old) else [], [j] if j < len(new) else [])
        p, q = (old[i] if run.old else 1), (new[j] if run.new else 1)
        i, j = i + 1, j + 1
        while p != q:
            if p < q:
                p, i = p * old[i], i + 1
                run.old.append(i - 1)
            else:
                q, j = q * new[j], j + 1
                run.new.append(j - 1)
        if not run.old and runs:
            runs[-1].new += run.new
        elif not run.new and runs:
            runs[-1].old += run.old
        else:
            runs.append(run)
    return runs


def _number(dim: Dim) -> int:
    return dim.times * FREE if isinstance(dim, Batch) else dim


def reshaped(value: Tensor, shape: Shape) -> Tensor:
    """The value under another shape. Axes move only where axes that are not neighbours in the node are merged."""
    old = value.shape
    if old == shape:
        return value
    if 0 in old or 0 in shape or size_of(old) != size_of(shape):  # the op gives the error
        return Tensor.plain(shaped(value.in_order(identity(len(old))), shape))
    runs = _runs(tuple(map(_number, old)), tuple(map(_number, shape)))
    place = {axis: i for i, axis in enumerate(value.order)}

    def lead(run: _Run) -> int:
        """Where a run stands: at the last of its axes in the node that is longer than 1."""
        long = [place[axis] for axis in run.old if old[axis] != 1] or [place[axis] for axis in run.old]
        return max(long, default=-1)

    runs.sort(key=lead)
    before = tuple(axis for run in runs for axis in run.old)
    after = tuple(axis for run in runs for axis in run.new)
    return Tensor(shaped(value.in_order(before), tuple(shape[axis] for axis in after)), after)
