"""benchmarks/figure3.py: the networks are as large as the paper says, and a small run gives every field."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLAN = {
    "step_s", "speedup", "bytes", "messages", "compute_s", "network_s", "busy_machines", "strategy", "seconds",
}  # fmt: skip


def run(*words):
    line = [sys.executable, "-m", "benchmarks.figure3", "--smoke", "--json", "--jobs", "1", *words]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def small():
    return run("--machines", "1", "2")


def test_the_networks_are_as_large_as_the_paper_says(small):
    assert [net["stated"] for net in small["networks"]] == [42e6, 80e6, 330e6, 1.7e9]
    for net in small["networks"]:
        assert net["parameters"] == pytest.approx(net["stated"], rel=0.05), net["net"]


def test_a_small_run_gives_every_field(small):
    assert small["assumptions"]["cores"] == 20
    assert [row["paper"] for row in small["rows"]] == [1.0, 1.36, 1.0, 1.12]
    for row in small["rows"]:
        names = ["auto", "columns" if "speech" in row["net"] else "blocks", "layers"]
        assert list(row["plans"]) == names[: 1 if row["machines"] == 1 else 3]
        assert all(set(one) == PLAN for one in row["plans"].values())


def test_two_machines_are_faster_than_one_and_slower_than_two(small):
    for row in small["rows"]:
        assert row["plans"]["auto"]["busy_machines"] == row["machines"]
        assert row["machines"] / 2 < row["plans"]["auto"]["speedup"] <= row["machines"]


def test_assumptions_are_options_and_kernels_that_vary_make_a_step_longer(small):
    found = run("--nets", "speech", "--machines", "2", "--jitter", "0.5")
    assert found["assumptions"] == small["assumptions"] | {"jitter": 0.5}
    even, uneven = (next(row for row in each["rows"] if row["machines"] == 2)["plans"] for each in (small, found))
    assert even["columns"]["step_s"] < uneven["columns"]["step_s"]
