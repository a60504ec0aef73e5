"""pool_first: relu and bias behind the pool."""

import numpy as np
import pytest
from compiler_kit import setting

import rainshed as rs
from rainshed.compiler.passes.differentiate import differentiate
from rainshed.compiler.passes.pool_first import pool_first
from rainshed.ops.evaluate import evaluate
from rainshed.ops.ir import Graph, Node
from rainshed.ops.pool2d import max_pool2d


def image(dtype: str = "float32") -> Node:
    return rs.input("x", (2, 4, 6, 3), dtype)


def pooled(x: Node) -> Node:
    return max_pool2d(x, size=(2, 3), padding=((1, 0), (0, 0)))


def names(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes() if n.op.name not in ("input", "constant")]


@pytest.mark.parametrize("bias", [(3,), (1, 1, 1, 3), (1,), ()])
@pytest.mark.parametrize("first", [True, False])
def test_what_rises_is_done_behind_the_pool(bias, first):
    x, b = image(), rs.input("b", bias)
    graph = Graph({"y": pooled(rs.relu(x + b if first else b + x))})
    got = pool_first(graph, setting())
    assert names(got) == ["max_pool2d", "add", "relu"]
    random = np.random.default_rng(0)
    values = random.standard_normal((2, 4, 6, 3)).astype(np.float32)
    values[0, 0, 0, 0] = np.nan
    feeds = {"x": values, "b": random.standard_normal(bias).astype(np.float32)}
    np.testing.assert_array_equal(evaluate(got, feeds)[0]["y"], evaluate(graph, feeds)[0]["y"])


@pytest.mark.parametrize(
    "build",
    [
        lambda: {"y": pooled(rs.tanh(image()))},
        lambda: {"y": pooled(-image())},
        lambda: {"y": pooled(image() + rs.input("b", (4, 6, 3)))},
        lambda: {"y": pooled(image() + image())},
    ],
    ids=["not exact", "falls", "another number at each position", "two images"],
)
def test_what_stays(build):
    graph = Graph(build())
    assert names(pool_first(graph, setting())) == names(graph)


def test_a_value_with_another_reader_stays():
    h = rs.relu(image())
    graph = Graph({"y": pooled(h), "z": rs.sum(h)})
    assert names(pool_first(graph, setting())) == names(graph)
    graph = Graph({"y": pooled(h), "h": h})
    assert names(pool_first(graph, setting())) == names(graph)


def test_gradients_are_the_same():
    w = rs.variable("w", (3,))
    graph = Graph({"loss": rs.mean(rs.square(pooled(rs.relu(image() + w))))}, loss="loss")
    values = {"x": np.random.default_rng(1).standard_normal((2, 4, 6, 3)).astype(np.float32)}
    held = {"w": np.array([0.5, -0.25, 1.5], np.float32)}
    graphs = (differentiate(g, setting()) for g in (graph, pool_first(graph, setting())))
    want, got = (evaluate(g, values, held)[0]["grad/w"] for g in graphs)
    np.testing.assert_allclose(got, want, rtol=1e-6)
