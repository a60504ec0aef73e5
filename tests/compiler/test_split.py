"""split: pieces that make the whole, gradients that lie as their variables do, nothing lost."""

import numpy as np
import pytest
from compiler_kit import laid_out, setting
from random_graphs import random_graph

from rainshed.compiler.layouts import Layout
from rainshed.compiler.partition.strategy import STRATEGIES
from rainshed.compiler.passes.differentiate import differentiate
from rainshed.compiler.passes.merge_equal import merge_equal
from rainshed.compiler.passes.simplify import simplify
from rainshed.compiler.passes.split import split
from rainshed.compiler.pipeline import compile
from rainshed.ops import CATALOGUE as C
from rainshed.ops.access import cover_fault
from rainshed.ops.evaluate import evaluate
from rainshed.ops.ir import Graph, Node, on
from rainshed.ops.reduce import mean
from rainshed.ops.source import input, variable


def pieces_of(graph: Graph, name: str) -> list[Node]:
    roots = {**graph.outputs, **graph.updates}
    return [node for key, node in roots.items() if key.rpartition("@")[0] == name]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("machines", [1, 2, 3, 5])
def test_the_pieces_make_the_whole(strategy: str, machines: int) -> None:
    x = input("x", (10, 12))
    y = C["tanh"](x @ variable("w", (12, 20)))
    graph = differentiate(Graph({"y": y, "loss": mean(y)}, loss="loss"), setting())
    graph = merge_equal(simplify(graph, setting()), setting())
    got = split(graph, setting(machines, strategy=strategy))
    for name, shape in (("y", (10, 20)), ("grad/w", (12, 20)), ("loss", ())):
        assert not cover_fault(shape, [n.origin.box or () for n in pieces_of(got, name)])
    assert all(0 <= n.origin.home < machines for n in got.nodes())
    variables = {(n.origin.box, n.origin.home) for n in got.kept}
    assert {(n.origin.box, n.origin.home) for n in pieces_of(got, "grad/w")} == variables


def test_a_tile_asks_for_its_region_only() -> None:
    """The right half of a shifted difference needs the right half of x and one element more."""
    x = C["exp"](input("x", (8,)))
    y = C["slice"](x, start=(1,), stop=(8,)) - C["slice"](x, start=(0,), stop=(7,))
    assert y.shape == (7,)
    layouts = {n: Layout((2,), (0, 1)) for n in (x, *y.inputs, y)}
    got = laid_out(Graph({"y": y, "x": x}), layouts, 2)
    values, _ = evaluate(got, {"x": np.arange(8, dtype=np.float32)})
    np.testing.assert_array_equal(
        np.concatenate([values["y@0"], values["y@1"]]), np.diff(np.exp(np.arange(8, dtype=np.float32)))
    )
    assert sum(n.tensor_type.size for n in got.nodes() if n.op.name == "send") == 1


def test_parts_of_a_variable_that_nobody_reads_are_kept() -> None:
    """A plan holds every part of a variable, as a server and a checkpoint expect; their gradients are zero."""
    w = variable("w", (8, 3))
    graph = Graph({"loss": mean(C["slice"](w, start=(0, 0), stop=(2, 3)))}, loss="loss")
    for strategy in STRATEGIES:
        plan = compile(graph, setting(4).cluster, strategy=strategy)
        for parts in ([v for p in plan.programs for v in p.variables], [o for p in plan.programs for o in p.outputs]):
            boxes = [part.box for part in parts if part.name in ("w", "grad/w")]
            assert not cover_fault((8, 3), boxes), strategy


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_variables_without_elements_are_there(shape: tuple[int, ...]) -> None:
    w = variable("w", shape)
    plan = compile(Graph({"y": C["sum"](w)}, {"w": w * 2.0}), setting(3).cluster, strategy="longest")
    assert [v.whole for p in plan.programs for v in p.variables] == [shape]


def test_a_gradient_that_is_a_constant_lies_where_its_variable_does() -> None:
    """The loss is linear, so the gradient is known when compiling; it is still one output per piece of the variable."""
    w = variable("w", (6,))
    graph = Graph({"loss": C["sum"](w)}, loss="loss")
    plan = compile(graph, setting(3).cluster, strategy="longest")
    for program in plan.programs:
        assert [v.box for v in program.variables] == [o.box for o in program.outputs if o.name == "grad/w"]


def test_a_variable_whose_size_alone_is_read_is_there() -> None:
    w = variable("w", (6,))
    graph = Graph({"n": C["axis_size"](w)}, {"w": C["broadcast_to"](C["axis_size"](w), shape=(6,))})
    plan = compile(graph, setting(2).cluster, strategy="longest")
    assert [v.name for p in plan.programs for v in p.variables] == ["w"] * sum(len(p.variables) for p in plan.programs)
    assert any(p.variables for p in plan.programs)


def test_a_pinned_node_is_not_cut() -> None:
    with on("m1"):
        y = C["exp"](input("x", (64,)))
    got = split(Graph({"y": y}), setting(4, strategy="longest"))
    assert [(n.origin.home, n.shape) for n in got.nodes() if n.op.name == "exp"] == [(1, (64,))]


def test_the_origin_is_kept() -> None:
    y = C["exp"](input("x", (64,)))
    for node in split(Graph({"y": y}), setting(4, strategy="longest")).nodes():
        assert node.origin.file == __file__ and node.origin.of


@pytest.mark.parametrize("seed", range(1, 60, 6))
def test_the_same_setting_gives_the_same_tiles(seed: int) -> None:
    graph = random_graph(seed).graph
    plans = [compile(graph, setting(5).cluster, strategy="space") for _ in range(2)]
    assert plans[0].hash == plans[1].hash
