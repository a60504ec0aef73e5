"""What happened when, on every machine and thread, on one clock: recorded cheaply, written as Chrome trace JSON.

Open the file in https://ui.perfetto.dev or chrome://tracing. One process per machine, one row per thread, arrows from
each send to its receive, and a counter of the bytes that are under way.

Source  "Trace Event Format", the document of the Catapult project: phases X (a span), s and f (an arrow), C, M
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from rainshed.ops.errors import RainshedError, UsageError
from rainshed.runtime.whole_file import whole_file

RUN, SEND, RECV, WAIT = "run", "send", "recv", "wait"
CAPACITY = 200_000  # events per machine; the oldest go first

clock_ns = time.perf_counter_ns


class Event(NamedTuple):
    """One span of one thread. Kept as a plain tuple while it is recorded."""

    kind: str  # RUN, SEND, RECV or WAIT
    what: int  # RUN: the instruction; SEND and RECV: the key of the transfer
    thread: int
    start_ns: int
    end_ns: int
    step: int


class Recorder:
    """The events of one machine: a ring of fixed size. Threads may add at once."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        if capacity < 1:
            raise UsageError(f"a trace holds at least one event; found {capacity}")
        self._ring: list[tuple[str, int, int, int, int, int] | None] = [None] * capacity
        self._next = itertools.count()  # its __next__ is one bytecode: no lock
        self._capacity = capacity
        self.added = 0

    def add(self, kind: str, what: int, start_ns: int, end_ns: int, step: int) -> None:
        i = next(self._next)
        self._ring[i % self._capacity] = (kind, what, threading.get_ident(), start_ns, end_ns, step)
        self.added = i + 1

    @property
    def dropped(self) -> int:
        return max(0, self.added - self._capacity)

    def events(self) -> list[Event]:
        """What is in the ring, by start."""
        return sorted((Event(*e) for e in self._ring if e is not None), key=lambda e: e.start_ns)


class MachineTrace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The events of one process, with all that is needed to draw them elsewhere."""

    name: str  # "replica0/m1", "server1"
    labels: Mapping[int, tuple[str, Mapping[str, str | int]]]  # RUN events: what -> name and arguments
    transfers: Mapping[int, tuple[str, int, str]]  # key -> value's name, bytes, reason
    threads: Mapping[int, str]
    events: Sequence[Event]
    dropped: int = 0
    offset_ns: int = 0  # added to its clock, gives the clock of whoever writes the file
    group: str = ""  # transfers meet within a group: a replica

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> MachineTrace:
        """Raises UsageError if `data` is no trace."""
        try:
            return _TRACE.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise UsageError(f"this is not a trace: {error}") from None


# Made here: two threads that teach msgspec a type at once end the process (see compiler/load.py).
_TRACE: Final = msgspec.msgpack.Decoder(MachineTrace)


# -- one clock --------------------------------------------------------------------------------------------------------


class ClockSample(NamedTuple):
    """One exchange: asked and heard on the own clock, answered on the other's."""

    asked_ns: int
    other_ns: int
    heard_ns: int


def clock_offset_ns(samples: Iterable[ClockSample]) -> tuple[int, int]:
    """What to add to the other's clock to get the own one, and by how much that may be wrong.

    The sample with the shortest way tells most: the answer was given somewhere within it.

    Raises  UsageError without a sample
    Source  Cristian, "Probabilistic clock synchronization", 1989
    """
    best = min(samples, key=lambda s: s.heard_ns - s.asked_ns, default=None)
    if best is None:
        raise UsageError("a clock cannot be compared without an exchange")
    return (best.asked_ns + best.heard_ns) // 2 - best.other_ns, (best.heard_ns - best.asked_ns + 1) // 2


# -- the file ---------------------------------------------------------------------------------------------------------


def write_trace(path: str | Path, traces: Sequence[MachineTrace]) -> int:
    """Write the file, event by event, and return their number. The file appears whole or not at all.

    Raises  RainshedError if it cannot be written
    """
    encode = msgspec.json.Encoder().encode
    count = 0
    try:
        with whole_file(path) as file:
            file.write(b'{"displayTimeUnit":"ms","traceEvents":[\n')
            for event in chrome_events(traces):
                file.write((b",\n" if count else b"") + encode(event))
                count += 1
            file.write(b"\n]}\n")
    except OSError as error:
        raise RainshedError(f"cannot write the trace {path}: {error.strerror}") from None
    return count


def chrome_events(traces: Sequence[MachineTrace]) -> Iterator[dict[str, Any]]:
    """The events of all machines in Chrome's form; times in microseconds since the first of them."""
    origin = min((e.start_ns + t.offset_ns for t in traces for e in t.events), default=0)
    for pid, trace in enumerate(traces, 1):
        yield from _names(pid, trace)
    numbers = _arrow_numbers(traces)
    for pid, trace in enumerate(traces, 1):
        rows = _rows(trace)
        for event in trace.events:
            start = (event.start_ns + trace.offset_ns - origin) / 1e3
            span = {
                "ph": "X",
                "pid": pid,
                "tid": rows[event.thread],
                "ts": start,
                "dur": max(0, event.end_ns - event.start_ns) / 1e3,
                "cat": event.kind,
                **_label(trace, event),
            }
            yield span
            number = numbers.get((trace.group, event.step, event.what)) if event.kind in (SEND, RECV) else None
            if number is not None:
                yield _arrow(span, number, start_of_it=event.kind == SEND)
    yield from _under_way(traces, origin)


def _names(pid: int, trace: MachineTrace) -> Iterator[dict[str, Any]]:
    lost = f" ({trace.dropped} earlier events dropped)" if trace.dropped else ""
    yield {"ph": "M", "pid": pid, "tid": 0, "name": "process_name", "args": {"name": trace.name + lost}}
    yield {"ph": "M", "pid": pid, "tid": 0, "name": "process_sort_index", "args": {"sort_index": pid}}
    for thread, row in _rows(trace).items():
        name = trace.threads.get(thread, f"thread {row}")
        yield {"ph": "M", "pid": pid, "tid": row, "name": "thread_name", "args": {"name": name}}


def _rows(trace: MachineTrace) -> dict[int, int]:
    """A small number for each thread, the same on every run."""
    return {thread: row for row, thread in enumerate(dict.fromkeys(e.thread for e in trace.events), 1)}


def _label(trace: MachineTrace, event: Event) -> dict[str, Any]:
    step = {"step": event.step}
    if event.kind == RUN:
        name, arguments = trace.labels.get(event.what, (f"instruction {event.what}", {}))
        return {"name": name, "args": {**arguments, **step}}
    if event.kind == WAIT:
        return {"name": "wait", "args": step}
    of, nbytes, reason = trace.transfers.get(event.what, ("", 0, ""))
    name = f"{event.kind} {of}".strip()
    return {"name": name, "args": {"key": event.what, "nbytes": nbytes, "reason": reason, **step}}


def _arrow_numbers(traces: Sequence[MachineTrace]) -> dict[tuple[str, int, int], int]:
    """A number for each transfer that has both ends in the traces."""
    ends: dict[tuple[str, int, int], set[str]] = {}
    for trace in traces:
        for event in trace.events:
            if event.kind in (SEND, RECV):
                ends.setdefault((trace.group, event.step, event.what), set()).add(event.kind)
    return {key: i for i, (key, kinds) in enumerate(ends.items(), 1) if len(kinds) == 2}


def _arrow(span: Mapping[str, Any], number: int, *, start_of_it: bool) -> dict[str, Any]:
    """An arrow's end binds to the span around its time: the start of a send, the end of a receive."""
    where = {"pid": span["pid"], "tid": span["tid"], "cat": "transfer", "name": "transfer", "id": number}
    if start_of_it:
        return {"ph": "s", "ts": span["ts"], **where}
    return {"ph": "f", "bp": "e", "ts": span["ts"] + span["dur"], **where}


def _under_way(traces: Sequence[MachineTrace], origin: int) -> Iterator[dict[str, Any]]:
    """Bytes sent and not yet received, for each sender."""
    numbers = _arrow_numbers(traces)
    sender: dict[tuple[str, int, int], int] = {}
    changes: list[tuple[int, int, tuple[str, int, int]]] = []
    for pid, trace in enumerate(traces, 1):
        for event in trace.events:
            key = (trace.group, event.step, event.what)
            if event.kind not in (SEND, RECV) or key not in numbers:
                continue
            nbytes = trace.transfers.get(event.what, ("", 0, ""))[1]
            if event.kind == SEND:
                sender[key] = pid
                changes.append((event.start_ns + trace.offset_ns, nbytes, key))
            else:
                changes.append((event.end_ns + trace.offset_ns, -nbytes, key))
    total = dict.fromkeys(range(1, len(traces) + 1), 0)
    for at_ns, delta, key in sorted(changes):
        pid = sender[key]
        total[pid] += delta
        yield {"ph": "C", "pid": pid, "tid": 0, "name": "bytes under way", "ts": (at_ns - origin) / 1e3,
               "args": {"bytes": max(0, total[pid])}}  # fmt: skip
