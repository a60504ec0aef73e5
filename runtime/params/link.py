"""A machine's line to one shard: one thread that sends, and makes a new connection when one is lost.

What comes back is taken on the connection's reading thread; the computing thread only copies into and out of blocks.
The order of things is `outbox.py`'s; here are the locks, deadlines and connections.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from rainshed.ops.errors import (
    AuthError,
    ProtocolError,
    RainshedError,
    StaleIncarnationError,
    StallError,
    TransportError,
    UsageError,
)
from rainshed.runtime.deadlines import Deadline, Timeouts
from rainshed.runtime.messages import Message, Params, describe
from rainshed.runtime.params.outbox import Block, Line, Outbox, Request
from rainshed.runtime.params.rule import Array
from rainshed.runtime.params.snapshot import flat_bytes
from rainshed.runtime.transport import Channel, Endpoint

_FIRST_PAUSE_S: Final = 0.02  # between attempts to connect, doubled each time
_LAST_PAUSE_S: Final = 1.0
_FINAL: Final = (AuthError, StaleIncarnationError)
_STRIKES: Final = 3  # so often a shard may refuse our bytes before they are not the line's fault


class Link:
    """The line to one shard. `name`: the machine's, for errors; `stall_s`: nothing answered so long is a StallError."""

    def __init__(self, line: Line, name: str, timeouts: Timeouts, stall_s: float) -> None:
        self.line = line
        self.outbox = Outbox(line)
        self._name = name
        self._timeouts = timeouts
        self._stall_s = stall_s
        self._changed = threading.Condition()  # guards all below, and the outbox
        self._endpoint: Endpoint | None = None
        self._channel: Channel | None = None
        self._last_heard_of: Channel | None = None
        self._attach_due: Deadline | None = None
        self._moved = Deadline.after(stall_s)  # anew whenever something is answered
        self._attempts = 0  # to connect, since the last greeting
        self._strikes = 0  # refusals since the last answer
        self._error: RainshedError | None = None
        self._stopped = False
        self._arriving, self._arrived = Block(line.parts), Block(line.parts)
        self._lent = False  # `arriving` to a connection's reader
        self._fresh = False  # `arrived` was not taken
        self._arrived_version = self._taken_version = 0
        # of the computing thread alone
        self._filling: Block | None = None
        self._based_on = 0
        self._thread = threading.Thread(target=self._run, name=f"rainshed {name} to shard {line.shard}", daemon=True)

    # -- for the computing thread ----

    def start(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._thread.start()

    def put(self, values: Mapping[int, Array], field: str) -> None:
        """Offer first values: part's number -> flat array, which must stay as it is until they are settled."""
        numbers = tuple(sorted(values))
        payload = [flat_bytes(values[number]) for number in numbers]
        self._ask(lambda: self.outbox.put(numbers, field, list(payload)))

    def fetch(self) -> None:
        """Ask for the parameters, unless they are asked for already."""
        self._ask(self.outbox.fetch)

    def block(self) -> tuple[Block, bool]:
        """The block that collects gradients, and whether it must be overwritten; waits while the window is full."""
        if self._filling is None:
            with self._changed:
                self._wait(lambda: bool(self.outbox.free))
                self._filling = self.outbox.free.pop()
                self._based_on = self._taken_version
            return self._filling, True
        return self._filling, False

    def push(self) -> None:
        """Send what was collected since the last push, if anything."""
        block, self._filling = self._filling, None
        if block is not None:
            self._ask(lambda: self.outbox.push(block, self._based_on))

    def take(self, into: Mapping[int, Array]) -> int | None:
        """Copy what was fetched last into the flat arrays; its version, or None if nothing new has come."""
        with self._changed:
            self._check()
            if not self._fresh:
                return None
            for number, view in zip(self.line.numbers, self._arrived.views, strict=True):
                into[number][...] = view
            self._fresh = False
            self._taken_version = self._arrived_version
            return self._taken_version

    def settle(self, *, fetched: bool = False) -> None:
        """Wait until all pushes and first values are answered; with `fetched`, the fetch too."""
        outbox = self.outbox

        def settled() -> bool:
            return not (outbox.pushing or outbox.putting or (fetched and outbox.fetching))

        with self._changed:
            self._wait(settled)

    def close(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            channel = self._channel
        if channel is not None:
            channel.close()
        if self._thread.ident is not None:
            self._thread.join()

    def _ask(self, add: Callable[[], None]) -> None:
        with self._changed:
            self._check()
            if not self.outbox.unanswered:
                self._moved = Deadline.after(self._stall_s)
            add()
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Under the lock. As long as answers come, so long it waits; the sending thread sees to it that they do."""
        while not (self._error or self._stopped or ready()):
            self._changed.wait()
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._stopped:
            raise UsageError(f"{self._name}: the line to shard {self.line.shard} is closed")

    def _stalled(self) -> StallError:
        channel = self._channel or self._last_heard_of
        heard = f"last heard {time.monotonic() - channel.counters.last_heard:.3g} s ago" if channel else "never heard"
        unanswered = self.outbox.unanswered
        first, nbytes = describe(unanswered[0].message), unanswered[0].nbytes
        return StallError(
            f"{self._name} waited {self._stall_s:.3g} s for shard {self.line.shard} at {self.line.address} to answer "
            f"{first} of {nbytes} bytes, {heard}",
            unanswered=len(unanswered),
            connected="yes" if self._channel is not None else f"no, after {self._attempts} attempts",
        )

    # -- the sending thread ----

    def _run(self) -> None:
        try:
            while self._act():
                pass
        except RainshedError as error:
            self.abort(error)
        except Exception as error:
            self.abort(RainshedError(f"{self._name}: the line to shard {self.line.shard} failed: {error!r}"))

    def _act(self) -> bool:
        """Wait until there is something to do, and do it; False at the end."""
        with self._changed:
            while True:
                if self._stopped or self._error is not None:
                    return False
                waits = bool(self.outbox.unanswered)
                if waits and self._moved.expired:
                    raise self._stalled()
                channel, request = self._channel, self.outbox.next()
                if (channel is None and waits) or request is not None:
                    break
                self._rest(self._moved.left() if waits else None)
            if channel is not None and request is not None:
                self.outbox.mark_sent(request)
                limit_s = self._limit(request)
                request.due = Deadline.after(limit_s)
        if channel is None:
            self._connect()
        elif request is not None:
            self._send(channel, request, limit_s)
        return True

    def _rest(self, left_s: float | None) -> None:
        """Wait until something changes or the next deadline; close the connection if one has passed."""
        dues = [request.due for request in self.outbox.unanswered if request.due is not None]
        if self._channel is not None and not self.outbox.attached and self._attach_due is not None:
            dues.append(self._attach_due)
        if any(due.expired for due in dues):
            self._drop()
        else:
            times = [due.left() for due in dues] + ([left_s] if left_s is not None else [])
            self._changed.wait(min(times, default=None))

    def _limit(self, request: Request) -> float:
        """Seconds for the request, behind all that is on its way."""
        under_way = [r for r in self.outbox.unanswered if r.sent]
        limit_s = self._timeouts.for_bytes(sum(r.nbytes + r.answer_nbytes for r in under_way))
        # The first fetch is held back by the shard until all first values are there.
        return limit_s + (self._stall_s if request.answer_nbytes and not self.outbox.counts.fetches else 0.0)

    def _send(self, channel: Channel, request: Request, limit_s: float) -> None:
        try:
            channel.send(request.message, request.payload, timeout_s=limit_s)
        except (TransportError, StallError):
            self.lost(channel, None)

    def _connect(self) -> None:
        """One attempt; whoever waits sees by `_moved` whether attempts lead anywhere."""
        endpoint, limits = self._endpoint, self._timeouts
        if endpoint is None:
            raise UsageError(f"{self._name}: the line to shard {self.line.shard} was not started")
        with self._changed:
            if self._attempts:
                pause_s = min(_FIRST_PAUSE_S * 2 ** min(self._attempts - 1, 10), _LAST_PAUSE_S, self._moved.left())
                if self._changed.wait_for(lambda: self._stopped or self._error is not None, pause_s):
                    return
            self._attempts += 1
        try:
            channel = endpoint.connect(self.line.address, timeout_s=limits.connect_s + limits.handshake_s)
        except ProtocolError as error:
            self._strike(error)
            return
        except (AuthError, UsageError):
            raise
        except (TransportError, StallError):
            return
        with self._changed:
            if self._stopped:
                channel.close()
                return
            self._channel = self._last_heard_of = channel
            greeting = self.outbox.greeting
            self._attach_due = Deadline.after(limits.rpc_s)
        try:
            channel.send(greeting, timeout_s=limits.rpc_s)
        except (TransportError, StallError):
            self.lost(channel, None)

    def _drop(self) -> None:
        """Leave the connection: what was sent on it is unsent, and what comes over it is not read. Under the lock."""
        channel, self._channel = self._channel, None
        self.outbox.disconnected()
        if self._lent:  # its reader may still write there
            self._arriving, self._lent = Block(self.line.parts), False
        self._changed.notify_all()
        if channel is not None:
            channel.close()

    def _strike(self, error: RainshedError) -> None:
        """The shard, or we, refused what was said: bytes may have changed on the way, but not again and again."""
        with self._changed:
            self._strikes += 1
            last = self._strikes >= _STRIKES
        if last:
            self.abort(error)

    def abort(self, error: RainshedError) -> None:
        """End; everybody who waits gets the error. From any thread."""
        with self._changed:
            if self._error is None and not self._stopped:
                self._error = error
            self._changed.notify_all()

    # -- on the connection's reading thread ----

    def leads_to(self, channel: Channel) -> bool:
        """Whether this is, or was, a connection of this link."""
        return channel.address == self.line.address

    def buffer(self, channel: Channel, message: Message, nbytes: int) -> memoryview:
        with self._changed:
            if channel is not self._channel:
                raise TransportError(f"the line to shard {self.line.shard} has another connection now")
            due = self.outbox.due_nbytes(message)
            if nbytes != due:
                raise ProtocolError(f"shard {self.line.shard} sent {nbytes} bytes where {due} were asked")
            if not isinstance(message, Params):
                return memoryview(b"")
            self._lent = True
            return self._arriving.raw.data

    def received(self, channel: Channel, message: Message) -> None:
        with self._changed:
            if channel is not self._channel:
                return
            settled = self.outbox.answer(message)  # what it raises closes the connection, and `lost` decides
            if isinstance(message, Params):
                self._arriving, self._arrived = self._arrived, self._arriving
                self._lent, self._fresh, self._arrived_version = False, True, message.version
            if settled:
                self._moved = Deadline.after(self._stall_s)
                self._attempts = self._strikes = 0
            self._changed.notify_all()

    def lost(self, channel: Channel, error: RainshedError | None) -> None:
        with self._changed:
            if channel is self._channel:
                self._drop()
        if isinstance(error, ProtocolError):
            self._strike(error)
        elif isinstance(error, _FINAL) or not isinstance(error, TransportError | StallError | None):
            self.abort(error)
