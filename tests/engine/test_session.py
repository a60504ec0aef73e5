"""A session runs a plan: outputs, variables, bytes, files; for inference and for training in the graph."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import rainshed as rs
from rainshed.engine import models
from rainshed.engine.progress import Work
from rainshed.ops.errors import CheckpointError, CompileError, DataError, KernelError, UsageError
from rainshed.runtime.cluster import here

THREADS = {"backend": "threads"}


def net(training=True, optimizer=None):
    x = rs.input("x", (8, 6))
    h = rs.layers.dense(x, 16, activation=rs.tanh)
    y = rs.layers.dense(h, 3)
    if not training:
        return rs.graph(outputs={"y": y})
    loss = rs.mean(rs.softmax_cross_entropy(y, rs.input("label", (8,), "int32")))
    return rs.graph(loss=loss, outputs={"y": y}, optimizer=optimizer)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((8, 6), np.float32), "label": rng.integers(0, 3, 8, np.int32)}


@pytest.mark.parametrize("machines", [1, 3])
def test_outputs_are_those_of_numpy(machines):
    graph, feeds = net(training=False), {"x": batch()["x"]}
    with rs.Session(graph, rs.Cluster.local(machines), strategy="features", seed=3, **THREADS) as session:
        found = session.run(feeds)
        variables = session.variables()
    np.testing.assert_allclose(found["y"], rs.evaluate(graph, feeds, seed=3)["y"], rtol=1e-5, atol=1e-6)
    assert {name: v.shape for name, v in variables.items()} == {
        "dense/w": (6, 16),
        "dense/b": (16,),
        "dense_1/w": (16, 3),
        "dense_1/b": (3,),
    }


def test_training_in_the_graph_and_inference_share_variables():
    with rs.Session(net(optimizer=rs.Adagrad(0.5)), rs.Cluster.local(2), strategy="batch", **THREADS) as session:
        losses = [float(session.run(batch())["loss"]) for _ in range(12)]
        trained = session.variables()
        assert session.step == 12
    assert losses[-1] < losses[0] / 2
    with rs.Session(net(training=False), **THREADS) as session:
        session.set_variables({name: trained[name] for name in session.variables()})
        found = session.run({"x": batch()["x"]})
    assert np.mean(found["y"].argmax(axis=1) == batch()["label"]) >= 7 / 8


def test_gradients_without_an_optimizer():
    graph = net()
    with rs.Session(graph, rs.Cluster.local(2), strategy="features", **THREADS) as session:
        found = session.run(batch())
    wanted = rs.evaluate(rs.grad(graph.outputs["loss"], [graph.variables["dense/w"]]), batch())
    np.testing.assert_allclose(found["grad/dense/w"], wanted[0], rtol=1e-4, atol=1e-6)


def test_bytes_are_those_of_the_plan():
    with rs.Session(net(optimizer=rs.SGD(0.1)), rs.Cluster.local(3), strategy="features", **THREADS) as session:
        for _ in range(4):
            session.run(batch())
        planned = {pair: 4 * nbytes for pair, nbytes in session.plan.bytes_between.items()}
        assert session.bytes_between() == planned
        assert session.measured().bytes == session.plan.prediction.bytes
        assert (session.measured().step_s or 0) > 0


def test_what_is_placed_is_there():
    with rs.Session(net(), rs.Cluster.local(3), place={"dense": "m2"}, **THREADS) as session:
        found = session.run(batch())
        assert {p.machine for p in session.plan.programs for v in p.variables if v.name.startswith("dense/")} == {"m2"}
    wanted = rs.evaluate(rs.grad(net().outputs["loss"], net().variables["dense/w"]), batch())
    assert found["grad/dense/w"].shape == wanted.shape
    with pytest.raises(UsageError, match="has everything in its place"):
        rs.Session(session.plan, place={"dense": "m1"})


def test_a_trace_tells_what_each_machine_computed(tmp_path):
    with rs.Session(net(), rs.Cluster.local(2), strategy="features", trace=True, **THREADS) as session:
        session.run(batch())
        session.run(batch())
        events = session.write_trace(tmp_path / "trace.json")
        measured = session.measured()
    found = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert len(found) == events
    assert {e["args"]["name"] for e in found if e["name"] == "process_name"} == {
        f"{m}{kind}" for m in ("m0", "m1") for kind in ("", " predicted")
    }
    seen = [measured.of(m) for m in ("m0", "m1")]
    assert all(m.compute_s is not None and m.compute_s > 0 for m in seen)
    assert math.isclose(sum(m.bytes_out or 0 for m in seen), session.plan.prediction.bytes)
    assert measured.messages == session.plan.prediction.messages
    assert "measured" in rs.plan_html(session.plan, measured=measured)


def test_a_checkpoint_is_read_by_other_machines(tmp_path):
    graph = net(optimizer=rs.Adagrad(0.5))
    with rs.Session(graph, rs.Cluster.local(3), strategy="features", **THREADS) as session:
        for i in range(3):
            session.run(batch(i))
        path = session.save(tmp_path)
        after = session.run(batch(9))["loss"]
    assert path.name == "step-3"
    with rs.Session(graph, rs.Cluster.local(2), strategy="batch", seed=5, **THREADS) as session:
        session.load(tmp_path)
        assert session.step == 3
        np.testing.assert_allclose(session.run(batch(9))["loss"], after, rtol=1e-5)
    with rs.Session(net(training=False), **THREADS) as session:  # the optimizer's slots are left out
        session.load(path)


def test_variables_from_an_npz_file(tmp_path):
    graph = net(training=False)
    values = {name: np.full(v.shape, 0.5, np.float32) for name, v in graph.variables.items()}
    np.savez(tmp_path / "v.npz", **values, more=np.zeros(3))
    np.savez(tmp_path / "short.npz", **{"dense/w": values["dense/w"]})
    np.savez(tmp_path / "double.npz", **{**values, "dense/b": np.zeros(16)})
    (tmp_path / "text.npz").write_text("no")
    with rs.Session(graph, rs.Cluster.local(2), strategy="features", **THREADS) as session:
        before = session.variables()
        for wrong, says in (
            ("short.npz", "no variable"),
            ("double.npz", "float64"),
            ("text.npz", "cannot be read"),
            ("none.npz", "cannot be read"),
            ("nowhere", "there is no"),
        ):
            with pytest.raises(CheckpointError, match=says):
                session.load(tmp_path / wrong)
        for name, value in session.variables().items():
            np.testing.assert_array_equal(value, before[name])
        session.load(tmp_path / "v.npz")
        assert all((v == 0.5).all() for v in session.variables().values())


def test_a_plan_from_a_file_runs(tmp_path):
    plan = rs.compile(net(training=False), rs.Cluster.local(2), seed=4, strategy="features")
    rs.save_plan(plan, tmp_path / "plan.json")
    loaded = rs.load_plan(tmp_path / "plan.json")
    assert loaded == plan
    with rs.Session(loaded, **THREADS) as session:
        found = session.run({"x": batch()["x"]})
    np.testing.assert_allclose(
        found["y"], rs.evaluate(net(training=False), batch_x(), seed=4)["y"], rtol=1e-5, atol=1e-6
    )


def batch_x():
    return {"x": batch()["x"]}


def test_lists_take_the_type_of_the_input():
    x = rs.input("x", (2, 2))
    with rs.Session(rs.graph(outputs={"y": x * 2.0}), **THREADS) as session:
        np.testing.assert_array_equal(session.run({"x": [[1, 2], [3, 4]]})["y"], [[2, 4], [6, 8]])


@pytest.mark.parametrize(
    "feeds,says",
    [
        ({}, "was not given"),
        ({"x": np.zeros((2, 2), np.float32), "z": 1.0}, "no input 'z'"),
        ({"x": np.zeros((2, 2))}, "float64"),
        ({"x": np.zeros((3, 2), np.float32)}, r"shape \[3, 2\]"),
        ({"x": [["a", "b"], ["c", "d"]]}, "found list"),
    ],
)
def test_wrong_feeds_are_refused_and_nothing_has_run(feeds, says):
    x = rs.input("x", (2, 2))
    count = rs.variable("count", (), init=0.0, trainable=False)
    with rs.Session(rs.graph(outputs={"y": x}, updates={"count": count + 1.0}), **THREADS) as session:
        with pytest.raises(DataError, match=says):
            session.run(feeds)
        assert session.step == 0 and session.variables()["count"] == 0
        session.run({"x": np.ones((2, 2), np.float32)})
        assert session.variables()["count"] == 1


def test_wrong_words_are_refused(tmp_path):
    graph = net(training=False)
    with pytest.raises(UsageError, match="no back end"):
        rs.Session(graph, backend="cloud")
    with pytest.raises(UsageError, match="a graph or a plan"):
        rs.Session("plan.json")
    with pytest.raises(UsageError, match="has its cluster"):
        rs.Session(rs.compile(graph, rs.Cluster.local(1)), rs.Cluster.local(2))
    with pytest.raises(CompileError, match="not bound"):
        rs.Session(models.digits())
    with rs.Session(graph, **THREADS) as session, pytest.raises(UsageError, match="no trace"):
        session.write_trace(tmp_path / "t.json")


@pytest.mark.process
def test_processes_get_ops_of_the_users_own():
    @rs.op(signature="()->()")
    def cube(x):
        return x**3

    graph = rs.graph(outputs={"y": cube(rs.input("x", (4,)))})
    with rs.Session(graph, rs.Cluster.local(2), strategy="longest") as session:
        assert len(set(session.pids.values())) == 2
        found = session.run({"x": np.arange(4, dtype=np.float32)})
    np.testing.assert_array_equal(found["y"], [0, 1, 8, 27])


def test_one_machine_runs_in_this_process_and_gives_what_a_worker_gives():
    graph = net(optimizer=rs.Adagrad(0.5))
    found = []
    for backend in ("auto", "threads"):
        with rs.Session(graph, seed=3, backend=backend) as session:
            assert session.pids == {"m0": os.getpid()} and session.bytes_between() == {}
            outputs = [session.run(batch()) for _ in range(3)]
            found.append(([o["loss"] for o in outputs], session.variables()))
            outputs[-1]["loss"][...] = 7  # a copy: the next step does not know of it
            assert session.run(batch())["loss"] < outputs[0]["loss"]
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        np.testing.assert_array_equal(value, found[1][1][name])
    with pytest.raises(UsageError, match="2 machines does not run in one process"):
        rs.Session(graph, rs.Cluster.local(2), backend="here")


@pytest.mark.parametrize("told", [{"backend": "here"}, {"cluster": rs.Cluster.local(2), "backend": "threads"}], ids=str)
def test_threads_may_share_a_session(told):
    """Their steps are made one after another, and each is counted once."""
    feeds, seen, errors = batch(), [], []
    with rs.Session(net(), **told) as session:

        def work():
            try:
                for _ in range(10):
                    seen.append(float(session.run(feeds)["loss"]))
                    session.variables()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors and session.step == 40
    assert len(set(seen)) == 1 and len(seen) == 40


@pytest.mark.parametrize("told", [{"backend": "here"}, {"cluster": rs.Cluster.local(2), "backend": "threads"}], ids=str)
def test_a_session_that_was_closed_says_so(told, tmp_path):
    session = rs.Session(net(), **told)
    session.close()
    session.close()
    for ask in (
        lambda: session.run(batch()),
        session.variables,
        session.measured,
        session.bytes_between,
        lambda: session.set_variables({}),
        lambda: session.save(tmp_path),
    ):
        with pytest.raises(UsageError, match="the session is closed"):
            ask()


FORKED = """
import os, sys
import numpy as np
import rainshed as rs

graph = rs.graph(outputs={"y": rs.layers.dense(rs.input("x", (2, 3)), 2)})
feeds = {"x": np.ones((2, 3), np.float32)}
with rs.Session(graph, rs.Cluster.local(2), strategy="features") as session:
    session.run(feeds)
    if not (child := os.fork()):
        try:
            session.run(feeds)
        except rs.RainshedError as error:
            print(error, flush=True)
        sys.exit(0)  # leaves the block: what belongs to the parent is not closed
    os.waitpid(child, 0)
    print(session.run(feeds)["y"].shape)
"""


def test_a_process_that_was_forked_leaves_the_session_alone():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    said, worked = done.stdout.split("  hint")[0], done.stdout.splitlines()[-1]
    assert "of which this one was forked" in said and worked == "(2, 2)"


def test_what_a_session_does_not_take():
    with pytest.raises(UsageError, match="whole number"):
        rs.Session(net(), seed=1.5)
    with rs.Session(net(), seed=np.int64(3), trace=1, **THREADS) as session:
        with pytest.raises(DataError, match="feeds map names"):
            session.run([1])
        session.run(batch())


def test_how_far_the_first_values_are_is_told_where_they_take_long(monkeypatch):
    told = []
    w = rs.variable("w", (1 << 11, 1 << 12), init=rs.init.normal())
    plan = rs.compile(rs.graph(outputs={"sum": rs.sum(w)}), rs.Cluster.local(1))
    with rs.Session(net(), on_work=told.append):
        assert not told
    monkeypatch.setattr(here, "WORK_EVERY_S", 0.0)
    with rs.Session(plan, on_work=told.append):
        assert told == [Work("machine m0", f"first values: {n:,} of {4 << 23:,} bytes") for n in (4 << 22, 4 << 23)]


@pytest.mark.parametrize("told", [{"backend": "here"}, {"cluster": rs.Cluster.local(2), "backend": "threads"}], ids=str)
def test_bytes_in_the_other_order_are_turned(told):
    """Files of other machines and of some formats hold the high byte first."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    graph = rs.graph(outputs={"y": rs.input("x", (2, 3)) * rs.variable("w", (2, 3))})
    with rs.Session(graph, **told) as session:
        session.set_variables({"w": x.astype(">f4")})
        np.testing.assert_array_equal(session.run({"x": x.astype(">f4")})["y"], x * x)


@rs.op(signature="()->()")
def lost_file(x, out):
    raise OSError("cannot read caf\udce9.npy, " + "in a folder with a long name " * 1000)


def test_an_error_with_any_text_arrives():
    """Names of files may hold what UTF-8 does not."""
    graph = rs.graph(outputs={"y": lost_file(rs.input("x", (4, 3)))})
    says = r"lost_file: its kernel raised OSError: cannot read caf\\udce9.npy"
    with (
        rs.Session(graph, rs.Cluster.local(2), strategy="batch", **THREADS) as session,
        pytest.raises(KernelError, match=says),
    ):
        session.run({"x": np.ones((4, 3), np.float32)})


@pytest.mark.parametrize(
    "ask",
    [
        lambda node, path: rs.compile(node, rs.Cluster.local(1)),
        lambda node, path: rs.Session(node),
        lambda node, path: rs.Training(node, {}),
        lambda node, path: rs.plan_html(node),
        lambda node, path: rs.plan_text(node),
        lambda node, path: rs.compare(node, node),
        lambda node, path: rs.save_plan(node, path / "plan.json"),
    ],
    ids=["compile", "session", "training", "html", "text", "compare", "save"],
)
def test_a_node_is_neither_graph_nor_plan(ask, tmp_path):
    with pytest.raises(UsageError, match=r"graph|plan"):
        ask(rs.input("x", (2, 3)) * 2, tmp_path)
    assert not os.listdir(tmp_path)
