"""Batch and layer normalisation against plain NumPy."""

import numpy as np
import pytest
from laws import check_op, f64

from rainshed.ops.errors import ShapeError
from rainshed.ops.evaluate import evaluate_nodes
from rainshed.ops.gradient import gradients
from rainshed.ops.ir import Graph
from rainshed.ops.normalize import batch_norm, batch_statistics, layer_norm
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.source import input


def normal(x, axis, eps):
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + eps)


def test_batch_norm():
    check_op(batch_norm, f64(4, 3), f64(3), f64(3), eps=1e-3, reference=lambda x, s, t: normal(x, 0, 1e-3) * s + t)

    def images(x, s, t):
        return normal(x, (0, 1, 2), 1e-3) * s + t

    check_op(batch_norm, f64(2, 3, 2, 4), f64(4), f64(4), eps=1e-3, reference=images)


def test_channels_on_another_axis():
    def reference(x, s, t):
        return normal(x, (0, 2), 1e-3) * s[:, None] + t[:, None]

    check_op(batch_norm, f64(4, 3, 2), f64(3), f64(3), axis=1, eps=1e-3, reference=reference)


def test_given_statistics():
    def build(x, s, t, mean, var):
        return batch_norm(x, s, t, statistics=(mean, var), eps=1e-3)

    def reference(x, s, t, mean, var):
        return (x - mean) / np.sqrt(var + 1e-3) * s + t

    check_op(build, f64(4, 3), f64(3), f64(3), f64(3), f64(3, low=0.5, high=2.0), reference=reference)


def test_batch_statistics():
    x = f64(4, 3, 2)
    got = evaluate_nodes(batch_statistics(input("x", x.shape, "float64")), {"x": x})
    np.testing.assert_allclose(got, [x.mean((0, 1)), x.var((0, 1))], rtol=1e-12)


@pytest.mark.parametrize("axis", [-1, (1, 2), 1])
def test_layer_norm(axis):
    x = f64(3, 4, 2)
    over = axis if isinstance(axis, tuple) else (axis % 3,)
    own = tuple(x.shape[i] for i in over)
    wide = tuple(n if i in over else 1 for i, n in enumerate(x.shape))

    def reference(x, s, t):
        return normal(x, axis, 1e-3) * s.reshape(wide) + t.reshape(wide)

    check_op(layer_norm, x, f64(*own), f64(*own), axis=axis, eps=1e-3, reference=reference)


def test_the_batch_may_be_unknown():
    x, s, t = input("x", (None, 4, 4, 3)), input("s", (3,)), input("t", (3,))
    for norm in (batch_norm, layer_norm):
        dx, ds = gradients(sum_(norm(x, s, t)), [x, s])
        assert dx.type == x.type and ds.type == s.type
        assert Graph({"dx": dx}).bind(batch=2).bound


def test_wrong_shapes():
    with pytest.raises(ShapeError, match=r"batch_norm: takes \[3\]"):
        batch_norm(input("x", (4, 3)), input("s", (4,)), input("t", (3,)))
    with pytest.raises(ShapeError, match="no axis 2"):
        layer_norm(input("x", (4, 3)), input("s", (3,)), input("t", (3,)), axis=2)
