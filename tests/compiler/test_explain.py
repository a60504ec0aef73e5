"""explain: candidates, pieces and reasons of a small plan."""

import pytest
from msgspec.structs import replace

import rainshed as rs
from rainshed.compiler.explain import explain, over_steps
from rainshed.compiler.machines import Cluster, Link, Machine
from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import Plan
from rainshed.ops.errors import UsageError
from rainshed.ops.ir import Graph


@pytest.fixture(scope="module")
def plan() -> Plan:
    x = rs.input("x", (32, 64))
    h = rs.layers.dense(x, 256, activation=rs.relu)
    y = rs.layers.dense(h, 256)
    machines = tuple(Machine(name=f"m{i}", flops=1e9) for i in range(4))
    cluster = Cluster(machines=machines, default_link=Link(1e8, 1e-5))
    return compile(rs.graph(loss=rs.mean(rs.square(y)), outputs={"y": y}), cluster, strategy="features")


def test_the_chosen_layout_stands_among_the_cheapest(plan: Plan) -> None:
    found = explain(plan, "dense/matmul")
    (candidates,) = found.candidates.values()
    assert sum(c.chosen for c in candidates) == 1
    assert [c.total_s for c in candidates] == sorted(c.total_s for c in candidates)
    assert candidates[0].chosen and candidates[0].layout == "n in 4 on m0, m1, m2, m3"
    assert any(c.layout == "whole on m0" for c in explain(plan, "dense/w").candidates["dense/w"])
    assert [p.machine for p in found.values["dense/matmul"]] == ["m0", "m1", "m2", "m3"]


def test_a_partial_sum_is_called_one(plan: Plan) -> None:
    layouts = [c.layout for c in explain(plan, "dense/matmul").candidates["dense/matmul"]]
    assert any("k in 2 (partial sums)" in text for text in layouts)


def test_candidates_differ_in_words_or_figures() -> None:
    """3 parts of 32 rows may be uneven in three ways, of which each costs the same."""
    x, label = rs.input("x", (32, 200)), rs.input("label", (32,), "int32")
    y = rs.layers.dense(rs.layers.dense(x, 200, activation=rs.tanh), 10)
    graph = rs.graph(loss=rs.mean(rs.softmax_cross_entropy(y, label)), optimizer=rs.SGD(0.1))
    plan = compile(graph, Cluster.local(3, cores=1, memory_bytes=2**32))
    assert plan.candidates
    for name, candidates in plan.candidates.items():
        assert len({replace(one, chosen=False) for one in candidates}) == len(candidates), name
        assert sum(one.chosen for one in candidates) == 1
        assert sorted(c.total_s for c in candidates[:-1]) == [c.total_s for c in candidates[:-1]]


def test_every_transfer_has_a_reason_and_a_reader(plan: Plan) -> None:
    found = explain(plan, threshold=0)
    assert len(found.crossings) == len(plan.transfers) and not found.small
    assert all(c.reason and c.reader and not c.reader.startswith(("assemble", "slice")) for c in found.crossings)
    assert [c.nbytes for c in found.crossings] == sorted((t.nbytes for t in plan.transfers), reverse=True)


def test_the_threshold_hides_nothing_silently(plan: Plan) -> None:
    found = explain(plan, threshold=1 << 40)
    assert not found.crossings
    assert (found.small, found.small_nbytes) == (len(plan.transfers), plan.prediction.bytes)


def test_what_moves_much_in_small_parts_is_listed() -> None:
    """The states of a recurrent layer: none is a hundredth of the plan, all together are most of it."""
    x = rs.input("x", (8, 120, 16))
    h = rs.layers.lstm(x, 16, layers=2, return_sequences=True)
    machines = tuple(Machine(name=f"m{i}", flops=1e9) for i in range(2))
    pins = {"lstm/0": "m0", "lstm/1": "m1"}
    plan = compile(Graph({"y": h}), Cluster(machines=machines), strategy="one", place=pins)
    found = explain(plan)
    assert len(plan.transfers) >= 120 and all(t.nbytes < found.threshold for t in plan.transfers)
    assert len(found.crossings) >= 120 and found.small_nbytes < found.threshold
    assert {over_steps("lstm/0/t7/multiply.3"), over_steps("lstm/0/t8/multiply.3")} == {"lstm/*/t*/multiply.3"}


def test_what_goes_to_all_is_said(plan: Plan) -> None:
    """The hidden layer is cut by units; each machine's part of the next product reads all of it."""
    (relu,) = [g for g in explain(plan).gathered if g.of == "dense/relu"]
    assert relu.kind == "all-gather" and relu.machines == ("m0", "m1", "m2", "m3")


def test_layers_and_variables_have_names(plan: Plan) -> None:
    layer = explain(plan, "dense_1")
    assert "dense_1/matmul" in layer.values
    variable = explain(plan, "dense/w")
    assert {p.op for p in variable.values["dense/w"]} == {"variable"}
    assert variable.candidates["dense/w"][0].layout.startswith("b1 in 4")


def test_all_that_a_plan_names_is_explained(plan: Plan) -> None:
    """Inputs lie where they are read; an output is the value that it gives."""
    assert {p.op for p in explain(plan, "x").values["x"]} == {"input"}
    assert set(explain(plan, "y").values) == {"dense_1/add"}
    assert set(explain(plan, "grad/dense/w").values) == {"dense/matmul_tn'"}
    for program in plan.programs:
        for x in (*program.feeds, *program.variables, *program.outputs):
            assert explain(plan, x.name).values


def test_parts_of_uneven_machines_are_counted() -> None:
    """Three machines that are not alike, one part each."""
    machines = tuple(Machine(name=f"m{i}", flops=1e9 * (1 + i)) for i in range(3))
    y = rs.layers.dense(rs.input("x", (32, 64)), 240)
    cluster = Cluster(machines=machines, default_link=Link(1e9, 1e-6))
    plan = compile(rs.graph(outputs={"y": y}), cluster, strategy="features")
    found = explain(plan, "dense/matmul")
    (chosen,) = [c for c in found.candidates["dense/matmul"] if c.chosen]
    assert len(found.values["dense/matmul"]) == 3
    assert chosen.layout == "n in 3 uneven parts on m0, m1, m2"


def test_an_unknown_name_is_refused_with_those_that_are_near(plan: Plan) -> None:
    with pytest.raises(UsageError, match="matmull") as error:
        explain(plan, "matmull")
    assert "dense/matmul" in error.value.detail["known"]
