"""What benchmarks/simulated.py says of its measurements."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))  # benchmarks are no part of the package

import rainshed as rs
from benchmarks.simulated import ENOUGH, agreement, busy_core_seconds, warm_steps
from rainshed.compiler.machines import Cluster
from rainshed.runtime.executor import COMPILE_AT


def row(predicted_s: float, measured_s: float, spread_s: float = 0.0) -> dict[str, Any]:
    return {
        "predicted_s": predicted_s,
        "rated_s": predicted_s,
        "measured_s": measured_s,
        "spread_s": [measured_s - spread_s, measured_s + spread_s],
        "ratio": predicted_s / measured_s,
    }


def test_six_near_plans_in_order_hold() -> None:
    rows = [row(1.1 * 2**i, 2**i) for i in range(ENOUGH)]
    assert agreement(rows)["holds"] and agreement(rows)["in_order"] == ENOUGH
    assert not agreement(rows[1:])["holds"]
    far = agreement([*rows, row(100.0, 1.5)])  # of seven, one is far: six are enough
    assert far["holds"] and far["within_15"] == ENOUGH and far["order"] < 1


def test_of_two_near_plans_in_another_order_one_counts() -> None:
    rows = [row(2**i, 2**i) for i in range(ENOUGH)]
    found = agreement([*rows, row(1.1, 0.97)])
    assert found["within_15"] == ENOUGH + 1 and found["in_order"] == ENOUGH and found["holds"]
    assert not agreement([*rows[:-1], row(1.1, 0.97)])["holds"]
    assert agreement([*rows, row(1.1, 0.97, spread_s=0.1)])["in_order"] == ENOUGH + 1  # those two cannot be told apart


def test_steps_count_when_their_kernels_are_machine_code() -> None:
    """Short steps are compiled late; a step of a second or more at once."""
    h = rs.layers.dense(rs.input("x", (32, 64)), 64)
    graph = rs.graph(loss=rs.mean(rs.square(h)), optimizer=rs.SGD(0.01))
    cluster = Cluster.local(2, cores=1)
    slow = replace(cluster, machines=tuple(replace(m, flops=1e4) for m in cluster.machines))
    assert warm_steps(rs.compile(graph, cluster, strategy="batch")) == COMPILE_AT + 1
    assert warm_steps(rs.compile(graph, slow, strategy="batch")) == 2


def test_cores_are_busy_for_no_longer_than_there_are_cores() -> None:
    began, busy = time.perf_counter(), busy_core_seconds()
    sum(range(10**6))
    assert 0 <= busy_core_seconds() - busy <= (os.cpu_count() or 1) * (time.perf_counter() - began + 0.1)
