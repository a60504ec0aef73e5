"""The memory of a training step on one machine: what the plan says, the least that it needs, and what a process really takes.

    python -m benchmarks.memory --json

For each network of `step_nets.py`, in a process of its own: the plan's memory, its lower bound (parameters, what is fed, and the
most of the other values that is alive at once), and by how much the process grows from before it loads the plan to the end of some
steps; libraries and machine code are there before, from a very small network of the same kind. Then a deep network on machines with
less and less memory: with `rematerialize=True` it is trained where it would not fit, for more work. `--smoke` runs small networks.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import rainshed as rs

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.step_nets import NETS, Net

RATE, STEPS, CORES = 0.01, 3, 2
PAGE_NBYTES = resource.getpagesize()
DEEP = {"layers": 48, "units": 512, "batch": 4096}
SHALLOW = {"layers": 12, "units": 16, "batch": 64}


def cluster(memory_bytes: int | None = None) -> rs.Cluster:
    return rs.Cluster.local(1, cores=CORES, memory_bytes=memory_bytes)


def grown(plan: rs.Plan, feeds: Mapping[str, np.ndarray]) -> int:
    """By how many bytes this process grows at most while it loads the plan and makes some steps."""
    before = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_NBYTES
    with rs.Session(plan, backend="here") as session:
        for _ in range(STEPS):
            session.run(feeds)
        return session.peak_memory()["m0"] - before


def row_of(name: str, sizes: Mapping[str, int], smoke: Mapping[str, int]) -> dict[str, Any]:
    """One network, in this process: first a small one, which brings the libraries and the machine code."""
    net: Net = NETS[name]
    small, plan = (rs.compile(net.graph(s, RATE), cluster()) for s in (smoke, sizes))
    draw = np.random.default_rng(0)
    feeds = net.draw(draw, sizes)
    grown(small, net.draw(draw, smoke))
    predicted = plan.prediction.machines["m0"]
    return {
        "workload": name,
        "planned_nbytes": predicted.memory_bytes,
        "least_nbytes": predicted.memory_lower_bound_bytes,
        "planned_over_least": predicted.memory_bytes / predicted.memory_lower_bound_bytes,
        "grown_nbytes": grown(plan, feeds),
    }


def apart(name: str, smoke: bool) -> dict[str, Any]:
    """The same in a process of its own, whose peak is that of no other network; small networks are quick instead."""
    row: dict[str, Any]
    if smoke:
        row = row_of(name, NETS[name].smoke, NETS[name].smoke)
    else:
        line = [sys.executable, "-m", "benchmarks.memory", "--one", name]
        done = subprocess.run(line, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
        row = json.loads(done.stdout)
    return {**row, "grown_over_planned": row["grown_nbytes"] / row["planned_nbytes"]}


def deep(sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    """A deep network as it is, and where less of that memory is there."""
    h = rs.input("x", (None, sizes["units"]))
    for i in range(sizes["layers"]):
        h = rs.layers.dense(h, sizes["units"], activation=rs.tanh, name=f"layer{i}")
    graph = rs.graph(loss=rs.mean(rs.square(h)), optimizer=rs.SGD(RATE)).bind(batch=sizes["batch"])
    rows: list[dict[str, Any]] = []
    for share in (None, 0.75, 0.5, 0.45, 0.33):
        room = None if share is None else int(share * rows[0]["planned_nbytes"])
        rows.append({"room_nbytes": room, "fits": False})
        try:
            plan = rs.compile(graph, cluster(room), rematerialize=room is not None)
        except rs.RainshedError as error:
            rows[-1]["error"] = str(error).splitlines()[0]
            continue
        predicted = plan.prediction.machines["m0"]
        rows[-1].update(
            fits=True, planned_nbytes=predicted.memory_bytes, compute_s=predicted.compute_s, notes=plan.notes
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--smoke", action="store_true", help="small networks")
    parser.add_argument("--one", choices=list(NETS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(row_of(args.one, NETS[args.one].sizes, NETS[args.one].smoke)))
        return
    found = {"rows": [apart(name, args.smoke) for name in NETS], "deep": deep(SHALLOW if args.smoke else DEEP)}
    if args.json:
        print(json.dumps(found))
        return
    print("network       planned      least  planned / least      grown  grown / planned")
    for row in found["rows"]:
        print(
            f"{row['workload']:10} {row['planned_nbytes'] / 1e6:7.1f} MB {row['least_nbytes'] / 1e6:7.1f} MB"
            f" {row['planned_over_least']:16.3f} {row['grown_nbytes'] / 1e6:7.1f} MB {row['grown_over_planned']:16.3f}"
        )
    print("deep network: room, planned, predicted seconds of kernels")
    for row in found["deep"]:
        room = "any" if row["room_nbytes"] is None else f"{row['room_nbytes'] / 1e6:.0f} MB"
        print(
            f"  {room:8}",
            f"{row['planned_nbytes'] / 1e6:.0f} MB  {row['compute_s']:.2f} s" if row["fits"] else row["error"],
        )


if __name__ == "__main__":
    main()
