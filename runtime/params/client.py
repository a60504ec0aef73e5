"""One machine of one replica: pushes gradients to the parameter server and fetches parameters while the next step runs.

The machine talks only to the shards that hold parts of its variables. `push` collects gradients and sends their sum
every n_push steps; `fetch_async` asks for parameters, and `latest` puts in what has come, at a boundary between steps.
Nothing waits, but for a place in the window of unacknowledged pushes.

Source  Dean et al. 2012, section 4.1 and appendix, algorithm 1.1
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from rainshed.ops.errors import DataError, ProtocolError, RainshedError, ShapeError, UsageError
from rainshed.ops.types import dtype_of
from rainshed.runtime.deadlines import Timeouts
from rainshed.runtime.messages import Message
from rainshed.runtime.params.layout import Layout, Part, PartKey, Piece
from rainshed.runtime.params.link import Link
from rainshed.runtime.params.outbox import Line, LinkCounts
from rainshed.runtime.params.rule import Array, Rule, Updater
from rainshed.runtime.transport import Channel, Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """What a machine needs to know of the parameter server.

    parts       the parts of trainable variables that this machine owns
    addresses   of the shards, by number
    window      how many pushes to a shard may be unacknowledged
    local_rule  moves the machine's own copy at every step by the freshest gradient; None: only fetches move it
    stall_s     how long a shard may answer nothing; None: as long as a step may last
    """

    name: str
    layout: Layout
    parts: tuple[Part, ...]
    addresses: Mapping[int, str]
    n_push: int = 1
    n_fetch: int = 1
    window: int = 2
    local_rule: Rule | None = None
    stall_s: float | None = None

    def __post_init__(self) -> None:
        for what in ("n_push", "n_fetch", "window"):
            if getattr(self, what) < 1:
                raise UsageError(f"{what} is {getattr(self, what)}, not 1 or more")


@dataclass(slots=True)
class _Held:
    """A part: the machine's own copy, flat; its pieces on shards; and the slots of a local rule."""

    part: Part
    value: Array
    pieces: tuple[Piece, ...]
    slots: dict[str, Array] = field(default_factory=dict)
    updates: int = 0


class ParamClient:
    """The Handler of a machine's endpoint, or of that part of its connections that leads to servers.

    values  the arrays that `latest` fills, such as the executor's own; without it, the client makes them
    """

    def __init__(self, config: ClientConfig, timeouts: Timeouts, values: Mapping[PartKey, Array] | None = None) -> None:
        self.config = config
        self._held = {part.key: _hold(part, config, values) for part in config.parts}
        self.values: dict[PartKey, Array] = {
            key: held.value.reshape(held.part.shape) for key, held in self._held.items()
        }
        stall_s = config.stall_s if config.stall_s is not None else timeouts.step_s
        lines = _lines(config, tuple(self._held.values()))
        self._links = {line.shard: Link(line, config.name, timeouts, stall_s) for line in lines}
        self._into = {shard: self._arrays_on(shard) for shard in self._links}
        self._updaters = {} if config.local_rule is None else _updaters(config.local_rule, config.parts)
        self._collected = 0
        self._steps = 0

    # -- beginning and end ----

    def start(self, endpoint: Endpoint) -> None:
        """Connect from this endpoint, whose Handler passes on what comes from servers. Does not wait."""
        for link in self._links.values():
            link.start(endpoint)

    def put(self, values: Mapping[PartKey, Array], field: str = "w") -> None:
        """Give first values, of the parameters or of a slot of the rule, and wait; the first to come counts.

        Raises  StallError naming the shard
        """
        flats = {key: _checked(self._part(key), array).reshape(-1) for key, array in values.items()}
        for shard, link in self._links.items():
            pieces = {
                piece.number: np.ascontiguousarray(flats[key][piece.start : piece.stop])
                for key in flats
                for piece in self._held[key].pieces
                if piece.shard == shard
            }
            if pieces:
                link.put(pieces, field)
        self._settle(fetched=False)

    def pull(self) -> dict[PartKey, Array]:
        """Fetch, wait until all parameters are there, and put them in: they hold all that was pushed from here.

        Raises  StallError naming the shard that does not answer, or has not got all first values
        """
        self._settle(fetched=True)  # what was asked before is older
        self.fetch_async()
        self._settle(fetched=True)
        self.latest()
        return self.values

    def flush(self) -> None:
        """Send what is collected, and wait until every push is acknowledged."""
        self._send()
        self._settle(fetched=False)

    def abort(self, error: RainshedError) -> None:
        """Who waits for a server gets this error. From any thread."""
        for link in self._links.values():
            link.abort(error)

    def close(self) -> None:
        """End all threads. What was not acknowledged may be lost: `flush` first."""
        for link in self._links.values():
            link.close()

    # -- each step ----

    def push(self, step: int, gradients: Mapping[PartKey, Array]) -> None:
        """Add one step's gradients, of all parts; every n_push-th time, send the sum.

        Copies, and waits only if the window is full. Raises StallError naming the shard, ShapeError, DataError, or what
        the shard has refused.
        """
        missing = [str(held.part) for key, held in self._held.items() if key not in gradients]
        if missing:
            raise DataError(f"step {step}: no gradient for {', '.join(missing[:8])}")
        flats = {key: _checked(held.part, gradients[key]).reshape(-1) for key, held in self._held.items()}
        for shard, link in self._links.items():
            block, new = link.block()
            by_number = dict(zip(link.line.numbers, block.views, strict=True))
            for key, held in self._held.items():
                for piece in held.pieces:
                    if piece.shard == shard:
                        _collect(flats[key][piece.start : piece.stop], by_number[piece.number], new)
        for key, held in self._held.items() if self._updaters else ():
            self._update(held, flats[key])
        self._collected += 1
        if self._collected >= self.config.n_push:
            self._send()

    def fetch_async(self) -> None:
        """Ask for the newest parameters; `latest` gives them when they have come."""
        for link in self._links.values():
            link.fetch()

    def latest(self) -> dict[PartKey, Array] | None:
        """Put in the newest parameters that have come since the last call: `values`, or None if there are none.

        Shards answer each by itself, so that parts may be of different moments.
        """
        versions = [link.take(self._into[shard]) for shard, link in self._links.items()]
        return self.values if any(version is not None for version in versions) else None

    def end_step(self, step: int, gradients: Mapping[PartKey, Array]) -> dict[PartKey, Array] | None:
        """A boundary between steps: push, ask for parameters if it is time, and put in what has come."""
        self.push(step, gradients)
        self._steps += 1
        if self._steps % self.config.n_fetch == 0:
            self.fetch_async()
        return self.latest()

    def counts(self) -> dict[int, LinkCounts]:
        """What has passed, for each shard."""
        return {shard: link.outbox.counts for shard, link in self._links.items()}

    # -- Handler ----

    def connected(self, channel: Channel) -> None:
        if channel.peer.role != "server":
            raise ProtocolError(f"{channel.peer} is no parameter server")

    def buffer(self, channel: Channel, message: Message, nbytes: int) -> memoryview:
        return self._link(channel).buffer(channel, message, nbytes)

    def received(self, channel: Channel, message: Message, payload: memoryview) -> None:
        self._link(channel).received(channel, message)

    def lost(self, channel: Channel, error: RainshedError | None) -> None:
        for link in self._links.values():
            if link.leads_to(channel):
                link.lost(channel, error)

    # -- inside ----

    def _link(self, channel: Channel) -> Link:
        for link in self._links.values():
            if link.leads_to(channel):
                return link
        raise ProtocolError(f"{channel} is no line to a shard")

    def _part(self, key: PartKey) -> Part:
        held = self._held.get(key)
        if held is None:
            raise DataError(f"{self.config.name} does not own {key[0]}{list(key[1])}")
        return held.part

    def _arrays_on(self, shard: int) -> dict[int, Array]:
        """The machine's own arrays by the numbers that the shard knows them by."""
        return {
            piece.number: held.value[piece.start : piece.stop]
            for held in self._held.values()
            for piece in held.pieces
            if piece.shard == shard
        }

    def _settle(self, *, fetched: bool) -> None:
        for link in self._links.values():
            link.settle(fetched=fetched)

    def _send(self) -> None:
        self._collected = 0
        for link in self._links.values():
            link.push()

    def _update(self, held: _Held, gradient: Array) -> None:
        if np.isfinite(gradient).all():  # the server refuses it too
            self._updaters[held.part.dtype].apply(held.value, gradient, held.slots, held.updates)
            held.updates += 1


def _hold(part: Part, config: ClientConfig, values: Mapping[PartKey, Array] | None) -> _Held:
    dtype = dtype_of(part.dtype).numpy
    value = np.zeros(part.shape, dtype) if values is None else values.get(part.key)
    if value is None:
        raise DataError(f"{config.name}: no array for {part}")
    if not (value.flags.c_contiguous and value.flags.writeable):
        raise DataError(f"{config.name}: the array for {part} is not contiguous and writable")
    fills = config.local_rule.slots if config.local_rule is not None else {}
    slots = {name: np.full(part.size, fill, dtype) for name, fill in fills.items()}
    return _Held(part, _checked(part, value).reshape(-1), config.layout.pieces(part), slots)


def _updaters(rule: Rule, parts: Sequence[Part]) -> dict[str, Updater]:
    """One for each element type of these parts."""
    elements: Counter[str] = Counter()
    for part in parts:
        elements[part.dtype] += part.size
    return {dtype: Updater(rule, dtype, count) for dtype, count in elements.items()}


def _lines(config: ClientConfig, held: tuple[_Held, ...]) -> list[Line]:
    """One line for each shard that holds something of ours."""
    pieces = sorted((piece.shard, piece.number) for one in held for piece in one.pieces)
    lines = []
    for shard, group in groupby(pieces, key=lambda pair: pair[0]):
        if shard not in config.addresses:
            raise UsageError(f"{config.name}: no address for shard {shard}")
        numbers = tuple(number for _, number in group)
        lines.append(Line(shard, config.addresses[shard], config.layout, numbers, config.window))
    return lines


def _checked(part: Part, array: Array) -> Array:
    """The array, if it is exactly of the part's type and shape: nothing is ever broadcast."""
    if array.dtype != dtype_of(part.dtype).numpy or array.shape != part.shape:
        raise ShapeError(f"{part} has shape {list(part.shape)}; found {array.dtype} {list(array.shape)}")
    return array


def _collect(gradient: Array, into: Array, new: bool) -> None:
    if new:
        np.copyto(into, gradient)
    else:
        np.add(into, gradient, out=into)
