"""The client and real servers over real connections: what is pushed arrives once, whatever happens to connections."""

import hashlib
import threading

import numpy as np
import pytest
from params_kit import QUICK, adagrad, cluster, config_of, ledger_rule, part, sgd, wait_until

from rainshed.ops.errors import (
    DataError,
    NotFiniteError,
    PeerLostError,
    ProtocolError,
    ShapeError,
    StaleIncarnationError,
    StallError,
    UsageError,
)
from rainshed.runtime.deadlines import Timeouts
from rainshed.runtime.params.client import ClientConfig
from rainshed.runtime.params.rule import rule_of
from rainshed.runtime.params.server import ParamServer
from rainshed.runtime.params.shard import Shard

PARTS = [part("b", 4), part("w", 30, 20)]


@pytest.fixture(params=["inproc", "tcp"])
def running(request):
    with cluster(request.param) as made:
        yield made


def filled(value, parts=PARTS):
    return {p.key: np.full(p.shape, value, "f4" if p.dtype == "f32" else "f8") for p in parts}


def begin(running, parts=PARTS, rule=sgd, servers=2, kind=ParamServer, value=1.0, client=None, **shard):
    """Servers, and one client that has given first values and fetched them."""
    made, addresses = running.serve(parts, rule, servers, kind, **shard)
    ann = running.client("r0/m0", made[0].shard.config.layout, addresses, parts, **(client or {}))
    ann.put(filled(value, parts))
    ann.pull()
    return made, addresses, ann


# -- steps ------------------------------------------------------------------------------------------------------------


def test_pushes_move_what_is_fetched(running):
    servers, addresses, ann = begin(running)
    bob = running.client("r1/m0", servers[0].shard.config.layout, addresses, PARTS)
    assert bob.latest() is None
    for step in range(10):
        ann.push(step, filled(0.5))
    ann.flush()
    assert all((value == -1.5).all() for value in bob.pull().values())
    assert all((value == 1.0).all() for value in ann.values.values())  # what is not fetched does not move
    assert {shard: counts.applied for shard, counts in ann.counts().items()} == {0: 10, 1: 10}
    assert [server.shard.counts.applied for server in servers] == [10, 10]
    assert sum(counts.pushed_nbytes for counts in ann.counts().values()) == 10 * sum(p.nbytes for p in PARTS)


def test_the_gradients_of_n_push_steps_are_added_and_the_rest_is_sent_by_flush(running):
    servers, _, ann = begin(running, client={"n_push": 3})
    for step in range(7):
        ann.push(step, filled(float(step)))
    ann.flush()
    assert servers[0].shard.counts.applied == 3
    assert all((value == 1.0 - 0.5 * 21).all() for value in ann.pull().values())
    ann.flush()
    assert servers[0].shard.counts.applied == 3  # nothing is collected


def test_every_n_fetch_steps_parameters_are_asked_for(running):
    _, _, ann = begin(running, client={"n_fetch": 5})
    before = {shard: counts.fetches for shard, counts in ann.counts().items()}
    for step in range(15):
        ann.end_step(step, filled(0.0))
        wait_until(lambda: not any(link.outbox.fetching for link in ann._links.values()))
    assert {shard: counts.fetches - before[shard] for shard, counts in ann.counts().items()} == {0: 3, 1: 3}


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("replicas", [1, 3])
def test_a_replica_sends_and_fetches_all_parameters_once_in_so_many_steps(running, replicas, every):
    """Data parallel by a parameter server: in all 2 P n_in n_out bytes a step, whatever the batch (with n_push = n_fetch = 1)."""
    how = {"n_push": every, "n_fetch": every}
    servers, addresses, first = begin(running, client=how)
    layout = servers[0].shard.config.layout
    clients = [first, *(running.client(f"r{i}/m0", layout, addresses, PARTS, **how) for i in range(1, replicas))]
    moved = 0
    for client in clients:
        client.pull()
        before = [(counts.pushed_nbytes, counts.fetched_nbytes) for counts in client.counts().values()]
        for step in range(6):
            client.end_step(step, filled(0.5))
            wait_until(lambda client=client: not any(link.outbox.fetching for link in client._links.values()))
        client.flush()
        after = [(counts.pushed_nbytes, counts.fetched_nbytes) for counts in client.counts().values()]
        moved += sum(b - a for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True))
    assert moved == 2 * replicas * sum(p.nbytes for p in PARTS) * 6 // every


def test_the_executors_own_arrays_are_filled_in_place(running):
    servers, addresses, ann = begin(running)
    mine = filled(7.0)
    config = ClientConfig(name="r1/m0", layout=servers[0].shard.config.layout, parts=tuple(PARTS), addresses=addresses)
    bob = type(ann)(config, QUICK, mine)
    running.clients.append(bob)
    bob.start(running.listen("machine", "r1/m0", bob))
    fetched = bob.pull()
    assert all(np.shares_memory(fetched[key], mine[key]) and (mine[key] == 1.0).all() for key in mine)


def test_between_fetches_a_local_rule_moves_the_own_copy(running):
    rule = rule_of(adagrad, ["f32"])
    _, _, ann = begin(running, rule=adagrad, client={"local_rule": rule, "n_fetch": 100})
    for step in range(5):
        assert ann.end_step(step, filled(2.0)) is None
    mine = {key: value.copy() for key, value in ann.values.items()}
    ann.flush()
    assert all((value < 1.0).all() for value in mine.values())
    fetched = ann.pull()
    assert all((fetched[key] == mine[key]).all() for key in mine)  # one machine alone: the server did the same


def test_a_machine_talks_only_to_the_shards_that_hold_its_parts(running):
    parts = [part(f"v{i}", 1000) for i in range(4)]
    servers, addresses = running.serve(parts, sgd, 4)
    layout = servers[0].shard.config.layout
    ann = running.client("r0/m0", layout, addresses, parts[:1])
    ann.put(filled(1.0, parts[:1]))
    assert [len(server._clients) for server in servers] == [1, 0, 0, 0]
    assert list(ann.counts()) == [0]


def test_a_machine_without_trainable_parts_has_nothing_to_say(running):
    servers, addresses = running.serve(PARTS, sgd)
    idle = running.client("r0/m1", servers[0].shard.config.layout, addresses, [])
    idle.put({})
    assert idle.end_step(0, {}) is None
    idle.flush()
    assert idle.pull() == {} and not servers[0]._clients


def test_staleness_is_what_others_pushed_since_the_fetch(running):
    servers, addresses, ann = begin(running, servers=1)
    bob = running.client("r1/m0", servers[0].shard.config.layout, addresses, PARTS)
    bob.pull()
    for step in range(4):
        ann.push(step, filled(0.0))
        ann.pull()
    bob.push(0, filled(0.0))
    bob.flush()
    assert ann.counts()[0].staleness == {0: 4}
    assert bob.counts()[0].staleness == {4: 1}
    assert servers[0].shard.counts.staleness == {0: 4, 4: 1}


# -- the ledger -------------------------------------------------------------------------------------------------------


class Cutting(ParamServer):
    """Closes the connection at chosen messages of every kind: before a push is done, after it is done and before it is
    acknowledged, instead of answering a greeting or a fetch, after first values were taken. Keeps what it was sent."""

    every = 5

    def __init__(self, shard, timeouts):
        super().__init__(shard, timeouts)
        self.pushes = self.fetches = self.greetings = 0
        self.cuts = {"before": 0, "after": 0, "fetch": 0, "put": 0, "attach": 0}
        self.digests = {}

    def _cut(self, client, where):
        self.cuts[where] += 1
        client.channel.close()

    def _push(self, client, message, payload):
        digest = hashlib.sha256(payload).hexdigest()
        self.digests.setdefault((client.worker, message.seq), set()).add((message, digest))
        with self._lock:
            self.pushes += 1
            turn = self.pushes % self.every
            ack = self.shard.push(client.worker, message, payload) if turn != 1 else None
        if turn == 1:
            self._cut(client, "before")
        elif turn == 2:
            self._cut(client, "after")
        else:
            client.say(ack)

    def _attach(self, client, message):
        self.greetings += 1
        if self.greetings % self.every == 2:
            self._cut(client, "attach")
        else:
            super()._attach(client, message)

    def _put(self, client, message, payload):
        if self.cuts["put"] < 2:
            with self._lock:
                self.shard.put(message, payload)
            self._cut(client, "put")
        else:
            super()._put(client, message, payload)

    def _fetch(self, client, message):
        self.fetches += 1
        if self.fetches % self.every == 3:
            self._cut(client, "fetch")
            return None
        return super()._fetch(client, message)


def ledger_run(running, kind, replicas=3, steps=30, servers=2, shard_kind=Shard):
    """Every replica pushes 1.0 into each of its own cells once, all at the same time; gives the ledger and servers."""
    ledger = [part("ledger", replicas, steps, dtype="f64"), part("other", 300, dtype="f64")]
    made = [kind(shard_kind(config_of(ledger, ledger_rule, servers, i)), running.timeouts) for i in range(servers)]
    addresses = {i: running.listen("server", f"s{i}", server).address for i, server in enumerate(made)}
    layout = made[0].shard.config.layout
    clients = [running.client(f"r{i}/m0", layout, addresses, ledger, window=3) for i in range(replicas)]
    errors = []

    def train(index, client):
        try:
            client.put(filled(0.0, ledger))
            client.pull()
            for step in range(steps):
                gradients = filled(0.0, ledger)
                gradients[ledger[0].key][index, step] = 1.0
                gradients[ledger[1].key][:] = 1.0
                client.end_step(step, gradients)
            client.flush()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=train, args=pair) for pair in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    values = clients[0].pull()
    return values[ledger[0].key], values[ledger[1].key], made, clients


def test_the_ledger_without_faults(running):
    ledger, other, servers, clients = ledger_run(running, ParamServer)
    assert (ledger == 1.0).all() and (other == 90.0).all()
    assert [s.shard.counts.dup for s in servers] == [0, 0]
    assert all(counts.connections == 1 and not counts.resent for c in clients for counts in c.counts().values())


def test_the_ledger_when_connections_are_cut_between_push_and_acknowledgement(running):
    ledger, other, servers, clients = ledger_run(running, Cutting)
    assert (ledger == 1.0).all() and (other == 90.0).all()
    assert all(count > 0 for server in servers for count in server.cuts.values())
    assert all(server.shard.counts.applied == 90 for server in servers)
    assert sum(counts.resent for c in clients for counts in c.counts().values()) > 0
    assert sum(counts.dup for c in clients for counts in c.counts().values()) > 0
    for server in servers:
        assert all(len(found) == 1 for found in server.digests.values())  # what is sent again, is the same


class Forgetful(Shard):
    """Does not know what it has applied."""

    def _outcome(self, last, message, staleness):
        return "applied", ""

    def attach(self, worker, message):
        super().attach(worker, message)
        return type(super().attach(worker, message))(self.config.number, message.acked)


def test_without_duplicate_recognition_the_ledger_is_wrong(running):
    """The test of the test."""
    ledger, _, _, _ = ledger_run(running, Cutting, replicas=2, steps=10, shard_kind=Forgetful)
    assert ledger.max() > 1.0


def test_adagrad_under_cuts_equals_the_run_without_bit_for_bit(running):
    def run(kind):
        draw = np.random.default_rng(7)
        servers, _, ann = begin(running, rule=adagrad, kind=kind)
        for step in range(40):
            ann.push(step, {p.key: draw.normal(size=p.shape).astype("f4") for p in PARTS})
        ann.flush()
        ann.close()
        return [server.snapshot().arrays for server in servers]

    calm, cut = run(ParamServer), run(Cutting)
    for shard, other in zip(calm, cut, strict=True):
        for field in ("w", "seen"):
            assert all(a.tobytes() == b.tobytes() for a, b in zip(shard[field], other[field], strict=True))


def test_a_server_that_is_started_again_from_its_snapshot_is_found_again():
    with cluster("tcp") as running:
        (first,), addresses, ann = begin(running, rule=adagrad, servers=1)
        for step in range(10):
            ann.push(step, filled(1.0))
        ann.flush()
        saved = first.snapshot()
        ann.push(10, filled(1.0))
        ann.flush()  # acknowledged, and in no snapshot
        running.endpoints[0].close()
        ann.push(11, filled(1.0))

        second = ParamServer(Shard(first.shard.config), running.timeouts)
        second.restore(saved)
        running.listen("server", "s0", second, uri=addresses[0])
        ann.flush()
        assert (second.shard.counts.applied, second.shard.counts.lost) == (11, 1)
        assert ann.counts()[0].connections == 2


# -- flow and failures ------------------------------------------------------------------------------------------------


class Gated(ParamServer):
    """Applies nothing until the gate is opened."""

    def __init__(self, shard, timeouts):
        super().__init__(shard, timeouts)
        self.gate = threading.Event()
        self.arrived = 0

    def _push(self, client, message, payload):
        self.arrived += 1
        self.gate.wait(30.0)
        super()._push(client, message, payload)


def test_a_full_window_holds_the_machine_back(running):
    (server,), _, ann = begin(running, servers=1, kind=Gated, client={"window": 2})
    done = []

    def push():
        for step in range(6):
            ann.push(step, filled(1.0))
            done.append(step)

    thread = threading.Thread(target=push)
    thread.start()
    wait_until(lambda: len(done) == 3 and server.arrived == 1)  # two on their way, one collected
    link = ann._links[0]
    assert sum(request.sent for request in link.outbox._pushes) <= 2
    server.gate.set()
    thread.join()
    ann.flush()
    assert done == list(range(6)) and server.shard.counts.applied == 6


IMPATIENT = Timeouts(
    connect_s=0.5, handshake_s=0.5, rpc_s=0.2, heartbeat_s=0.05, suspect_s=0.1, dead_s=0.5, step_s=0.6, start_s=0.6
)


@pytest.mark.parametrize("scheme", ["inproc", "tcp"])
def test_a_shard_that_answers_nothing_is_named(scheme):
    with cluster(scheme, IMPATIENT) as running:
        (server,), addresses, ann = begin(running, servers=1, kind=Gated)
        ann.push(0, filled(1.0))
        with pytest.raises(StallError, match=r"r0/m0 waited 0\.6 s for shard 0 at \S+ to answer Push\(seq=1") as caught:
            ann.flush()
        assert addresses[0] in str(caught.value) and "last heard" in str(caught.value)
        server.gate.set()
        with pytest.raises(StallError):
            ann.push(1, filled(1.0))


@pytest.mark.parametrize("scheme", ["inproc", "tcp"])
def test_a_shard_that_is_gone_is_named(scheme):
    with cluster(scheme, IMPATIENT) as running:
        _, _, ann = begin(running, servers=1)
        running.endpoints[0].close()
        ann.push(0, filled(1.0))
        with pytest.raises(StallError, match=r"waited 0\.6 s for shard 0") as caught:
            ann.flush()
        assert "no, after" in str(caught.value)


def test_when_the_job_is_over_nobody_waits_for_a_shard(running):
    _, _, ann = begin(running, servers=2)
    running.endpoints[0].close()
    ann.push(0, filled(1.0))
    errors = []

    def flush():
        with pytest.raises(PeerLostError) as caught:
            ann.flush()
        errors.append(caught.value)

    waiting = threading.Thread(target=flush)
    waiting.start()
    over = PeerLostError("the job is over")
    ann.abort(over)
    waiting.join(5)  # half of the time after which the shard would count as lost
    assert errors == [over]


@pytest.mark.parametrize("scheme", ["inproc", "tcp"])
def test_first_values_that_never_come_are_a_stall(scheme):
    with cluster(scheme, IMPATIENT) as running:
        servers, addresses = running.serve(PARTS, sgd, 1)
        bob = running.client("r1/m0", servers[0].shard.config.layout, addresses, PARTS)
        with pytest.raises(StallError, match=r"shard 0 at \S+ to answer Fetch"):
            bob.pull()


def test_a_gradient_that_is_not_finite_is_refused_and_training_goes_on(running):
    servers, _, ann = begin(running, servers=1)
    bad = filled(1.0)
    bad[PARTS[1].key][2, 3] = np.nan
    ann.push(0, bad)
    ann.push(1, filled(1.0))
    ann.flush()
    assert (ann.counts()[0].refused, ann.counts()[0].applied) == (1, 1)
    assert servers[0].shard.counts.nonfinite_of == {"r0/m0 w": 1}
    assert all((value == 0.5).all() for value in ann.pull().values())


def test_the_policy_abort_raises_and_names_the_variable(running):
    _, _, ann = begin(running, servers=1, nonfinite="abort")
    bad = filled(1.0)
    bad[PARTS[0].key][2] = np.inf
    ann.push(0, bad)
    with pytest.raises(NotFiniteError, match=r"shard 0 refused push 1: the gradient of b\[0:4\]"):
        ann.flush()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (np.zeros((30, 1), "f4"), ShapeError),
        (np.zeros((1,), "f4"), ShapeError),
        (np.zeros((600,), "f4"), ShapeError),
        (np.zeros((30, 20), "f8"), ShapeError),
        (np.zeros((30, 20), "i4"), ShapeError),
        (None, DataError),
    ],
)
def test_wrong_gradients_never_leave_the_machine(wrong, error):
    with cluster("inproc") as running:
        (server,), _, ann = begin(running, servers=1)
        gradients = filled(1.0)
        if wrong is None:
            del gradients[PARTS[1].key]
        else:
            gradients[PARTS[1].key] = wrong
        with pytest.raises(error):
            ann.push(0, gradients)
        ann.push(0, filled(1.0))
        ann.flush()
        assert server.shard.counts.applied == 1


def test_another_layout_is_an_error_and_not_tried_for_ever(running):
    _, addresses = running.serve(PARTS, sgd, 1)
    other = [part("b", 4), part("w", 20, 30)]
    bob = running.client("r1/m0", config_of(other).layout, addresses, other)
    with pytest.raises(ProtocolError, match="divides the parameters in another way"):
        bob.pull()


def test_a_machine_that_was_replaced_is_stopped(running):
    servers, addresses, ann = begin(running, servers=1)
    newer = running.client("r0/m0", servers[0].shard.config.layout, addresses, PARTS, incarnation=2)
    newer.pull()
    ann.push(0, filled(1.0))
    with pytest.raises(StaleIncarnationError):
        ann.flush()
    newer.push(0, filled(1.0))
    newer.flush()
    assert servers[0].shard.counts.applied == 1


def test_settings_that_make_no_sense():
    layout = config_of(PARTS).layout
    for wrong in ({"n_push": 0}, {"n_fetch": 0}, {"window": 0}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            ClientConfig(name="m", layout=layout, parts=(), addresses={}, **wrong)
    with cluster("inproc") as running:
        with pytest.raises(UsageError, match="no address for shard 0"):
            running.client("m", layout, {}, PARTS)
        done = running.client("m", layout, {0: "inproc://nowhere#0"}, PARTS)
        done.close()
        with pytest.raises(UsageError, match="is closed"):
            done.fetch_async()
