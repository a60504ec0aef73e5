"""What a run showed, put beside what its plan predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rainshed.compiler.plan import Plan
from rainshed.engine.view import MachineMeasured, Measured
from rainshed.runtime.trace import RUN, MachineTrace

Between = Mapping[tuple[str, str], int]


def measured_of(
    plan: Plan, step_s: float, steps: int, between: Between, traces: Sequence[MachineTrace] = ()
) -> Measured:
    """The means of `steps` steps.

    between  (from, to) -> bytes in all steps
    traces   of the plan's machines in order, if they were recorded: they tell how long each computed
    """
    count = max(1, steps)
    compute = dict(zip(plan.machines, (_compute_s(trace) for trace in traces), strict=False))
    machines = {
        name: MachineMeasured(
            compute_s=compute.get(name),
            bytes_in=sum(n for (_, to), n in between.items() if to == name) / count,
            bytes_out=sum(n for (source, _), n in between.items() if source == name) / count,
        )
        for name in plan.machines
    }
    return Measured(step_s=step_s, bytes=sum(between.values()) / count, machines=machines)


def _compute_s(trace: MachineTrace) -> float | None:
    """Mean seconds of kernels in a step; of the steps that are wholly in the trace."""
    spent: dict[int, int] = {}
    for event in trace.events:
        if event.kind == RUN:
            spent[event.step] = spent.get(event.step, 0) + event.end_ns - event.start_ns
    if trace.dropped and len(spent) > 1:
        del spent[min(spent)]
    return sum(spent.values()) / len(spent) / 1e9 if spent else None


def beside(plan: Plan, measured: Measured) -> dict[str, Any]:
    """Predicted and measured figures of a step, as JSON takes them."""
    p = plan.prediction
    machines = {}
    for name, m in p.machines.items():
        seen = measured.of(name)
        machines[name] = {
            "compute_s": _pair(m.compute_s, seen.compute_s),
            "bytes_in": _pair(m.bytes_in, seen.bytes_in),
            "bytes_out": _pair(m.bytes_out, seen.bytes_out),
        }
    return {"step_s": _pair(p.step_s, measured.step_s), "bytes": _pair(p.bytes, measured.bytes), "machines": machines}


def _pair(predicted: float, measured: float | None) -> dict[str, float | None]:
    return {"predicted": predicted, "measured": measured}
