"""The prediction as a trace: a step as the simulator sees it, drawn beside what a run showed."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Final

from rainshed.compiler.plan import Plan, Program, Recv, Run, Send, cluster_of
from rainshed.compiler.timing import Span, step_spans
from rainshed.runtime.trace import RECV, RUN, SEND, Event, MachineTrace

GROUP: Final = "predicted"
_SENDS, _RECEIVES = -1, -2  # rows below those of the workers


def with_predicted(plan: Plan, traces: Sequence[MachineTrace]) -> list[MachineTrace]:
    """The traces, the plan's machines first (of the first replica), and after each of them its step as it was predicted.

    It begins where the last step in the traces begins, so that both stand one below the other.
    """
    first, others = traces[: len(plan.machines)], traces[len(plan.machines) :]
    events = [(event.step, event.start_ns + trace.offset_ns) for trace in first for event in trace.events]
    if not events:
        return list(traces)
    last = max(step for step, _ in events)
    start_ns = min(at for step, at in events if step == last)
    spans: dict[str, list[Span]] = {name: [] for name in plan.machines}
    for span in step_spans(plan.programs, cluster_of(plan)):
        spans[span.machine].append(span)
    found = []
    for program, trace in zip(plan.programs, first, strict=True):
        found += [trace, _predicted(program, trace, spans[program.machine], start_ns, last)]
    return found + list(others)


def _predicted(program: Program, trace: MachineTrace, spans: Iterable[Span], start_ns: int, step: int) -> MachineTrace:
    events, threads = [], {_SENDS: "sends", _RECEIVES: "receives"}
    for span, row in _rows(program, sorted(spans, key=lambda s: (s.start_s, s.end_s))):
        instruction = program.instructions[span.instruction]
        times = start_ns + round(span.start_s * 1e9), start_ns + round(span.end_s * 1e9)
        if isinstance(instruction, Run):
            threads[row] = f"worker {row}"
            events.append(Event(RUN, span.instruction, row, *times, step))
        elif isinstance(instruction, Send):
            events.append(Event(SEND, instruction.key, _SENDS, *times, step))
        elif isinstance(instruction, Recv):
            events.append(Event(RECV, instruction.key, _RECEIVES, *times, step))
    return MachineTrace(
        name=f"{trace.name} {GROUP}",
        labels=trace.labels,
        transfers=trace.transfers,
        threads=threads,
        events=events,
        group=GROUP,
    )


def _rows(program: Program, spans: Iterable[Span]) -> Iterable[tuple[Span, int]]:
    """Each kernel with a row of its own while it runs: the lowest that is free."""
    running: list[tuple[float, int]] = []
    free: list[int] = []
    for span in spans:
        if not isinstance(program.instructions[span.instruction], Run):
            yield span, 0
            continue
        while running and running[0][0] <= span.start_s:
            heapq.heappush(free, heapq.heappop(running)[1])
        row = heapq.heappop(free) if free else len(running)
        heapq.heappush(running, (span.end_s, row))
        yield span, row
