"""Plans of placed tiles, measured on test hosts: ours beside that of Mt-KaHyPar under total balance, which moves fewer bytes.

    python -m benchmarks.placed [--json] [--nets conv,lstm] [--hosts 2 3 4] [--rate 1gbit] [--steps 10] [--keep DIR] [--make]
    python -m benchmarks.placed --table FILE.json ...

The tiles and the placements are those of benchmarks/partition.py. Each placement becomes a plan of a training step with plain SGD:
tiles of one machine that lie side by side become blocks, everything else is computed where its operands lie. `compile` is the plan
that `rainshed compile` makes by default for the hosts as they were calibrated, which chooses layouts of whole ops. The plans run in
turn, on hosts as benchmarks/simulated.py makes them. The hosts share the computer's processors; so that a host whose neighbours
wait is no faster than it would be alone, a control group holds each to its share. It needs root.

Of each plan: the step of the tiles as the partitioner simulates it, on machines of 40 GFLOP/s joined by the hosts' links; the
step of the plan as predicted from its own kernels, measured on the hosts; and the step measured. `--make` only makes the plans,
which takes longer than to measure them, and keeps them in DIR.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs

import rainshed as rs
from benchmarks.handmade import plan_of_layouts
from benchmarks.nets import NETS
from benchmarks.partition import OURS, SEEDS, cluster_of, fineness
from benchmarks.rivals import Runs, mt_kahypar, peer
from benchmarks.simulated import Steps, joined_job, on_hosts, quiet_steps, row_of
from rainshed.compiler.load import load_plan
from rainshed.compiler.machines import Cluster, Link
from rainshed.compiler.partition.atoms import Tiling, tiling
from rainshed.compiler.partition.placement import Aim, best_of, candidates, measure, task_of
from rainshed.compiler.partition.tiled import forward_part, placed_layouts
from rainshed.compiler.pipeline import SHARED, run_passes
from rainshed.compiler.plan import Plan
from rainshed.compiler.setting import Setting
from rainshed.compiler.this_computer import usable_cores
from rainshed.engine.calibration import calibrate
from rainshed.engine.calibration_plan import measured_plan
from rainshed.ops import CATALOGUE
from rainshed.runtime.cluster.job import Job
from tests.netlab import bytes_per_s, lacking

MEASURED = tuple(net for net in NETS if net != "local3")  # there Mt-KaHyPar moves no fewer bytes on 2, 3 or 4 machines
RIVAL = "mtkahypar"
PLACED = (*OURS, RIVAL)
DEFAULT = "compile"
SIDES = (*PLACED, DEFAULT)
LATENCY_S = 1e-4
TURNS = 2  # of each plan
LEAST = 3  # steps that are measured in a turn
LONGEST_S = 6.0  # that all steps of a plan take, if those are enough
PERIOD_S = 0.02  # in which a host uses up its share of the processors, and then waits
GROUPS = Path("/sys/fs/cgroup")
LOOKS, LOOK_S = 100, 0.01  # whether a group is empty


# -- plans ------------------------------------------------------------------------------------------------------------
def make(net: str, hosts: int, rate: str, folder: Path) -> None:
    """The plans of a row that are not in the folder yet, with what the partitioner says of their placements."""
    whole = replace(NETS[net](), rule=rs.SGD(0.01).rule())
    default = _file(folder, net, hosts, DEFAULT)
    if not default.exists():
        rs.save_plan(rs.compile(whole, calibrated(hosts, rate, folder)), default)
    if all(_file(folder, net, hosts, side).exists() for side in PLACED):
        return
    cluster = replace(cluster_of(hosts), default_link=Link(bytes_per_s(rate), LATENCY_S))
    setting = Setting(cluster=cluster)
    graph = run_passes(whole, setting, SHARED)
    tiles = tiling(forward_part(graph), *fineness(net, hosts))
    for side, home in placements(tiles, hosts, folder).items():
        placed = measure(tiles, task_of(tiles, cluster, Aim()), cluster, home, side)
        plan = plan_of_layouts(graph, setting, placed_layouts(graph, cluster, tiles, home))
        told = {
            "tiles_s": f"{placed.step_s}",
            "tiles_bytes": f"{placed.nbytes}",
            "phases": f"{placed.phase_balance:.4f}",
        }
        rs.save_plan(structs.replace(plan, notes=told), _file(folder, net, hosts, side))


def calibrated(hosts: int, rate: str, folder: Path) -> Cluster:
    """Such hosts as a cluster: measured once for a folder."""
    file = folder / f"cluster-{hosts}-{rate}.json"
    if not file.exists():
        file.write_text(json.dumps(measure_on_hosts([], hosts, rate, 0, folder)["cluster"]))
    return Cluster.from_data(json.loads(file.read_text()))


def placements(tiles: Tiling, machines: int, keep: Path) -> dict[str, np.ndarray]:
    """Those of a row of benchmarks/partition.py; what the folder holds is not searched for again."""
    cluster = cluster_of(machines)
    task = task_of(tiles, cluster, Aim())
    given = [tiles.work, tiles.starts, tiles.pins, tiles.weight, machines]
    tried = cache(lambda: candidates(tiles, cluster, Aim(goal="step")))
    found = {}
    for side, goal in OURS.items():
        best = partial(best_of, tiling=tiles, cluster=cluster, aim=Aim(goal=goal))
        found[side] = Runs(range(1), keep).of(side, given, lambda _, best=best: best(tried()).home)[0][0]
    rival, _ = mt_kahypar(tiles, task, balance=1.03, runs=Runs(range(SEEDS), keep))
    assert rival is not None
    return {**found, RIVAL: rival}


def _file(folder: Path, net: str, hosts: int, side: str) -> Path:
    return folder / f"{net}-{hosts}-{side}.json"


# -- the coordinator, which runs at the hub ---------------------------------------------------------------------------
def coordinate(nets: Sequence[str], hosts: int, address: str, steps: int, folder: Path) -> dict[str, Any]:
    with joined_job(hosts, address) as job:
        cluster = calibrate(job)
        rows = [_row(job, cluster, net, steps, folder) for net in nets]
    return {"cluster": cluster.to_data(), "rows": rows}


def _row(job: Job, cluster: Cluster, net: str, steps: int, folder: Path) -> dict[str, Any]:
    """Plans take turns: a computer that becomes slower meanwhile is so for all of them."""
    made = {side: load_plan(_file(folder, net, len(cluster.machines), side), CATALOGUE) for side in SIDES}
    plans = {side: structs.replace(plan, cluster=cluster.to_data()) for side, plan in made.items()}
    predicted = {side: [measured_plan(job, plan, job.agents)] for side, plan in plans.items()}
    found: dict[str, list[Steps]] = {side: [] for side in SIDES}
    for _ in range(TURNS):
        for side, plan in plans.items():
            most = int(LONGEST_S / plan.prediction.step_s)
            found[side].append(quiet_steps(job, plan, max(LEAST, min(steps, most) // TURNS)))
    for side, plan in plans.items():
        predicted[side].append(measured_plan(job, plan, job.agents))
    rows = {side: row_of(cluster, plan, joined(found[side]), predicted[side]) for side, plan in plans.items()}
    told = {side: {**_told(plan, side), **rows[side]} for side, plan in plans.items()}
    return {"net": net, "hosts": len(cluster.machines), **told}


def joined(parts: Sequence[Steps]) -> Steps:
    return Steps(
        [time_s for part in parts for time_s in part.times_s],
        [core_s for part in parts for core_s in part.cores_s],
        max(part.others for part in parts),
    )


def _told(plan: Plan, side: str) -> dict[str, Any]:
    """What is known of a plan since it was made."""
    if side == DEFAULT:
        return {"strategy": plan.notes["strategy"]}
    return {
        "tiles_s": float(plan.notes["tiles_s"]),
        "tiles_bytes": int(plan.notes["tiles_bytes"]),
        "phase_balance": float(plan.notes["phases"]),
    }


# -- the hosts around it ----------------------------------------------------------------------------------------------
def measure_on_hosts(nets: Sequence[str], hosts: int, rate: str, steps: int, folder: Path) -> dict[str, Any]:
    """What the coordinator says of such hosts: `cluster` and `rows`."""
    words = ["-m", "benchmarks.placed", "--nets", ",".join(nets), "--hosts", str(hosts), "--steps", str(steps)]
    hold = partial(held_to_share, cores=usable_cores() / hosts)
    found = on_hosts(hosts, rate, [*words, "--keep", str(folder)], hold)
    return {**found, "rows": [{**row, "rate": rate} for row in found["rows"]]}


@contextmanager
def held_to_share(pid: int, cores: float) -> Iterator[None]:
    """The process has so many cores at most, whatever the others leave idle."""
    first = (GROUPS / "cpu" / "cpu.cfs_quota_us").exists()  # version 1 of control groups
    period, quota = int(PERIOD_S * 1e6), int(PERIOD_S * 1e6 * cores)
    limits = {"cpu.cfs_period_us": period, "cpu.cfs_quota_us": quota} if first else {"cpu.max": f"{quota} {period}"}
    root = GROUPS / "cpu" if first else GROUPS
    own = root / f"rainshed-{pid}"
    own.mkdir()
    try:
        for name, value in limits.items():
            (own / name).write_text(str(value))
        (own / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        (root / "cgroup.procs").write_text(str(pid))
        _remove(own)


def _remove(group: Path) -> None:
    """A group is busy for a moment after its last process has left."""
    for _ in range(LOOKS):
        try:
            group.rmdir()
        except OSError:
            time.sleep(LOOK_S)
        else:
            return
    group.rmdir()


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Rows as Markdown: seconds of our step; of the other plans bytes and seconds in units of ours."""
    head = ["net", "hosts", "ours: MB of tiles", "of the plan", "tiles", "predicted", "measured"]
    for side in SIDES[1:]:
        head += [f"{side}: bytes", *(["tiles"] if side in PLACED else []), "predicted", "measured"]
    lines = ["| " + " | ".join(head) + " |", "|---" * 2 + "|---:" * (len(head) - 2) + "|"]
    for row in found:
        ours = row["ours"]
        low, high = ours["spread_s"]
        cells = [row["net"], row["hosts"], f"{ours['tiles_bytes'] / 1e6:.3g}", f"{ours['bytes'] / 1e6:.3g}"]
        cells += [f"{ours['tiles_s']:.3g}", f"{ours['predicted_s']:.3g}"]
        cells.append(f"{ours['measured_s']:.3g} ({low:.3g} to {high:.3g})")
        for side in SIDES[1:]:
            other = row[side]
            cells.append(f"{other['bytes'] / ours['bytes']:.2f}")
            kinds = ("tiles_s", "predicted_s", "measured_s")
            cells += [f"{other[kind] / ours[kind]:.2f}" for kind in kinds if kind in other]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--nets", default=",".join(MEASURED))
    parser.add_argument("--hosts", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--rate", default="1gbit", help="of the hosts' links")
    parser.add_argument("--steps", type=int, default=10, help="measured for each plan, at most")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="placements and plans, kept from run to run")
    parser.add_argument("--make", action="store_true", help="make the plans, measure no steps")
    parser.add_argument("--table", nargs="+", type=Path, metavar="FILE", help="print rows of such JSON as Markdown")
    parser.add_argument("--inside", metavar="ADDRESS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    nets = [net for net in args.nets.split(",") if net]
    if args.table:
        print(table([one for file in args.table for one in json.loads(file.read_text())["rows"]]))
        return
    if args.inside:
        print(json.dumps(coordinate(nets, args.hosts[0], args.inside, args.steps, args.keep)))
        return
    if lack := lacking():
        raise SystemExit(lack)
    try:
        peer("mtkahypar")
    except ModuleNotFoundError as missing:
        parser.error(str(missing))
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for hosts in args.hosts:
            for net in nets:
                make(net, hosts, args.rate, folder)
            if not args.make:
                found += measure_on_hosts(nets, hosts, args.rate, args.steps, folder)["rows"]
    if not args.make:
        print(json.dumps({"rows": found}) if args.json else table(found))


if __name__ == "__main__":
    main()
