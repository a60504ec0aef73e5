"""The machines that one machine exchanges values with: their connections, and the threads that send to them.

`Peers` is the handler of an endpoint. What arrives, it gives to the `Receiver` (the executor); what the executor sends,
goes out at once if it is small, and by a thread of that peer if it is large, so that kernels run meanwhile.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from rainshed.compiler.plan import Program, Recv, Send
from rainshed.ops import errors
from rainshed.ops.errors import PeerLostError, ProtocolError, RainshedError, StallError
from rainshed.runtime.deadlines import Deadline, Timeouts
from rainshed.runtime.messages import Failed, Finished, Message, Ping, Pong, Said, Value, text_said
from rainshed.runtime.trace import ClockSample
from rainshed.runtime.transport import Channel, Endpoint

INLINE_NBYTES: Final = 2**16  # fits the buffers of a socket and of an inproc pipe: sending it does not wait
_BY_CODE: Final = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RainshedError)
}

Sent = Callable[[RainshedError | None], None]


class Receiver(Protocol):
    """Who takes what peers send. Called on the channels' threads, several at once."""

    def place(self, source: str, message: Value, nbytes: int) -> memoryview: ...
    def arrived(self, source: str, message: Value) -> None: ...
    def peer_finished(self, source: str, step: int) -> None: ...
    def abort(self, error: RainshedError, who: str = "") -> None: ...


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Whom a program sends to and receives from."""

    sources: frozenset[str]
    targets: frozenset[str]

    @classmethod
    def of(cls, program: Program) -> Neighbours:
        return cls(
            frozenset(i.source for i in program.instructions if isinstance(i, Recv)),
            frozenset(i.to for i in program.instructions if isinstance(i, Send)),
        )

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(sorted(self.sources | self.targets))


class Peers:
    """The connections of one machine to its neighbours.

    Use    peers = Peers(program, timeouts); endpoint = listen(..., peers, ...); Executor(program, peers=peers);
           peers.connect(endpoint, addresses)
    prefix what stands before the machine's name in the peers' identities: the replica, where there are several
    """

    def __init__(self, program: Program, timeouts: Timeouts, *, prefix: str = "") -> None:
        self.machine = program.machine
        self.neighbours = Neighbours.of(program)
        self._timeouts = timeouts
        self._prefix = prefix
        self._receiver: Receiver | None = None
        self._changed = threading.Condition()
        self._channels: dict[str, Channel] = {}
        self._names: dict[Channel, str] = {}  # the machine at the other end
        self._outboxes: dict[str, Outbox] = {}
        self._error: RainshedError | None = None
        self._samples: list[ClockSample] = []
        self._arrived: dict[int, tuple[int, int]] = {}

    def attach(self, receiver: Receiver) -> None:
        """Who takes what arrives; before anybody connects."""
        self._receiver = receiver

    def connect(self, endpoint: Endpoint, addresses: Mapping[str, str]) -> None:
        """Connect to the neighbours, and wait for those who connect to this machine; `addresses` by machine.

        Raises  StallError that names who did not come within `start_s`; AuthError, TransportError
        """
        deadline = Deadline.after(self._timeouts.start_s)
        for name in self.neighbours.all:
            if name < self.machine:  # of two machines, the one whose name comes later connects
                endpoint.connect(addresses[name], timeout_s=min(deadline.left(), self._timeouts.connect_s))
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._missing(), deadline.left())
            if self._error is not None:
                raise self._error
            if self._missing():
                raise StallError(
                    f"{self.machine} waited {deadline.total_s:.3g} s for {', '.join(self._missing())} to connect"
                )

    def _missing(self) -> list[str]:
        return [name for name in self.neighbours.all if name not in self._channels]

    # -- sending ----

    def send(self, to: str, message: Value, payload: memoryview, sent: Sent) -> bool:
        """Send a value. True: it is sent. False: a thread does it, and then calls `sent`.

        Raises  TransportError, StallError
        """
        outbox = self._outboxes[to]
        if len(payload) <= INLINE_NBYTES and outbox.idle:
            outbox.channel.send(message, (payload,), timeout_s=self._timeouts.for_bytes(len(payload)))
            return True
        outbox.put(message, payload, sent)
        return False

    def say(self, to: str, message: Said) -> None:
        self._channels[to].send(message, timeout_s=self._timeouts.rpc_s)

    def tell_failed(self, error: RainshedError, who: str) -> None:
        """Tell all neighbours that can be reached why this machine stops, and where it began."""
        message = Failed(code=error.code, text=text_said(error), who=who)
        for name in tuple(self._channels):
            try:
                self.say(name, message)
            except RainshedError:
                continue  # gone as well, or stuck: its own deadline will stop it

    def last_heard_s(self, name: str) -> float:
        """Seconds since any byte came from this machine."""
        channel = self._channels.get(name)
        return float("inf") if channel is None else time.monotonic() - channel.counters.last_heard

    @property
    def sending(self) -> bool:
        """Whether large values are on their way."""
        return not all(outbox.idle for outbox in self._outboxes.values())

    @property
    def sent_nbytes(self) -> dict[str, int]:
        """Payload bytes sent to each neighbour since the start."""
        return {name: channel.counters.sent_payload_nbytes for name, channel in self._channels.items()}

    @property
    def arrived(self) -> dict[int, tuple[int, int]]:
        """Key of each transfer to this machine -> messages and payload bytes that have come since the start."""
        return dict(self._arrived)

    def clock_samples(self, name: str, count: int = 8) -> list[ClockSample]:
        """Compare clocks with a neighbour; one caller at a time. Raises StallError if it does not answer."""
        deadline = Deadline.after(self._timeouts.rpc_s)
        self._samples = []
        for i in range(count):
            self.say(name, Ping(time.perf_counter_ns()))
            with self._changed:
                if not self._changed.wait_for(lambda due=i + 1: len(self._samples) >= due, deadline.left()):  # type: ignore[misc]
                    raise StallError(f"{self.machine} waited {deadline.total_s:.3g} s for the clock of {name}")
        return self._samples

    def close(self) -> None:
        """End the sending threads; the endpoint's close ends the connections, and comes first."""
        for outbox in self._outboxes.values():
            outbox.close(self._timeouts.handshake_s)

    # -- the handler of the endpoint ----

    def connected(self, channel: Channel) -> None:
        name = self._machine_of(channel)
        if name not in self.neighbours.all or not channel.peer.name.startswith(self._prefix):
            raise ProtocolError(f"{self.machine} has nothing to exchange with {channel.peer}")
        with self._changed:
            if name in self._channels:
                raise ProtocolError(f"{self.machine} is connected to {channel.peer} already")
            self._channels[name], self._names[channel] = channel, name
            self._outboxes[name] = Outbox(f"{self.machine} to {name}", channel, self._timeouts)
            self._changed.notify_all()

    def buffer(self, channel: Channel, message: Message, nbytes: int) -> memoryview:
        if isinstance(message, Value):
            return self._to().place(self._names[channel], message, nbytes)
        if nbytes:
            raise ProtocolError(f"{type(message).__name__} with a payload of {nbytes} bytes")
        return memoryview(b"")

    def received(self, channel: Channel, message: Message, payload: memoryview) -> None:
        name = self._names[channel]
        if type(message) is Value:  # nearly all are
            messages, nbytes = self._arrived.get(message.key, (0, 0))
            self._arrived[message.key] = messages + 1, nbytes + len(payload)
            self._to().arrived(name, message)
            return
        match message:
            case Finished(step=step):
                self._to().peer_finished(name, step)
            case Failed(code=code, text=text, who=who):
                self._to().abort(_BY_CODE.get(code, RainshedError)(text), who)
            case Ping(sent_ns=sent_ns):
                channel.send(Pong(sent_ns, time.perf_counter_ns()), timeout_s=self._timeouts.rpc_s)
            case Pong(sent_ns=sent_ns, clock_ns=clock_ns):
                with self._changed:
                    self._samples.append(ClockSample(sent_ns, clock_ns, time.perf_counter_ns()))
                    self._changed.notify_all()
            case _:
                raise ProtocolError(f"{type(message).__name__} between machines")

    def lost(self, channel: Channel, error: RainshedError | None) -> None:
        name = self._machine_of(channel)
        with self._changed:
            if self._channels.get(name) is not channel:
                return  # one that was refused
            why = "it said goodbye" if error is None else error.message
            self._error = self._error or PeerLostError(f"{self.machine} lost {name}: {why}")
            lost = self._error
            self._changed.notify_all()
        if self._receiver is not None:
            self._receiver.abort(lost)

    def _to(self) -> Receiver:
        if self._receiver is None:
            raise ProtocolError(f"{self.machine} is not ready for values")
        return self._receiver

    def _machine_of(self, channel: Channel) -> str:
        return channel.peer.name.removeprefix(self._prefix)


class Outbox:
    """Large values on their way to one peer, and the thread that sends them; it starts with the first of them."""

    def __init__(self, name: str, channel: Channel, timeouts: Timeouts) -> None:
        self.channel = channel
        self._name = name
        self._timeouts = timeouts
        self._queue: queue.SimpleQueue[tuple[Value, memoryview, Sent] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pending = 0

    @property
    def idle(self) -> bool:
        """Whether nothing waits, so that a small value may go around it."""
        return not self._pending

    def put(self, message: Value, payload: memoryview, sent: Sent) -> None:
        with self._lock:
            self._pending += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"rainshed sends {self._name}", daemon=True)
                self._thread.start()
        self._queue.put((message, payload, sent))

    def close(self, timeout_s: float) -> None:
        """Raises nothing: a send that still runs ends with its channel."""
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            message, payload, sent = item
            error: RainshedError | None = None
            try:
                self.channel.send(message, (payload,), timeout_s=self._timeouts.for_bytes(len(payload)))
            except RainshedError as raised:
                error = raised
            with self._lock:
                self._pending -= 1
            sent(error)
