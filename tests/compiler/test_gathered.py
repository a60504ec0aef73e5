"""What goes whole to every machine is called so, with who needs it and why; every large transfer has a reason and a reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from random_graphs import random_graph

import rainshed as rs
from rainshed.compiler.explain import explain, over_steps
from rainshed.compiler.machines import Cluster, Link, Machine
from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import Plan, Recv, Run
from rainshed.ops.ir import Graph

SLOW = Link(1e8, 1e-5)


def cluster(machines: int) -> Cluster:
    return Cluster(machines=tuple(Machine(name=f"m{i}", flops=1e9) for i in range(machines)), default_link=SLOW)


def dense(rows: int = 32) -> Graph:
    h = rs.layers.dense(rs.input("x", (rows, 64)), 128, activation=rs.relu)
    return rs.graph(loss=rs.mean(rs.square(rs.layers.dense(h, 64))), optimizer=rs.SGD(0.1))


def images() -> Graph:
    h = rs.layers.conv2d(rs.input("x", (8, 12, 12, 3)), 6, 3, padding="same", activation=rs.relu)
    h = rs.layers.local2d(h, 4, 3, padding="same", activation=rs.tanh)
    return rs.graph(loss=rs.mean(rs.square(rs.layers.dense(rs.layers.flatten(h), 10))))


def recurrent() -> Graph:
    states = rs.layers.lstm(rs.input("x", (4, 5, 12)), 16)
    return rs.graph(loss=rs.mean(rs.square(rs.layers.dense(states, 8))))


def check_listed(plan: Plan, threshold: int) -> None:
    """Nothing is missing that moves so many bytes, all its parts together, and nothing has no reason or no reader."""
    found = explain(plan, threshold=threshold)
    flows: Counter[tuple[str, str]] = Counter()
    for t in plan.transfers:
        flows[over_steps(t.of.partition("[")[0]), t.reason] += t.nbytes
    of_large = (t for t in plan.transfers if flows[over_steps(t.of.partition("[")[0]), t.reason] >= threshold)
    large = sorted((t.of, t.source, t.to, t.nbytes, t.reason) for t in of_large)
    assert sorted((c.of, c.source, c.to, c.nbytes, c.reason) for c in found.crossings) == large
    assert all(c.reason and c.reader for c in found.crossings)
    assert found.small_nbytes + sum(c.nbytes for c in found.crossings) == plan.prediction.bytes


def masks(plan: Plan) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, set[str]]]:
    """By the instructions alone: value -> machine -> which of its elements it has there in the end; and who received some.

    What is summed up further is not there yet: a tile that is sent as a partial sum, that is added to another of the same region
    or that overlaps what another machine made of the same value (of one op, no two tiles are computed twice).
    """
    reasons = {t.key: t.reason for t in plan.transfers}
    own: list[tuple[str, str, tuple[tuple[int, int], ...]]] = []
    came: list[tuple[str, str, tuple[tuple[int, int], ...]]] = []
    for program in plan.programs:
        values, sums = program.values, {}
        own += [(v.name, program.machine, v.box) for v in program.variables]
        for i in program.instructions:
            if isinstance(i, Recv) and reasons[i.key] != "partial sum":
                came.append((values[i.value].of, program.machine, values[i.value].box or ()))
            if isinstance(i, Run) and i.op not in ("slice", "assemble", "copy"):
                for v in i.outputs:
                    adds = any(values[x].of == values[v].of for x in i.inputs)
                    sums[v] = (
                        values[v].of,
                        program.machine,
                        values[v].box or tuple((0, n) for n in values[v].shape),
                        adds,
                    )
        added = {of for of, _, _, adds in sums.values() if adds}
        own += [(of, m, box) for of, m, box, adds in sums.values() if adds or of not in added]
    summed = {t.of.partition("[")[0] for t in plan.transfers if t.reason == "partial sum"}
    have: dict[str, dict[str, np.ndarray]] = {}
    receivers: dict[str, set[str]] = {}
    for of in {of for of, _, _ in came} - summed:
        boxes = [(m, box) for name, m, box in (*own, *came) if name == of]
        shape = tuple(max(box[d][1] for _, box in boxes) for d in range(len(boxes[0][1])))
        for m, box in boxes:
            mask = have.setdefault(of, {}).setdefault(m, np.zeros(shape, bool))
            mask[tuple(slice(*interval) for interval in box)] = True
        receivers[of] = {m for name, m, _ in came if name == of}
    return have, receivers


def check_gathered(plan: Plan) -> int:
    """Every value that all machines have whole is listed as that, and only those; values with partial sums apart."""
    have, receivers = masks(plan)
    working = {p.machine for p in plan.programs if p.instructions}
    found = {g.of: g for g in explain(plan).gathered}
    for of, by_machine in have.items():
        complete = {m for m, mask in by_machine.items() if mask.size and mask.all()}
        takers = complete & receivers[of]
        if complete == working or len(takers) > 1:
            kinds = ("all-gather", "broadcast") if complete == working else ("gather",)
            assert found[of].kind in kinds and set(found[of].machines) == takers, of
        else:
            assert of not in found, of
    for g in found.values():
        mine = [
            t
            for t in plan.transfers
            if t.of.partition("[")[0] == g.of and t.to in g.machines and t.reason != "partial sum"
        ]
        assert g.nbytes == sum(t.nbytes for t in mine) and set(g.sources) == {t.source for t in mine}
        assert g.reasons and g.readers
    return len(found)


@pytest.mark.parametrize("net", [dense, images, recurrent])
@pytest.mark.parametrize("strategy", ["features", "batch", "exact"])
def test_nets(net: Callable[[], Graph], strategy: str) -> None:
    plan = compile(net(), cluster(4), strategy=strategy)
    for threshold in (0, plan.prediction.bytes // 100, 1000):
        check_listed(plan, threshold)
    check_gathered(plan)


def test_random_graphs() -> None:
    found = 0
    for seed in range(50):
        sample = random_graph(seed)
        plan = compile(sample.graph, cluster(max(2, sample.machines)), strategy=sample.strategy)
        check_listed(plan, (0, 64)[seed % 2])
        found += check_gathered(plan)
    print(found, "values that several machines have whole")
    assert found > 15


def test_the_hidden_layer_of_a_net_cut_by_units_is_gathered() -> None:
    """Each machine has a part of the units, and the next product reads all of them: forward, and once for the weights."""
    plan = compile(dense(), cluster(4), strategy="features")
    (relu,) = [g for g in explain(plan).gathered if g.of == "dense/relu"]
    assert relu.kind == "all-gather" and relu.machines == relu.sources == plan.machines
    assert relu.nbytes == 3 * 32 * 128 * 4
    assert relu.reasons == ("activation",) and "matmul of dense_1" in relu.readers


def test_a_pinned_variable_that_all_read_is_a_broadcast() -> None:
    plan = compile(dense(256), cluster(3), strategy="even", place={"dense/b": "m1"})
    (b,) = [g for g in explain(plan, "dense/b").gathered if g.of == "dense/b"]
    assert (b.kind, b.sources, b.machines, b.nbytes) == ("broadcast", ("m1",), ("m0", "m2"), 2 * 128 * 4)


def test_one_reader_elsewhere_is_no_gather() -> None:
    """Of three machines that work, one gets all of a value: that is a transfer like others."""
    with rs.on("m0"):
        x = rs.exp(rs.variable("w", (8,)))
    with rs.on("m1"):
        y = rs.negative(x)
    with rs.on("m2"):
        z = rs.exp(rs.variable("v", (8,)))
    plan = compile(rs.graph(outputs={"y": y, "z": z}), cluster(3))
    assert not explain(plan).gathered and len(explain(plan, threshold=0).crossings) == 1
