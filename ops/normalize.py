"""Batch and layer normalisation: put together from reductions and element-wise ops, and so split and differentiated.

Source  Ioffe and Szegedy 2015, arXiv:1502.03167; Ba et al. 2016, arXiv:1607.06450
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rainshed.ops.elementwise import sqrt, square
from rainshed.ops.errors import ShapeError
from rainshed.ops.ir import Node
from rainshed.ops.reduce import Axes, clean_axes, mean
from rainshed.ops.reshape import reshape
from rainshed.ops.types import shape_text


class Statistics(NamedTuple):
    """Mean and variance of each channel."""

    mean: Node
    var: Node


def batch_statistics(x: Node, *, axis: Axes = -1) -> Statistics:
    """Mean and variance over all axes but `axis`, which are the channels; the variance is divided by N."""
    return _centred(x, clean_axes("batch_norm", axis, x.ndim))[1]


def _centred(x: Node, kept: tuple[int, ...]) -> tuple[Node, Statistics]:
    """x without its mean: the one value that variance and result are computed from, so that their gradients meet there."""
    over = tuple(i for i in range(x.ndim) if i not in kept)
    centre = mean(x, axis=over)
    centred = x - _along("batch_norm", centre, x, kept)
    return centred, Statistics(centre, mean(square(centred), axis=over))


def batch_norm(
    x: Node, scale: Node, shift: Node, *, statistics: Sequence[Node] | None = None, axis: Axes = -1, eps: float = 1e-5
) -> Node:
    """(x - mean) / sqrt(var + eps) * scale + shift, channel by channel.

    Shapes      scale, shift, and mean and var of the statistics: as x along `axis`
    statistics  None: those of this batch, to train; or (mean, var), such as the running averages, to predict
    Raises      ShapeError
    """
    kept = clean_axes("batch_norm", axis, x.ndim)
    if statistics is None:
        centred, (_, spread) = _centred(x, kept)
    else:
        centre, spread = statistics
        centred = x - _along("batch_norm", centre, x, kept)
    spread, scale, shift = (_along("batch_norm", v, x, kept) for v in (spread, scale, shift))
    return centred * (scale / sqrt(spread + eps)) + shift


def layer_norm(x: Node, scale: Node, shift: Node, *, axis: Axes = -1, eps: float = 1e-5) -> Node:
    """(x - mean) / sqrt(var + eps) * scale + shift, with mean and variance over `axis` of each example.

    Shapes  scale, shift: as x along `axis`
    Raises  ShapeError
    """
    over = clean_axes("layer_norm", axis, x.ndim)
    centred = x - mean(x, axis=over, keepdims=True)
    spread = mean(square(centred), axis=over, keepdims=True)
    scale, shift = (_along("layer_norm", v, x, over) for v in (scale, shift))
    return centred / sqrt(spread + eps) * scale + shift


def _along(name: str, value: Node, x: Node, axes: tuple[int, ...]) -> Node:
    """The value, which has x's axes `axes` only, shaped to broadcast against x."""
    wanted = tuple(x.shape[i] for i in axes)
    if value.shape != wanted:
        raise ShapeError(f"{name}: takes {shape_text(wanted)} along axes {axes} of x {x.type}; found {value.type}")
    if axes == tuple(range(x.ndim - len(axes), x.ndim)):
        return value
    return reshape(value, shape=tuple(n if i in axes else 1 for i, n in enumerate(x.shape)))
