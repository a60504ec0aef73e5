<<<<<<< HEAD
"""simulate: what one step of a plan takes, before it runs: seconds (compiler/timing.py), bytes, messages and memory."""
=======
"""simulate: what one step of a plan takes, before it runs: an event list over machines and their network interfaces.

Model   a machine runs its instructions in list order; a kernel takes its predicted seconds. A message waits for its value and for
        the sender's interface, in the order of the list, then for the receiver's, in the order of leaving; it takes
        nbytes / bandwidth, and arrives a latency later. Sending and receiving do not slow down computing.
"""
>>>>>>> 9797a85 (wip)

from __future__ import annotations

import heapq

from rainshed.compiler.machines import Cluster
from rainshed.compiler.plan import FED, KEPT, MachinePrediction, Prediction, Program, Recv, Run, Send, Transfer
from rainshed.compiler.timing import step_seconds
from rainshed.compiler.units import HOST
from rainshed.ops.errors import PlanError


def simulate(programs: tuple[Program, ...], transfers: tuple[Transfer, ...], cluster: Cluster) -> Prediction:
    """Predicted seconds, bytes and memory of one step, for the whole and per machine.

    Raises  PlanError if machines wait for each other for ever
    """
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
        step_s=step_seconds(programs, cluster),
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


<<<<<<< HEAD
def check_order(programs: tuple[Program, ...]) -> None:
    """Raises PlanError unless every machine can run its list from top to bottom."""
    at = {p.machine: 0 for p in programs}  # next instruction
    sent: set[int] = set()
    progress = True
    while progress:
        progress = False
        for program in programs:
            first = i = at[program.machine]
            for instruction in program.instructions[i:]:
                if isinstance(instruction, Recv) and instruction.key not in sent:
                    break
                if isinstance(instruction, Send):
                    sent.add(instruction.key)
                i += 1
            at[program.machine] = i
            progress |= i > first
    stuck = [p.machine for p in programs if at[p.machine] < len(p.instructions)]
    if stuck:
        raise PlanError(f"the plan never ends: {', '.join(stuck)} wait for each other")
=======
def _run(programs: tuple[Program, ...], transfers: dict[int, Transfer], cluster: Cluster) -> float:
    """The time at which the last machine is done."""
    clocks = _Clocks(programs, transfers, cluster)
    end = clocks.run()
    stuck = [p.machine for p in programs if clocks.at[p.machine] < len(p.instructions)]
    if stuck:
        raise PlanError(f"the plan never ends: {', '.join(stuck)} wait for each other")
    return end


class _Clocks:
    """The event list, in the order of time: a machine goes on, or a message leaves its sender's interface."""

    def __init__(self, programs: tuple[Program, ...], transfers: dict[int, Transfer], cluster: Cluster) -> None:
        self.transfers, self.cluster = transfers, cluster
        self.lists = {p.machine: p.instructions for p in programs}
        self.at = dict.fromkeys(self.lists, 0)  # next instruction
        self.clock, self.sent, self.taken = (dict.fromkeys(self.lists, 0.0) for _ in range(3))
        self.ready: dict[str, dict[int, float]] = {m: {} for m in self.lists}  # value -> when it is there
        self.arrived: dict[int, float] = {}
        self.waiting: dict[int, str] = {}  # transfer -> the machine that stands at its Recv
        self.events: list[tuple[float, int, str, Send | None]] = []
        self.count = 0

    def run(self) -> float:
        for machine in self.lists:
            self._event(0.0, machine)
        while self.events:
            time, _, machine, message = heapq.heappop(self.events)
            if message is None:
                self._go_on(machine)
            else:
                self._arrive(time, machine, message)
        return max([*self.clock.values(), *self.arrived.values()], default=0.0)

    def _event(self, time: float, machine: str, message: Send | None = None) -> None:
        heapq.heappush(self.events, (time, self.count, machine, message))
        self.count += 1

    def _go_on(self, machine: str) -> None:
        """Instructions up to the end of the next kernel, or to a Recv whose message is not on its way."""
        instructions, ready = self.lists[machine], self.ready[machine]
        while self.at[machine] < len(instructions):
            instruction = instructions[self.at[machine]]
            if isinstance(instruction, Recv):
                if instruction.key not in self.arrived:
                    self.waiting[instruction.key] = machine
                    return
                ready[instruction.value] = self.arrived[instruction.key]
            elif isinstance(instruction, Send):
                time = max(ready.get(instruction.value, 0.0), self.sent[machine])
                link = self.cluster.link(machine, instruction.to)
                self.sent[machine] = time + self.transfers[instruction.key].nbytes / link.bytes_per_s
                self._event(time, machine, instruction)
            self.at[machine] += 1
            if isinstance(instruction, Run):
                start = max([self.clock[machine], *(ready.get(v, 0.0) for v in instruction.inputs)])
                self.clock[machine] = start + instruction.seconds
                ready.update(dict.fromkeys(instruction.outputs, self.clock[machine]))
                self._event(self.clock[machine], machine)
                return

    def _arrive(self, time: float, machine: str, message: Send) -> None:
        """A message has left: it goes on when the receiver's interface is free."""
        link = self.cluster.link(machine, message.to)
        end = max(time, self.taken[message.to]) + self.transfers[message.key].nbytes / link.bytes_per_s
        self.taken[message.to] = end
        self.arrived[message.key] = end + link.latency_s
        if message.key in self.waiting:
            self._event(time, self.waiting.pop(message.key))
>>>>>>> 9797a85 (wip)
