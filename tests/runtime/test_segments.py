"""Small kernels joined: what stays apart, the same values, and errors that name their node."""

import numpy as np
import pytest

from rainshed.compiler.machines import Cluster
from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import Send
from rainshed.engine.optimizers import SGD
from rainshed.ops import CATALOGUE as C
from rainshed.ops.errors import DataError
from rainshed.ops.ir import Graph, scope
from rainshed.ops.reduce import mean
from rainshed.ops.softmax_cross_entropy import softmax_cross_entropy
from rainshed.ops.source import input, variable
from rainshed.runtime.cluster.local import LocalCluster
from rainshed.runtime.executor import COMPILE_AT, Executor, Options
from rainshed.runtime.trace import Recorder


def graph():
    x, labels = input("x", (8, 6)), input("labels", (8,), "int64")
    random = np.random.default_rng(0)
    with scope("head"):
        w = variable("head/w", (6, 4), init=random.standard_normal((6, 4), np.float32))
        logits = C["relu"](x @ w) * 2.0
        loss = mean(softmax_cross_entropy(logits, labels))
    return Graph({"loss": loss}, loss="loss", rule=SGD(0.1).rule())


def feeds(label=3):
    random = np.random.default_rng(1)
    return {"x": random.standard_normal((8, 6), np.float32), "labels": np.array([0, 1, 2, 3, 0, 1, 2, label])}


def trained(steps, **options):
    program = compile(graph(), Cluster.local(1, cores=1)).programs[0]
    with Executor(program, ops=C, options=Options(**options)) as executor:
        executor.init_variables(0)
        losses = [float(executor.run(i, feeds())["loss", ()]) for i in range(steps)]
        return losses, executor.get_variable("head/w", ((0, 6), (0, 4))), executor._loaded.segments


def test_a_program_goes_over_to_machine_code_and_its_values_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    steps = COMPILE_AT + 3
    short = trained(COMPILE_AT - 1)[2]
    cold, again, plain = trained(steps), trained(steps), trained(steps, kernels="numpy")
    assert sum(len(s.members) for s in short) < sum(len(s.members) for s in cold[2])
    assert len(cold[2]) == 1 and not plain[2]
    assert cold[0] == again[0]  # from the cache, at once: the same bits
    np.testing.assert_array_equal(cold[1], again[1])
    np.testing.assert_allclose(cold[0], plain[0], rtol=1e-5)
    np.testing.assert_allclose(cold[1], plain[1], rtol=1e-4, atol=1e-5)


def test_what_is_traced_stays_apart():
    assert trained(2, recorder=Recorder())[2] == []


def test_without_a_compiler_everything_works(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    losses, _, segments = trained(2)
    assert not segments and losses[1] < losses[0]


def test_an_error_within_a_segment_names_its_node():
    program = compile(graph(), Cluster.local(1, cores=1)).programs[0]
    with Executor(program, ops=C) as executor:
        executor.init_variables(0)
        with pytest.raises(DataError, match="a label is from 0 to 3; found 9") as raised:
            executor.run(0, feeds(label=9))
        assert raised.value.detail["layer"] == "head"


def test_nothing_that_leaves_or_arrives_lies_within_a_segment():
    plan = compile(graph(), Cluster.local(2, cores=1), strategy="batch")
    with LocalCluster(plan, ops=C, threads=2) as cluster:
        cluster.init(0)
        losses = [float(cluster.run(feeds())["loss"]) for _ in range(COMPILE_AT + 3)]
        for executor in cluster._executors.values():
            assert executor._loaded.segments
            for segment in executor._loaded.segments:
                between = executor.program.instructions[segment.members[0] : segment.members[-1]]
                assert not any(isinstance(i, Send) for i in between)
    np.testing.assert_allclose(losses, trained(COMPILE_AT + 3, kernels="numpy")[0], rtol=1e-5)
