"""simplify: each rule, as text in and text out; and that the function stays."""

import numpy as np
import pytest
from compiler_kit import check_pass, graph_of, lines_of, setting
from random_graphs import random_graph

from rainshed.compiler.passes.simplify import RULES, simplify
from rainshed.ops.evaluate import evaluate

X = '%0 = input() {name="x", shape=[2], dtype=f32} : f32[2]\n'
ZERO = "%1 = constant() {value=array float32 [] [0.0]} : f32[]\n"
ONE = "%1 = constant() {value=array float32 [] [1.0]} : f32[]\n"


@pytest.mark.parametrize(
    "line",
    [
        ZERO + "%2 = add(%0, %1) : f32[2]",
        ZERO + "%2 = add(%1, %0) : f32[2]",
        ZERO + "%2 = subtract(%0, %1) : f32[2]",
        ONE + "%2 = multiply(%0, %1) : f32[2]",
        ONE + "%2 = multiply(%1, %0) : f32[2]",
        ONE + "%2 = divide(%0, %1) : f32[2]",
        "%1 = negative(%0) : f32[2]\n%2 = negative(%1) : f32[2]",
        "%2 = reshape(%0) {shape=[2]} : f32[2]",
        "%2 = broadcast_to(%0) {shape=[2]} : f32[2]",
        "%2 = sum_to(%0) {shape=[2]} : f32[2]",
        "%2 = astype(%0) {dtype=f32} : f32[2]",
        "%1 = reshape(%0) {shape=[2, 1]} : f32[2, 1]\n%2 = reshape(%1) {shape=[2]} : f32[2]",
    ],
)
def test_what_changes_nothing_goes(line: str) -> None:
    check_pass(simplify, X + line + "\noutput y = %2", X + "output y = %0")


@pytest.mark.parametrize(
    "line",
    [
        ZERO + "%2 = subtract(%1, %0) : f32[2]",
        ONE + "%2 = divide(%1, %0) : f32[2]",
        ZERO + "%2 = multiply(%0, %1) : f32[2]",
        "%1 = constant() {value=array float64 [] [0.0]} : f64[]\n%2 = add(%0, %1) : f64[2]",
    ],
)
def test_what_changes_something_stays(line: str) -> None:
    text = X + line + "\noutput y = %2"
    assert lines_of(simplify(graph_of(text), setting())) == lines_of(graph_of(text))


def test_a_stretched_value_stays_stretched() -> None:
    check_pass(
        simplify,
        """
        %0 = input() {name="x", shape=[50], dtype=f32} : f32[50]
        %1 = constant() {value=array float32 [3, 1] [0.0, 0.0, 0.0]} : f32[3, 1]
        %2 = sum(%1) {axis=[0, 1]} : f32[]
        %3 = broadcast_to(%2) {shape=[3, 50]} : f32[3, 50]
        %4 = add(%0, %3) : f32[3, 50]
        output y = %4
        """,
        """
        %0 = input() {name="x", shape=[50], dtype=f32} : f32[50]
        %1 = broadcast_to(%0) {shape=[3, 50]} : f32[3, 50]
        output y = %1
        """,
    )


GATES = """
%0 = input() {name="x", shape=[3, 4, 5], dtype=f32} : f32[3, 4, 5]
%1 = input() {name="u", shape=[3, 6, 5], dtype=f32} : f32[3, 6, 5]
"""
SUMMED = GATES + "%2 = matmul_nt(%0, %1) : f32[3, 4, 6]\n%3 = sum_to(%2) {shape=[4, 6]} : f32[4, 6]\noutput y = %3"


def test_products_that_are_summed_are_one_product_where_its_parts_cross() -> None:
    one = "%2 = product(%0, %1) {turn_b=True, summed=1} : f32[4, 6]\noutput y = %2"
    check_pass(simplify, SUMMED, GATES + one, machines=2)
    check_pass(simplify, SUMMED, SUMMED, machines=1)


def test_a_product_that_is_read_besides_its_sum_stays() -> None:
    text = SUMMED + "\noutput z = %2"
    check_pass(simplify, text, text, machines=2)


def test_constants_are_folded_and_sizes_are_known() -> None:
    check_pass(
        simplify,
        X + "%1 = axis_size(%0) {axis=[0], dtype=f32} : f32[]\n"
        "%2 = square(%1) : f32[]\n%3 = multiply(%0, %2) : f32[2]\noutput y = %3",
        X + "%1 = constant() {value=array float32 [] [4.0]} : f32[]\n%2 = multiply(%0, %1) : f32[2]\noutput y = %2",
    )


def test_random_numbers_are_no_constants() -> None:
    text = '%0 = step() : i64[]\n%1 = random_normal(%0) {shape=[2], stream="a", dtype=f32} : f32[2]\noutput y = %1'
    assert lines_of(simplify(graph_of(text), setting())) == lines_of(graph_of(text))


def test_every_rule_says_its_equation() -> None:
    assert all(rule.__doc__ and "=" in rule.__doc__ for rule in RULES)


@pytest.mark.parametrize("seed", range(0, 60, 3))
def test_the_function_stays_and_no_node_is_added(seed: int) -> None:
    sample = random_graph(seed)
    got = simplify(sample.graph, setting())
    assert len(got.nodes()) <= len(sample.graph.nodes())
    want, _ = evaluate(sample.graph, sample.feeds, step=sample.step, seed=seed)
    values, _ = evaluate(got, sample.feeds, step=sample.step, seed=seed)
    for name, value in values.items():
        np.testing.assert_array_equal(value, want[name], err_msg=name, strict=True)
