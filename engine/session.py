"""A plan brought to life: run it again and again, for inference or for training in the graph.

with rs.Session(graph.bind(batch=32), rs.Cluster.local(4)) as session:
    outputs = session.run({"image": images})
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np

from rainshed.compiler.machines import Cluster
from rainshed.compiler.passes.lower_precision import FLOAT32
from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import Plan
from rainshed.engine.interrupts import Whole
from rainshed.engine.measured import Measured, counted, measured_of
from rainshed.engine.predicted import with_predicted
from rainshed.engine.progress import Work, telling
from rainshed.engine.user_op import ops_of
from rainshed.engine.variables import load_variables, save_variables
from rainshed.ops import CATALOGUE
from rainshed.ops.errors import DataError, RainshedError, UsageError
from rainshed.ops.ir import Graph
from rainshed.ops.op import Op
from rainshed.ops.types import dtype_of, whole_of
from rainshed.runtime.cluster.deployed import Deployed
from rainshed.runtime.cluster.here import Here
from rainshed.runtime.trace import write_trace

if TYPE_CHECKING:
    from rainshed.runtime.cluster.job import Job

__all__ = ["Session"]

Array = np.ndarray[Any, Any]
JOB: Final = "rainshed.runtime.cluster.job"  # loaded where there are several machines: one by itself has no need of it
BACKENDS: Final = ("auto", "here", "processes", "threads")


class Session:
    """A graph or plan on its machines, ready to run. Use it as a context manager, or close it: then nothing is left.

    what      a graph, which is compiled for `cluster` (one machine if not given), or a plan
    Threads may share one: its steps are made one after another. A process that was forked cannot use it, and closing it there does
    nothing: it belongs to who made it. Ctrl-C waits for the end of a step; a second one does not, and ends the session, since
    nobody knows then how far its variables have moved. One that is dropped is closed in the background.

    backend   "processes": one for each machine, on this computer; "threads": in this process, with the same messages between
              them; "here": one machine, in this process; "auto": "here" for one machine, else "processes"
    seed      of the variables' first values and of the compiler; None: the plan's, or 0
    strategy, place, rematerialize, precision  see rs.compile
    trace     record what every thread does, for `write_trace`
    ops       of the user's own, which a plan from a file uses; those of a graph are found in it
    on_work   told what the machines are busy with before the first step, where that takes longer than a second
    Raises    the compiler's errors; UsageError for words that it does not take
    """

    def __init__(
        self,
        what: Graph | Plan,
        cluster: Cluster | None = None,
        *,
        backend: Literal["auto", "here", "processes", "threads"] = "auto",
        seed: int | None = None,
        strategy: str = "auto",
        place: Mapping[str, str] | None = None,
        rematerialize: bool = False,
        precision: str = FLOAT32,
        trace: bool = False,
        ops: Iterable[Op] = (),
        on_work: Callable[[Work], None] | None = None,
    ) -> None:
        if backend not in BACKENDS:
            raise UsageError(f"a session has no back end {backend!r}", known=", ".join(BACKENDS))
        first = None if seed is None else whole_of(seed)
        if seed is not None and first is None:
            raise UsageError(f"a seed is a whole number; found {seed!r}")
        asked = {"seed": first or 0, "strategy": strategy, "place": place or {}}
        asked |= {"rematerialize": rematerialize, "precision": precision}
        self.plan = _planned(what, cluster, asked)
        self._traced, self._on_work = bool(trace), on_work
        self._lock = threading.RLock()  # of all that asks the machines for something
        self._pid, self._closed = os.getpid(), False
        self.step = 0  # the number of the next step
        self._seconds = 0.0
        self._steps = 0
        own = ops_of(what) if isinstance(what, Graph) else CATALOGUE
        known = {**own, **{op.name: op for op in ops}}
        self._types = {f.name: dtype_of(p.values[f.value].dtype) for p in self.plan.programs for f in p.feeds}
        self._interrupted = ""  # by what, if nobody knows any more where the machines are
        self._dropped: weakref.finalize[..., Session] | None = None
        self._job: Job | None = None
        self._here: Here | None = None
        try:
            self._deployment = self._deployed(backend, known)
            self._deployment.init(self.plan.seed if first is None else first)
        except BaseException as error:
            self.close()
            raise self._explained(error) from None
        self._dropped = weakref.finalize(self, _let_go, self._pid, self._job or self._here)
        self._dropped.atexit = False  # at the end of the process its threads end, and its workers see that it is gone

    def _deployed(self, backend: Literal["auto", "here", "processes", "threads"], known: Mapping[str, Op]) -> Deployed:
        if backend == "here" or (backend == "auto" and len(self.plan.machines) == 1):
            tell, who = self._on_work, f"machine {self.plan.machines[0]}"
            on_work = None if tell is None else lambda what: tell(Work(who, what))
            self._here = Here(self.plan, ops=known, trace=self._traced, on_work=on_work)
            return self._here
        own: Literal["processes", "threads"] = "threads" if backend == "threads" else "processes"
        job = import_module(JOB)
        options = job.JobOptions(backend=own, ops=known, on_work=telling(self._on_work))
        made: Job = job.Job(len(self.plan.machines), options)
        self._job = made
        return made.deploy(self.plan, made.agents, trace=self._traced)

    # -- running ------------------------------------------------------------------------------------------------------
    def run(self, feeds: Mapping[str, Any] | None = None) -> dict[str, Array]:
        """One step: the outputs by name. A graph with an optimizer or updates moves its variables.

        feeds   name of an input -> its value; lists and numbers take the input's element type, arrays must have it.
        Raises  DataError for feeds that do not fit, and nothing has run; else what went wrong on a machine
        """
        arrays = self._arrays({} if feeds is None else feeds)
        with self._at_work() as deployment:
            started = time.perf_counter()
            try:
                outputs = deployment.run(self.step, arrays)
            except RainshedError as error:
                raise self._explained(error) from None
            self._seconds += time.perf_counter() - started
            self._steps += 1
            self.step += 1
        return outputs

    @contextmanager
    def _at_work(self) -> Iterator[Deployed]:
        """The machines, for one caller at a time. Raises UsageError where nobody can ask them any more."""
        if os.getpid() != self._pid:
            hint = "make a session there, or start the process with multiprocessing's spawn and make one in it"
            raise UsageError(f"this session belongs to process {self._pid}, of which this one was forked", hint=hint)
        with Whole(), self._lock:
            if self._closed:
                raise UsageError("the session is closed")
            if self._interrupted:
                hint = "make a new session, and load a checkpoint"
                raise RainshedError(f"the session was interrupted by {self._interrupted}", hint=hint)
            try:
                yield self._deployment
            except Exception:
                raise
            except BaseException as error:
                self._interrupted = type(error).__name__
                raise

    def _arrays(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        if not isinstance(feeds, Mapping):
            raise DataError(
                f"feeds map names of inputs to values; found {type(feeds).__name__}",
                inputs=", ".join(self._types) or "none",
            )
        types, arrays = self._types, {}
        for name, value in feeds.items():
            typed = isinstance(value, np.ndarray | np.generic) or name not in types
            try:
                arrays[name] = np.asarray(value, None if typed else types[name].numpy)
            except (TypeError, ValueError) as error:
                raise DataError(f"input {name!r} is {types[name]}; found {type(value).__name__}: {error}") from None
        return arrays

    # -- variables ----------------------------------------------------------------------------------------------------
    def variables(self) -> dict[str, Array]:
        """Every variable, whole: only for models that fit here."""
        with self._at_work() as deployment:
            return deployment.variables()

    def set_variables(self, values: Mapping[str, Any]) -> None:
        """Set variables by name, each whole. Raises DataError before anything is set."""
        with self._at_work() as deployment:
            deployment.set_variables(values)

    def save(self, directory: str | Path) -> Path:
        """Write a checkpoint into the folder; its path. Raises CheckpointError."""
        with self._at_work() as deployment:
            return save_variables(deployment, directory, self.step)

    def load(self, path: str | Path) -> None:
        """Go on from a checkpoint or the newest of a folder, or take the variables of an .npz file.

        Raises  CheckpointError if it does not fit the plan
        """
        with self._at_work() as deployment:
            self.step = load_variables(deployment, path)

    # -- what happened ------------------------------------------------------------------------------------------------
    @property
    def pids(self) -> dict[str, int]:
        """Process of each machine."""
        return self._deployment.pids

    def bytes_between(self) -> dict[tuple[str, str], int]:
        """Payload bytes that have crossed for each (from, to), counted where they were sent."""
        with self._at_work() as deployment:
            return deployment.bytes_between()

    def peak_memory(self) -> dict[str, int]:
        """The most memory that each machine's process has held, in bytes."""
        with self._at_work() as deployment:
            return deployment.peak_memory()

    def measured(self) -> Measured:
        """The steps so far beside the plan's prediction: `rs.plan_html(session.plan, measured=session.measured())`.

        A step's time is what `run` took: it holds the way of inputs and outputs from and to this process.
        """
        with self._at_work() as deployment:
            seen = counted(self.plan, self._seconds / max(1, self._steps), self._steps, deployment.bytes_between())
            if not self._traced or not self._steps:
                return seen
            traced = measured_of(self.plan, deployment.traces())
        return replace(seen, messages=traced.messages, machines=traced.machines)

    def write_trace(self, path: str | Path) -> int:
        """Write what all machines did as Chrome trace JSON, on one clock, and the last step as it was predicted; the number
        of events.

        Raises  UsageError unless it was made with `trace=True`
        """
        if not self._traced:
            raise UsageError("this session records no trace", hint="Session(..., trace=True)")
        with self._at_work() as deployment:
            return write_trace(path, with_predicted(self.plan, deployment.traces()))

    def _explained(self, error: BaseException) -> BaseException:
        return self._job.explain(error) if self._job is not None and isinstance(error, RainshedError) else error

    def close(self) -> None:
        """End all workers; safe to call twice."""
        if os.getpid() != self._pid:
            return
        self._closed = True
        if self._dropped is not None:
            self._dropped.detach()
        for owned in (self._job, self._here):
            if owned is not None:
                owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _let_go(pid: int, owned: Job | Here | None) -> None:
    """Close what a session left behind. On a thread of its own: whoever collects garbage may be one of those that must end."""
    if owned is not None and os.getpid() == pid:
        threading.Thread(target=owned.close, name="rainshed close", daemon=True).start()


def _planned(what: Graph | Plan, cluster: Cluster | None, asked: Mapping[str, Any]) -> Plan:
    if isinstance(what, Plan):
        if cluster is not None or asked["place"] or asked["rematerialize"] or asked["precision"] != FLOAT32:
            has = "its cluster" if cluster is not None else "everything in its place"
            raise UsageError(f"a plan has {has} already", hint="compile the graph again")
        return what
    if not isinstance(what, Graph):
        raise UsageError(f"a session takes a graph or a plan; found {type(what).__name__}")
    return compile(what, cluster or Cluster.local(1), **asked)
