"""A whole plan in one process: what it computes, what crosses, how it fails and ends."""

import json
import threading

import numpy as np
import plans
import pytest

from rainshed.compiler.machines import Cluster
from rainshed.compiler.pipeline import compile
from rainshed.ops import CATALOGUE
from rainshed.ops.elementwise import tanh
from rainshed.ops.errors import DataError, KernelError, PlanError, UsageError
from rainshed.ops.evaluate import evaluate
from rainshed.ops.gradient import gradients
from rainshed.ops.init import Init
from rainshed.ops.ir import Graph
from rainshed.ops.matmul import matmul
from rainshed.ops.op import op
from rainshed.ops.reduce import mean
from rainshed.ops.source import input, variable
from rainshed.runtime.cluster.local import LocalCluster

pytestmark = pytest.mark.usefixtures("no_threads_left")


def f32(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("uri", ["inproc://", "tcp://"])
@pytest.mark.parametrize("threads", [1, 2])
def test_partial_sums_are_added_on_another_machine(uri, threads):
    plan = plans.partial_sums()
    with LocalCluster(plan, ops=CATALOGUE, threads=threads, uri=uri) as c:
        c.init(3)
        for step in range(5):
            x = f32(4, 6, seed=step)
            np.testing.assert_allclose(c.run({"x": x})["y"], x @ c.variables()["w"], rtol=1e-5, atol=1e-6)
        assert c.step == 5
        assert c.bytes_between == {pair: 5 * n for pair, n in plan.bytes_between.items()}
        assert c.arrived == {t.key: (5, 5 * t.nbytes) for t in plan.transfers}


def test_variables_are_put_together_and_cut():
    with LocalCluster(plans.partial_sums(), ops=CATALOGUE) as c:
        w = f32(6, 5, seed=4)
        c.set_variables({"w": w})
        np.testing.assert_array_equal(c.variables()["w"], w)
        x = f32(4, 6)
        np.testing.assert_allclose(c.run({"x": x})["y"], x @ w, rtol=1e-5, atol=1e-6)


def network(batch, layers, hidden):
    """A small perceptron with a squared loss."""
    x, y = input("x", (batch, 12)), input("y", (batch, 3))
    h = x
    for i in range(layers):
        h = tanh(matmul(h, variable(f"w{i}", (h.shape[1], hidden), init=Init("normal", (0.0, 0.3)))))
    out = matmul(h, variable("last", (hidden, 3), init=Init("uniform", (-0.5, 0.5))))
    return Graph(outputs={"loss": mean((out - y) * (out - y)), "out": out}, loss="loss")


@pytest.mark.parametrize("strategy", ["batch", "longest", "one", "auto"])
@pytest.mark.parametrize("machines", [1, 2, 3])
def test_compiled_plans_give_what_plain_evaluation_gives(machines, strategy):
    graph = network(10, 2, 8)
    plan = compile(graph, Cluster.local(machines, cores=1, memory_bytes=2**28), strategy=strategy)
    feeds = {"x": f32(10, 12, seed=1), "y": f32(10, 3, seed=2)}
    variables = list(graph.variables.values())
    slopes = gradients(graph.outputs["loss"], variables)
    whole = Graph(outputs={**graph.outputs, **{f"grad/{v.name}": d for v, d in zip(variables, slopes, strict=True)}})
    expected, _ = evaluate(whole, feeds, seed=5)
    with LocalCluster(plan, ops=CATALOGUE) as c:
        c.init(5)
        for _ in range(3):
            out = c.run(feeds)
            assert out.keys() == expected.keys()
            for name, value in expected.items():
                np.testing.assert_allclose(out[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
        assert c.bytes_between == {pair: 3 * n for pair, n in plan.bytes_between.items()}


@pytest.mark.parametrize(
    ("feeds", "what"),
    [
        ({}, "input 'x' was not given"),
        ({"x": np.zeros((4, 6), np.float32), "z": 1}, "the plan has no input 'z'\n  inputs  x"),
        ({"x": np.zeros((4, 5), np.float32)}, r"input 'x' is f32\[4, 6\]; found shape \[4, 5\]"),
        ({"x": np.zeros((4, 6))}, "input 'x' is f32; found element type float64"),
    ],
)
def test_feeds_that_do_not_fit_are_refused_before_any_machine_begins(feeds, what):
    with LocalCluster(plans.partial_sums(), ops=CATALOGUE) as c:
        with pytest.raises(DataError, match=what):
            c.run(feeds)
        c.run({"x": f32(4, 6)})
        assert c.step == 1


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"v": f32(6, 5)}, "the plan has no variable 'v'\n  variables  w"),
        ({"w": f32(5, 6)}, r"variable 'w' has shape \[6, 5\]; found \[5, 6\]"),
    ],
)
def test_variables_that_do_not_fit_are_refused(values, what):
    with LocalCluster(plans.partial_sums(), ops=CATALOGUE) as c, pytest.raises(DataError, match=what):
        c.set_variables(values)


def test_the_error_of_the_machine_that_failed_is_the_one_raised():
    def fail(x, out):
        raise OverflowError("too much")

    b, a = plans.Build("m1"), plans.Build("m0")
    x = b.feed("x", (4,))
    b.send(b.run("fail", (x,), (4,), line="train.py:3"), 0, "m0")
    a.output("y", a.recv(0, "m1", (4,)))
    ops = {**CATALOGUE, "fail": op(name="fail", signature="()->()", cpu=fail)}
    with LocalCluster(plans.plan_of(a, b), ops=ops) as c:
        for _ in range(2):
            with pytest.raises(
                KernelError, match=r"fail: its kernel raised OverflowError: too much\n  machine   m1"
            ) as e:
                c.run({"x": f32(4)})
            assert e.value.detail["built at"] == "train.py:3"


def test_a_plan_that_cannot_be_loaded_leaves_nothing_behind():
    b = plans.Build("m0")
    b.run("no_such_op", (b.feed("x", (4,)),), (4,))
    before = threading.active_count()
    with pytest.raises(PlanError, match="there is no op 'no_such_op'"):
        LocalCluster(plans.plan_of(plans.Build("m1"), b), ops=CATALOGUE)
    assert threading.active_count() == before


def test_closed_twice_is_closed():
    c = LocalCluster(plans.exchange(), ops=CATALOGUE, threads=3)
    c.run({"a": f32(8), "b": f32(8)})
    c.close()
    c.close()
    with pytest.raises(UsageError, match="closed"):
        c.run({"a": f32(8), "b": f32(8)})


def test_the_trace_of_a_run_has_an_arrow_for_each_transfer(tmp_path):
    with LocalCluster(plans.exchange(rounds=3), ops=CATALOGUE, trace=True) as c:
        for _ in range(4):
            c.run({"a": f32(8), "b": f32(8)})
        count = c.write_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert len(events) == count
    by = {ph: [e for e in events if e["ph"] == ph] for ph in "XMsfC"}
    assert len(by["s"]) == len(by["f"]) == 4 * 6
    assert {e["id"] for e in by["s"]} == {e["id"] for e in by["f"]} and len({e["id"] for e in by["s"]}) == 24
    assert sum(e["cat"] == "run" for e in by["X"]) == 4 * 6
    assert {e["args"]["step"] for e in by["X"]} == {0, 1, 2, 3}
    assert [e["args"]["name"] for e in by["M"] if e["name"] == "process_name"] == ["m0", "m1"]


def test_without_trace_there_is_none(tmp_path):
    with LocalCluster(plans.exchange(), ops=CATALOGUE) as c, pytest.raises(UsageError, match="trace=True"):
        c.write_trace(tmp_path / "trace.json")


SIZES = {"small": 8, "large": 30_000}  # the large ones are sent by threads


def random_plan(seed, machines=3, instructions=80):
    """Operations and transfers at random over few places of the arena; the feeds, and what they give one by one."""
    rng = np.random.default_rng(seed)
    feeds = {name: f32(n, seed=seed) for name, n in SIZES.items()}
    builds = [plans.Build(f"m{m}") for m in range(machines)]
    fed = [{name: b.feed(name, (n,)) for name, n in SIZES.items()} for b in builds]
    # (machine, size) -> value -> what it holds
    live = {(m, name): {fed[m][name]: feeds[name]} for m in range(machines) for name in SIZES}
    for key in range(instructions):
        m, size = int(rng.integers(machines)), str(rng.choice(list(SIZES)))
        pool = live[m, size]
        a, b = (list(pool)[i] for i in rng.integers(len(pool), size=2))
        if rng.random() < 0.4:
            to = int((m + rng.integers(1, machines)) % machines)
            builds[m].send(a, key, f"m{to}")
            grown, new, holds = live[to, size], builds[to].recv(key, f"m{m}", (SIZES[size],)), pool[a]
        else:
            function = (np.add, np.maximum, np.subtract)[rng.integers(3)]
            to, grown, holds = m, pool, function(pool[a], pool[b])
            new = builds[m].run(function.__name__, (a, b), (SIZES[size],), seconds=float(rng.integers(2)))
        grown[new] = holds
        if len(grown) > 4:
            gone = [v for v in grown if v not in (new, fed[to][size])][int(rng.integers(3))]
            del grown[gone]
            builds[to].free(gone)
    expected = {}
    for (m, size), pool in live.items():
        for value, holds in pool.items():
            if value != fed[m][size]:
                builds[m].output(f"{m}.{value}", value)
                expected[f"{m}.{value}"] = holds
    return plans.plan_of(*builds), feeds, expected


@pytest.mark.parametrize("uri", ["inproc://", "tcp://"])
@pytest.mark.parametrize("seed", range(6))
def test_random_plans_give_bit_for_bit_what_one_thread_gives(seed, uri):
    plan, feeds, expected = random_plan(seed)
    with LocalCluster(plan, ops=CATALOGUE, threads=1 + seed % 3, uri=uri) as c:
        for step in range(8):
            out = c.run(feeds)
            assert out.keys() == expected.keys()
            for name, value in expected.items():
                np.testing.assert_array_equal(out[name], value, err_msg=f"{name} in step {step}")
        assert c.bytes_between == {pair: 8 * n for pair, n in plan.bytes_between.items()}
        assert c.arrived == {t.key: (8, 8 * t.nbytes) for t in plan.transfers}
