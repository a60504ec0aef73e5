"""Pins by rs.on and by place=: they hold, or the error says which two cannot hold together."""

from __future__ import annotations

import pytest
from compiler_kit import cluster
from random_ops import TWINS

import rainshed as rs
from rainshed.compiler.passes.split import value_names
from rainshed.compiler.pipeline import compile, show
from rainshed.compiler.plan import Plan, Run
from rainshed.ops.errors import CompileError, GraphError, UsageError
from rainshed.ops.ir import Graph


def net() -> Graph:
    x = rs.input("x", (32, 64))
    h = rs.layers.dense(x, 128, activation=rs.relu)
    h = rs.layers.dense(h, 128, activation=rs.relu)
    return rs.graph(loss=rs.mean(rs.square(rs.layers.dense(h, 10))), outputs={"hidden": h}, optimizer=rs.Momentum(0.1))


def machines_of(plan: Plan, layer: str) -> set[str]:
    """Where the layer computes and keeps its variables, forward and backward."""
    found = {p.machine for p in plan.programs for v in p.variables if v.name.startswith(f"{layer}/")}
    for p in plan.programs:
        runs = [i for i in p.instructions if isinstance(i, Run) and i.op not in ("slice", "assemble", "constant")]
        found |= {p.machine for i in runs if i.scope == layer}
    return found


def pins(place: dict[str, str]) -> dict[str, str | None]:
    names = value_names(show(net(), cluster(4), "merge_equal", place=place))
    return {name: n.origin.pin for n, name in names.items() if n.op.name not in ("input", "constant", "step")}


@pytest.mark.parametrize("strategy", ["auto", "features", "even", "layers"])
def test_a_layer_is_where_it_is_placed(strategy: str) -> None:
    plan = compile(net(), cluster(4), strategy=strategy, place={"dense_1": "m2"})
    assert machines_of(plan, "dense_1") == {"m2"}
    slots = {(v.name, p.machine) for p in plan.programs for v in p.variables if v.name.startswith("dense_1/")}
    assert slots == {(f"dense_1/{name}", "m2") for name in ("w", "b", "w/velocity", "b/velocity")}


def test_names_of_values_variables_and_outputs() -> None:
    assert pins({"dense_1/matmul": "m1"})["dense_1/matmul"] == "m1"
    found = pins({"dense_1/w": "m1"})
    assert found["dense_1/w"] == found["dense_1/w/velocity"] == "m1" and found["dense_1/matmul"] is None
    assert pins({"hidden": "m3"})["dense_1/relu"] == "m3"


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [("dense_?", {"dense_1", "dense_2"}), ("*/w", {"dense", "dense_1", "dense_2"}), ("den*_[2]", {"dense_2"})],
)
def test_patterns(pattern: str, layers: set[str]) -> None:
    found = pins({pattern: "m1"})
    assert {name.split("/")[0] for name, pin in found.items() if pin == "m1" and "dense" in name} == layers


def test_a_gradient_is_where_its_layer_is() -> None:
    found = pins({"dense": "m1"})
    assert {pin for name, pin in found.items() if name.startswith("dense/")} == {"m1"}
    assert any(name.endswith("'") for name in found if name.startswith("dense/"))


@pytest.mark.parametrize(
    ("name", "near"), [("dens", "dense"), ("dense_1/v", "dense_1/w"), ("DENSE_2*", "dense_2"), ("zzz", "dense")]
)
def test_an_unknown_name_is_refused_with_those_that_are_near(name: str, near: str) -> None:
    with pytest.raises(UsageError, match="no layer, variable or value") as caught:
        compile(net(), cluster(2), place={name: "m0"})
    assert near in caught.value.detail["known"].split(", ")


@pytest.mark.parametrize("place", [{"dense": 3}, {4: "m0"}])
def test_names_and_machines_are_texts(place: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="as texts"):
        compile(net(), cluster(2), place=place)


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(CompileError, match="dense/w is pinned to 'm7'") as caught:
        compile(net(), cluster(2), place={"dense": "m7"})
    assert caught.value.detail["machines"] == "m0, m1" and caught.value.detail["pinned by"] == "place 'dense'"


def test_two_names_that_contradict_each_other() -> None:
    with pytest.raises(CompileError, match="dense/w cannot be on two machines: m0 and m1") as caught:
        compile(net(), cluster(2), place={"dense": "m0", "*/w": "m1"})
    assert caught.value.detail["on m0"] == "place 'dense'" and caught.value.detail["on m1"] == "place '*/w'"
    compile(net(), cluster(2), place={"dense": "m0", "dense/w": "m0"})


def test_place_against_on() -> None:
    with rs.on("m0"):
        y = rs.exp(rs.variable("w", (4,)))
    with pytest.raises(CompileError, match="w cannot be on two machines") as caught:
        compile(Graph({"y": y}), cluster(2), place={"w": "m1"})
    assert caught.value.detail["on m0"] == "rs.on" and __file__ in caught.value.detail["built at"]


def test_on_within_on() -> None:
    with rs.on("m0"), rs.on("m0"):
        assert rs.exp(rs.constant(1.0)).origin.pin == "m0"
    with rs.on("m0"):
        with pytest.raises(GraphError, match=r"'m1'.*inside of on\('m0'\)") as caught, rs.on("m1"):
            pass
        assert __file__ in caught.value.detail["built at"]
        assert rs.exp(rs.constant(1.0)).origin.pin == "m0"
    with pytest.raises(GraphError, match="named by a text"), rs.on(3):  # type: ignore[arg-type]
        pass


def test_the_results_of_one_op_are_where_it_is() -> None:
    """A tuple does not travel: a pin of one result is a pin of its op, and of the op's other results."""
    both = TWINS(rs.variable("w", (6,)))
    with rs.on("m1"):
        one = rs.pick(both, 0)
    plan = compile(Graph({"one": one, "other": rs.pick(both, 1) * 2.0}), cluster(3))
    assert [
        p.machine for p in plan.programs if any(isinstance(i, Run) and i.op == "twins" for i in p.instructions)
    ] == ["m1"]
    with rs.on("m2"):
        other = rs.pick(both, 1)
    with pytest.raises(CompileError, match=r"(twins|pick\S*) cannot be on two machines"):
        compile(Graph({"one": one, "other": other}), cluster(3))


def test_what_every_machine_has_cannot_be_pinned() -> None:
    with pytest.raises(CompileError, match="x is at every machine that reads it"):
        compile(net(), cluster(2), place={"x": "m0"})


def test_an_update_may_be_computed_elsewhere() -> None:
    """The variable's pin says where it is kept; the other where its new value is computed, from where it is sent."""
    with rs.on("m0"):
        w = rs.variable("w", (8,), init=2.0, trainable=False)
    with rs.on("m1"):
        new = w * 0.5
    plan = compile(rs.graph(updates={"w": new}), cluster(2))
    assert [v.name for v in plan.program("m0").variables] == ["w"] and not plan.program("m1").variables
    assert any(isinstance(i, Run) for i in plan.program("m1").instructions)
    assert {(t.source, t.to) for t in plan.transfers} == {("m0", "m1"), ("m1", "m0")}
