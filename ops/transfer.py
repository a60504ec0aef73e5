"""send, recv, copy: how a value gets from one device to another. The compiler makes them; users never do.

A send stands on the machine that has the value, its recv on the machine that wants it; the runtime carries the bytes. A copy moves
a value between a machine's memory and one of its units.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rainshed.ops.cuda import same_order
from rainshed.ops.elementwise import same_index
from rainshed.ops.ir import Attrs
from rainshed.ops.op import MOVED, REQUIRED, Cost, Op, Types, op
from rainshed.ops.types import Type


def _same(types: Types, attrs: Attrs) -> Type:
    return types[0]


def _free(types: Types, output: Type, attrs: Attrs) -> Cost:
    return Cost(0)


def _move(x: np.ndarray, out: np.ndarray, **attrs: Any) -> None:
    out[...] = x


send: Op = op(
    name="send",
    kinds=MOVED,
    arity=1,
    attrs={"to": REQUIRED, "reason": ""},
    infer=_same,
    access=same_index,
    cost=_free,
    cpu=_move,
    doc="The value, on its way to the machine `to`.",
)

recv: Op = op(
    name="recv",
    kinds=MOVED,
    arity=1,
    infer=_same,
    access=same_index,
    cost=_free,
    cpu=_move,
    doc="The value that a send has brought.",
)

copy: Op = op(
    name="copy",
    kinds=MOVED,
    work="layout",
    arity=1,
    infer=_same,
    access=same_index,
    grad=lambda node, dy: (dy,),
    cost=_free,
    cpu=_move,
    cuda=same_order,  # within one unit; between host and unit the runtime carries the bytes
    doc="The value, in the memory of another device of the same machine.",
)
