"""Measuring a cluster: what its workers say of their kernels, memory and links becomes the `Cluster` that plans are made for.

Kernels are measured on a sample program, of all kinds of work in several sizes, which every worker runs as it would run a plan. A
line through the times of a kind, or of one op, gives its rate and its overhead per call.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Final

import numpy as np

from rainshed.compiler.machines import FLOPS_PER_CORE, MESSAGE_BYTES_PER_S, MESSAGE_S, Cluster, Link, Machine, Rate
from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import Plan, Run
from rainshed.engine.calibration_messages import MessageTimes, measure_messages
from rainshed.engine.calibration_sample import sample_graph
from rainshed.ops import CATALOGUE
from rainshed.ops.ir import Graph
from rainshed.runtime.cluster.agent import raw_json
from rainshed.runtime.cluster.job import Job
from rainshed.runtime.cluster.links import LinkTimes
from rainshed.runtime.cluster.orders import Address, Crowded, MeasureKernels, MeasureLink, Nothing
from rainshed.runtime.measure import Host, Kernels

LEAST_CORES: Final = 0.5  # a host that seems to have less was disturbed
SECONDS: Final = 12.0  # of measuring
# Shares of it: kernels on one machine of each host, and on all at once; the rest is for links.
ALONE, CROWDED = 1 / 3, 1 / 6
ONE_LINK_S: Final = 0.8  # more makes it no better
FREE_PER_S: Final = 1e15  # where a part of the cost is nothing
SAME: Final = 0.1  # links that differ by less from the usual one are not written by themselves
ALL_PAIRS_UP_TO: Final = 16  # machines


@dataclass(frozen=True, slots=True)
class Sample:
    """One kernel: its work, and its seconds."""

    flops: float
    nbytes: float
    seconds: float


def calibrate(job: Job, seconds: float = SECONDS, sample: Graph | None = None) -> Cluster:
    """Measure the workers of a job for about so long; one machine for each: m0, m1, ... in the order in which plans take them.

    sample  whose kernels are measured; by default that of calibration_sample.py
    """
    agents = job.agents
    names = [f"m{i}" for i in range(len(agents))]
    hosts = job.coordinator.ask(agents, "tell host", Nothing(), Host)
    kernels = _kernels(job, hosts, seconds, sample_plan(sample or sample_graph()))
    links = _links(job, seconds * (1 - ALONE - CROWDED))
    messages = _messages(job, hosts, links)
    machines = []
    for i, name in enumerate(names):
        sharing = [j for j, host in enumerate(hosts) if host.identity == hosts[i].identity]
        identity = hosts[i].identity
        machines.append(_machine(name, hosts[i], len(sharing), kernels[identity], messages[identity]))
    return _joined(machines, {(names[i], names[j]): x for (i, j), x in links.items()})


# -- kernels ----------------------------------------------------------------------------------------------------------
def sample_plan(graph: Graph) -> Plan:
    """The sample program on one machine with one core."""
    return compile(graph, Cluster.local(1, cores=1))


def _kernels(job: Job, hosts: Sequence[Host], seconds: float, plan: Plan) -> dict[str, Measured]:
    """Host -> what its first worker measured alone, and what all of them together do of it at the same time.

    Alone before and after: a processor that becomes slower or faster meanwhile does not look crowded, or empty.
    """
    first = {host.identity: agent for host, agent in reversed(list(zip(hosts, job.agents, strict=True)))}
    order, limit_s = MeasureKernels(raw_json(plan), seconds * ALONE / 2), seconds + job.timeouts.start_s
    before = job.coordinator.ask(first.values(), "measure kernels", order, Kernels, timeout_s=limit_s)
    crowded = _crowded(job, hosts, seconds * CROWDED, plan)
    after = job.coordinator.ask(first.values(), "measure kernels", order, Kernels, timeout_s=limit_s)
    own = {identity: _mean_of(*both) for identity, *both in zip(first, before, after, strict=True)}
    found = {}
    for host in hosts:
        at_once, round_s = crowded[host.identity]
        cores = at_once * own[host.identity].round_s / round_s
        found[host.identity] = Measured(plan, own[host.identity], min(max(cores, LEAST_CORES), float(at_once)))
    return found


def _crowded(job: Job, hosts: Sequence[Host], budget_s: float, plan: Plan) -> dict[str, tuple[int, float]]:
    """Host -> how many of its cores work when all its workers do, and seconds of each for a round of the kernels."""
    raw, limit_s = raw_json(plan), budget_s + job.timeouts.start_s
    count = Counter(host.identity for host in hosts)
    threads = [max(1, host.cores // count[host.identity]) for host in hosts]
    answers = [
        job.coordinator.order(agent, "measure kernels", MeasureKernels(raw, budget_s, n), timeout_s=limit_s)
        for agent, n in zip(job.agents, threads, strict=True)
    ]
    rounds: dict[str, list[float]] = {}
    for host, answer in zip(hosts, answers, strict=True):
        rounds.setdefault(host.identity, []).append(answer.get(Crowded)[0].round_s)
    return {
        host.identity: (min(count[host.identity] * n, host.cores), statistics.fmean(rounds[host.identity]))
        for host, n in zip(hosts, threads, strict=True)
    }


def _mean_of(a: Kernels, b: Kernels) -> Kernels:
    return Kernels(
        seconds=tuple((x + y) / 2 for x, y in zip(a.seconds, b.seconds, strict=True)),
        round_s=(a.round_s + b.round_s) / 2,
        dispatch_s=(a.dispatch_s + b.dispatch_s) / 2,
        copy_bytes_per_s=(a.copy_bytes_per_s + b.copy_bytes_per_s) / 2,
    )


@dataclass(frozen=True)
class Measured:
    """The sample program's kernels on one core of a host.

    Processors that share a core's parts, or the memory, are slower together than alone: so `cores` may be less than there are.
    """

    plan: Plan
    kernels: Kernels
    cores: float  # how many times as much as one thread alone all its processors do together

    def samples(self) -> dict[str, list[Sample]]:
        """Kind of work, or op -> its samples."""
        found: dict[str, list[Sample]] = {}
        for run, seconds in zip(self.plan.programs[0].instructions, self.kernels.seconds, strict=True):
            if isinstance(run, Run) and seconds:
                op = CATALOGUE[run.op]
                for key in (op.work, op.name):
                    found.setdefault(key, []).append(Sample(run.flops, run.nbytes, seconds))
        found.pop("other", None)
        return found

    def rates(self) -> list[Rate]:
        """Per core. An op has a rate of its own where several sizes were seen."""
        rates = [fit(k, samples) for k, samples in self.samples().items() if len({s.nbytes for s in samples}) > 2]
        return [replace(r, overhead_s=r.overhead_s + self.kernels.dispatch_s) for r in rates]


def fit(work: str, samples: Sequence[Sample]) -> Rate:
    """The rate that explains the samples best, none of its parts below zero; short ones count nearly as much as long ones."""
    seconds = np.array([s.seconds for s in samples])
    weight = seconds**-0.7  # -1 would be relative errors, 0 absolute ones
    columns = np.array([(1.0, s.flops, s.nbytes) for s in samples]) * weight[:, None]
    best, parts = np.inf, np.zeros(3)
    for chosen in (
        c for n in (1, 2, 3) for c in combinations(range(3), n)
    ):  # three unknowns: every set of those above zero
        found, *_ = np.linalg.lstsq(columns[:, chosen], seconds * weight, rcond=None)
        error = float(np.square(columns[:, chosen] @ found - seconds * weight).sum())
        if error < best and (found >= 0).all():
            best, parts = error, np.zeros(3)
            parts[list(chosen)] = found
    overhead, per_flop, per_byte = (float(x) for x in parts)
    return Rate(
        work=work,
        flops_per_s=1 / max(per_flop, 1 / FREE_PER_S),
        bytes_per_s=1 / max(per_byte, 1 / FREE_PER_S),
        overhead_s=overhead,
    )


# -- links ------------------------------------------------------------------------------------------------------------
def _links(job: Job, seconds: float) -> dict[tuple[int, int], LinkTimes]:
    """Pair of workers -> its link. One after the other, so that they do not disturb each other; in rounds where they are many."""
    agents = job.agents
    if len(agents) < 2:
        return {}
    addresses = job.coordinator.ask(agents, "be echo", Nothing(), Address)
    rounds = _rounds(len(agents))
    budget_s = min(ONE_LINK_S, seconds / len(rounds))
    found: dict[tuple[int, int], LinkTimes] = {}
    for pairs in rounds:
        answers = [
            job.coordinator.order(
                agents[i],
                "measure link",
                MeasureLink(addresses[j].address, budget_s),
                timeout_s=budget_s + job.timeouts.start_s,
            )
            for i, j in pairs
        ]
        for pair, answer in zip(pairs, answers, strict=True):
            found[pair] = answer.get(LinkTimes)[0]
    job.coordinator.ask(agents, "be free", Nothing(), Nothing)
    return found


def _rounds(count: int) -> list[list[tuple[int, int]]]:
    """All pairs: one by one while they are few; else in rounds in which nobody is twice (the circle method for tournaments)."""
    if count * (count - 1) // 2 <= ALL_PAIRS_UP_TO:
        return [[pair] for pair in combinations(range(count), 2)]
    ring = [*range(count), *([-1] if count % 2 else [])]
    rounds = []
    for _ in range(len(ring) - 1):
        half = len(ring) // 2
        pairs = zip(ring[:half], reversed(ring[half:]), strict=True)
        rounds.append([(min(p), max(p)) for p in pairs if -1 not in p])
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return rounds


def _messages(job: Job, hosts: Sequence[Host], links: Mapping[tuple[int, int], LinkTimes]) -> dict[str, MessageTimes]:
    """Host -> what messages take of its cores; each host together with the next."""
    found = {host.identity: MessageTimes(MESSAGE_S, MESSAGE_BYTES_PER_S) for host in hosts}
    first = list({host.identity: i for i, host in reversed(list(enumerate(hosts)))}.values())
    if len(hosts) > 1:
        pairs = pairwise(first) if len(first) > 1 else [(0, 1)]
        for i, j in pairs:
            link = links[min(i, j), max(i, j)]
            times = measure_messages(
                job, (job.agents[i], job.agents[j]), min(link.out_bytes_per_s, link.in_bytes_per_s)
            )
            found[hosts[i].identity] = found[hosts[j].identity] = times
    return found


# -- together ---------------------------------------------------------------------------------------------------------
def _machine(name: str, host: Host, sharing: int, measured: Measured, messages: MessageTimes) -> Machine:
    """One of `sharing` machines on a host: it has its share of the cores, and all it does takes as much longer."""
    cores = measured.cores / sharing
    slower = 1.0 / min(1.0, cores)
    rates = tuple(
        Rate(
            work=r.work,
            flops_per_s=r.flops_per_s * cores,
            bytes_per_s=r.bytes_per_s * cores,
            overhead_s=r.overhead_s * slower,
        )
        for r in measured.rates()
    )
    product = next((r.flops_per_s for r in rates if r.work == "product"), FLOPS_PER_CORE * cores)
    return Machine(
        name=name,
        cores=cores,
        flops=product,
        bytes_per_s=measured.kernels.copy_bytes_per_s * cores,
        memory_bytes=host.memory_bytes // sharing,
        bfloat16=host.bfloat16,
        overhead_s=statistics.median(r.overhead_s for r in rates),
        host=host.identity if sharing > 1 else "",
        rates=rates,
        message_s=messages.message_s,
        message_bytes_per_s=messages.bytes_per_s,
    )


def _joined(machines: Sequence[Machine], links: Mapping[tuple[str, str], LinkTimes]) -> Cluster:
    """The usual link for all, and those that differ from it by themselves."""
    if not links:
        return Cluster(machines=tuple(machines))
    every = {pair: _link(x) for pair, x in links.items()}
    usual = Link(
        statistics.median(x.bytes_per_s for x in every.values()),
        statistics.median(x.latency_s for x in every.values()),
        statistics.median_low(x.buffer_bytes for x in every.values()),
    )
    between: dict[tuple[str, str], Link] = {}
    for (a, b), x in every.items():
        if abs(x.bytes_per_s - usual.bytes_per_s) > SAME * usual.bytes_per_s:
            between[a, b] = between[b, a] = x
    return Cluster(machines=tuple(machines), default_link=usual, links=between)


def _link(x: LinkTimes) -> Link:
    """The slower of both directions."""
    return Link(min(x.out_bytes_per_s, x.in_bytes_per_s), x.latency_s, x.buffer_bytes)
