"""Training end to end, mostly with workers as threads: the same code as processes, without their start."""

import shutil
import threading

import numpy as np
import pytest

import rainshed as rs
from rainshed.compiler.machines import Cluster
from rainshed.engine.methods import Downpour, Single, TrainingOptions
from rainshed.engine.training import Training, train
from rainshed.ops.errors import CheckpointError, DataError, NotFiniteError, StallError, UsageError
from rainshed.runtime.deadlines import Timeouts

RNG = np.random.default_rng(7)
CENTRES = RNG.standard_normal((3, 6)).astype(np.float32) * 2
LABEL = RNG.integers(0, 3, 240).astype(np.int32)
DATA = {"x": (CENTRES[LABEL] + RNG.standard_normal((240, 6))).astype(np.float32), "label": LABEL}


def build(optimizer=None):
    x, label = rs.input("x", (None, 6)), rs.input("label", (None,), "int32")
    hidden = rs.layers.dense(x, 8, activation=rs.tanh)
    logits = rs.layers.dense(hidden, 3)
    return rs.graph(
        loss=rs.mean(rs.softmax_cross_entropy(logits, label)), outputs={"logits": logits}, optimizer=optimizer
    )


def options(machines=1, method=None, **more):
    more = {"optimizer": rs.Adagrad(0.1), "batch": 12, "backend": "threads", "strategy": "longest", **more}
    return TrainingOptions(cluster=Cluster.local(machines), method=method or Single(), **more)


def test_more_machines_give_the_same_parameters():
    found = []
    for machines, place in ((1, {}), (2, {"dense": "m1"}), (3, {})):
        values, result = train(build(), DATA, options(machines, place=place), steps=30)
        assert result.steps == 30 and result.examples == 360
        found.append(values)
    for other in found[1:]:
        for name, value in found[0].items():
            np.testing.assert_allclose(other[name], value, rtol=2e-4, atol=1e-6, err_msg=name)


def test_a_training_places_what_it_is_told_to():
    with Training(build(), DATA, options(2, place={"dense*": "m1"})) as training:
        assert {p.machine for p in training.plan.programs if p.variables} == {"m1"}


def test_one_downpour_replica_that_waits_for_its_server_is_plain_training():
    """With every push acknowledged before the next step, asynchronous training is the synchronous one."""
    plain, _ = train(build(), DATA, options(1), steps=12)
    with Training(build(), DATA, options(1, Downpour(1, 2))) as training:
        for _ in range(12):
            training.run(1)
            training.pull()
        values = training.variables()
    for name, value in values.items():
        np.testing.assert_allclose(value, plain[name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_downpour_learns_and_counts():
    told = []
    with Training(build(), DATA, options(2, Downpour(3, 2, warm_start=10)), on_progress=told.append) as training:
        first = training.run(10)
        result = training.run(150)
        pids = training.pids
    assert result.loss < 0.75 * first.loss, (first.loss, result.loss)
    assert set(pids) == {f"r{r}/m{m}" for r in range(3) for m in range(2)} | {"s0", "s1"}
    assert result.applied == result.pushes > 0 and result.refused == 0
    assert sum(result.staleness.values()) == result.applied
    assert {p.replica for p in told} == {0, 1, 2}


def test_n_push_and_n_fetch_send_less():
    often, seldom = (train(build(), DATA, options(1, Downpour(1, 1, n_push=n, n_fetch=n)), steps=24)[1] for n in (1, 4))
    assert seldom.pushes == often.pushes // 4
    assert seldom.bytes_sent < often.bytes_sent / 2


def test_a_checkpoint_is_resumed_with_other_machines_and_servers(tmp_path):
    method = Downpour(2, 2)
    with Training(build(), DATA, options(2, method, optimizer=rs.Adam(0.01), checkpoint=tmp_path)) as training:
        training.run(20)
        before = training.variables()
    resumed = options(3, Downpour(1, 3), optimizer=rs.Adam(0.01), checkpoint=tmp_path, resume=True)
    with Training(build(), DATA, resumed) as training:
        after = training.variables()
        result = training.run(10)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    assert result.steps == 10


def test_a_resumed_run_equals_one_that_was_not_interrupted(tmp_path):
    whole, _ = train(build(), DATA, options(1, optimizer=rs.Adam(0.01)), steps=20)
    train(build(), DATA, options(1, optimizer=rs.Adam(0.01), checkpoint=tmp_path), steps=12)
    rest, _ = train(build(), DATA, options(1, optimizer=rs.Adam(0.01), checkpoint=tmp_path, resume=True), steps=8)
    for name, value in whole.items():
        np.testing.assert_array_equal(rest[name], value)


def test_a_warm_start_that_is_the_whole_training_is_kept(tmp_path):
    train(build(), DATA, options(1, Downpour(2, 1, warm_start=10), checkpoint=tmp_path), steps=5)
    resumed = options(1, Downpour(2, 1), checkpoint=tmp_path, resume=True)
    with Training(build(), DATA, resumed) as training:
        assert training.step * training.method.replicas >= 5


def test_after_a_checkpoint_that_failed_training_goes_on_where_it_was(tmp_path):
    """The folder turns into a file, and back: the steps that were made are not made again."""
    whole, _ = train(build(), DATA, options(1), steps=12)
    folder = tmp_path / "checkpoints"
    with Training(build(), DATA, options(1, checkpoint=folder, checkpoint_every=8)) as training:
        shutil.rmtree(folder)
        folder.write_text("")
        with pytest.raises(CheckpointError, match="cannot hold checkpoints"):
            training.run(12)
        assert training.step == 8
        folder.unlink()
        training.run(4)
        rest = training.variables()
    for name, value in whole.items():
        np.testing.assert_array_equal(rest[name], value)


def test_a_stream_of_examples_trains():
    def examples():
        for i in range(240):
            yield {name: values[i] for name, values in DATA.items()}

    with Training(build(), examples, options(2, Downpour(2, 1))) as training:
        assert training.run(40).loss < 1.2
    with (
        Training(build(), iter(list(examples())[:30]), options(1)) as training,
        pytest.raises(DataError, match="read only once"),
    ):
        training.run(20)


def test_a_stream_that_fails_stops_training():
    def examples():
        for i in range(60):
            yield {name: values[i] for name, values in DATA.items()}
        raise OSError("the disk is gone")

    with (
        Training(build(), examples, options(1)) as training,
        pytest.raises(DataError, match="the stream failed before step 0: OSError: the disk is gone") as caught,
    ):
        training.run(20)
    assert "test_training.py" in str(caught.value)


def test_a_stream_that_gives_nothing_does_not_hold_who_stops():
    """The machine's wait for a batch has a deadline; then the training ends, though the stream still gives nothing."""
    more = threading.Event()

    def examples():
        for i in range(30):
            yield {name: values[i] for name, values in DATA.items()}
        more.wait()

    quick = Timeouts().scaled(0.02)
    try:
        with Training(build(), examples, options(1, timeouts=quick)) as training, pytest.raises(StallError):
            training.run(20)
    finally:
        more.set()
        for thread in [t for t in threading.enumerate() if t.name.startswith("rainshed feeds")]:
            thread.join()


def test_what_does_not_fit_is_refused_before_anything_starts(tmp_path):
    threads = threading.active_count()
    with pytest.raises(DataError, match="label"):
        Training(build(), {"x": DATA["x"]}, options())
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot hold checkpoints"):
        Training(build(), DATA, options(checkpoint=tmp_path / "file"))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Training(build(), DATA, options(checkpoint=tmp_path, resume=True))
    with pytest.raises(DataError, match="batch of 500"):
        Training(build(), DATA, options(batch=500))
    with pytest.raises(UsageError, match="optimizer"):
        Training(build(), DATA, options(optimizer=None))
    with pytest.raises(UsageError, match="replicas is a whole number"):
        Downpour(replicas=0)
    with pytest.raises(UsageError, match="steps or epochs"), Training(build(), DATA, options()) as training:
        training.run()
    assert threading.active_count() == threads


def test_a_loss_that_is_no_number_stops_training():
    x = rs.input("x", (None, 6))
    graph = rs.graph(loss=rs.mean(rs.square(rs.layers.dense(x, 4))))
    chosen = options(2, optimizer=rs.SGD(1e6))
    with Training(graph, {"x": DATA["x"]}, chosen) as training, pytest.raises(NotFiniteError, match="step"):
        training.run(50)


def test_a_user_op_travels():
    @rs.op(signature="()->()", grad=lambda node, dy: (dy * 2.0,))
    def doubled(x, out):
        np.multiply(x, 2.0, out=out)

    x, label = rs.input("x", (None, 6)), rs.input("label", (None,), "int32")
    logits = rs.layers.dense(doubled(x), 3)
    graph = rs.graph(loss=rs.mean(rs.softmax_cross_entropy(logits, label)))
    _, result = train(graph, DATA, options(2, Downpour(1, 1)), steps=10)
    assert result.loss is not None
