"""Any graph on any cluster with any pins: a plan in which every pin holds and every memory suffices, or an error of ours."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from random_graphs import ALL_OPS, Sample, random_graph

from rainshed.compiler.load import plan_from_json
from rainshed.compiler.machines import NO_LINK, Cluster, Link, Machine
from rainshed.compiler.passes.split import value_names
from rainshed.compiler.pipeline import compile, show
from rainshed.compiler.plan import Plan, Run, to_json
from rainshed.compiler.simulate import memory_of
from rainshed.ops.errors import ClusterError, CompileError, ContractError, UsageError

GRAPHS, CHUNKS = 100, 4
MACHINES = 5  # the pins of random graphs name m0 to m4
CARRIED = {"slice", "assemble", "copy", "constant"}  # these stand where the value or its reader is


def random_cluster(rng: np.random.Generator) -> Cluster:
    """Of uneven machines: some with little memory, some pairs without a link, now and then one thing that is no number."""
    count = MACHINES if rng.random() < 0.9 else int(rng.integers(1, MACHINES))
    bad = rng.choice([0.0, -1.0, np.nan, np.inf]) if rng.random() < 0.05 else None
    machines = tuple(
        Machine(
            name=f"m{i}",
            cores=float(rng.choice([0.25, 1.0, 8.0])),
            flops=float(10 ** rng.uniform(-3, 15)) if bad is None or i else float(bad),
            bytes_per_s=float(10 ** rng.uniform(0, 13)),
            memory_bytes=int(10 ** rng.uniform(1, 5)) if rng.random() < 0.2 else 2**33,
            host="shared" if rng.random() < 0.2 else "",
        )
        for i in range(count)
    )
    pairs = [(f"m{i}", f"m{j}") for i in range(count) for j in range(i)]
    links = {
        p: Link(float(10 ** rng.uniform(0, 11)), float(10 ** rng.uniform(-7, 1))) for p in pairs if rng.random() < 0.3
    }
    apart = rng.random()
    links |= {p: NO_LINK for p in pairs if apart < 0.4 and rng.random() < 0.3}
    return Cluster(machines=machines, default_link=NO_LINK if 0.4 < apart < 0.5 else Link(), links=links)


def random_place(sample: Sample, rng: np.random.Generator) -> dict[str, str]:
    names = list(value_names(sample.graph).values())
    place = {}
    for _ in range(int(rng.integers(0, 4))):
        name = str(rng.choice(names)) if rng.random() < 0.5 else f"layer{rng.integers(0, 4)}"
        name = f"{name[:-1]}*" if rng.random() < 0.2 else name
        place[name] = f"m{rng.integers(0, MACHINES)}"
    return place


def check_kept(sample: Sample, plan: Plan, cluster: Cluster, place: dict[str, str]) -> None:
    """Pins, memory and links; the plan is one that loads."""
    plan_from_json(to_json(plan), ALL_OPS)
    graph = show(sample.graph, cluster, "merge_equal", place=place)
    pins = {name: node.origin.pin for node, name in value_names(graph).items() if node.origin.pin is not None}
    for program in plan.programs:
        assert memory_of(program) <= cluster.machine(program.machine).memory_bytes
        for variable in program.variables:
            assert pins.get(variable.name, program.machine) == program.machine, variable.name
        for run in program.instructions:
            if isinstance(run, Run) and run.op not in CARRIED:
                of = program.values[run.outputs[0]].of
                assert pins.get(of, program.machine) == program.machine, (of, run.op)
    assert all(cluster.linked(t.source, t.to) for t in plan.transfers)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_plan_that_holds_or_an_error(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAINSHED_CHECK", "1")
    seen: Counter[str] = Counter()
    for seed in range(chunk, GRAPHS, CHUNKS):
        rng = np.random.default_rng([seed, 7])
        sample = random_graph(seed)
        try:
            cluster, place = random_cluster(rng), random_place(sample, rng)
            plan = compile(sample.graph, cluster, strategy="auto" if seed % 20 == 0 else sample.strategy, place=place)
        except ContractError:
            raise
        except (ClusterError, CompileError, UsageError) as error:
            seen[error.message.partition(" ")[0]] += 1
            continue
        check_kept(sample, plan, cluster, place)
        seen["plans"] += 1
    print(dict(seen))
    assert seen["plans"] >= GRAPHS // CHUNKS // 5
