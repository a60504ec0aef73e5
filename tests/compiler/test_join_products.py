"""join_products: the products of one weight for all time steps; what waits for another stays apart."""

from collections import Counter

import numpy as np
import pytest
from compiler_kit import check_pass, cluster

import rainshed as rs
from rainshed.compiler.passes.join_products import join_products
from rainshed.compiler.pipeline import compile, show
from rainshed.ops.evaluate import evaluate
from rainshed.ops.ir import Graph
from rainshed.runtime.executor import Executor

LEAVES = """
%0 = input() {name="a", shape=[2, 3], dtype=f32} : f32[2, 3] @ m0/cpu
%1 = input() {name="b", shape=[2, 3], dtype=f32} : f32[2, 3] @ m0/cpu
"""


def test_two_products_by_one_weight_become_one():
    check_pass(
        join_products,
        LEAVES
        + """
%2 = variable() {name="w", shape=[3, 3], dtype=f32} : f32[3, 3] @ m0/cpu
%3 = matmul(%0, %2) : f32[2, 3] @ m0/cpu
%4 = matmul(%1, %2) : f32[2, 3] @ m0/cpu
output y = %3
output z = %4
""",
        LEAVES
        + """\
%2 = concat(%0, %1) : f32[4, 3] @ m0/cpu
%3 = variable() {name="w", shape=[3, 3], dtype=f32, init=init constant [0.0]} : f32[3, 3] @ m0/cpu
%4 = matmul(%2, %3) : f32[4, 3] @ m0/cpu
%5 = slice(%4) {start=[0, 0], stop=[2, 3], step=[1, 1]} : f32[2, 3] @ m0/cpu
%6 = slice(%4) {start=[2, 0], stop=[4, 3], step=[1, 1]} : f32[2, 3] @ m0/cpu
output y = %5
output z = %6
""",
    )


def recurrent(cell, layers=2, steps=5):
    x, t = rs.input("x", (None, steps, 6)), rs.input("t", (None, 7))
    h = cell(x, 7, layers=layers)
    return rs.graph(loss=rs.mean((h - t) ** 2), optimizer=rs.SGD(0.5)).bind(batch=3)


@pytest.mark.parametrize("cell", (rs.layers.lstm, rs.layers.gru))
def test_a_recurrent_network_reads_the_weights_of_its_inputs_once_each_way(cell):
    graph = recurrent(cell)
    joined = show(graph, cluster(1), "join_products", strategy="one")
    products = Counter(n.op.name for n in joined.nodes() if n.op.name in ("matmul", "matmul_nt"))
    plain = Counter(n.op.name for n in show(graph, cluster(1), "tidy", strategy="one").nodes())
    assert plain["matmul"] == 2 * 5 + 2 * 4 and products["matmul"] == 2 + 2 * 4  # w of each layer; u step by step
    assert products["matmul_nt"] == 1 + 2 * 4  # the gradient of what goes into the second layer

    random = np.random.default_rng(0)
    feeds = {"x": random.standard_normal((3, 5, 6), np.float32), "t": random.standard_normal((3, 7), np.float32)}
    losses = []
    for fuse in (False, True):
        program = compile(graph, cluster(1), fuse=fuse).programs[0]
        with Executor(program, ops=rs.ops.CATALOGUE) as executor:
            executor.init_variables(0)
            losses.append([float(executor.run(i, feeds)["loss", ()]) for i in range(5)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_on_several_machines_nothing_is_joined():
    graph = recurrent(rs.layers.lstm)
    before, after = (show(graph, cluster(2), name, strategy="longest") for name in ("tidy", "join_products"))
    assert [n.op.name for n in before.nodes()] == [n.op.name for n in after.nodes()]


def test_groups_that_wait_for_each_other_are_not_both_joined():
    """v after w on one way, w after v on another: one of them is joined, the other would wait for itself."""
    x, y = rs.input("x", (2, 3)), rs.input("y", (2, 3))
    v, w = rs.variable("v", (3, 3)), rs.variable("w", (3, 3))
    graph = Graph({"a": rs.tanh(x @ v) @ w, "b": rs.tanh(y @ w) @ v})
    found = Counter(n.op.name for n in show(graph, cluster(1), "join_products", strategy="one").nodes())
    assert found["matmul"] == 3 and found["concat"] == 1
    values = {"x": np.ones((2, 3), np.float32), "y": np.full((2, 3), 2, np.float32)}
    weights = {n: np.random.default_rng(1).standard_normal((3, 3)).astype(np.float32) for n in ("v", "w")}
    want, _ = evaluate(graph, values, weights)
    program = compile(graph, cluster(1)).programs[0]
    with Executor(program, ops=rs.ops.CATALOGUE) as executor:
        for name, value in weights.items():
            executor.set_variable(name, ((0, 3), (0, 3)), value)
        got = executor.run(0, values)
    for (name, _), value in got.items():
        np.testing.assert_allclose(value, want[name], rtol=1e-5)
