"""The command line: words, exit codes, files, and what goes to which stream."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import rainshed as rs
from rainshed.compiler.pipeline import PASSES
from rainshed.engine.checkpoint import checkpoints
from rainshed.engine.cli import COMMANDS, main, parser
from rainshed.engine.commands.common import FAILED, OK, REFUSED, RESUMABLE, USAGE
from rainshed.engine.commands.train import optimizer_from
from rainshed.engine.doctor import examine, launcher, token
from rainshed.ops.errors import GraphError, UsageError
from rainshed.runtime.auth import new_token, write_token

ROOT = Path(__file__).parents[2]

PROGRAM = """
import numpy as np
import rainshed as rs

def build(units=8, training=True, rate=0.1):
    x = rs.input("x", (None, 4))
    y = rs.layers.dense(rs.layers.dense(x, units, activation=rs.tanh), 3)
    if not training:
        return rs.graph(outputs={"y": y})
    loss = rs.mean(rs.softmax_cross_entropy(y, rs.input("label", (None,), "int32")))
    return rs.graph(loss=loss, outputs={"y": y}, optimizer=rs.Adagrad(rate))

@rs.op(signature="()->()")
def plus_one(x):
    return x + 1

def own():
    return rs.graph(outputs={"file": plus_one(rs.input("x", (3,)))})

def nothing():
    return 7

def mistaken():
    return rs.graph(outputs={"y": rs.input("x", (2, 3)) @ rs.input("z", (2, 3))})

number = 7
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return f"{tmp_path}/program.py"


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 4), np.float32)
    np.savez(tmp_path / "data.npz", x=x, label=x[:, :3].argmax(axis=1).astype(np.int32))
    return f"{tmp_path}/data.npz"


def run(capsys, *words, code=OK):
    """Runs a command; gives what it wrote to the standard output and error."""
    found = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert found == code, err
    return out, err


# -- words ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*([command] if command else []), "--help"])
    out, _ = capsys.readouterr()
    assert end.value.code == OK
    assert "rainshed" in out and ("examples:" in out if command else "exit codes" in out)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_help_are_right(command):
    """Each parses, and the programs that it names are there."""
    lines = COMMANDS[command].EXAMPLES.replace("\\\n", " ").splitlines()
    mine = [shlex.split(line.strip(), comments=True) for line in lines if line.strip().startswith("rainshed")]
    assert mine
    for words in mine:
        args = parser().parse_args(words[1:])
        file, _, name = getattr(args, "program", "").partition(":")
        if file:
            assert f"def {name}(" in (ROOT / file).read_text()


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == OK and capsys.readouterr().out == f"rainshed {rs.__version__}\n"


@pytest.mark.parametrize(
    "words,says",
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice"),
        (["compile"], "FILE.py:FUNCTION"),
        (["compile", "{p}:build", "--show", "magic"], "invalid choice"),
        (["compile", "{p}:build", "--machines", "0"], "not 1 or more"),
        (["compile", "{p}:build", "--machines", "2", "--cluster", "c.toml"], "not allowed with"),
        (["train", "{p}:build", "--data", "d.npz"], "one of the arguments --steps --epochs"),
        (["demo", "cats"], "invalid choice"),
        (["show", "plan.json", "--width", "-1"], "not 1 or more"),
        (["explain", "plan.json", "--threshold", "-1"], "negative"),
    ],
)
def test_words_that_no_command_takes(words, says, program, capsys):
    with pytest.raises(SystemExit) as end:
        main([word.format(p=program) for word in words])
    assert end.value.code == USAGE and says in capsys.readouterr().err


@pytest.mark.parametrize(
    "words,says",
    [
        (["compile", "{p}"], "FILE.py:FUNCTION"),
        (["compile", "{p}:none"], "no function 'none'"),
        (["compile", "{p}:number"], "no function 'number'"),
        (["compile", "none.py:build"], "no Python file"),
        (["compile", "{p}:nothing"], "gives int, not a graph"),
        (["compile", "{p}:build", "--set", "units"], "NAME=VALUE"),
        (["compile", "{p}:build", "--set", "colour=3"], "colour"),
        (["compile", "{p}:build", "--strategy", "magic"], "no strategy"),
        (["compile", "{p}:build", "-o", "/no/where/plan.json"], "no folder"),
        (["show", "plan.json", "-o", f"{'x' * 300}/plan.html"], "no folder"),
        (["train", "{p}:build", "--data", "{d}", "--steps", "1", "--optimizer", "magic:1"], "no optimizer"),
        (["train", "{p}:build", "--data", "{d}", "--steps", "1", "--replicas", "2"], "--method downpour"),
        (["train", "{p}:build", "--data", "{d}", "--steps", "1", "--resume"], "needs --checkpoint"),
        (["train", "{p}:build", "--data", "{d}", "--epochs", "0.001"], "are no training"),
        (["demo", "digits", "--model", "lstm"], "no demo of digits"),
    ],
)
def test_words_that_mean_nothing(words, says, program, data, capsys):
    out, err = run(capsys, *(word.format(p=program, d=data) for word in words), code=USAGE)
    assert not out and says in err and err.startswith("rainshed ")


def test_what_is_refused(program, tmp_path, capsys):
    _, err = run(capsys, "compile", f"{program}:mistaken", code=REFUSED)
    assert "ShapeError" in err and "program.py:24" in err
    (tmp_path / "cluster.toml").write_text('[[machine]]\nname = "a"\ncores = -1\n')
    _, err = run(capsys, "compile", f"{program}:build", "--cluster", tmp_path / "cluster.toml", code=REFUSED)
    assert "ClusterError" in err and "cores" in err
    (tmp_path / "plan.json").write_text('{"version": 1}')
    for command in ("show", "run"):
        _, err = run(capsys, command, tmp_path / "plan.json", code=REFUSED)
        assert "PlanError" in err
    _, err = run(capsys, "show", tmp_path / "none.json", code=REFUSED)
    assert "No such file" in err


def test_what_is_read_is_not_written_over(program, tmp_path, capsys):
    plan, batch = tmp_path / "plan.json", tmp_path / "in.npz"
    run(capsys, "compile", f"{program}:build", "-o", plan)
    batch.write_bytes(b"")
    before = plan.read_bytes()
    (tmp_path / "again.json").symlink_to(plan)
    for words in (
        ["compile", f"{program}:build", "-o", program],
        ["show", plan, "-o", plan],
        ["show", plan, "-o", tmp_path / "again.json"],
        ["compare", plan, plan, "-o", plan],
        ["run", plan, "--inputs", batch, "--outputs", batch],
        ["train", f"{program}:build", "--data", batch, "--steps", 1, "--variables", batch],
    ):
        _, err = run(capsys, *words, code=USAGE)
        assert "it is read, too" in err
    assert plan.read_bytes() == before and "import rainshed" in Path(program).read_text()


def test_an_array_that_is_no_archive(program, tmp_path, capsys):
    run(capsys, "compile", f"{program}:build", "-o", tmp_path / "plan.json")
    np.save(tmp_path / "in.npy", np.ones(3))
    _, err = run(capsys, "run", tmp_path / "plan.json", "--inputs", tmp_path / "in.npy", code=FAILED)
    assert "not an .npz file" in err


def test_a_program_that_fails_is_named(tmp_path, capsys):
    (tmp_path / "broken.py").write_text("1 / 0")
    _, err = run(capsys, "compile", f"{tmp_path}/broken.py:build", code=USAGE)
    assert "broken.py failed: ZeroDivisionError" in err


# -- compile, show, run -----------------------------------------------------------------------------------------------
def test_compile_show_run(program, tmp_path, capsys):
    plan = tmp_path / "plan.json"
    out, err = run(
        capsys, "compile", f"{program}:build", "--machines", 2, "--strategy", "features", "--batch", 6, "-o", plan
    )
    assert "Plan for 2 machines" in out and "wrote" in err
    out, _ = run(
        capsys, "compile", f"{program}:build", "--machines", 2, "--strategy", "features", "--batch", 6, "--json"
    )
    figures = json.loads(out)
    assert figures["hash"] == rs.load_plan(plan).hash and figures["machines"] == ["m0", "m1"]
    assert sum(row["bytes"] for row in figures["bytes_between"]) == figures["bytes"] > 0

    shown, _ = run(capsys, "show", plan)
    assert "Plan for 2 machines" in shown and max(map(len, shown.splitlines())) <= 100
    assert json.loads(run(capsys, "show", plan, "--json")[0])["hash"] == figures["hash"]
    out, err = run(capsys, "show", plan, "-o", tmp_path / "plan.html")
    assert not out and (tmp_path / "plan.html").read_text().startswith("<!doctype html>")

    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((6, 4), np.float32), "label": np.zeros(6, np.int32)}
    np.savez(tmp_path / "in.npz", **feeds)
    words = ["run", plan, "--inputs", tmp_path / "in.npz", "--backend", "threads"]
    files = ["--outputs", tmp_path / "out.npz", "--trace", tmp_path / "t.json", "--page", tmp_path / "p.html"]
    out, err = run(capsys, *words, *files, "--save", tmp_path / "checkpoints")
    assert "loss: " in out and "predicted" in err
    with np.load(tmp_path / "out.npz") as outputs:
        assert sorted(outputs) == ["loss", "y"] and outputs["y"].shape == (6, 3)
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert "Measured step" in (tmp_path / "p.html").read_text()

    out, _ = run(capsys, *words, "--variables", tmp_path / "checkpoints", "--steps", 3, "--json")
    found = json.loads(out)
    assert found["steps"] == 3 and found["bytes"]["predicted"] == found["bytes"]["measured"] == figures["bytes"]
    counted = {(row["from"], row["to"]): row["bytes"] for row in found["bytes_between"]}
    assert counted == {(row["from"], row["to"]): 3 * row["bytes"] for row in figures["bytes_between"]}
    assert found["step_s"]["predicted"] == figures["step_s"] and found["step_s"]["measured"] > 0
    assert found["messages"]["predicted"] == found["messages"]["measured"] == figures["messages"]
    assert found["bytes"]["ratio"] == 1
    for machine in ("m0", "m1"):
        busy = found["machines"][machine]["busy"]
        assert 0 < busy["predicted"] <= 1 and busy["ratio"] == busy["measured"] / busy["predicted"]


def test_compare(program, tmp_path, capsys):
    files = tmp_path / "features.json", tmp_path / "one.json", tmp_path / "old" / "one.json"
    files[2].parent.mkdir()
    for file, machines in zip(files, (2, 1, 3), strict=True):
        run(capsys, "compile", f"{program}:build", "--machines", machines, "--strategy", "features", "-o", file)
    out, _ = run(capsys, "compare", *files[:2])
    assert "features beside one" in out and "number of machines" in out and max(map(len, out.splitlines())) <= 100
    out, err = run(capsys, "compare", *files[1:], "-o", tmp_path / "c.html", "--json")
    found = json.loads(out)
    assert found["figures"]["machines"] == {"a": 1, "b": 3, "ratio": 3} and "c.html" in err
    assert [side["name"] for side in found["plans"].values()] == ["one.json", "old/one.json"]
    assert (tmp_path / "c.html").read_text().startswith("<!doctype html>")
    assert "They are the same plan" in run(capsys, "compare", files[0], files[0])[0]
    run(capsys, "compare", files[0], tmp_path / "none.json", code=REFUSED)


def test_places_from_the_command_line(program, capsys):
    words = ["compile", f"{program}:build", "--machines", 3]
    figures = json.loads(run(capsys, *words, "--place", "dense=m2", "--place", "*/b=m2", "--json")[0])
    assert figures["memory_bytes"]["m2"] > 0 and figures["compute_s"]["m2"] > 0
    shown, _ = run(capsys, *words, "--place", "dense=m2", "--show", "place")
    assert "@ m2/cpu" in shown
    _, err = run(capsys, *words, "--place", "densé=m2", code=USAGE)
    assert "no layer, variable or value of this name" in err and "dense" in err
    for pair in ("dense", "=m1", "dense="):
        assert "not of the form NAME=MACHINE" in run(capsys, *words, "--place", pair, code=USAGE)[1]
    _, err = run(capsys, *words, "--place", "dense=m1", "--place", "dense=m2", code=USAGE)
    assert "cannot be on two machines, m1 and m2" in err
    _, err = run(capsys, *words, "--place", "dense=m7", code=REFUSED)
    assert "not a machine of the cluster" in err and "m0, m1, m2" in err


def test_run_refuses_what_does_not_fit(program, tmp_path, capsys):
    plan = tmp_path / "plan.json"
    run(capsys, "compile", f"{program}:build", "-o", plan)
    _, err = run(capsys, "run", plan, "--backend", "threads", code=FAILED)
    assert "DataError" in err and "was not given" in err
    _, err = run(capsys, "run", plan, "--inputs", tmp_path / "none.npz", code=FAILED)
    assert "DataError" in err and "No such file" in err
    (tmp_path / "text.npz").write_text("no")
    _, err = run(capsys, "run", plan, "--inputs", tmp_path / "text.npz", code=FAILED)
    assert "DataError" in err
    words = ["run", plan, "--backend", "threads", "--variables", tmp_path / "nothing"]
    _, err = run(capsys, *words, code=FAILED)
    assert "CheckpointError" in err


def test_ops_of_the_users_own_come_from_their_file(program, tmp_path, capsys):
    plan = tmp_path / "plan.json"
    run(capsys, "compile", f"{program}:own", "-o", plan)
    _, err = run(capsys, "show", plan, code=REFUSED)
    assert "no op 'plus_one'" in err
    run(capsys, "show", plan, "--ops", program)
    np.savez(tmp_path / "in.npz", x=np.arange(3, dtype=np.float32))
    out = tmp_path / "out.npz"
    words = ["--inputs", tmp_path / "in.npz", "--outputs", out, "--backend", "threads"]
    printed, _ = run(capsys, "run", plan, "--ops", program, *words)
    assert printed == "file: [1.0, 2.0, 3.0]\n"
    with np.load(out) as found:  # an output may be called as a parameter of numpy.savez is
        np.testing.assert_array_equal(found["file"], [1, 2, 3])


@pytest.mark.parametrize("after", [step.__name__ for step in PASSES])
def test_the_graph_after_each_pass(after, program, capsys):
    out, _ = run(capsys, "compile", f"{program}:build", "--machines", 2, "--show", after)
    assert "matmul" in out and "output loss" in out
    names = [step.__name__ for step in PASSES]
    assert ("@ m1" in out) == (names.index(after) >= names.index("place"))


# -- train ------------------------------------------------------------------------------------------------------------
def test_train_single(program, data, tmp_path, capsys):
    words = ["train", f"{program}:build", "--data", data, "--backend", "threads", "--quiet"]
    out, err = run(capsys, *words, "--epochs", 2, "--batch", 20, "--variables", tmp_path / "v.npz", "--json")
    found = json.loads(out)
    assert found["steps"] == 20 and found["examples"] == 400 and found["loss"] < 1 and not err
    assert found["processes"]["coordinator"] == os.getpid()
    with np.load(tmp_path / "v.npz") as variables:
        assert variables["dense/w"].shape == (4, 8)
    out, err = run(capsys, *words[:-1], "--steps", 5, "--optimizer", "momentum:0.1,nesterov=true")
    assert out.startswith("5 steps in ") and "steps 5" in err


def test_train_downpour_and_go_on_with_others(program, data, tmp_path, capsys):
    words = ["train", f"{program}:build", "--data", data, "--backend", "threads", "--json", "--quiet"]
    keep = ["--checkpoint", tmp_path / "checkpoints", "--checkpoint-every", 8]
    method = ["--method", "downpour", "--replicas", 2, "--servers", 2, "--machines", 2, "--warm-start", 4]
    method += ["--strategy", "features"]
    out, _ = run(capsys, *words, *keep, *method, "--steps", 20, "--page", tmp_path / "p.html")
    found = json.loads(out)
    assert found["steps"] == 20 and found["pushes"] == found["applied"] > 0
    assert found["step"]["bytes"]["ratio"] == 1 and found["step"]["step_s"]["measured"] > 0
    assert "Predicted step" in (tmp_path / "p.html").read_text()
    out, _ = run(capsys, *words, *keep, "--steps", 30, "--resume", "--machines", 3)
    assert json.loads(out)["steps"] == 10
    _, err = run(capsys, *words, *keep, "--steps", 30, "--resume", code=USAGE)
    assert "nothing left to do" in err


def test_optimizers_by_words():
    assert optimizer_from(None) is None
    assert optimizer_from("adagrad:0.02") == rs.Adagrad(0.02)
    assert optimizer_from("Adam") == rs.Adam()
    assert optimizer_from("adam:0.01,beta1=0.8,clip=1") == rs.Adam(0.01, beta1=0.8, clip=1.0)
    assert optimizer_from("momentum:0.1,nesterov=true") == rs.Momentum(0.1, nesterov=True)
    for wrong in ("sgd", "sgd:fast", "sgd:0.1,speed=2", "sgd:0.1,0.2", ""):
        with pytest.raises(UsageError):
            optimizer_from(wrong)
    with pytest.raises(GraphError):
        optimizer_from("sgd:-1")


# -- doctor -----------------------------------------------------------------------------------------------------------
def test_doctor(capsys):
    out, _ = run(capsys, "doctor", "--json")
    found = json.loads(out)
    names = [row["name"] for row in found["findings"]]
    known = {"python", "numpy", "cores", "memory", "disk", "blas", "numba", "bfloat16", "loopback"}
    assert found["ok"] and known < set(names)


def test_doctor_tells_what_is_wrong(tmp_path):
    (tmp_path / "token").write_text("short")
    (tmp_path / "token").chmod(0o600)
    findings = {f.name: f for f in examine({"RANK": "x", "RAINSHED_TOKEN_FILE": f"{tmp_path}/token"})}
    assert findings["launcher"].state == "wrong" and findings["token"].state == "wrong" and findings["token"].do


@pytest.mark.parametrize("words", [("-o", "c.toml"), ("--machines", "2"), ("--calibrate", "--seconds", "0")])
def test_doctor_refuses_words_that_do_not_go_together(capsys, words):
    assert main(["doctor", *words]) == USAGE
    assert "--" in capsys.readouterr().err


@pytest.mark.process
def test_doctor_measures_a_cluster(capsys, tmp_path):
    out, _ = run(capsys, "doctor", "--calibrate", "--seconds", "0.5", "-o", tmp_path / "c.toml", "--json")
    found = json.loads(out)
    cluster = rs.Cluster.from_toml(tmp_path / "c.toml")
    assert cluster.names == ("m0",) and found["cluster"]["machine"][0]["name"] == "m0"
    assert cluster.machines[0].flops == pytest.approx(found["cluster"]["machine"][0]["flops"], rel=1e-3)


# -- explain ----------------------------------------------------------------------------------------------------------
def test_explain(capsys, program, tmp_path):
    plan = tmp_path / "plan.json"
    run(capsys, "compile", f"{program}:build", "--machines", "2", "--strategy", "even", "-o", plan)
    out, _ = run(capsys, "explain", plan, "--threshold", "0")
    assert "strategy: even" in out and "read by" in out
    out, _ = run(capsys, "explain", plan, "dense/w")
    assert "candidates" in out and "> " in out
    found = json.loads(run(capsys, "explain", plan, "dense/w", "--json")[0])
    assert found["candidates"]["dense/w"] and found["values"]["dense/w"][0]["machine"] in ("m0", "m1")
    assert main(["explain", str(plan), "dance/w"]) == USAGE


def test_which_launcher_is_believed(tmp_path):
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8"}
    assert launcher({})[0].found.startswith("none")
    assert launcher(slurm)[0].found == "SLURM: SLURM_PROCID=3 of 8"
    both = launcher({**slurm, "RANK": "1", "WORLD_SIZE": "2"})[0]
    assert (both.found, both.do) == ("torchrun: RANK=1 of 2", "believed before SLURM")
    write_token(tmp_path / "token", new_token())
    assert token({"RAINSHED_TOKEN_FILE": f"{tmp_path}/token"})[0].state == "ok"


# -- processes --------------------------------------------------------------------------------------------------------
@contextmanager
def started(*words, env=None):
    """A command in a process of its own, which is gone afterwards whatever happens."""
    command = [sys.executable, "-m", "rainshed", *map(str, words)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=env) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.process
def test_workers_that_are_started_by_hand(program, data, tmp_path):
    write_token(tmp_path / "token", new_token())
    env = {**os.environ, "RAINSHED_TOKEN_FILE": f"{tmp_path}/token"}
    words = ["--data", data, "--steps", 6, "--machines", 2, "--strategy", "features", "--json", "--quiet"]
    listen = ["--listen", "tcp://127.0.0.1:0"]
    with started("train", f"{program}:build", *words, *listen, env=env) as trainer:
        said = trainer.stderr.readline()
        found = re.fullmatch(r"waiting for 2 workers: rainshed worker --join (127\.0\.0\.1:\d+)\n", said)
        assert found, said
        join = ["worker", "--join", found[1], "--name"]
        with started(*join, "one", env=env) as one, started(*join, "two", env=env) as two:
            out, err = trainer.communicate(timeout=40)
            assert trainer.returncode == OK, err
            for worker in (one, two):
                assert worker.communicate(timeout=10)[1] == "" and worker.returncode == OK
    pids = json.loads(out)["processes"]
    assert {pids["m0"], pids["m1"]} == {one.pid, two.pid}


@pytest.mark.process
def test_a_worker_without_the_token_is_sent_away(program, data, tmp_path):
    for name in ("right", "wrong"):
        write_token(tmp_path / name, new_token())
    right, wrong = ({**os.environ, "RAINSHED_TOKEN_FILE": f"{tmp_path}/{name}"} for name in ("right", "wrong"))
    words = ["--data", data, "--steps", 2, "--listen", "tcp://127.0.0.1:0", "--json", "--quiet"]
    with started("train", f"{program}:build", *words, env=right) as trainer:
        address = trainer.stderr.readline().split()[-1]
        with started("worker", "--join", address, env=wrong) as stranger:
            _, err = stranger.communicate(timeout=15)
            assert stranger.returncode == FAILED and "AuthError" in err
        with started("worker", "--join", address, env=right) as worker:
            _, err = trainer.communicate(timeout=30)
            assert trainer.returncode == OK, err
            assert worker.wait(10) == OK


@pytest.mark.process
def test_a_training_that_lost_a_machine_says_how_to_go_on(program, data, tmp_path):
    words = ["--data", data, "--steps", 100_000, "--machines", 2, "--strategy", "features"]
    keep = ["--checkpoint", tmp_path / "kept", "--checkpoint-every", 5]
    with started("train", f"{program}:build", *words, *keep) as trainer:
        while not checkpoints(tmp_path / "kept"):
            assert trainer.stderr.readline().startswith("steps ")
        children = Path(f"/proc/{trainer.pid}/task/{trainer.pid}/children").read_text().split()
        os.kill(int(children[0]), 9)
        _, err = trainer.communicate(timeout=20)
    assert trainer.returncode == RESUMABLE, err
    assert "SIGKILL" in err and f"--checkpoint {tmp_path}/kept" in err and err.rstrip().endswith("--resume")
