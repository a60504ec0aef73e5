"""The kernels of one plan, measured where they will run before any step: a prediction that owes nothing to rates of other sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from msgspec import structs

from rainshed.compiler.machines import Cluster, Machine
from rainshed.compiler.plan import (
    FED,
    VERSION,
    Feed,
    Free,
    Instruction,
    Output,
    Plan,
    Prediction,
    Program,
    Recv,
    Run,
    Send,
    Value,
    Variable,
)
from rainshed.compiler.simulate import simulate
from rainshed.ops.access import whole
from rainshed.runtime.cluster.agent import raw_json
from rainshed.runtime.cluster.coordinator import AgentHandle
from rainshed.runtime.cluster.job import Job
from rainshed.runtime.cluster.orders import MeasureKernels, Nothing
from rainshed.runtime.measure import Host, Kernels

SECONDS: Final = 0.6  # of measuring
Part = TypeVar("Part", Feed, Variable, Output)


def measured_plan(job: Job, plan: Plan, agents: Sequence[AgentHandle], seconds: float = SECONDS) -> Plan:
    """The plan with the times that its kernels take on the agents that will run it, and a step that is simulated with them.

    All work at once, as in a step: so the times hold what machines take from each other's caches and memory, and machines that
    share a host have their full share of its cores.
    """
    limit_s = seconds + job.timeouts.start_s
    answers = [
        job.coordinator.order(
            agent, "measure kernels", MeasureKernels(raw_json(alone(plan, program)), seconds), timeout_s=limit_s
        )
        for agent, program in zip(agents, plan.programs, strict=True)
    ]
    kernels = [answer.get(Kernels)[0] for answer in answers]
    cluster = _with_full_shares(plan, job.coordinator.ask(agents, "tell host", Nothing(), Host))
    programs = tuple(
        _timed(program, own, cluster.machine(program.machine))
        for program, own in zip(plan.programs, kernels, strict=True)
    )
    prediction = simulate(programs, plan.transfers, cluster)
    return structs.replace(plan, programs=programs, cluster=cluster.to_data(), prediction=prediction)


def _with_full_shares(plan: Plan, hosts: Sequence[Host]) -> Cluster:
    """The plan's cluster; machines that share a host have equal parts of all its cores."""
    cluster = Cluster.from_data(plan.cluster)
    sharing = Counter(host.identity for host in hosts)
    cores = {
        program.machine: host.cores / sharing[host.identity]
        for program, host in zip(plan.programs, hosts, strict=True)
        if sharing[host.identity] > 1
    }
    machines = tuple(replace(m, cores=cores.get(m.name, m.cores)) for m in cluster.machines)
    return replace(cluster, machines=machines)


def alone(plan: Plan, program: Program) -> Plan:
    """A plan of one machine that computes what the program does, and is fed what it would receive. Parts are wholes there."""
    values, feeds = list(program.values), list(program.feeds)
    for i in program.instructions:
        if isinstance(i, Recv):
            value = values[i.value] = structs.replace(values[i.value], place=FED, offset=-1)
            feeds.append(Feed("received", i.value, whole(value.shape), value.shape))
    own = structs.replace(
        program,
        values=tuple(values),
        instructions=tuple(_own(program)),
        feeds=tuple(_wholes(feeds, values)),
        variables=tuple(_wholes(program.variables, values)),
        outputs=tuple(_wholes(program.outputs, values)),
    )
    machine = next(row for row in plan.cluster["machine"] if row["name"] == program.machine)
    none = Prediction(step_s=0.0, bytes=0, messages=0, lower_bound_s=0.0, machines={})
    return Plan(version=VERSION, programs=(own,), transfers=(), cluster={"machine": [machine]}, prediction=none)


def _wholes(parts: Iterable[Part], values: Sequence[Value]) -> Iterable[Part]:
    for n, part in enumerate(parts):
        shape = values[part.value].shape
        yield structs.replace(part, name=f"{part.name} {n}", box=whole(shape), whole=shape)


def _own(program: Program) -> list[Instruction]:
    """The instructions without messages, and without freeing what was received."""
    received = {i.value for i in program.instructions if isinstance(i, Recv)}
    return [
        i
        for i in program.instructions
        if not isinstance(i, Send | Recv) and not (isinstance(i, Free) and i.value in received)
    ]


def _timed(program: Program, kernels: Kernels, machine: Machine) -> Program:
    """The program with its kernels' measured seconds, and what the runtime adds to each."""
    times = iter(kernels.seconds[n] for n, i in enumerate(_own(program)) if isinstance(i, Run))
    instructions = []
    for i in program.instructions:
        if isinstance(i, Run) and (core_s := next(times)):
            i = structs.replace(i, seconds=_of_machine(core_s + kernels.dispatch_s, machine))
        instructions.append(i)
    return structs.replace(program, instructions=tuple(instructions))


def _of_machine(core_s: float, machine: Machine) -> float:
    """Seconds of a whole machine, as plans tell them, for those of one core: but for the call, its cores share the work."""
    if machine.cores < 1:
        return core_s / machine.cores
    call_s = min(core_s, machine.overhead_s)
    return call_s + (core_s - call_s) / machine.cores
