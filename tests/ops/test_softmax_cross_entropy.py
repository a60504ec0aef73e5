"""Losses: values against plain formulas, gradients, labels that are no classes, shapes that do not match."""

import numpy as np
import pytest
from laws import check_op, f32, f64, i32, i64

from rainshed.ops.errors import DataError, DTypeError, ShapeError
from rainshed.ops.evaluate import evaluate_nodes
from rainshed.ops.gradient import gradients
from rainshed.ops.reduce import mean
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.softmax_cross_entropy import (
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    softmax_cross_entropy_grad,
    squared_error,
)
from rainshed.ops.source import constant, input, variable


def entropy(x, labels):
    p = np.exp(x - x.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(p, labels[..., None], -1)[..., 0])


@pytest.mark.parametrize("shape", [(4, 3), (1, 5), (3,), (2, 3, 4), (3, 1), (0, 3)])
def test_softmax_cross_entropy(shape):
    labels = i64(*shape[:-1], low=0, high=shape[-1])
    for x, y in [(f64(*shape), labels), (f32(*shape), labels.astype(np.int32))]:
        check_op(softmax_cross_entropy, x, y, reference=entropy)


def test_its_gradient():
    onehot = np.eye(3)

    def reference(x, labels, dy):
        p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        return (p - onehot[labels]) * dy[..., None]

    check_op(softmax_cross_entropy_grad, f64(4, 3), i64(4, low=0, high=3), f64(4), reference=reference)


def test_labels_broadcast():
    check_op(softmax_cross_entropy, f64(4, 3), i32(2, 1, low=0, high=3))
    check_op(softmax_cross_entropy, f64(1, 3), i32(4, low=0, high=3))


@pytest.mark.parametrize("label,found", [(3, 3), (-1, -1)])
def test_a_label_must_be_a_class(label, found):
    node = softmax_cross_entropy(constant(f32(4, 3)), constant(np.array([0, label, 2, label])))
    with pytest.raises(DataError, match=f"from 0 to 2; found {found}") as caught:
        evaluate_nodes([node], {})
    assert caught.value.detail["wrong"] == "2 of 4 labels"
    assert "test_softmax_cross_entropy.py" in caught.value.detail["built at"]


def test_types_of_logits_and_labels():
    with pytest.raises(DTypeError, match="float logits and int labels"):
        softmax_cross_entropy(f64(4, 3), f64(4))
    with pytest.raises(DTypeError, match="float logits and int labels"):
        softmax_cross_entropy(i64(4, 3), i64(4))


def test_the_batch_may_be_unknown():
    x, labels, w = input("x", (None, 4)), input("t", (None,), "int64"), variable("w", (4, 3))
    loss = mean(softmax_cross_entropy(x @ w, labels))
    (dw,) = gradients(loss, [w])
    assert str(dw.type) == "f32[4, 3]"


def test_large_logits_stay_finite():
    x = np.array([[1e4, -1e4], [-1e4, 1e4]])
    check_op(softmax_cross_entropy, x, np.array([0, 0]), reference=lambda x, t: np.array([0, 2e4]), gradient=False)


def test_sigmoid_cross_entropy():
    def plain(x, t):
        return -(t * np.log(1 / (1 + np.exp(-x))) + (1 - t) * np.log(1 / (1 + np.exp(x))))

    check_op(sigmoid_cross_entropy, f64(3, 4), f64(3, 4, low=0, high=1), reference=plain)
    x, t = np.array([1e4, -1e4, 40.0, -40.0]), np.array([1.0, 0.0, 1.0, 0.0])
    small = np.log1p(np.exp(-40.0))
    (got,) = evaluate_nodes([sigmoid_cross_entropy(constant(x), constant(t))], {})
    np.testing.assert_allclose(got, [0, 0, small, small], rtol=1e-12)


def test_sigmoid_cross_entropy_has_a_slope_at_zero():
    x = input("x", (2,), "float64")
    (dx,) = gradients(sum_(sigmoid_cross_entropy(x, constant(np.array([0.0, 1.0])))), [x])
    (got,) = evaluate_nodes([dx], {"x": np.zeros(2)})
    np.testing.assert_allclose(got, [0.5, -0.5])


def test_squared_error():
    check_op(squared_error, f64(3, 4), f64(3, 4), reference=lambda a, b: (a - b) ** 2)
    for loss in (squared_error, sigmoid_cross_entropy):
        with pytest.raises(ShapeError, match="differ"):
            loss(input("a", (3,)), input("b", (3, 1)))
