"""Gradients as graphs: sums over fan-out, ops with several results, mixed types, and what has no gradient."""

import numpy as np
import pytest
from laws import check_gradient, f32, f64

from rainshed.ops.elementwise import astype, exp, floor, sin, where
from rainshed.ops.errors import GraphError
from rainshed.ops.evaluate import evaluate, evaluate_nodes
from rainshed.ops.gradient import gradients
from rainshed.ops.ir import Graph
from rainshed.ops.matmul import matmul
from rainshed.ops.op import Cost, op
from rainshed.ops.reduce import argmax, mean, sum
from rainshed.ops.source import constant, input, pick, variable
from rainshed.ops.types import TupleType


def _halves(types, attrs):
    return TupleType((types[0], types[0]))


def _sin_cos_cpu(x, out):
    out[0][...], out[1][...] = np.sin(x), np.cos(x)


# A small op with two results, as a user or a recurrent layer would have one.
sin_cos = op(
    name="sin_cos",
    arity=1,
    infer=_halves,
    grad=lambda node, dsin, dcos: (dsin * pick(node, 1) - dcos * pick(node, 0),),
    cost=lambda types, output, attrs: Cost(1),
    cpu=_sin_cos_cpu,
)


def value(node, **feeds):
    (got,) = evaluate_nodes([node], feeds)
    return got


def test_a_value_read_twice_gets_the_sum():
    x = input("x", (3,), "float64")
    (dx,) = gradients(sum(x * x + x * 3.0 + x), [x])
    np.testing.assert_allclose(value(dx, x=f64(3)), 2 * f64(3) + 4)
    check_gradient(lambda x: sin(x) * exp(x) + x * x, (f64(3, 4),))


def test_a_diamond_is_walked_once():
    x = y = input("x", (), "float64")
    for _ in range(60):
        y = y + y
    (dx,) = gradients(y, [x])
    assert value(dx, x=np.float64(1)) == 2.0**60


def test_an_op_with_two_results():
    check_gradient(lambda x: pick(sin_cos(x), 0) * pick(sin_cos(x), 1), (f64(4),))

    def both(x):
        pair = sin_cos(x)
        return pick(pair, 0) * pick(pair, 1) + pick(pair, 0)

    check_gradient(both, (f64(4),))


@pytest.mark.parametrize("index", [0, 1])
def test_results_that_nobody_reads_count_as_zero(index):
    check_gradient(lambda x: pick(sin_cos(x * 2.0), index) * 3.0, (f64(4),))


def test_the_same_result_picked_twice():
    def twice(x):
        pair = sin_cos(x)
        return pick(pair, 1) + pick(pair, 1) * x

    check_gradient(twice, (f64(4),))


def test_a_tuple_that_the_loss_does_not_reach():
    x = input("x", (3,), "float64")
    pair = sin_cos(x)
    dead = floor(pick(pair, 0))
    (dx,) = gradients(sum(dead) + sum(x), [x])
    np.testing.assert_array_equal(value(dx, x=f64(3)), np.ones(3))


def test_the_loss_is_one_float_number():
    x = input("x", (3,))
    for loss, found in [
        (x, "f32\\[3\\]"),
        (argmax(x, axis=0), "i64\\[\\]"),
        (sin_cos(x), "\\(f32\\[3\\], f32\\[3\\]\\)"),
        (sum(x) > 0, "bool\\[\\]"),
    ]:
        with pytest.raises(GraphError, match=f"a loss is one float number; found {found}") as caught:
            gradients(loss, [x])
        assert "test_gradient.py" in caught.value.detail["built at"]


def test_zero_where_nothing_depends():
    x, y = input("x", (2, 3)), input("y", (None, 3))
    n = input("n", (2,), "int64")
    dx, dy, dn = gradients(sum(x * 0.0 + 1.0) * 0.0 + sum(constant(f32(2))), [x, y, n])
    graph = Graph({"dx": dx, "dy": dy, "dn": dn}).bind(batch=4)
    got, _ = evaluate(graph, {"x": f32(2, 3)})
    np.testing.assert_array_equal(got["dx"], np.zeros((2, 3), np.float32), strict=True)
    np.testing.assert_array_equal(got["dy"], np.zeros((4, 3), np.float32), strict=True)
    np.testing.assert_array_equal(got["dn"], np.zeros(2, np.int64), strict=True)


def test_nothing_passes_through_steps_and_integers():
    x = input("x", (3,), "float64")
    loss = sum(floor(x)) + sum(astype(astype(x, dtype="int64"), dtype="float64")) + sum(where(x > 0, x, x * 2.0))
    (dx,) = gradients(loss, [x])
    np.testing.assert_array_equal(value(dx, x=np.array([-1.5, 0.5, 2.5])), [2, 1, 1])


def test_promoted_inputs_get_gradients_of_their_own_type():
    a, b = input("a", (2, 3)), input("b", (3, 2), "float64")
    da, db = gradients(sum(matmul(a, b)) + sum(a * constant(f64(3))), [a, b])
    assert da.type == a.type and db.type == b.type
    got = value(da, a=f32(2, 3), b=f64(3, 2))
    np.testing.assert_allclose(got, np.tile(f64(3, 2).sum(1) + f64(3), (2, 1)), rtol=1e-6)


def test_gradients_of_gradients():
    x = input("x", (3,), "float64")
    (first,) = gradients(sum(x * x * x), [x])
    (second,) = gradients(sum(first), [x])
    np.testing.assert_allclose(value(second, x=f64(3)), 6 * f64(3))


def test_gradients_of_values_inside():
    x = input("x", (3,), "float64")
    h = x * 2.0
    dh, dx = gradients(sum(h * h), [h, x])
    np.testing.assert_allclose(value(dh, x=f64(3)), 4 * f64(3))
    np.testing.assert_allclose(value(dx, x=f64(3)), 8 * f64(3))
    loss = sum(h)
    (dloss,) = gradients(loss, [loss])
    assert value(dloss, x=f64(3)) == 1


def test_gradients_name_the_users_line():
    x, w = input("x", (None, 3)), variable("w", (3, 2))
    y = x @ w
    (dw,) = gradients(mean(y * y), [w])
    assert dw.origin.backward and dw.origin.file.endswith("test_gradient.py") and dw.origin.line == y.origin.line


def test_a_wrong_gradient_is_found_at_once():
    bad = op(
        name="bad", arity=1, infer=lambda types, attrs: types[0], grad=lambda node, dy: (sum(dy),), cpu=_sin_cos_cpu
    )
    x = input("x", (3,))
    with pytest.raises(GraphError, match="the gradient of bad for f32\\[3\\] has type f32\\[\\]"):
        gradients(sum(bad(x)), [x])
