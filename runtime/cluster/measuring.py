"""What a worker measures for its coordinator: its kernels, and its links to other workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from rainshed.compiler.load import plan_from_json
from rainshed.ops.errors import UsageError
from rainshed.runtime.auth import Identity
from rainshed.runtime.cluster.agent import Agent, Task
from rainshed.runtime.cluster.links import Asker, Echo, measure_link
from rainshed.runtime.cluster.orders import Address, Crowded, MeasureKernels, MeasureLink, Nothing
from rainshed.runtime.documents import unpack
from rainshed.runtime.measure import measure_kernels, round_seconds, this_host
from rainshed.runtime.transport import listen

MAX_BUDGET_S: Final = 30.0
MAX_THREADS: Final = 256
Answer = tuple[Any, Sequence[np.ndarray]]


def tell_host(agent: Agent, payload: memoryview) -> Answer:
    unpack(payload, Nothing)
    return this_host(), ()


def measure_own_kernels(agent: Agent, payload: memoryview) -> Answer:
    body, _ = unpack(payload, MeasureKernels)
    plan = plan_from_json(bytes(body.plan), agent.ops)
    if len(plan.programs) != 1 or plan.transfers:
        raise UsageError(f"kernels are measured on a plan of one machine; found {len(plan.programs)}")
    if body.threads:
        threads = min(body.threads, MAX_THREADS)
        return Crowded(round_seconds(plan.programs[0], agent.ops, _limited(body.budget_s), threads)), ()
    return measure_kernels(plan.programs[0], agent.ops, _limited(body.budget_s)), ()


def be_echo(agent: Agent, payload: memoryview) -> Answer:
    unpack(payload, Nothing)
    if agent.roles:
        raise UsageError(f"this worker is busy: {', '.join(agent.roles)}")
    identity = Identity("machine", f"echo {agent.name}", agent.options.job)
    endpoint = listen(agent.role_uri, identity, agent.token, Echo(agent.timeouts), agent.timeouts)
    agent.roles["echo"] = endpoint
    agent.on_leave(endpoint.close)
    return Address(endpoint.address), ()


def measure_own_link(agent: Agent, payload: memoryview) -> Answer:
    body, _ = unpack(payload, MeasureLink)
    asker = Asker(agent.timeouts)
    identity = Identity("machine", f"asker {agent.name}", agent.options.job)
    endpoint = listen(agent.role_uri, identity, agent.token, asker, agent.timeouts)
    try:
        channel = endpoint.connect(body.address, timeout_s=agent.timeouts.connect_s)
        return measure_link(asker, channel, _limited(body.budget_s)), ()
    finally:
        endpoint.close()


def _limited(budget_s: float) -> float:
    return min(max(budget_s, 0.0), MAX_BUDGET_S)


MEASURING_TASKS: Final[Mapping[str, Task]] = MappingProxyType(
    {
        "tell host": tell_host,
        "measure kernels": measure_own_kernels,
        "be echo": be_echo,
        "measure link": measure_own_link,
    }
)
