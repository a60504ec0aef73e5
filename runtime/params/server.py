"""A server process's side of the protocol: brings messages to its shard, and answers back.

    reading thread of a connection    pushes and puts are applied there, one at a time for the whole shard: a sender
                                      faster than the shard is held back by its own connection
    writing thread of a connection    acknowledgements and fetched parameters, copied at the last moment, in order

Payloads are refused by their length before memory is taken for them; each connection has one buffer per direction.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np

from rainshed.ops.errors import CheckpointError, ProtocolError, RainshedError
from rainshed.runtime import messages
from rainshed.runtime.deadlines import Timeouts
from rainshed.runtime.messages import AskShard, Attach, Fetch, Message, Push, Put, PutAck, RestoreShard, Said, ShardTold
from rainshed.runtime.params.rule import Array
from rainshed.runtime.params.shard import Shard, Span, Worker
from rainshed.runtime.params.snapshot import Snapshot, decode_snapshot, encode_snapshot
from rainshed.runtime.transport import Channel
from rainshed.runtime.wire import Buffer

logger: Final = logging.getLogger("rainshed.params")

# Who may say what to a shard.
MAY_SAY: Final[Mapping[str, tuple[type[Said], ...]]] = MappingProxyType(
    {"machine": (Attach, Fetch, Push, Put), "coordinator": (Attach, Fetch, Put, AskShard, RestoreShard)}
)
MAX_UNANSWERED: Final = 1024  # requests of one connection: more than any window
_MAX_TABLE_NBYTES: Final = 2**24  # of a snapshot: beside its arrays


# Something to send: made when its turn comes, so that parameters are as fresh as can be. None: put off.
_Answer: TypeAlias = Callable[[], tuple[Said, list[Buffer]] | None]


class ParamServer:
    """The Handler of a server's endpoint, or of that part of its connections that is about parameters."""

    def __init__(self, shard: Shard, timeouts: Timeouts) -> None:
        self.shard = shard
        self.timeouts = timeouts
        self._lock = threading.Lock()  # of the shard
        self._clients: dict[Channel, _Client] = {}
        self._clients_lock = threading.Lock()

    # -- Handler ----

    def connected(self, channel: Channel) -> None:
        if channel.peer.role not in MAY_SAY:
            raise ProtocolError(f"{channel.peer} is no role that talks to a parameter server")
        client = _Client(channel, self.timeouts)
        with self._clients_lock:
            self._clients[channel] = client
        client.start()

    def buffer(self, channel: Channel, message: Message, nbytes: int) -> memoryview:
        client = self._client(channel)
        self._check(client, message)
        if isinstance(message, Push | Put):
            due = self.shard.due_nbytes(message)
            if nbytes != due:
                named = messages.describe(message)
                raise ProtocolError(f"{named} came with {nbytes} bytes; its parts in shard {self._number} have {due}")
        elif isinstance(message, RestoreShard):
            if nbytes > self._held_nbytes + _MAX_TABLE_NBYTES:
                raise ProtocolError(f"a snapshot of {nbytes} bytes; shard {self._number} has {self._held_nbytes}")
        elif nbytes:
            raise ProtocolError(f"{messages.describe(message)} has no payload; {nbytes} bytes came")
        return client.inbox.take(nbytes)

    def received(self, channel: Channel, message: Message, payload: memoryview) -> None:
        client = self._client(channel)
        if isinstance(message, Attach):
            self._attach(client, message)
        elif isinstance(message, Push):
            self._push(client, message, payload)
        elif isinstance(message, Fetch):
            self.shard.answer_nbytes(message)
            client.answer(lambda: self._fetch(client, message))
        elif isinstance(message, Put):
            self._put(client, message, payload)
        elif isinstance(message, AskShard):
            client.answer(lambda: self._tell(message))
        elif isinstance(message, RestoreShard):
            self._restore(client, message, payload)

    def lost(self, channel: Channel, error: RainshedError | None) -> None:
        with self._clients_lock:
            client = self._clients.pop(channel, None)
        if client is not None:
            client.stop()

    # -- what messages do ----

    def _attach(self, client: _Client, message: Attach) -> None:
        with self._lock:
            attached = self.shard.attach(client.worker, message)
        client.attached = True
        client.say(attached)

    def _push(self, client: _Client, message: Push, payload: memoryview) -> None:
        with self._lock:
            ack = self.shard.push(client.worker, message, payload)
        client.say(ack)

    def _put(self, client: _Client, message: Put, payload: memoryview) -> None:
        with self._lock:
            ack = self.shard.put(message, payload)
        client.say(ack)
        if ack.taken and not ack.missing:
            self._wake_waiting()

    def _fetch(self, client: _Client, message: Fetch) -> tuple[Said, list[Buffer]] | None:
        into = client.outbox.take(self.shard.answer_nbytes(message))
        with self._lock:
            params = self.shard.fetch(message, into)
            if params is None:  # noted under the lock, so that the put that comes now finds it
                client.put_off(lambda: self._fetch(client, message))
                return None
        return params, [into]

    def _tell(self, message: AskShard) -> tuple[Said, list[Buffer]]:
        told = ShardTold(message.request)
        if message.what == "stats":
            with self._lock:
                return told, [msgspec.json.encode(self.shard.counts)]
        return told, list(encode_snapshot(self.snapshot()))

    def _restore(self, client: _Client, message: RestoreShard, payload: memoryview) -> None:
        try:
            self.restore(decode_snapshot(payload, self.shard.parts, self.shard.fields))
        except CheckpointError as error:
            raise ProtocolError(error.message) from None
        with self._lock:
            missing = self.shard.missing
        client.say(PutAck(message.request, len(self.shard.parts), missing))

    # -- for the process around it ----

    def snapshot(self) -> Snapshot:
        """All that the shard holds, of one moment."""
        with self._lock:
            return self.shard.snapshot()

    def values(self, field: str, number: int, span: Span | None = None) -> tuple[Array, int]:
        """A copy of one field of a part, flat, or of a span of it, and how often the part was updated."""
        with self._lock:
            return self.shard.values(field, number, span)

    def set_values(self, field: str, number: int, values: Array, version: int, span: Span | None = None) -> None:
        """Before training: go on from these values."""
        with self._lock:
            self.shard.set_values(field, number, values, version, span)
        self._wake_waiting()

    def restore(self, snapshot: Snapshot) -> None:
        """Before training: go on from a snapshot. Raises CheckpointError if it is of another shard."""
        with self._lock:
            self.shard.restore(snapshot)
        self._wake_waiting()

    # -- inside ----

    @property
    def _number(self) -> int:
        return self.shard.config.number

    @property
    def _held_nbytes(self) -> int:
        return len(self.shard.fields) * self.shard.config.layout.nbytes(self._number)

    def _client(self, channel: Channel) -> _Client:
        with self._clients_lock:
            client = self._clients.get(channel)
        if client is None:
            raise ProtocolError(f"{channel.peer} was not introduced")
        return client

    def _check(self, client: _Client, message: Message) -> None:
        """Refuse what this role may not say, or not yet."""
        peer = client.channel.peer
        if not isinstance(message, MAY_SAY[peer.role]):
            raise ProtocolError(f"{peer} may not say {type(message).__name__} to a parameter server")
        if not client.attached and not isinstance(message, Attach):
            raise ProtocolError(f"{peer} said {type(message).__name__} before Attach")

    def _wake_waiting(self) -> None:
        with self._clients_lock:
            clients = list(self._clients.values())
        for client in clients:
            client.wake()


class _Room:
    """A buffer that grows to the largest payload that was due, and is used again."""

    def __init__(self) -> None:
        self._bytes: np.ndarray[Any, np.dtype[np.uint8]] = np.empty(0, np.uint8)

    def take(self, nbytes: int) -> memoryview:
        if nbytes > self._bytes.size:
            self._bytes = np.empty(nbytes, np.uint8)
        return self._bytes[:nbytes].data


class _Client:
    """One connection: the buffers, and the thread that answers."""

    def __init__(self, channel: Channel, timeouts: Timeouts) -> None:
        self.channel = channel
        self.worker = Worker(channel.peer.name, channel.peer.incarnation)
        self.attached = False
        self.inbox, self.outbox = _Room(), _Room()
        self._timeouts = timeouts
        self._changed = threading.Condition()
        self._answers: deque[_Answer] = deque()
        self._waiting: deque[_Answer] = deque()  # fetches that came before the parameters
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=f"rainshed answers {channel.peer}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def say(self, message: Said) -> None:
        self.answer(lambda: (message, []))

    def answer(self, answer: _Answer) -> None:
        """Raises ProtocolError if the peer asks and asks and takes no answers."""
        with self._changed:
            if len(self._answers) + len(self._waiting) >= MAX_UNANSWERED:
                raise ProtocolError(f"{self.channel.peer} has {MAX_UNANSWERED} requests unanswered")
            self._answers.append(answer)
            self._changed.notify()

    def put_off(self, answer: _Answer) -> None:
        """Keep it until the shard has all values."""
        with self._changed:
            self._waiting.append(answer)

    def wake(self) -> None:
        """The shard has all values now: what waited for them is due."""
        with self._changed:
            self._answers.extend(self._waiting)
            self._waiting.clear()
            self._changed.notify()

    def stop(self) -> None:
        """End the thread. The channel is closed already, so that it hangs in no send."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while (answer := self._next()) is not None:
                made = answer()
                if made is not None:
                    message, payload = made
                    nbytes = sum(len(part) for part in payload)
                    self.channel.send(message, payload, timeout_s=self._timeouts.for_bytes(nbytes))
        except RainshedError as error:  # the channel is closed by it; `lost` follows
            logger.info("no answer to %s: %s", self.channel.peer, error.message)
        except Exception:
            logger.exception("answering %s failed", self.channel.peer)
            self.channel.close()

    def _next(self) -> _Answer | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._answers)
            return None if self._stopped else self._answers.popleft()
