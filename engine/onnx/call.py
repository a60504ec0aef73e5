"""One node of an ONNX graph as its converter sees it: inputs, attributes, and the variables that weights become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rainshed.engine.onnx.values import Known, Order, Step, Tensor, Value, identity, shaped, turned
from rainshed.ops.errors import GraphError
from rainshed.ops.init import Init
from rainshed.ops.ir import Node
from rainshed.ops.layout import permute_dims
from rainshed.ops.reshape import reshape
from rainshed.ops.source import constant, variable
from rainshed.ops.types import DTYPES, Batch

NUMPY_TYPES = frozenset(d.numpy for d in DTYPES)


class Unsupported(Exception):
    """This node needs something that Rainshed does not have. The import gathers these and raises one error for all."""


@dataclass(slots=True)
class Weights:
    """The variables made so far. Every use of one weight reads one variable, whatever shape and order it needs it in."""

    made: dict[str, tuple[Node, Known]] = field(default_factory=dict)

    def node(self, known: Known) -> Node:
        """A weight's variable; a constant for what is none."""
        return self.variable(known) if known.weight else constant(np.asarray(known.array, order="C"))

    def variable(self, known: Known, trainable: bool = True) -> Node:
        if known.name not in self.made:
            node = variable(known.name, known.shape, known.array.dtype, init=_init(known.array), trainable=trainable)
            self.made[known.name] = node, known
            return node
        node, first = self.made[known.name]
        return node if first.steps == known.steps else _followed(_undone(node, first), known.steps)


def _init(array: np.ndarray) -> Init:
    if array.size and not any(array.strides):  # one number for all
        return Init("constant", (float(array.flat[0]),))
    return Init.of(np.asarray(array, order="C"))


def _followed(node: Node, steps: tuple[Step, ...]) -> Node:
    for kind, how in steps:
        node = shaped(node, how) if kind == "reshape" else turned(node, how)
    return node


def _undone(node: Node, known: Known) -> Node:
    """The value in the file's shape, from the view that is the variable."""
    shapes = [known.base]
    for kind, how in known.steps:
        shapes.append(how if kind == "reshape" else tuple(shapes[-1][axis] for axis in how))
    for (kind, how), before in zip(reversed(known.steps), reversed(shapes[:-1]), strict=True):
        node = shaped(node, before) if kind == "reshape" else turned(node, tuple(np.argsort(how).tolist()))
    return node


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One node of the file. `opset` is the version of the operators that the file is written in."""

    output: str  # the name of its first result
    opset: int
    inputs: tuple[Value | None, ...]  # None: left out
    attrs: Mapping[str, Any]
    outputs: int  # how many of its results are read, and those before them
    given: int  # how many results it has in the file
    weights: Weights
    batch: tuple[int, int | Batch] | None = None  # the batch in the file, and the one asked for
    turned: dict[tuple[Node, Order], Node] = field(default_factory=dict)  # nodes whose axes have been put in order
    read: set[str] = field(default_factory=set)  # attributes that the converter has looked at

    # -- inputs -------------------------------------------------------------------------------------------------------
    def has(self, i: int) -> bool:
        return i < len(self.inputs) and self.inputs[i] is not None

    def value(self, i: int) -> Value:
        value = self.inputs[i] if i < len(self.inputs) else None
        if value is None:
            raise Unsupported(f"input {i} is missing")
        return value

    def tensor(self, i: int) -> Tensor:
        """The input as a node, its axes in any order."""
        return self.as_tensor(self.value(i))

    def as_tensor(self, value: Value) -> Tensor:
        return value if isinstance(value, Tensor) else Tensor.plain(self.weights.node(value))

    def plain(self, i: int) -> Node:
        """The input as a node, its axes in the order of the file."""
        value = self.value(i)
        return self.in_order(value, identity(len(value.shape)))

    def in_order(self, value: Value, order: Order) -> Node:
        """A value as a node whose axes lie in this order."""
        if isinstance(value, Known):
            return self.weights.node(value.permuted(order))
        key = value.node, tuple(value.order.index(axis) for axis in order)
        if key not in self.turned:
            self.turned[key] = value.in_order(order)
        return self.turned[key]

    def weight(self, i: int, *views: Step, trainable: bool = True) -> Node:
        """The input, which stands where an op has its weights, after these reshapes and permutations.

        A weight is a variable; a constant of the file is too, under the name that it has there.
        """
        value = self.value(i)
        if isinstance(value, Known):
            for kind, how in views:
                value = value.reshaped(how) if kind == "reshape" else value.permuted(how)
            return self.weights.variable(value, trainable)
        node = self.plain(i)
        for kind, how in views:
            node = reshape(node, shape=how) if kind == "reshape" else permute_dims(node, axes=how)
        return node

    def known(self, i: int, what: str) -> np.ndarray:
        """The input, which must be known now."""
        value = self.value(i)
        if isinstance(value, Tensor):
            raise Unsupported(f"{what} is computed while the graph runs")
        return value.array

    def ints(self, i: int, what: str) -> tuple[int, ...]:
        return tuple(int(n) for n in np.atleast_1d(self.known(i, what)))

    # -- attributes ---------------------------------------------------------------------------------------------------
    def attr(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return self.attrs.get(name, default)

    def refuse(self, name: str, *allowed: Any) -> None:
        """Unsupported unless the attribute is left out or has one of these values."""
        value = self.attr(name)
        if value is not None and value not in allowed:
            raise Unsupported(f"{name}={value!r}")

    def axis(self, default: int, rank: int) -> int:
        return self.at(self.attr("axis", default), rank)

    def at(self, axis: int, rank: int) -> int:
        """An axis counted from the front. Raises GraphError where there is none."""
        if not -rank <= axis < rank:
            raise GraphError(f"there is no axis {axis} in a value with {rank} axes")
        return axis % rank

    def unread(self) -> list[str]:
        return sorted(set(self.attrs) - self.read)


Result = Value | tuple[Value | None, ...]
Converter = Callable[[Call], Result]
