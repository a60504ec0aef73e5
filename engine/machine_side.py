"""The machine's side of training: a worker takes its data, joins the parameter server, and runs the steps.

Every machine of a replica draws the same batches from the same seed, and takes of each input just the part that it reads; so input
data does not cross the network. A stream, which only one process can read, is fed by the coordinator instead, part by part.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from msgspec import Struct

from rainshed.compiler.plan import Program
from rainshed.engine.data import Data, Field
from rainshed.ops.access import Box
from rainshed.ops.errors import DataError, NotFiniteError, RainshedError, StallError, UsageError
from rainshed.ops.types import dtype_of
from rainshed.runtime.auth import Identity
from rainshed.runtime.cluster.agent import Agent, AtOnce, Task
from rainshed.runtime.cluster.orders import Nothing
from rainshed.runtime.cluster.roles import NOTHING, Answer, Machine, machine_of
from rainshed.runtime.documents import unpack
from rainshed.runtime.params.client import ClientConfig, ParamClient
from rainshed.runtime.params.layout import Layout, Part, PartKey
from rainshed.runtime.params.rule import Rule
from rainshed.runtime.transport import Endpoint, listen

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Callable[[Box], Array]]


# -- what the coordinator says ----------------------------------------------------------------------------------------
class LoadData(Struct, frozen=True, forbid_unknown_fields=True):
    """The examples. `path`: a file or folder that this worker can read, of which it takes shard `index` of `of`; without a path the
    arrays `names` go along, and are the shard."""

    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]  # name, element type, shape of one example
    path: str | None = None
    names: tuple[str, ...] = ()
    index: int = 0
    of: int = 1


class JoinServer(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameter server: what this machine pushes and fetches, and where."""

    layout: Layout
    addresses: Mapping[str, str]  # shard -> address
    n_push: int
    n_fetch: int
    local_rule: Rule | None = None


class Exchange(Struct, frozen=True, forbid_unknown_fields=True):
    """Before training: "put" gives the machine's values to the server as first ones, "pull" takes the server's."""

    what: str
    fields: tuple[str, ...] = ("w",)


class Train(Struct, frozen=True, forbid_unknown_fields=True):
    """Run the steps from `first` up to `last` (not included)."""

    first: int
    last: int
    batch: int
    seed: int
    replica: int = 0
    replicas: int = 1
    fed: bool = False  # batches come from the coordinator
    report_s: float = 0.5


class FedParts(Struct, frozen=True, forbid_unknown_fields=True):
    """One step's parts of the inputs, one array each."""

    step: int
    parts: tuple[tuple[str, Box], ...]


class Told(Struct, frozen=True, forbid_unknown_fields=True):
    """How far a replica is: sums since it last told."""

    replica: int
    step: int
    loss: float | None
    examples: int
    seconds: float
    staleness: float | None
    bytes_sent: int


class Trained(Struct, frozen=True, forbid_unknown_fields=True):
    """What a machine did: pushes by what became of them, and how stale they were (versions -> pushes)."""

    steps: int
    seconds: float
    sent_nbytes: int
    loss: float | None
    pushes: int = 0
    applied: int = 0
    dup: int = 0
    refused: int = 0
    staleness: Mapping[str, int] = {}
    pushed_nbytes: int = 0
    fetched_nbytes: int = 0


# -- data -------------------------------------------------------------------------------------------------------------
def inputs_of(programs: Sequence[Program]) -> dict[str, Field]:
    """The inputs that programs read, as fields of examples: the first axis is the batch."""
    return {
        feed.name: Field(dtype_of(program.values[feed.value].dtype).numpy, feed.whole[1:])
        for program in programs
        for feed in program.feeds
    }


def load_data(agent: Agent, payload: memoryview) -> Answer:
    body, arrays = unpack(payload, LoadData)
    fields = {name: Field(np.dtype(dtype), shape) for name, dtype, shape in body.inputs}
    if body.path is not None:
        data = Data.of(body.path).require(fields).shard(body.index, body.of)
    else:
        data = Data.of(dict(zip(body.names, arrays, strict=True))).require(fields)
    agent.roles["data"] = data
    return NOTHING


class FedBatches:
    """Batches that the coordinator sends, in order; each is answered when its step begins, so that few are under way."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._queue: queue.SimpleQueue[tuple[int, FedParts, list[Array]] | RainshedError] = queue.SimpleQueue()

    def put(self, request: int, payload: memoryview) -> None:
        body, arrays = unpack(payload, FedParts)
        self._queue.put((request, body, arrays))

    def abort(self, error: RainshedError) -> None:
        self._queue.put(error)

    def take(self, step: int, timeout_s: float) -> Feeds:
        """The feeds of one step. Raises StallError if they do not come."""
        try:
            item = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            raise StallError(f"waited {timeout_s:.3g} s for the batch of step {step} from the coordinator") from None
        if isinstance(item, RainshedError):
            raise item
        request, body, arrays = item
        if body.step != step:
            raise DataError(f"the batch of step {body.step} came for step {step}")
        self._agent.done(request, Nothing())
        parts = dict(zip(body.parts, arrays, strict=True))
        return {name: partial(_part, parts, name) for name, _ in parts}


def _part(parts: Mapping[tuple[str, Box], Array], name: str, box: Box) -> Array:
    return parts[name, box]


def take_feed(agent: Agent, request: int, payload: memoryview) -> None:
    fed_batches(agent).put(request, payload)


def fed_batches(agent: Agent) -> FedBatches:
    found = agent.roles.setdefault("fed", FedBatches(agent))
    assert isinstance(found, FedBatches)
    return found


# -- the parameter server ---------------------------------------------------------------------------------------------
@dataclass(eq=False)
class ServerSide:
    """A machine's connection to the parameter server."""

    client: ParamClient
    endpoint: Endpoint
    machine: Machine
    keys: tuple[PartKey, ...]
    gradients: dict[PartKey, tuple[str, Box]] = field(default_factory=dict)

    def abort(self, error: RainshedError) -> None:
        """The job is over: its servers will not answer."""
        self.client.abort(error)

    def close(self) -> None:
        self.client.close()
        self.endpoint.close()


def join_server(agent: Agent, payload: memoryview) -> Answer:
    body, _ = unpack(payload, JoinServer)
    machine = machine_of(agent)
    program, executor = machine.program, machine.executor
    own = [v for v in program.variables if v.trainable]
    parts = tuple(Part(v.name, program.values[v.value].dtype, v.box) for v in own)
    config = ClientConfig(
        name=machine.title,
        layout=body.layout,
        parts=parts,
        addresses={int(shard): address for shard, address in body.addresses.items()},
        n_push=body.n_push,
        n_fetch=body.n_fetch,
        local_rule=body.local_rule,
    )
    arrays = {part.key: executor.variable_array(part.name, part.box) for part in parts}
    client = ParamClient(config, agent.timeouts, arrays)
    identity = Identity("machine", machine.title, agent.options.job)
    endpoint = listen(agent.role_uri, identity, agent.token, client, agent.timeouts)
    agent.roles["params"] = side = ServerSide(client, endpoint, machine, tuple(arrays))
    agent.on_leave(side.close)
    client.start(endpoint)
    return NOTHING


def exchange(agent: Agent, payload: memoryview) -> Answer:
    body, _ = unpack(payload, Exchange)
    side = agent.roles.get("params")
    if not isinstance(side, ServerSide):
        raise UsageError("this worker has not joined a parameter server")
    if body.what == "put":
        side.client.put(side.client.values)
    elif body.what == "pull":
        side.client.pull()
    else:
        raise UsageError(f"there is no exchange {body.what!r}", known="put, pull")
    return NOTHING


# -- the steps --------------------------------------------------------------------------------------------------------
class Tally:
    """What is told to the coordinator: sums since it was last told."""

    def __init__(self, agent: Agent, spec: Train, machine: Machine) -> None:
        self._agent, self._spec = agent, spec
        self._machine = machine
        self.tells = any(o.name == machine.plan.loss for o in machine.program.outputs)
        self.loss: float | None = None
        self.made: int = agent.roles.get("made", 0)  # steps of this machine in the whole job
        self._losses: list[float] = []
        self._since, self._examples, self._sent = time.monotonic(), 0, 0

    def step(self, step: int, outputs: Mapping[PartKey, Array]) -> None:
        """One step is over. Raises NotFiniteError if its loss is not a number."""
        self.made += 1
        self._agent.roles["made"] = self.made
        self._examples += self._spec.batch
        for (name, _), value in outputs.items():
            if name == self._machine.plan.loss and value.shape == ():
                self.loss = float(value)
                self._losses.append(self.loss)
        if self.loss is not None and not np.isfinite(self.loss):
            raise NotFiniteError(
                f"the loss is {self.loss} at step {step} of replica {self._spec.replica}",
                hint="a smaller learning rate",
            )
        if self.tells and time.monotonic() - self._since >= self._spec.report_s:
            self.tell()

    @property
    def untold(self) -> bool:
        return self._examples > 0

    def tell(self) -> None:
        now, sent = time.monotonic(), self._sent_nbytes()
        loss = sum(self._losses) / len(self._losses) if self._losses else None
        told = Told(
            replica=self._spec.replica,
            step=self.made,
            loss=loss,
            examples=self._examples,
            seconds=now - self._since,
            staleness=_mean_staleness(self._agent),
            bytes_sent=sent - self._sent,
        )
        self._agent.report("progress", told)
        self._losses, self._examples, self._since, self._sent = [], 0, now, sent

    def _sent_nbytes(self) -> int:
        pushed: int = sum(c.pushed_nbytes for c in _counts(self._agent))
        return sum(self._machine.peers.sent_nbytes.values()) + pushed


def _counts(agent: Agent) -> list[Any]:
    side = agent.roles.get("params")
    return list(side.client.counts().values()) if isinstance(side, ServerSide) else []


def _mean_staleness(agent: Agent) -> float | None:
    pairs = [(age, n) for c in _counts(agent) for age, n in dict(c.staleness).items()]
    total = sum(n for _, n in pairs)
    return sum(age * n for age, n in pairs) / total if total else None


def train(agent: Agent, payload: memoryview) -> Answer:
    """Run steps: data in, the plan's step, and, with a parameter server, gradients out and parameters in."""
    spec, _ = unpack(payload, Train)
    machine = machine_of(agent)
    side = agent.roles.get("params")
    tally, started = Tally(agent, spec, machine), time.monotonic()
    for step in range(spec.first, spec.last):
        if agent.stopping.is_set():
            break
        agent.progress = (step, "train")
        # What random ops see: no two replicas draw the same numbers.
        number = step * spec.replicas + spec.replica
        outputs = machine.executor.run(number, _feeds(agent, spec, step), copy=False)
        if isinstance(side, ServerSide):
            gradients = {key: outputs[f"grad/{key[0]}", key[1]] for key in side.keys}
            side.client.end_step(step, gradients)
        tally.step(step, outputs)
    if isinstance(side, ServerSide):
        side.client.flush()
    if tally.tells and tally.untold:
        tally.tell()
    return _trained(agent, spec, machine, tally, time.monotonic() - started), ()


def _feeds(agent: Agent, spec: Train, step: int) -> Feeds:
    if spec.fed:
        return fed_batches(agent).take(step, agent.timeouts.step_s)
    data = agent.roles.get("data")
    if not isinstance(data, Data):
        raise UsageError("this worker has no data")
    indices = data.batch_indices(spec.batch, spec.seed, step)
    return {name: partial(data.take, indices, name) for name in data.fields}


def _trained(agent: Agent, spec: Train, machine: Machine, tally: Tally, seconds: float) -> Trained:
    counts = _counts(agent)
    staleness: dict[str, int] = {}
    for c in counts:
        for age, n in c.staleness.items():
            staleness[str(age)] = staleness.get(str(age), 0) + n
    return Trained(
        steps=spec.last - spec.first,
        seconds=seconds,
        sent_nbytes=sum(machine.peers.sent_nbytes.values()),
        loss=tally.loss,
        pushes=sum(c.pushes for c in counts),
        applied=sum(c.applied for c in counts),
        dup=sum(c.dup for c in counts),
        refused=sum(c.refused for c in counts),
        staleness=staleness,
        pushed_nbytes=sum(c.pushed_nbytes for c in counts),
        fetched_nbytes=sum(c.fetched_nbytes for c in counts),
    )


TRAINING_TASKS: Final[Mapping[str, Task]] = MappingProxyType(
    {"load data": load_data, "join server": join_server, "exchange": exchange, "train": train}
)
AT_ONCE: Final[Mapping[str, AtOnce]] = MappingProxyType({"feed": take_feed})
