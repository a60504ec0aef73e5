"""What benchmarks/simulated.py says of its measurements."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))  # benchmarks are no part of the package

from benchmarks.simulated import ENOUGH, agreement


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
