"""Every benchmark runs in a small size, without its peers, and prints the JSON that it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run(module: str, *words: str) -> Any:
    line = [sys.executable, "-m", f"benchmarks.{module}", "--json", *words]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_executor() -> None:
    found = run("executor", "--seconds", "0.02")
    assert found and all(value > 0 for value in found.values())


def test_kernels() -> None:
    found = run("kernels", "--seconds", "0.01", "--batch", "2", "--no-peers")
    assert len(found["rows"]) == 14 and found["torch"] is None and all(rate > 0 for rate in found["limits"].values())
    assert all(row["ours_rate"] > 0 and row["two_threads"] > 0 and row["ratio"] is None for row in found["rows"])


def test_transport() -> None:
    found = run("transport", "--seconds", "0.02")
    assert {"tcp", "inproc"} <= {name.partition(":")[0] for name in found}
    assert all(value > 0 for sizes in found.values() for value in sizes.values())


def test_compile_time() -> None:
    found = run("compile_time", "--smoke")
    assert found["rows"] and all(row["seconds"] > 0 and row["tiles"] > 0 for row in found["rows"])


def test_partition() -> None:
    (row,) = run("partition", "--nets", "speech42", "--machines", "2", "--no-peers")["rows"]
    assert row["net"] == "speech42" and row["machines"] == 2 and "metis" not in row
    ours, fast, block = row["ours"], row["ours_fast"], row["block"]
    assert ours["within_caps"] and ours["phase_balance"] <= 1.10 and 0 < ours["bytes"] <= block["bytes"]
    assert 0 < fast["step_s"] <= min(ours["step_s"], block["step_s"])


def test_onnx_models() -> None:
    (row,) = run("onnx_models", "squeezenet", "--machines", "1", "--batch", "1")["rows"]
    assert row["net"] == "squeezenet" and row["plan_error"] < 1e-5 and row["spread_of_scores"] < 1e-6


def test_updates() -> None:
    rows = run("updates", "--smoke")["rows"]
    assert len(rows) == 8
    for row in rows:
        ns = row["ns_per_parameter"]
        assert ns["torch"] is None and all(ns[name] > 0 for name in ("ours", "numpy", "limit"))


def test_memory() -> None:
    found = run("memory", "--smoke")
    assert len(found["rows"]) == 5 and all(row["planned_nbytes"] >= row["least_nbytes"] > 0 for row in found["rows"])
    assert found["deep"][0]["fits"] and found["deep"][1]["planned_nbytes"] <= found["deep"][1]["room_nbytes"]


@pytest.mark.parametrize("net", ["speech", "images"])
def test_paper_scale(net: str) -> None:
    one, two = run("paper_scale", "--net", net, "--smoke", "--machines", "1", "2", "--steps", "1")["rows"]
    assert one["machines"] == 1 and two["machines"] == 2 and one["parameters_nbytes"] == two["parameters_nbytes"]
    for row in (one, two):
        assert row["step_s"] > 0 and all(n > 0 for n in row["peak_nbytes"].values())
    assert one["loss"][0] == pytest.approx(two["loss"][0], rel=1e-4)
