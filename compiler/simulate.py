"""simulate: what one step of a plan takes, before it runs: seconds (compiler/timing.py), bytes, messages and memory."""

from __future__ import annotations

import math

from rainshed.compiler.machines import Cluster
from rainshed.compiler.plan import (
    ARENA,
    FED,
    KEPT,
    Free,
    MachinePrediction,
    Prediction,
    Program,
    Recv,
    Run,
    Send,
    Transfer,
)
from rainshed.compiler.timing import step_seconds
from rainshed.compiler.units import HOST
from rainshed.ops.errors import PlanError


def simulate(
    programs: tuple[Program, ...], transfers: tuple[Transfer, ...], cluster: Cluster, step_s: float | None = None
) -> Prediction:
    """Predicted seconds, bytes and memory of one step, for the whole and per machine. `step_s`: what `step_seconds` gave, if known.

    Raises  PlanError if machines wait for each other for ever
    """
    runs = {p.machine: [i for i in p.instructions if isinstance(i, Run)] for p in programs}
    compute = {machine: sum([i.seconds for i in own], 0.0) for machine, own in runs.items()}
    into = dict.fromkeys(compute, 0)
    out = dict.fromkeys(compute, 0)
    for t in transfers:
        out[t.source] += t.nbytes
        into[t.to] += t.nbytes
    machines = {
        p.machine: MachinePrediction(
            compute_s=compute[p.machine],
            bytes_in=into[p.machine],
            bytes_out=out[p.machine],
            memory_bytes=memory_of(p),
            memory_lower_bound_bytes=memory_bound_of(p),
        )
        for p in programs
    }
    rate = {m: min((cluster.link(m, o).bytes_per_s for o in compute if o != m), default=math.inf) for m in compute}
    busiest = max((max(into[m], out[m]) / rate[m] for m in compute), default=0.0)
    total_flops = sum(i.flops for own in runs.values() for i in own)
    even = total_flops / sum(m.flops + sum(u.flops for u in m.units) for m in cluster.machines)
    return Prediction(
        step_s=step_seconds(programs, cluster) if step_s is None else step_s,
        bytes=sum(t.nbytes for t in transfers),
        messages=len(transfers),
        lower_bound_s=max(even, busiest),
        machines=machines,
    )


def memory_of(program: Program) -> int:
    """Bytes that a machine's host needs: what it keeps, its arena, and what it is fed."""
    fed = sum(v.nbytes for v in program.values if v.place == FED)
    return program.kept_nbytes + program.arena_nbytes + fed


def memory_bound_of(program: Program) -> int:
    """Bytes that a machine's host needs in this order of instructions, however well its arena is packed: what it keeps, what it is
    fed, and the most of all other values that is alive at once."""
    size = [v.nbytes if v.place == ARENA and v.unit == HOST else 0 for v in program.values]
    alive = most = 0
    for instruction in program.instructions:
        if isinstance(instruction, Run):
            alive += sum([size[v] for v in instruction.outputs])
        elif isinstance(instruction, Recv):
            alive += size[instruction.value]
        elif isinstance(instruction, Free):
            most = max(most, alive)
            alive -= size[instruction.value]
    return memory_of(program) - program.arena_nbytes + max(most, alive)


def unit_memory_of(program: Program) -> dict[str, int]:
    """Bytes that each unit of a machine needs: what it keeps, and its arena."""
    needed = dict(program.unit_arenas)
    for v in program.values:
        if v.place == KEPT and v.unit != HOST:
            needed[v.unit] = needed.get(v.unit, 0) + v.nbytes
    return needed


def check_order(programs: tuple[Program, ...]) -> None:
    """Raises PlanError unless every machine can run its list from top to bottom."""
    rest = {p.machine: iter(p.instructions) for p in programs}
    sent: set[int] = set()
    waiting: dict[int, list[str]] = {}  # transfer -> the machines that cannot go on without it
    able = list(rest)
    while able:
        machine = able.pop()
        for instruction in rest[machine]:
            if isinstance(instruction, Send):
                sent.add(instruction.key)
                able += waiting.pop(instruction.key, [])
            elif isinstance(instruction, Recv) and instruction.key not in sent:
                waiting.setdefault(instruction.key, []).append(machine)
                break
    held = {machine for machines in waiting.values() for machine in machines}
    stuck = [p.machine for p in programs if p.machine in held]
    if stuck:
        raise PlanError(f"the plan never ends: {', '.join(stuck)} wait for each other")
