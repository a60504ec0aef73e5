"""One engine with one network of `step.py`, in a process of its own: it reads how many steps to take, and answers with seconds.

    python -m benchmarks.step_worker ENGINE NET ARRAYS.npz [--smoke] [--once]

The first line that it prints is the loss of the first steps. Each line that it reads is a number of steps; it answers with the
seconds of each, as JSON. An empty line ends it. With --once it takes one step, and that is all.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module

import numpy as np

RATE = 0.01
FIRST = 3  # steps whose losses are compared


def make_step(engine: str, net: str, path: str, smoke: bool, once: bool) -> Callable[[], float]:
    with np.load(path) as file:
        arrays = dict(file)
    if engine == "ours":
        step: Callable[[], float] = import_module("benchmarks.step_ours").make_step(net, arrays, RATE, smoke=smoke)
    elif engine == "jax":
        step = import_module("benchmarks.step_jax").make_step(net, arrays, RATE)
    else:
        compiled = engine == "torch_compile"
        step = import_module("benchmarks.step_torch").make_step(net, arrays, RATE, compiled=compiled, once=once)
    return step


def main() -> None:
    engine, net, path, *more = sys.argv[1:]
    step = make_step(engine, net, path, "--smoke" in more, "--once" in more)
    if "--once" in more:
        print(step())
        return
    print(json.dumps([step() for _ in range(FIRST)]), flush=True)
    for line in sys.stdin:
        if not line.strip():
            return
        seconds = []
        for _ in range(int(line)):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
