"""schedule: an order that every machine can run by itself, with sends early and receives late."""

import pytest
from compiler_kit import graph_of, setting
from random_graphs import random_graph

from rainshed.compiler.passes.schedule import schedule
from rainshed.compiler.pipeline import show
from rainshed.ops.ir import users


@pytest.mark.parametrize("seed", range(4, 100, 6))
def test_the_order_is_a_schedule(seed: int) -> None:
    told = setting(5, strategy=("space", "features", "batch", "longest")[seed % 4])
    graph = show(random_graph(seed).graph, told.cluster, "fuse", strategy=told.strategy)
    order = schedule(graph, told)
    at = {node: i for i, node in enumerate(order)}
    assert len(order) == len(at) == len(graph.nodes())
    readers = users(graph.nodes())
    for node in order:
        assert all(at[i] < at[node] for i in node.inputs), node
        if node.op.name == "send":
            between = order[at[node.inputs[0]] + 1 : at[node]]
            assert all(n.op.name == "send" for n in between), "a send directly follows its value"
        if node.op.name == "recv" and readers[node]:
            first = min(at[r] for r in readers[node])
            between = order[at[node] + 1 : first]
            assert all(n.op.name in ("recv", "constant", "input") for n in between), (
                "a recv directly precedes its reader"
            )


def test_what_another_machine_waits_for_comes_first() -> None:
    graph = graph_of(
        """
        %0 = variable() {name="w", shape=[64, 64], dtype=f32} : f32[64, 64] @ m0/cpu
        %1 = exp(%0) : f32[64, 64] @ m0/cpu
        %2 = sin(%1) : f32[64, 64] @ m0/cpu
        %3 = cos(%0) : f32[64, 64] @ m0/cpu
        %4 = send(%3) {to="m1"} : f32[64, 64] @ m0/cpu
        %5 = recv(%4) : f32[64, 64] @ m1/cpu
        %6 = exp(%5) : f32[64, 64] @ m1/cpu
        output own = %2
        output other = %6
        """
    )
    names = [n.op.name for n in schedule(graph, setting(2)) if n.device and n.device.machine == "m0"]
    assert names == ["variable", "cos", "send", "exp", "sin"]


def test_the_first_of_several_slices_is_sent_before_the_second_is_computed() -> None:
    graph = graph_of(
        """
        %0 = input() {name="x", shape=[8, 64], dtype=f32} : f32[8, 64] @ m0/cpu
        %1 = exp(%0) : f32[8, 64] @ m0/cpu
        %2 = sin(%1) : f32[8, 64] @ m0/cpu
        %3 = send(%2) {to="m1"} : f32[8, 64] @ m0/cpu
        %4 = recv(%3) : f32[8, 64] @ m1/cpu
        %5 = tanh(%4) : f32[8, 64] @ m1/cpu
        %6 = input() {name="z", shape=[8, 64], dtype=f32} : f32[8, 64] @ m0/cpu
        %7 = exp(%6) : f32[8, 64] @ m0/cpu
        %8 = sin(%7) : f32[8, 64] @ m0/cpu
        %9 = send(%8) {to="m1"} : f32[8, 64] @ m0/cpu
        %10 = recv(%9) : f32[8, 64] @ m1/cpu
        %11 = tanh(%10) : f32[8, 64] @ m1/cpu
        output first = %5
        output second = %11
        """
    )
    names = [n.op.name for n in schedule(graph, setting(2), slices=True) if n.device and n.device.machine == "m0"]
    assert names == 2 * ["input", "exp", "sin", "send"]


def test_leaves_stand_before_their_first_reader() -> None:
    graph = graph_of(
        """
        %0 = input() {name="x", shape=[4], dtype=f32} : f32[4] @ m0/cpu
        %1 = input() {name="z", shape=[4], dtype=f32} : f32[4] @ m0/cpu
        %2 = exp(%0) : f32[4] @ m0/cpu
        %3 = add(%1, %2) : f32[4] @ m0/cpu
        output y = %3
        """
    )
    assert [n.name or n.op.name for n in schedule(graph, setting())] == ["x", "exp", "z", "add"]
