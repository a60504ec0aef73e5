"""The networks of the DistBelief paper at their real size, trained on process machines of one computer.

    python -m benchmarks.paper_scale --net speech --machines 2 4 --method single --json
    python -m benchmarks.paper_scale --net images --machines 1 4 --steps 2

`speech` has 42 million parameters and is trained by Adagrad. `images` has 1.7 billion in locally connected layers and is trained by
SGD: about 7 GB of parameters, and as much again for their gradients. For each number of machines: the largest share of the
parameters that a process keeps, the most memory that each process has held, that before it loaded anything (Python and libraries),
and the time of a step. Data is random: this is about size, not accuracy. `--smoke` runs small networks of the same kinds.

Source  Dean et al. 2012, section 5
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import rainshed as rs

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.figure3_nets import NETWORKS, Images
from examples import speech


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
    graph = case.graph()
    chosen = rs.Downpour(replicas=1, servers=2) if method == "downpour" else rs.Single()
    options = rs.TrainingOptions(
        cluster=rs.Cluster.local(machines), method=chosen, optimizer=case.optimizer, batch=case.batch
    )
    with rs.Training(replace(graph, rule=None), random_data(graph, 2 * case.batch), options) as training:
        base = training.replica.peak_memory()
        first = training.run(1)
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
        "peak_nbytes": peak,
        "loaded_nbytes": base,
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
    if args.json:
        print(json.dumps({"net": args.net, "rows": rows}))
        return
    print("machines  largest share  most memory (of it before the plan ran)  memory of all  step  predicted")
    for row in rows:
        peak, base = max(row["peak_nbytes"].values()) / 1e6, max(row["loaded_nbytes"].values()) / 1e6
        total = sum(row["peak_nbytes"].values()) / 1e6
        print(
            f"{row['machines']:8}  {row['largest_share']:13.1%}  {peak:8.0f} MB ({base:.0f} MB)  {total:8.0f} MB"
            f"  {row['step_s']:.2f} s  {row['predicted_step_s']:.2f} s"
        )


if __name__ == "__main__":
    main()
