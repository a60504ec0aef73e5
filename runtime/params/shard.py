"""One shard of the parameter server: what it holds, and what each message does to it. Pure: no thread, clock or socket.

    push    applied if it is the sender's next one; told again, not applied, if it was applied before; else refused
    fetch   parts as they are now, or nothing while some have no value yet
    put     first values; whoever comes first

A push is applied whole or not at all, and never twice: its identity is (job, sender, incarnation, shard, seq), and the
shard keeps the last seq of each sender beside the parameters, in snapshots too. The caller allows one call at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np

from rainshed.ops.errors import CheckpointError, PlanError, ProtocolError, StaleIncarnationError
from rainshed.ops.types import dtype_of
from rainshed.runtime.messages import Attach, Attached, Fetch, Params, Push, PushAck, Put, PutAck
from rainshed.runtime.params.layout import Layout, Part, check_layout
from rainshed.runtime.params.rule import Array, Rule, Updater
from rainshed.runtime.params.snapshot import Counts, Last, Snapshot, Table, flat_bytes

Outcome: TypeAlias = Literal["applied", "dup", "gap", "stale", "too_old", "nonfinite", "abort"]

Span: TypeAlias = tuple[int, int]  # elements of a flat part, the second not included

W: Final = "w"
_CHECKED: Final = 2**16  # elements looked at together for NaN and infinity


class Worker(NamedTuple):
    """Who sends, as the handshake proved it."""

    name: str
    incarnation: int


class _Run(NamedTuple):
    """Parts that a push moves together: neighbours in the shard's memory and in the push, updated equally often.

    span      their elements in the shard's arrays of this element type
    gradient  [n], of all of them
    """

    numbers: Sequence[int]
    span: slice
    gradient: Array


class ShardConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that makes a shard: data that the coordinator sends to a server.

    nonfinite      a push with NaN or infinity is refused and counted; "abort" tells its sender to stop
    max_staleness  a push computed from parameters older than so many versions is refused and counted; None: no bound
    """

    number: int
    layout: Layout
    rule: Rule
    nonfinite: Literal["reject", "abort"] = "reject"
    max_staleness: int | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.layout.shards[self.number]


# Made here: two threads that teach msgspec a type at once end the process (see compiler/load.py).
_CONFIG: Final = msgspec.json.Decoder(ShardConfig)


def config_from_json(data: bytes) -> ShardConfig:
    """The config of these bytes, checked. Raises PlanError."""
    try:
        config = _CONFIG.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError(f"this is not the description of a server shard: {error}") from None
    check_layout(config.layout)
    if not 0 <= config.number < len(config.layout.shards):
        raise PlanError(f"there is no shard {config.number}; the layout has {len(config.layout.shards)}")
    return config


class Shard:
    """The state machine."""

    def __init__(self, config: ShardConfig) -> None:
        self.config = config
        self.parts = config.parts
        self.fields: tuple[str, ...] = (W, *config.rule.slots)
        self._types = [dtype_of(part.dtype).numpy for part in self.parts]
        self._nbytes = [part.nbytes for part in self.parts]
        totals: dict[str, int] = {}
        self._places: list[slice] = []  # of each part, in the shard's arrays of its element type
        for part in self.parts:
            begin = totals.get(part.dtype, 0)
            totals[part.dtype] = begin + part.size
            self._places.append(slice(begin, begin + part.size))
        self._updaters = {dtype: Updater(config.rule, dtype, total) for dtype, total in totals.items()}
        fill = {W: 0.0, **config.rule.slots}
        self._whole = {  # parts of one element type side by side, so that one call moves them all
            name: {dtype: np.full(total, fill[name], dtype_of(dtype).numpy) for dtype, total in totals.items()}
            for name in self.fields
        }
        self._arrays = {
            name: [self._whole[name][part.dtype][at] for part, at in zip(self.parts, self._places, strict=True)]
            for name in self.fields
        }
        self._present = {name: [False] * len(self.parts) for name in self.fields}
        self._versions = [0] * len(self.parts)
        self._last: dict[str, Last] = {}
        self._finite = np.empty(_CHECKED, np.bool_)
        self.counts = Counts()

    # -- what is right to send ----

    @property
    def missing(self) -> int:
        """How many parts have no first value yet: until there are none, nothing can be fetched or pushed."""
        return self._present[W].count(False)

    def nbytes(self, parts: Sequence[int]) -> int:
        """The bytes of these parts. Raises ProtocolError unless they are numbers of parts here, rising."""
        if not parts or parts[-1] >= len(self.parts) or any(a >= b for a, b in pairwise(parts)):
            known = f"parts 0 to {len(self.parts) - 1}" if self.parts else "no parts"
            raise ProtocolError(f"shard {self.config.number} has {known}; named were {_short(parts)}")
        return sum(self._nbytes[number] for number in parts)

    def due_nbytes(self, message: Push | Put) -> int:
        """How long the payload must be. Raises ProtocolError if the message is wrong whatever its payload."""
        if isinstance(message, Put):
            self._check_fields((message.field,))
        return self.nbytes(message.parts)

    def answer_nbytes(self, message: Fetch) -> int:
        """How long the payload of the answer will be. Raises ProtocolError if the message is wrong."""
        self._check_fields(message.fields)
        return len(message.fields) * self.nbytes(message.parts)

    def _check_fields(self, fields: Sequence[str]) -> None:
        if not set(fields) <= set(self.fields) or len(set(fields)) < len(fields):
            raise ProtocolError(f"shard {self.config.number} has the fields {self.fields}; named were {_short(fields)}")

    # -- messages ----

    def attach(self, worker: Worker, message: Attach) -> Attached:
        """Raises ProtocolError if the sender holds another layout, StaleIncarnationError if it was replaced."""
        if message.layout != self.config.layout.digest:
            raise ProtocolError(
                f"{worker.name} divides the parameters in another way than shard {self.config.number}: "
                f"layout {message.layout[:16]}, here {self.config.layout.digest[:16]}"
            )
        last = self._last_of(worker)
        if last is None:
            newer = self._last[worker.name].incarnation
            raise StaleIncarnationError(f"{worker.name}, incarnation {worker.incarnation}, was replaced by {newer}")
        if message.acked > last.seq:  # this shard came back from a snapshot that is older than what it had acknowledged
            self.counts.lost += message.acked - last.seq
            last.seq = message.acked
        return Attached(self.config.number, last.seq)

    def push(self, worker: Worker, message: Push, payload: memoryview) -> PushAck:
        """Apply a push, or not; gives what the sender is told.

        Raises  ProtocolError if it does not fit; then nothing is changed
        """
        runs = self._runs(message.parts, payload)
        version = self.version(message.parts)
        staleness = max(0, version - message.based_on)
        last = self._last_of(worker)
        outcome, text = self._outcome(last, message, staleness)
        if outcome == "applied":
            if self.missing:
                where = f"shard {self.config.number}"
                raise ProtocolError(f"a push to {where}, where {self.missing} parts have no value yet")
            outcome, text = self._checked(worker, runs)
        if last is not None and outcome not in ("dup", "gap", "stale"):
            last.seq = message.seq
        self._count(outcome, staleness)
        if outcome == "applied":
            self._apply(runs)
            version += 1
        return PushAck(message.seq, last.seq if last else 0, version, staleness, outcome, text)

    def fetch(self, message: Fetch, into: memoryview) -> Params | None:
        """Fill `into`, of answer_nbytes; None while a part here has no value yet."""
        if self.missing:
            return None
        at = 0
        for name in message.fields:
            for number in message.parts:
                array = self._arrays[name][number]
                into[at : at + array.nbytes] = flat_bytes(array)
                at += array.nbytes
        self.counts.fetches += 1
        return Params(message.request, self.version(message.parts))

    def put(self, message: Put, payload: memoryview) -> PutAck:
        """Take first values. Raises ProtocolError, and changes nothing, if they do not fit or are not finite."""
        self._check_fields((message.field,))
        views = self._views(message.parts, payload)
        for number, view in zip(message.parts, views, strict=True):
            if self._nonfinite(view) is not None:
                raise ProtocolError(f"first values of {self.parts[number]} {message.field} with NaN or infinity")
        present, taken = self._present[message.field], 0
        for number, view in zip(message.parts, views, strict=True):
            if not present[number] and not self._versions[number]:
                self._arrays[message.field][number][...] = view
                present[number] = True
                taken += 1
        return PutAck(message.request, taken, self.missing)

    def version(self, parts: Sequence[int]) -> int:
        """How often these parts were updated; where machines push different parts together, the least."""
        return min(self._versions[number] for number in parts)

    # -- part by part: checkpoints that may be read by other shards ----

    def values(self, field: str, number: int, span: Span | None = None) -> tuple[Array, int]:
        """A copy of one field of a part, flat, or of a span of it, and how often the part was updated."""
        self._check_fields((field,))
        return self._spanned(field, number, span).copy(), self._versions[number]

    def _spanned(self, field: str, number: int, span: Span | None) -> Array:
        held = self._arrays[field][number]
        low, high = (0, held.size) if span is None else span
        if not 0 <= low <= high <= held.size:
            raise CheckpointError(f"{self.parts[number]} {field} has {held.size} elements; named were {low} to {high}")
        return held[low:high]

    def set_values(self, field: str, number: int, values: Array, version: int, span: Span | None = None) -> None:
        """Before training: go on from these values, of a part or of a span of it. Raises CheckpointError if they do not fit."""
        self._check_fields((field,))
        held = self._spanned(field, number, span)
        if values.dtype != held.dtype or values.size != held.size:
            found = f"{values.dtype}[{values.size}]"
            raise CheckpointError(
                f"{self.parts[number]} {field} has {held.size} elements of {held.dtype}; found {found}"
            )
        held[...] = values.reshape(-1)
        self._present[field][number] = True
        self._versions[number] = version

    # -- of one moment ----

    def snapshot(self) -> Snapshot:
        table = Table(
            layout=self.config.layout.digest,
            shard=self.config.number,
            versions=self._versions,
            present=self._present,
            last=self._last,
            counts=self.counts,
        )
        arrays = {name: tuple(array.copy() for array in self._arrays[name]) for name in self.fields}
        return Snapshot(msgspec.convert(msgspec.to_builtins(table), Table, str_keys=True), arrays)

    def restore(self, snapshot: Snapshot) -> None:
        """Become what the snapshot holds. Raises CheckpointError, and changes nothing, if it is of another shard."""
        table = snapshot.table
        if (table.layout, table.shard) != (self.config.layout.digest, self.config.number):
            raise CheckpointError(
                f"a snapshot of shard {table.shard}, layout {table.layout[:16]}, for shard {self.config.number}, "
                f"layout {self.config.layout.digest[:16]}"
            )
        shapes = {name: [(a.dtype, a.shape) for a in arrays] for name, arrays in snapshot.arrays.items()}
        mine = {name: [(a.dtype, a.shape) for a in arrays] for name, arrays in self._arrays.items()}
        lengths = {len(table.versions), *(len(flags) for flags in table.present.values()), len(self.parts)}
        if shapes != mine or set(table.present) != set(self.fields) or len(lengths) > 1:
            raise CheckpointError(f"a snapshot with other arrays than those of shard {self.config.number}")
        for name, arrays in snapshot.arrays.items():
            for array, held in zip(arrays, self._arrays[name], strict=True):
                held[...] = array
        table = msgspec.convert(msgspec.to_builtins(table), Table, str_keys=True)  # our own, not the snapshot's
        self._versions, self._present, self._last, self.counts = table.versions, table.present, table.last, table.counts

    # -- inside ----

    def _last_of(self, worker: Worker) -> Last | None:
        """The sender's row; None if a newer incarnation has been seen."""
        last = self._last.get(worker.name)
        if last is None or last.incarnation < worker.incarnation:
            last = self._last[worker.name] = Last(worker.incarnation, 0)
        return last if last.incarnation == worker.incarnation else None

    def _outcome(self, last: Last | None, message: Push, staleness: int) -> tuple[Outcome, str]:
        if last is None:
            return "stale", "a newer incarnation has taken this sender's place"
        if message.seq <= last.seq:
            return "dup", ""
        if message.seq > last.seq + 1:
            return "gap", f"push {last.seq + 1} is due"
        bound = self.config.max_staleness
        if bound is not None and staleness > bound:
            return "too_old", f"computed from parameters {staleness} versions old; the bound is {bound}"
        return "applied", ""

    def _checked(self, worker: Worker, runs: Sequence[_Run]) -> tuple[Outcome, str]:
        for run in runs:
            at = self._nonfinite(run.gradient)
            if at is not None:
                bad = next(number for number in run.numbers if at + run.span.start < self._places[number].stop)
                key = f"{worker.name} {self.parts[bad].name}"
                self.counts.nonfinite_of[key] = self.counts.nonfinite_of.get(key, 0) + 1
                text = f"the gradient of {self.parts[bad]} holds NaN or infinity"
                return ("nonfinite" if self.config.nonfinite == "reject" else "abort"), text
        return "applied", ""

    def _nonfinite(self, array: Array) -> int | None:
        """Where the first NaN or infinity is."""
        for low in range(0, array.size, _CHECKED):
            block = array[low : low + _CHECKED]
            finite = np.isfinite(block, out=self._finite[: block.size])
            if not finite.all():
                return low + int(finite.argmin())
        return None

    def _apply(self, runs: Sequence[_Run]) -> None:
        for run in runs:
            dtype, step = self.parts[run.numbers[0]].dtype, self._versions[run.numbers[0]]
            w, *slots = (self._whole[name][dtype][run.span] for name in self.fields)
            self._updaters[dtype].apply(w, run.gradient, dict(zip(self.fields[1:], slots, strict=True)), step)
            for number in run.numbers:
                self._versions[number] += 1

    def _count(self, outcome: Outcome, staleness: int) -> None:
        counts = self.counts
        name = "nonfinite" if outcome == "abort" else outcome
        setattr(counts, name, getattr(counts, name) + 1)
        if outcome == "applied":
            counts.staleness[staleness] = counts.staleness.get(staleness, 0) + 1

    def _views(self, parts: Sequence[int], payload: memoryview) -> list[Array]:
        """The payload as one flat array per part: the sizes are the parts' own, so that nothing ever broadcasts."""
        self._check_length(parts, payload)
        views, at = [], 0
        for number in parts:
            end = at + self._nbytes[number]
            views.append(np.frombuffer(payload[at:end], self._types[number]))
            at = end
        return views

    def _runs(self, parts: Sequence[int], payload: memoryview) -> list[_Run]:
        """The payload as one flat array per run of parts."""
        self._check_length(parts, payload)
        runs, at, begin = [], 0, 0
        for i in range(1, len(parts) + 1):
            if i < len(parts) and self._follows(parts[i - 1], parts[i]):
                continue
            numbers = parts[begin:i]
            span = slice(self._places[numbers[0]].start, self._places[numbers[-1]].stop)
            dtype = self._types[numbers[0]]
            end = at + (span.stop - span.start) * dtype.itemsize
            runs.append(_Run(numbers, span, np.frombuffer(payload[at:end], dtype)))
            at, begin = end, i
        return runs

    def _follows(self, number: int, other: int) -> bool:
        """Whether a part may be moved together with the one before."""
        alike = self.parts[number].dtype == self.parts[other].dtype and self._versions[number] == self._versions[other]
        return alike and other == number + 1

    def _check_length(self, parts: Sequence[int], payload: memoryview) -> None:
        nbytes = self.nbytes(parts)
        if len(payload) != nbytes:
            raise ProtocolError(f"the parts {_short(parts)} have {nbytes} bytes; the payload has {len(payload)}")


def _short(values: Sequence[Any]) -> str:
    text = ", ".join(map(str, values[:8]))
    return f"{text}, ..." if len(values) > 8 else text or "none"
