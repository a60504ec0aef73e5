"""Partition invariance over TCP: 40 plans of random graphs, on processes that become the machines of one plan after another."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from random_graphs import ALL_OPS, random_graph
from test_invariance import any_plan, check_equal, check_wires, reference

from rainshed.runtime.cluster.job import Job, JobOptions

GRAPHS, MACHINES = 40, 5


@pytest.mark.process
@pytest.mark.timeout(180)
def test_plans_between_processes_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only plans that exchange something are run; in many of them the backward pass does, too."""
    monkeypatch.setenv("RAINSHED_KERNELS", "numpy")  # as in test_invariance.py; processes that are started inherit it
    run = backward = 0
    with Job(MACHINES, JobOptions(backend="processes", ops=ALL_OPS)) as job:
        assert len(set(job.pids)) == MACHINES
        for seed in itertools.count():
            sample = random_graph(seed)
            plan = any_plan(sample)
            if not plan.transfers:
                continue
            values, spread = reference(sample)
            deployment = job.deploy(plan, job.agents[: len(plan.machines)])
            deployment.init(sample.seed)
            read = {feed.name for program in plan.programs for feed in program.feeds}
            got = deployment.run(sample.step, {name: sample.feeds[name] for name in read})
            check_wires(plan, deployment.bytes_between(), deployment.arrived(), f"seed {seed}")
            after = deployment.variables()
            moved = {name.removeprefix("update ") for name in values if name.startswith("update ")}
            check_equal(
                sample, {**got, **{f"update {n}": after[n] for n in moved}}, values, spread, "between processes"
            )
            deployment.release()
            run += 1
            backward += any("'" in t.of for t in plan.transfers)  # values of the backward pass have it in their names
            if run == GRAPHS:
                break
    print(f"{run} graphs of seeds 0 to {seed}, {backward} of them with bytes between processes in the backward pass")
    assert backward > GRAPHS // 3


def test_what_is_not_there_is_not_equal() -> None:
    """The comparison can fail: a value that is moved by more than roundings is found."""
    sample = next(s for s in map(random_graph, itertools.count()) if s.graph.loss is not None)
    values, spread = reference(sample)
    name = "loss"
    wrong = {**values, name: values[name] + np.asarray(0.1, values[name].dtype)}
    with pytest.raises(AssertionError):
        check_equal(sample, wrong, values, spread, "moved on purpose")
