"""LSTM and GRU over [batch, time, features], unrolled: each step is a copy of the cell under a scope of its own.

The gates stand side by side on the first axis of the weights ([4, n, units] for LSTM, [3, n, units] for GRU): cutting
`units` cuts all gates of a unit alike, so that only the states cross between machines.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from rainshed.engine.graph import variable
from rainshed.engine.init import glorot_uniform, start
from rainshed.engine.scopes import known_size, layer, positive
from rainshed.ops.elementwise import sigmoid, tanh
from rainshed.ops.ir import Node, scope
from rainshed.ops.layout import stack, unstack
from rainshed.ops.matmul import matmul

__all__ = ["gru", "lstm"]

State = tuple[Node, ...]  # what goes on to the next step; the output h first
Step = Callable[[Node, State | None], State]  # (value, state before; None: all zero) -> state after
Cell = Callable[[Node], Step]  # makes the variables for values such as this one


def lstm(
    x: Node,
    units: int,
    *,
    layers: int = 1,
    return_sequences: bool = False,
    forget_bias: float = 1.0,
    init: Any = glorot_uniform,
    name: str | None = None,
) -> Node:
    """Long short-term memory; its states start from 0.

    Gates   i, f, g, o = w @ x + u @ h + b
            c = sigmoid(f + forget_bias) * c + sigmoid(i) * tanh(g); h = sigmoid(o) * tanh(c)
    Shapes  x: [B, T, n]; w: [4, n, units]; u: [4, units, units]; b: [4, 1, units]
            result: [B, units], the last h; with return_sequences [B, T, units]
    Names   of the variables with several layers: 0/w, 1/w, ...
    Source  Hochreiter and Schmidhuber 1997; Gers et al. 2000
    """

    def cell(like: Node) -> Step:
        w, u, b = _weights("lstm", like, (4, units), init)

        def step(value: Node, state: State | None) -> State:
            z = matmul(value, w) + b
            i, f, g, o = unstack(z if state is None else z + matmul(state[0], u))
            c = sigmoid(i) * tanh(g)
            if state is not None:
                c = sigmoid(f + float(forget_bias)) * state[1] + c
            return sigmoid(o) * tanh(c), c

        return step

    with layer("lstm", x, name):
        return _unrolled("lstm", x, cell, layers, return_sequences)


def gru(
    x: Node,
    units: int,
    *,
    layers: int = 1,
    return_sequences: bool = False,
    init: Any = glorot_uniform,
    name: str | None = None,
) -> Node:
    """Gated recurrent unit; its state starts from 0.

    Gates   r = sigmoid(w0 @ x + u0 @ h + b0); z = sigmoid(w1 @ x + u1 @ h + b1)
            n = tanh(w2 @ x + b2 + r * (u2 @ h + bn)); h = (1 - z) * n + z * h
    Shapes  x: [B, T, n]; w: [3, n, units]; u: [3, units, units]; b: [3, 1, units]; bn: [units]
            result: [B, units], the last h; with return_sequences [B, T, units]
    Names   as in `lstm`
    Source  Cho et al. 2014, arXiv:1406.1078, with the reset gate behind the product
    """

    def cell(like: Node) -> Step:
        w, u, b = _weights("gru", like, (3, units), init)
        bn = variable("bn", (units,), like.dtype)

        def step(value: Node, state: State | None) -> State:
            r, z, new = unstack(matmul(value, w) + b)
            if state is None:
                return ((1.0 - sigmoid(z)) * tanh(new + sigmoid(r) * bn),)
            (h,) = state
            from_r, from_z, from_new = unstack(matmul(h, u))
            z = sigmoid(z + from_z)
            new = tanh(new + sigmoid(r + from_r) * (from_new + bn))
            return ((1.0 - z) * new + z * h,)

        return step

    with layer("gru", x, name):
        return _unrolled("gru", x, cell, layers, return_sequences)


def _weights(kind: str, like: Node, size: tuple[int, int], init: Any) -> tuple[Node, Node, Node]:
    (gates, units), n = size, known_size(kind, like, -1)
    positive(kind, "units", units)
    w = variable("w", (gates, n, units), like.dtype, init=start(init, n, units))
    u = variable("u", (gates, units, units), like.dtype, init=start(init, units, units))
    return w, u, variable("b", (gates, 1, units), like.dtype)


def _unrolled(kind: str, x: Node, cell: Cell, layers: int, return_sequences: bool) -> Node:
    positive(kind, "the number of layers", layers)
    positive(kind, "the number of time steps", known_size(kind, x, -2))
    values = unstack(x, axis=x.ndim - 2)
    for number in range(layers):
        with scope(str(number)) if layers > 1 else nullcontext():
            values = _one_layer(values, cell)
    return stack(values, axis=x.ndim - 2) if return_sequences else values[-1]


def _one_layer(values: list[Node], cell: Cell) -> list[Node]:
    step = cell(values[0])
    state: State | None = None
    outputs = []
    for time, value in enumerate(values):
        with scope(f"t{time}"):
            state = step(value, state)
        outputs.append(state[0])
    return outputs
