"""benchmarks/step.py: a small run of each network gives every field."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NETS = ("speech", "mlp", "convnet", "lstm", "local")


@pytest.mark.parametrize("net", NETS)
def test_a_small_run_gives_every_field(net):
    line = [sys.executable, "-m", "benchmarks.step", "--smoke", "--json", "--workloads", net]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (row,) = found["rows"]
    assert set(row) == {"workload", "ours_ms", "torch_ms", "torch_compile_ms", "jax_ms", "ratio", "limit_ms"}
    assert row["workload"] == net and row["ours_ms"] > 0 and row["limit_ms"] > 0 and row["torch_ms"] is None
    assert found["first_step"] == []
