"""Training steps on this computer beside PyTorch, torch.compile and JAX: the same networks and weights, alternating.

    python -m benchmarks.step [--workloads mlp lstm] [--peers torch torch_compile jax] [--seconds 20] [--json]
    python -m benchmarks.step --first-step [alone] [--workloads mlp lstm] [--peers jax] [--json]

Each engine runs each network in a process of its own; the processes take turns, so that what disturbs the computer disturbs
all. A row holds the median of all steps. `limit_ms` is what the products and convolutions of the step would take at the rate
of a large product and at the bandwidth of a copy, both measured in the same run. `heaviest` is the fraction of such a limit that
the heaviest kernels reach, those that make up half of all kernels' time, on one thread. The first losses must agree.
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import rainshed as rs
from benchmarks.executor import best_s
from benchmarks.step_all import NETS
from benchmarks.step_worker import RATE
from rainshed.compiler.plan import Program, Run
from rainshed.ops import CATALOGUE
from rainshed.ops.init import Init
from rainshed.runtime.measure import measure_kernels

PEERS = ("torch", "torch_compile", "jax")
ROOT = Path(__file__).parents[1]
HEAVY = ("product", "convolution")
BLOCK_S = 0.4  # how long one engine runs before it is another's turn
AGREE = 2e-3  # relative difference of the losses of different engines
FIRST = ("mlp", "convnet", "lstm")
PROCESSES = 3  # whose median is the time to the first step


# -- one engine in a process ------------------------------------------------------------------------------------------
@dataclass(eq=False)
class Engine:
    """A worker that has taken its first steps. Raises RuntimeError, with what it printed, if it ended."""

    process: subprocess.Popen[str]
    losses: list[float] = field(default_factory=list)
    block: int = 1  # steps in one turn
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, name: str, net: str, arrays: Path, smoke: bool) -> Engine:
        process = subprocess.Popen(
            _command(name, net, arrays, smoke), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        engine = cls(process)
        engine.losses = engine._answer()
        return engine

    def turn(self) -> list[float]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self.block}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> list[float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with {self.process.wait()}: {' '.join(map(str, self.process.args))}")  # type: ignore[arg-type]
        found: list[float] = json.loads(line)
        return found

    def close(self) -> None:
        self.process.communicate("\n")


def _command(name: str, net: str, arrays: Path, smoke: bool, *more: str) -> list[str]:
    line = [sys.executable, "-m", "benchmarks.step_worker", name, net, str(arrays), *more]
    return [*line, "--smoke"] if smoke else line


def _draw(net: str, folder: Path, smoke: bool) -> Path:
    """The file with the first weights and the batch."""
    one = NETS[net]
    sizes = one.smoke if smoke else one.sizes
    random = np.random.default_rng(7)
    arrays = one.draw(random, sizes)
    for name, node in one.graph(sizes, RATE).variables.items():
        init: Init = node.attrs["init"]
        shape = tuple(int(n) for n in node.shape if isinstance(n, int))
        arrays[name] = np.empty(shape, np.float32)
        init.fill(arrays[name], seed=0, name=name, whole=shape, offset=(0,) * len(shape))
    path = folder / f"{net}.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


# -- a row ------------------------------------------------------------------------------------------------------------
def row_of(net: str, names: Sequence[str], arrays: Path, seconds: float, smoke: bool, bounds: Bounds) -> dict[str, Any]:
    """The medians of all engines. Raises RuntimeError if their first losses differ."""
    engines: dict[str, Engine] = {}
    try:
        for name in names:
            engines[name] = Engine.start(name, net, arrays, smoke)
        _check(net, engines)
        for engine in engines.values():
            once = min(engine.turn())
            engine.block = max(2, min(2000, int(BLOCK_S / once)))
        end = time.perf_counter() + seconds
        while True:
            for engine in engines.values():
                engine.seconds += engine.turn()[1:]  # the first of a turn finds cold caches
            if time.perf_counter() >= end:
                break
    finally:
        for engine in engines.values():
            engine.close()
    limits, alone = bounds
    ms = {name: statistics.median(engine.seconds) * 1e3 for name, engine in engines.items()}
    peers = [value for name, value in ms.items() if name != "ours"]
    return {
        "workload": net,
        **{f"{name}_ms": round(ms[name], 4) if name in ms else None for name in ("ours", *PEERS)},
        "ratio": round(ms["ours"] / min(peers), 3) if peers else None,
        "limit_ms": round(limits.step_ms(_program(net, smoke)), 4),
        "heaviest": round(alone.heaviest(_program(net, smoke), 0.0 if smoke else 1.0), 3),
    }


def _check(net: str, engines: Mapping[str, Engine]) -> None:
    ours = engines["ours"].losses
    for name, engine in engines.items():
        if not np.allclose(engine.losses, ours, rtol=AGREE):
            raise RuntimeError(f"{net}: the first losses differ: ours {ours}, {name} {engine.losses}")


@dataclass(frozen=True)
class Limits:
    """What this computer can do: flops_per_s of a product of 2048 x 2048 float32, bytes_per_s read and written by a copy."""

    flops_per_s: float
    bytes_per_s: float

    @classmethod
    def measured(cls, smoke: bool, threads: int | None) -> Limits:
        """With so many threads of a product; None: as many as it takes by itself. A copy has one."""
        n, seconds = (64, 0.01) if smoke else (2048, 1.0)
        a, b = (np.random.default_rng(i).standard_normal((n, n), np.float32) for i in (0, 1))
        out = np.empty_like(a)
        with threadpool_limits(threads, "blas"):
            product = best_s(lambda: np.matmul(a, b, out=out), seconds)
        source = np.ones(n * n * 8, np.float32)
        target = np.empty_like(source)
        copy = best_s(lambda: np.copyto(target, source), seconds)
        return cls(2 * n**3 / product, 2 * source.nbytes / copy)

    def seconds(self, run: Run) -> float:
        return max(run.flops / self.flops_per_s, run.nbytes / self.bytes_per_s)

    def step_ms(self, program: Program) -> float:
        """All products and convolutions of the step, each at what limits it."""
        runs = [i for i in program.instructions if isinstance(i, Run)]
        return sum(self.seconds(r) for r in runs if CATALOGUE[r.op].work in HEAVY) * 1e3

    def heaviest(self, program: Program, budget_s: float) -> float:
        """What fraction of these limits the kernels reach that take most time."""
        taken = measure_kernels(program, CATALOGUE, budget_s).seconds
        runs = [(s, self.seconds(i)) for s, i in zip(taken, program.instructions, strict=True) if isinstance(i, Run)]
        half, spent, least = sum(taken) / 2, 0.0, 0.0
        for own, limit in sorted(runs, reverse=True):
            if spent >= half:
                break
            spent, least = spent + own, least + limit
        return least / spent if spent else 0.0  # kernels too short to be measured


Bounds = tuple[Limits, Limits]  # of all cores, and of one thread


def _program(net: str, smoke: bool) -> Program:
    one = NETS[net]
    return rs.compile(one.graph(one.smoke if smoke else one.sizes, RATE), rs.Cluster.local(1)).programs[0]


# -- the first step ---------------------------------------------------------------------------------------------------
def first_step(net: str, names: Sequence[str], arrays: Path, smoke: bool) -> dict[str, Any]:
    """Seconds of a whole process that takes one step, medians of PROCESSES: ours with an empty cache and then with what that has
    left there, the peers' with empty caches. What it comes to is told on stderr as it goes.

    Python's bytecode of all of them is there, as an installer leaves it.
    """
    asked = [name for name in ("jax", "torch_compile") if name in names]
    seconds: dict[str, list[float]] = {key: [] for key in ("cold", "warm", *asked)}
    subprocess.run([sys.executable, "-c", "import benchmarks.step_ours"], cwd=ROOT, env=_environment(""), check=True)

    def take(key: str, name: str, cache: str) -> None:
        line, began = _command(name, net, arrays, smoke, "--once"), time.perf_counter()
        subprocess.run(line, cwd=ROOT, env=_environment(cache), check=True, stdout=subprocess.DEVNULL)
        seconds[key].append(time.perf_counter() - began)
        print(f"{net}: first step, {key}: {seconds[key][-1]:.2f} s", file=sys.stderr, flush=True)

    for _ in range(1 if smoke else PROCESSES):
        with tempfile.TemporaryDirectory() as cache:
            take("cold", "ours", cache)
            take("warm", "ours", cache)
        for name in asked:
            with tempfile.TemporaryDirectory() as cache:
                take(name, name, cache)
    found = {f"{key}_s": round(statistics.median(of), 2) for key, of in seconds.items()}
    return {"workload": net, **{key: found.get(key) for key in ("cold_s", "warm_s", "jax_s", "torch_compile_s")}}


def _environment(cache: str) -> dict[str, str]:
    """Of a process that keeps compiled code in this folder, and may write bytecode; "": where it does anyway."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "XDG_CACHE_HOME": cache, "TORCHINDUCTOR_CACHE_DIR": f"{cache}/torch"} if cache else kept


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=tuple(NETS), default=list(NETS))
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="default: all; with --smoke none")
    parser.add_argument("--seconds", type=float, default=20.0, help="measuring time per workload")
    parser.add_argument(
        "--first-step",
        nargs="?",
        const="also",
        choices=("also", "alone"),
        help="also whole processes to the end of their first step; alone: nothing else",
    )
    parser.add_argument("--smoke", action="store_true", help="tiny networks, no peers: whether it runs at all")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args = parser.parse_args()
    peers = args.peers if args.peers is not None else () if args.smoke else PEERS
    names = ["ours", *peers]
    rows = args.first_step != "alone"
    bounds = (Limits.measured(args.smoke, None), Limits.measured(args.smoke, 1)) if rows else None
    found: dict[str, Any] = {"rows": [], "first_step": []}
    with tempfile.TemporaryDirectory() as folder:
        for net in args.workloads:
            arrays = _draw(net, Path(folder), args.smoke)
            if bounds is not None:
                row = row_of(net, names, arrays, 0.0 if args.smoke else args.seconds, args.smoke, bounds)
                found["rows"].append(row)
            if args.first_step and net in FIRST:
                found["first_step"].append(first_step(net, names, arrays, args.smoke))
    if args.json:
        print(json.dumps(found))
        return
    if bounds is not None:
        print(f"product {bounds[0].flops_per_s / 1e9:.0f} GFLOP/s, copy {bounds[0].bytes_per_s / 1e9:.1f} GB/s")
    for table in found.values():
        for row in table:
            print("  ".join(f"{key} {'-' if value is None else value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
