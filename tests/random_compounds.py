"""Functions of the language that are put together from several ops, made at random; like the builders of random_ops.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from random_ops import Build, any_value, image, indices, with_axis

from rainshed.ops import CATALOGUE as C
from rainshed.ops.compose import clip, full_like
from rainshed.ops.gather import embedding, one_hot
from rainshed.ops.ir import Node
from rainshed.ops.layout import concat, moveaxis, repeat, roll, split, stack, tile, tril, triu, unstack
from rainshed.ops.local_response_norm import local_response_norm
from rainshed.ops.normalize import batch_norm, layer_norm
from rainshed.ops.pool2d import avg_pool2d
from rainshed.ops.random import dropout
from rainshed.ops.reduce import mean, std, var
from rainshed.ops.reshape import expand_dims, reshape, squeeze
from rainshed.ops.slice import take_range
from rainshed.ops.softmax_cross_entropy import sigmoid_cross_entropy, squared_error
from rainshed.ops.source import constant


def _normed(m: Any) -> Node:
    x = m.value("float", 2, 4, known=lambda s: 0 not in s)
    scale, shift = (m.cast(m.shaped(x.shape[-1:]), x.dtype) for _ in range(2))
    return batch_norm(x, scale, shift, eps=0.1) if m.chance(0.5) else layer_norm(x, scale, shift, eps=0.1)


def _spread(m: Any) -> Node:
    x = m.value("float", 1, known=lambda s: 0 not in s)
    axis = m.int(0, x.ndim - 1)
    return (
        m.one((mean, var))(x, axis=axis) if m.chance(0.6) else std(concat([x, x + 1.5], axis), axis=axis, keepdims=True)
    )


def _getitem(m: Any) -> Node:
    x, _ = with_axis(m, low=2)
    i = m.int(-x.shape[0], x.shape[0] - 1)
    return m.one(
        (lambda: x[i], lambda: x[:, None, ::-1], lambda: x[..., :1], lambda: x[[0, i, i]], lambda: x[i, ..., None])
    )()


def _taken_apart(m: Any) -> Node:
    x, axis = with_axis(m)
    parts = split(x, x.shape[axis], axis) if m.chance(0.5) else [expand_dims(p, axis) for p in unstack(x, axis)]
    return concat(parts[::-1], axis) * 0.5 + x


def _losses(m: Any) -> Node:
    a = m.value("float")
    b = m.cast(m.shaped(a.shape), a.dtype)
    return (
        squared_error(m.fit(a, -5, 5), m.fit(b, -5, 5)) if m.chance(0.5) else sigmoid_cross_entropy(a, m.fit(b, 0, 1))
    )


def _rolled(m: Any) -> Node:
    x, axis = with_axis(m)
    return roll(x, m.int(-3, 3), axis if m.chance(0.7) else None)


def _repeated(m: Any) -> Node:
    x, axis = with_axis(m)
    return repeat(x, m.int(1, 3), axis) if m.chance(0.5) else tile(x, (m.int(1, 2),) * m.int(1, 2))


def _recurrent(m: Any) -> Node:
    """A few steps of a recurrent layer, with one weight for all."""
    x = m.shaped((m.int(1, 4), m.int(2, 4), 3))
    w = m.fit(m.shaped((3, 3)), -1, 1)
    h = full_like(x[:, 0], 0)
    for t in range(x.shape[1]):
        h = C["tanh"](m.add(x[:, t] + h @ w))
    return h


COMPOUNDS: tuple[Build, ...] = (
    _normed,
    _spread,
    _getitem,
    _taken_apart,
    _losses,
    _rolled,
    _repeated,
    _recurrent,
    lambda m: clip(m.value("float", exact=True), -0.7, 0.9),
    lambda m: dropout(m.value("float"), 0.3, name=m.name("drop")),
    lambda m: stack([x := any_value(m, 0, 3), m.shaped(x.shape, x.dtype.kind)], axis=m.int(0, x.ndim)),
    lambda m: (tril if m.chance(0.5) else triu)(m.value("float", 2), k=m.int(-1, 1)),
    lambda m: moveaxis(x := any_value(m, 2), 0, x.ndim - 1),
    lambda m: squeeze(expand_dims(x := any_value(m, 0, 3), x.ndim), -1),
    lambda m: avg_pool2d(image(m), 2, padding="same"),
    lambda m: local_response_norm(m.value("float", 1, known=lambda s: 0 not in s), size=3, alpha=0.1),
    lambda m: embedding(m.shaped((5, 3)), indices(m, m.shape(1, 2), 5)),
    lambda m: one_hot(indices(m, m.shape(1, 2), 4), 4),
    lambda m: take_range(x := any_value(m, 1), 0, 0, x.shape[0]),
    lambda m: reshape(constant(np.arange(6.0)), shape=(2, 3)) * m.shaped((2, 3)),
)
