"""The paper's speech network (42 million parameters) trained on process machines, with nobody holding it whole.

    python -m benchmarks.paper_speech --machines 2 4 --method single --json

For each number of machines: the largest share of the parameters that a process keeps, the most memory that a process has held, its
memory before it loaded anything (Python and libraries), and the time of a step. Data is random: this is about size, not accuracy.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import rainshed as rs

sys.path.insert(0, str(Path(__file__).parents[1]))
from examples.speech import build

BATCH, EXAMPLES = 128, 256


def data(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    window = rng.standard_normal((EXAMPLES, 11, 40)).astype(np.float32)
    return {"window": window, "label": rng.integers(0, 8192, EXAMPLES).astype(np.int32)}


def measure(machines: int, method: str, steps: int) -> dict[str, Any]:
    """One row: trains for some steps on so many processes (and two servers for Downpour)."""
    chosen = rs.Downpour(replicas=1, servers=2) if method == "downpour" else rs.Single()
    options = rs.TrainingOptions(cluster=rs.Cluster.local(machines), method=chosen, optimizer=rs.SGD(0.1), batch=BATCH)
    with rs.Training(build(), data(), options) as training:
        base = training.replica.peak_memory()
        first = training.run(1)
        result = training.run(steps)
        peak = training.replica.peak_memory()
        kept = {p.machine: sum(_nbytes(v, p) for v in p.variables) for p in training.plan.programs}
    whole = sum(kept.values())
    return {
        "machines": machines,
        "method": method,
        "parameters_nbytes": whole,
        "largest_share": max(kept.values()) / whole,
        "kept_nbytes": kept,
        "peak_nbytes": peak,
        "loaded_nbytes": base,
        "step_s": result.seconds / steps,
        "predicted_step_s": training.plan.prediction.step_s,
        "bytes_per_step": training.plan.prediction.bytes,
        "loss": [first.loss, result.loss],
        "strategy": training.plan.notes.get("strategy"),
    }


def _nbytes(variable: Any, program: Any) -> int:
    return int(program.values[variable.value].nbytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machines", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--method", choices=["single", "downpour"], default="single")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [measure(m, args.method, args.steps) for m in args.machines]
    if args.json:
        print(json.dumps({"rows": rows}))
        return
    print("machines  largest share  most memory (of it before the plan ran)  step  predicted")
    for row in rows:
        peak, base = max(row["peak_nbytes"].values()) / 1e6, max(row["loaded_nbytes"].values()) / 1e6
        print(
            f"{row['machines']:8}  {row['largest_share']:13.1%}  {peak:8.0f} MB ({base:.0f} MB)"
            f"  {row['step_s']:.2f} s  {row['predicted_step_s']:.2f} s"
        )


if __name__ == "__main__":
    main()
