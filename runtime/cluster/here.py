"""A plan of one machine in this very process: no worker, no message between the user's arrays and the kernels."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from rainshed.compiler.plan import Plan
from rainshed.ops.access import Box
from rainshed.ops.errors import UsageError
from rainshed.ops.op import Op
from rainshed.runtime.buffers import Array
from rainshed.runtime.cluster.deployed import Deployed
from rainshed.runtime.executor import Executor, Options
from rainshed.runtime.initial import done_text
from rainshed.runtime.kernels import part_of
from rainshed.runtime.memory import peak_memory_nbytes
from rainshed.runtime.trace import MachineTrace, Recorder
from rainshed.runtime.traced import machine_trace

WORK_EVERY_S: Final = 1.0


class Here(Deployed):
    """A plan on this process. Close it, then its threads end.

    on_work  told every second how far the first values are
    Raises  UsageError for a plan of several machines; PlanError for one that cannot run here
    """

    def __init__(
        self,
        plan: Plan,
        *,
        ops: Mapping[str, Op],
        trace: bool = False,
        on_work: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(plan)
        self._on_work, self._tell_at = on_work, 0.0
        if len(plan.programs) != 1:
            what = f"a plan of {len(plan.programs)} machines does not run in one process"
            raise UsageError(what, hint='backend="processes" or "threads"')
        (self._program,) = plan.programs
        self._recorder = Recorder() if trace else None
        (machine,) = plan.cluster["machine"]
        threads = max(1, int(float(machine.get("cores", 1))))
        self._executor = Executor(self._program, ops=ops, options=Options(threads=threads, recorder=self._recorder))

    def init(self, seed: int) -> None:
        """Fill the variables."""
        self._tell_at = time.monotonic() + WORK_EVERY_S
        self._executor.init_variables(seed, self._told)

    def _told(self, done: int, total: int) -> None:
        if self._on_work is not None and time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + WORK_EVERY_S
            self._on_work(done_text("first values", done, total))

    def run(self, step: int, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """One step on whole arrays by name. Raises DataError for feeds that do not fit the plan."""
        parts = self._executor.run(step, self.checked(feeds), copy=False)
        wholes: dict[str, Array] = {}
        for output in self._program.outputs:
            part = parts[output.name, output.box]
            if part.shape == output.whole:
                wholes[output.name] = part.copy()
                continue
            if output.name not in wholes:
                wholes[output.name] = np.empty(output.whole, part.dtype)
            part_of(wholes[output.name], output.box)[...] = part
        return wholes

    def get(self, machine: str, parts: Sequence[tuple[str, Box]]) -> list[Array]:
        """The values of parts of variables."""
        return [self._executor.get_variable(name, box) for name, box in parts]

    def put(self, machine: str, parts: Sequence[tuple[str, Box]], values: Sequence[Array]) -> None:
        """Give parts of variables their values."""
        for (name, box), value in zip(parts, values, strict=True):
            self._executor.set_variable(name, box, value)

    @property
    def pids(self) -> dict[str, int]:
        return {self._program.machine: os.getpid()}

    def bytes_between(self) -> dict[tuple[str, str], int]:
        """Nothing crosses."""
        return {}

    def peak_memory(self) -> dict[str, int]:
        """The most memory that this process has held, in bytes."""
        return {self._program.machine: peak_memory_nbytes()}

    def traces(self) -> list[MachineTrace]:
        """What the machine did. Raises UsageError unless it was made with `trace=True`."""
        if self._recorder is None:
            raise UsageError("this plan records no trace")
        return [machine_trace(self._program, self.plan.transfers, self._recorder)]

    def close(self) -> None:
        """End the threads; safe to call twice."""
        self._executor.close()
