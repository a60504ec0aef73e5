"""Training a graph on a cluster: the coordinator's side. A method decides when parameters move.

    Single     the plan moves its own variables (in-graph updates), on any number of machines
    Downpour   replicas push gradients to a sharded parameter server and fetch parameters from it, each at its own pace

Source  Dean et al. 2012, section 4.1
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import Plan
from rainshed.engine.checkpoint import CheckpointFolder, CheckpointReader, latest
from rainshed.engine.crew import Crew
from rainshed.engine.data import ArrayData, Data, StreamData
from rainshed.engine.feeding import Feeder
from rainshed.engine.machine_side import Told, Train, Trained, inputs_of
from rainshed.engine.methods import Downpour, Single, TrainingOptions, TrainingResult
from rainshed.engine.optimizers import Optimizer
from rainshed.engine.predicted import with_predicted
from rainshed.engine.progress import Progress, Work, telling
from rainshed.engine.user_op import ops_of
from rainshed.engine.variables import load_variables, save_variables
from rainshed.ops.errors import RainshedError, UsageError
from rainshed.ops.ir import Graph
from rainshed.ops.types import number_of, whole_of
from rainshed.runtime.cluster.coordinator import AgentHandle, Answer
from rainshed.runtime.cluster.job import Deployment
from rainshed.runtime.documents import unpack
from rainshed.runtime.trace import MachineTrace, write_trace

MAX_TRAIN_S: Final = 30 * 24 * 3600.0  # of one order to train: each step in it has its own deadline


class Training:
    """A graph, its data and its workers, ready to train. Use it as a context manager, or close it.

    on_progress  told what replicas have done, on other threads
    on_work      told what processes are busy with before their steps and between them, on other threads
    Raises  the compiler's errors; DataError if the data does not fit the graph's inputs; UsageError for options that clash
    """

    def __init__(
        self,
        graph: Graph,
        data: Any,
        options: TrainingOptions | None = None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_work: Callable[[Work], None] | None = None,
    ) -> None:
        self.options = options or TrainingOptions()
        self.method = self.options.method
        self._on_progress, self._on_work = on_progress, telling(on_work)
        self.step = 0  # steps that each replica has made since the warm start
        self._warm = 0
        graph = self._with_rule(graph)
        self.graph = graph if graph.bound else graph.bind(batch=self.options.batch)
        self.plan = self._compile()
        self._data = self._checked(data)
        self._found = self._checkpoint_found()
        self._examples = 0  # of all replicas, those before a checkpoint too
        self._pid = os.getpid()
        self._crew = Crew(self.plan, self.options, ops_of(self.graph), self._reported, self._on_work)
        try:
            self._crew.deploy(self._data, self.rule)
            if self._found is not None:
                self._resume(self._found)
            else:
                self._crew.begin()
        except BaseException as error:
            self.close()
            raise self._explained(error) from None

    # -- making ready -------------------------------------------------------------------------------------------------
    def _with_rule(self, graph: Graph) -> Graph:
        given = self.options.optimizer
        rule = given.rule() if isinstance(given, Optimizer) else given
        if not isinstance(graph, Graph) or graph.loss is None:
            raise UsageError("training needs a graph with a loss", hint="rs.graph(loss=...)")
        rule = rule or graph.rule
        if rule is None:
            raise UsageError("training needs an optimizer", hint="rs.Adagrad(0.02), in the graph or in the options")
        self.rule = rule
        in_graph = rule if isinstance(self.method, Single) else None
        return Graph(graph.outputs, graph.updates, graph.loss, in_graph)

    def _compile(self) -> Plan:
        o = self.options
        return compile(
            self.graph,
            o.cluster,
            seed=o.seed,
            strategy=o.strategy,
            place=o.place,
            rematerialize=o.rematerialize,
            precision=o.precision,
        )

    def _checked(self, data: Any) -> Data:
        checked = Data.of(data).require(inputs_of(self.plan.programs))
        if isinstance(checked, ArrayData):
            for r in range(self.method.replicas):
                checked.shard(r, self.method.replicas).batches_per_epoch(self.options.batch)
        return checked

    def _checkpoint_found(self) -> Path | None:
        """The checkpoint to go on from, if that was asked for. Raises CheckpointError, before any work is done, where there is
        none, or none could be written when it is over."""
        folder = self.options.checkpoint
        if folder is None:
            if self.options.resume:
                raise UsageError("resume needs a checkpoint folder")
            return None
        found = latest(folder) if self.options.resume else None
        CheckpointFolder(folder).close()
        return found

    def _resume(self, path: Path) -> None:
        """A checkpoint's values, and its place in the data."""
        crew = self._crew
        if crew.state is not None:
            facts = crew.state.load(path, crew.replicas)
        else:
            load_variables(self.replica, path)
            with CheckpointReader(path) as reader:
                facts = dict(reader.metadata)
        examples = int(facts.get("examples", 0))
        self._examples = examples
        self.step = -(-examples // (self.options.batch * self.method.replicas))
        self._warm = 1
        crew.pull(crew.replicas)

    # -- training -----------------------------------------------------------------------------------------------------
    def run(self, steps: int | None = None, *, epochs: float | None = None) -> TrainingResult:
        """Train for so many batches, over all replicas together and with the warm start; or for passes over the data.

        Ctrl-C ends the workers, which would train on; from the last checkpoint another Training can resume.
        Raises  NotFiniteError if the loss is not a number; PeerLostError naming the process that was lost; StallError
        """
        total = self._steps(steps, epochs)
        started = time.monotonic()
        results: list[Trained] = []
        try:
            total -= self._warm_up(total, results)
            end = self.step + max(0, -(-total // self.method.replicas))
            every = -(-(self.options.checkpoint_every or max(1, total)) // self.method.replicas)
            while self.step < end:
                last = min(self.step + every, end)
                results += self._train(self._crew.replicas, self.step, last)
                self.step = last
                self._checkpoint()
            if not total:  # the warm start was all of it
                self._checkpoint()
        except Exception as error:
            raise self._explained(error) from None
        except BaseException:
            self.close()
            raise
        return self._result(results, time.monotonic() - started)

    def _checkpoint(self) -> None:
        if self.options.checkpoint is not None:
            self.save(self.options.checkpoint)

    def save(self, directory: str | Path) -> Path:
        """Write a checkpoint; its path. Raises CheckpointError: training can go on, older checkpoints are whole."""
        facts = {
            "examples": self._examples,
            "seed": self.options.seed,
            "batch": self.options.batch,
            "method": type(self.method).__name__,
            "replicas": self.method.replicas,
        }
        step = self._examples // self.options.batch
        if self._crew.state is not None:
            return self._crew.state.save(directory, step, facts)
        return save_variables(self.replica, directory, step, facts)

    def _steps(self, steps: int | None, epochs: float | None) -> int:
        if (steps is None) == (epochs is None):
            raise UsageError("training takes steps or epochs, one of them")
        if steps is None:
            passes = number_of(epochs)
            if passes is None:
                raise UsageError(f"epochs is a number; found {epochs!r}")
            if self._data.count is None:
                raise UsageError("a stream has no known end: give steps, not epochs")
            steps = int(passes * (self._data.count // self.options.batch))
        count = whole_of(steps)
        if count is None or count < 1:
            raise UsageError(f"steps is a whole number, 1 or more; found {steps!r}")
        return count

    def _warm_up(self, total: int, results: list[Trained]) -> int:
        """One replica alone, the first time; then the others take its parameters."""
        if not isinstance(self.method, Downpour) or self._warm:
            return 0
        warm = min(self.method.warm_start, total)
        if warm:
            results += self._train(self._crew.replicas[:1], 0, warm)
            self.step = warm
        self._warm = 1
        self._crew.pull(self._crew.replicas[1:])
        return warm

    def _train(self, replicas: Sequence[Deployment], first: int, last: int) -> list[Trained]:
        fed = isinstance(self._data, StreamData)
        answers: list[Answer] = []
        feeders: list[Feeder] = []
        for replica in replicas:
            r = self._crew.replicas.index(replica)
            spec = Train(first, last, self.options.batch, self.options.seed, r, self.method.replicas, fed)
            order = self._crew.job.coordinator.order
            answers += [order(agent, "train", spec, timeout_s=MAX_TRAIN_S) for agent in replica.agents]
            if isinstance(self._data, StreamData):
                stream = self._data.shard(r, self.method.replicas).batches(self.options.batch, self.options.seed, first)
                feeders.append(Feeder(replica, stream, range(first, last)))
        for feeder in feeders:
            feeder.start()
        try:
            results = [answer.get(Trained)[0] for answer in answers]
            self._examples += (last - first) * self.options.batch * len(replicas)
            return results
        finally:
            for feeder in feeders:
                feeder.stop()

    def _reported(self, agent: AgentHandle, kind: str, payload: memoryview) -> None:
        if kind == "progress" and self._on_progress is not None:
            told, _ = unpack(payload, Told)
            self._on_progress(
                Progress(
                    replica=told.replica,
                    step=told.step,
                    loss=told.loss,
                    examples=told.examples,
                    seconds=told.seconds,
                    staleness=told.staleness,
                    bytes_sent=told.bytes_sent,
                )
            )

    def _result(self, results: Sequence[Trained], seconds: float) -> TrainingResult:
        machines = len(self.plan.machines)
        steps = sum(r.steps for r in results) // machines
        losses = [r.loss for r in results if r.loss is not None]
        staleness: dict[int, int] = {}
        last: dict[int, Trained] = dict(enumerate(results[-machines * self.method.replicas :]))
        for r in last.values():
            for age, n in r.staleness.items():
                staleness[int(age)] = staleness.get(int(age), 0) + n
        return TrainingResult(
            steps=steps,
            seconds=seconds,
            loss=sum(losses[-self.method.replicas :]) / len(losses[-self.method.replicas :]) if losses else None,
            examples=steps * self.options.batch,
            bytes_sent=sum(r.sent_nbytes + r.pushed_nbytes + r.fetched_nbytes for r in last.values()),
            pushes=sum(r.pushes for r in last.values()),
            applied=sum(r.applied for r in last.values()),
            dup=sum(r.dup for r in last.values()),
            refused=sum(r.refused for r in last.values()),
            staleness=staleness,
        )

    # -- afterwards ---------------------------------------------------------------------------------------------------
    def pull(self) -> None:
        """Bring the server's parameters to the machines of the first replica."""
        self._crew.pull([self.replica])

    def variables(self) -> dict[str, np.ndarray]:
        """Every variable as it is now, whole: only for models that fit here."""
        self.pull()
        return self.replica.variables()

    @property
    def replica(self) -> Deployment:
        """The machines of the first replica."""
        return self._crew.replicas[0]

    @property
    def pids(self) -> dict[str, int]:
        """Process of each role: "r0/m1", "s0"."""
        return self._crew.pids

    def write_trace(self, path: str | Path) -> int:
        """Write what all machines did as Chrome trace JSON, on one clock, and a step of the first replica as it was predicted;
        the number of events."""
        return write_trace(path, with_predicted(self.plan, self.traces()))

    def traces(self) -> list[MachineTrace]:
        """What every machine did, replica by replica, on the clock of this process."""
        return self._crew.traces()

    def _explained(self, error: BaseException) -> BaseException:
        return self._crew.job.explain(error) if isinstance(error, RainshedError) else error

    def close(self) -> None:
        """End all workers; safe to call twice. In a process that was forked it does nothing: they belong to who made them."""
        if os.getpid() == self._pid:
            self._crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def train(
    graph: Graph,
    data: Any,
    options: TrainingOptions | None = None,
    *,
    steps: int | None = None,
    epochs: float | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[dict[str, np.ndarray], TrainingResult]:
    """Train a graph and give back its variables and what was done. See Training for more control."""
    with Training(graph, data, options, on_progress=on_progress) as training:
        result = training.run(steps, epochs=epochs)
        return training.variables(), result
