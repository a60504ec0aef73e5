"""What a shard of the parameter server takes to move its parameters by a gradient, beside PyTorch's optimizers.

    python -m benchmarks.updates [--peers torch] [--seconds 1] [--smoke] [--json]

Two shards: one large variable, and many small ones. `ours` is a push without its way there: the gradient is looked through for NaN
and infinity, and applied. `numpy` is the same without machine code; `torch` the faster of PyTorch's optimizer as it is by default
and with `fused=True`, on all cores and without looking for NaN. `limit`: to copy as many bytes as the rule reads and writes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import count
from typing import Any

import numpy as np

import rainshed as rs
from rainshed.runtime.messages import Push, Put
from rainshed.runtime.params.layout import Layout, Part
from rainshed.runtime.params.rule import rule_of
from rainshed.runtime.params.shard import Shard, ShardConfig, Worker

OPTIMIZERS = {
    "sgd": (rs.SGD(1e-3), "SGD", {}),
    "momentum": (rs.Momentum(1e-3), "SGD", {"momentum": 0.9}),
    "adagrad": (rs.Adagrad(1e-3), "Adagrad", {}),
    "adam": (rs.Adam(1e-3), "Adam", {}),
}
SHARDS = {"large": (1, 8_000_000), "small": (1000, 2000)}
SMOKE = {"large": (1, 1000), "small": (3, 5)}
Step = Callable[[], object]


@contextmanager
def without_machine_code() -> Iterator[None]:
    before = os.environ.get("NUMBA_DISABLE_JIT")
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["NUMBA_DISABLE_JIT"]
        else:
            os.environ["NUMBA_DISABLE_JIT"] = before


def ours(name: str, parts: int, size: int) -> Step:
    optimizer = OPTIMIZERS[name][0]
    layout = Layout((tuple(Part(f"w{i}", "f32", ((0, size),)) for i in range(parts)),))
    shard = Shard(ShardConfig(0, layout, rule_of(optimizer.rule(), ["f32"])))
    gradient = np.random.default_rng(0).standard_normal(parts * size, np.float32)
    numbers, payload, worker = tuple(range(parts)), gradient.data.cast("B"), Worker("m0", 1)
    shard.put(Put(0, numbers), payload)
    seq = count(1)

    def step() -> None:
        ack = shard.push(worker, Push(next(seq), 0, numbers), payload)
        assert ack.outcome == "applied", ack.text

    return step


def torch_steps(name: str, parts: int, size: int) -> list[Step]:
    torch: Any = import_module("torch")
    _, kind, more = OPTIMIZERS[name]
    steps = []
    for fused in (False, True):
        weights = [torch.nn.Parameter(torch.ones(size)) for _ in range(parts)]
        for weight in weights:
            weight.grad = torch.randn(size)
        steps.append(getattr(torch.optim, kind)(weights, lr=1e-3, fused=fused or None, **more).step)
    return steps


def copy(name: str, parts: int, size: int) -> Step:
    """As many bytes as the rule reads and writes: w and the slots both ways, the gradient twice."""
    arrays = 2 + len(OPTIMIZERS[name][0].rule().slots)
    source = np.ones(arrays * parts * size, np.float32)
    target = np.empty_like(source)
    return lambda: np.copyto(target, source)


def medians_s(steps: dict[str, Step], seconds: float) -> dict[str, float]:
    """Of each, taking turns."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    end = time.perf_counter() + seconds * len(steps)
    while len(next(iter(taken.values()))) < 3 or time.perf_counter() < end:
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in taken.items()}


def row_of(name: str, shard: str, parts: int, size: int, peers: list[str], seconds: float) -> dict[str, Any]:
    steps: dict[str, Step] = {"ours": ours(name, parts, size), "limit": copy(name, parts, size)}
    with without_machine_code():
        steps["numpy"] = ours(name, parts, size)
    for i, step in enumerate(torch_steps(name, parts, size) if "torch" in peers else ()):
        steps[f"torch{i}"] = step
    found = medians_s(steps, seconds)
    torch = [found.pop(key) for key in list(found) if key.startswith("torch")]
    ns = {key: round(taken / (parts * size) * 1e9, 3) for key, taken in found.items()}
    ns_torch = round(min(torch) / (parts * size) * 1e9, 3) if torch else None
    return {"optimizer": name, "shard": shard, "parts": parts, "ns_per_parameter": {**ns, "torch": ns_torch}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", nargs="*", choices=["torch"], help="default: torch; with --smoke none")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--smoke", action="store_true", help="few parameters, no peers: whether it runs at all")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args = parser.parse_args()
    peers = args.peers if args.peers is not None else [] if args.smoke else ["torch"]
    shards, seconds = (SMOKE, 0.0) if args.smoke else (SHARDS, args.seconds)
    rows = [row_of(name, kind, *sizes, peers, seconds) for kind, sizes in shards.items() for name in OPTIMIZERS]
    if args.json:
        print(json.dumps({"rows": rows}))
        return
    for row in rows:
        times = "  ".join(f"{name} {'-' if ns is None else ns}" for name, ns in row["ns_per_parameter"].items())
        print(f"{row['shard']:6} {row['optimizer']:9} ns per parameter: {times}")


if __name__ == "__main__":
    main()
