"""When everything of a step happens: events over the processors of hosts and the network interfaces of machines.

Model
  an instruction may run when what it reads is there, and its place in memory is free; of several the first of the list does,
  sends before all
  a machine has a worker for each whole core, and a kernel keeps one of them busy
  a host's cores are shared evenly by all that computes there: kernels, sending and receiving
  a small message is written by the worker itself, a large one by a thread of its own; both take a core's time at both ends
  messages from one machine to another go one after the other, in the order in which they were sent
  a large message is sent, for the instruction, when the operating system's buffer holds the rest of it
  an interface is shared evenly by the messages that go through it, each way; a message goes at the slower of its two shares
  it arrives a latency after its last byte has left
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from rainshed.compiler.dependencies import dependencies, is_static
from rainshed.compiler.machines import Cluster, Link, Machine
from rainshed.compiler.plan import Assign, Free, Instruction, Program, Recv, Run, Send
from rainshed.compiler.sharing import Interface, Route
from rainshed.compiler.units import HOST
from rainshed.ops.errors import PlanError

INLINE_NBYTES = 2**16  # up to here the worker itself sends a message (runtime/peers.py)

Then = Callable[[], None]


def step_seconds(programs: tuple[Program, ...], cluster: Cluster) -> float:
    """The time at which the last instruction of a step is done.

    Raises  PlanError if machines wait for each other for ever
    """
    return _Step(programs, cluster).run()


class Span(NamedTuple):
    """When an instruction of a machine is under way. A transfer's is that of its message."""

    machine: str
    instruction: int
    start_s: float
    end_s: float


def step_spans(programs: tuple[Program, ...], cluster: Cluster) -> tuple[Span, ...]:
    """When everything happens in a step, in the order in which it ends.

    Raises  PlanError if machines wait for each other for ever
    """
    step = _Step(programs, cluster, spans=[])
    step.run()
    return tuple(step.spans or ())


@dataclass(eq=False, slots=True)
class _Processor:
    """The cores of one host. Time is measured in what each of its jobs has had so far (`had`, in seconds of a core)."""

    cores: float
    had: float = 0.0
    since: float = 0.0  # when `had` was counted
    speed: float = 1.0  # of each job
    jobs: list[tuple[float, int, Then]] = field(default_factory=list)  # heap: what it will have had when it is done
    version: int = 0


@dataclass(eq=False, slots=True)
class _Message:
    """`sent`: what a large one calls when its place in the sender's memory is free; None when that is done. `flown`: its last byte
    is on the way. `entered`: all but `behind` bytes have left, which a buffer holds. `copied`: the buffer has all of it."""

    key: int
    nbytes: int
    sent: Then | None = None
    flown: Then | None = None
    entered: Then | None = None
    behind: int = 0
    copied: bool = False


@dataclass(eq=False, slots=True)
class _Way:
    """From one machine to another."""

    source: _Node
    to: _Node
    link: Link
    waiting: deque[_Message] = field(default_factory=deque)
    now: _Message | None = None


@dataclass(eq=False, slots=True)
class _Node:
    """A machine in the middle of a step. Lists have an entry for each instruction."""

    machine: Machine
    instructions: tuple[Instruction, ...]
    processor: _Processor
    workers: int
    needed: list[int]  # for how many others it waits, and a receive for its bytes; -1: it takes no part in a step
    seconds: list[float]  # of a core, or of a unit
    on_unit: list[bool]
    followers: list[list[int]]  # who waits for it
    nbytes: dict[int, int] = field(default_factory=dict)  # of each send
    arrival: dict[int, int] = field(default_factory=dict)  # key -> the instruction that receives it
    ready: list[int] = field(default_factory=list)  # heap of ranks: sends first, then as in the list
    out: Interface = field(default_factory=Interface)
    into: Interface = field(default_factory=Interface)
    left: int = 0

    def core_seconds(self, seconds: float) -> float:
        """Of one core, for a kernel that is said to take so many seconds of the whole machine."""
        call = min(seconds, self.machine.overhead_s)
        return (seconds - call) * self.machine.cores + call * min(1.0, self.machine.cores)

    def message_seconds(self, nbytes: int) -> float:
        return self.machine.message_s + nbytes / self.machine.message_bytes_per_s


class _Step:
    def __init__(self, programs: tuple[Program, ...], cluster: Cluster, *, spans: list[Span] | None = None) -> None:
        self.cluster = cluster
        self.spans = spans  # None: only the end of the step is wanted
        self._begun: dict[tuple[str, int], float] = {}
        self.now = self.end = 0.0
        self._events: list[tuple[float, int, _Processor | Interface | None, int, Then | None]] = []
        self._count = 0
        processors = _processors(cluster)
        self.nodes = {p.machine: _node(p, cluster.machine(p.machine), processors[p.machine]) for p in programs}
        self._ways: dict[tuple[str, str], _Way] = {}
        self._routes: dict[_Way, Route] = {}

    def run(self) -> float:
        for node in self.nodes.values():
            for i, count in enumerate(node.needed):
                if not count:
                    self._ready(node, i)
        events = self._events
        while events:
            at, _, what, version, then = heapq.heappop(events)
            if then is not None:
                self.now = at
                then()
            elif version != what.version:  # type: ignore[union-attr]
                continue  # it has changed since
            elif type(what) is _Processor:
                self.now = at
                self._job_done(what)
            else:
                self.now = at
                what.first_done(at).then()  # type: ignore[union-attr]
        stuck = [name for name, node in self.nodes.items() if node.left]
        if stuck:
            raise PlanError(f"the plan never ends: {', '.join(stuck)} wait for each other")
        return self.end

    def _at(self, when: float, then: Then) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, None, 0, then))

    # -- instructions ----
    def _ready(self, node: _Node, i: int) -> None:
        """Everything that an instruction waits for is done."""
        instruction = node.instructions[i]
        rank = i
        if type(instruction) is Recv:
            self._done(node, i)
            return
        if type(instruction) is Send:
            nbytes = node.nbytes[i]
            if nbytes > INLINE_NBYTES:
                self._begin(node, i)
                self._post(node, instruction.to, _Message(instruction.key, nbytes, sent=partial(self._done, node, i)))
                return
            rank -= len(node.needed)
        heapq.heappush(node.ready, rank)
        if node.workers:
            self._work(node)

    def _work(self, node: _Node) -> None:
        """Give a free worker the next instruction; it comes here again when it is free."""
        while node.workers and node.ready:
            node.workers -= 1
            i = heapq.heappop(node.ready) % len(node.needed)
            self._begin(node, i)
            if node.on_unit[i]:
                self._at(self.now + node.seconds[i], partial(self._worked, node, i))
            else:
                self._job(node.processor, node.seconds[i], partial(self._worked, node, i))

    def _begin(self, node: _Node, i: int) -> None:
        if self.spans is not None:
            self._begun[node.machine.name, i] = self.now

    def _worked(self, node: _Node, i: int) -> None:
        node.workers += 1
        instruction = node.instructions[i]
        if type(instruction) is Send:
            self._post(node, instruction.to, _Message(instruction.key, node.nbytes[i]))
        self._done(node, i)
        if node.ready:
            self._work(node)

    def _done(self, node: _Node, i: int) -> None:
        node.left -= 1
        self.end = self.now
        if self.spans is not None:
            name = node.machine.name
            self.spans.append(Span(name, i, self._begun.get((name, i), self.now), self.now))
        for follower in node.followers[i]:
            self._one_less(node, follower)

    def _one_less(self, node: _Node, i: int) -> None:
        node.needed[i] -= 1
        if not node.needed[i]:
            self._ready(node, i)

    # -- processors ----
    def _job(self, processor: _Processor, seconds: float, then: Then) -> None:
        processor.had += (self.now - processor.since) * processor.speed
        processor.since = self.now
        self._count += 1
        heapq.heappush(processor.jobs, (processor.had + seconds, self._count, then))
        self._next_job(processor)

    def _job_done(self, processor: _Processor) -> None:
        done, _, then = heapq.heappop(processor.jobs)
        processor.had = done  # no rounding in between: it is done now
        processor.since = self.now
        self._next_job(processor)
        then()

    def _next_job(self, processor: _Processor) -> None:
        """The jobs of a processor have changed."""
        processor.version += 1
        jobs = processor.jobs
        if not jobs:
            processor.speed = 1.0
            return
        processor.speed = speed = min(1.0, processor.cores / len(jobs))
        when = self.now + max(0.0, jobs[0][0] - processor.had) / speed
        self._count += 1
        heapq.heappush(self._events, (when, self._count, processor, processor.version, None))

    # -- messages ----
    def _post(self, node: _Node, to: str, message: _Message) -> None:
        name = node.machine.name
        way = self._ways.get((name, to))
        if way is None:
            there = self.nodes[to]
            way = self._ways[name, to] = _Way(node, there, self.cluster.link(name, to))
            self._routes[way] = Route(node.out, there.into, partial(self._last_byte, way))
        way.waiting.append(message)
        if way.now is None:
            self._depart(way)
        elif way.link.buffer_bytes:
            self._copy_waiting(way)

    def _copy_waiting(self, way: _Way) -> None:
        """Large messages for which the buffer has room behind what goes now are copied to it."""
        assert way.now is not None
        ahead = self._routes[way].left_s(self.now) * way.link.bytes_per_s + way.now.behind
        for message in way.waiting:
            ahead += message.nbytes
            if ahead > way.link.buffer_bytes:
                return
            if message.sent is not None:
                then, message.sent, message.copied = message.sent, None, True
                self._job(way.source.processor, way.source.message_seconds(message.nbytes), then)

    def _depart(self, way: _Way) -> None:
        message = way.now = way.waiting.popleft()
        self._begin(way.to, way.to.arrival[message.key])
        if message.sent is not None or message.copied:  # both ends work while the bytes are on their way
            came = _Both(partial(self._one_less, way.to, way.to.arrival[message.key]))
            gone = _Both(partial(self._gone, way, came.one))
            message.flown = gone.one
            if message.copied:
                gone.one()
            else:
                self._copy(way, message, gone)
            self._job(way.to.processor, way.to.message_seconds(message.nbytes), came.one)
        self._fly(way, message.nbytes - message.behind)

    def _copy(self, way: _Way, message: _Message, gone: _Both) -> None:
        """The sender's work for a message that goes now."""
        then = gone.one
        if way.link.buffer_bytes:
            entered = _Both(partial(self._sent, message))
            message.behind, message.entered = min(message.nbytes, way.link.buffer_bytes), entered.one

            def then() -> None:
                entered.one()
                gone.one()

        self._job(way.source.processor, way.source.message_seconds(message.nbytes), then)

    def _sent(self, message: _Message) -> None:
        if message.sent is not None:
            then, message.sent = message.sent, None
            then()

    def _fly(self, way: _Way, nbytes: int) -> None:
        self._next_last_bytes(self._routes[way].begin(nbytes / way.link.bytes_per_s, self.now))

    def _next_last_bytes(self, changed: Iterable[Interface]) -> None:
        """When the next message of each of these interfaces will be gone, if nothing changes before."""
        for interface in changed:
            due = interface.next_done(self.now)
            if due < math.inf:
                self._count += 1
                heapq.heappush(self._events, (due, self._count, interface, interface.version, None))

    def _last_byte(self, way: _Way) -> None:
        message = way.now
        assert message is not None
        self._next_last_bytes(self._routes[way].end(self.now))
        if message.behind:
            rest, message.behind = message.behind, 0
            self._fly(way, rest)
            if message.entered is not None:
                message.entered()
            return
        if message.flown is not None:
            message.flown()
            return
        came = partial(self._one_less, way.to, way.to.arrival[message.key])
        self._gone(way, partial(self._job, way.to.processor, way.to.message_seconds(message.nbytes), came))

    def _gone(self, way: _Way, arrive: Then) -> None:
        """The sender is done with the message that goes now."""
        message, way.now = way.now, None
        self._at(self.now + way.link.latency_s, arrive)
        if message is not None:
            self._sent(message)
        if way.waiting and way.now is None:
            self._depart(way)


@dataclass(eq=False, slots=True)
class _Both:
    """Calls `then` when it has been called twice."""

    then: Then
    first: bool = True

    def one(self) -> None:
        if not self.first:
            self.then()
        self.first = False


def _processors(cluster: Cluster) -> dict[str, _Processor]:
    """Of each machine; machines of one host have the same."""
    hosts: dict[str, _Processor] = {}
    found = {}
    for m in cluster.machines:
        if not m.host:
            found[m.name] = _Processor(m.cores)
            continue
        shared = hosts.setdefault(m.host, _Processor(0.0))
        shared.cores += m.cores
        found[m.name] = shared
    return found


def _node(program: Program, machine: Machine, processor: _Processor) -> _Node:
    count = len(program.instructions)
    needed, seconds, on_unit = [-1] * count, [0.0] * count, [False] * count
    followers: list[list[int]] = [[] for _ in range(count)]
    node = _Node(
        machine, program.instructions, processor, max(1, int(machine.cores)), needed, seconds, on_unit, followers
    )
    values, before = program.values, dependencies(program)
    for i, instruction in enumerate(program.instructions):
        if isinstance(instruction, Free) or is_static(program, instruction):
            continue
        if isinstance(instruction, Run):
            on_unit[i] = any(values[v].unit != HOST for v in instruction.outputs)
            seconds[i] = instruction.seconds if on_unit[i] else node.core_seconds(instruction.seconds)
        elif isinstance(instruction, Send):
            nbytes = node.nbytes[i] = values[instruction.value].nbytes
            seconds[i] = node.message_seconds(nbytes)
        elif isinstance(instruction, Recv):
            node.arrival[instruction.key] = i
        elif isinstance(instruction, Assign):
            nbytes = 2 * values[instruction.value].nbytes
            seconds[i] = node.core_seconds(nbytes / machine.bytes_per_s + machine.overhead_s)
        needed[i] = len(before[i]) + isinstance(instruction, Recv)
        node.left += 1
        for earlier in before[i]:
            followers[earlier].append(i)
    return node
