"""A whole plan in this process: one executor per machine, real frames over inproc:// between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from rainshed.compiler.plan import Plan
from rainshed.ops.errors import DataError, UsageError
from rainshed.ops.op import Op
from rainshed.runtime.auth import Identity, new_token
from rainshed.runtime.buffers import Array
from rainshed.runtime.deadlines import Timeouts
from rainshed.runtime.executor import Executor, Options
from rainshed.runtime.fed import Feeds
from rainshed.runtime.kernels import part_of, slices
from rainshed.runtime.peers import Peers
from rainshed.runtime.trace import MachineTrace, Recorder, write_trace
from rainshed.runtime.traced import machine_trace
from rainshed.runtime.transport import Endpoint, listen

_JOB: Final = "local"


class LocalCluster:
    """The machines of one plan as threads. Use it as a context manager, or close it.

    threads   of each machine
    uri       "inproc://" or "tcp://": over what they talk
    Raises    PlanError for a plan that cannot run here
    """

    def __init__(
        self,
        plan: Plan,
        *,
        ops: Mapping[str, Op],
        threads: int = 1,
        timeouts: Timeouts | None = None,
        trace: bool = False,
        uri: str = "inproc://",
    ) -> None:
        self.plan = plan
        self.step = 0
        self._traced = trace
        self._closed = False
        self._recorders: dict[str, Recorder] = {}
        self._executors: dict[str, Executor] = {}
        self._peers: dict[str, Peers] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._pool = ThreadPoolExecutor(max(1, len(plan.programs)), thread_name_prefix="rainshed machine")
        try:
            self._load(ops, threads, timeouts or Timeouts(), uri)
        except BaseException:
            self.close()
            raise

    def _load(self, ops: Mapping[str, Op], threads: int, timeouts: Timeouts, uri: str) -> None:
        token, plan_hash = new_token(), self.plan.hash
        for program in self.plan.programs:
            name = program.machine
            if self._traced:
                self._recorders[name] = Recorder()
            options = Options(threads=threads, timeouts=timeouts, recorder=self._recorders.get(name))
            self._peers[name] = peers = Peers(program, timeouts)
            self._executors[name] = Executor(program, ops=ops, peers=peers, options=options)
            self._endpoints[name] = listen(uri, Identity("machine", name, _JOB, 0, plan_hash), token, peers, timeouts)
        addresses = {name: endpoint.address for name, endpoint in self._endpoints.items()}
        self._each(lambda name: self._peers[name].connect(self._endpoints[name], addresses))

    # -- running ----

    def run(self, feeds: Feeds, *, step: int | None = None) -> dict[str, Array]:
        """Run a step on all machines and put the outputs together; `step` is the next one unless it is given.

        Raises  DataError for feeds that do not fit; else the error of the machine that failed first
        """
        if self._closed:
            raise UsageError("this cluster is closed")
        known = {feed.name for program in self.plan.programs for feed in program.feeds}
        strange = [name for name in feeds if name not in known]
        if strange:
            raise DataError(f"the plan has no input {strange[0]!r}", inputs=", ".join(sorted(known)) or "none")
        for executor in self._executors.values():
            executor.check_feeds(feeds)  # of all machines, before the first of them begins
        number = self.step if step is None else step
        parts = self._each(lambda name: self._executors[name].run(number, feeds, copy=False))
        self.step = number + 1
        wholes: dict[str, Array] = {}
        for program in self.plan.programs:
            for output in program.outputs:
                part = parts[program.machine][output.name, output.box]
                if output.name not in wholes:
                    wholes[output.name] = np.empty(output.whole, part.dtype)
                part_of(wholes[output.name], output.box)[...] = part
        return wholes

    def _each(self, task: Callable[[str], Any]) -> dict[str, Any]:
        """Do the task for every machine at once, the first on this thread. Raises what went wrong where it began."""
        raised: dict[str, BaseException] = {}

        def guarded(name: str) -> Any:
            try:
                return task(name)
            except BaseException as error:
                raised[name] = error
                return None

        first, *others = self.plan.machines
        futures = {name: self._pool.submit(guarded, name) for name in others}
        results = {first: guarded(first), **{name: future.result() for name, future in futures.items()}}
        for name, error in raised.items():
            if self._executors[name].failed_at in ("", name):
                raise error
        for error in raised.values():
            raise error
        return results

    # -- variables ----

    def init(self, seed: int) -> None:
        """Give every variable its first value."""
        self._each(lambda name: self._executors[name].init_variables(seed))

    def variables(self) -> dict[str, Array]:
        """A copy of every variable, put together."""
        wholes: dict[str, Array] = {}
        for program in self.plan.programs:
            for v in program.variables:
                part = self._executors[program.machine].get_variable(v.name, v.box)
                if v.name not in wholes:
                    wholes[v.name] = np.empty(v.whole, part.dtype)
                part_of(wholes[v.name], v.box)[...] = part
        return wholes

    def set_variables(self, values: Mapping[str, Any]) -> None:
        """Set variables by name, each as a whole. Raises DataError; nothing is then set."""
        wholes = {v.name: v.whole for program in self.plan.programs for v in program.variables}
        arrays = {name: np.asarray(value) for name, value in values.items()}
        for name, array in arrays.items():
            if name not in wholes:
                raise DataError(f"the plan has no variable {name!r}", variables=", ".join(sorted(wholes)) or "none")
            if array.shape != wholes[name]:
                raise DataError(f"variable {name!r} has shape {list(wholes[name])}; found {list(array.shape)}")
        for program in self.plan.programs:
            for v in program.variables:
                if v.name in arrays:
                    part = arrays[v.name][slices(v.box)]
                    self._executors[program.machine].set_variable(v.name, v.box, part)

    # -- what happened ----

    @property
    def bytes_between(self) -> dict[tuple[str, str], int]:
        """Payload bytes that have crossed for each (from, to), counted where they were sent."""
        return {
            (name, to): nbytes
            for name, peers in self._peers.items()
            for to, nbytes in peers.sent_nbytes.items()
            if nbytes
        }

    @property
    def arrived(self) -> dict[int, tuple[int, int]]:
        """Key of each transfer -> messages and payload bytes that have crossed, counted where they came."""
        return {key: seen for peers in self._peers.values() for key, seen in peers.arrived.items()}

    def traces(self) -> list[MachineTrace]:
        """What each machine did. Raises UsageError unless the cluster was made with `trace=True`."""
        if not self._traced:
            raise UsageError("this cluster records no trace: make it with trace=True")
        transfers = self.plan.transfers
        return [machine_trace(p, transfers, self._recorders[p.machine]) for p in self.plan.programs]

    def write_trace(self, path: str | Path) -> int:
        """Write the trace of all machines as Chrome trace JSON; the number of its events."""
        return write_trace(path, self.traces())

    def close(self) -> None:
        """End all threads; safe to call twice."""
        self._closed = True
        for endpoint in self._endpoints.values():
            endpoint.close()
        for peers in self._peers.values():
            peers.close()
        for executor in reversed(self._executors.values()):
            executor.close()
        self._pool.shutdown()

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
