"""Simulated against measured step times, on test hosts with slow links.

    python -m benchmarks.simulated [--json] [--hosts 2 4] [--rates 100mbit 1gbit] [--steps 15]

Two things are told apart: whether the costs of kernels are right, and whether the simulator is. `rated` is simulated from the
cluster's calibrated rates alone; `predicted` with the plan's own kernels measured on the hosts, without a message, before its first
step (engine/calibration_plan.py). A processor that is shared with others, as in a cloud, is faster in one second than in the next:
so they are measured once more after the steps, and `predicted` is the mean.

For each number of hosts and rate of their links: the hosts are made (tests/netlab.py: needs root), workers join over TCP with a
token file, the cluster is calibrated, and several plans are compiled for what was measured, simulated, and run. A row is a plan:
predicted and measured seconds of a step, the mean of the middle half of several; `order` is the share of pairs of plans of one
cluster whose order by prediction is that by measurement (pairs whose quartiles of measurements overlap are left out). A cluster
`holds` if six plans or more are within 15 % and in the order that was measured. Last in a row stands what a step takes of all
cores, predicted and measured, which tells even on a computer that has other work whether the costs are right, and what share of
the cores others had while the steps ran: the links, the coordinator, and whatever else the computer did. Where that is more than
15 %, the plan is run again, at most twice, and the run counts in which it is least.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import rainshed as rs
from rainshed.compiler.plan import Plan, Run
from rainshed.compiler.this_computer import usable_cores
from rainshed.engine.calibration import calibrate
from rainshed.engine.calibration_plan import measured_plan
from rainshed.ops.ir import Graph
from rainshed.runtime.auth import read_token
from rainshed.runtime.cluster.job import Job, JobOptions
from rainshed.runtime.executor import COMPILE_AFTER_S, COMPILE_AT
from rainshed.runtime.measure import midmean
from tests.netlab import NetLab, lacking

ROOT = Path(__file__).resolve().parent.parent
PORT = 7700
TIMEOUT_S = 420.0
LEAST = 7  # steps that count, after a warm-up
LONGEST_S = 2.5  # of measuring one plan, if those are enough
NEAR = 0.15  # by how much a prediction may be off
QUIET = 0.15  # share of the cores that others may have meanwhile, the links and the coordinator among them
TRIES = 3  # to find the computer so
ENOUGH = 6  # plans that are near, of a cluster that holds
STAT = Path("/proc/stat")


# -- what is run ------------------------------------------------------------------------------------------------------
def perceptron(batch: int) -> Graph:
    x, label = rs.input("x", (batch, 1024)), rs.input("label", (batch,), "int32")
    h = x
    for _ in range(3):
        h = rs.layers.dense(h, 1024, activation=rs.relu)
    return rs.graph(loss=rs.mean(rs.softmax_cross_entropy(h, label)), optimizer=rs.SGD(0.01))


def local(batch: int) -> Graph:
    """Locally connected layers, as in the paper's figure 1."""
    h = x = rs.input("x", (batch, 24, 24, 3))
    for _ in range(3):
        h = rs.layers.local2d(h, 16, 3, padding="same", activation=rs.relu)
    return rs.graph(loss=rs.mean(rs.square(h)) + 0.0 * rs.mean(x), optimizer=rs.SGD(0.01))


def images(batch: int) -> Graph:
    x, label = rs.input("x", (batch, 32, 32, 3)), rs.input("label", (batch,), "int32")
    h = rs.layers.conv2d(x, 16, 5, activation=rs.relu)
    h = rs.layers.max_pool2d(h, 2)
    h = rs.layers.conv2d(h, 32, 3, activation=rs.relu)
    h = rs.layers.max_pool2d(h, 2)
    logits = rs.layers.dense(rs.layers.flatten(h), 10)
    return rs.graph(loss=rs.mean(rs.softmax_cross_entropy(logits, label)), optimizer=rs.SGD(0.01))


def lstm(batch: int) -> Graph:
    """Two layers over twelve moments."""
    x, label = rs.input("x", (batch, 12, 512)), rs.input("label", (batch,), "int32")
    logits = rs.layers.dense(rs.layers.lstm(x, 512, layers=2), 48)
    return rs.graph(loss=rs.mean(rs.softmax_cross_entropy(logits, label)), optimizer=rs.SGD(0.01))


NETS: Mapping[str, Callable[[int], Graph]] = {"perceptron": perceptron, "local": local, "images": images, "lstm": lstm}
# Net, batch, strategy. Steps last long beside a slice of the processors' time (4 ms), and differ by more than they vary.
PLANS = (
    ("images", 64, "batch"), ("images", 128, "features"), ("images", 128, "layers"),
    ("perceptron", 256, "features"), ("perceptron", 512, "layers"), ("perceptron", 512, "pipeline"),
    ("perceptron", 1024, "features"), ("local", 64, "batch"), ("local", 128, "layers"), ("lstm", 64, "layers"),
)  # fmt: skip


def feeds_of(plan: Plan) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    found = {}
    for program in plan.programs:
        for feed in program.feeds:
            small = program.values[feed.value].dtype == "i32"
            found[feed.name] = (
                generator.integers(0, 10, feed.whole, dtype=np.int32)
                if small
                else generator.normal(0, 0.1, feed.whole).astype(np.float32)  # small, so that nothing becomes denormal
            )
    return found


# -- the coordinator, which runs at the hub ---------------------------------------------------------------------------
def coordinate(hosts: int, address: str, steps: int) -> dict[str, Any]:
    with joined_job(hosts, address) as job:
        cluster = calibrate(job)
        rows = [_row(job, cluster, *plan, steps) for plan in PLANS]
    return {"cluster": cluster.to_data(), "rows": rows}


def joined_job(hosts: int, address: str) -> Job:
    """The job of the workers that join at this address. Prints a line when it listens."""
    return Job(
        hosts,
        JobOptions(
            backend="join",
            listen=f"tcp://{address}:{PORT}",
            token=read_token(),
            on_wait=lambda at, _: print(at, flush=True),
        ),
    )


def _row(job: Job, cluster: rs.Cluster, net: str, batch: int, strategy: str, most: int) -> dict[str, Any]:
    plan = rs.compile(NETS[net](batch), cluster, strategy=strategy)
    count = max(LEAST, min(most, int(LONGEST_S / plan.prediction.step_s)))
    return {"net": net, "batch": batch, "strategy": strategy, **measured(job, cluster, plan, count)}


class Steps(NamedTuple):
    """Measured steps of a plan: seconds of each, what each takes of all cores, and the share of the cores that others had."""

    times_s: list[float]
    cores_s: list[float]
    others: float


def measured(job: Job, cluster: rs.Cluster, plan: Plan, count: int) -> dict[str, Any]:
    """What the steps of a plan take on the workers of a job, and what was predicted of them."""
    before = measured_plan(job, plan, job.agents)
    steps = quiet_steps(job, plan, count)
    return row_of(cluster, plan, steps, [before, measured_plan(job, plan, job.agents)])


def quiet_steps(job: Job, plan: Plan, count: int) -> Steps:
    """The first of some tries in which others let the computer be; where there is none, that in which they let it most."""
    tries = []
    for _ in range(TRIES):
        tries.append(steps_of(job, plan, count))
        if tries[-1].others <= QUIET:
            break
    return min(tries, key=lambda steps: steps.others)


def steps_of(job: Job, plan: Plan, count: int) -> Steps:
    """So many steps after a warm-up."""
    deployment = job.deploy(plan, job.agents)
    deployment.init(0)
    deployment.run(0, feeds_of(plan))
    warm = warm_steps(plan)
    for i in range(warm):
        deployment.moments(1 + i)
    began_s, began_busy_s = time.perf_counter(), busy_core_seconds()
    moments = [deployment.moments(1 + warm + i) for i in range(count)]
    busy_s, passed_s = busy_core_seconds() - began_busy_s, time.perf_counter() - began_s
    deployment.release()
    cores_s = [sum(m.core_s for m in step) for step in moments]
    return Steps(
        [(max(m.end_ns for m in step) - min(m.start_ns for m in step)) / 1e9 for step in moments],
        cores_s,
        max(0.0, busy_s - sum(cores_s)) / (passed_s * usable_cores()),
    )


def row_of(cluster: rs.Cluster, plan: Plan, steps: Steps, predicted: Sequence[Plan]) -> dict[str, Any]:
    """predicted: the plan with its kernels' times, measured before its steps and after them."""
    low, _, high = statistics.quantiles(steps.times_s, n=4)
    measured_s = midmean(steps.times_s)
    p = plan.prediction
    spread_s = sorted(one.prediction.step_s for one in predicted)
    predicted_s = statistics.fmean(spread_s)
    return {
        "rated_s": p.step_s,
        "predicted_s": predicted_s,
        "predicted_spread_s": spread_s,
        "measured_s": measured_s,
        "spread_s": [low, high],
        "ratio": predicted_s / measured_s,
        "bytes": p.bytes,
        "messages": p.messages,
        "compute_s": max(m.compute_s for m in p.machines.values()),
        "predicted_core_s": statistics.fmean(core_seconds(one, cluster) for one in predicted),
        "core_s": statistics.median(steps.cores_s),
        "others": steps.others,
    }


def warm_steps(plan: Plan) -> int:
    """How many steps come before those that count: kernels become machine code within them (runtime/executor.py)."""
    compute_s = min(sum(i.seconds for i in p.instructions if isinstance(i, Run)) for p in plan.programs)
    return min(COMPILE_AT, 1 + int(COMPILE_AFTER_S / max(compute_s, 1e-9))) + 1


def busy_core_seconds() -> float:
    """Seconds that all cores of the computer have been busy since it was started, also with what another computer took of them."""
    user, nice, system, _, _, *interrupts_and_stolen = STAT.read_text().splitlines()[0].split()[1:9]
    ticks = sum(map(int, (user, nice, system, *interrupts_and_stolen)))
    return ticks / os.sysconf("SC_CLK_TCK")


def core_seconds(plan: Plan, cluster: rs.Cluster) -> float:
    """What a step takes of all cores together: kernels, and both ends of messages."""
    kernels = sum(m.compute_s * cluster.machine(name).cores for name, m in plan.prediction.machines.items())
    ends = [(cluster.machine(name), t.nbytes) for t in plan.transfers for name in (t.source, t.to)]
    return kernels + sum(m.message_s + nbytes / m.message_bytes_per_s for m, nbytes in ends)


# -- the hosts around it ----------------------------------------------------------------------------------------------
def measure(hosts: int, rate: str, steps: int) -> dict[str, Any]:
    """What the coordinator measures on such hosts."""
    found = on_hosts(hosts, rate, ["-m", "benchmarks.simulated", "--hosts", str(hosts), "--steps", str(steps)])
    return {"hosts": hosts, "rate": rate, **found, **agreement(found["rows"])}


def on_hosts(
    hosts: int, rate: str, words: Sequence[str], hold: Callable[[int], AbstractContextManager[object]] = nullcontext
) -> dict[str, Any]:
    """Make the hosts, start a worker on each and a coordinator at the hub, and give the JSON object that this prints.

    words  of Python: the coordinator, which is told its address by `--inside`, and prints a line when it listens
    hold   what is done to the process of each worker while it runs
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(os.urandom(32).hex())
        lab = stack.enter_context(NetLab(hosts, rate))
        environment = {**os.environ, "RAINSHED_TOKEN_FILE": str(token), "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, *words, "--inside", lab.hub_address]
        coordinator = lab.hub_popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE)
        stack.callback(_end, coordinator)
        assert coordinator.stdout is not None
        coordinator.stdout.readline()
        for i in range(hosts):
            uri = f"tcp://{lab.address(i)}:0"
            join = [sys.executable, "-m", "rainshed", "worker", "--join", f"{lab.hub_address}:{PORT}"]
            worker = lab.popen(i, [*join, "--name", f"host{i}", "--listen", uri], env=environment, cwd=ROOT)
            stack.callback(_end, worker)
            stack.enter_context(hold(worker.pid))
        out, _ = coordinator.communicate(timeout=TIMEOUT_S)
        if coordinator.returncode:
            raise SystemExit(f"the coordinator ended with {coordinator.returncode}")
        found: dict[str, Any] = json.loads(out)
        return found


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def agreement(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How far predictions are off, and what order they give."""
    errors = [abs(row["ratio"] - 1) for row in rows]
    near = [row for row, error in zip(rows, errors, strict=True) if error <= NEAR]
    rated = [abs(row["rated_s"] / row["measured_s"] - 1) for row in rows]
    right = [agree for _, _, agree in pairs(rows)]
    return {
        "worst": max(errors),
        "median": statistics.median(errors),
        "within_15": len(near),
        "in_order": in_order(near),
        "rated_median": statistics.median(rated),
        "order": sum(right) / max(1, len(right)),
        "holds": in_order(near) >= ENOUGH,
    }


def pairs(rows: list[dict[str, Any]]) -> list[tuple[int, int, bool]]:
    """The pairs that measurements tell apart, by their places; whether the quicker plan is predicted to be quicker."""
    found = []
    for (i, a), (j, b) in combinations(enumerate(rows), 2):
        first, second = sorted((a, b), key=lambda r: r["measured_s"])
        if first["spread_s"][1] < second["spread_s"][0]:
            found.append((i, j, bool(first["predicted_s"] < second["predicted_s"])))
    return found


def in_order(rows: list[dict[str, Any]]) -> int:
    """The most plans of which all pairs are predicted in the order that was measured."""
    wrong = {(i, j) for i, j, agree in pairs(rows) if not agree}
    sizes = range(len(rows), 0, -1)
    found = (n for n in sizes for some in combinations(range(len(rows)), n) if wrong.isdisjoint(combinations(some, 2)))
    return next(found, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--hosts", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rates", nargs="+", default=["100mbit", "1gbit"])
    parser.add_argument("--steps", type=int, default=15, help="measured for each plan")
    parser.add_argument("--inside", metavar="ADDRESS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        print(json.dumps(coordinate(args.hosts[0], args.inside, args.steps)))
        return
    if lack := lacking():
        raise SystemExit(lack)
    found = []
    for hosts, rate in product(args.hosts, args.rates):
        found.append(measure(hosts, rate, args.steps))
        if not args.json:
            show(found[-1])
    if args.json:
        print(json.dumps({"clusters": found}))


def show(found: Mapping[str, Any]) -> None:
    link, machine = found["cluster"]["link"], found["cluster"]["machine"][0]
    print(f"{found['hosts']} hosts, {found['rate']}: links {link['bytes_per_s'] / 1e6:.1f} MB/s, {link['latency_s'] * 1e6:.0f} us, "
          f"{link.get('buffer_bytes', 0) / 1e3:.0f} KB sent ahead; "
          f"a host has {machine['cores']:.2f} cores; of a core each end of a message takes {machine['message_s'] * 1e6:.0f} us "
          f"and {1e9 / machine['message_bytes_per_s']:.2f} ns a byte")  # fmt: skip
    print(f"{'holds' if found['holds'] else 'does not hold'}: {found['within_15']} of {len(found['rows'])} plans within 15 %, "
          f"{found['in_order']} of them in the measured order; {found['order']:.0%} of all pairs")  # fmt: skip
    for row in found["rows"]:
        low, high = row["spread_s"]
        print(f"  {row['net']:<11}{row['batch']:5d} {row['strategy']:<9}{row['bytes'] / 1e6:8.2f} MB {row['messages']:4d} messages"
              f"  predicted {row['predicted_s'] * 1e3:8.1f} ms  by rates {row['rated_s'] * 1e3:8.1f}  "
              f"measured {row['measured_s'] * 1e3:8.1f} ({low * 1e3:.1f} to {high * 1e3:.1f})  ratio {row['ratio']:.2f}  "
              f"of cores {row['predicted_core_s'] * 1e3:8.1f} and {row['core_s'] * 1e3:8.1f} ms  others {row['others']:.0%}",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
