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
def speech():
    return run("--nets", "speech")


def test_the_networks_are_as_large_as_the_paper_says(speech):
    assert [net["stated"] for net in speech["networks"]] == [42e6, 80e6, 330e6, 1.7e9]
    for net in speech["networks"]:
        assert net["parameters"] == pytest.approx(net["stated"], rel=0.05), net["net"]


def test_a_small_run_gives_every_field(speech):
    assert speech["assumptions"]["cores"] == 20 and speech["by_hand_faster"] == []
    assert [(row["net"], row["machines"], row["paper"]) for row in speech["rows"]] == [
        ("speech 42M", 1, 1.0),
        ("speech 42M", 2, 1.36),
    ]
    alone, pair = (row["plans"] for row in speech["rows"])
    assert list(alone) == ["auto"] and list(pair) == ["auto", "columns", "grids", "layers"]
    assert all(set(one) == PLAN for one in (*alone.values(), *pair.values()))
    assert alone["auto"]["speedup"] == 1 and alone["auto"]["messages"] == 0
    assert 1 < pair["columns"]["speedup"] <= pair["auto"]["speedup"] < 2
    assert pair["auto"]["busy_machines"] == pair["layers"]["busy_machines"] == 2


def test_images_in_blocks():
    """Four blocks have half a border each way: what crosses per machine is that of two."""
    rows = run("--nets", "80M", "--machines", "2", "4", "--plans", "blocks")["rows"]
    two, four = (row["plans"]["blocks"] for row in rows)
    assert 1 < two["speedup"] < 2 < four["speedup"] < 4
    assert four["network_s"] == pytest.approx(two["network_s"], rel=0.15)


def test_plans_are_kept_and_shown_without_being_made_again(tmp_path):
    kept = tmp_path / "plans.jsonl"
    words = ("--nets", "speech", "--plans", "columns", "--kept", str(kept))
    first = run(*words, "--machines", "2")
    assert len(kept.read_text().splitlines()) == 2
    run(*words, "--machines", "3")
    found = run(*words, "--machines", "2", "3", "4", "--jobs", "0")
    assert found["rows"][0] == first["rows"][0] and [row["machines"] for row in found["rows"]] == [2, 3]
    assert run(*words, "--machines", "2", "--batch", "64")["rows"][0] != first["rows"][0]


def test_assumptions_are_options_and_kernels_that_vary_make_a_step_longer(speech):
    found = run("--nets", "speech", "--machines", "2", "--plans", "columns", "--jitter", "0.5")
    assert found["assumptions"] == speech["assumptions"] | {"jitter": 0.5}
    even, uneven = speech["rows"][1]["plans"]["columns"], found["rows"][0]["plans"]["columns"]
    assert even["step_s"] < uneven["step_s"] and even["bytes"] == uneven["bytes"]
