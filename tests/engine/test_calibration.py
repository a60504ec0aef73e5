"""Calibration: lines through samples, rounds of pairs, and a cluster of two workers measured in a moment."""

from itertools import combinations

import pytest

import rainshed as rs
from rainshed.compiler.cluster_file import cluster_toml
from rainshed.compiler.load import check_plan
from rainshed.compiler.machines import WORKS, Cluster
from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import Plan, Run
from rainshed.engine.calibration import Sample, _rounds, calibrate, fit
from rainshed.engine.calibration_messages import exchange, measure_messages
from rainshed.engine.calibration_plan import alone, measured_plan
from rainshed.engine.calibration_sample import sample_graph
from rainshed.ops import CATALOGUE
from rainshed.runtime.cluster.job import Job, JobOptions


def samples(flops_per_s: float, bytes_per_s: float, overhead_s: float) -> list[Sample]:
    sizes = ((10, 40), (1000, 400), (5000, 100_000), (1e6, 2e6), (1e7, 1e5))
    return [Sample(f, b, overhead_s + f / flops_per_s + b / bytes_per_s) for f, b in sizes]


@pytest.mark.parametrize("truth", [(1e9, 1e9, 1e-5), (5e10, 1e8, 1e-6), (1e8, 1e15, 3e-4), (1e15, 2e9, 2e-6)])
def test_a_fit_finds_what_made_the_samples(truth):
    found = fit("product", samples(*truth))
    for sample in samples(*truth):
        seconds = found.overhead_s + sample.flops / found.flops_per_s + sample.nbytes / found.bytes_per_s
        assert seconds == pytest.approx(sample.seconds, rel=1e-3)


def test_no_part_of_a_fit_is_below_zero():
    """Larger and yet quicker: noise, of which no rate may be made."""
    found = fit("product", [Sample(10, 10, 2e-3), Sample(1e5, 1e5, 1e-3), Sample(2e5, 1e5, 1e-3)])
    assert found.overhead_s >= 0 and found.flops_per_s > 0 and found.bytes_per_s > 0


@pytest.mark.parametrize("count", [2, 3, 6, 7, 12])
def test_rounds_hold_every_pair_once_and_nobody_twice(count):
    rounds = _rounds(count)
    assert sorted(pair for r in rounds for pair in r) == sorted(combinations(range(count), 2))
    assert all(len({x for pair in r for x in pair}) == 2 * len(r) for r in rounds)
    assert len(rounds) <= max(16, count)


def test_the_sample_holds_every_kind_of_work_in_several_sizes():
    sizes: dict[str, set[int]] = {}
    for node in sample_graph().nodes():
        sizes.setdefault(node.op.work, set()).add(node.op.cost_of(node).nbytes)
    assert all(len(sizes[work]) > 2 for work in WORKS)


@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_values_that_are_passed_back_and_forth_make_a_plan_that_can_run(rounds):
    plan = exchange(1024, rounds)
    check_plan(plan, CATALOGUE)
    assert plan.prediction.messages == 2 * rounds


@pytest.mark.parametrize("backend", ["threads", "processes"])
def test_messages_take_time_of_cores_and_more_if_they_are_large(backend):
    with Job(2, JobOptions(backend=backend)) as job:
        found = measure_messages(job, job.agents, 1e8)
    assert 0 < found.message_s < 0.1
    assert 1e6 < found.bytes_per_s < 1e12


def test_two_workers_are_measured():
    with Job(2, JobOptions(backend="threads")) as job:
        cluster = calibrate(job, seconds=0.3, sample=sample_graph(sizes=3))
        plan = compile(sample_graph(sizes=1), cluster, strategy="batch")
        job.deploy(plan, job.agents).release()  # nothing is left of the measuring
    assert cluster.names == ("m0", "m1")
    first, second = cluster.machines
    assert first.host == second.host and 0.25 <= first.cores <= 1
    assert set(WORKS) <= {r.work for r in first.rates}
    assert all(r.work in WORKS or r.work in CATALOGUE for r in first.rates)
    assert cluster.default_link.bytes_per_s > 1e6
    assert Cluster.from_data(cluster.to_data()) == cluster
    assert "[[machine]]" in cluster_toml(cluster)
    assert plan.prediction.step_s > 0


def small_plan() -> Plan:
    h = rs.layers.dense(rs.input("x", (32, 64)), 64, activation=rs.relu)
    graph = rs.graph(loss=rs.mean(rs.square(h)), optimizer=rs.SGD(0.01))
    return compile(graph, Cluster.local(2, cores=1), strategy="features")


def test_each_machine_of_a_plan_can_run_alone_on_what_it_would_receive():
    plan = small_plan()
    assert plan.transfers
    for program in plan.programs:
        own = alone(plan, program)
        check_plan(own, CATALOGUE)
        assert [i.op for i in own.programs[0].instructions if isinstance(i, Run)] == [
            i.op for i in program.instructions if isinstance(i, Run)
        ]


def test_a_plan_is_predicted_with_its_own_kernels():
    """The same plan, but for what its kernels take: that is more than nothing, and what is sent stays as it was."""
    plan = small_plan()
    with Job(2, JobOptions(backend="threads")) as job:
        got = measured_plan(job, plan, job.agents, 0.05)
    times = [i.seconds for p in got.programs for i in p.instructions if isinstance(i, Run) and i.op != "constant"]
    assert min(times) > 0
    assert got.prediction.step_s >= max(m.compute_s for m in got.prediction.machines.values())
    assert (got.transfers, got.prediction.bytes) == (plan.transfers, plan.prediction.bytes)
    assert [p.values for p in got.programs] == [p.values for p in plan.programs]
