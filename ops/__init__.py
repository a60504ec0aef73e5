"""The language: types, nodes, and every op with its shape rule, gradient, split rule, cost and kernels.

`CATALOGUE` is the only list of ops. To add one: write `ops/<name>.py`, and add its line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rainshed.ops.assemble import assemble
from rainshed.ops.broadcast import broadcast_to, sum_to
from rainshed.ops.conv2d import conv2d, conv2d_input_grad, conv2d_weight_grad
from rainshed.ops.elementwise import ELEMENTWISE, astype, where
from rainshed.ops.fused import fused
from rainshed.ops.fused_sum import fused_sum
from rainshed.ops.gather import one_hot_op, scatter_add, scatter_add_along_axis, take, take_along_axis
from rainshed.ops.getitem import getitem
from rainshed.ops.ir import set_operators
from rainshed.ops.layout import concat_op, flip, permute_dims
from rainshed.ops.local2d import local2d, local2d_input_grad, local2d_weight_grad, local2d_weight_step
from rainshed.ops.local_response_norm import window_sum
from rainshed.ops.matmul import matmul, matmul_nt, matmul_tn, matrix_transpose
from rainshed.ops.op import Op, constant_op
from rainshed.ops.packed import pack, packed_product
from rainshed.ops.pad import pad
from rainshed.ops.pool2d import max_pool2d, max_pool2d_grad, sum_pool2d, sum_pool2d_grad
from rainshed.ops.product import product
from rainshed.ops.random import bernoulli_op, normal_op, uniform_op
from rainshed.ops.reduce import all as all_
from rainshed.ops.reduce import any as any_
from rainshed.ops.reduce import argmax, argmin, cumulative_sum, prod
from rainshed.ops.reduce import max as max_
from rainshed.ops.reduce import min as min_
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.reshape import reshape
from rainshed.ops.scatter_step import scatter_step
from rainshed.ops.slice import slice_op, unslice
from rainshed.ops.softmax import log_softmax, softmax
from rainshed.ops.softmax_cross_entropy import softmax_cross_entropy, softmax_cross_entropy_grad
from rainshed.ops.source import axis_size, input_op, pick_op, step_op, variable_op
from rainshed.ops.transfer import copy, recv, send

_OPS: tuple[Op, ...] = (
    # leaves and tuples
    input_op, variable_op, constant_op, step_op, axis_size, pick_op,
    # element-wise
    *ELEMENTWISE.values(), where, astype,
    # shape
    broadcast_to, sum_to, reshape, matrix_transpose, permute_dims, flip, concat_op, slice_op, unslice, pad, assemble,
    # chosen by index
    take, scatter_add, take_along_axis, scatter_add_along_axis, one_hot_op,
    # random
    uniform_op, normal_op, bernoulli_op,
    # products and reductions
    matmul, matmul_nt, matmul_tn, sum_, prod, max_, min_, any_, all_, argmax, argmin, cumulative_sum,
    # neural networks
    softmax, log_softmax, softmax_cross_entropy, softmax_cross_entropy_grad, window_sum,
    conv2d, conv2d_input_grad, conv2d_weight_grad, local2d, local2d_input_grad, local2d_weight_grad,
    local2d_weight_step,
    max_pool2d, max_pool2d_grad, sum_pool2d, sum_pool2d_grad,
    # made by the compiler
    send, recv, copy, fused, fused_sum, product, scatter_step, pack, packed_product,
)  # fmt: skip

CATALOGUE: Mapping[str, Op] = MappingProxyType({op.name: op for op in _OPS})

set_operators({**CATALOGUE, "getitem": getitem})
