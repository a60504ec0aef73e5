"""What the runtime adds to each instruction: nanoseconds per empty kernel, and a round of values between two machines.

    python benchmarks/executor.py [--json] [--seconds 1]

Rows `empty` run a chain of kernels that do nothing; `add` one of real additions of 4 numbers, beside calling the same
kernels from a plain loop. Row `exchange` is one step in which two machines of one process pass 8 numbers to each other.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping

import numpy as np

from rainshed.compiler.machines import Cluster
from rainshed.compiler.plan import Feed, Free, Output, Plan, Prediction, Program, Recv, Run, Send, Transfer, Value
from rainshed.ops import CATALOGUE
from rainshed.ops.op import Op, op
from rainshed.runtime.cluster.local import LocalCluster
from rainshed.runtime.executor import Executor, Options
from rainshed.runtime.trace import Recorder

LENGTH = 2000
X = np.ones(4, np.float32)


def _nothing(x: np.ndarray, out: np.ndarray) -> None:
    """The kernel that leaves only the runtime's own time."""


OPS: Mapping[str, Op] = {**CATALOGUE, "empty": op(name="empty", signature="()->()", cpu=_nothing)}


def chain(name: str, arity: int) -> Program:
    """x -> op -> op -> ... -> y, in two places of the arena."""
    fed = Value(dtype="f32", shape=(4,), place="fed")
    values = [fed, *(Value(dtype="f32", shape=(4,), place="arena", offset=64 * (i % 2)) for i in range(LENGTH))]
    listed: list[Run | Free] = []
    for i in range(LENGTH):
        listed.append(Run(op=name, inputs=(i,) * arity, outputs=(i + 1,)))
        if i:
            listed.append(Free(value=i))
    box = ((0, 4),)
    return Program(
        machine="m0",
        values=tuple(values),
        instructions=tuple(listed),
        feeds=(Feed(name="x", value=0, box=box, whole=(4,)),),
        outputs=(Output(name="y", value=LENGTH, box=box, whole=(4,)),),
        arena_nbytes=128,
    )


def exchange() -> Plan:
    """m0 sends x to m1, which sends it back negated."""
    x = Value(dtype="f32", shape=(8,), place="fed", of="x")
    here = Value(dtype="f32", shape=(8,), place="arena", offset=0, of="x")
    there = Value(dtype="f32", shape=(8,), place="arena", offset=64, of="y")
    box = ((0, 8),)
    first = Program(
        machine="m0",
        values=(x, here),
        instructions=(Send(value=0, key=0, to="m1"), Recv(value=1, key=1, source="m1")),
        feeds=(Feed(name="x", value=0, box=box, whole=(8,)),),
        outputs=(Output(name="y", value=1, box=box, whole=(8,)),),
        arena_nbytes=64,
    )
    second = Program(
        machine="m1",
        values=(here, there),
        instructions=(
            Recv(value=0, key=0, source="m0"),
            Run(op="negative", inputs=(0,), outputs=(1,)),
            Send(value=1, key=1, to="m0"),
        ),
        arena_nbytes=128,
    )
    transfers = (
        Transfer(key=0, source="m0", to="m1", nbytes=32, of="x", reason="activation"),
        Transfer(key=1, source="m1", to="m0", nbytes=32, of="y", reason="activation"),
    )
    nothing = Prediction(step_s=0.0, bytes=64, messages=2, lower_bound_s=0.0, machines={})
    cluster = Cluster.local(2, cores=1, memory_bytes=2**20).to_data()
    return Plan(version=1, programs=(first, second), transfers=transfers, cluster=cluster, prediction=nothing)


def best_s(step: Callable[[], object], seconds: float) -> float:
    """The shortest of many: what the machine can do when nobody disturbs it."""
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - began)
    return best


def per_instruction_us(name: str, seconds: float, *, arity: int = 1, threads: int = 1, traced: bool = False) -> float:
    options = Options(threads=threads, recorder=Recorder() if traced else None)
    with Executor(chain(name, arity), ops=OPS, options=options) as executor:
        return best_s(lambda: executor.run(0, {"x": X}), seconds) / LENGTH * 1e6


def plain_add_us(seconds: float) -> float:
    """The same kernels from a loop."""
    add, a, b = CATALOGUE["add"].cpu, np.ones(4, np.float32), np.ones(4, np.float32)

    def step() -> None:
        with np.errstate(all="ignore"):
            for _ in range(LENGTH):
                add(a, a, b)

    return best_s(step, seconds) / LENGTH * 1e6


def exchange_us(uri: str, seconds: float) -> float:
    x = {"x": np.ones(8, np.float32)}
    with LocalCluster(exchange(), ops=OPS, uri=uri) as cluster:
        return best_s(lambda: cluster.run(x), seconds) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object: {row: microseconds}")
    parser.add_argument("--seconds", type=float, default=1.0, help="measuring time per row")
    args = parser.parse_args()
    s = args.seconds
    found = {
        "empty, us per instruction": per_instruction_us("empty", s),
        "empty, 2 threads": per_instruction_us("empty", s, threads=2),
        "empty, traced": per_instruction_us("empty", s, traced=True),
        "add": per_instruction_us("add", s, arity=2),
        "add, plain loop": plain_add_us(s),
        "exchange over inproc, us per step": exchange_us("inproc://", s),
        "exchange over tcp, us per step": exchange_us("tcp://", s),
    }
    if args.json:
        print(json.dumps(found))
        return
    for name, us in found.items():
        print(f"{name:<36}{us:9.2f}")


if __name__ == "__main__":
    main()
