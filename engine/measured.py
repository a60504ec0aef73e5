"""What a run showed, put beside what its plan predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from rainshed.compiler.plan import Plan
from rainshed.runtime.trace import RECV, RUN, SEND, MachineTrace


@dataclass(frozen=True, slots=True)
class MachineMeasured:
    """What a run showed of one machine, per step; None where it was not measured."""

    compute_s: float | None = None
    bytes_in: float | None = None
    bytes_out: float | None = None
    memory_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run showed, per step, to stand beside what the plan predicted."""

    step_s: float | None = None
    bytes: float | None = None
    messages: float | None = None
    machines: Mapping[str, MachineMeasured] = field(default_factory=dict)

    def of(self, machine: str) -> MachineMeasured:
        return self.machines.get(machine, MachineMeasured())


def busy_of(plan: Plan, measured: Measured | None, machine: str) -> tuple[float | None, float | None]:
    """The share of a step in which a machine computes: predicted, and as a run showed it."""
    p, seen = plan.prediction.machines.get(machine), measured.of(machine) if measured else None
    predicted = p.compute_s / plan.prediction.step_s if p and plan.prediction.step_s > 0 else None
    if measured is None or seen is None or seen.compute_s is None or not measured.step_s:
        return predicted, None
    return predicted, seen.compute_s / measured.step_s


def ratio_of(a: float | None, b: float | None) -> float | None:
    """b over a, where that means something."""
    return b / a if a is not None and b is not None and a > 0 else None


def newest(traces: Sequence[MachineTrace], steps: int) -> list[MachineTrace]:
    """The same traces with only the last so many steps of each."""
    found = []
    for trace in traces:
        last = set(sorted({event.step for event in trace.events})[-steps:])
        events = [event for event in trace.events if event.step in last]
        found.append(msgspec.structs.replace(trace, events=events, dropped=0))
    return found


def measured_of(plan: Plan, traces: Sequence[MachineTrace]) -> Measured:
    """The means over the steps in the traces of the plan's machines, in order. A step lasts from its first event on any
    machine to its last; where steps overlap, their number divides the whole time."""
    steps = {event.step for trace in traces for event in trace.events}
    if not steps:
        return Measured()
    starts = [event.start_ns + trace.offset_ns for trace in traces for event in trace.events]
    ends = [event.end_ns + trace.offset_ns for trace in traces for event in trace.events]
    machines = {name: _machine(trace, len(steps)) for name, trace in zip(plan.machines, traces, strict=True)}
    return Measured(
        step_s=(max(ends) - min(starts)) / 1e9 / len(steps),
        bytes=sum(m.bytes_out or 0 for m in machines.values()),
        messages=sum(event.kind == SEND for trace in traces for event in trace.events) / len(steps),
        machines=machines,
    )


def _machine(trace: MachineTrace, steps: int) -> MachineMeasured:
    """Bytes in a step, and seconds of kernels in it: the mean of the threads that run them."""
    nbytes, run_ns = {SEND: 0, RECV: 0}, 0
    workers: set[int] = set()
    for event in trace.events:
        if event.kind == RUN:
            workers.add(event.thread)
            run_ns += event.end_ns - event.start_ns
        elif event.kind in nbytes:
            nbytes[event.kind] += trace.transfers[event.what][1]
    return MachineMeasured(
        compute_s=run_ns / 1e9 / steps / max(1, len(workers)),
        bytes_in=nbytes[RECV] / steps,
        bytes_out=nbytes[SEND] / steps,
    )


def counted(plan: Plan, step_s: float, steps: int, between: Mapping[tuple[str, str], int]) -> Measured:
    """The means of so many steps without traces. `between`: (from, to) -> bytes of all of them."""
    count = max(1, steps)
    machines = {
        name: MachineMeasured(
            bytes_in=sum(n for (_, to), n in between.items() if to == name) / count,
            bytes_out=sum(n for (source, _), n in between.items() if source == name) / count,
        )
        for name in plan.machines
    }
    return Measured(step_s=step_s, bytes=sum(between.values()) / count, machines=machines)


def beside(plan: Plan, measured: Measured) -> dict[str, Any]:
    """Predicted and measured figures of a step, as JSON takes them, and the second over the first. `busy` is the share of a
    step in which a machine computes."""
    p = plan.prediction
    machines = {}
    for name, m in p.machines.items():
        seen = measured.of(name)
        machines[name] = {
            "compute_s": _pair(m.compute_s, seen.compute_s),
            "busy": _pair(*busy_of(plan, measured, name)),
            "bytes_in": _pair(m.bytes_in, seen.bytes_in),
            "bytes_out": _pair(m.bytes_out, seen.bytes_out),
        }
    return {
        "step_s": _pair(p.step_s, measured.step_s),
        "bytes": _pair(p.bytes, measured.bytes),
        "messages": _pair(p.messages, measured.messages),
        "machines": machines,
    }


def _pair(predicted: float | None, measured: float | None) -> dict[str, float | None]:
    return {"predicted": predicted, "measured": measured, "ratio": ratio_of(predicted, measured)}
