"""Measuring the way between two workers: one answers (`Echo`), the other asks and takes the time (`measure_link`).

What is measured are real frames over the job's own transport, with its checksums and threads. Frames are `Value`s: `step` is the
number of bytes of the answer that is wanted, `key` the number of the question.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from itertools import combinations
from typing import Final, NamedTuple

from msgspec import Struct

from rainshed.ops.errors import PeerLostError, ProtocolError, RainshedError, StallError
from rainshed.runtime.deadlines import Deadline, Timeouts
from rainshed.runtime.messages import Message, Value
from rainshed.runtime.peers import Outbox
from rainshed.runtime.transport import Channel

MAX_NBYTES: Final = 1 << 24  # of one frame
SMALL_NBYTES: Final = 64
FIRST_NBYTES: Final = 1 << 16
LAST: Final = 4  # amounts that tell the bandwidth
LONG_S: Final = 0.1  # of a frame that no buffer holds


class LinkTimes(Struct, frozen=True, forbid_unknown_fields=True):
    """Medians.

    latency_s         half of a round trip of a small frame, less what both ends take of their cores for it
    out_bytes_per_s   of large frames from the asking end, in_bytes_per_s to it
    buffer_bytes      of a large frame that had not yet come when it was sent, as far as the sender could tell
    """

    latency_s: float
    out_bytes_per_s: float
    in_bytes_per_s: float
    buffer_bytes: int = 0


class Trip(NamedTuple):
    """Seconds until frames were sent, and until all of them were answered."""

    sent_s: float
    answered_s: float


class _End:
    """What both ends share: one buffer for what comes, and frames of zeros."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._zeros = memoryview(bytes(MAX_NBYTES))
        self._taken: dict[Channel, memoryview] = {}

    def buffer(self, channel: Channel, message: Message, nbytes: int) -> memoryview:
        if not isinstance(message, Value) or nbytes > MAX_NBYTES or message.step > MAX_NBYTES:
            raise ProtocolError(f"{type(message).__name__} with {nbytes} bytes while links are measured")
        if channel not in self._taken:
            self._taken[channel] = memoryview(bytearray(MAX_NBYTES))
        return self._taken[channel][:nbytes]


class Echo(_End):
    """Answers every frame by one of the size that it asks for. The handler of an endpoint.

    Another thread answers than the one that reads: so the time holds the hand-over that a value goes through in a step, too.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        super().__init__(timeouts)
        self._outboxes: dict[Channel, Outbox] = {}
        self._lock = threading.Lock()

    def connected(self, channel: Channel) -> None:
        with self._lock:
            self._outboxes[channel] = Outbox(f"echo to {channel.peer.name}", channel, self._timeouts)

    def received(self, channel: Channel, message: Message, payload: memoryview) -> None:
        assert isinstance(message, Value)  # `buffer` lets nothing else in
        self._outboxes[channel].put(Value(0, message.key), self._zeros[: message.step], _ignore)

    def lost(self, channel: Channel, error: RainshedError | None) -> None:
        with self._lock:
            outbox = self._outboxes.pop(channel, None)
            self._taken.pop(channel, None)
        if outbox is not None:
            outbox.close(self._timeouts.handshake_s)


def _ignore(error: RainshedError | None) -> None:
    """Who asked, will miss the answer."""


class Asker(_End):
    """The other end. The handler of an endpoint that connects to one echo."""

    def __init__(self, timeouts: Timeouts) -> None:
        super().__init__(timeouts)
        self._changed = threading.Condition()
        self._asked = self._answered = 0
        self._error: RainshedError | None = None

    def connected(self, channel: Channel) -> None:
        """The first question says enough."""

    def received(self, channel: Channel, message: Message, payload: memoryview) -> None:
        with self._changed:
            self._answered += 1
            self._changed.notify_all()

    def lost(self, channel: Channel, error: RainshedError | None) -> None:
        with self._changed:
            self._error = error or PeerLostError("the other end of the link left")
            self._changed.notify_all()

    def exchange(self, channel: Channel, frames: int, nbytes: int, wanted: int) -> Trip:
        """Send so many frames, wait for all answers."""
        limit_s = self._timeouts.for_bytes(frames * (nbytes + wanted))
        deadline = Deadline.after(limit_s)
        payload = [self._zeros[:nbytes]]
        started = time.perf_counter()
        for _ in range(frames):
            self._asked += 1
            channel.send(Value(wanted, self._asked), payload, timeout_s=deadline.left() or 1e-3)
        sent_s = time.perf_counter() - started
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._answered == self._asked, deadline.left())
            if self._error is not None:
                raise self._error
            if self._answered != self._asked:
                missing = self._asked - self._answered
                raise StallError(f"{channel} left {missing} of {frames} frames unanswered for {limit_s:.3g} s")
        return Trip(sent_s, time.perf_counter() - started)


def measure_link(asker: Asker, channel: Channel, budget_s: float) -> LinkTimes:
    """Latency, and bandwidth both ways, in about `budget_s`."""
    asker.exchange(channel, 10, SMALL_NBYTES, SMALL_NBYTES)
    trips: list[float] = []
    end, used_s = time.perf_counter() + 0.2 * budget_s, time.process_time()
    while len(trips) < 5 or (time.perf_counter() < end and len(trips) < 500):
        trips.append(asker.exchange(channel, 1, SMALL_NBYTES, SMALL_NBYTES).answered_s)
    core_s = (time.process_time() - used_s) / len(trips)  # of this end in a round trip: as much as of both on one way
    latency_s = max(0.0, statistics.median(trips) / 2 - core_s)
    out_rate = _bandwidth(lambda n: asker.exchange(channel, *_frames(n), 0).answered_s, 0.4 * budget_s)
    in_rate = _bandwidth(lambda n: _fetch(asker, channel, n), 0.4 * budget_s)
    return LinkTimes(latency_s, out_rate, in_rate, _buffer(asker, channel, out_rate, latency_s))


def _frames(nbytes: int) -> tuple[int, int]:
    size = min(nbytes, MAX_NBYTES // 4)
    return nbytes // size, size


def _fetch(asker: Asker, channel: Channel, nbytes: int) -> float:
    frames, size = _frames(nbytes)
    return asker.exchange(channel, frames, 0, size).answered_s


def _buffer(asker: Asker, channel: Channel, rate: float, latency_s: float) -> int:
    """Bytes that the operating system takes ahead of the link: what comes after a frame is sent, less the way of its answer."""
    nbytes = int(min(MAX_NBYTES, max(FIRST_NBYTES, rate * LONG_S)))
    trips = [asker.exchange(channel, 1, nbytes, 0) for _ in range(3)]
    ahead_s = statistics.median(trip.answered_s - trip.sent_s for trip in trips) - 2 * latency_s
    return min(nbytes, max(0, round(ahead_s * rate)))


def _bandwidth(carry: Callable[[int], float], budget_s: float) -> float:
    """Bytes per second on the way.

    Amounts are doubled while time allows; the rate is the median of those between every two of the last few, which is free of
    latency, and which one transfer that was disturbed does not change (Theil 1950).
    """
    nbytes, seen, spent = FIRST_NBYTES, [], 0.0
    while True:
        seconds = carry(nbytes)
        seen.append((nbytes, seconds))
        spent += seconds
        if (spent + 2.5 * seconds > budget_s and len(seen) > 2) or nbytes >= 1 << 28:
            break
        nbytes *= 2
    last, seconds = seen[-1]
    rates = [(n1 - n0) / (s1 - s0) for (n0, s0), (n1, s1) in combinations(seen[-LAST:], 2) if s1 > s0]
    return statistics.median(rates) if rates else last / seconds
