"""What a message takes of the cores at both its ends: values that two workers pass back and forth, as in a step of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from rainshed.compiler.machines import Cluster
from rainshed.compiler.plan import (
    ARENA,
    FED,
    VERSION,
    Feed,
    Free,
    Instruction,
    Plan,
    Prediction,
    Program,
    Recv,
    Send,
    Transfer,
    Value,
)
from rainshed.runtime.cluster.coordinator import AgentHandle
from rainshed.runtime.cluster.job import Deployment, Job
from rainshed.runtime.measure import midmean

SMALL_NBYTES: Final = 2**10  # sent by the worker itself
LARGE_NBYTES: Final = 2**19  # sent by a thread of its own
SMALL_ROUNDS: Final = 60
LARGE_S: Final = 0.2  # that a step of large messages may be on the wire
MOST_LARGE_ROUNDS: Final = 12
STEPS: Final = 5


@dataclass(frozen=True, slots=True)
class MessageTimes:
    """Of a core of one end: seconds for each message, and payload bytes in a second; the mean of sending and receiving."""

    message_s: float
    bytes_per_s: float


def measure_messages(job: Job, pair: Sequence[AgentHandle], bytes_per_s: float) -> MessageTimes:
    """The mean of two workers whose link has this bandwidth."""
    rounds = max(2, min(MOST_LARGE_ROUNDS, int(LARGE_S * bytes_per_s / (2 * LARGE_NBYTES))))
    small_s = _core_seconds(job, pair, SMALL_NBYTES, SMALL_ROUNDS)
    large_s = _core_seconds(job, pair, LARGE_NBYTES, rounds)
    per_byte = max(1e-12, (large_s - small_s) / (LARGE_NBYTES - SMALL_NBYTES))
    return MessageTimes(max(0.0, small_s - per_byte * SMALL_NBYTES), 1 / per_byte)


def _core_seconds(job: Job, pair: Sequence[AgentHandle], nbytes: int, rounds: int) -> float:
    """Seconds of a core that one end takes for one message."""
    deployment = job.deploy(exchange(nbytes, rounds), pair)
    try:
        deployment.run(0, {"x": np.zeros(nbytes // 4, np.float32)})
        taken = [_step_seconds(deployment, 1 + i) for i in range(STEPS)]
    finally:
        deployment.release()
    return midmean(taken[1:]) / (2 * 2 * rounds)  # two ends of two messages a round


def _step_seconds(deployment: Deployment, step: int) -> float:
    """Of all cores together. Workers that are threads of one process tell the same seconds: they count once."""
    moments = zip(deployment.agents, deployment.moments(step), strict=True)
    return sum({(agent.joined.hostname, agent.joined.pid): m.core_s for agent, m in moments}.values())


def exchange(nbytes: int, rounds: int) -> Plan:
    """m0 sends x to m1, which sends it back, so many times."""
    value = Value(dtype="f32", shape=(nbytes // 4,), place=ARENA, offset=0)
    other = Value(dtype="f32", shape=(nbytes // 4,), place=ARENA, offset=nbytes)
    box = ((0, nbytes // 4),)
    fed = Value(dtype="f32", shape=(nbytes // 4,), place=FED, of="x")
    arena = (value, other) * (rounds // 2 + 1)
    there: list[Instruction] = []
    back: list[Instruction] = []
    for i in range(rounds):
        there += [Send(value=i, key=2 * i, to="m1"), *([Free(i)] if i else [])]
        there += [Recv(value=i + 1, key=2 * i + 1, source="m1")]
        back += [Recv(value=i, key=2 * i, source="m0"), Send(value=i, key=2 * i + 1, to="m0"), Free(i)]
    first = Program(
        machine="m0",
        values=(fed, *arena[:rounds]),
        instructions=tuple(there),
        feeds=(Feed(name="x", value=0, box=box, whole=(nbytes // 4,)),),
        arena_nbytes=2 * nbytes,
    )
    second = Program(machine="m1", values=arena[:rounds], instructions=tuple(back), arena_nbytes=2 * nbytes)
    ways = [("m0", "m1"), ("m1", "m0")] * rounds
    return Plan(
        version=VERSION,
        programs=(first, second),
        transfers=tuple(
            Transfer(key=key, source=source, to=to, nbytes=nbytes, of="x", reason="activation")
            for key, (source, to) in enumerate(ways)
        ),
        cluster=Cluster.local(2).to_data(),
        prediction=Prediction(step_s=0.0, bytes=nbytes * len(ways), messages=len(ways), lower_bound_s=0.0, machines={}),
    )
