"""A stream of examples, which one process only can read, on its way to the machines of a replica."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from rainshed.engine.machine_side import FedParts
from rainshed.ops.errors import DataError, RainshedError
from rainshed.runtime.cluster.coordinator import Answer
from rainshed.runtime.cluster.job import Deployment
from rainshed.runtime.cluster.orders import Nothing

MAX_WAIT_S: Final = 30 * 24 * 3600.0  # a batch waits until its step begins; each step has its own deadline
UNDER_WAY: Final = 4  # batches that are sent ahead


class Feeder:
    """A thread that reads a stream and sends each machine of a replica its parts, a few steps ahead."""

    def __init__(self, replica: Deployment, batches: Any, steps: range) -> None:
        self._replica, self._batches, self._steps = replica, batches, steps
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"rainshed feeds {replica.group}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No more batches. A stream that gives nothing and does not end keeps the thread, not the caller."""
        self._stopped.set()
        self._thread.join(self._replica.job.timeouts.rpc_s)

    def _run(self) -> None:
        coordinator = self._replica.job.coordinator
        under_way: list[list[Answer]] = []
        try:
            for step in self._steps:
                if len(under_way) >= UNDER_WAY:
                    for answer in under_way.pop(0):
                        answer.get(Nothing)
                if self._stopped.is_set():
                    return
                batch = self._next(step)
                if self._stopped.is_set():
                    return
                if batch is None:
                    raise DataError(
                        f"the data ended before step {step}", hint="fewer steps, or a stream that begins anew"
                    )
                under_way.append(self._send(step, batch))
        except RainshedError as error:
            if not self._stopped.is_set():
                coordinator.fail(error)

    def _next(self, step: int) -> Mapping[str, np.ndarray] | None:
        """The stream's next batch; None at its end. Raises DataError for whatever the user's lines raise."""
        try:
            return next(self._batches, None)
        except RainshedError:
            raise
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            what = f"the stream failed before step {step}: {type(error).__name__}: {error}"
            raise DataError(what, raised_at=f"{last.filename}:{last.lineno}") from error

    def _send(self, step: int, batch: Mapping[str, np.ndarray]) -> list[Answer]:
        answers = []
        for program in self._replica.plan.programs:
            parts = tuple((f.name, f.box) for f in program.feeds)
            cut = [np.asarray(batch[n][tuple(slice(*iv) for iv in box)]) for n, box in parts]
            agent = self._replica.machines[program.machine]
            coordinator = self._replica.job.coordinator
            answers.append(coordinator.order(agent, "feed", FedParts(step, parts), cut, timeout_s=MAX_WAIT_S))
        return answers
