"""What a machine has told a shard and not been answered: pushes in order, first values, a fetch. Pure.

A push keeps its block, and so its bytes, until the shard has told what became of it. On a new connection the shard
tells which push it did last; those behind it are sent again. At most `window` pushes are on their way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from rainshed.ops.errors import NotFiniteError, ProtocolError, StaleIncarnationError, TransportError
from rainshed.ops.types import dtype_of
from rainshed.runtime.deadlines import Deadline
from rainshed.runtime.messages import Attach, Attached, Fetch, Message, Params, Push, PushAck, Put, PutAck, describe
from rainshed.runtime.params.layout import Layout, Part
from rainshed.runtime.params.rule import Array
from rainshed.runtime.wire import Buffer


@dataclass(frozen=True, slots=True)
class Line:
    """Where a link leads. `numbers`: the parts of the shard that this machine moves, rising."""

    shard: int
    address: str
    layout: Layout
    numbers: tuple[int, ...]
    window: int

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(self.layout.shards[self.shard][number] for number in self.numbers)


class LinkCounts(msgspec.Struct):
    """What has passed over a link. `staleness`: versions -> pushes applied that were so stale."""

    pushes: int = 0
    pushed_nbytes: int = 0  # sent, those sent again too
    resent: int = 0
    applied: int = 0
    dup: int = 0  # applied before; the acknowledgement was lost
    refused: int = 0  # not finite, or too old
    fetches: int = 0
    fetched_nbytes: int = 0
    connections: int = 0
    staleness: dict[int, int] = {}


class Block:
    """The bytes of a link's parts, one behind the other, and a flat view of each."""

    def __init__(self, parts: Sequence[Part]) -> None:
        edges = [0]
        for part in parts:
            edges.append(edges[-1] + part.nbytes)
        self.raw: np.ndarray[Any, np.dtype[np.uint8]] = np.zeros(edges[-1], np.uint8)
        self.views: list[Array] = [
            self.raw[low:high].view(dtype_of(part.dtype).numpy)
            for part, low, high in zip(parts, edges[:-1], edges[1:], strict=True)
        ]


@dataclass(slots=True, eq=False)
class Request:
    """Something that is answered. `sent`: on the connection of now; `due`: when the answer must be there."""

    message: Push | Put | Fetch
    payload: list[Buffer]
    answer_nbytes: int = 0
    block: Block | None = None
    sent: bool = False
    tries: int = 0
    due: Deadline | None = None

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.payload))


class Outbox:
    """The state machine of one link. The caller allows one call at a time."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.counts = LinkCounts()
        self.free = [Block(line.parts) for _ in range(line.window + 1)]  # one is filled while others are on their way
        self.attached = False
        self._nbytes = sum(part.nbytes for part in line.parts)
        self._seq = 0  # of the last push that was made
        self._acked = 0
        self._requests = 0
        self._pushes: deque[Request] = deque()
        self._asked: dict[int, Request] = {}  # puts and fetches, by number

    # -- what is to be said ----

    def push(self, block: Block, based_on: int) -> None:
        """Send the block; it comes back to `free` when the shard has told what became of it."""
        self._seq += 1
        self.counts.pushes += 1
        message = Push(self._seq, based_on, self.line.numbers)
        self._pushes.append(Request(message, [block.raw.data], block=block))

    def put(self, numbers: tuple[int, ...], field: str, payload: list[Buffer]) -> None:
        """Offer first values, which must stay as they are until they are answered."""
        self._requests += 1
        self._asked[self._requests] = Request(Put(self._requests, numbers, field), payload)

    def fetch(self) -> None:
        """Ask for the parameters, unless they are asked for already."""
        if not self.fetching:
            self._requests += 1
            message = Fetch(self._requests, self.line.numbers)
            self._asked[self._requests] = Request(message, [], answer_nbytes=self._nbytes)

    # -- the connection ----

    def disconnected(self) -> None:
        """All that is not answered is unsent again."""
        self.attached = False
        for request in self.unanswered:
            request.sent, request.due = False, None

    @property
    def greeting(self) -> Attach:
        """The first message of a connection."""
        return Attach(self.line.layout.digest, self._acked)

    def next(self) -> Request | None:
        """What is to be sent now. The caller marks it with `mark_sent`."""
        if not self.attached:
            return None
        for request in self._asked.values():
            if not request.sent and isinstance(request.message, Put):
                return request
        for request, _ in zip(self._pushes, range(self.line.window), strict=False):
            if not request.sent:
                return request
        return next((request for request in self._asked.values() if not request.sent), None)

    def mark_sent(self, request: Request) -> None:
        request.sent = True
        request.tries += 1
        if isinstance(request.message, Push):
            self.counts.pushed_nbytes += request.nbytes
            self.counts.resent += request.tries > 1

    # -- what is waited for ----

    @property
    def unanswered(self) -> list[Request]:
        return [*self._asked.values(), *self._pushes]

    @property
    def pushing(self) -> bool:
        return bool(self._pushes)

    @property
    def putting(self) -> bool:
        return any(isinstance(request.message, Put) for request in self._asked.values())

    @property
    def fetching(self) -> bool:
        return any(isinstance(request.message, Fetch) for request in self._asked.values())

    # -- answers ----

    def due_nbytes(self, message: Message) -> int:
        """How long the payload of an answer must be. Raises ProtocolError if nothing such was asked."""
        if isinstance(message, Params):
            return self._request(message, Fetch).answer_nbytes
        if isinstance(message, Attached | PushAck | PutAck):
            return 0
        raise ProtocolError(f"shard {self.line.shard} said {describe(message)}")

    def answer(self, message: Message) -> bool:
        """Take an answer; whether it settles anything. Raises what it means, if things cannot go on as they are."""
        if isinstance(message, Attached):
            return self._greeted(message)
        if isinstance(message, PushAck):
            return self._acknowledged(message)
        if isinstance(message, Params):
            self._request(message, Fetch)
            del self._asked[message.request]
            self.counts.fetches += 1
            self.counts.fetched_nbytes += self._nbytes
        elif isinstance(message, PutAck):
            self._request(message, Put)
            del self._asked[message.request]
        return True

    def _request(self, message: Params | PutAck, kind: type[Fetch | Put]) -> Request:
        request = self._asked.get(message.request)
        if request is None or not request.sent or not isinstance(request.message, kind):
            raise ProtocolError(f"shard {self.line.shard} said {describe(message)}, which was not asked")
        return request

    def _greeted(self, message: Attached) -> bool:
        if message.shard != self.line.shard:
            raise ProtocolError(f"shard {message.shard} answers at {self.line.address}, not shard {self.line.shard}")
        self._check_seq(message.applied_seq)
        done = self._drop_until(message.applied_seq)
        self.attached = True
        self.counts.dup += done
        self.counts.connections += 1
        return done > 0

    def _acknowledged(self, message: PushAck) -> bool:
        counts, where = self.counts, f"shard {self.line.shard}"
        self._check_seq(message.applied_seq)
        if message.outcome == "stale":
            raise StaleIncarnationError(f"{where} refused push {message.seq}: {message.text}")
        if message.outcome == "gap":  # the greeting of a new connection sets it right
            raise TransportError(f"{where} refused push {message.seq}: {message.text}")
        done = self._drop_until(message.applied_seq)
        if message.outcome == "abort":
            raise NotFiniteError(f"{where} refused push {message.seq}: {message.text}")
        if message.outcome == "applied" and done:
            counts.applied += 1
            counts.staleness[message.staleness] = counts.staleness.get(message.staleness, 0) + 1
        elif message.outcome == "dup":
            counts.dup += done
        else:
            counts.refused += done
        return done > 0

    def _check_seq(self, seq: int) -> None:
        if seq > self._seq:
            raise ProtocolError(
                f"shard {self.line.shard} has done push {seq}, and only {self._seq} were made",
                cause="another process has this one's name and incarnation",
            )

    def _drop_until(self, seq: int) -> int:
        """Forget the pushes up to `seq`; how many."""
        done = 0
        while self._pushes and self._pushes[0].message.seq <= seq:  # type: ignore[union-attr]
            block = self._pushes.popleft().block
            if block is not None:
                self.free.append(block)
            done += 1
        self._acked = max(self._acked, seq)
        return done
