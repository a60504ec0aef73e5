"""Partition invariance over TCP: 50 of the random graphs, on processes that become the machines of one plan after another."""

from __future__ import annotations

import numpy as np
import pytest
from random_graphs import ALL_OPS, random_graph
from test_invariance import check_equal, reference

from rainshed.compiler.machines import Cluster
from rainshed.compiler.pipeline import compile
from rainshed.runtime.cluster.job import Job, JobOptions

GRAPHS, MACHINES = 50, 5


@pytest.mark.process
@pytest.mark.timeout(180)
def test_plans_between_processes_compute_the_same() -> None:
    crossing = 0
    with Job(MACHINES, JobOptions(backend="processes", ops=ALL_OPS)) as job:
        assert len(set(job.pids)) == MACHINES
        for seed in range(GRAPHS):
            sample = random_graph(seed)
            machines = 2 + seed % (MACHINES - 1)
            # Pins of the sample name machines that this cluster may not have: the generator pins to those of its own.
            machines = max(machines, sample.machines)
            plan = compile(sample.graph, Cluster.local(machines), seed=sample.seed, strategy=sample.strategy)
            values, spread = reference(sample)
            deployment = job.deploy(plan, job.agents[:machines])
            deployment.init(sample.seed)
            read = {feed.name for program in plan.programs for feed in program.feeds}
            got = deployment.run(sample.step, {name: sample.feeds[name] for name in read})
            planned = {pair: nbytes for pair, nbytes in plan.bytes_between.items() if nbytes}
            assert deployment.bytes_between() == planned, f"seed {seed}"
            after = deployment.variables()
            moved = {name.removeprefix("update ") for name in values if name.startswith("update ")}
            check_equal(
                sample, {**got, **{f"update {n}": after[n] for n in moved}}, values, spread, "between processes"
            )
            crossing += sum(planned.values()) > 0
            deployment.release()
    print(f"{GRAPHS} graphs, {crossing} of them with bytes between processes")
    assert crossing > GRAPHS // 2


def test_what_is_not_there_is_not_equal() -> None:
    """The comparison can fail: a value that is moved by more than roundings is found."""
    sample = random_graph(3)
    values, spread = reference(sample)
    name = next(n for n, v in values.items() if v.size and v.dtype.kind == "f")
    wrong = {**values, name: values[name] + np.asarray(0.1, values[name].dtype)}
    with pytest.raises(AssertionError):
        check_equal(sample, wrong, values, spread, "moved on purpose")
