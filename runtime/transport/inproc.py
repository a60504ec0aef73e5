"""inproc://NAME: connections between threads of one process, with the frames, checks and order of the others.

A pipe holds frames as a socket does: small payloads are copied into it and the sender goes on; a large one stays where
it is until the reader has copied it into the handler's buffer. Payloads get no checksum: they never leave memory.
"""

from __future__ import annotations

import errno
import functools
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

from rainshed.ops.errors import RainshedError, TransportError, UsageError
from rainshed.runtime import auth
from rainshed.runtime.auth import Session
from rainshed.runtime.deadlines import Deadline
from rainshed.runtime.transport.base import Channel, FramedChannel, FramedEndpoint, Home, logger
from rainshed.runtime.wire import PREFIX

_COPIED_NBYTES: Final = 2**18  # payloads up to this are copied into the pipe
_HELD_NBYTES: Final = 2**22  # bytes that a pipe holds before its senders wait


class _Frame:
    """A frame in a pipe; `state` is waiting, taken, then read or dropped."""

    __slots__ = ("borrowed", "head", "held_nbytes", "payload", "state")

    def __init__(self, head: bytes, views: list[memoryview], nbytes: int) -> None:
        self.head = head
        self.borrowed = nbytes > _COPIED_NBYTES  # the payload is the sender's own memory
        self.payload = views if self.borrowed or not views else [memoryview(b"".join(views))]
        self.held_nbytes = len(head) + (0 if self.borrowed else nbytes)
        self.state = "waiting"


class _Pipe:
    """One direction of a connection."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._frames: deque[_Frame] = deque()
        self._held_nbytes = 0
        self._shut = False  # no more is written; what is in it may be read

    def put(self, frame: _Frame, deadline: Deadline) -> None:
        """Raises BrokenPipeError, or TimeoutError; a borrowed payload is not read after it has returned."""
        with self._changed:
            self._wait(lambda: self._held_nbytes + frame.held_nbytes <= _HELD_NBYTES, deadline)
            self._frames.append(frame)
            self._held_nbytes += frame.held_nbytes
            self._changed.notify_all()
            if frame.borrowed:
                self._lend(frame, deadline)

    def _lend(self, frame: _Frame, deadline: Deadline) -> None:
        try:
            self._wait(lambda: frame.state in ("read", "dropped"), deadline)
        except OSError:
            if frame.state == "waiting":
                self._frames.remove(frame)
                raise
            self._changed.wait_for(lambda: frame.state != "taken")  # the reader copies at this moment, and that ends
        if frame.state == "dropped":
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def _wait(self, ready: Callable[[], bool], deadline: Deadline) -> None:
        if not self._changed.wait_for(lambda: self._shut or ready(), deadline.left()):
            raise TimeoutError("its reading thread does not come to read: a callback there is slow or stuck")
        if not ready() or (self._shut and not self._frames):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def take(self, timeout_s: float) -> _Frame | None:
        """The next frame, to be given back to `settle`; None if none came.

        Raises  ConnectionResetError after the last frame of a pipe that was shut
        """
        with self._changed:
            self._changed.wait_for(lambda: self._shut or self._frames, timeout_s)
            if self._frames:
                frame = self._frames.popleft()
                frame.state = "taken"
                return frame
            if self._shut:
                raise ConnectionResetError(errno.ECONNRESET, "the other end closed without a goodbye")
            return None

    def settle(self, frame: _Frame, state: str) -> None:
        with self._changed:
            frame.state = state
            self._held_nbytes -= frame.held_nbytes
            self._changed.notify_all()

    def shut(self) -> None:
        with self._changed:
            self._shut = True
            self._changed.notify_all()


class InprocChannel(FramedChannel):
    """One end of a connection: writes one pipe, reads the other."""

    def __init__(self, home: Home, session: Session, address: str, *, inbox: _Pipe, outbox: _Pipe) -> None:
        super().__init__(home, session, address)
        self._inbox = inbox
        self._outbox = outbox

    def _write(self, header: bytes, views: list[memoryview], nbytes: int, deadline: Deadline) -> None:
        head, _ = self._outgoing.head(header, nbytes)
        self._outbox.put(_Frame(head, views, nbytes), deadline)

    def _read_frame(self) -> None:
        frame = self._inbox.take(self._home.tick_s)
        if frame is None:
            return
        self.counters.last_heard = time.monotonic()
        state = "dropped"
        try:
            head = memoryview(frame.head)
            prefix = self._incoming.prefix(head[: PREFIX.size])
            message = self._incoming.header(head[: PREFIX.size], head[PREFIX.size :], prefix)
            payload = self._take_payload_of(message, prefix.payload_nbytes)
            at = 0
            for view in frame.payload:
                payload[at : at + len(view)] = view
                at += len(view)
            state = "read"
        finally:
            self._inbox.settle(frame, state)
        self._arrived(message, payload)

    def _end_sending(self) -> None:
        self._outbox.shut()

    def _abort(self) -> None:
        self._inbox.shut()
        self._outbox.shut()

    def _drain(self) -> None:
        """The pipe outlives this end: a goodbye in it is read in any case."""

    def _release(self) -> None:
        self._abort()


class InprocEndpoint(FramedEndpoint):
    """A name that threads of this process connect to."""

    def __init__(self, uri: str, home: Home) -> None:
        super().__init__(home)
        name = uri.removeprefix("inproc://")
        if "#" in name:
            raise UsageError(f"{uri!r}: the number behind # is given, not chosen")
        self.address = _PORTS.open(name or home.identity.name, self)

    def connect(self, address: str, *, timeout_s: float) -> Channel:
        deadline = Deadline.after(timeout_s)
        other = _PORTS.find(address)
        mine, theirs = self._introduce(other, address)
        inbox, outbox = _Pipe(), _Pipe()
        channel = InprocChannel(self._home, mine, address, inbox=inbox, outbox=outbox)
        try:
            other._run(InprocChannel(other._home, theirs, self.address, inbox=outbox, outbox=inbox))
            self._run(channel)
        except TransportError as error:
            channel._release()
            raise TransportError(f"cannot reach {address}: {error.message}") from None
        channel.wait_announced(deadline)
        return channel

    def _introduce(self, other: InprocEndpoint, address: str) -> tuple[Session, Session]:
        """The handshake that sockets would carry."""
        try:
            connector = auth.Connector(self._home.identity, self._home.token)
            listener = auth.Listener(other._home.identity, other._home.token)
            accept, theirs = listener.accept(connector.proof(listener.welcome(connector.hello())))
            return connector.session(accept), theirs
        except RainshedError as error:
            logger.warning("refused %s: %s", self.address, error.message)
            raise type(error)(f"connecting to {address}: {error.message}", **error.detail) from None

    def _run(self, channel: InprocChannel) -> None:
        self._adopt(channel)
        self._start(f"reads {channel.peer}", functools.partial(channel.run, self))

    def _stop_accepting(self) -> None:
        _PORTS.close(self.address)


class _Ports:
    """Which names are listened on in this process: what the kernel keeps for the other transports."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._listening: WeakValueDictionary[str, InprocEndpoint] = WeakValueDictionary()

    def open(self, name: str, endpoint: InprocEndpoint) -> str:
        with self._lock:
            address = f"inproc://{name}#{next(self._numbers)}"
            self._listening[address] = endpoint
        return address

    def find(self, address: str) -> InprocEndpoint:
        with self._lock:
            endpoint = self._listening.get(address)
        if endpoint is None:
            raise TransportError(f"cannot reach {address}: nobody in this process listens there")
        return endpoint

    def close(self, address: str) -> None:
        with self._lock:
            self._listening.pop(address, None)


# The one table of its kind: two listen() calls that know nothing of each other must find each other by name alone.
_PORTS: Final = _Ports()
