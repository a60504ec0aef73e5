"""Training and checkpoints with precision="bf16", and its words on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import rainshed as rs
from rainshed.engine.cli import main
from rainshed.engine.datasets import digits
from rainshed.engine.methods import Downpour, Method, Single, TrainingOptions
from rainshed.engine.training import train
from rainshed.ops.ir import Graph

PROGRAM = Path(__file__).parents[2] / "examples" / "digits.py"
STEPS = 60


def mlp() -> Graph:
    image, label = rs.input("image", (None, 8, 8, 1)), rs.input("label", (None,), "int32")
    h = rs.layers.dense(rs.layers.flatten(image), 32, activation=rs.relu)
    logits = rs.layers.dense(h, 10)
    return rs.graph(loss=rs.mean(rs.softmax_cross_entropy(logits, label)), outputs={"logits": logits})


def by_rows() -> Graph:
    """An LSTM that reads an image row by row."""
    image, label = rs.input("image", (None, 8, 8, 1)), rs.input("label", (None,), "int32")
    logits = rs.layers.dense(rs.layers.lstm(rs.reshape(image, shape=(-1, 8, 8)), 24), 10)
    return rs.graph(loss=rs.mean(rs.softmax_cross_entropy(logits, label)), outputs={"logits": logits})


def options(precision: str, method: Method | None = None, **more: object) -> TrainingOptions:
    told = {"optimizer": rs.Adagrad(0.05), "batch": 32, "backend": "threads", "strategy": "batch", **more}
    return TrainingOptions(method=method or Single(), precision=precision, **told)  # type: ignore[arg-type]


def held_out_loss(graph: Graph, values: dict[str, np.ndarray]) -> float:
    """In float32, whatever the training was in."""
    given = digits().test
    bound = graph.bind(batch=len(given["label"]))
    return float(rs.evaluate(bound.outputs["loss"], given, variables=values))


@pytest.mark.parametrize("build", [mlp, by_rows])
def test_it_reaches_the_loss_of_float32(build) -> None:
    """Within 3 % on images that it has not seen."""
    loss = {}
    for precision in ("float32", "bf16"):
        values, _ = train(build(), digits().train, options(precision), steps=STEPS)
        assert all(value.dtype == np.float32 for value in values.values())
        loss[precision] = held_out_loss(build(), values)
    assert loss["float32"] < 1.6
    assert loss["bf16"] == pytest.approx(loss["float32"], rel=0.03)


def test_masters_move_by_steps_too_small_for_bfloat16(tmp_path: Path) -> None:
    told = options("bf16", optimizer=rs.SGD(1e-5), checkpoint=tmp_path)
    before, _ = train(mlp(), digits().train, told, steps=1)
    after, _ = train(mlp(), digits().train, options("bf16", optimizer=rs.SGD(1e-5)), steps=3)
    moved = np.abs(after["dense/w"] - before["dense/w"])
    assert moved.max() > 0 and (moved < 2**-9 * np.abs(before["dense/w"]))[moved > 0].mean() > 0.9
    with rs.Session(mlp().bind(batch=4)) as session:
        session.load(tmp_path)
        np.testing.assert_array_equal(session.variables()["dense/w"], before["dense/w"], strict=True)


def test_downpour_pushes_gradients_of_float32() -> None:
    values, result = train(mlp(), digits().train, options("bf16", Downpour(2, 1)), steps=40)
    assert result.applied == result.pushes > 0
    assert all(value.dtype == np.float32 for value in values.values())


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["compile", f"{PROGRAM}:build", "--batch", "4", "--precision", "bf16"]
    assert main([*words, "--show", "lower_precision"]) == 0
    assert "astype(" in (shown := capsys.readouterr().out) and "bf16[4, 8, 8, 1]" in shown
    plan = tmp_path / "plan.json"
    assert main([*words, "-o", str(plan), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"].startswith("bf16: 14 products and convolutions")
    page = tmp_path / "plan.html"
    assert main(["show", str(plan), "-o", str(page)]) == 0
    assert "read bfloat16" in page.read_text()
    with pytest.raises(SystemExit) as refused:
        main([*words[:-1], "half"])
    assert refused.value.code == 2 and "invalid choice: 'half'" in capsys.readouterr().err
