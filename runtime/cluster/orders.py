"""The orders that a coordinator gives to its agents, and what they answer: one struct each, sent as documents."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Raw, Struct

from rainshed.ops.access import Box


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """No words are needed."""


class BeMachine(Struct, frozen=True, forbid_unknown_fields=True):
    """Become one machine of a plan."""

    plan: Raw
    machine: str
    group: str = ""  # the replica, where there are several
    threads: int = 1
    trace: bool = False


class BeServer(Struct, frozen=True, forbid_unknown_fields=True):
    """Become one shard of the parameter server. `config`: its ShardConfig."""

    config: Raw


class Address(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the others reach what the agent has become."""

    address: str


class Connect(Struct, frozen=True, forbid_unknown_fields=True):
    """The machines of the replica, by name."""

    addresses: Mapping[str, str]


class InitVariables(Struct, frozen=True, forbid_unknown_fields=True):
    seed: int


class Parts(Struct, frozen=True, forbid_unknown_fields=True):
    """Names and boxes; where values go along, one array each."""

    parts: tuple[tuple[str, Box], ...]


class RunStep(Struct, frozen=True, forbid_unknown_fields=True):
    """Run one step; `feeds` name the parts of inputs that go along, one array each. Answered by Parts and arrays."""

    step: int
    feeds: tuple[tuple[str, Box], ...]


class TimeStep(Struct, frozen=True, forbid_unknown_fields=True):
    """Run one more step, on what was fed last, at this moment of the agent's own time.perf_counter_ns. Answered by Moments."""

    step: int
    start_ns: int


class Moments(Struct, frozen=True, forbid_unknown_fields=True):
    """When a step began and ended at a machine, on its own clock, and what its process took of its cores meanwhile."""

    start_ns: int
    end_ns: int
    core_s: float


class Told(Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes sent to each neighbour so far, and the peak of the process's memory."""

    sent_nbytes: Mapping[str, int]
    peak_memory_nbytes: int


class Arrived(Struct, frozen=True, forbid_unknown_fields=True):
    """(key of a transfer, messages, payload bytes) that have come so far."""

    transfers: tuple[tuple[int, int, int], ...]


class Clock(Struct, frozen=True, forbid_unknown_fields=True):
    """The agent's time.perf_counter_ns."""

    now_ns: int


class Code(Struct, frozen=True, forbid_unknown_fields=True):
    """The user's own code (ops, data functions), and the proof that who sent it knows the job's token: both hexadecimal."""

    mac: str
    pickled: str


class MeasureKernels(Struct, frozen=True, forbid_unknown_fields=True):
    """Run the kernels of a plan's one machine for about so long. Answered by Kernels (runtime/measure.py).

    threads  several, each with all kernels: what one takes when others work, too. Answered by Crowded
    """

    plan: Raw
    budget_s: float
    threads: int = 0


class Crowded(Struct, frozen=True, forbid_unknown_fields=True):
    """The mean time of a round of all kernels in each of the threads."""

    round_s: float


class MeasureLink(Struct, frozen=True, forbid_unknown_fields=True):
    """Measure the way to the echo at this address. Answered by LinkTimes (runtime/cluster/links.py)."""

    address: str
    budget_s: float
