"""The table of measured placements."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def side(step_s: float, nbytes: int) -> dict[str, Any]:
    seconds = dict.fromkeys(("tiles_s", "predicted_s", "measured_s"), step_s)
    return {**seconds, "bytes": nbytes, "tiles_bytes": nbytes, "spread_s": [step_s, step_s]}


def test_other_plans_are_told_in_units_of_ours(tmp_path: Path) -> None:
    sides = {"ours": side(0.5, 1_000_000), "ours_fast": side(0.25, 1_500_000), "mtkahypar": side(1, 250_000)}
    sides["compile"] = {kind: value for kind, value in side(0.4, 500_000).items() if not kind.startswith("tiles")}
    file = tmp_path / "rows.json"
    file.write_text(json.dumps({"rows": [{"net": "conv", "hosts": 2, **sides}]}))
    line = [sys.executable, "-m", "benchmarks.placed", "--table", str(file)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        "| conv | 2 | 1 | 1 | 0.5 | 0.5 | 0.5 (0.5 to 0.5) "
        "| 1.50 | 0.50 | 0.50 | 0.50 | 0.25 | 2.00 | 2.00 | 2.00 | 0.50 | 0.80 | 0.80 |"
    )
