"""Matrix products."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rainshed.engine.onnx.call import Call, Converter, Result
from rainshed.engine.onnx.values import Known, Tensor
from rainshed.engine.standard import matmul
from rainshed.ops.ir import Node


def _factor(call: Call, i: int, transposed: bool = False) -> Node:
    """A factor; one that is known is a weight, and its variable stands as the product needs it."""
    views = (("permute", (1, 0)),) if transposed else ()
    if isinstance(call.value(i), Known):
        return call.weight(i, *views)
    node = call.plain(i)
    return node.mT if transposed else node


def _gemm(call: Call) -> Result:
    """alpha * A @ B + beta * C, with A and B transposed on request."""
    alpha, beta = float(call.attr("alpha", 1.0)), float(call.attr("beta", 1.0))
    y = matmul(_factor(call, 0, bool(call.attr("transA", 0))), _factor(call, 1, bool(call.attr("transB", 0))))
    y = y if alpha == 1 else y * alpha
    if not call.has(2):
        return Tensor.plain(y)
    bias = _factor(call, 2)
    return Tensor.plain(y + (bias if beta == 1 else bias * beta))


def _matmul(call: Call) -> Result:
    return Tensor.plain(matmul(_factor(call, 0), _factor(call, 1)))


TABLE: Mapping[str, Converter] = MappingProxyType({"Gemm": _gemm, "MatMul": _matmul})
