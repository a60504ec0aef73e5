"""One shard and several machines without threads: sends, losses, late frames, deaths and restores in any order.

Frames move in queues. A lost connection's queue towards the shard may live on for a while, as in a network, so that
old frames arrive late, and beside those of the new connection. Every event is drawn from a seed.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from params_kit import config_of, ledger_rule, part

from rainshed.ops.errors import StaleIncarnationError, TransportError
from rainshed.runtime.messages import Attach, Push, Said
from rainshed.runtime.params.outbox import Line, Outbox
from rainshed.runtime.params.shard import Shard, Worker

STEPS = 8  # pushes of each machine


@dataclass
class Wire:
    """A connection's two queues; `old` ones are read by the shard only."""

    worker: Worker
    up: deque[tuple[Said, memoryview]] = field(default_factory=deque)
    down: deque[Said] = field(default_factory=deque)
    old: bool = False


class Machine:
    def __init__(self, index: int, line: Line) -> None:
        self.index, self.line = index, line
        self.incarnation, self.step = 0, 0
        self.certain: set[int] = set()  # steps whose push was acknowledged
        self.begin()

    def begin(self) -> None:
        """A new process in the machine's place: what was not acknowledged is not made again."""
        self.incarnation += 1
        self.outbox = Outbox(self.line)
        self.wire: Wire | None = None
        self.made: dict[int, int] = {}  # seq -> step

    @property
    def worker(self) -> Worker:
        return Worker(f"r{self.index}/m0", self.incarnation)


class World:
    def __init__(self, seed: int, *, machines: int = 3, restores=False, deaths=False, shard=Shard) -> None:
        self.draw = random.Random(seed)
        self.parts = [part("ledger", machines, STEPS, dtype="f64")]
        self.config = config_of(self.parts, ledger_rule)
        self.kind = shard
        self.shard = shard(self.config)
        self.shard._present["w"] = [True]
        line = Line(0, "there", self.config.layout, (0,), window=2)
        self.machines = [Machine(i, line) for i in range(machines)]
        self.wires: list[Wire] = []
        self.restores, self.deaths = restores, deaths
        self.saved = self.shard.snapshot()

    @property
    def ledger(self) -> np.ndarray:
        return self.shard._arrays["w"][0].reshape(self.parts[0].shape)

    def gradient(self, machine: Machine) -> np.ndarray:
        gradient = np.zeros(self.parts[0].shape)
        gradient[machine.index, machine.step] = 1.0
        return gradient

    # -- events ----

    def make(self, machine: Machine) -> None:
        if machine.outbox.free and machine.step < STEPS:
            block = machine.outbox.free.pop()
            block.views[0][:] = self.gradient(machine).ravel()
            machine.outbox.push(block, 0)
            machine.made[machine.outbox._seq] = machine.step
            machine.step += 1

    def send(self, machine: Machine) -> None:
        if machine.wire is None:
            machine.wire = Wire(machine.worker)
            self.wires.append(machine.wire)
            machine.outbox.disconnected()
            machine.wire.up.append((machine.outbox.greeting, memoryview(b"")))
        elif (request := machine.outbox.next()) is not None:
            machine.outbox.mark_sent(request)
            machine.wire.up.append((request.message, memoryview(b"".join(request.payload))))

    def arrive(self, wire: Wire) -> None:
        if not wire.up:
            return
        message, payload = wire.up.popleft()
        try:
            answer = (
                self.shard.attach(wire.worker, message)
                if isinstance(message, Attach)
                else self.shard.push(wire.worker, message, payload)
            )
        except StaleIncarnationError:
            assert wire.old
            wire.up.clear()
            return
        if isinstance(message, Push) and self.draw.random() < 0.1:
            wire.up.appendleft((message, payload))  # and once more
        wire.down.append(answer)

    def answer(self, machine: Machine) -> None:
        wire = machine.wire
        if wire is None or not wire.down:
            return
        before = set(machine.made)
        try:
            machine.outbox.answer(wire.down.popleft())
        except TransportError:  # a gap: the connection is given up
            self.lose(machine)
        waiting = {request.message.seq for request in machine.outbox._pushes}
        for seq in before - waiting:
            machine.certain.add(machine.made.pop(seq))

    def lose(self, machine: Machine) -> None:
        if machine.wire is not None:
            machine.wire.old, machine.wire = True, None
            machine.outbox.disconnected()

    def die(self, machine: Machine) -> None:
        self.lose(machine)
        machine.begin()

    def restore(self) -> None:
        """The server's process dies, and another one goes on from the last snapshot."""
        for machine in self.machines:
            self.lose(machine)
        self.wires.clear()
        self.shard = self.kind(self.config)
        self.shard.restore(self.saved)

    def event(self) -> None:
        machine, chance = self.draw.choice(self.machines), self.draw.random()
        if chance < 0.2:
            self.make(machine)
        elif chance < 0.45:
            self.send(machine)
        elif chance < 0.7 and self.wires:
            self.arrive(self.draw.choice(self.wires))
        elif chance < 0.88:
            self.answer(machine)
        elif chance < 0.93:
            self.lose(machine)
        elif chance < 0.95 and self.deaths:
            self.die(machine)
        elif chance < 0.97 and self.restores:
            self.saved = self.shard.snapshot()
        elif chance < 0.99 and self.restores:
            self.restore()

    def run(self, events: int) -> None:
        for _ in range(events):
            self.event()
        for _ in range(100 * STEPS):  # now nothing is lost any more
            for machine in self.machines:
                self.make(machine)
                self.send(machine)
            for wire in self.wires:
                self.arrive(wire)
            for machine in self.machines:
                self.answer(machine)
            if all(m.step == STEPS and not m.outbox.unanswered for m in self.machines):
                return
        raise AssertionError("pushes were left unanswered")
