"""The server: roles, order, lengths, held fetches, answers; over every transport."""

import contextlib
import queue
import threading

import msgspec
import numpy as np
import pytest
from params_kit import adagrad, cluster, config_of, part, payload_of, sgd

from rainshed.ops.errors import PeerLostError, ProtocolError, RainshedError, StaleIncarnationError
from rainshed.runtime.messages import (
    AskShard,
    Attach,
    Attached,
    Fetch,
    Heartbeat,
    Params,
    Push,
    PushAck,
    Put,
    PutAck,
    RestoreShard,
    ShardTold,
    Stop,
)
from rainshed.runtime.params.server import MAX_UNANSWERED
from rainshed.runtime.params.snapshot import decode_snapshot

PARTS = [part("b", 4), part("w", 3, 2)]


class Ear:
    """A Handler that keeps what it hears."""

    def __init__(self):
        self.heard = queue.Queue()

    def connected(self, channel):
        pass

    def buffer(self, channel, message, nbytes):
        return memoryview(bytearray(nbytes))

    def received(self, channel, message, payload):
        self.heard.put((message, bytes(payload)))

    def lost(self, channel, error):
        self.heard.put((error, b""))

    def next(self):
        return self.heard.get(timeout=10.0)


class Caller:
    """Somebody who talks to shard 0 by hand."""

    def __init__(self, running, address, role="machine", name="r0/m0", incarnation=1):
        self.ear = Ear()
        self.channel = running.listen(role, name, self.ear, incarnation).connect(address, timeout_s=5.0)

    def say(self, message, *payload):
        self.channel.send(message, payload, timeout_s=5.0)
        return self

    def ask(self, message, *payload):
        return self.say(message, *payload).ear.next()

    def attach(self, layout, acked=0):
        attached, _ = self.ask(Attach(layout.digest, acked))
        assert isinstance(attached, Attached), attached
        return self


@pytest.fixture(params=["inproc", "tcp"])
def running(request):
    with cluster(request.param) as made:
        yield made


@pytest.fixture
def shard(running):
    """A server with values, and a machine attached to it."""
    (server,), addresses = running.serve(PARTS, adagrad)
    ann = Caller(running, addresses[0]).attach(server.shard.config.layout)
    assert ann.ask(Put(1, (0, 1)), payload_of(np.ones(10, "f4"))) == (PutAck(1, 2, 0), b"")
    return server, addresses[0], ann


def test_push_fetch_and_put(shard):
    server, _, ann = shard
    assert ann.ask(Push(1, 0, (0, 1)), payload_of(np.ones(10, "f4")))[0] == PushAck(1, 1, 1, 0, "applied")
    assert ann.ask(Push(1, 0, (0, 1)), payload_of(np.ones(10, "f4")))[0] == PushAck(1, 1, 1, 1, "dup")
    params, payload = ann.ask(Fetch(7, (1,)))
    assert params == Params(7, 1)
    np.testing.assert_allclose(np.frombuffer(payload, "f4"), np.full(6, 0.9), rtol=1e-6)
    assert server.shard.counts.applied == 1


def test_fetches_are_held_back_until_the_last_first_value_is_there(running):
    (server,), addresses = running.serve(PARTS, sgd)
    layout = server.shard.config.layout
    early = [Caller(running, addresses[0], name=f"r{i}/m0").attach(layout).say(Fetch(i, (0, 1))) for i in range(1, 4)]
    ann = Caller(running, addresses[0]).attach(layout)
    assert ann.ask(Put(1, (1,)), payload_of(np.full(6, 2, "f4")))[0] == PutAck(1, 1, 1)
    assert all(caller.ear.heard.empty() for caller in early)
    assert ann.ask(Put(2, (0,)), payload_of(np.full(4, 1, "f4")))[0] == PutAck(2, 1, 0)
    for i, caller in enumerate(early, 1):
        params, payload = caller.ear.next()
        assert params == Params(i, 0)
        assert np.frombuffer(payload, "f4").tolist() == [1.0] * 4 + [2.0] * 6


def refused(caller, because):
    """The next thing heard is the end of the connection, for this reason."""
    error, _ = caller.ear.next()
    assert isinstance(error, ProtocolError), error
    assert because in str(error)


@pytest.mark.parametrize(
    ("message", "nbytes", "because"),
    [
        (Push(1, 0, (0, 1)), 39, "came with 39 bytes; its parts in shard 0 have 40"),
        (Push(1, 0, (0, 1)), 44, "came with 44 bytes"),
        (Push(1, 0, (0,)), 4, "came with 4 bytes; its parts in shard 0 have 16"),
        (Push(1, 0, (0, 2)), 40, "has parts 0 to 1"),
        (Push(1, 0, (1, 0)), 40, "has parts 0 to 1"),
        (Push(1, 0, ()), 0, "has parts 0 to 1"),
        (Put(1, (0,), "momentum"), 16, "has the fields"),
        (Put(1, (0,)), 2**20, "came with 1048576 bytes"),
        (Fetch(1, (0,)), 8, "has no payload"),
        (Fetch(1, (3,)), 0, "has parts 0 to 1"),
        (Fetch(1, (0,), ("w", "other")), 0, "has the fields"),
        (AskShard(1, "stats"), 0, "may not say AskShard"),
        (RestoreShard(1), 0, "may not say RestoreShard"),
        (Stop("now"), 0, "may not say Stop"),
        (Heartbeat(1, "", 0.0), 0, "may not say Heartbeat"),
        (PushAck(1, 1, 1, 0, "applied"), 0, "may not say PushAck"),
        (Params(1, 1), 40, "may not say Params"),
    ],
)
def test_what_does_not_fit_is_refused_before_memory_is_taken_and_others_go_on(shard, running, message, nbytes, because):
    server, address, ann = shard
    with contextlib.suppress(PeerLostError):  # a large one may be refused while it is sent
        ann.say(message, memoryview(bytearray(nbytes)))
    refused(ann, because)
    bob = Caller(running, address, name="r1/m0").attach(server.shard.config.layout)
    assert bob.ask(Push(1, 0, (0, 1)), payload_of(np.ones(10, "f4")))[0].outcome == "applied"
    assert server.shard.counts.applied == 1


def test_first_comes_attach_and_with_the_same_layout(shard, running):
    _, address, _ = shard
    early = Caller(running, address, name="early").say(Fetch(1, (0,)))
    refused(early, "said Fetch before Attach")
    other = Caller(running, address, name="other").say(Attach(config_of([part("v", 4)]).layout.digest, 0))
    refused(other, "divides the parameters in another way")


def test_only_machines_and_the_coordinator_come_in(shard, running):
    _, address, _ = shard
    stranger = Ear()
    endpoint = running.listen("server", "s7", stranger)
    try:
        endpoint.connect(address, timeout_s=5.0)
    except RainshedError as error:
        heard = error
    else:
        heard = stranger.next()[0]
    assert "no role that talks to a parameter server" in str(heard)


def test_the_coordinator_may_not_push(shard, running):
    server, address, _ = shard
    chief = Caller(running, address, "coordinator", "chief").attach(server.shard.config.layout)
    refused(chief.say(Push(1, 0, (0,)), payload_of(np.ones(4, "f4"))), "may not say Push")


def test_an_old_incarnation_is_told_so(shard, running):
    server, address, ann = shard
    newer = Caller(running, address, incarnation=2).attach(server.shard.config.layout)
    assert ann.ask(Push(1, 0, (0, 1)), payload_of(np.ones(10, "f4")))[0].outcome == "stale"
    assert newer.ask(Push(1, 0, (0, 1)), payload_of(np.ones(10, "f4")))[0].outcome == "applied"
    older = Caller(running, address, name="r0/m0", incarnation=1).say(Attach(server.shard.config.layout.digest, 0))
    assert isinstance(older.ear.next()[0], StaleIncarnationError)


def test_counters_and_snapshots_for_the_coordinator(shard, running):
    server, address, ann = shard
    ann.ask(Push(1, 0, (0, 1)), payload_of(np.ones(10, "f4")))
    layout = server.shard.config.layout
    chief = Caller(running, address, "coordinator", "chief").attach(layout)
    told, stats = chief.ask(AskShard(4, "stats"))
    assert told == ShardTold(4)
    assert msgspec.json.decode(stats)["applied"] == 1
    told, saved = chief.ask(AskShard(5, "snapshot"))
    snapshot = decode_snapshot(memoryview(saved), server.shard.parts, server.shard.fields)
    assert snapshot.table.last["r0/m0"].seq == 1
    assert snapshot.arrays["seen"][0].tolist() == [1.0] * 4

    (other,), addresses = running.serve(PARTS, adagrad)
    waiting = Caller(running, addresses[0], name="r1/m0").attach(layout).say(Fetch(9, (0,)))
    chief = Caller(running, addresses[0], "coordinator", "chief2").attach(layout)
    assert chief.ask(RestoreShard(6), saved)[0] == PutAck(6, 2, 0)
    assert waiting.ear.next()[0] == Params(9, 1)
    again = Caller(running, addresses[0]).attach(layout)
    assert again.ask(Push(1, 0, (0, 1)), payload_of(np.ones(10, "f4")))[0].outcome == "dup"
    refused(chief.say(RestoreShard(7), saved[:-4]), "are no snapshot")
    assert other.shard.counts.dup == 1


def test_held_fetches_are_bounded(running):
    (server,), addresses = running.serve(PARTS, sgd)
    ann = Caller(running, addresses[0]).attach(server.shard.config.layout)
    with contextlib.suppress(PeerLostError):
        for request in range(MAX_UNANSWERED + 1):
            ann.say(Fetch(request, (0,)))
    refused(ann, "requests unanswered")


def test_parameters_fetched_while_others_push_are_never_torn(shard, running):
    """Every part is read in one piece: all of its elements have seen the same pushes."""
    server, address, ann = shard
    layout, stop = server.shard.config.layout, threading.Event()

    def push(name):
        caller = Caller(running, address, name=name).attach(layout)
        seq = 0
        while not stop.is_set():
            seq += 1
            assert caller.ask(Push(seq, 0, (0, 1)), payload_of(np.full(10, 2.0, "f4")))[0].outcome == "applied"

    threads = [threading.Thread(target=push, args=(f"r{i}/m0",)) for i in (1, 2)]
    for thread in threads:
        thread.start()
    try:
        for request in range(100):
            _, payload = ann.ask(Fetch(request, (0, 1)))
            assert len(set(np.frombuffer(payload, "f4").tolist())) == 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()
