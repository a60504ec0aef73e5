"""What one machine's program sends and receives: which value goes where, step by step, and whether the others have caught up.

The channels' threads bring what arrives; a send may end on a thread of its peer. All state is kept under the executor's lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rainshed.compiler.plan import Instruction, Program, Recv, Send
from rainshed.ops.errors import ProtocolError, RainshedError, StallError, UsageError
from rainshed.runtime.kernels import text_of, type_of
from rainshed.runtime.loaded import Loaded
from rainshed.runtime.messages import Finished, Value
from rainshed.runtime.peers import Peers
from rainshed.runtime.rendezvous import Rendezvous, Then, Where
from rainshed.runtime.trace import RECV, SEND, Recorder
from rainshed.runtime.wire import array_buffer

_now_ns = time.perf_counter_ns


@dataclass(frozen=True, slots=True)
class Events:
    """What the executor wants to know.

    done   an instruction is done; called under the lock
    abort  the step cannot be ended: the error, and the machine where it arose if it is another one
    """

    done: Callable[[int], None]
    abort: Callable[[RainshedError, str], None]


class Exchange:
    """The transfers of one machine, and the Receiver of its peers.

    Raises  UsageError, at construction, for a program that exchanges values and has no peers
    """

    def __init__(
        self, loaded: Loaded, peers: Peers | None, wake: threading.Condition, events: Events, recorder: Recorder | None
    ) -> None:
        program = loaded.program
        if peers is None and any(isinstance(i, Send | Recv) for i in program.instructions):
            raise UsageError(f"the program of {program.machine} exchanges values: it needs peers")
        self.machine = program.machine
        self.peers = peers
        self._program: Program = program
        self._loaded = loaded
        self._wake = wake
        self._events = events
        self._recorder = recorder
        self._rendezvous = Rendezvous(program)
        self._landings: dict[tuple[int, Where], memoryview] = {}  # where payloads have gone, by transfer
        self._started_ns: dict[tuple[int, int], int] = {}  # arrivals that are traced
        self._closed = False
        sources, targets = (peers.neighbours.sources, peers.neighbours.targets) if peers else (frozenset(), frozenset())
        # Those that this machine sends to and hears nothing from: they must say when they have caught up.
        self._finished_by = dict.fromkeys(sorted(targets - sources), -1)
        self._followers = tuple(sorted(sources - targets))

    def attach(self) -> None:
        """From now on values may arrive."""
        if self.peers is not None:
            self.peers.attach(self)

    # -- steps ----

    @property
    def step(self) -> int:
        """The peers' number of the step, alike on all machines, and known of early arrivals."""
        return self._rendezvous.step

    @property
    def has_neighbours(self) -> bool:
        return self.peers is not None and bool(self.peers.neighbours.all)

    @property
    def sending(self) -> bool:
        """Whether a large value is on its way."""
        return self.peers is not None and bool(self.peers.sending)

    def wait_for_followers(self, limit_s: float, stopped: Callable[[], object]) -> None:
        """A machine that only sends may be one step ahead of those that it sends to. Under the lock.

        Raises  StallError after `limit_s`
        """
        due = self.step - 2
        slow = [name for name, step in self._finished_by.items() if step < due]
        if slow and not self._wake.wait_for(lambda: stopped() or min(self._finished_by.values()) >= due, limit_s):
            raise StallError(
                f"{self.machine} waited {limit_s:.3g} s for {slow[0]} to end step {due}, to go on with {due + 2}"
            )

    def finish(self) -> Callable[[], None]:
        """The step is over; under the lock. Gives what is to be said without it."""
        step = self.step
        self._rendezvous.finish()

        def say() -> None:
            for name in self._followers:
                assert self.peers is not None
                self.peers.say(name, Finished(step))

        return say

    def tell_failed(self, error: RainshedError, who: str) -> None:
        """Let the others stop, too."""
        if self.peers is not None:
            self.peers.tell_failed(error, who=who)

    def stall(self, waiting: Sequence[Recv], waited_s: float, label: int) -> StallError:
        """What this machine has waited for, too long."""
        if not waiting or self.peers is None:
            return StallError(f"{self.machine} waited {waited_s:.1f} s and nothing is due; step {label} is stopped")
        first = waiting[0]
        value = self._program.values[first.value]
        named = f"{value.of}{text_of(value.box)} " if value.of else ""
        heard_s = self.peers.last_heard_s(first.source)
        others = ", ".join(f"{r.key} from {r.source}" for r in waiting[1:6])
        return StallError(
            f"{self.machine} waited {waited_s:.1f} s for {named}{type_of(value)} ({value.nbytes} bytes) from "
            f"{first.source}, last heard {heard_s:.1f} s ago; step {label} is stopped",
            also_due=others + (", ..." if len(waiting) > 6 else "") or None,
        )

    def close(self) -> None:
        """Nothing may arrive any more; under the lock."""
        self._closed = True

    # -- values that leave ----

    def transfer(self, i: int) -> bool:
        """Do a send, or let a receive take its place; whether it is done already."""
        instruction = self._program.instructions[i]
        return self._send(i, instruction) if isinstance(instruction, Send) else self._post(instruction)

    def _send(self, i: int, send: Send) -> bool:
        recorder, step = self._recorder, self.step
        assert self.peers is not None  # checked when the program was loaded
        started_ns = _now_ns()

        def sent(error: RainshedError | None) -> None:
            if recorder is not None:
                recorder.add(SEND, send.key, started_ns, _now_ns(), step)
            if error is not None:
                self.abort(error)
            else:
                self._complete(i)

        if not self.peers.send(send.to, Value(step, send.key), self._loaded.payloads[i], sent):
            return False
        if recorder is not None:
            recorder.add(SEND, send.key, started_ns, _now_ns(), step)
        return True

    def _complete(self, i: int) -> None:
        """A transfer is done, on a thread that is not the pool's."""
        with self._wake:
            self._events.done(i)

    # -- values that arrive ----

    def _post(self, recv: Instruction) -> bool:
        assert isinstance(recv, Recv)
        with self._wake:
            then = self._rendezvous.post(recv.key)
        if then is not Then.COPY:
            return False
        self._copy_spare(recv.key, self.step)
        return True

    def place(self, source: str, message: Value, nbytes: int) -> memoryview:
        """Where the payload of a value goes. Raises ProtocolError for what was not planned."""
        with self._wake:
            if self._closed:
                raise ProtocolError(f"{self.machine} is closed")
            where = self._rendezvous.place(source, message.step, message.key, nbytes)
            if self._recorder is not None:
                self._started_ns[message.step & 1, message.key] = _now_ns()
            landing = self._landings.get((message.key, where))
            if landing is None:
                landing = self._landings[message.key, where] = self._landing(message.key, where)
        return landing

    def _landing(self, key: int, where: Where) -> memoryview:
        value, loaded = self._loaded.arrivals[key][1], self._loaded
        final = where is Where.FINAL
        return array_buffer(loaded.arrays[value] if final else loaded.buffers.spare(key, value, where))

    def arrived(self, source: str, message: Value) -> None:
        """All of the payload is there."""
        key, step = message.key, message.step
        if self._recorder is not None:
            self._recorder.add(RECV, key, self._started_ns.pop((step & 1, key)), _now_ns(), step)
        with self._wake:
            then = self._rendezvous.arrived(step, key)
            if then is Then.DONE:
                self._events.done(self._loaded.arrivals[key][0])
        if then is Then.COPY:
            self._copy_spare(key, step)
            self._complete(self._loaded.arrivals[key][0])

    def _copy_spare(self, key: int, step: int) -> None:
        value = self._loaded.arrivals[key][1]
        np.copyto(self._loaded.arrays[value], self._loaded.buffers.spare(key, value, Where(step & 1)))

    def peer_finished(self, source: str, step: int) -> None:
        with self._wake:
            if source not in self._finished_by or step != self._finished_by[source] + 1:
                raise ProtocolError(f"{self.machine}: {source} says that it ended step {step}, which was not due")
            self._finished_by[source] = step
            self._wake.notify_all()

    def abort(self, error: RainshedError, who: str = "") -> None:
        """A peer, or the connection to it, cannot go on."""
        self._events.abort(error, who)
