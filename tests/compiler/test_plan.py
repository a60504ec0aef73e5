"""Plans as data: JSON that comes back, sums over transfers, a name for the whole."""

from dataclasses import FrozenInstanceError
from functools import cache

import pytest
from compiler_kit import cluster
from random_graphs import ALL_OPS, random_graph

from rainshed.compiler.load import plan_from_json
from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import VERSION, Plan, Recv, Send, cluster_of, to_json
from rainshed.ops.errors import PlanError


@cache  # a plan never changes
def a_plan(seed: int = 140, machines: int = 3) -> Plan:
    return compile(random_graph(seed).graph, cluster(machines), strategy="features")


@pytest.mark.parametrize("seed", range(0, 60, 5))
def test_json_comes_back(seed: int) -> None:
    plan = a_plan(seed, 5)
    again = plan_from_json(to_json(plan), ALL_OPS)
    assert again == plan and to_json(again) == to_json(plan) and again.hash == plan.hash
    assert again.version == VERSION and cluster_of(again) == cluster(5)


def test_another_plan_has_another_hash() -> None:
    assert len({a_plan(seed).hash for seed in (1, 2, 3)}) == 3


def test_bytes_between_are_the_transfers() -> None:
    plan = a_plan()
    assert plan.transfers and sum(plan.bytes_between.values()) == plan.prediction.bytes
    for (source, to), nbytes in plan.bytes_between.items():
        assert nbytes == sum(t.nbytes for t in plan.transfers if (t.source, t.to) == (source, to))
    for name, predicted in plan.prediction.machines.items():
        assert predicted.bytes_out == sum(n for (source, _), n in plan.bytes_between.items() if source == name)


def test_every_transfer_is_sent_and_received_once() -> None:
    plan = a_plan()
    sent = [i.key for p in plan.programs for i in p.instructions if isinstance(i, Send)]
    received = [i.key for p in plan.programs for i in p.instructions if isinstance(i, Recv)]
    assert sorted(sent) == sorted(received) == [t.key for t in plan.transfers]


def test_a_machine_is_asked_for_by_name() -> None:
    plan = a_plan()
    assert plan.program("m1").machine == "m1" and plan.machines == ("m0", "m1", "m2")
    with pytest.raises(PlanError, match="no machine 'm9'"):
        plan.program("m9")


def test_a_plan_never_changes() -> None:
    with pytest.raises((AttributeError, FrozenInstanceError)):
        a_plan().seed = 5  # type: ignore[misc]
