"""What one step takes for a placement of tiles: an event list over machines and their network interfaces, in microseconds of work.

Model  as compiler/simulate.py: a machine runs its tiles in order; what another machine needs of a tile goes there as one message,
       when both interfaces are free; gradients come back along the same ways, and shared weights go round before and after.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from rainshed.compiler.partition.atoms import Tasks


@dataclass(frozen=True, slots=True)
class Rates:
    """Of each machine: flops per second; from each machine to each: bytes per second, and seconds until a message arrives.

    Shapes  flops: f64[machines]; bytes_per_s, latency_s: f64[machines, machines]
    """

    flops: np.ndarray
    bytes_per_s: np.ndarray
    latency_s: np.ndarray


@cache
def _loop() -> Any:
    """The compiled loop. Loaded late: to import Numba takes longer than to make most plans."""
    return import_module("rainshed.compiler.partition.loops_of_step")


def simulate_tiles(tasks: Tasks, home: np.ndarray, rates: Rates) -> tuple[float, int]:
    """Seconds of a step, and messages, with vertex v on machine home[v]."""
    first = np.searchsorted(tasks.maker, np.arange(-1, len(tasks.vertex) + 1)).astype(np.int64)
    arrays = (tasks.vertex, tasks.work, tasks.behind, first, tasks.starts, tasks.readers, tasks.nbytes, tasks.returns)
    seconds, messages = _loop().run_tiles(arrays, home, rates.flops, rates.bytes_per_s, rates.latency_s)
    return float(seconds), int(messages)
