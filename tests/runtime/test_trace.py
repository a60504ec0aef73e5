"""Traces: recorded in a ring, put on one clock, written as Chrome trace JSON."""

import json
import threading

import pytest

from rainshed.ops.errors import RainshedError, UsageError
from rainshed.runtime.trace import (
    RECV,
    RUN,
    SEND,
    WAIT,
    ClockSample,
    Event,
    MachineTrace,
    Recorder,
    chrome_events,
    clock_offset_ns,
    write_trace,
)

# What each phase of the format must hold, and of which type.
NUMBER = (int, float)
SCHEMA = {
    "X": {"name": str, "cat": str, "pid": int, "tid": int, "ts": NUMBER, "dur": NUMBER, "args": dict},
    "M": {"name": str, "pid": int, "tid": int, "args": dict},
    "s": {"name": str, "cat": str, "pid": int, "tid": int, "ts": NUMBER, "id": int},
    "f": {"name": str, "cat": str, "pid": int, "tid": int, "ts": NUMBER, "id": int, "bp": str},
    "C": {"name": str, "pid": int, "tid": int, "ts": NUMBER, "args": dict},
}


def check_schema(events):
    for e in events:
        fields = SCHEMA[e["ph"]]
        assert e.keys() - {"ph"} == fields.keys(), e
        assert all(isinstance(e[k], kind) and not isinstance(e[k], bool) for k, kind in fields.items()), e
        assert e.get("ts", 0) >= 0 and e.get("dur", 0) >= 0, e


def machine(name, events, **more):
    labels = {0: ("matmul", {"layer": "hidden1", "flops": 12})}
    return MachineTrace(
        name=name, labels=labels, transfers={7: ("h1", 2560, "halo")}, threads={1: "main"}, events=events, **more
    )


def two_machines(offset_ns=0):
    """m0 sends transfer 7 in 2000..3000; m1, whose clock is `offset_ns` behind, has it at 5000."""
    a = machine("m0", [Event(RUN, 0, 1, 1000, 2000, 3), Event(SEND, 7, 1, 2000, 3000, 3)])
    late = [
        Event(RECV, 7, 9, 4000 - offset_ns, 5000 - offset_ns, 3),
        Event(WAIT, 0, 1, 1000 - offset_ns, 5000 - offset_ns, 3),
    ]
    return [a, machine("m1", late, offset_ns=offset_ns)]


@pytest.mark.parametrize("offset_ns", [0, 10**12, -(10**12)])
def test_two_machines_on_one_clock_with_an_arrow_between(offset_ns):
    events = list(chrome_events(two_machines(offset_ns)))
    check_schema(events)
    spans = {(e["pid"], e["name"]): (e["ts"], e["dur"]) for e in events if e["ph"] == "X"}
    assert spans == {
        (1, "matmul"): (0.0, 1.0),
        (1, "send h1"): (1.0, 1.0),
        (2, "recv h1"): (3.0, 1.0),
        (2, "wait"): (0.0, 4.0),
    }
    (start,) = (e for e in events if e["ph"] == "s")
    (end,) = (e for e in events if e["ph"] == "f")
    assert start["id"] == end["id"] and (start["pid"], start["ts"]) == (1, 1.0) and (end["pid"], end["ts"]) == (2, 4.0)
    assert end["bp"] == "e"
    counters = [(e["pid"], e["ts"], e["args"]["bytes"]) for e in events if e["ph"] == "C"]
    assert counters == [(1, 1.0, 2560), (1, 4.0, 0)]


def test_spans_say_what_they_are():
    events = {e["name"]: e for e in chrome_events(two_machines()) if e["ph"] == "X"}
    assert events["matmul"]["args"] == {"layer": "hidden1", "flops": 12, "step": 3}
    assert events["send h1"]["args"] == {"key": 7, "nbytes": 2560, "reason": "halo", "step": 3}


def test_arrows_join_within_a_step_and_a_replica_only():
    send, recv = Event(SEND, 7, 1, 10, 20, 0), Event(RECV, 7, 1, 30, 40, 0)
    traces = [machine("r0/m0", [send], group="r0"), machine("r1/m1", [recv], group="r1"), machine("m2", [recv])]
    traces.append(machine("r0/m1", [recv._replace(step=1)], group="r0"))
    events = list(chrome_events(traces))
    check_schema(events)
    assert not [e for e in events if e["ph"] in "sfC"]


def test_rows_have_names_and_dropped_events_are_told():
    events = list(chrome_events([machine("m0", [Event(RUN, 5, 99, 0, 1, 0), Event(RUN, 0, 1, 0, 1, 0)], dropped=4)]))
    names = [(e["name"], e["tid"], next(iter(e["args"].values()))) for e in events if e["ph"] == "M"]
    assert names == [
        ("process_name", 0, "m0 (4 earlier events dropped)"),
        ("process_sort_index", 0, 1),
        ("thread_name", 1, "thread 1"),
        ("thread_name", 2, "main"),
    ]
    assert [e["name"] for e in events if e["ph"] == "X"] == ["instruction 5", "matmul"]


def test_the_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "trace.json"
    count = write_trace(path, two_machines())
    written = json.loads(path.read_text())
    assert len(written["traceEvents"]) == count == len(list(chrome_events(two_machines())))
    check_schema(written["traceEvents"])
    assert [p.name for p in tmp_path.iterdir()] == ["trace.json"]
    assert write_trace(path, []) == 0 and json.loads(path.read_text())["traceEvents"] == []
    with pytest.raises(RainshedError, match="cannot write the trace"):
        write_trace(tmp_path / "no" / "trace.json", [])


def test_the_ring_keeps_the_latest():
    r = Recorder(4)
    for i in range(10):
        r.add(RUN, i, 100 - i, 200, 0)
    assert [e.what for e in r.events()] == [9, 8, 7, 6]  # by start
    assert r.dropped == 6
    with pytest.raises(UsageError):
        Recorder(0)


def test_threads_record_at_once():
    r = Recorder(10_000)
    barrier = threading.Barrier(8)

    def record(n):
        barrier.wait(10)
        for i in range(1000):
            r.add(RUN, n * 1000 + i, i, i, n)

    threads = [threading.Thread(target=record, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(10)
    assert sorted(e.what for e in r.events()) == list(range(8000)) and r.dropped == 0


def test_a_trace_travels():
    (_, trace) = two_machines(5)
    assert MachineTrace.from_bytes(trace.to_bytes()) == trace
    for data in (b"", b"\x81", trace.to_bytes()[:-1], b"\x93" * 5000):
        with pytest.raises(UsageError, match="this is not a trace"):
            MachineTrace.from_bytes(data)


@pytest.mark.parametrize("ahead_ns", [0, 123_456_789, -5_000])
def test_the_exchange_with_the_shortest_way_tells_the_clock(ahead_ns):
    samples = [
        ClockSample(0, 900 + ahead_ns, 1000),
        ClockSample(2000, 2005 + ahead_ns, 2010),
        ClockSample(0, ahead_ns, 10**6),
    ]
    offset, error = clock_offset_ns(samples)
    assert offset == -ahead_ns and error == 5
    with pytest.raises(UsageError):
        clock_offset_ns([])
