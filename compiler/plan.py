"""The plan: one instruction list per machine, as data. Printable, JSON with a version, checked whole when it is loaded.

Nothing in it is code: ops are named, attributes are numbers and texts. `load_plan` (compiler/load.py) rebuilds every instruction
through the ops' own checks, so that a wrong plan is refused before anything starts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from rainshed.compiler.machines import Cluster
from rainshed.ops.access import Box
from rainshed.ops.errors import PlanError
from rainshed.ops.types import DTYPES

VERSION = 1
ARENA, KEPT, FED = "arena", "kept", "fed"


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One array on one machine. Its number is its place in `Program.values`."""

    dtype: str
    shape: tuple[int, ...]
    place: str  # "arena": at `offset` of the arena of its unit; "kept": lives from step to step; "fed": given each step
    offset: int = -1
    unit: str = "cpu"
    of: str = ""  # the name of the value before it was split, for people
    box: Box | None = None  # which region of that value

    @property
    def nbytes(self) -> int:
        size = _ITEMSIZE[self.dtype]
        for n in self.shape:
            size *= n
        return size


_ITEMSIZE = {d.short: d.itemsize for d in DTYPES}


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="run"):
    """Run an op's kernel. Several `outputs` only for ops with several results."""

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attrs: Mapping[str, str] = {}  # attribute -> its text form (ops/text.py)
    scope: str = ""  # the layer
    line: str = ""  # "file:line" the user wrote
    backward: bool = False
    flops: int = 0
    nbytes: int = 0  # memory traffic
    seconds: float = 0.0  # predicted


class Send(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="send"):
    """Send a value's bytes to another machine; `key` is the number of the transfer."""

    value: int
    key: int
    to: str


class Recv(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="recv"):
    """Receive a transfer into a value."""

    value: int
    key: int
    source: str


class Free(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="free"):
    """The value is read no more; its place in the arena may be taken."""

    value: int


class Assign(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="assign"):
    """Give a variable its new value, after everybody has read the old one."""

    variable: int
    value: int


Instruction = Run | Send | Recv | Free | Assign


class Feed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of an input that this machine reads."""

    name: str
    value: int
    box: Box
    whole: tuple[int, ...]


class Variable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a variable that this machine owns."""

    name: str
    value: int
    box: Box
    whole: tuple[int, ...]
    init: str  # text form of its Init; an initial array is held as this part only
    trainable: bool = True


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of an output (or of a gradient `grad/NAME`) that this machine computes."""

    name: str
    value: int
    box: Box
    whole: tuple[int, ...]


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one machine does in a step."""

    machine: str
    values: tuple[Value, ...]
    instructions: tuple[Instruction, ...]
    feeds: tuple[Feed, ...] = ()
    variables: tuple[Variable, ...] = ()
    outputs: tuple[Output, ...] = ()
    step_value: int = -1  # the value that holds the number of the step, i64[]
    arena_nbytes: int = 0  # of the host; `kept_nbytes` likewise
    kept_nbytes: int = 0
    unit_arenas: Mapping[str, int] = {}  # unit -> bytes of its arena

    def arena_of(self, unit: str) -> int:
        """Bytes of the arena of a unit, or of the host ("cpu")."""
        return self.arena_nbytes if unit == "cpu" else self.unit_arenas.get(unit, 0)


class Transfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message per step from one machine to another."""

    key: int
    source: str
    to: str
    nbytes: int
    of: str  # the value's name, for people
    reason: str  # "halo", "activation", "weight", "gradient", "partial sum", ...
    scope: str = ""  # of the producer
    for_scope: str = ""  # of the (first) consumer


class MachinePrediction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the simulator expects of one machine in one step."""

    compute_s: float
    bytes_in: int
    bytes_out: int
    memory_bytes: int  # parameters, values, receive buffers
    memory_lower_bound_bytes: int = 0  # parameters, what is fed, and the most of the other values that is alive at once


class Prediction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    step_s: float
    bytes: int
    messages: int
    lower_bound_s: float
    machines: Mapping[str, MachinePrediction]


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A layout that a value could have had: seconds of computing at the slowest machine, of bringing what it reads, of adding
    partial sums, and of bringing it to its readers, as the search estimates them while all others stay as they are."""

    layout: str
    compute_s: float
    inputs_s: float
    sums_s: float
    readers_s: float
    chosen: bool

    @property
    def total_s(self) -> float:
        return self.compute_s + self.inputs_s + self.sums_s + self.readers_s


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a cluster needs to run steps of one graph."""

    version: int
    programs: tuple[Program, ...]
    transfers: tuple[Transfer, ...]
    cluster: Mapping[str, Any]  # as Cluster.to_data
    prediction: Prediction
    seed: int = 0
    batch: int | None = None
    loss: str | None = None
    notes: Mapping[str, str] = {}  # how the plan was found: strategy, alternatives and their predicted step times
    candidates: Mapping[str, tuple[Candidate, ...]] = {}  # of the heaviest values, for `rainshed explain`

    def program(self, machine: str) -> Program:
        for program in self.programs:
            if program.machine == machine:
                return program
        raise PlanError(f"the plan has no machine {machine!r}", machines=", ".join(p.machine for p in self.programs))

    @property
    def machines(self) -> tuple[str, ...]:
        return tuple(p.machine for p in self.programs)

    @property
    def bytes_between(self) -> dict[tuple[str, str], int]:
        """Payload bytes per step for each (from, to)."""
        total: dict[tuple[str, str], int] = {}
        for t in self.transfers:
            total[t.source, t.to] = total.get((t.source, t.to), 0) + t.nbytes
        return total

    @property
    def hash(self) -> str:
        """Names the plan in handshakes: machines with another plan are refused."""
        return hashlib.blake2b(to_json(self), digest_size=16).hexdigest()


def to_json(plan: Plan) -> bytes:
    """The plan as JSON, the same bytes for the same plan."""
    return msgspec.json.encode(plan, order="deterministic")


def cluster_of(plan: Plan) -> Cluster:
    return Cluster.from_data(plan.cluster, where="plan: cluster")
