"""Figure 3 of the DistBelief paper, simulated: the speed-up of one model instance on 1 to 144 machines.

    python -m benchmarks.figure3 [--nets images] [--machines 1 4 16] [--kept plans.jsonl] [--json] [--out figure3.svg] [--smoke]

Every point is a plan of the compiler and its simulated step: forward, backward and the update of simple SGD on one mini-batch.
Beside the automatic plan are plans as made by hand (benchmarks/handmade.py). The speed-up is against one machine. Machines and
network are those of 2012, as options; none of them was measured, and the paper states none but the number of cores. With --kept
what has been simulated is kept in a file, so that the figure can be made in pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs

from benchmarks.figure3_nets import NETWORKS, parameters
from benchmarks.figure3_plot import draw
from benchmarks.handmade import RULES, plan_by_hand
from rainshed.compiler.machines import Cluster, Link, Machine
from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import Plan, Run
from rainshed.compiler.timing import step_seconds

SMOKE_NETS, SMOKE_MACHINES = ("speech", "80M"), (1, 2)
AUTO = "auto"
STEPS, SEED = 5, 0  # of uneven steps


@dataclass(frozen=True, slots=True)
class Assumptions:
    """A machine is one processor as fast as all its cores together: how kernels are cut for cores is not simulated.

    `flops` is what a core sustains, not its peak. Handling a message keeps its machine from computing, at both ends.
    """

    cores: int = 20  # the paper: "no more than 20 cores per machine"
    flops: float = 7.5e9  # per core and second: a third of the peak of a core of the time
    memory_bytes_per_s: float = 30e9  # per machine: two sockets
    network_bits_per_s: float = 1e9  # per machine, each way
    latency_s: float = 100e-6
    message_s: float = 20e-6
    kernel_s: float = 5e-6  # per call
    batch: int = 128
    jitter: float = 0.0  # standard deviation of the logarithm of a kernel's time

    def cluster(self, machines: int) -> Cluster:
        each = tuple(
            Machine(
                name=f"m{i}",
                flops=self.cores * self.flops,
                bytes_per_s=self.memory_bytes_per_s,
                memory_bytes=2**37,  # so that one machine holds the largest network: the figure's denominator
                overhead_s=self.kernel_s,
                message_s=self.message_s,
                message_bytes_per_s=self.memory_bytes_per_s,
            )
            for i in range(machines)
        )
        return Cluster(machines=each, default_link=Link(self.network_bits_per_s / 8, self.latency_s))


@dataclass(frozen=True, slots=True)
class Cell:
    """One plan to make. `plan`: AUTO, or one of handmade.RULES."""

    net: str
    machines: int
    plan: str


def cells(columns: Iterable[tuple[str, int]], plans: list[str]) -> list[Cell]:
    """The plans of some networks on so many machines. One machine is what all others are compared with."""
    found: list[Cell] = []
    for net, count in columns:
        names = (AUTO, *NETWORKS[net].by_hand) if count > 1 else (AUTO,)
        found += [Cell(net, 1, AUTO), *(Cell(net, count, name) for name in names if count == 1 or name in plans)]
    return list(dict.fromkeys(found))


def read_kept(path: Path, given: Assumptions) -> dict[Cell, dict[str, Any]]:
    """What a file has of plans under these assumptions: a line for each."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        one = json.loads(line)
        if one.pop("assumptions") == asdict(given):
            found[Cell(one.pop("net"), one.pop("machines"), one.pop("plan"))] = one
    return found


def measure(cell: Cell, given: Assumptions) -> dict[str, Any]:
    """The simulated step of one plan, and the seconds of processor time that making it took."""
    graph, cluster = NETWORKS[cell.net].graph(given.batch), given.cluster(cell.machines)
    start = time.process_time()
    plan = compile(graph, cluster) if cell.plan == AUTO else plan_by_hand(graph, cluster, RULES[cell.plan])
    seconds = time.process_time() - start
    machines = plan.prediction.machines.values()
    return {
        "step_s": uneven_step(plan, cluster, given.jitter) if given.jitter else plan.prediction.step_s,
        "bytes": plan.prediction.bytes,
        "messages": plan.prediction.messages,
        "compute_s": max(m.compute_s for m in machines),
        "network_s": 8 * max(max(m.bytes_in, m.bytes_out) for m in machines) / given.network_bits_per_s,
        "busy_machines": sum(m.compute_s > 0 for m in machines),
        "strategy": plan.notes["strategy"],
        "seconds": round(seconds, 2),
    }


def uneven_step(plan: Plan, cluster: Cluster, jitter: float) -> float:
    """The mean of some steps whose kernels take longer or shorter by chance, each by itself; 1 on average. Seeded."""
    random = np.random.default_rng(SEED)
    steps = []
    for _ in range(STEPS):
        programs = []
        for program in plan.programs:
            factors = random.lognormal(-(jitter**2) / 2, jitter, len(program.instructions))
            chance = tuple(
                structs.replace(x, seconds=x.seconds * factor) if isinstance(x, Run) else x
                for x, factor in zip(program.instructions, factors.tolist(), strict=True)
            )
            programs.append(structs.replace(program, instructions=chance))
        steps.append(step_seconds(tuple(programs), cluster))
    return statistics.mean(steps)


def simulate(todo: list[Cell], given: Assumptions, jobs: int, kept: Path | None = None) -> dict[Cell, dict[str, Any]]:
    """All plans that are not kept, on so many processes of this computer; a line to stderr for each."""
    known = read_kept(kept, given) if kept else {}
    found = {cell: known[cell] for cell in todo if cell in known}
    for cell, one in _measured([cell for cell in todo if cell not in known], given, jobs):
        found[cell] = one
        if kept:
            with kept.open("a") as file:
                file.write(json.dumps({**asdict(cell), **one, "assumptions": asdict(given)}) + "\n")
        line = (
            f"{len(found)}/{len(todo)} {cell.net}, {cell.machines} machines, {cell.plan}: {one['step_s'] * 1e3:.1f} ms"
        )
        print(f"{line} ({one['seconds']:.1f} s)", file=sys.stderr, flush=True)
    return found


def _measured(todo: list[Cell], given: Assumptions, jobs: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    todo = sorted(todo, key=lambda cell: -cell.machines)  # the largest first, so that processes end together
    if jobs == 0:
        return
    if jobs == 1:
        yield from ((cell, measure(cell, given)) for cell in todo)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(measure, cell, given): cell for cell in todo}
        yield from ((futures[done], done.result()) for done in as_completed(futures))


def rows_of(found: Mapping[Cell, dict[str, Any]], columns: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    """A row for each network and number of machines; every plan with its speed-up against one machine."""
    rows = []
    for net, count in columns:
        if Cell(net, 1, AUTO) not in found:
            raise SystemExit(f"{net} on one machine is not kept: all others are compared with it")
        alone = found[Cell(net, 1, AUTO)]["step_s"]
        names = [n for n in (AUTO, *NETWORKS[net].by_hand) if Cell(net, count, n) in found]
        made = {name: found[Cell(net, count, name)] for name in names}
        plans = {name: one | {"speedup": alone / one["step_s"]} for name, one in made.items()}
        if plans:
            rows.append({"net": net, "machines": count, "paper": NETWORKS[net].paper.get(count), "plans": plans})
    return rows


def slower(rows: list[dict[str, Any]]) -> list[str]:
    """Where a plan made by hand is faster than the automatic one."""
    found = []
    for row in rows:
        own = row["plans"].get(AUTO, {}).get("step_s", 0.0)
        for name, one in row["plans"].items():
            if one["step_s"] < own:
                found.append(
                    f"{row['net']}, {row['machines']} machines: {name} is {own / one['step_s'] - 1:.1%} faster"
                )
    return found


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'network':<12}{'machines':>9}{'paper':>8}  speed-up of each plan (ms of a step, MB, messages)"]
    for row in rows:
        paper = "" if row["paper"] is None else f"{row['paper']:.2f}"
        plans = "   ".join(
            f"{name} {one['speedup']:5.2f} ({one['step_s'] * 1e3:.1f}, {one['bytes'] / 1e6:.1f}, {one['messages']})"
            for name, one in row["plans"].items()
        )
        lines.append(f"{row['net']:<12}{row['machines']:>9}{paper:>8}  {plans}")
    return "\n".join(lines)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The speed-ups as docs/figure3.md shows them: a table for each network, a column for each number of machines."""
    tables = []
    for net in dict.fromkeys(row["net"] for row in rows):
        own = [row for row in rows if row["net"] == net and row["machines"] > 1]
        plans = (AUTO, *NETWORKS[net].by_hand)
        lines = {"paper": [row["paper"] for row in own]} | {
            plan: [row["plans"].get(plan, {}).get("speedup") for row in own] for plan in plans
        }
        names = {"paper": "the paper", AUTO: "automatic"}
        head = [net, *(str(row["machines"]) for row in own)]
        body = [[names.get(k, k), *("" if x is None else f"{x:.2f}" for x in line)] for k, line in lines.items()]
        tables.append("\n".join(f"| {' | '.join(line)} |" for line in (head, ["---", *["---:"] * len(own)], *body)))
    return "\n\n".join(tables)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", help="words out of their names: speech images 80M ...; default all")
    parser.add_argument(
        "--machines", nargs="+", type=int, help="default: those of the network in benchmarks/figure3_nets.py"
    )
    parser.add_argument("--plans", nargs="+", choices=[AUTO, *RULES], default=[AUTO, *RULES])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--markdown", action="store_true", help="the tables of docs/figure3.md")
    parser.add_argument("--out", help="the picture, .svg or .png; default figure3.svg; needs matplotlib")
    parser.add_argument("--kept", type=Path, help="a file of plans made before; what it lacks is simulated and added")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; 0: only what is kept is shown")
    parser.add_argument("--smoke", action="store_true", help="other defaults: two networks, two machines, no picture")
    for each in fields(Assumptions):
        kind = int if isinstance(each.default, int) else float
        name = "--" + each.name.replace("_", "-")
        parser.add_argument(name, type=kind, default=each.default, help=f"default {each.default:g}")
    args = parser.parse_args()
    args.out = args.out or ("" if args.smoke else "figure3.svg")
    args.machines = sorted(set(args.machines or (SMOKE_MACHINES if args.smoke else ())))
    words = args.nets or (SMOKE_NETS if args.smoke else NETWORKS)
    args.nets = [net for net in NETWORKS if any(word in net for word in words)]
    wrong = [m for m in args.machines if m < 1]
    if not args.nets or wrong:
        parser.error(f"the networks are {', '.join(NETWORKS)}; machines are 1 or more")
    return args


def main() -> None:
    args = _arguments()
    given = Assumptions(**{each.name: getattr(args, each.name) for each in fields(Assumptions)})
    columns = [(net, count) for net in args.nets for count in args.machines or NETWORKS[net].machines]
    rows = rows_of(simulate(cells(columns, args.plans), given, args.jobs, args.kept), columns)
    networks = [{"net": k, "parameters": parameters(n.graph(1)), "stated": n.parameters} for k, n in NETWORKS.items()]
    if args.out:
        draw(rows, asdict(given), args.out)
    if args.json:
        print(
            json.dumps(
                {"assumptions": asdict(given), "networks": networks, "rows": rows, "by_hand_faster": slower(rows)}
            )
        )
        return
    print(markdown(rows) if args.markdown else table(rows))
    print("\n".join(slower(rows) or ["no plan made by hand is faster than the automatic one"]))


if __name__ == "__main__":
    main()
