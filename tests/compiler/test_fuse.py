"""fuse: element-wise neighbours become one kernel, with the same bits."""

import numpy as np
import pytest
from compiler_kit import check_pass, graph_of, lines_of, setting
from random_graphs import random_graph

from rainshed.compiler.passes.fuse import MAX_NODES, fuse
from rainshed.compiler.pipeline import PASSES, run_passes
from rainshed.ops.elementwise import sin
from rainshed.ops.evaluate import evaluate
from rainshed.ops.ir import Device, Graph
from rainshed.ops.source import input

X = '%0 = input() {name="x", shape=[4], dtype=f32} : f32[4] @ m0/cpu\n'


def test_a_chain_becomes_one_kernel() -> None:
    got = fuse(graph_of(X + "%1 = exp(%0) : f32[4] @ m0/cpu\n%2 = sin(%1) : f32[4] @ m0/cpu\noutput y = %2"), setting())
    assert [n.op.name for n in got.nodes()] == ["input", "fused"]
    (kernel,) = got.outputs.values()
    assert [line.split(" = ")[1].split("(")[0] for line in kernel.attrs["body"].split("\n")[1:4]] == [
        "input",
        "exp",
        "sin",
    ]


@pytest.mark.parametrize(
    "lines",
    [
        "%1 = exp(%0) : f32[4] @ m0/cpu\n%2 = sin(%1) : f32[4] @ m0/cpu\noutput y = %2\noutput z = %1",
        "%1 = exp(%0) : f32[4] @ m0/cpu\n%2 = sin(%1) : f32[4] @ m0/cuda0\noutput y = %2",
        "%1 = exp(%0) : f32[4] @ m0/cpu\n%2 = sum(%1) {axis=[0]} : f32[] @ m0/cpu\noutput y = %2",
        "%1 = sum(%0) {axis=[0]} : f32[] @ m0/cpu\n%2 = sin(%1) : f32[] @ m0/cpu\n"
        "%3 = add(%0, %2) : f32[4] @ m0/cpu\noutput y = %3",
    ],
    ids=["asked for", "another device", "not element-wise", "another shape"],
)
def test_what_must_stay_apart(lines: str) -> None:
    check_pass(fuse, X + lines, lines_of(graph_of(X + lines)))


def test_a_value_with_two_readers_is_computed_once() -> None:
    graph = graph_of(
        X + "%1 = exp(%0) : f32[4] @ m0/cpu\n%2 = sin(%1) : f32[4] @ m0/cpu\n%3 = cos(%1) : f32[4] @ m0/cpu\n"
        "%4 = add(%2, %3) : f32[4] @ m0/cpu\noutput y = %4"
    )
    assert [n.op.name for n in fuse(graph, setting()).nodes()] == ["input", "exp", "fused"]


def test_small_constants_go_into_the_kernel() -> None:
    graph = graph_of(
        X + "%1 = constant() {value=array float32 [] [2.0]} : f32[] @ m0/cpu\n%2 = multiply(%0, %1) : f32[4] @ m0/cpu\n"
        "%3 = exp(%2) : f32[4] @ m0/cpu\noutput y = %3"
    )
    assert [n.op.name for n in fuse(graph, setting()).nodes()] == ["input", "fused"]


def test_a_long_chain_becomes_several_kernels() -> None:
    x = input("x", (3,))
    y = x
    for _ in range(3 * MAX_NODES):
        y = sin(y)
    graph = Graph({"y": y}).rebuild(lambda n, ins: n.with_inputs(ins).at(Device("m0")))
    kernels = [n for n in fuse(graph, setting()).nodes() if n.op.name == "fused"]
    assert len(kernels) == 3


def test_it_can_be_turned_off() -> None:
    graph = graph_of(X + "%1 = exp(%0) : f32[4] @ m0/cpu\n%2 = sin(%1) : f32[4] @ m0/cpu\noutput y = %2")
    assert fuse(graph, setting(fuse=False)) is graph


@pytest.mark.parametrize("seed", range(3, 100, 5))
def test_the_bits_stay(seed: int) -> None:
    sample = random_graph(seed)
    told = setting(5, strategy="one")
    before = run_passes(sample.graph, told, PASSES[:-1])
    after = fuse(before, told)
    want, _ = evaluate(before, sample.feeds, step=sample.step, seed=seed)
    got, _ = evaluate(after, sample.feeds, step=sample.step, seed=seed)
    for name, value in got.items():
        np.testing.assert_array_equal(value, want[name], err_msg=name, strict=True)
