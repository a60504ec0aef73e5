"""Ctrl-C in a session; sessions that nobody holds any more."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref

import numpy as np
import pytest

import rainshed as rs
from rainshed.ops.errors import RainshedError, UsageError

PRESSED: list[int] = []  # how often Ctrl-C is pressed while the op `pressing` runs, once for each of its runs


@rs.op(signature="()->()", split="")
def pressing(x, out):
    for _ in range(PRESSED.pop() if PRESSED else 0):
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.05)  # for the main thread to see it
    np.copyto(out, x)


def counting():
    """A graph that counts its steps in a variable."""
    count = rs.variable("count", (), init=rs.init.constant(0.0))
    return rs.graph(outputs={"y": pressing(rs.input("x", (4, 3)))}, updates={"count": count + 1})


WHERE = [{"backend": "here"}, {"cluster": rs.Cluster.local(2), "backend": "threads"}]
X = np.ones((4, 3), np.float32)


@pytest.mark.parametrize("told", WHERE, ids=["here", "threads"])
def test_ctrl_c_comes_between_two_steps(told):
    with rs.Session(counting(), **told) as session:
        for pressed in (0, 1, 0, 1):
            PRESSED[:] = [pressed]
            if pressed:
                with pytest.raises(KeyboardInterrupt):
                    session.run({"x": X})
            else:
                session.run({"x": X})
        assert session.step == session.variables()["count"] == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("told", WHERE, ids=["here", "threads"])
def test_a_second_ctrl_c_ends_the_session(told, tmp_path):
    with rs.Session(counting(), **told) as session:
        PRESSED[:] = [2]
        with pytest.raises(KeyboardInterrupt):
            session.run({"x": X})
        for ask in (lambda: session.run({"x": X}), session.variables, lambda: session.save(tmp_path)):
            with pytest.raises(RainshedError, match="the session was interrupted by KeyboardInterrupt"):
                ask()


def test_who_has_a_handler_of_their_own_keeps_it():
    seen = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with rs.Session(counting()) as session:
            PRESSED[:] = [1]
            session.run({"x": X})
            assert seen == [signal.SIGINT] and session.step == 1
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("method", [rs.Single(), rs.Downpour(replicas=2, servers=2)], ids=["single", "downpour"])
def test_ctrl_c_ends_a_training(method):
    """Its workers would train on, and who asks for more would wait for them."""
    x = rs.input("x", (None, 3))
    graph = rs.graph(loss=rs.mean(rs.square(rs.layers.dense(x, 2))))
    options = rs.TrainingOptions(method=method, optimizer=rs.SGD(0.1), batch=4, backend="threads")
    before = set(threading.enumerate())
    told = lambda progress: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    training = rs.Training(graph, {"x": np.ones((8, 3), np.float32)}, options, on_progress=told)
    with pytest.raises(KeyboardInterrupt):
        training.run(steps=10**7)
    assert not set(threading.enumerate()) - before
    with pytest.raises(UsageError, match="the job is closed"):
        training.run(steps=1)


@pytest.mark.parametrize(
    "told", [{"cluster": rs.Cluster.local(1, cores=3), "backend": "here"}, WHERE[1]], ids=["here", "threads"]
)
def test_a_session_that_is_dropped_is_closed(told):
    before = set(threading.enumerate())
    session = rs.Session(counting(), **told)
    session.run({"x": X})
    held = weakref.ref(session)
    ours = set(threading.enumerate()) - before
    assert ours
    del session
    gc.collect()
    assert held() is None
    for thread in ours:
        thread.join(20)
    assert not any(thread.is_alive() for thread in ours)
