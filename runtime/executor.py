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

from rainshed.compiler.plan import Program, Run
from rainshed.ops.access import Box
from rainshed.ops.code_cache import can_compile
from rainshed.ops.errors import RainshedError, UsageError
from rainshed.ops.op import Op
from rainshed.runtime.buffers import Array
from rainshed.runtime.deadlines import Timeouts
from rainshed.runtime.dispatch import Dispatcher
from rainshed.runtime.exchange import Events, Exchange
from rainshed.runtime.fed import Feeds
from rainshed.runtime.initial import Told, untold
from rainshed.runtime.kernels import POLICIES, Call
from rainshed.runtime.loaded import Loaded, PartKey
from rainshed.runtime.peers import Peers
from rainshed.runtime.trace import RUN, WAIT, Recorder

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
        self._loaded = Loaded(program, ops, self._options.kernels, self._options.threads)
        self._dispatcher = Dispatcher(program)
        self._ran = 0
        step_s = sum(i.seconds for i in program.instructions if isinstance(i, Run))
        self._compile_at = min(self._options.compile_at, 1 + int(COMPILE_AFTER_S / max(step_s, 1e-9)))
        self._native = self._options.kernels == "native" and can_compile()
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._exchange = Exchange(self._loaded, peers, self._wake, Events(self._go_on, self.abort), self._recorder)
        if self._native and not self._options.compile_at:
            self._join(compiling=True)
        self._ready: list[int] = []  # heap of ranks
        self._cut: dict[int, list[int]] = {}  # instructions in pieces: how many have begun, and how many are not over
        self._idle = self._running = 0
        self._progress = (-1, 0.0)  # how much was left to do, and since when
        self._label = 0  # the caller's number of the step
        self._counted = 0  # the peers' number of it, which traces tell
        self._stepping = self._closed = False
        self._error: RainshedError | None = None
        self.failed_at = ""  # the machine where the error arose
        limit = self._options.blas_threads
        self._blas = None if limit is None else threadpool_limits(limit, "blas")
        self._helpers = [
            threading.Thread(target=self._help, name=f"rainshed {self.machine} {i}", daemon=True)
            for i in range(1, self._options.threads)
        ]
        self._exchange.attach()
        for thread in self._helpers:
            thread.start()

    # -- loading ----

    def _join(self, *, compiling: bool) -> None:
        """Join small kernels, between two steps. What is traced goes through machine code, too, each kernel by itself."""
        self._loaded.join(compiling=compiling, apart=self._recorder is not None)
        with self._lock:
            self._dispatcher.group([segment.members for segment in self._loaded.segments])

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
        self._label, self._counted = step, self._exchange.step
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
            if self._exchange.has_neighbours:
                self._stop(error)
            raise

    def _stop(self, error: BaseException) -> None:
        """The step cannot be ended: not here, and not by those who wait for what this machine would have sent."""
        what = f"step {self._label} of {self.machine} was interrupted by {type(error).__name__}"
        ours = error if isinstance(error, RainshedError) else RainshedError(what)
        self.abort(ours)
        self._exchange.tell_failed(ours, who=self.failed_at)

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
            self._exchange.wait_for_followers(self._options.timeouts.step_s, lambda: self._error)
            if self._error is not None:
                raise self._error
            ready, ranks = self._ready, self._dispatcher.ranks
            ready[:] = [ranks[i] for i in self._dispatcher.start()]
            heapify(ready)
            self._progress = (-1, 0.0)

    def _end(self) -> None:
        with self._lock:
            if self._error is not None:
                raise self._error
            tell_followers = self._exchange.finish()
        tell_followers()

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
                return self._exchange.transfer(i)
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
            if timeout_s <= 0 and self._exchange.sending and not self._dispatcher.waiting():
                timeout_s = limit_s  # a large value is on its way, and has a deadline of its own
            elif timeout_s <= 0:
                waited_s = now - self._progress[1]
                self._error = self._exchange.stall(self._dispatcher.waiting(), waited_s, self._label)
                self.failed_at = self.machine
                self._wake.notify_all()
                return
        started_ns = _now_ns() if main and self._recorder is not None else 0
        self._idle += 1
        self._wake.wait(timeout_s)
        self._idle -= 1
        if main and self._recorder is not None:
            self._recorder.add(WAIT, 0, started_ns, _now_ns(), self._counted)

    # -- events that come from outside ----

    def _go_on(self, i: int) -> None:
        """A transfer is done; under the lock."""
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
            self._exchange.close()
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
