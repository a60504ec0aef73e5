"""What every transport is to those above it (Handler, Channel, Endpoint), and what all transports have in common."""

from __future__ import annotations

import errno
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from rainshed.ops import errors
from rainshed.ops.errors import PeerLostError, ProtocolError, RainshedError, StallError, TransportError
from rainshed.runtime.auth import Identity, Peer, Session
from rainshed.runtime.deadlines import Deadline, Timeouts
from rainshed.runtime.messages import Bye, Message, Said, describe
from rainshed.runtime.wire import Buffer, as_bytes, encode_header

logger: Final = logging.getLogger("rainshed.transport")

# What a peer may give as the reason of its Bye.
_REASONS: Final = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TransportError)
}


class Channel(Protocol):
    """One connection to one proven peer."""

    @property
    def peer(self) -> Peer: ...
    @property
    def address(self) -> str: ...
    @property
    def counters(self) -> Counters: ...

    def send(self, message: Said, payload: Sequence[Buffer] = (), *, timeout_s: float) -> int:
        """Send one frame and return the number of its payload bytes. Thread-safe; the payload may be reused afterwards.

        A large payload waits until the peer takes it: never send one from a Handler's callback.

        Raises  StallError if the time passed, TransportError if the connection is lost; the channel is then closed
        """

    def close(self) -> None:
        """Say goodbye and close. Does not wait; safe to call twice, and from a Handler's callback."""


class Handler(Protocol):
    """Who receives. Callbacks of one channel come one at a time and in order; those of several channels at once."""

    def connected(self, channel: Channel) -> None:
        """A peer has proven itself. Comes before all else of its channel."""

    def buffer(self, channel: Channel, message: Message, nbytes: int) -> memoryview:
        """Where the payload of `message` goes: `nbytes` writable bytes, empty for 0.

        Raises  ProtocolError to refuse what was not planned, before anything is allocated; the channel is then closed
        """

    def received(self, channel: Channel, message: Message, payload: memoryview) -> None:
        """A whole frame has come and its checksums fit. On the channel's thread: must not block long."""

    def lost(self, channel: Channel, error: RainshedError | None) -> None:
        """The last callback of the channel, once. None: this end closed it, or the peer said goodbye."""


class Endpoint(Protocol):
    """Where a process listens and from where it connects."""

    @property
    def address(self) -> str:
        """As others reach it, such as tcp://127.0.0.1:41233."""

    def connect(self, address: str, *, timeout_s: float) -> Channel:
        """Raises AuthError, TransportError, or StallError when the time has passed."""

    def close(self) -> None:
        """Close all channels and end all threads; safe to call twice."""


@dataclass(slots=True)
class Counters:
    """What has passed over a channel. Payload bytes are those of whole frames, without heads and trailers."""

    sent_frames: int = 0
    sent_payload_nbytes: int = 0
    received_frames: int = 0
    received_payload_nbytes: int = 0
    last_heard: float = field(default_factory=time.monotonic)  # any byte of the peer's


@dataclass(frozen=True, slots=True)
class Home:
    """What all channels of an endpoint share."""

    identity: Identity
    token: bytes = field(repr=False)
    handler: Handler
    timeouts: Timeouts

    @property
    def tick_s(self) -> float:
        """How long a thread waits before it looks whether a deadline passed or the channel was closed."""
        return min(1.0, self.timeouts.rpc_s / 4)


class FramedChannel(ABC):
    """A channel less its means of moving bytes. The thread that runs `run` reads, and alone calls the handler."""

    def __init__(self, home: Home, session: Session, address: str) -> None:
        self.peer = session.peer
        self.address = address
        self.counters = Counters()
        self._home = home
        self._outgoing = session.outgoing()
        self._incoming = session.incoming()
        self._send_lock = threading.Lock()
        self._state_lock = threading.Lock()
        self._ending = False  # somebody closes: no more is sent
        self._ended = False  # and has said goodbye: no more is read
        self._error: RainshedError | None = None
        self._announced = threading.Event()
        self._finished = threading.Event()
        self._reader: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def __str__(self) -> str:
        return f"{self.peer} at {self.address}"

    # -- sending ----

    def send(self, message: Said, payload: Sequence[Buffer] = (), *, timeout_s: float) -> int:
        header = encode_header(message)
        views = [view for view in map(as_bytes, payload) if len(view)]
        nbytes = sum(map(len, views))
        deadline = Deadline.after(timeout_s)
        if not (self._send_lock.acquire(blocking=False) or self._send_lock.acquire(timeout=deadline.left())):
            raise self._give_up(self._stalled(message, nbytes, timeout_s, "other frames are before it"))
        try:
            if self._ending:
                raise BrokenPipeError(errno.EPIPE, None)
            self._write(header, views, nbytes, deadline)
            self.counters.sent_frames += 1
            self.counters.sent_payload_nbytes += nbytes
            return nbytes
        except TimeoutError as error:
            raise self._give_up(self._stalled(message, nbytes, timeout_s, str(error))) from None
        except OSError as error:
            failure = error
        finally:
            self._send_lock.release()
        raise self._gone(message, failure, deadline)

    def _stalled(self, message: Said, nbytes: int, waited_s: float, why: str) -> StallError:
        heard_s = time.monotonic() - self.counters.last_heard
        return StallError(
            f"{self} did not take {describe(message)} with {nbytes} bytes in {waited_s:.3g} s, "
            f"last heard {heard_s:.3g} s ago",
            why=why,
        )

    def _gone(self, message: Said, failure: OSError, deadline: Deadline) -> PeerLostError:
        """The peer takes no more: what it said last may say why, so let the reader come to it."""
        self._end_sending()
        if threading.current_thread() is not self._reader:
            self._finished.wait(min(deadline.left(), self._home.tick_s))
        return PeerLostError(
            f"cannot send {describe(message)} to {self}: the connection is closed",
            why=self._error.message if self._error is not None else failure.strerror,
        )

    def _give_up(self, error: RainshedError) -> RainshedError:
        """Close at once: a frame was cut off, so that no other can follow."""
        self._begin_close(error)
        self._ended = True
        self._abort()
        return error

    # -- closing ----

    def close(self) -> None:
        if self._begin_close(None):
            self._say_bye(Bye())
            self._ended = True

    def _begin_close(self, error: RainshedError | None) -> bool:
        """Whether this call was the first to close; the first reason stays."""
        with self._state_lock:
            first, self._ending = not self._ending, True
            if first:
                self._error = error
        return first

    def _say_bye(self, bye: Bye) -> None:
        """Best effort, in a moment: whoever does not take it sees the connection end instead."""
        if self._send_lock.acquire(timeout=min(0.2, self._home.tick_s)):
            try:
                self._write(encode_header(bye), [], 0, Deadline.after(0.0))
            except (OSError, TransportError):
                logger.debug("%s: no goodbye", self)
            finally:
                self._send_lock.release()
        self._end_sending()

    # -- receiving ----

    def run(self, forget: _Forget) -> None:
        """Announce the channel, then read until the end; the body of the channel's thread."""
        self._reader = threading.current_thread()
        try:
            self._home.handler.connected(self)
            self._announced.set()
            while not self._ended:
                self._read_frame()
        except EndError as end:
            self._begin_close(end.reason)
        except RainshedError as error:
            self._refuse(error)
        except OSError as error:
            self._begin_close(PeerLostError(f"lost {self}", why=error.strerror))
        except Exception as error:
            logger.exception("%s: the handler failed", self)
            self._refuse(TransportError(f"a callback for {self} failed: {type(error).__name__}: {error}"))
        finally:
            self._announced.set()
            self._finished.set()
            self._end_sending()
            self._tell_lost()
            self._drain()
            self._release()
            forget.forget(self)

    def _tell_lost(self) -> None:
        try:
            self._home.handler.lost(self, self._error)
        except Exception:
            logger.exception("%s: the handler failed", self)

    def wait_announced(self, deadline: Deadline) -> None:
        """Wait until the handler knows the channel. Raises what went wrong there."""
        if not self._announced.wait(deadline.left()):
            raise self._give_up(StallError(f"the callback connected({self}) did not end in {deadline.total_s:.3g} s"))
        if self._error is not None:
            raise self._error

    def _refuse(self, error: RainshedError) -> None:
        """Close because of what the peer sent, and tell it why."""
        if self._begin_close(error):
            self._say_bye(Bye(error.code, error.message[:1024]))

    def _buffer(self, message: Message, nbytes: int) -> memoryview:
        """The handler's buffer, checked."""
        view = as_bytes(self._home.handler.buffer(self, message, nbytes))
        if len(view) != nbytes or (nbytes and view.readonly):
            found = f"{len(view)} bytes, {'read-only' if view.readonly else 'writable'}"
            raise TransportError(f"wrong buffer for {describe(message)} of {nbytes} bytes", found=found)
        return view

    def _arrived(self, message: Message, payload: memoryview) -> None:
        counters = self.counters
        counters.received_frames += 1
        counters.received_payload_nbytes += len(payload)
        if self._ended:
            return
        if type(message) is Bye:
            kind = _REASONS.get(message.code, TransportError)
            raise EndError(kind(f"{self} closed the connection: {message.text}") if message.code else None)
        self._home.handler.received(self, message, payload)

    def _take_payload_of(self, message: Message, nbytes: int) -> memoryview:
        """Where the payload goes; the transport's own messages have none."""
        if type(message) is not Bye:
            return self._buffer(message, nbytes)
        if nbytes:
            raise ProtocolError(f"Bye with a payload of {nbytes} bytes")
        return memoryview(b"")

    # -- what a transport adds ----

    @abstractmethod
    def _write(self, header: bytes, views: list[memoryview], nbytes: int, deadline: Deadline) -> None:
        """Write one frame with `nbytes` of payload; under the send lock.

        Raises  TimeoutError or OSError; the frame may then be cut off
        """

    @abstractmethod
    def _read_frame(self) -> None:
        """Read one frame into the handler's buffer and pass it to _arrived, or return when nothing came for a tick."""

    @abstractmethod
    def _end_sending(self) -> None:
        """Let the peer see the end after what was sent."""

    @abstractmethod
    def _abort(self) -> None:
        """Break off now: whoever waits in _write or _read_frame, wakes."""

    @abstractmethod
    def _drain(self) -> None:
        """Wait a short time until the peer has read what was sent, a goodbye above all."""

    @abstractmethod
    def _release(self) -> None:
        """Give back all resources; the reader calls it last."""


class EndError(Exception):
    """The peer said goodbye. Not an error of the tree: `reason` is, or None."""

    def __init__(self, reason: RainshedError | None) -> None:
        self.reason = reason
        super().__init__()


class _Forget(Protocol):
    def forget(self, channel: FramedChannel) -> None: ...


class FramedEndpoint(ABC):
    """An endpoint less its means of moving bytes: keeps the channels and the threads, and ends them."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._closed = False
        self._channels: set[FramedChannel] = set()
        self._threads: set[threading.Thread] = set()

    def _start(self, name: str, target: Callable[[], None]) -> None:
        """Run `target` in a thread that close() joins.

        Raises  TransportError if the endpoint is closed already, or no thread can be had
        """
        thread = threading.Thread(target=target, name=f"rainshed {self._home.identity.name} {name}", daemon=True)
        with self._lock:
            self._require_open()
            try:
                thread.start()
            except RuntimeError as error:
                raise TransportError(f"no thread for {name}", why=error) from None
            self._threads = {t for t in self._threads if t.is_alive()} | {thread}

    def _require_open(self) -> None:
        if self._closed:
            raise TransportError("this endpoint is closed")

    def _adopt(self, channel: FramedChannel) -> None:
        """Make the channel one that close() closes."""
        with self._lock:
            self._require_open()
            self._channels.add(channel)

    def forget(self, channel: FramedChannel) -> None:
        with self._lock:
            self._channels.discard(channel)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            channels = list(self._channels)
        self._stop_accepting()
        for channel in channels:
            channel.close()
        if not self._join(2 * self._home.tick_s):
            for channel in channels:
                channel._abort()
            if not self._join(self._home.timeouts.handshake_s):
                stuck = sorted(thread.name for thread in self._others())
                logger.error("threads that did not end, a callback must be blocked: %s", ", ".join(stuck))

    def _join(self, seconds: float) -> bool:
        """Whether all threads but the caller's ended in time."""
        deadline = Deadline.after(seconds)
        for thread in self._others():
            thread.join(deadline.left())
        return not self._others()

    def _others(self) -> list[threading.Thread]:
        with self._lock:
            return [t for t in self._threads if t is not threading.current_thread() and t.is_alive()]

    @abstractmethod
    def _stop_accepting(self) -> None:
        """Let no new peer in, and break off handshakes; called twice when close() is."""
