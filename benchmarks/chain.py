"""How the time of a step grows with the number of tiny nodes, in a chain and side by side, beside PyTorch eager and jax.jit.

    python -m benchmarks.chain [--lengths 10 100 1000 10000] [--peers torch jax] [--seconds 1] [--smoke] [--json]

Each node is a product of a 4 x 4 matrix and the one before it, or the input: nothing that fuses. `us_per_node` is the median
step over the number of nodes, with machine code (`ours`) and with NumPy's kernels only (`numpy`). Where a node is a hundred
times larger, what it takes is its own; here it is the engine's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

import rainshed as rs

PEERS = ("torch", "jax")
SHAPES = ("chain", "wide")
LONGEST = {"jax": 1000}  # it takes minutes to compile more
EDGE = 4
Step = Callable[[], object]


def _arrays() -> tuple[np.ndarray, np.ndarray]:
    """The input, and a matrix that keeps numbers as large as they are."""
    random = np.random.default_rng(0)
    turned, _ = np.linalg.qr(random.standard_normal((EDGE, EDGE)))
    return random.standard_normal((EDGE, EDGE), np.float32), turned.astype(np.float32)


def ours(shape: str, length: int, kernels: str) -> tuple[Step, rs.Session]:
    x, w = _arrays()
    a = rs.input("x", (EDGE, EDGE))
    weights = [rs.variable(f"w{i}", (EDGE, EDGE), init=0.5) for i in range(length if shape == "wide" else 1)]
    if shape == "wide":
        outputs = {f"y{i}": rs.matmul(a, one) for i, one in enumerate(weights)}
    else:
        h = a
        for _ in range(length):
            h = rs.matmul(h, weights[0])
        outputs = {"y": h}
    os.environ["RAINSHED_KERNELS"] = kernels
    session = rs.Session(rs.graph(outputs=outputs))
    session.set_variables(dict.fromkeys((f"w{i}" for i in range(len(weights))), w))
    return lambda: session.run({"x": x}), session


def torch_step(shape: str, length: int) -> Step:
    torch: Any = import_module("torch")
    x, w = (torch.from_numpy(a) for a in _arrays())
    weights = [w.clone() for _ in range(length if shape == "wide" else 1)]

    def step() -> None:
        if shape == "wide":
            for one in weights:
                x @ one
        else:
            h = x
            for _ in range(length):
                h = h @ weights[0]

    return torch.inference_mode()(step)  # type: ignore[no-any-return]


def jax_step(shape: str, length: int) -> Step:
    jax: Any = import_module("jax")
    x, w = (jax.numpy.asarray(a) for a in _arrays())
    weights = [w + i for i in range(length if shape == "wide" else 1)]

    def chain(x: Any, weights: list[Any]) -> Any:
        if shape == "wide":
            return [x @ one for one in weights]
        for _ in range(length):
            x = x @ weights[0]
        return x

    run = jax.jit(chain)
    return lambda: jax.block_until_ready(run(x, weights))


def median_s(step: Step, seconds: float) -> float:
    for _ in range(12):  # beyond the step at which machine code is made
        step()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def row_of(shape: str, length: int, peers: tuple[str, ...], seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {"shape": shape, "nodes": length}
    for name, kernels in (("ours", "native"), ("numpy", "numpy")):
        step, session = ours(shape, length, kernels)
        with session:
            found[name] = median_s(step, seconds)
    steps = {"torch": torch_step, "jax": jax_step}
    for name in PEERS:
        wanted = name in peers and length <= LONGEST.get(name, length)
        found[name] = median_s(steps[name](shape, length), seconds) if wanted else None
    per_node = {n: None if found[n] is None else round(found[n] / length * 1e6, 3) for n in ("ours", "numpy", *PEERS)}
    return {"shape": shape, "nodes": length, "us_per_node": per_node}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lengths", nargs="+", type=int, default=[10, 100, 1000, 10000])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="default: all; with --smoke none")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--smoke", action="store_true", help="a few nodes, no peers: whether it runs at all")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args = parser.parse_args()
    peers = tuple(args.peers if args.peers is not None else () if args.smoke else PEERS)
    lengths, seconds = ([10], 0.0) if args.smoke else (args.lengths, args.seconds)
    rows = [row_of(shape, length, peers, seconds) for shape in args.shapes for length in lengths]
    if args.json:
        print(json.dumps({"rows": rows}))
        return
    for row in rows:
        times = "  ".join(f"{name} {'-' if us is None else us}" for name, us in row["us_per_node"].items())
        print(f"{row['shape']:6} {row['nodes']:6} nodes, us per node: {times}")


if __name__ == "__main__":
    main()
