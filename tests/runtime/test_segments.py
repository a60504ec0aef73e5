"""Small kernels joined: what stays apart, the same values, and errors that name their node."""

import numpy as np
import pytest
from msgspec import structs

from rainshed.compiler.dependencies import dependencies
from rainshed.compiler.machines import Cluster
from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import Recv, Run, Send
from rainshed.engine.optimizers import SGD
from rainshed.ops import CATALOGUE as C
from rainshed.ops.conv2d import conv2d
from rainshed.ops.elementwise import square
from rainshed.ops.errors import DataError
from rainshed.ops.ir import Graph, scope
from rainshed.ops.normalize import batch_norm
from rainshed.ops.pool2d import max_pool2d
from rainshed.ops.reduce import mean
from rainshed.ops.softmax_cross_entropy import softmax_cross_entropy
from rainshed.ops.source import input, variable
from rainshed.runtime.cluster.local import LocalCluster
from rainshed.runtime.executor import COMPILE_AT, Executor, Options
from rainshed.runtime.segments import LONGEST_S
from rainshed.runtime.trace import RUN, Recorder


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
    assert cold[0] == plain[0] == trained(steps, recorder=Recorder())[0]
    np.testing.assert_array_equal(cold[1], plain[1])


def test_steps_that_take_long_are_compiled_before_the_second(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = compile(graph(), Cluster.local(1, cores=1)).programs[0]
    runs = [structs.replace(i, seconds=1.0) if isinstance(i, Run) else i for i in program.instructions]
    slow = structs.replace(program, instructions=tuple(runs))
    with Executor(slow, ops=C) as executor:
        executor.init_variables(0)
        for step in range(2):
            executor.run(step, feeds())
        found = executor._loaded.segments
    assert [s.members for s in found] == [s.members for s in trained(COMPILE_AT + 1)[2]]


def test_what_is_traced_goes_through_the_same_machine_code_kernel_by_kernel():
    recorder, steps = Recorder(), COMPILE_AT + 3
    losses, w, segments = trained(steps, recorder=recorder)
    plain = trained(steps)
    assert losses == plain[0]
    np.testing.assert_array_equal(w, plain[1])
    kernels = [s.members[0] for s in segments]
    assert kernels == [i for s in plain[2] for i in s.members]  # each one a segment by itself
    last = [e.what for e in recorder.events() if e.kind == RUN and e.step == steps - 1]
    assert set(kernels) <= set(last) and len(last) == len(set(last))


def test_without_a_compiler_everything_works(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    losses, _, segments = trained(2)
    assert not segments and losses[1] < losses[0]


def test_an_error_within_a_segment_names_its_node():
    program = compile(graph(), Cluster.local(1, cores=1)).programs[0]
    with Executor(program, ops=C, options=Options(compile_at=0)) as executor:
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
                held_s = sum(executor.program.instructions[i].seconds for i in segment.members)
                assert len(segment.members) == 1 or held_s <= LONGEST_S
    np.testing.assert_allclose(losses, trained(COMPILE_AT + 3, kernels="numpy")[0], rtol=1e-5)


def test_what_waits_for_other_messages_is_another_segment():
    """Two halves of a batch go through stages on two machines: what is done for the second does not wait for the first."""
    x = input("x", (64, 64))
    random = np.random.default_rng(4)
    h = x
    for i in range(4):
        h = C["tanh"](h @ variable(f"w{i}", (64, 64), init=random.standard_normal((64, 64), np.float32) / 8)) * 0.5
    plan = compile(
        Graph({"loss": mean(h * h)}, loss="loss", rule=SGD(0.1).rule()), Cluster.local(2, cores=1), strategy="pipeline"
    )
    with LocalCluster(plan, ops=C) as cluster:
        cluster.init(0)
        for _ in range(COMPILE_AT + 1):
            cluster.run({"x": np.ones((64, 64), np.float32)})
        for executor in cluster._executors.values():
            before = dependencies(executor.program)
            kinds = [type(i) for i in executor.program.instructions]
            needs: list[set[int]] = []
            for own in before:
                needs.append(set().union(*(needs[j] | ({j} if kinds[j] in (Send, Recv) else set()) for j in own)))
            assert executor._loaded.segments
            for segment in executor._loaded.segments:
                assert len({frozenset(needs[i]) for i in segment.members}) == 1


def wide():
    """Kernels that are long enough to be cut, between products that are cut too."""
    x = input("x", (96, 512))
    random = np.random.default_rng(2)
    w = variable("w", (512, 512), init=random.standard_normal((512, 512), np.float32) / 20)
    h = x
    for _ in range(3):
        h = C["tanh"](h @ w) * 0.5 + C["sigmoid"](h)
    sums = C["sum_to"](h, shape=(512,))
    return Graph({"sums": sums, "parts": C["concat"](h[48:], h[:48], axis=0)})


@pytest.mark.parametrize("threads", (2, 3))
def test_the_threads_of_a_machine_do_a_segment_together_with_the_same_values(threads):
    program = compile(wide(), Cluster.local(1, cores=1)).programs[0]
    values = {"x": np.random.default_rng(3).standard_normal((96, 512), np.float32)}
    found = []
    for kernels in ("native", "numpy"):
        with Executor(program, ops=C, options=Options(threads=threads, kernels=kernels, compile_at=0)) as executor:
            executor.init_variables(0)
            assert [s.pieces for s in executor._loaded.segments] == ([threads] if kernels == "native" else [])
            outputs = [executor.run(i, values) for i in range(20)]
            found.append(outputs[0])
            for later in outputs:
                for name, value in outputs[0].items():
                    np.testing.assert_array_equal(later[name], value)
    for name, value in found[0].items():
        np.testing.assert_array_equal(found[1][name], value)


def test_one_thread_does_all_of_a_segment_if_no_other_comes():
    program = compile(wide(), Cluster.local(1, cores=1)).programs[0]
    with Executor(program, ops=C, options=Options(threads=2, compile_at=0)) as executor:
        loaded = executor._loaded
        executor.init_variables(0)
        loaded.feed(0, {"x": np.ones((96, 512), np.float32)})
        (segment,) = loaded.segments
        segment.begin()
        segment.call()
        alone = loaded.outputs(copy=True)
        segment.call()  # comes late: nothing is left to do
        for name, value in executor.run(0, {"x": np.ones((96, 512), np.float32)}).items():
            np.testing.assert_array_equal(alone[name], value)


def test_an_error_stops_all_threads_of_a_segment():
    x, labels = input("x", (2048, 512)), input("labels", (2048,), "int64")
    losses = softmax_cross_entropy(C["tanh"](x) * 2.0, labels)
    program = compile(Graph({"loss": mean(losses)}), Cluster.local(1, cores=1)).programs[0]
    values = {"x": np.ones((2048, 512), np.float32), "labels": np.full(2048, 999)}
    with Executor(program, ops=C, options=Options(threads=2, compile_at=0)) as executor:
        assert max(s.pieces for s in executor._loaded.segments) == 2
        with pytest.raises(DataError, match="a label is from 0 to 511; found 999"):
            executor.run(0, values)


def test_many_tiny_kernels_are_left_to_one_thread():
    x = input("x", (1, 64))
    w = variable("w", (64, 64), init=np.random.default_rng(4).standard_normal((64, 64), np.float32) / 8)
    h = x
    for _ in range(200):
        h = C["tanh"](h @ w)
    program = compile(Graph({"h": h}), Cluster.local(1, cores=1)).programs[0]
    with Executor(program, ops=C, options=Options(threads=2, compile_at=0)) as executor:
        assert [s.pieces for s in executor._loaded.segments] == [1]


def images():
    """Convolutions of two kinds, pools of two sizes, and batch normalisation, large enough to be cut and summed up."""
    x = input("x", (4, 36, 36, 3))
    random = np.random.default_rng(0)
    shapes = {"first": (5, 5, 3, 16), "apart": (3, 3, 1, 16), "last": (3, 3, 16, 32)}
    w = {n: variable(n, s, init=random.standard_normal(s, np.float32)) for n, s in shapes.items()}
    scale, shift = variable("scale", (16,), init=1.0), variable("shift", (16,))
    h = batch_norm(conv2d(x, w["first"], padding=((2, 2), (2, 2))), scale, shift)
    h = conv2d(C["relu"](h), w["apart"], groups=16, stride=(1, 1))
    h = max_pool2d(C["relu"](conv2d(max_pool2d(h, size=(2, 2)), w["last"])), size=(3, 3))
    return Graph({"loss": mean(square(h))}, loss="loss", rule=SGD(0.001).rule())


def test_convolutions_within_a_segment_have_the_same_bits_by_any_number_of_threads_and_traced():
    program = compile(images(), Cluster.local(1, cores=1)).programs[0]
    assert "fused_sum" in {getattr(i, "op", "") for i in program.instructions}
    fed = {"x": np.random.default_rng(1).standard_normal((4, 36, 36, 3), np.float32)}
    found = []
    for options in ({}, {"threads": 2}, {"threads": 3}, {"threads": 2, "recorder": Recorder()}):
        with Executor(program, ops=C, options=Options(compile_at=0, **options)) as executor:
            executor.init_variables(0)
            found.append([float(executor.run(i, fed)["loss", ()]) for i in range(3)])
            members = [segment.members for segment in executor._loaded.segments]
            assert (len(members) if "recorder" in options else len(members[0])) > 20
            assert len(members) == 1 or "recorder" in options
    assert found[0][2] < found[0][0] and all(losses == found[0] for losses in found)


def test_a_product_of_stacked_matrices_is_cut_between_them_and_keeps_its_bits():
    q, k, w = input("q", (4, 64, 32)), input("k", (4, 32, 48)), input("w", (48, 24))
    program = compile(Graph({"y": q @ k @ w}), Cluster.local(1, cores=1)).programs[0]
    random = np.random.default_rng(0)
    fed = {x.name: random.standard_normal(x.shape, np.float32) for x in (q, k, w)}
    found = []
    for threads in (1, 2, 4):
        with Executor(program, ops=C, options=Options(threads=threads, compile_at=0)) as executor:
            found.append(executor.run(0, fed)["y", ((0, 4), (0, 64), (0, 24))])
            (segment,), kernels = executor._loaded.segments, executor._loaded.kernels
            products = segment.members
            assert [kernels.same_bits(i, 4) for i in products] == [True, False]  # the rows of all by w are one product
            assert not kernels.same_bits(products[0], 5)
            assert len(kernels.chains(products[0], threads, compiling=False)) == threads
    for value in found[1:]:
        np.testing.assert_array_equal(value, found[0])
