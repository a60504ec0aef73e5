"""The laws that every transport keeps, and what sockets must bear besides."""

import contextlib
import gc
import os
import queue
import random
import resource
import select
import socket
import threading
import time

import pytest

from rainshed.ops.errors import (
    AuthError,
    PeerLostError,
    ProtocolError,
    RainshedError,
    StallError,
    TransportError,
    UsageError,
)
from rainshed.runtime import auth, wire
from rainshed.runtime.deadlines import Deadline, Timeouts
from rainshed.runtime.messages import Bye, Failed, Stop, Value
from rainshed.runtime.transport import Identity, listen

TOKEN = bytes(range(32))
HEY = Stop("hey")
A, B = Identity("worker", "a", "job"), Identity("server", "b", "job")
CALM = Timeouts()
QUICK = Timeouts().scaled(0.08)  # exchanges of 0.4 s
SECOND_S = 1.0  # within which every fault must have become an error of ours


class Recorder:
    """A handler that keeps what happened, in order, and lets a test wait for it."""

    def __init__(self, limit_nbytes=2**27):
        self.limit_nbytes = limit_nbytes
        self.seen = queue.Queue()
        self.payloads = queue.Queue()
        self.open = threading.Event()  # cleared: received() blocks
        self.open.set()

    def connected(self, channel):
        self.seen.put(("connected", channel))

    def buffer(self, channel, message, nbytes):
        if nbytes > self.limit_nbytes:
            raise ProtocolError(f"{message} has {nbytes} bytes, where the plan has {self.limit_nbytes}")
        return memoryview(bytearray(nbytes))

    def received(self, channel, message, payload):
        self.open.wait(30)
        self.payloads.put((message, bytes(payload)))

    def lost(self, channel, error):
        self.seen.put(("lost", error))

    def next_payload(self):
        return self.payloads.get(timeout=30)

    def channel(self):
        what, channel = self.seen.get(timeout=30)
        assert what == "connected"
        return channel

    def loss(self, timeout_s=30):
        what, error = self.seen.get(timeout=timeout_s)
        assert what == "lost"
        return error


class Raiser(Recorder):
    """A handler with a fault of its own."""

    def received(self, channel, message, payload):
        raise KeyError("a fault of the program")


@pytest.fixture(autouse=True)
def nothing_left():
    """Every thread and every file descriptor of a test ends with it."""
    gc.collect()
    threads, descriptors = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))
    yield
    assert set(threading.enumerate()) <= threads
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= len(descriptors)


@pytest.fixture
def at():
    """Endpoints that are closed at the end of the test."""
    with contextlib.ExitStack() as stack:

        def make(uri, identity, handler, timeouts=CALM, token=TOKEN):
            endpoint = listen(uri, identity, token, handler, timeouts)
            handler.endpoint = endpoint
            stack.callback(endpoint.close)
            stack.callback(handler.open.set)
            return endpoint

        yield make


@pytest.fixture(params=["inproc://here", "tcp://"], ids=["inproc", "tcp"])
def uri(request):
    return request.param


@pytest.fixture
def pair(at, uri):
    """Two processes, connected: (handler, channel) of each."""
    return connect(at, uri)


def connect(at, uri, timeouts=CALM, handlers=None):
    a, b = handlers or (Recorder(), Recorder())
    there = at(uri, B, b, timeouts)
    channel = at(uri, A, a, timeouts).connect(there.address, timeout_s=10)
    assert a.channel() is channel
    return (a, channel), (b, b.channel())


# -- the laws ----


def test_exchange(pair):
    (a, to_b), (b, to_a) = pair
    assert (str(to_b.peer), str(to_a.peer)) == ("server b", "worker a")
    assert to_b.send(Value(1, 2), [b"hello ", b"world"], timeout_s=5) == 11
    assert b.next_payload() == (Value(1, 2), b"hello world")
    assert to_a.send(HEY, timeout_s=5) == 0
    assert a.next_payload() == (HEY, b"")


@pytest.mark.parametrize(
    "sizes",
    [[0], [1], [2**16 - 1, 2**16 + 1], [2**18], [2**18 + 1], [3] * 2000, [2**20, 0, 7]],
    ids=lambda s: f"{len(s)}x{max(s)}",
)
def test_payloads_arrive_whole_and_are_counted_exactly(pair, sizes):
    (_, to_b), (b, to_a) = pair
    parts = [random.Random(i).randbytes(n) for i, n in enumerate(sizes)]
    for step in range(3):
        assert to_b.send(Value(step, 0), parts, timeout_s=10) == sum(sizes)
    for step in range(3):
        message, payload = b.next_payload()
        assert message == Value(step, 0) and payload == b"".join(parts)
    assert (to_b.counters.sent_frames, to_b.counters.sent_payload_nbytes) == (3, 3 * sum(sizes))
    assert (to_a.counters.received_frames, to_a.counters.received_payload_nbytes) == (3, 3 * sum(sizes))


def test_64_mebibytes(pair):
    (_, to_b), (b, _) = pair
    payload = os.urandom(2**20) * 64
    to_b.send(Value(0, 0), [payload], timeout_s=30)
    assert b.next_payload()[1] == payload


def test_many_threads_send_both_ways_at_once(pair):
    (a, to_b), (b, to_a) = pair
    threads, frames = 6, 100

    def send(channel, key):
        rng = random.Random(key)
        for step in range(frames):
            channel.send(Value(step, key), [bytes([key]) * rng.choice([0, 10, 5000, 70_000])], timeout_s=30)

    senders = [threading.Thread(target=send, args=(c, k)) for c in (to_a, to_b) for k in range(threads)]
    for thread in senders:
        thread.start()
    for handler in (a, b):
        steps = dict.fromkeys(range(threads), 0)
        for _ in range(threads * frames):
            message, payload = handler.next_payload()
            assert message.step == steps[message.key]  # in order
            assert set(payload) <= {message.key}
            steps[message.key] += 1
    for thread in senders:
        thread.join()


def test_what_was_sent_before_a_goodbye_arrives(pair):
    (a, to_b), (b, to_a) = pair
    to_a.send(Value(9, 9), [bytes(100)], timeout_s=5)  # unread bytes at the closing side must not reset the connection
    for step in range(50):
        to_b.send(Value(step, 0), [bytes(1000)], timeout_s=5)
    to_b.close()
    to_b.close()
    assert [b.next_payload()[0].step for _ in range(50)] == list(range(50))
    assert a.loss() is None and b.loss() is None


def test_what_waits_to_be_read_survives_a_goodbye_and_answers_to_it(pair):
    (a, to_b), (b, to_a) = pair
    b.open.clear()
    for step in range(1000):
        to_b.send(Value(step, 0), [bytes(1000)], timeout_s=5)
    to_b.close()
    with contextlib.suppress(PeerLostError):
        to_a.send(HEY, timeout_s=5)
        assert a.loss() is None
        for _ in range(20):  # bytes for an end that has closed must not reset the connection
            to_a.send(HEY, [bytes(1000)], timeout_s=5)
    b.open.set()
    assert [b.next_payload()[0].step for _ in range(1000)] == list(range(1000))
    assert b.loss() is None


def test_sending_on_a_closed_channel_fails_at_once(pair):
    (a, to_b), (b, to_a) = pair
    to_b.close()
    assert a.loss() is None and b.loss() is None
    for channel, peer in ((to_b, "server b"), (to_a, "worker a")):
        with pytest.raises(PeerLostError, match=rf"cannot send Stop\(reason='hey'\) to {peer} at .*closed"):
            channel.send(HEY, timeout_s=5)


def test_a_message_too_long_leaves_the_channel_open(pair):
    (_, to_b), (b, _) = pair
    with pytest.raises(ProtocolError, match="Failed takes"):
        to_b.send(Failed("x" * 70_000, "", ""), timeout_s=5)
    to_b.send(HEY, timeout_s=5)
    assert b.next_payload() == (HEY, b"")


def test_unplanned_payloads_are_refused_before_they_are_read(at, uri):
    (a, to_b), (b, _) = connect(at, uri, handlers=(Recorder(), Recorder(limit_nbytes=10)))
    with contextlib.suppress(PeerLostError):  # it may learn while still sending
        to_b.send(Value(4, 5), [bytes(2**23)], timeout_s=5)
    for error in (a.loss(), b.loss()):
        assert type(error) is ProtocolError
        assert "Value(step=4, key=5) has 8388608 bytes, where the plan has 10" in str(error)
    assert b.payloads.empty()


def test_a_fault_in_a_callback_closes_the_channel_and_both_learn_why(at, uri, caplog):
    (a, to_b), (b, _) = connect(at, uri, handlers=(Recorder(), Raiser()))
    to_b.send(HEY, timeout_s=5)
    for error in (a.loss(), b.loss()):
        assert type(error) is TransportError and "KeyError: 'a fault of the program'" in str(error)
    assert "the handler failed" in caplog.text


def test_a_wrong_buffer_is_an_error_of_this_end(at, uri):
    class Small(Recorder):
        def buffer(self, channel, message, nbytes):
            return memoryview(bytearray(nbytes - 1))

    (a, to_b), (b, _) = connect(at, uri, handlers=(Recorder(), Small()))
    with contextlib.suppress(PeerLostError):
        to_b.send(HEY, [b"ab"], timeout_s=5)
    assert "wrong buffer for Stop(reason='hey') of 2 bytes" in str(b.loss())
    assert isinstance(a.loss(), TransportError)


def test_an_error_in_connected_reaches_who_connects(at, uri):
    class Unwilling(Recorder):
        def connected(self, channel):
            raise ProtocolError("a second connection of server b")

    b = Recorder()
    there = at(uri, B, b)
    with pytest.raises(ProtocolError, match="second connection"):
        at(uri, A, Unwilling()).connect(there.address, timeout_s=5)
    b.channel()
    assert "second connection" in str(b.loss())


def test_a_peer_that_does_not_read_stalls_the_sender_by_name(at, uri):
    (a, to_b), (b, _) = connect(at, uri, QUICK)
    b.open.clear()
    began = time.monotonic()
    with pytest.raises(
        StallError, match=r"server b at .* did not take Value\(step=\d+, key=0\) with 1048576 bytes in 0.2 s"
    ):
        for step in range(100):
            to_b.send(Value(step, 0), [bytes(2**20)], timeout_s=0.2)
    assert isinstance(a.loss(SECOND_S), StallError)
    assert time.monotonic() - began < 5
    with pytest.raises(PeerLostError, match="closed"):
        to_b.send(HEY, timeout_s=1)
    b.open.set()
    assert isinstance(b.loss(), PeerLostError)


def test_waiting_behind_a_stalled_frame_has_a_deadline_too(at, uri):
    (_, to_b), (b, _) = connect(at, uri)
    b.open.clear()
    stopped = []

    def fill():
        with pytest.raises(TransportError):
            for step in range(100):
                to_b.send(Value(step, 0), [bytes(2**20)], timeout_s=20)
        stopped.append(True)

    filler = threading.Thread(target=fill)
    filler.start()
    with pytest.raises(StallError, match=r"did not take Value\(step=0, key=1\)"):
        while True:
            to_b.send(Value(0, 1), [bytes(2**20)], timeout_s=0.1)
    filler.join(SECOND_S)
    assert stopped


def test_closing_an_endpoint_wakes_who_sends_and_who_receives(at, uri):
    (a, to_b), (b, _) = connect(at, uri, QUICK)
    b.open.clear()
    errors = queue.Queue()

    def fill():
        try:
            while True:
                to_b.send(HEY, [bytes(2**20)], timeout_s=30)
        except RainshedError as error:
            errors.put(error)

    sender = threading.Thread(target=fill)
    sender.start()
    while to_b.counters.sent_frames == 0 and not a.seen.qsize():
        b.open.set()
    b.open.clear()
    a.endpoint.close()
    assert isinstance(errors.get(timeout=5), PeerLostError)
    sender.join()
    assert a.loss() is None
    b.open.set()
    assert isinstance(b.loss(), (PeerLostError, type(None)))


def test_an_endpoint_may_be_closed_from_a_callback(at, uri):
    class Closer(Recorder):
        def received(self, channel, message, payload):
            self.endpoint.close()
            super().received(channel, message, payload)

    a, b = Recorder(), Closer()
    at(uri, B, b)
    at(uri, A, a).connect(b.endpoint.address, timeout_s=5).send(HEY, timeout_s=5)
    assert b.next_payload() == (HEY, b"")
    a.channel()
    assert a.loss() is None


def test_a_closed_endpoint_neither_connects_nor_is_reached(at, uri):
    here, there = at(uri, A, Recorder()), at(uri, B, Recorder())
    there.close()
    with pytest.raises(TransportError, match="cannot reach"):
        here.connect(there.address, timeout_s=5)
    with pytest.raises(TransportError):
        there.connect(here.address, timeout_s=5)


@pytest.mark.parametrize(
    "token, identity, says",
    [
        (b"", A, "token"),
        (b"x" * 32, A, "token"),
        (TOKEN, Identity("worker", "a", "other"), "job 'other'"),
        (TOKEN, Identity("worker", "a", "job", 0, "another plan"), "plan"),
        (TOKEN, B, "both ends"),
    ],
    ids=["no token", "wrong token", "other job", "other plan", "same process"],
)
def test_who_does_not_belong_is_refused(at, uri, token, identity, says):
    b = Recorder()
    there = at(uri, Identity("server", "b", "job", 0, "this plan"), b)
    began = time.monotonic()
    with pytest.raises(AuthError, match=rf"connecting to .*{says}"):
        at(uri, identity, Recorder(), token=token).connect(there.address, timeout_s=5)
    assert time.monotonic() - began < SECOND_S
    assert b.seen.empty()


def test_many_peers(at, uri):
    b = Recorder()
    there = at(uri, B, b)
    channels = []
    for i in range(20):
        here = at(uri, Identity("worker", f"w{i}", "job"), Recorder())
        channels.append(here.connect(there.address, timeout_s=5))
    for i, channel in enumerate(channels):
        channel.send(Value(0, i), timeout_s=5)
    assert sorted(b.next_payload()[0].key for _ in channels) == list(range(20))


@pytest.mark.parametrize(
    "wrong",
    ["shm://x", "tcp+tls://127.0.0.1:0", "udp://x", "nonsense", "tcp://h:99999", "tcp://u@h:1/p", "inproc://a#1"],
)
def test_addresses_that_are_none_are_refused(wrong):
    with pytest.raises(UsageError):
        listen(wrong, A, TOKEN, Recorder(), CALM)


# -- sockets ----


def raw(endpoint):
    """A bare socket to the endpoint."""
    host, _, port = endpoint.address.removeprefix("tcp://").rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def hear(sock):
    """One handshake message."""
    prefix = sock.recv(auth.PREFIX.size, socket.MSG_WAITALL)
    return prefix + sock.recv(auth.body_nbytes(prefix), socket.MSG_WAITALL)


@contextlib.contextmanager
def proven(endpoint, identity=A):
    """A bare socket that has shaken hands: (socket, numbers of the frames it sends, of those it gets)."""
    with raw(endpoint) as sock:
        side = auth.Connector(identity, TOKEN)
        sock.sendall(side.hello())
        sock.sendall(side.proof(hear(sock)))
        session = side.session(hear(sock))
        yield sock, session.outgoing(), session.incoming()


A_VALUE = Value(1, 2)


def frame(outgoing, message=A_VALUE, payload=b"payload!"):
    data = b"".join(wire.encode(message, [payload], outgoing.seq, outgoing.checksum))
    outgoing.seq += 1
    return data


def say(sock, data):
    """Send it, and that no more comes; the other end may have closed meanwhile."""
    with contextlib.suppress(OSError):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)


def ended(sock, timeout_s=SECOND_S):
    """All that still comes until the other end closes, which it must in time."""
    found, deadline = b"", Deadline.after(timeout_s)
    while True:
        assert select.select([sock], [], [], deadline.left())[0], "not closed in time"
        try:
            more = sock.recv(65536)
        except ConnectionResetError:
            return found
        if not more:
            return found
        found += more


def test_a_bare_socket_can_speak(at):
    b = Recorder()
    with proven(at("tcp://", B, b)) as (sock, outgoing, _):
        sock.sendall(frame(outgoing) + frame(outgoing)[:20])
        assert b.next_payload() == (Value(1, 2), b"payload!")
    b.channel()
    assert isinstance(b.loss(), PeerLostError)


@pytest.mark.parametrize("nbytes", [2**17 - 1, 2**17, 2**17 + 1, 3 * 2**17 + 5, 2**20])
def test_payloads_that_come_in_pieces_keep_no_reader_waiting(at, nbytes):
    """The reader wakes for many bytes at once, and yet for the last few: waiting for more would last a tick, here a second."""
    b, payload = Recorder(), random.Random(nbytes).randbytes(nbytes)
    with proven(at("tcp://", B, b)) as (sock, outgoing, _):
        began = time.monotonic()
        for piece in (1, 1448, 2**16, 2**17, nbytes // 2, nbytes - 1, nbytes):
            data = frame(outgoing, payload=payload)
            for at_byte in range(0, len(data), max(piece, nbytes // 200)):
                sock.sendall(data[at_byte : at_byte + max(piece, nbytes // 200)])
            assert b.next_payload() == (Value(1, 2), payload)
        assert time.monotonic() - began < 4
    b.channel()
    assert isinstance(b.loss(), PeerLostError)


def test_every_changed_byte_of_a_frame_closes_the_connection(at):
    b = Recorder()
    there = at("tcp://", B, b, QUICK)
    length = len(frame(wire.Outgoing(0, wire.CHECKSUMS["crc32"])))
    for i in range(length):
        with proven(there) as (sock, outgoing, _):
            b.channel()
            data = bytearray(frame(outgoing))
            data[i] ^= 1 << (i % 8)
            say(sock, data)
            assert isinstance(b.loss(SECOND_S), TransportError), i
    assert b.payloads.empty()


def test_every_truncation_closes_the_connection(at):
    b = Recorder()
    there = at("tcp://", B, b, QUICK)
    length = len(frame(wire.Outgoing(0, wire.CHECKSUMS["crc32"])))
    for i in range(length):
        with proven(there) as (sock, outgoing, _):
            b.channel()
            say(sock, frame(outgoing)[:i])
            assert isinstance(b.loss(SECOND_S), PeerLostError), i
    assert b.payloads.empty()


def test_a_cut_off_frame_has_a_deadline(at):
    b = Recorder()
    there = at("tcp://", B, b, QUICK)
    for length in (1, 27, 40, 60):
        with proven(there) as (sock, outgoing, _):
            b.channel()
            sock.sendall(frame(outgoing)[:length])
            error = b.loss(SECOND_S)
            assert isinstance(error, StallError) and "worker a" in str(error) and "within 0.4 s" in str(error)


@pytest.mark.parametrize("nbytes", [9, 2**32, 2**40, 2**46 + 1, 2**63, 2**64 - 1])
def test_oversized_frames_are_refused_before_anything_is_allocated(at, nbytes):
    b = Recorder(limit_nbytes=8)
    with proven(at("tcp://", B, b)) as (sock, outgoing, incoming):
        b.channel()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        head, _ = wire.encode_head(wire.encode_header(Value(1, 2)), nbytes, outgoing.seq, outgoing.checksum)
        sock.sendall(head)
        assert isinstance(b.loss(SECOND_S), ProtocolError)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024
        told = ended(sock)
        prefix = incoming.prefix(told[: wire.PREFIX.size])
        bye = incoming.header(told[: wire.PREFIX.size], told[wire.PREFIX.size :], prefix)
        assert type(bye) is Bye and bye.code == "PROTOCOL" and str(nbytes) in bye.text


@pytest.mark.parametrize("again", ["same connection", "new connection"])
def test_replayed_frames_are_refused(at, again):
    b = Recorder()
    there = at("tcp://", B, b)
    with proven(there) as (sock, outgoing, _):
        recorded = frame(outgoing)
        sock.sendall(recorded)
        b.next_payload(), b.channel()
        if again == "same connection":
            sock.sendall(recorded)
        else:
            sock.close()
            assert isinstance(b.loss(), PeerLostError)
            with proven(there) as (other, _, _):
                b.channel()
                other.sendall(recorded)
                assert "out of turn" in str(b.loss(SECOND_S))
            return
        error = b.loss(SECOND_S)
        assert isinstance(error, ProtocolError) and "1 behind" in str(error)
    assert b.payloads.empty()


def test_random_bytes_after_the_handshake(at):
    b = Recorder()
    there = at("tcp://", B, b)
    rng = random.Random(5)
    for _ in range(100):
        with proven(there) as (sock, outgoing, _):
            b.channel()
            good = frame(outgoing)
            say(sock, rng.choice([b"", good, good[:4], good[:6]]) + rng.randbytes(rng.randint(28, 2000)))
            assert isinstance(b.loss(SECOND_S), (ProtocolError, PeerLostError))


@pytest.mark.parametrize("code, kind", [("PROTOCOL", ProtocolError), ("AUTH", AuthError), ("?", TransportError)])
def test_the_reason_of_a_goodbye_arrives(at, code, kind):
    b = Recorder()
    with proven(at("tcp://", B, b)) as (sock, outgoing, _):
        sock.sendall(frame(outgoing, Bye(code, "too bad"), b""))
        b.channel()
        error = b.loss(SECOND_S)
        assert type(error) is kind and "worker a at" in str(error) and "too bad" in str(error)


STRANGERS = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + bytes(190),
    "redis": b"*1\r\n$4\r\nPING\r\n",
    "zeros": bytes(4096),
    "long": auth.PREFIX.pack(auth.MAGIC, *auth.VERSION, 65535) + bytes(5000),
    "garbage": auth.PREFIX.pack(auth.MAGIC, *auth.VERSION, 100) + bytes(100),
    "a frame": wire.PREFIX.pack(wire.MAGIC, 1, 10, 0, 0, 0) + bytes(10),
}


@pytest.mark.parametrize("said", STRANGERS.values(), ids=STRANGERS)
def test_strangers_are_shown_out(at, said, caplog):
    b = Recorder()
    there = at("tcp://", B, b)
    with raw(there) as sock:
        with contextlib.suppress(OSError):  # shown out before the last word
            sock.sendall(said)
        assert ended(sock) == b""
    assert there.refused == 1 and caplog.text.count("refused tcp://127.0.0.1") == 1
    assert b.seen.empty()


def test_random_strangers(at, caplog):
    b = Recorder()
    there = at("tcp://", B, b)
    rng = random.Random(11)
    for _ in range(300):
        with raw(there) as sock:
            say(sock, rng.choice([b"", auth.MAGIC, auth.MAGIC + b"\1\0"]) + rng.randbytes(rng.randint(8, 5000)))
            ended(sock)
    assert there.refused == 300
    assert caplog.text.count("refused") < 20  # a flood of connections is no flood of lines
    assert b.seen.empty()


def test_another_version_is_told_both_versions(at):
    there = at("tcp://", B, Recorder())
    side = auth.Connector(A, TOKEN)
    with raw(there) as sock:
        hello = side.hello()
        sock.sendall(hello[:4] + b"\x09" + hello[5:])
        with pytest.raises(AuthError, match=r"refused by .* version 9\.0, this one 1\.0"):
            side.proof(hear(sock))


def test_a_connector_without_the_token_is_told(at):
    there = at("tcp://", B, Recorder())
    side = auth.Connector(A, b"x" * 32)
    side._check_mac = lambda mac, label: None
    with raw(there) as sock:
        sock.sendall(side.hello())
        sock.sendall(side.proof(hear(sock)))
        with pytest.raises(AuthError, match="does not hold this job's token"):
            side.session(hear(sock))
        assert ended(sock) == b""
    assert there.refused == 1


def test_idle_connections_keep_nobody_out(at):
    b = Recorder()
    there = at("tcp://", B, b)
    here = at("tcp://", A, Recorder())
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(raw(there)) for _ in range(200)]
        began = time.monotonic()
        here.connect(there.address, timeout_s=5).send(HEY, timeout_s=5)
        assert b.next_payload() == (HEY, b"")
        assert time.monotonic() - began < SECOND_S
        for sock in idle[:100]:
            assert ended(sock) == b""
        assert threading.active_count() < 80


def test_an_idle_connection_ends_with_the_time_for_handshakes(at):
    with raw(at("tcp://", B, Recorder(), QUICK)) as sock:
        sock.sendall(auth.MAGIC)
        assert ended(sock) == b""


def test_a_trickle_is_cut_off_and_hinders_nobody(at):
    b = Recorder()
    there = at("tcp://", B, b, QUICK)
    here = at("tcp://", Identity("worker", "other", "job"), Recorder(), QUICK)
    with proven(there) as (sock, outgoing, _), raw(there) as slow_hello:
        b.channel()
        hello = auth.Connector(A, TOKEN).hello()
        data, began, between = frame(outgoing), time.monotonic(), threading.Event()
        with contextlib.suppress(OSError):
            for i in range(len(data)):
                sock.sendall(data[i : i + 1])
                slow_hello.sendall(hello[i : i + 1])
                between.wait(0.04)  # the fault itself: a byte now and then
        assert time.monotonic() - began < SECOND_S
        assert isinstance(b.loss(SECOND_S), StallError)
        assert ended(slow_hello) == b""
        here.connect(there.address, timeout_s=1).send(HEY, timeout_s=1)
        assert b.next_payload() == (HEY, b"")


def test_listeners_that_do_not_answer(at):
    here = at("tcp://", A, Recorder(), QUICK)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(StallError, match=rf"{address} accepted, but did not end the handshake in 0\.\d+ s"):
            here.connect(address, timeout_s=5)
    with pytest.raises(TransportError, match=f"cannot reach {address}: Connection refused"):
        here.connect(address, timeout_s=5)


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(5000)], ids=["end", "http", "zeros"])
def test_listeners_that_are_no_process_of_ours(at, says):
    here = at("tcp://", A, Recorder())
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            sock, _ = server.accept()
            with sock:
                say(sock, says)
                ended(sock)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(TransportError, match="connecting to tcp://"):
            here.connect(f"tcp://127.0.0.1:{server.getsockname()[1]}", timeout_s=5)
        thread.join()


def test_beyond_loopback_only_with_a_token(at):
    with pytest.raises(UsageError, match=r"will not listen on tcp://0.0.0.0:0 without a token[\s\S]*openssl rand"):
        listen("tcp://0.0.0.0:0", A, b"", Recorder(), CALM)
    b = Recorder()
    there = at("tcp://0.0.0.0:0?advertise=127.0.0.1", B, b)
    assert there.address.startswith("tcp://127.0.0.1:")
    at("tcp://", A, Recorder()).connect(there.address, timeout_s=5)
    assert "0.0.0.0" not in at("tcp://0.0.0.0:0", B, Recorder()).address


def test_a_port_in_use_is_said(at):
    there = at("tcp://", B, Recorder())
    with pytest.raises(TransportError, match=r"cannot listen on .*: Address already in use[\s\S]*port 0"):
        listen(there.address, A, TOKEN, Recorder(), CALM)


def test_closing_breaks_off_handshakes(at):
    there = at("tcp://", B, Recorder())
    with raw(there) as sock:
        sock.sendall(auth.MAGIC)
        while not there._unproven:
            assert threading.active_count()
        began = time.monotonic()
        there.close()
        assert time.monotonic() - began < SECOND_S
        assert ended(sock) == b""
