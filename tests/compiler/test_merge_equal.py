"""merge_equal: equal expressions become one node."""

import pytest
from compiler_kit import check_pass, graph_of, lines_of, setting
from random_graphs import random_graph

from rainshed.compiler.passes.merge_equal import key_of, merge_equal
from rainshed.ops.elementwise import exp
from rainshed.ops.ir import Graph, on
from rainshed.ops.source import input

X = '%0 = input() {name="x", shape=[2], dtype=f32} : f32[2]\n'


def test_equal_expressions_become_one() -> None:
    check_pass(
        merge_equal,
        X + "%1 = exp(%0) : f32[2]\n%2 = exp(%0) : f32[2]\n"
        "%3 = sin(%1) : f32[2]\n%4 = sin(%2) : f32[2]\n%5 = add(%3, %4) : f32[2]\noutput y = %5",
        X + "%1 = exp(%0) : f32[2]\n%2 = sin(%1) : f32[2]\n%3 = add(%2, %2) : f32[2]\noutput y = %3",
    )


@pytest.mark.parametrize(
    "one, other",
    [
        ("slice(%0) {start=[0], stop=[1], step=[1]} : f32[1]", "slice(%0) {start=[1], stop=[2], step=[1]} : f32[1]"),
        ("exp(%0) : f32[2]", "exp(%0) : f32[2] @ m0/cpu"),
        ("exp(%0) : f32[2]", "sin(%0) : f32[2]"),
        ("constant() {value=array float32 [1] [0.0]} : f32[1]", "constant() {value=array float64 [1] [0.0]} : f64[1]"),
        ("constant() {value=array float32 [1] [0.0]} : f32[1]", "constant() {value=array float32 [1] [-0.0]} : f32[1]"),
    ],
)
def test_what_differs_stays_apart(one: str, other: str) -> None:
    graph = graph_of(f"{X}%1 = {one}\n%2 = {other}\noutput x = %0\noutput a = %1\noutput b = %2")
    assert lines_of(merge_equal(graph, setting())) == lines_of(graph)


def test_the_order_of_inputs_matters() -> None:
    text = (
        X
        + "%1 = exp(%0) : f32[2]\n%2 = subtract(%0, %1) : f32[2]\n%3 = subtract(%1, %0) : f32[2]\noutput a = %2\noutput b = %3"
    )
    assert lines_of(merge_equal(graph_of(text), setting())) == lines_of(graph_of(text))


def test_pins_keep_equal_values_apart() -> None:
    x = input("x", (2,))
    with on("m0"):
        a = exp(x)
    with on("m1"):
        b = exp(x)
    assert len(merge_equal(Graph({"a": a, "b": b}), setting(2)).nodes()) == 3


@pytest.mark.parametrize("seed", range(0, 60, 3))
def test_no_two_nodes_are_equal(seed: int) -> None:
    nodes = merge_equal(random_graph(seed).graph, setting()).nodes()
    keys = [(n.op.name, tuple(map(id, n.inputs)), key_of(n.attrs), n.origin.pin) for n in nodes]
    assert len(set(keys)) == len(keys)
    assert len(merge_equal(random_graph(seed).graph, setting()).nodes()) == len(nodes)
