"""place: every node has a device; pins hold; what is cheap moves to where fewer bytes cross."""

import pytest
from compiler_kit import laid_out, sends, setting
from random_graphs import random_graph

from rainshed.compiler.layouts import Layout
from rainshed.compiler.machines import Cluster
from rainshed.compiler.passes.place import place
from rainshed.compiler.passes.split import split
from rainshed.compiler.pipeline import compile, show
from rainshed.ops import CATALOGUE as C
from rainshed.ops.errors import CompileError
from rainshed.ops.ir import Graph, on
from rainshed.ops.source import input, variable


def test_every_node_has_a_device_of_the_cluster() -> None:
    told = setting(3)
    graph = place(split(random_graph(5).graph, told), told)
    assert {n.device.machine for n in graph.nodes() if n.device} <= {"m0", "m1", "m2"}
    assert all(n.device is not None for n in graph.nodes())


@pytest.mark.parametrize("strategy", ["longest", "layers", "one", "batch"])
def test_pins_hold(strategy: str) -> None:
    x = input("x", (16, 16))
    with on("m2"):
        y = C["exp"](x @ variable("w", (16, 16)))
    z = C["tanh"](y + 1.0)
    graph = show(Graph({"z": z}), setting(4).cluster, "fuse", strategy=strategy)
    pinned = [n for n in graph.nodes() if n.op.name in ("exp", "matmul") or n.op.name == "variable"]
    assert pinned and {n.device.machine for n in pinned if n.device} == {"m2"}


def test_a_pin_to_no_machine_of_the_cluster_names_the_line() -> None:
    with on("gone"):
        y = C["exp"](input("x", (2,)))
    with pytest.raises(CompileError, match="'gone'") as caught:
        compile(Graph({"y": y}), Cluster.local(2))
    assert __file__ in str(caught.value)


def test_a_cheap_node_moves_to_where_fewer_bytes_cross() -> None:
    """A sum of large values at one machine, read at another: the sum is made before it crosses."""
    x = C["exp"](input("x", (32, 32)))
    middle = C["sum"](x, axis=0)
    y = C["sin"](middle)
    layouts = {middle: Layout((1, 1), (1,)), y: Layout((1,), (1,))}
    got = laid_out(Graph({"x": x, "y": y}), layouts, 2)
    assert [n.type.nbytes for n in sends(got)] == [32 * 4]
