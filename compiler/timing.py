"""When everything of a step happens: events over the processors of hosts and the network interfaces of machines.

Model
  an instruction may run when what it reads is there; of several the first of the list does, sends before all
  a machine has a worker for each whole core, and a kernel keeps one of them busy
  a host's cores are shared evenly by all that computes there: kernels, sending and receiving
  a small message is written by the worker itself, a large one by a thread of its own; both take a core's time at both ends
  messages from one machine to another go one after the other, in the order in which they were sent
  an interface is shared evenly by the messages that go through it, each way; a message goes at the slower of its two shares
  it arrives a latency after its last byte has left
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from rainshed.compiler.machines import Cluster, Link, Machine
from rainshed.compiler.plan import FED, KEPT, Assign, Free, Instruction, Program, Recv, Run, Send
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
    jobs: list[tuple[float, int, Then]] = field(default_factory=list)  # heap: what it will have had when it is done
    version: int = 0

    @property
    def speed(self) -> float:
        return min(1.0, self.cores / len(self.jobs)) if self.jobs else 1.0


@dataclass(eq=False, slots=True)
class _Message:
    """`sent`: what a large one calls when nothing of it is left at the sender. `flown`: its last byte is on the way."""

    key: int
    nbytes: int
    sent: Then | None = None
    flown: Then | None = None


@dataclass(eq=False, slots=True)
class _Way:
    """From one machine to another. `left` are the bytes of the message that goes now."""

    source: _Node
    to: _Node
    link: Link
    waiting: deque[_Message] = field(default_factory=deque)
    now: _Message | None = None
    left: float = 0.0
    rate: float = 0.0
    since: float = 0.0
    version: int = 0


@dataclass(eq=False, slots=True)
class _Node:
    """A machine in the middle of a step."""

    machine: Machine
    program: Program
    processor: _Processor
    workers: int
    ready: list[int] = field(default_factory=list)  # heap of ranks: sends first, then as in the list
    needed: list[int] = field(default_factory=list)  # how many values each instruction waits for
    readers: dict[int, list[int]] = field(default_factory=dict)
    arrival: dict[int, int] = field(default_factory=dict)  # key -> the instruction that receives it
    going_out: dict[_Way, None] = field(default_factory=dict)
    coming_in: dict[_Way, None] = field(default_factory=dict)
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
        self._events: list[tuple[float, int, _Processor | _Way | None, int, Then | None]] = []
        self._count = 0
        processors = _processors(cluster)
        self.nodes = {p.machine: _node(p, cluster.machine(p.machine), processors[p.machine]) for p in programs}
        self._ways: dict[tuple[str, str], _Way] = {}

    def run(self) -> float:
        for node in self.nodes.values():
            for i, count in enumerate(node.needed):
                if not count:
                    self._ready(node, i)
        while self._events:
            at, _, what, version, then = heapq.heappop(self._events)
            if what is not None and version != what.version:
                continue  # it has changed since
            self.now = at
            if then is not None:
                then()
            elif isinstance(what, _Processor):
                self._job_done(what)
            elif what is not None:
                self._last_byte(what)
        stuck = [name for name, node in self.nodes.items() if node.left]
        if stuck:
            raise PlanError(f"the plan never ends: {', '.join(stuck)} wait for each other")
        return self.end

    def _at(self, when: float, what: _Processor | _Way | None = None, then: Then | None = None) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what, what.version if what is not None else 0, then))

    # -- instructions ----
    def _ready(self, node: _Node, i: int) -> None:
        instruction = node.program.instructions[i]
        if isinstance(instruction, Recv):
            return
        if isinstance(instruction, Send) and self._nbytes(node, instruction) > INLINE_NBYTES:
            message = _Message(instruction.key, self._nbytes(node, instruction), sent=partial(self._done, node, i))
            self._begin(node, i)
            self._post(node, instruction.to, message)
            return
        first = isinstance(instruction, Send)
        heapq.heappush(node.ready, i - len(node.needed) if first else i)
        self._work(node)

    def _work(self, node: _Node) -> None:
        """Give a free worker the next instruction; it comes here again when it is free."""
        while node.workers and node.ready:
            node.workers -= 1
            i = heapq.heappop(node.ready) % len(node.needed)
            instruction = node.program.instructions[i]
            self._begin(node, i)
            if isinstance(instruction, Run) and _on_unit(node.program, instruction):
                self._at(self.now + instruction.seconds, then=partial(self._worked, node, i))
            else:
                self._job(node.processor, self._core_seconds(node, instruction), partial(self._worked, node, i))

    def _begin(self, node: _Node, i: int) -> None:
        if self.spans is not None:
            self._begun[node.machine.name, i] = self.now

    def _core_seconds(self, node: _Node, instruction: Instruction) -> float:
        if isinstance(instruction, Run):
            return node.core_seconds(instruction.seconds)
        if isinstance(instruction, Send):
            return node.message_seconds(self._nbytes(node, instruction))
        if isinstance(instruction, Assign):
            nbytes = 2 * node.program.values[instruction.value].nbytes
            return node.core_seconds(nbytes / node.machine.bytes_per_s + node.machine.overhead_s)
        return 0.0

    def _worked(self, node: _Node, i: int) -> None:
        node.workers += 1
        instruction = node.program.instructions[i]
        if isinstance(instruction, Send):
            self._post(node, instruction.to, _Message(instruction.key, self._nbytes(node, instruction)))
        self._done(node, i)
        self._work(node)

    def _done(self, node: _Node, i: int) -> None:
        node.left -= 1
        self.end = max(self.end, self.now)
        if self.spans is not None:
            name = node.machine.name
            self.spans.append(Span(name, i, self._begun.get((name, i), self.now), self.now))
        for value in _written(node.program.instructions[i]):
            for reader in node.readers.get(value, ()):
                node.needed[reader] -= 1
                if not node.needed[reader]:
                    self._ready(node, reader)

    def _nbytes(self, node: _Node, send: Send) -> int:
        return node.program.values[send.value].nbytes

    # -- processors ----
    def _job(self, processor: _Processor, seconds: float, then: Then) -> None:
        self._count_had(processor)
        self._count += 1
        heapq.heappush(processor.jobs, (processor.had + seconds, self._count, then))
        self._next_job(processor)

    def _job_done(self, processor: _Processor) -> None:
        self._count_had(processor)
        done, _, then = heapq.heappop(processor.jobs)
        processor.had = done  # no rounding in between: it is done now
        self._next_job(processor)
        then()

    def _count_had(self, processor: _Processor) -> None:
        processor.had += (self.now - processor.since) * processor.speed
        processor.since = self.now

    def _next_job(self, processor: _Processor) -> None:
        processor.version += 1
        if processor.jobs:
            self._at(self.now + max(0.0, processor.jobs[0][0] - processor.had) / processor.speed, processor)

    # -- messages ----
    def _post(self, node: _Node, to: str, message: _Message) -> None:
        name = node.machine.name
        if (name, to) not in self._ways:
            self._ways[name, to] = _Way(node, self.nodes[to], self.cluster.link(name, to))
        way = self._ways[name, to]
        way.waiting.append(message)
        if way.now is None:
            self._depart(way)

    def _depart(self, way: _Way) -> None:
        message = way.waiting.popleft()
        way.now, way.left, way.since = message, float(message.nbytes), self.now
        way.source.going_out[way] = way.to.coming_in[way] = None
        self._begin(way.to, way.to.arrival[message.key])
        self._share(way)
        if message.sent is not None:  # both ends work while the bytes are on their way
            came = _Both(partial(self._done, way.to, way.to.arrival[message.key]))
            gone = _Both(partial(self._gone, way, came.one))
            message.flown = gone.one
            self._job(way.source.processor, way.source.message_seconds(message.nbytes), gone.one)
            self._job(way.to.processor, way.to.message_seconds(message.nbytes), came.one)

    def _share(self, changed: _Way) -> None:
        """The rates of all messages that share an interface with one that begins or ends."""
        for way in {**changed.source.going_out, **changed.to.coming_in}:
            way.left -= (self.now - way.since) * way.rate
            way.since = self.now
            way.rate = way.link.bytes_per_s / max(len(way.source.going_out), len(way.to.coming_in))
            way.version += 1
            self._at(self.now + max(0.0, way.left) / way.rate, way)

    def _last_byte(self, way: _Way) -> None:
        message = way.now
        assert message is not None
        way.version += 1
        way.rate = 0.0
        del way.source.going_out[way], way.to.coming_in[way]
        self._share(way)
        if message.flown is not None:
            message.flown()
            return
        came = partial(self._done, way.to, way.to.arrival[message.key])
        self._gone(way, partial(self._job, way.to.processor, way.to.message_seconds(message.nbytes), came))

    def _gone(self, way: _Way, arrive: Then) -> None:
        """The sender is done with the message that goes now."""
        message, way.now = way.now, None
        self._at(self.now + way.link.latency_s, then=arrive)
        if message is not None and message.sent is not None:
            message.sent()
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
    node = _Node(machine, program, processor, workers=max(1, int(machine.cores)))
    there = {v for v, value in enumerate(program.values) if value.place in (FED, KEPT)}
    for i, instruction in enumerate(program.instructions):
        if isinstance(instruction, Free) or _is_constant(program, instruction):
            node.needed.append(-1)
            continue
        reads = [v for v in dict.fromkeys(_read(instruction)) if v not in there]
        for value in reads:
            node.readers.setdefault(value, []).append(i)
        node.needed.append(len(reads))
        node.left += 1
        if isinstance(instruction, Recv):
            node.arrival[instruction.key] = i
    return node


def _is_constant(program: Program, instruction: Instruction) -> bool:
    """Whether it is computed once, when the program is loaded."""
    return (
        isinstance(instruction, Run)
        and instruction.op == "constant"
        and all(program.values[v].place == KEPT for v in instruction.outputs)
    )


def _on_unit(program: Program, run: Run) -> bool:
    return any(program.values[v].unit != HOST for v in run.outputs)


def _read(instruction: Instruction) -> tuple[int, ...]:
    if isinstance(instruction, Run):
        return instruction.inputs
    return (instruction.value,) if isinstance(instruction, Send | Assign) else ()


def _written(instruction: Instruction) -> tuple[int, ...]:
    if isinstance(instruction, Run):
        return instruction.outputs
    return (instruction.value,) if isinstance(instruction, Recv) else ()
