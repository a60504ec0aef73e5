"""Strategies: the cheapest of all choices on small graphs, stages and slices of the batch, moves guided by the estimate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import rainshed as rs
from rainshed.compiler.layouts import Layout, pieces, tiles
from rainshed.compiler.machines import Cluster, Link, Machine
from rainshed.compiler.partition.estimate import estimate
from rainshed.compiler.partition.guide import guide
from rainshed.compiler.partition.microbatch import batch_axes, sliced
from rainshed.compiler.partition.search import Search
from rainshed.compiler.partition.spread import Spread
from rainshed.compiler.partition.strategy import NAMES, along_batch, in_space, on_one, rank, search_of
from rainshed.compiler.pipeline import SHARED, compile, run_passes
from rainshed.compiler.setting import Setting
from rainshed.ops.access import box_size
from rainshed.ops.ir import Graph


def cluster(machines: int, bytes_per_s: float = 1.25e8, flops: float = 20e9) -> Cluster:
    each = tuple(Machine(name=f"m{i}", flops=flops, memory_bytes=2**34) for i in range(machines))
    return Cluster(machines=each, default_link=Link(bytes_per_s, 1e-4))


def chain(batch: int, *units: int) -> Graph:
    h = rs.input("x", (batch, units[0]))
    for n in units[1:]:
        h = rs.layers.dense(h, n, bias=False, activation=rs.tanh)
    return rs.graph(loss=rs.mean(rs.square(h)))


def shared(graph: Graph, there: Cluster) -> tuple[Graph, Setting]:
    setting = Setting(cluster=there)
    return run_passes(graph, setting, SHARED), setting


@pytest.mark.parametrize(
    "graph",
    [
        Graph({"y": rs.matmul(rs.tanh(rs.variable("a", (64, 32))), rs.variable("b", (32, 96)))}),
        Graph({"y": rs.sum(rs.tanh(rs.matmul(rs.variable("a", (8, 512)), rs.variable("b", (512, 16)))), axis=0)}),
        Graph({"y": rs.layers.conv2d(rs.tanh(rs.variable("x", (2, 16, 16, 3))), 4, 3, bias=False)}),
        Graph({"y": rs.matmul(rs.tanh(rs.variable("x", (4, 4))), rs.exp(rs.variable("x2", (4, 4))))}),
    ],
)
@pytest.mark.parametrize("machines", [2, 3, 4])
def test_no_choice_of_layouts_is_cheaper(graph: Graph, machines: int) -> None:
    """Elimination against the cost of every choice of candidates: up to a million."""
    graph, setting = shared(graph, cluster(machines))
    search = Search(graph, setting.cluster)
    search.start(on_one)
    assert search.settle()
    settled = search.cost()
    options = [range(len(search.facts[n].kind.options)) for n in search.nodes]
    count = int(np.prod([len(o) for o in options]))
    assert 1 < count <= 1_000_000
    spent = [search.facts[n].spent for n in search.nodes]
    number = {n: i for i, n in enumerate(search.nodes)}
    pairs = [(number[a], number[b], seconds) for a, b, seconds in search.pairs()]
    total = np.zeros([len(o) for o in options])
    for i, own in enumerate(spent):
        total += own.reshape([-1 if k == i else 1 for k in range(len(options))])
    for i, j, seconds in pairs:
        first, second = (i, j) if i < j else (j, i)
        table = seconds if i < j else seconds.T
        sizes = {first: table.shape[0], second: table.shape[1]}
        total += table.reshape([sizes.get(k, 1) for k in range(len(options))])
    assert settled == pytest.approx(total.min(), rel=1e-9, abs=1e-15)


def test_machines_that_are_slow_to_reach_are_left_out() -> None:
    """With a fast network the work is shared; with a very slow one it stays on one machine."""
    graph = chain(256, 512, 512, 512)
    assert len({p.machine for p in compile(graph, cluster(4, 1e10, flops=2e9)).programs if p.instructions}) == 4
    alone = compile(graph, cluster(4, 1e4, flops=2e9))
    assert alone.prediction.bytes == 0


def test_slices_of_the_batch_pay_where_layers_lie_apart() -> None:
    """Equal layers, a large batch, a slow network: stages that work on slices beat stages that wait, and layers in parts."""
    graph, there = chain(512, *[384] * 9), cluster(4, 3e7)
    steps = {
        name: compile(graph, there, strategy=name).prediction.step_s for name in ("many stages", "pipeline", "features")
    }
    assert steps["pipeline"] < 0.8 * steps["many stages"]
    assert steps["pipeline"] < steps["features"]
    best = compile(graph, there)
    assert best.prediction.step_s <= steps["pipeline"]


def test_examples_are_followed_through_the_graph() -> None:
    """Forward and backward values have a batch axis; gradients of weights, which sum over examples, have none."""
    graph, _ = shared(chain(8, 4, 6, 5), cluster(2))
    axes = batch_axes(graph.nodes())
    for node in graph.nodes():
        if node.op.name.startswith("matmul"):
            weight = any(node is value for name, value in graph.outputs.items() if name.startswith("grad/"))
            assert (node in axes) == (not weight)
            if node in axes:
                assert node.access.axes[axes[node]].size == 8


@pytest.mark.parametrize("grid", [(1, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1)])
def test_slices_cover_the_same_tiles(grid: tuple[int, int, int]) -> None:
    node = rs.matmul(rs.input("x", (8, 6)), rs.variable("w", (6, 4)))
    homes = tuple(range(int(np.prod(grid))))
    layout = Layout(grid, homes)
    found = sliced(node.access, layout, 0, 4)
    assert sum(map(box_size, tiles(node.access, found))) == 8 * 6 * 4
    share = dict.fromkeys(homes, 0)
    for box, home in zip(tiles(node.access, found), found.homes, strict=True):
        share[home] += box_size(box)
    assert len(set(share.values())) == 1
    assert len(found.homes) == (len(homes) if grid[0] > 1 else 4 * len(homes))
    assert sum(box_size(p.box) for p in pieces(node.access, found, (8, 4))) == 32


@pytest.mark.parametrize("strategy", ["exact", "guided"])
def test_slots_lie_where_their_variables_do(strategy: str) -> None:
    """Their updates could as well be computed elsewhere, and the new values of the variables be sent."""
    h = rs.input("x", (4096, 128))
    for n in (128, 128, 10):
        h = rs.layers.dense(h, n, activation=rs.tanh)
    graph = rs.graph(loss=rs.mean(rs.square(h)), optimizer=rs.Adam(0.1))
    graph, setting = shared(graph, cluster(4, 1.25e9, flops=5e9))
    search = search_of(graph, replace(setting, strategy=strategy))
    lies = {n.name: search.facts[n].kind.options[search.chosen[n]].layout for n in graph.variables.values()}
    slots = {name: layout for name, layout in lies.items() if name.endswith(("/mean", "/power"))}
    assert len(slots) == 12
    assert slots == {name: lies[name.rpartition("/")[0]] for name in slots}


@pytest.mark.parametrize("machines", [3, 4])
def test_guided_moves_never_make_the_estimate_longer(machines: int) -> None:
    graph, setting = shared(chain(64, 300, 200, 400), cluster(machines))
    for start in (in_space, along_batch):
        search = Search(graph, setting.cluster)
        search.start(start)
        before = estimate(search)
        after = guide(search)
        assert after <= before
        assert after == estimate(search)
    assert estimate(search_of(graph, replace(setting, strategy="guided"))) <= min(rank(graph, setting).values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("machines", [1, 3])
def test_every_strategy_makes_a_plan_of_a_graph_with_all_kinds_of_layers(name: str, machines: int) -> None:
    h = rs.input("x", (4, 12, 12, 3))
    h = rs.layers.max_pool2d(rs.layers.conv2d(h, 4, 3, activation=rs.relu), 2)
    h = rs.layers.flatten(rs.layers.local2d(h, 3, 3, padding="same"))
    h = rs.layers.lstm(rs.reshape(rs.layers.dense(h, 24), (4, 3, 8)), 8)
    label = rs.input("label", (4,), "int32")
    graph = rs.graph(loss=rs.mean(rs.softmax_cross_entropy(rs.layers.dense(h, 5), label)), optimizer=rs.SGD(0.1))
    plan = compile(graph, cluster(machines), strategy=name)
    assert plan.notes["strategy"] == name
    assert len(plan.programs) == machines


def test_stages_are_groups_of_machines_that_share_no_layer() -> None:
    graph, setting = shared(chain(32, *[128] * 5), cluster(4))
    search = Search(graph, setting.cluster, Spread(stages=2))
    stages = [{0, 1}, {2, 3}]
    used: dict[str, list[set[int]]] = {}
    for node in search.nodes:
        if node.op.name == "matmul":
            several = [set(o.homes.tolist()) for o in search.facts[node].kind.options if len(o.homes) > 1]
            used.setdefault(search.layer[node], []).extend(several)
    assert len(used) == 4
    for homes in used.values():
        assert homes and any(all(h <= stage for h in homes) for stage in stages)
    assert {frozenset.union(*map(frozenset, homes)) for homes in used.values()} == {frozenset(s) for s in stages}
