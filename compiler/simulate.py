"""simulate: what one step of a plan takes, before it runs: an event list over machines and their network interfaces.

Model   a machine runs its instructions in list order; a kernel takes its predicted seconds. A message waits for its value, for the
        sender's interface and for the receiver's; it then takes nbytes / bandwidth, and arrives a latency later. Sending and
        receiving do not slow down computing.
"""

from __future__ import annotations

from rainshed.compiler.machines import Cluster
from rainshed.compiler.plan import FED, KEPT, MachinePrediction, Prediction, Program, Recv, Run, Send, Transfer
from rainshed.compiler.units import HOST
from rainshed.ops.errors import PlanError


def simulate(programs: tuple[Program, ...], transfers: tuple[Transfer, ...], cluster: Cluster) -> Prediction:
    """Predicted seconds, bytes and memory of one step, for the whole and per machine."""
    by_key = {t.key: t for t in transfers}
    finish = _run(programs, by_key, cluster)
    compute = {p.machine: sum((i.seconds for i in p.instructions if isinstance(i, Run)), 0.0) for p in programs}
    into = dict.fromkeys(compute, 0)
    out = dict.fromkeys(compute, 0)
    for t in transfers:
        out[t.source] += t.nbytes
        into[t.to] += t.nbytes
    machines = {
        p.machine: MachinePrediction(
            compute_s=compute[p.machine], bytes_in=into[p.machine], bytes_out=out[p.machine], memory_bytes=memory_of(p)
        )
        for p in programs
    }
    rate = {m.name: min(cluster.link(m.name, o.name).bytes_per_s for o in cluster.machines) for m in cluster.machines}
    busiest = max((max(into[m], out[m]) / rate[m] for m in compute), default=0.0)
    total_flops = sum(i.flops for p in programs for i in p.instructions if isinstance(i, Run))
    even = total_flops / sum(m.flops + sum(u.flops for u in m.units) for m in cluster.machines)
    return Prediction(
        step_s=finish,
        bytes=sum(t.nbytes for t in transfers),
        messages=len(transfers),
        lower_bound_s=max(even, busiest),
        machines=machines,
    )


def memory_of(program: Program) -> int:
    """Bytes that a machine's host needs: what it keeps, its arena, and what it is fed."""
    fed = sum(v.nbytes for v in program.values if v.place == FED)
    return program.kept_nbytes + program.arena_nbytes + fed


def unit_memory_of(program: Program) -> dict[str, int]:
    """Bytes that each unit of a machine needs: what it keeps, and its arena."""
    needed = dict(program.unit_arenas)
    for v in program.values:
        if v.place == KEPT and v.unit != HOST:
            needed[v.unit] = needed.get(v.unit, 0) + v.nbytes
    return needed


def _run(programs: tuple[Program, ...], transfers: dict[int, Transfer], cluster: Cluster) -> float:
    """The time at which the last machine is done."""
    at = {p.machine: 0 for p in programs}  # next instruction
    clock = {p.machine: 0.0 for p in programs}
    out_free = {p.machine: 0.0 for p in programs}
    in_free = {p.machine: 0.0 for p in programs}
    ready: dict[tuple[str, int], float] = {}  # (machine, value) -> when it is there
    arrived: dict[int, float] = {}
    lists = {p.machine: p.instructions for p in programs}
    progress = True
    while progress:
        progress = False
        for machine, instructions in lists.items():
            while at[machine] < len(instructions):
                instruction = instructions[at[machine]]
                if isinstance(instruction, Recv):
                    if instruction.key not in arrived:
                        break
                    ready[machine, instruction.value] = arrived[instruction.key]
                elif isinstance(instruction, Run):
                    start = max([clock[machine], *(ready.get((machine, v), 0.0) for v in instruction.inputs)])
                    clock[machine] = start + instruction.seconds
                    for v in instruction.outputs:
                        ready[machine, v] = clock[machine]
                elif isinstance(instruction, Send):
                    transfer = transfers[instruction.key]
                    link = cluster.link(machine, instruction.to)
                    start = max(ready.get((machine, instruction.value), 0.0), out_free[machine], in_free[instruction.to])
                    end = start + transfer.nbytes / link.bytes_per_s
                    out_free[machine] = in_free[instruction.to] = end
                    arrived[instruction.key] = end + link.latency_s
                at[machine] += 1
                progress = True
    stuck = [m for m, i in at.items() if i < len(lists[m])]
    if stuck:
        raise PlanError(f"the plan never ends: {', '.join(stuck)} wait for each other")
    return max([*clock.values(), *arrived.values()], default=0.0)


