"""differentiate: a gradient per trainable variable, or its move by a rule."""

import numpy as np
import pytest
from compiler_kit import check_pass, graph_of, setting

from rainshed.compiler.passes.differentiate import differentiate
from rainshed.engine.optimizers import SGD, Momentum
from rainshed.ops.errors import GraphError
from rainshed.ops.evaluate import evaluate
from rainshed.ops.ir import Graph
from rainshed.ops.reduce import mean
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.source import input, variable


def test_a_gradient_becomes_an_output() -> None:
    check_pass(
        differentiate,
        """
        %0 = variable() {name="w", shape=[3], dtype=f32} : f32[3]
        %1 = exp(%0) : f32[3]
        %2 = sum(%1) {axis=[0]} : f32[]
        output loss = %2
        loss loss
        """,
        """
        %0 = variable() {name="w", shape=[3], dtype=f32, init=init constant [0.0]} : f32[3]
        %1 = exp(%0) : f32[3]
        %2 = sum(%1) {axis=[0]} : f32[]
        %3 = constant() {value=array float32 [] [1.0]} : f32[]
        %4 = reshape(%3) {shape=[1]} : f32[1]
        %5 = broadcast_to(%4) {shape=[3]} : f32[3]
        %6 = multiply(%5, %1) : f32[3]
        output loss = %2
        output grad/w = %6
        loss loss
        """,
    )


def test_a_graph_without_a_loss_stays() -> None:
    graph = graph_of("%0 = step() : i64[]\noutput y = %0")
    assert differentiate(graph, setting()) is graph


def net() -> tuple[Graph, dict[str, np.ndarray]]:
    x = input("x", (4, 3), "float64")
    first = variable("first", (3, 5), "float64", init=np.full((3, 5), 0.25))
    last = variable("last", (5,), "float64", init=np.linspace(0, 1, 5))
    fixed = variable("fixed", (5,), "float64", init=0.5, trainable=False)
    y = sum_((x @ first + fixed) * last)
    return Graph({"loss": y}, loss="loss"), {"x": np.arange(12.0).reshape(4, 3)}


def test_gradients_stand_in_reverse_order_of_use_and_only_trainable_variables_have_one() -> None:
    graph, feeds = net()
    got = differentiate(graph, setting())
    assert list(got.outputs) == ["loss", "grad/last", "grad/first"]
    values, _ = evaluate(got, feeds)
    np.testing.assert_allclose(values["grad/first"], np.outer(feeds["x"].sum(0), np.linspace(0, 1, 5)))
    np.testing.assert_allclose(values["grad/last"], (feeds["x"] @ np.full((3, 5), 0.25) + 0.5).sum(0))


def test_a_rule_moves_the_variables_and_has_slots() -> None:
    graph, feeds = net()
    grads, _ = evaluate(differentiate(graph, setting()), feeds)
    sgd = differentiate(Graph(graph.outputs, loss="loss", rule=SGD(0.1).rule()), setting())
    assert list(sgd.outputs) == ["loss"] and set(sgd.updates) == {"first", "last"}
    _, moved = evaluate(sgd, feeds)
    np.testing.assert_allclose(moved["first"], 0.25 - 0.1 * grads["grad/first"])
    momentum = differentiate(Graph(graph.outputs, loss="loss", rule=Momentum(0.1).rule()), setting())
    slots = [name for name in momentum.variables if "/" in name]
    assert sorted(slots) == sorted(set(momentum.updates) - {"first", "last"}) and len(slots) == 2
    assert not any(momentum.variables[name].attrs["trainable"] for name in slots)


def test_a_variable_that_the_loss_does_not_need_has_a_zero_gradient() -> None:
    w, unused = variable("w", (2,)), variable("unused", (3,))
    graph = differentiate(Graph({"loss": mean(w), "u": unused}, loss="loss"), setting())
    values, _ = evaluate(graph, {})
    np.testing.assert_array_equal(values["grad/unused"], np.zeros(3, np.float32), strict=True)


@pytest.mark.parametrize("loss", [input("a", (2,)), input("a", (), "int64")])
def test_a_loss_is_one_float_number(loss: object) -> None:
    with pytest.raises(GraphError, match="a loss is one float number"):
        differentiate(Graph({"loss": loss}, loss="loss"), setting())  # type: ignore[dict-item]
