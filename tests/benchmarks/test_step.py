"""benchmarks/step.py and chain.py: a small run of each network gives every field; three of those of `step_shapes.py` in a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NETS = ("speech", "mlp", "convnet", "lstm", "local")
SHAPES = (
    ["wide", "thin", "single"],
    ["inference", "strided", "separable"],
    ["residual", "words", "attention"],
    ["autoencoder", "logistic", "gru"],
)
ROOT = Path(__file__).parents[2]
FIELDS = {"workload", "ours_ms", "torch_ms", "torch_compile_ms", "jax_ms", "ratio", "limit_ms", "heaviest"}


def run(*words: str) -> Any:
    line = [sys.executable, "-m", *words, "--smoke", "--json"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("nets", [*([net] for net in NETS), *SHAPES], ids="-".join)
def test_a_small_run_gives_every_field(nets):
    found = run("benchmarks.step", "--workloads", *nets)
    assert [row["workload"] for row in found["rows"]] == nets and found["first_step"] == []
    for row in found["rows"]:
        assert set(row) == FIELDS and row["torch_ms"] is None
        assert row["ours_ms"] > 0 and row["limit_ms"] > 0 and row["heaviest"] >= 0


def test_the_first_step_alone():
    found = run("benchmarks.step", "--workloads", "mlp", "--first-step", "alone")
    (row,) = found["first_step"]
    assert row["workload"] == "mlp" and row["jax_s"] is None and row["torch_compile_s"] is None and found["rows"] == []
    assert row["cold_s"] > 0 and row["warm_s"] > 0


def test_chains_and_wide_graphs():
    rows = run("benchmarks.chain")["rows"]
    assert [(row["shape"], row["nodes"]) for row in rows] == [("chain", 10), ("wide", 10)]
    assert all(row["us_per_node"]["ours"] > 0 and row["us_per_node"]["torch"] is None for row in rows)
