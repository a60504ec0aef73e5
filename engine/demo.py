"""What `rainshed demo` does: a network split over machines, trained by asynchronous replicas on real data, then tested.

The networks are so small that one machine would do; they are split all the same, to show how it is done.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from rainshed.compiler.machines import Cluster
from rainshed.compiler.plan import Plan
from rainshed.engine import models
from rainshed.engine.datasets import Split, digits, vote, vowels
from rainshed.engine.graph import evaluate
from rainshed.engine.measured import measured_of, newest
from rainshed.engine.methods import Downpour, Single, TrainingOptions, TrainingResult
from rainshed.engine.predicted import with_predicted
from rainshed.engine.progress import Progress
from rainshed.engine.training import Training
from rainshed.engine.view import Measured, plan_html
from rainshed.ops.errors import UsageError
from rainshed.ops.ir import Graph
from rainshed.runtime.cluster.job import Backend
from rainshed.runtime.trace import write_trace

TRACED_STEPS: Final = 20  # of each replica, the last ones: a page of all would be too large to look at
TEST_BATCH: Final = 1024

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Demo:
    """A network, its data, and the numbers that suit them. `strategy`: a split that gives all machines work."""

    name: str
    title: str
    build: Callable[[bool], Graph]
    data: Callable[[], Split]
    input: str
    batch: int
    steps: int
    warm_start: int
    strategy: str


DEMOS: Final[Mapping[tuple[str, str], Demo]] = {
    ("digits", "local"): Demo(
        "digits",
        "a locally connected network on handwritten digits",
        models.digits,
        digits,
        "image",
        32,
        900,
        100,
        "space",
    ),
    ("speech", "mlp"): Demo(
        "speech",
        "a fully connected network on windows of speech",
        models.speech,
        vowels,
        "window",
        64,
        450,
        50,
        "features",
    ),
    ("speech", "lstm"): Demo(
        "speech", "an LSTM on windows of speech", models.speech_lstm, vowels, "window", 64, 700, 50, "stages in slices"
    ),
}
FIRST_MODEL: Final = {"digits": "local", "speech": "mlp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """
    single  the same network by one replica on one machine, in this process: what the others are compared with
    out     where plan.html and trace.json go
    steps   batches of all replicas together; None: the demo's own
    """

    machines: int = 4
    replicas: int = 3
    servers: int = 2
    steps: int | None = None
    seed: int = 0
    single: bool = False
    backend: Backend = "processes"
    out: Path = field(default_factory=Path)


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What was seen. `accuracy` is that of held-out examples (frames of speech); `utterances` only of speech."""

    demo: Demo
    plan: Plan
    result: TrainingResult
    accuracy: float
    utterances: float | None
    seconds: float
    pids: Mapping[str, int]
    measured: Measured  # the last steps of the first replica
    page: Path | None = None
    trace: Path | None = None


def demo_of(data: str, model: str | None) -> Demo:
    """Raises UsageError if this data has no such model."""
    found = DEMOS.get((data, model or FIRST_MODEL.get(data, "")))
    if found is None:
        known = ", ".join(f"{d} {m}" for d, m in DEMOS)
        raise UsageError(f"there is no demo of {data} with the model {model!r}", known=known)
    return found


def options_of(demo: Demo, options: DemoOptions) -> TrainingOptions:
    """How the demo is trained."""
    if options.single:
        return TrainingOptions(
            cluster=Cluster.local(1),
            method=Single(),
            batch=demo.batch,
            seed=options.seed,
            backend="threads",
            strategy="one",
        )
    method = Downpour(replicas=options.replicas, servers=options.servers, warm_start=demo.warm_start)
    return TrainingOptions(
        cluster=Cluster.local(options.machines, replicas=options.replicas),
        method=method,
        batch=demo.batch,
        seed=options.seed,
        backend=options.backend,
        strategy=demo.strategy if options.machines > 1 else "one",
        trace=True,
    )


def run_demo(
    demo: Demo,
    options: DemoOptions,
    *,
    on_start: Callable[[Training], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> DemoResult:
    """Train and test. `on_start` is called when all processes are there and the page of the plan is written."""
    started = time.monotonic()
    split = demo.data()
    train = {name: split.train[name] for name in (demo.input, "label")}
    page, trace = options.out / "plan.html", options.out / "trace.json"
    with Training(demo.build(True), train, options_of(demo, options), on_progress=on_progress) as training:
        pids = {"coordinator": os.getpid()} | ({} if options.backend == "threads" or options.single else training.pids)
        if not options.single:
            page.write_text(plan_html(training.plan, title=_title(demo, training.plan)), encoding="utf-8")
        if on_start is not None:
            on_start(training)
        result = training.run(options.steps or demo.steps)
        variables = training.variables()
        measured = Measured() if options.single else _write_what_was_seen(demo, training, page, trace)
    accuracy, utterances = score(demo, split, variables)
    seconds = time.monotonic() - started
    found = DemoResult(demo, training.plan, result, accuracy, utterances, seconds, pids, measured)
    return found if options.single else replace(found, page=page, trace=trace)


def _title(demo: Demo, plan: Plan) -> str:
    return f"{demo.title[0].upper()}{demo.title[1:]}, on {len(plan.machines)} machines"


def _write_what_was_seen(demo: Demo, training: Training, page: Path, trace: Path) -> Measured:
    """The page again, with what the first replica's last steps took; and the trace of all replicas' last steps."""
    traces = newest(training.traces(), TRACED_STEPS)
    write_trace(trace, with_predicted(training.plan, traces))
    first = traces[: len(training.plan.machines)]
    measured = measured_of(training.plan, first)
    page.write_text(plan_html(training.plan, measured=measured, title=_title(demo, training.plan)), encoding="utf-8")
    return measured


def score(demo: Demo, split: Split, variables: Mapping[str, Array]) -> tuple[float, float | None]:
    """Accuracy on the held-out examples, and on whole utterances if there are any; by plain NumPy in this process."""
    graph, test = demo.build(False), split.test
    known = {name: variables[name] for name in graph.variables}
    count = len(test["label"])
    parts = [
        evaluate(graph, {demo.input: test[demo.input][i : i + TEST_BATCH]}, variables=known)["log_probabilities"]
        for i in range(0, count, TEST_BATCH)
    ]
    scores = np.concatenate(parts)
    accuracy = float(np.mean(scores.argmax(axis=1) == test["label"]))
    if "utterance" not in test:
        return accuracy, None
    utterance = test["utterance"].astype(np.int64)
    truth = np.zeros(int(utterance.max()) + 1, np.int64)
    truth[utterance] = test["label"]
    return accuracy, float(np.mean(vote(scores, utterance) == truth))
