"""The language: types, nodes, and every op with its shape rule, gradient, split rule, cost and kernels.

`CATALOGUE` is the only list of ops. To add one: write `ops/<name>.py`, and add its line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rainshed.ops.broadcast import broadcast_to, sum_to
from rainshed.ops.elementwise import ELEMENTWISE, astype, where
from rainshed.ops.ir import set_operators
from rainshed.ops.matmul import matmul, matrix_transpose
from rainshed.ops.op import Op, constant_op
from rainshed.ops.reduce import all as all_
from rainshed.ops.reduce import any as any_
from rainshed.ops.reduce import argmax, argmin, cumulative_sum, prod
from rainshed.ops.reduce import max as max_
from rainshed.ops.reduce import min as min_
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.reshape import reshape
from rainshed.ops.source import axis_size, input_op, pick_op, step_op, variable_op

_OPS: tuple[Op, ...] = (
    # leaves and tuples
    input_op, variable_op, constant_op, step_op, axis_size, pick_op,
    # element-wise
    *ELEMENTWISE.values(), where, astype,
    # shape
    broadcast_to, sum_to, reshape, matrix_transpose,
    # products and reductions
    matmul, sum_, prod, max_, min_, any_, all_, argmax, argmin, cumulative_sum,
)  # fmt: skip

CATALOGUE: Mapping[str, Op] = MappingProxyType({op.name: op for op in _OPS})

set_operators({**CATALOGUE})
