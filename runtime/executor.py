"""One machine runs its program: the threads that take what the dispatcher makes ready, and what wakes or stops them.

The calling thread works too. A thread goes on with what its own instruction made ready; others are woken only where
there is enough to do, so a chain of small kernels stays on one thread. Nothing is allocated within a step, but for the
outputs that are handed out.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from rainshed.compiler.plan import Instruction, Program, Recv, Run, Send
from rainshed.ops.access import Box
from rainshed.ops.code_cache import can_compile
from rainshed.ops.errors import ProtocolError, RainshedError, StallError, UsageError
from rainshed.ops.op import Op
from rainshed.runtime.buffers import Array
from rainshed.runtime.deadlines import Timeouts
from rainshed.runtime.dispatch import Dispatcher
from rainshed.runtime.fed import Feeds
from rainshed.runtime.initial import Told, untold
from rainshed.runtime.kernels import POLICIES, Call, text_of, type_of
from rainshed.runtime.loaded import Loaded, PartKey
from rainshed.runtime.messages import Finished, Value
from rainshed.runtime.peers import Peers
from rainshed.runtime.rendezvous import Rendezvous, Then, Where
from rainshed.runtime.trace import RECV, RUN, SEND, WAIT, Recorder
from rainshed.runtime.wire import array_buffer

# Steps without machine code that must be compiled first, and their predicted seconds: a short run does not wait for a compiler.
COMPILE_AT: Final = 10
COMPILE_AFTER_S: Final = 1.0
_now_ns = time.perf_counter_ns


@dataclass(frozen=True, slots=True)
class Options:
    """How a machine runs.

    blas_threads  of one matrix product; None leaves the process as it is
    kernels       of POLICIES (see runtime/kernels.py); by default what RAINSHED_KERNELS says
    compile_at    the step before which loops that the cache on disk lacks are compiled, earlier where steps take long; 0: before
                  anything runs
    """

    threads: int = 1
    blas_threads: int | None = 1
    timeouts: Timeouts = field(default_factory=Timeouts)
    recorder: Recorder | None = None
    compile_at: int = COMPILE_AT
    kernels: str = field(default_factory=lambda: os.environ.get("RAINSHED_KERNELS") or POLICIES[0])

    def __post_init__(self) -> None:
        if self.threads < 1 or (self.blas_threads is not None and self.blas_threads < 1):
            raise UsageError(f"a machine has at least one thread; found {self.threads}, blas {self.blas_threads}")
        if self.kernels not in POLICIES:
            raise UsageError(f"there are no kernels {self.kernels!r} (RAINSHED_KERNELS)", known=", ".join(POLICIES))


class Executor:
    """One machine's program, loaded. One caller at a time; after an error it only repeats that error.

    Raises  PlanError, at construction, for a program that cannot run here
    """

    def __init__(
        self, program: Program, *, ops: Mapping[str, Op], peers: Peers | None = None, options: Options | None = None
    ) -> None:
        self.program = program
        self.machine = program.machine
        self._options = options or Options()
        self._recorder = self._options.recorder
        self._rendezvous = Rendezvous(program)
        self._loaded = Loaded(program, ops, self._options.kernels, self._options.threads)
        self._dispatcher = Dispatcher(program)
        self._ran = 0
        step_s = sum(i.seconds for i in program.instructions if isinstance(i, Run))
        self._compile_at = min(self._options.compile_at, 1 + int(COMPILE_AFTER_S / max(step_s, 1e-9)))
        self._native = self._options.kernels == "native" and self._recorder is None and can_compile()
        self._peers = self._checked_peers(peers)
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        if self._native and not self._options.compile_at:
            self._join(compiling=True)
        self._ready: list[int] = []  # heap of ranks
        self._cut: dict[int, list[int]] = {}  # instructions in pieces: how many have begun, and how many are not over
        self._idle = self._running = 0
        self._progress = (-1, 0.0)  # how much was left to do, and since when
        self._label = 0  # the caller's number of the step
        self._counted = (
            0  # the peers' number of it, which traces tell: alike on all machines, and known of early arrivals
        )
        self._stepping = self._closed = False
        self._error: RainshedError | None = None
        self.failed_at = ""  # the machine where the error arose
        self._finished_by = dict.fromkeys(self._runaways, -1)
        self._started_ns: dict[tuple[int, int], int] = {}  # arrivals that are traced
        self._landings: dict[tuple[int, Where], memoryview] = {}  # where payloads have gone, by transfer
        limit = self._options.blas_threads
        self._blas = None if limit is None else threadpool_limits(limit, "blas")
        self._helpers = [
            threading.Thread(target=self._help, name=f"rainshed {self.machine} {i}", daemon=True)
            for i in range(1, self._options.threads)
        ]
        if self._peers is not None:
            self._peers.attach(self)
        for thread in self._helpers:
            thread.start()

    # -- loading ----

    def _join(self, *, compiling: bool) -> None:
        """Join small kernels, between two steps. What is traced stays apart."""
        self._loaded.join(compiling=compiling)
        with self._lock:
            self._dispatcher.group([segment.members for segment in self._loaded.segments])

    def _checked_peers(self, peers: Peers | None) -> Peers | None:
        talks = [i for i in self.program.instructions if isinstance(i, Send | Recv)]
        if peers is None and talks:
            raise UsageError(f"the program of {self.machine} exchanges values: it needs peers")
        # Those that this machine sends to and hears nothing from: they must say when they have caught up.
        self._runaways = () if peers is None else tuple(sorted(peers.neighbours.targets - peers.neighbours.sources))
        self._followers = () if peers is None else tuple(sorted(peers.neighbours.sources - peers.neighbours.targets))
        return peers

    # -- variables ----

    def set_variable(self, name: str, box: Box, array: Any) -> None:
        """Give a part of a variable its value: of exactly its shape and element type. Raises DataError."""
        self._between_steps().set_variable(name, box, array)

    def get_variable(self, name: str, box: Box) -> Array:
        """A copy of a part of a variable that this machine owns."""
        return self._between_steps().get_variable(name, box)

    def variable_array(self, name: str, box: Box) -> Array:
        """The machine's own array of a part of a variable: whoever fills it, does so between steps."""
        return self._between_steps().variable_array(name, box)

    def init_variables(self, seed: int, told: Told = untold) -> None:
        """Give every variable its first value: the same numbers however it is split. `told`: of bytes done, and of all."""
        self._between_steps().init_variables(seed, told)

    def _between_steps(self) -> Loaded:
        if self._stepping:
            raise UsageError(f"{self.machine}: variables cannot be read or written within a step")
        return self._loaded

    # -- a step ----

    def run(self, step: int, feeds: Feeds, *, copy: bool = True) -> dict[PartKey, Array]:
        """Run one step and return the parts of outputs that this machine computes.

        step    the value that random ops and optimizers see
        copy    False: the arrays are the machine's own, valid until its next step
        Raises  DataError for feeds that do not fit, before anything has begun; KernelError, StallError, PeerLostError
                and others: the step is stopped, here and on all machines, and this executor cannot run another
        """
        self._check_usable()
        if self._native and self._ran and self._ran in (1, self._compile_at):
            self._join(compiling=self._ran >= self._compile_at)  # the first step waits for nothing
        self._ran += 1
        self._label, self._counted = step, self._rendezvous.step
        self._stepping = True
        try:
            self._feed(step, feeds)
            self._go()
        finally:
            self._stepping = False
        return self._loaded.outputs(copy=copy)

    def _go(self) -> None:
        try:
            with np.errstate(all="ignore"):
                self._start()
                self._work(main=True)
            self._end()
        except BaseException as error:
            self._stop(error)
            raise

    def _feed(self, step: int, feeds: Feeds) -> None:
        """Feeds that do not fit spoil nothing here, but the neighbours may have begun and wait for this machine."""
        try:
            self._loaded.feed(step, feeds)
        except BaseException as error:
            if self._peers is not None and self._peers.neighbours.all:
                self._stop(error)
            raise

    def _stop(self, error: BaseException) -> None:
        """The step cannot be ended: not here, and not by those who wait for what this machine would have sent."""
        what = f"step {self._label} of {self.machine} was interrupted by {type(error).__name__}"
        ours = error if isinstance(error, RainshedError) else RainshedError(what)
        self.abort(ours)
        if self._peers is not None:
            self._peers.tell_failed(ours, who=self.failed_at)

    def check_feeds(self, feeds: Feeds) -> None:
        """Raises DataError unless the arrays of `feeds` are what this machine reads; functions are not called."""
        self._loaded.check_feeds(feeds)

    def _check_usable(self) -> None:
        if self._closed:
            raise UsageError(f"the executor of {self.machine} is closed")
        if self._stepping:
            raise UsageError(f"{self.machine} runs a step already")
        if self._error is not None:
            self._stop(self._error)  # it may have come between two steps, and the others know nothing of it
            raise self._error

    def _start(self) -> None:
        with self._lock:
            self._wait_for_followers()
            ready, ranks = self._ready, self._dispatcher.ranks
            ready[:] = [ranks[i] for i in self._dispatcher.start()]
            heapify(ready)
            self._progress = (-1, 0.0)

    def _wait_for_followers(self) -> None:
        """A machine that only sends may be one step ahead of those that it sends to."""
        due = self._rendezvous.step - 2
        limit_s = self._options.timeouts.step_s
        slow = [name for name, step in self._finished_by.items() if step < due]
        if slow and not self._wake.wait_for(lambda: self._error or min(self._finished_by.values()) >= due, limit_s):
            raise StallError(
                f"{self.machine} waited {limit_s:.3g} s for {slow[0]} to end step {due}, to go on with {due + 2}"
            )
        if self._error is not None:
            raise self._error

    def _end(self) -> None:
        with self._lock:
            if self._error is not None:
                raise self._error
            step = self._rendezvous.step
            self._rendezvous.finish()
        for name in self._followers:
            assert self._peers is not None
            self._peers.say(name, Finished(step))

    # -- the threads ----

    def _help(self) -> None:
        with np.errstate(all="ignore"):
            self._work(main=False)

    def _work(self, *, main: bool) -> None:
        """Take what is ready: the caller until the step is over, a helper until the executor closes."""
        lock, ready, dispatcher = self._lock, self._ready, self._dispatcher
        ranks, calls, big, n = dispatcher.ranks, self._loaded.calls, self._loaded.big, len(self._loaded.calls)
        done, perform, pieces = dispatcher.done, self._perform, self._loaded.pieces
        with lock:
            while True:
                if self._error is not None or self._closed:
                    if main or self._closed:
                        return
                elif main and not dispatcher.remaining:
                    return
                elif ready:
                    i = heappop(ready) % n
                    call = pieces[i][self._piece(i)] if i in pieces else calls[i]
                    if self._idle and ready and big[i]:
                        self._wake.notify()
                    self._running += 1
                    lock.release()
                    try:
                        over = perform(i, call)
                    finally:
                        lock.acquire()
                        self._running -= 1
                    if over and (i not in pieces or self._last_piece(i)):
                        for j in done(i):
                            heappush(ready, ranks[j])
                        if self._idle and not dispatcher.remaining and not main:
                            self._wake.notify_all()  # the caller waits for the end
                    continue
                self._wait(main=main)

    def _piece(self, i: int) -> int:
        """Begin the next piece of instruction `i`: its number; the instruction stays ready while it has more."""
        count, begin = len(self._loaded.pieces[i]), self._loaded.begin.get(i)
        if begin is not None and i not in self._cut:
            begin()
        begun = self._cut.setdefault(i, [0, count])
        begun[0] += 1
        if begun[0] < count:
            heappush(self._ready, self._dispatcher.ranks[i])
        return begun[0] - 1

    def _last_piece(self, i: int) -> bool:
        """A piece is over: whether it was the last."""
        self._cut[i][1] -= 1
        if self._cut[i][1]:
            return False
        del self._cut[i]
        return True

    def _perform(self, i: int, call: Call | None) -> bool:
        """Do one instruction; whether it is done. What it raises, stops the step."""
        recorder = self._recorder
        started_ns = _now_ns() if recorder is not None else 0
        try:
            if call is None:
                return self._transfer(i)
            call()
        except Exception as error:
            self.abort(self._error_of(i, error))
            return False
        if recorder is not None:
            recorder.add(RUN, i, started_ns, _now_ns(), self._counted)
        return True

    def _error_of(self, i: int, error: Exception) -> RainshedError:
        """A kernel's error says where it arose; a peer's says so already."""
        if self._loaded.calls[i] is None and isinstance(error, RainshedError):
            return error
        return self._loaded.kernels.error(i, error)

    def _wait(self, *, main: bool) -> None:
        """Wait for something to happen; under the lock. The caller's thread keeps the deadline of the step."""
        timeout_s: float | None = None
        if main:
            left, now = self._dispatcher.remaining, time.monotonic()
            if left != self._progress[0] or self._running:
                self._progress = (left, now)
            limit_s = self._options.timeouts.step_s
            timeout_s = self._progress[1] + limit_s - now
            if timeout_s <= 0 and self._peers is not None and self._peers.sending and not self._dispatcher.waiting():
                timeout_s = limit_s  # a large value is on its way, and has a deadline of its own
            elif timeout_s <= 0:
                self._error, self.failed_at = self._stall(now - self._progress[1]), self.machine
                self._wake.notify_all()
                return
        started_ns = _now_ns() if main and self._recorder is not None else 0
        self._idle += 1
        self._wake.wait(timeout_s)
        self._idle -= 1
        if main and self._recorder is not None:
            self._recorder.add(WAIT, 0, started_ns, _now_ns(), self._counted)

    def _stall(self, waited_s: float) -> StallError:
        waiting = self._dispatcher.waiting()
        if not waiting or self._peers is None:
            return StallError(
                f"{self.machine} waited {waited_s:.1f} s and nothing is due; step {self._label} is stopped"
            )
        first = waiting[0]
        value = self.program.values[first.value]
        named = f"{value.of}{text_of(value.box)} " if value.of else ""
        heard_s = self._peers.last_heard_s(first.source)
        others = ", ".join(f"{r.key} from {r.source}" for r in waiting[1:6])
        return StallError(
            f"{self.machine} waited {waited_s:.1f} s for {named}{type_of(value)} ({value.nbytes} bytes) from "
            f"{first.source}, last heard {heard_s:.1f} s ago; step {self._label} is stopped",
            also_due=others + (", ..." if len(waiting) > 6 else "") or None,
        )

    # -- values that leave ----

    def _transfer(self, i: int) -> bool:
        """Do a send, or let a receive take its place; whether it is done already."""
        instruction = self.program.instructions[i]
        return self._send(i, instruction) if isinstance(instruction, Send) else self._post(instruction)

    def _send(self, i: int, send: Send) -> bool:
        recorder = self._recorder
        assert self._peers is not None  # checked when the program was loaded
        started_ns = _now_ns()
        message, label = Value(self._rendezvous.step, send.key), self._counted

        def sent(error: RainshedError | None) -> None:
            if recorder is not None:
                recorder.add(SEND, send.key, started_ns, _now_ns(), label)
            if error is not None:
                self.abort(error)
            else:
                self._complete(i)

        if not self._peers.send(send.to, message, self._loaded.payloads[i], sent):
            return False
        if recorder is not None:
            recorder.add(SEND, send.key, started_ns, _now_ns(), label)
        return True

    # -- values that arrive: the Receiver of the peers ----

    def _post(self, recv: Instruction) -> bool:
        assert isinstance(recv, Recv)
        with self._lock:
            then = self._rendezvous.post(recv.key)
        if then is not Then.COPY:
            return False
        self._copy_spare(recv.key, self._rendezvous.step)
        return True

    def place(self, source: str, message: Value, nbytes: int) -> memoryview:
        """Where the payload of a value goes. Raises ProtocolError for what was not planned."""
        with self._lock:
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
        with self._lock:
            then = self._rendezvous.arrived(step, key)
            if then is Then.DONE:
                self._go_on(self._loaded.arrivals[key][0])
        if then is Then.COPY:
            self._copy_spare(key, step)
            self._complete(self._loaded.arrivals[key][0])

    def _copy_spare(self, key: int, step: int) -> None:
        value = self._loaded.arrivals[key][1]
        np.copyto(self._loaded.arrays[value], self._loaded.buffers.spare(key, value, Where(step & 1)))

    def _complete(self, i: int) -> None:
        """A transfer is done, on a thread that is not the pool's."""
        with self._lock:
            self._go_on(i)

    def _go_on(self, i: int) -> None:
        """The same, under the lock."""
        if self._error is not None:
            return
        ranks = self._dispatcher.ranks
        for j in self._dispatcher.done(i):
            heappush(self._ready, ranks[j])
        if self._idle:
            if self._dispatcher.remaining:
                self._wake.notify(len(self._ready))
            else:
                self._wake.notify_all()

    def peer_finished(self, source: str, step: int) -> None:
        with self._lock:
            if source not in self._finished_by or step != self._finished_by[source] + 1:
                raise ProtocolError(f"{self.machine}: {source} says that it ended step {step}, which was not due")
            self._finished_by[source] = step
            self._wake.notify_all()

    # -- the end ----

    def abort(self, error: RainshedError, who: str = "") -> None:
        """Stop the step that runs, and refuse all others; the first error stays. From any thread.

        who    the machine where it arose, if not here
        """
        with self._lock:
            if self._error is None:
                self._error, self.failed_at = error, who or self.machine
            self._wake.notify_all()

    def close(self) -> None:
        """End the threads; safe to call twice. The peers and their endpoint belong to who made them."""
        with self._lock:
            self._closed = True
            self._wake.notify_all()
        for thread in self._helpers:
            thread.join(self._options.timeouts.dead_s)
        if self._blas is not None:
            self._blas.restore_original_limits()
            self._blas = None

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
