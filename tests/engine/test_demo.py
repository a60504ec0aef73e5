"""The demo: what it trains, what it writes, and what it tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import rainshed as rs
from rainshed.compiler.plan import Run
from rainshed.engine.cli import main
from rainshed.engine.commands.common import OK, USAGE
from rainshed.engine.datasets import Split
from rainshed.engine.demo import DEMOS, DemoOptions, demo_of, options_of, run_demo, score
from rainshed.ops.errors import UsageError
from rainshed.ops.evaluate import initial_value


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("key", DEMOS, ids=" ".join)
def test_every_machine_has_work_and_none_has_all_variables(key):
    demo = DEMOS[key]
    options = options_of(demo, DemoOptions())
    plan = rs.compile(demo.build(True).bind(batch=demo.batch), options.cluster, strategy=options.strategy)
    assert len(plan.machines) == 4
    for program in plan.programs:
        assert sum(isinstance(i, Run) for i in program.instructions) > 10
    held = [sum(p.values[v.value].nbytes for v in p.variables if v.trainable) for p in plan.programs]
    assert max(held) < sum(held)
    assert plan.prediction.bytes > 0


@pytest.mark.parametrize("key", DEMOS, ids=" ".join)
def test_both_graphs_of_a_demo_have_the_same_variables(key):
    train, infer = (DEMOS[key].build(training) for training in (True, False))
    assert {n: v.type for n, v in train.variables.items()} == {n: v.type for n, v in infer.variables.items()}
    ops = {node.op.name for node in infer.nodes()}
    assert not any(name.startswith("random") or name == "step" for name in ops)


def test_accuracy_of_frames_and_utterances():
    """With all weights 0 every class is equally likely, and the first one wins."""
    demo = DEMOS["speech", "mlp"]
    test = {
        "window": np.zeros((1030, 11, 12), np.float32),
        "label": np.repeat(np.array([0, 1], np.int32), [206, 824]),
        "utterance": np.repeat(np.arange(5, dtype=np.int32), 206),
    }
    variables = {name: np.zeros(v.shape, np.float32) for name, v in demo.build(False).variables.items()}
    assert score(demo, Split({}, test), variables) == (0.2, 0.2)
    del test["utterance"]
    assert score(demo, Split({}, test), variables) == (0.2, None)


def test_a_demo_by_its_words():
    assert demo_of("digits", None) is DEMOS["digits", "local"]
    assert demo_of("speech", "lstm") is DEMOS["speech", "lstm"]
    with pytest.raises(UsageError, match="no demo of digits"):
        demo_of("digits", "mlp")


def test_a_single_demo_learns_in_this_process():
    result = run_demo(DEMOS["digits", "local"], DemoOptions(single=True, steps=150))
    assert result.accuracy > 0.8 and result.pids == {"coordinator": os.getpid()}
    assert result.page is None and result.result.bytes_sent == 0


def test_the_same_seed_gives_the_same_result_in_one_process():
    found = [run_demo(DEMOS["speech", "mlp"], DemoOptions(single=True, steps=8)) for _ in range(2)]
    assert found[0].result.loss == found[1].result.loss and found[0].utterances == found[1].utterances


def test_initial_loss_is_that_of_a_guess():
    demo = DEMOS["digits", "local"]
    split, graph = demo.data(), demo.build(False)
    accuracy, _ = score(demo, split, {name: initial_value(v, 0) for name, v in graph.variables.items()})
    assert accuracy < 0.3


def test_the_folder_must_be_one(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", f"{tmp_path}/file"]) == USAGE
    assert "cannot make the folder" in capsys.readouterr().err


@pytest.mark.process
def test_a_short_demo(tmp_path):
    words = ["--machines", "2", "--replicas", "2", "--servers", "2", "--steps", "120", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "rainshed", "demo", *words, "--out", tmp_path / "new"],
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
    )
    assert done.returncode == OK, done.stderr
    found = json.loads(done.stdout)
    assert found["accuracy"] > 0.8
    assert (found["machines"], found["replicas"], found["servers"]) == (2, 2, 2)
    assert found["steps"] == 120 and found["seconds"] > found["train_seconds"] > 0
    assert found["pushes"] == found["applied"] > 0 and found["bytes_sent"] > 120 * found["bytes_per_step"]
    assert found["measured_bytes_per_step"] == found["bytes_per_step"]
    assert found["step"]["bytes"]["ratio"] == 1 and found["step"]["machines"]["m0"]["busy"]["measured"] > 0
    assert len(set(found["pids"])) == 1 + 2 * 2 + 2
    assert set(found["processes"]) == {"coordinator", "s0", "s1"} | {f"r{r}/m{m}" for r in range(2) for m in range(2)}
    assert not any(alive(pid) for pid in found["pids"])
    assert "7 processes" in done.stderr and "steps " in done.stderr
    page = (tmp_path / "new" / "plan.html").read_text()
    assert "Measured step" in page and "2 machines" in page
    events = json.loads((tmp_path / "new" / "trace.json").read_text())["traceEvents"]
    assert {e["args"]["name"] for e in events if e["name"] == "process_name"} == {
        *(f"r{r}/m{m}" for r in range(2) for m in range(2)),
        *(f"r0/m{m} predicted" for m in range(2)),
    }
    assert {e["ph"] for e in events} >= {"X", "s", "f", "C"}
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["plan.html", "trace.json"]


@pytest.mark.process
def test_the_demo_explains_what_was_seen(tmp_path, capsys):
    words = ["--machines", "2", "--replicas", "2", "--servers", "1", "--steps", "20", "--quiet"]
    assert main(["demo", "speech", *words, "--out", str(tmp_path)]) == OK
    out, err = capsys.readouterr()
    assert "of the utterances, after 20 steps" in out and "splits it on purpose" in out
    assert f"{tmp_path}/plan.html" in out and "ui.perfetto.dev" in out
    assert not err
