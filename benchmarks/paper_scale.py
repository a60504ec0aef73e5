"""The networks of the DistBelief paper at their real size, trained on process machines of one computer.

    python -m benchmarks.paper_scale --net speech --machines 2 4 --method single --json
    python -m benchmarks.paper_scale --net images --machines 1 4 --steps 2

`speech` has 42 million parameters and is trained by Adagrad. `images` has 1.7 billion in locally connected layers and is trained
by SGD: 7 GB of parameters, whose gradients are never there as a whole. For each number of machines: the seconds to begin (to
compile the plan, start the processes, load it and make the first values) and of a step; for each process the most memory that it
has held, what a process holds that trains a small network of the same kind (Python, libraries, machine code), and what the plan
says: its memory, and the least that any order of its steps needs. A process that compiles machine code holds the compiler, too:
the second run, which finds it on disk, shows what a step needs. Data is random: this is about size, not accuracy. `--smoke` runs
the small networks.

Source  Dean et al. 2012, section 5
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import rainshed as rs

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.figure3_nets import NETWORKS, Images
from examples import speech

WARM_UP = 5  # steps before those that are measured: within them the loops of a long step are compiled


@dataclass(frozen=True, slots=True)
class Case:
    """A network of the paper: its graph with the batch bound, and an optimizer."""

    graph: Callable[[], rs.Graph]
    optimizer: rs.Optimizer
    batch: int


CASES: Mapping[str, Case] = {
    "speech": Case(speech.build, rs.Adagrad(0.01), 128),
    "images": Case(lambda: NETWORKS["images 1.7B"].graph(8), rs.SGD(0.01), 8),
}
SMOKE: Mapping[str, Case] = {
    "speech": Case(speech.small, rs.Adagrad(0.01), 16),
    "images": Case(lambda: Images(1, ((4, 4), (3, 1), (4, 4))).graph(2), rs.SGD(0.01), 2),
}


def random_data(graph: rs.Graph, examples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Numbers for every input: labels that are class numbers stay small enough for any network here."""
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for name, node in graph.inputs.items():
        shape = (examples, *node.shape[1:])
        if node.dtype.kind == "int":
            found[name] = rng.integers(0, 9, shape).astype(np.int32)
        else:
            found[name] = rng.random(shape, dtype=np.float32)
    return found


def measure(case: Case, machines: int, method: str, steps: int) -> dict[str, Any]:
    """One row: trains for some steps on so many processes (and two servers for Downpour)."""
    started = time.perf_counter()
    graph = case.graph()
    chosen = rs.Downpour(replicas=1, servers=2) if method == "downpour" else rs.Single()
    options = rs.TrainingOptions(
        cluster=rs.Cluster.local(machines), method=chosen, optimizer=case.optimizer, batch=case.batch
    )
    with rs.Training(replace(graph, rule=None), random_data(graph, 2 * case.batch), options) as training:
        begin_s = time.perf_counter() - started
        first = training.run(1)
        training.run(WARM_UP)
        result = training.run(steps)
        peak = training.replica.peak_memory()
        plan = training.plan
    kept = {p.machine: sum(p.values[v.value].nbytes for v in p.variables) for p in plan.programs}
    whole = sum(kept.values())
    return {
        "machines": machines,
        "method": method,
        "batch": case.batch,
        "parameters_nbytes": whole,
        "largest_share": max(kept.values()) / whole,
        "kept_nbytes": kept,
        "planned_nbytes": {name: m.memory_bytes for name, m in plan.prediction.machines.items()},
        "least_nbytes": {name: m.memory_lower_bound_bytes for name, m in plan.prediction.machines.items()},
        "peak_nbytes": peak,
        "begin_s": begin_s,
        "first_step_s": first.seconds,
        "step_s": result.seconds / steps,
        "predicted_step_s": plan.prediction.step_s,
        "bytes_per_step": plan.prediction.bytes,
        "loss": [first.loss, result.loss],
        "strategy": plan.notes.get("strategy"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=list(CASES), default="speech")
    parser.add_argument("--machines", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--method", choices=["single", "downpour"], default="single")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--smoke", action="store_true", help="a small network of the same kind")
    args = parser.parse_args()
    case = (SMOKE if args.smoke else CASES)[args.net]
    rows = [measure(case, m, args.method, args.steps) for m in args.machines]
    small = max((rows[0] if args.smoke else bare(SMOKE[args.net]))["peak_nbytes"].values())
    rows = [with_ratios(row, small) for row in rows]
    if args.json:
        print(json.dumps({"net": args.net, "rows": rows}))
        return
    print(
        "machines  largest share  most memory  of a small network  planned  least  measured / least  begin  step  predicted"
    )
    for row in rows:
        peak, planned, least = (
            max(row[key].values()) / 1e6 for key in ("peak_nbytes", "planned_nbytes", "least_nbytes")
        )
        print(
            f"{row['machines']:8}  {row['largest_share']:13.1%}  {peak:8.0f} MB  {small / 1e6:15.0f} MB"
            f"  {planned:.0f} MB  {least:.0f} MB  {max(row['ratio'].values()):.3f}"
            f"  {row['begin_s']:.1f} s  {row['step_s']:.2f} s  {row['predicted_step_s']:.2f} s"
        )


def bare(case: Case) -> dict[str, Any]:
    """The row of a small network, whose machine code is on disk already: a process that compiles holds the compiler as well."""
    measure(case, 1, "single", 1)
    return measure(case, 1, "single", 1)


def with_ratios(row: dict[str, Any], small: int) -> dict[str, Any]:
    """The row, and for each machine its process's memory beyond that of a small network, over the least that the plan needs."""
    ratio = {name: (peak - small) / max(1, row["least_nbytes"][name]) for name, peak in row["peak_nbytes"].items()}
    return {**row, "small_nbytes": small, "ratio": ratio}


if __name__ == "__main__":
    main()
