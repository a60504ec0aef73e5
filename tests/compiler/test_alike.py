"""alike: what is answered once for many nodes is what each of them would have been told."""

import numpy as np
import pytest
from compiler_kit import cluster, graph_of

from rainshed.compiler.alike import FEW, Maker, Pieces
from rainshed.compiler.cost import Clock, seconds
from rainshed.compiler.layouts import Placed
from rainshed.compiler.passes.merge_equal import merge_equal
from rainshed.compiler.setting import Setting
from rainshed.ops import CATALOGUE as C
from rainshed.ops.access import Box, intersect, within
from rainshed.ops.errors import ShapeError
from rainshed.ops.fused import fused, kernel_of
from rainshed.ops.ir import Device, Graph, Origin, numbered, users
from rainshed.ops.source import input


@pytest.mark.parametrize("side", [2, 5])
def test_touched_pieces_are_those_that_intersect(side: int) -> None:
    placed = tuple(
        Placed(((3 * i, 3 * i + 3), (2 * j, 2 * j + 2)), i, (i * side + j,)) for i in range(side) for j in range(side)
    )
    assert (len(placed) > FEW) == (side == 5), "both ways of looking are tried"
    pieces, rng = Pieces(placed), np.random.default_rng(0)
    for _ in range(50):
        low = rng.integers(0, 2 * side, 2)
        high = low + rng.integers(0, 5, 2)
        region: Box = tuple((int(a), int(b)) for a, b in zip(low, high, strict=True))
        expected = [
            (i, within(common, p.box), within(common, region))
            for i, p in enumerate(placed)
            if (common := intersect(p.box, region)) is not None
        ]
        assert [(t.piece, t.inner, t.place) for t in pieces.touched(region)] == expected


def test_the_first_of_its_kind_is_checked_and_the_others_are_like_it() -> None:
    make, slice_op = Maker(), C["slice"]
    x, y, z = input("x", (4, 6)), input("y", (4, 6)), input("z", (2, 6))
    attrs = {"start": (0, 0), "stop": (3, 6)}
    first, second = make(slice_op, (x,), attrs, Origin()), make(slice_op, (y,), attrs, Origin(home=1))
    assert second.inputs == (y,) and second.origin.home == 1
    assert second.known is first.known and (second.type, second.attrs) == (first.type, first.attrs)
    with pytest.raises(ShapeError):
        make(slice_op, (z,), attrs, Origin())


def test_equal_kinds_share_what_is_known_of_them() -> None:
    x, y = input("x", (4, 6)), input("y", (4, 6))
    a, b, c = C["tanh"](x), C["tanh"](y), C["exp"](y)
    graph = merge_equal(Graph({"a": a, "b": b, "c": c}), Setting(cluster=cluster(1)))
    known = [graph.outputs[name].known for name in "abc"]
    assert known[0] is known[1] and known[0] is not known[2]


def test_zeros_of_both_signs_are_two_constants() -> None:
    x = input("x", (3,))
    zeros = [C["pad"](x, widths=((1, 1),), value=value) for value in (0.0, -0.0)]
    graph = merge_equal(Graph({"a": zeros[0], "b": zeros[1]}), Setting(cluster=cluster(1)))
    assert graph.outputs["a"] is not graph.outputs["b"]


def test_a_kernel_of_checked_nodes_is_the_one_that_its_text_makes() -> None:
    graph = graph_of(
        """
        %0 = input() {name="x0", shape=[4, 6], dtype=f32} : f32[4, 6]
        %1 = input() {name="x1", shape=[6], dtype=f32} : f32[6]
        %2 = multiply(%0, %1) : f32[4, 6]
        %3 = tanh(%2) : f32[4, 6]
        output y = %3
        """
    )
    inputs = (input("a", (4, 6)), input("b", (6,)))
    quick = kernel_of(graph, inputs)
    slow = fused.make(inputs, quick.attrs)
    assert quick.type == slow.type and quick.attrs == slow.attrs
    assert fused.cost_of(quick) == fused.cost_of(slow)


def test_a_clock_tells_what_the_function_tells() -> None:
    told = cluster(2)
    clock, x = Clock(told), input("x", (64, 64))
    for node in (x @ x, C["tanh"](x), C["tanh"](input("y", (8,))), x):
        for machine in told.names:
            assert clock.seconds(node, Device(machine)) == seconds(node, told, Device(machine))


def test_numbers_stand_for_nodes() -> None:
    x = input("x", (3,))
    graph = Graph({"y": C["add"](C["multiply"](x, x), x)})
    nodes = graph.nodes()
    reads, readers = numbered(nodes)
    assert [[nodes[i] for i in values] for values in reads] == [list(dict.fromkeys(n.inputs)) for n in nodes]
    assert [[nodes[i] for i in found] for found in readers] == [users(nodes)[n] for n in nodes]
