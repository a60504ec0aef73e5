"""fuse_sums and repeat: large sums with what they read, and values that are cheaper computed again."""

import numpy as np
import pytest
from compiler_kit import setting

import rainshed as rs
from rainshed.compiler.passes.fuse import fuse
from rainshed.compiler.passes.fuse_sums import fuse_sums
from rainshed.compiler.passes.repeat import repeat
from rainshed.ops.evaluate import evaluate
from rainshed.ops.ir import Device, Graph, Node

ROWS, COLUMNS = 512, 128


def placed(**outputs: Node) -> Graph:
    return Graph(outputs).rebuild(lambda node, inputs: node.placed(inputs, Device("m0")))


def fused(graph: Graph) -> Graph:
    return fuse_sums(fuse(repeat(graph, setting()), setting()), setting())


def names(graph: Graph) -> list[str]:
    return sorted(n.op.name for n in graph.nodes() if n.op.name not in ("input", "constant"))


def x() -> Node:
    return rs.input("x", (ROWS, COLUMNS))


def same(graph: Graph, *, bits: bool = False) -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32)}
    (want, _), (got, _) = evaluate(graph, feeds), evaluate(fused(graph), feeds)
    for name, value in want.items():
        if bits:
            np.testing.assert_array_equal(got[name], value)
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-3)


def test_a_sum_takes_in_what_it_alone_reads():
    graph = placed(y=rs.sum(rs.square(rs.exp(x())), axis=0))
    assert names(fused(graph)) == ["fused_sum"]
    same(graph)


def test_variances_are_two_sums_and_no_other_value():
    value = x()
    centred = value - rs.sum(value, axis=0) / float(ROWS)
    graph = placed(y=rs.sum(rs.square(centred), axis=0, keepdims=True), z=rs.relu(centred))
    assert names(fused(graph)) == ["divide", "fused", "fused_sum", "fused_sum"]
    same(graph)


def test_the_same_bits_where_only_values_are_repeated():
    value = x() - 1.0
    graph = placed(y=rs.exp(value), z=rs.tanh(value))
    assert names(fused(graph)) == ["fused", "fused"]
    same(graph, bits=True)


@pytest.mark.parametrize(
    "build",
    [
        lambda: {"y": rs.sum(rs.exp(rs.input("x", (8, 16))), axis=0)},
        lambda: {"y": rs.sum(x(), axis=1)},
        lambda: {"y": rs.sum(rs.input("x", (ROWS, COLUMNS), "float64"), axis=0)},
        lambda: {"y": rs.max(x(), axis=0)},
        lambda: {"y": rs.sum(rs.input("x", (64, 8, 128)), axis=(0, 2))},
    ],
    ids=["small", "few sums", "float64", "not a sum", "axes apart"],
)
def test_what_stays(build):
    graph = placed(**build())
    assert names(fused(graph)) == names(graph)


@pytest.mark.parametrize("formula", [rs.exp, lambda v: rs.relu(v * 2.0 + rs.input("z", (ROWS, COLUMNS)))])
def test_what_is_dear_or_reads_much_is_computed_once(formula):
    value = formula(x())
    graph = placed(y=rs.sqrt(value), z=rs.sin(value))
    assert repeat(graph, setting()) is graph


def test_an_output_is_computed_once():
    value = -x()
    graph = placed(y=value, z=rs.exp(value), w=rs.sin(value))
    assert repeat(graph, setting()) is graph
