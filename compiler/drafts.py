"""From a graph that has been through all passes to a plan: first what it takes to compare plans, then what the best one takes.

But for chance, a step is shorter where no value waits for another's place in memory. So large plans are compared with arenas in
which nothing waits; whether arenas as small as they can be do as well is asked of the best one alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rainshed.compiler.lower import lower, packed
from rainshed.compiler.machines import Cluster
from rainshed.compiler.partition.strategy import SLICED
from rainshed.compiler.passes.schedule import schedule
from rainshed.compiler.plan import VERSION, Plan, Program, Transfer
from rainshed.compiler.room import roomy
from rainshed.compiler.setting import Setting
from rainshed.compiler.simulate import memory_of, simulate, unit_memory_of
from rainshed.compiler.timing import step_seconds
from rainshed.ops.ir import Graph, Node

FEW = 10_000  # instructions of a plan with which all is simulated before it is compared
HOPE = 0.9  # times a step: the least that may be hoped for of the other order of a pipeline of slices
WORTH_ROOM = 0.98  # larger arenas are taken for a step that is shorter than so much of that with small ones


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """The programs of one order with small arenas, and with those for which `step_s` was simulated: in `larger` nothing waits for
    a place. That is `programs` where one of both was chosen, where nothing waits anyway, or where larger arenas do not fit."""

    setting: Setting
    loss: str | None
    programs: tuple[Program, ...]
    larger: tuple[Program, ...]
    transfers: tuple[Transfer, ...]
    step_s: float
    graph: Graph | None = None  # of a pipeline of slices whose other order has not been tried

    @property
    def nbytes(self) -> int:
        """Bytes of all messages of a step."""
        return sum(t.nbytes for t in self.transfers)

    @property
    def work(self) -> int:
        """Instructions of all machines."""
        return sum(len(p.instructions) for p in self.programs)

    @property
    def lack(self) -> str:
        """What is missing, or "" if every machine's part fits."""
        return _lacking_memory(self.programs, self.setting.cluster)

    def ordered(self) -> Draft:
        """In the shorter of its orders. Otherwise whether it fits is not looked at."""
        if self.graph is None:
            return self
        other = _ordered(self.graph, self.setting, schedule(self.graph, self.setting, slices=True))
        return other if other.step_s < self.step_s and not other.lack else replace(self, graph=None)

    def settled(self) -> Draft:
        """With small arenas, unless a step is simulated to be shorter with larger ones."""
        if self.larger is self.programs:
            return self
        small_s = step_seconds(self.programs, self.setting.cluster)
        if self.step_s < WORTH_ROOM * small_s:
            return replace(self, programs=self.larger)
        return replace(self, larger=self.programs, step_s=small_s)

    def plan(self) -> Plan:
        chosen = self.settled()
        return Plan(
            version=VERSION,
            programs=chosen.programs,
            transfers=chosen.transfers,
            cluster=self.setting.cluster.to_data(),
            prediction=simulate(chosen.programs, chosen.transfers, self.setting.cluster, chosen.step_s),
            seed=self.setting.seed,
            loss=self.loss,
        )


def draft(graph: Graph, setting: Setting) -> Draft:
    """The graph in the order of `schedule`; a small pipeline of slices in the shorter of its two. Whether it fits is not looked at.

    In  the graph has been through all passes
    """
    found = _ordered(graph, setting, schedule(graph, setting))
    if setting.strategy not in SLICED or setting.thrifty:
        return found
    undecided = replace(found, graph=graph)
    return undecided.ordered() if found.work <= FEW else undecided


def shortest(drafts: Mapping[str, Draft]) -> tuple[str, Plan]:
    """The plan with the shortest step, and its name. With small arenas it may lose what made it the first."""
    least = min(made.step_s for made in drafts.values())
    every = {n: made.ordered() if HOPE * made.step_s < least else made for n, made in drafts.items()}
    found: list[tuple[float, int, str, Plan]] = []
    for name, made in sorted(every.items(), key=lambda item: (item[1].step_s, item[1].nbytes)):
        if found and min(found)[0] <= made.step_s:
            break
        plan = made.plan()
        found.append((plan.prediction.step_s, plan.prediction.bytes, name, plan))
    return min(found, key=lambda one: one[:2])[2:]


def _ordered(graph: Graph, setting: Setting, order: list[Node]) -> Draft:
    programs, transfers = lower(graph, order, setting)
    larger = programs
    if transfers and not setting.thrifty:
        pack = packed(order, setting)
        found = tuple([roomy(p, pack=pack) for p in programs])
        changed = any(a is not b for a, b in zip(found, programs, strict=True))
        if changed and not _lacking_memory(found, setting.cluster):
            larger = found
    made = Draft(setting, graph.loss, programs, larger, transfers, step_seconds(larger, setting.cluster))
    return made.settled() if made.work <= FEW else made


def _lacking_memory(programs: Sequence[Program], cluster: Cluster) -> str:
    """What is missing, or "" if every machine's part fits."""
    for program in programs:
        needed, there = memory_of(program), cluster.machine(program.machine).memory_bytes
        if needed > there:
            return f"{program.machine} would need {needed} bytes of memory, and has {there}"
        for name, nbytes in unit_memory_of(program).items():
            unit = cluster.machine(program.machine).unit(name)
            if unit is not None and nbytes > unit.memory_bytes:
                return f"{program.machine}/{name} would need {nbytes} bytes of memory, and has {unit.memory_bytes}"
    return ""
