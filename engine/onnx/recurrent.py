"""LSTM, unrolled: each step is a copy of the cell under a scope of its own.

The four gates become the first axis of the variables, so that cutting `units` cuts all gates of a unit alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from rainshed.engine.onnx.call import Call, Converter, Result, Unsupported
from rainshed.engine.onnx.values import Known, Tensor
from rainshed.ops.compose import zeros
from rainshed.ops.elementwise import sigmoid, tanh
from rainshed.ops.errors import GraphError
from rainshed.ops.ir import Node, scope
from rainshed.ops.layout import stack, unstack
from rainshed.ops.matmul import matmul
from rainshed.ops.types import Shape, fixed

GATES = 4  # input, output, forget, cell


class _Cell(NamedTuple):
    """One direction: w [4, in, units], u [4, units, units], b [4, 1, units], p [3, units] or None."""

    w: Node
    u: Node
    b: Node | None
    p: Node | None

    def step(self, x: Node, h: Node, c: Node) -> tuple[Node, Node]:
        z = matmul(x, self.w) + matmul(h, self.u)
        i, o, f, g = unstack(z if self.b is None else z + self.b)
        if self.p is None:
            c = sigmoid(f) * c + sigmoid(i) * tanh(g)
            return sigmoid(o) * tanh(c), c
        pi, po, pf = unstack(self.p)
        c = sigmoid(f + pf * c) * c + sigmoid(i + pi * c) * tanh(g)
        return sigmoid(o + po * c) * tanh(c), c


def _lstm(call: Call) -> Result:
    """Shapes  X [T, B, in], W [directions, 4 * units, in] -> Y [T, directions, B, units], Y_h, Y_c [directions, B, units]

    With layout=1 the batch stands first.
    """
    _refuse(call)
    first = bool(call.attr("layout", 0))
    x = call.plain(0)
    values = unstack(x, axis=1 if first else 0)
    cells = _cells(call, many := 2 if call.attr("direction", b"forward") == b"bidirectional" else 1)
    states = [_start(call, i, many, first, (values[0].shape[0], cells[0].u.shape[-1]), x) for i in (5, 6)]
    backward = [call.attr("direction", b"forward") == b"reverse"] if many == 1 else [False, True]
    runs = []
    for d, (cell, back) in enumerate(zip(cells, backward, strict=True)):
        with scope(("forward", "backward")[back]):
            runs.append(_run(cell, values, states[0][d], states[1][d], back))
    y = stack([stack([hs[t] for hs, _ in runs]) for t in range(len(values))])
    ends = [
        stack([hs[0 if back else -1] for (hs, _), back in zip(runs, backward, strict=True)]),
        stack([c for _, c in runs]),
    ]
    if first:
        return Tensor(y, (1, 2, 0, 3)), Tensor(ends[0], (1, 0, 2)), Tensor(ends[1], (1, 0, 2))
    return Tensor.plain(y), Tensor.plain(ends[0]), Tensor.plain(ends[1])


def _refuse(call: Call) -> None:
    call.attr("hidden_size")
    call.refuse("input_forget", 0)
    call.refuse("direction", b"forward", b"reverse", b"bidirectional")
    for name in ("clip", "activation_alpha", "activation_beta"):
        call.refuse(name, [])
    given = [n.lower() for n in call.attr("activations", [])]
    if given not in ([], [b"sigmoid", b"tanh", b"tanh"], [b"sigmoid", b"tanh", b"tanh"] * 2):
        raise Unsupported(f"activations={given}")
    if call.has(4):
        steps = call.value(0).shape[1 if call.attr("layout", 0) else 0]
        if set(call.ints(4, "sequence_lens")) != {steps}:
            raise Unsupported("sequences of different lengths")


def _cells(call: Call, many: int) -> list[_Cell]:
    shape = call.value(1).shape
    if len(shape) != 3 or shape[0] != many or not all(isinstance(n, int) for n in shape):
        raise GraphError(f"W has the axes [directions, 4 * units, in]; found {list(shape)} with {many} directions")
    units, width = fixed(shape)[1] // GATES, fixed(shape)[2]

    def gates(i: int, size: int) -> list[Node]:
        if many == 1:
            return [call.weight(i, ("reshape", (GATES, units, size)), ("permute", (0, 2, 1)))]
        return unstack(call.weight(i, ("reshape", (many, GATES, units, size)), ("permute", (0, 1, 3, 2))))

    w, u = gates(1, width), gates(2, units)
    b: list[Node | None] = [None] * many
    p: list[Node | None] = [None] * many
    if call.has(3):
        both = call.weight(3, ("reshape", (many, 2, GATES, 1, units)))
        b = [part[0] + part[1] for part in unstack(both)]
    if call.has(7):
        p = list(unstack(call.weight(7, ("reshape", (many, 3, units)))))
    return [_Cell(*parts) for parts in zip(w, u, b, p, strict=True)]


def _start(call: Call, i: int, many: int, first: bool, shape: Shape, x: Node) -> list[Node]:
    """The first states, [batch, units] for each direction."""
    value = call.value(i) if call.has(i) else None
    if value is None or (isinstance(value, Known) and not np.any(value.array)):
        return [zeros(shape, x.dtype)] * many
    return unstack(call.plain(i), axis=1 if first else 0)


def _run(cell: _Cell, values: list[Node], h: Node, c: Node, back: bool) -> tuple[list[Node], Node]:
    """All h in the order of time, and the last c."""
    hs: list[Node] = []
    for time in reversed(range(len(values))) if back else range(len(values)):
        with scope(f"t{time}"):
            h, c = cell.step(values[time], h, c)
        hs.append(h)
    return hs[::-1] if back else hs, c


TABLE: Mapping[str, Converter] = MappingProxyType({"LSTM": _lstm})
