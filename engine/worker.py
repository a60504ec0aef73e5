"""`rainshed worker`: a process that joins a job and does what its coordinator says."""

from __future__ import annotations

import sys
from typing import Final

from rainshed.engine.machine_side import AT_ONCE, TRAINING_TASKS
from rainshed.engine.saving import SAVING_TASKS
from rainshed.ops import CATALOGUE
from rainshed.runtime.cluster.agent import Agent, AgentOptions
from rainshed.runtime.cluster.roles import ROLE_TASKS
from rainshed.runtime.deadlines import Timeouts

# Small kernels hold the interpreter; a thread that brings a value for the next one must not wait 5 ms for its turn, as by default.
SWITCH_S: Final = 2e-4


def work(options: AgentOptions, token: bytes, timeouts: Timeouts | None = None) -> None:
    """Join, work, leave. Raises what went wrong."""
    sys.setswitchinterval(SWITCH_S)
    tasks = {**ROLE_TASKS, **TRAINING_TASKS, **SAVING_TASKS}
    Agent(options, token, tasks=tasks, at_once=AT_ONCE, ops=CATALOGUE, timeouts=timeouts).run()
