"""insert_send_recv: edges that cross become a send and a recv, or a copy inside a machine."""

import pytest
from compiler_kit import check_pass, graph_of, setting
from random_graphs import random_graph

from rainshed.compiler.passes.insert_send_recv import insert_send_recv
from rainshed.compiler.pipeline import show
from rainshed.ops.access import box_size, intersect


def test_an_edge_that_crosses_becomes_a_send_and_a_recv() -> None:
    check_pass(
        insert_send_recv,
        """
        %0 = variable() {name="w", shape=[4], dtype=f32} : f32[4] @ m0/cpu
        %1 = exp(%0) : f32[4] @ m0/cpu
        %2 = sin(%1) : f32[4] @ m1/cpu
        %3 = cos(%1) : f32[4] @ m1/cpu
        %4 = add(%2, %3) : f32[4] @ m1/cpu
        output y = %4
        """,
        """
        %0 = variable() {name="w", shape=[4], dtype=f32, init=init constant [0.0]} : f32[4] @ m0/cpu
        %1 = exp(%0) : f32[4] @ m0/cpu
        %2 = send(%1) {to="m1", reason="activation"} : f32[4] @ m0/cpu
        %3 = recv(%2) : f32[4] @ m1/cpu
        %4 = sin(%3) : f32[4] @ m1/cpu
        %5 = cos(%3) : f32[4] @ m1/cpu
        %6 = add(%4, %5) : f32[4] @ m1/cpu
        output y = %6
        """,
        machines=2,
    )


def test_inputs_and_constants_never_cross() -> None:
    check_pass(
        insert_send_recv,
        """
        %0 = input() {name="x", shape=[4], dtype=f32} : f32[4] @ m0/cpu
        %1 = constant() {value=array float32 [] [2.0]} : f32[] @ m0/cpu
        %2 = multiply(%0, %1) : f32[4] @ m1/cpu
        output y = %2
        """,
        """
        %0 = input() {name="x", shape=[4], dtype=f32} : f32[4] @ m1/cpu
        %1 = constant() {value=array float32 [] [2.0]} : f32[] @ m1/cpu
        %2 = multiply(%0, %1) : f32[4] @ m1/cpu
        output y = %2
        """,
        machines=2,
    )


def test_what_only_moves_elements_of_an_input_is_made_where_it_is_read() -> None:
    check_pass(
        insert_send_recv,
        """
        %0 = input() {name="x", shape=[4, 2], dtype=f32} : f32[4, 2] @ m0/cpu
        %1 = slice(%0) {start=[0, 0], stop=[2, 2], step=[1, 1]} : f32[2, 2] @ m0/cpu
        %2 = reshape(%1) {shape=[4]} : f32[4] @ m0/cpu
        %3 = exp(%2) : f32[4] @ m0/cpu
        %4 = sin(%2) : f32[4] @ m1/cpu
        %5 = slice(%0) {start=[0, 0], stop=[1, 1], step=[1, 1]} : f32[1, 1] @ m0/cpu
        %6 = cos(%5) : f32[1, 1] @ m1/cpu
        output y = %3
        output z = %4
        output u = %6
        """,
        """
        %0 = input() {name="x", shape=[4, 2], dtype=f32} : f32[4, 2] @ m0/cpu
        %1 = slice(%0) {start=[0, 0], stop=[2, 2], step=[1, 1]} : f32[2, 2] @ m0/cpu
        %2 = reshape(%1) {shape=[4]} : f32[4] @ m0/cpu
        %3 = exp(%2) : f32[4] @ m0/cpu
        %4 = input() {name="x", shape=[4, 2], dtype=f32} : f32[4, 2] @ m1/cpu
        %5 = slice(%4) {start=[0, 0], stop=[2, 2], step=[1, 1]} : f32[2, 2] @ m1/cpu
        %6 = reshape(%5) {shape=[4]} : f32[4] @ m1/cpu
        %7 = sin(%6) : f32[4] @ m1/cpu
        %8 = slice(%0) {start=[0, 0], stop=[1, 1], step=[1, 1]} : f32[1, 1] @ m0/cpu
        %9 = send(%8) {to="m1", reason="halo or part"} : f32[1, 1] @ m0/cpu
        %10 = recv(%9) : f32[1, 1] @ m1/cpu
        %11 = cos(%10) : f32[1, 1] @ m1/cpu
        output y = %3
        output z = %7
        output u = %11
        """,
        machines=2,
    )


def test_two_readers_on_two_machines_are_two_sends() -> None:
    graph = graph_of(
        """
        %0 = variable() {name="w", shape=[4], dtype=f32} : f32[4] @ m0/cpu
        %1 = sin(%0) : f32[4] @ m1/cpu
        %2 = cos(%0) : f32[4] @ m2/cpu
        output a = %1
        output b = %2
        """
    )
    got = insert_send_recv(graph, setting(3))
    assert sorted(n.attrs["to"] for n in got.nodes() if n.op.name == "send") == ["m1", "m2"]


def test_overlapping_slices_cross_as_disjoint_boxes() -> None:
    """0:6 and 4:8 of one value are wanted elsewhere: 0:6 and 6:8 go, the second slice is put together there."""
    graph = graph_of(
        """
        %0 = variable() {name="w", shape=[8], dtype=f32} : f32[8] @ m0/cpu
        %1 = slice(%0) {start=[0], stop=[6]} : f32[6] @ m0/cpu
        %2 = slice(%0) {start=[4], stop=[8]} : f32[4] @ m0/cpu
        %3 = exp(%1) : f32[6] @ m1/cpu
        %4 = exp(%2) : f32[4] @ m1/cpu
        output a = %3
        output b = %4
        """
    )
    got = insert_send_recv(graph, setting(2))
    boxes = [
        tuple(zip(n.inputs[0].attrs["start"], n.inputs[0].attrs["stop"], strict=True))
        for n in got.nodes()
        if n.op.name == "send"
    ]
    assert sum(map(box_size, boxes)) == 8 and not intersect(boxes[0], boxes[1])
    assert {n.type for n in got.outputs.values()} == {n.type for n in graph.outputs.values()}


def test_a_unit_of_another_machine_is_reached_through_both_hosts() -> None:
    check_pass(
        insert_send_recv,
        """
        %0 = variable() {name="w", shape=[4], dtype=f32} : f32[4] @ m0/cuda0
        %1 = exp(%0) : f32[4] @ m1/cuda0
        output y = %1
        """,
        """
        %0 = variable() {name="w", shape=[4], dtype=f32, init=init constant [0.0]} : f32[4] @ m0/cuda0
        %1 = copy(%0) : f32[4] @ m0/cpu
        %2 = send(%1) {to="m1", reason="weight"} : f32[4] @ m0/cpu
        %3 = recv(%2) : f32[4] @ m1/cpu
        %4 = copy(%3) : f32[4] @ m1/cuda0
        %5 = exp(%4) : f32[4] @ m1/cuda0
        %6 = copy(%5) : f32[4] @ m1/cpu
        output y = %6
        """,
        machines=2,
    )


@pytest.mark.parametrize("seed", range(2, 60, 6))
def test_the_contract_holds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAINSHED_CHECK", "1")
    graph = show(random_graph(seed).graph, setting(5).cluster, "insert_send_recv", strategy="features")
    for node in graph.nodes():
        if node.op.name == "send":
            assert node.device is not None and node.attrs["to"] != node.device.machine and node.attrs["reason"]
