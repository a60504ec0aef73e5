"""Clusters in which some machines have no link: plans use machines that are all linked, or the error names those that are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rainshed as rs
from rainshed.compiler.cluster_file import cluster_toml
from rainshed.compiler.explain import explain
from rainshed.compiler.load import plan_from_json
from rainshed.compiler.machines import NO_LINK, Cluster, Link, Machine
from rainshed.compiler.pipeline import compile, show
from rainshed.compiler.plan import Plan, cluster_of, to_json
from rainshed.compiler.reach import parts_of
from rainshed.ops import CATALOGUE
from rainshed.ops.errors import ClusterError, CompileError, PlanError
from rainshed.ops.ir import Graph
from rainshed.runtime.cluster.local import LocalCluster

FAST = Link(1e9, 1e-6)


def apart(count: int, *pairs: tuple[int, int], **flops: float) -> Cluster:
    """Machines with links between these pairs only."""
    machines = tuple(Machine(name=f"m{i}", flops=flops.get(f"m{i}", 1e8)) for i in range(count))
    return Cluster(machines=machines, default_link=NO_LINK, links={(f"m{a}", f"m{b}"): FAST for a, b in pairs})


def net() -> Graph:
    h = rs.layers.dense(rs.input("x", (16, 32)), 64, activation=rs.relu)
    return rs.graph(outputs={"y": rs.layers.dense(h, 8)})


def working(plan: Plan) -> set[str]:
    return {p.machine for p in plan.programs if p.instructions}


def test_parts_are_the_networks_the_fastest_first() -> None:
    cluster = apart(5, (0, 1), (2, 3), (3, 4), (2, 4))
    assert [p.names for p in parts_of(cluster, net())] == [("m2", "m3", "m4"), ("m0", "m1")]
    faster = apart(4, (0, 1), (2, 3), m1=9e8)
    assert [p.names for p in parts_of(faster, net())] == [("m0", "m1"), ("m2", "m3")]
    star = apart(4, (0, 1), (0, 2), (0, 3), m3=2e8)
    assert [p.names for p in parts_of(star, net())] == [("m0", "m3"), ("m0", "m1"), ("m0", "m2")]


def test_a_plan_uses_one_network_and_tells_so() -> None:
    plan = compile(net(), apart(4, (0, 1), (2, 3), m2=4e8), strategy="even")
    assert working(plan) == {"m2", "m3"} and plan.transfers
    assert plan.machines == ("m0", "m1", "m2", "m3") == tuple(plan.prediction.machines)
    assert plan.notes["machines used"] == "m2, m3"
    assert plan.notes["machines not used"].startswith(
        "m0 (no link to m2, m3), m1 (no link to m2, m3): values go straight"
    )
    assert cluster_of(plan) == apart(4, (0, 1), (2, 3), m2=4e8)
    assert plan_from_json(to_json(plan), CATALOGUE) == plan
    assert {n.device.machine for n in show(net(), apart(2), "place").nodes() if n.device} == {"m0"}


@pytest.mark.parametrize(
    ("links", "used", "left"),
    [
        (((0, 1), (0, 2), (0, 3)), "m0, m1", "m2 (no link to m1), m3 (no link to m1): "),
        (((0, 1), (1, 2), (2, 3)), "m0, m1", "m2 (no link to m0), m3 (no link to m0, m1): "),
        (((0, 1), (1, 2), (0, 2), (2, 3)), "m0, m1, m2", "m3 (no link to m0, m1): "),
    ],
)
def test_of_a_star_and_of_a_chain_those_that_are_all_linked_are_used(
    links: tuple[tuple[int, int], ...], used: str, left: str
) -> None:
    """The notes, which `rainshed compile`, `explain` and the page print, name the others and the links that they would need."""
    plan = compile(net(), apart(4, *links), strategy="even")
    assert working(plan) == set(used.split(", "))
    notes = explain(plan).notes
    assert notes["machines used"] == used
    assert notes["machines not used"] == left + (
        "values go straight to their readers, so that all machines of a plan have to be linked"
    )


def test_links_that_are_named_one_by_one_may_be_all() -> None:
    cluster = apart(3, (0, 1), (1, 2), (0, 2))
    plan = compile(net(), cluster)
    assert cluster_of(plan) == cluster and "machines used" not in plan.notes
    assert plan.prediction == compile(net(), Cluster(machines=cluster.machines, default_link=FAST)).prediction


def test_it_runs() -> None:
    plan = compile(net(), apart(4, (0, 1), (2, 3), m2=4e8), strategy="even")
    x = np.random.default_rng(3).normal(size=(16, 32)).astype(np.float32)
    with LocalCluster(plan, ops=CATALOGUE) as cluster:
        cluster.init(5)
        got = cluster.run({"x": x})["y"]
        wanted = rs.evaluate(net(), {"x": x}, variables=cluster.variables())["y"]
    assert abs(got - wanted).max() < 1e-5


def test_pins_choose_the_network() -> None:
    cluster = apart(4, (0, 1), (2, 3), m0=9e8)
    assert working(compile(net(), cluster, place={"dense/b": "m3"})) <= {"m2", "m3"}


def test_pins_on_machines_without_a_link() -> None:
    with pytest.raises(CompileError, match="on m1 and m2, which have no link") as caught:
        compile(net(), apart(4, (0, 1), (2, 3)), place={"dense": "m1", "dense_1": "m2"})
    assert caught.value.detail["on m1"] == "dense/w" and caught.value.detail["needed"].startswith(
        "a link between m1 and m2"
    )


def test_no_network_has_the_memory() -> None:
    small = tuple(Machine(name=f"m{i}", memory_bytes=9000) for i in range(3))
    cluster = Cluster(machines=small, links={("m0", "m1"): NO_LINK})
    with pytest.raises(CompileError, match="no machines that are all linked have the memory") as caught:
        compile(net(), cluster)
    assert "all machines together have 18000" not in str(caught.value) or "on m0, m2" in caught.value.detail
    assert caught.value.detail["no link"] == "m0 - m1"


def test_a_file_says_that_there_is_no_link(tmp_path: Path) -> None:
    cluster = apart(3, (0, 2))
    path = tmp_path / "cluster.toml"
    path.write_text(cluster_toml(cluster))
    assert "bytes_per_s = 0" in path.read_text()
    assert Cluster.from_toml(path) == cluster
    assert [cluster.linked(a, b) for a, b in (("m0", "m2"), ("m2", "m0"), ("m0", "m1"), ("m1", "m1"))] == [
        True,
        True,
        False,
        True,
    ]


def test_a_link_named_one_way_is_one_both_ways() -> None:
    machines = (Machine(name="a"), Machine(name="b"))
    got = Cluster(machines=machines, links={("b", "a"): FAST})
    assert got.link("a", "b") == FAST and Cluster.from_data(got.to_data()) == got
    with pytest.raises(ClusterError, match="one way only"):
        Cluster(machines=machines, links={("a", "b"): FAST, ("b", "a"): NO_LINK})


def test_a_plan_that_uses_a_link_that_is_not_there_is_refused() -> None:
    plan = compile(net(), apart(2, (0, 1)), strategy="even")
    data = to_json(plan).replace(b'"between":[{"bytes_per_s":1000000000.0', b'"between":[{"bytes_per_s":0.0')
    with pytest.raises(PlanError, match=r"no link from m\d to m\d"):
        plan_from_json(data, CATALOGUE)
