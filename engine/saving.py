"""Training to and from checkpoints: parameters and optimizer slots, by name, whatever machines and servers there are.

Source  rule R11 of our protocol: a checkpoint is complete or it is not there; parameters with all that the optimizer keeps
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from msgspec import Struct

from rainshed.engine.checkpoint import CheckpointReader, TensorSpec, compare, write_checkpoint
from rainshed.engine.variables import slabs_of, tensors_of
from rainshed.ops.access import Box, box_shape, box_size
from rainshed.ops.errors import UsageError
from rainshed.ops.types import dtype_of
from rainshed.runtime.cluster.agent import Agent, Task
from rainshed.runtime.cluster.coordinator import AgentHandle
from rainshed.runtime.cluster.deployed import SLAB
from rainshed.runtime.cluster.job import Deployment
from rainshed.runtime.cluster.orders import Nothing
from rainshed.runtime.cluster.roles import NOTHING, Answer
from rainshed.runtime.documents import unpack
from rainshed.runtime.params.layout import Layout, Part
from rainshed.runtime.params.rule import Rule
from rainshed.runtime.params.server import ParamServer
from rainshed.runtime.params.shard import Span
from rainshed.runtime.slabs import slabs


# -- the server's side ------------------------------------------------------------------------------------------------
class ReadShard(Struct, frozen=True, forbid_unknown_fields=True):
    """A span of one field ("w" or a slot) of one part."""

    field: str
    number: int
    span: Span


class Version(Struct, frozen=True, forbid_unknown_fields=True):
    """How often the part was updated."""

    version: int


class WriteShard(Struct, frozen=True, forbid_unknown_fields=True):
    """The values of a span of one field of one part go along."""

    field: str
    number: int
    version: int
    span: Span


def _server(agent: Agent) -> ParamServer:
    found = agent.roles.get("server")
    if not isinstance(found, ParamServer):
        raise UsageError("this worker is no parameter server")
    return found


def read_shard(agent: Agent, payload: memoryview) -> Answer:
    body, _ = unpack(payload, ReadShard)
    values, version = _server(agent).values(body.field, body.number, body.span)
    return Version(version), [values]


def write_shard(agent: Agent, payload: memoryview) -> Answer:
    body, (values,) = unpack(payload, WriteShard)
    _server(agent).set_values(body.field, body.number, values, body.version, body.span)
    return NOTHING


SAVING_TASKS: Final[Mapping[str, Task]] = MappingProxyType({"read shard": read_shard, "write shard": write_shard})


# -- the coordinator's side -------------------------------------------------------------------------------------------
class ServerState:
    """What the parameter server holds, as tensors of a checkpoint: each variable `w`, and `w/SLOT` for each slot."""

    def __init__(self, replica: Deployment, servers: Sequence[AgentHandle], layout: Layout, rule: Rule) -> None:
        self._replica, self._servers, self._layout = replica, servers, layout
        self._fields = ("w", *rule.slots)

    def tensors(self) -> dict[str, TensorSpec]:
        """Everything that makes up the training's state."""
        found = dict(tensors_of(self._replica))
        for program in self._replica.plan.programs:
            for v in program.variables:
                if v.trainable:
                    dtype = dtype_of(program.values[v.value].dtype).name
                    for slot in self._fields[1:]:
                        found[f"{v.name}/{slot}"] = TensorSpec(dtype, v.whole, "optim")
        return found

    def save(self, directory: str | Path, step: int, metadata: Mapping[str, Any]) -> Path:
        """Write a checkpoint, part by part; its path."""
        versions: dict[str, int] = {}
        # The versions are known only when the parts have been read, and the metadata is written with the manifest.
        facts = {**metadata, "versions": versions}
        with write_checkpoint(directory, step, self.tensors(), facts) as writer:
            for shard, number, part in self._parts():
                for field, box, span in self._spans(part):
                    answer = self._ask(shard, "read shard", ReadShard(field, number, span))
                    version, (values,) = answer.get(Version)
                    writer.write(_tensor(part.name, field), box, values.reshape(box_shape(box)))
                    versions[part.name] = max(versions.get(part.name, 0), version.version)
            for machine, name, box in self._kept():
                writer.write(name, box, self._replica.get(machine, [(name, box)])[0])
            return writer.commit()

    def load(self, path: str | Path, replicas: Sequence[Deployment]) -> Mapping[str, Any]:
        """Give the server and the machines what a checkpoint holds; its metadata. Raises CheckpointError if it does not fit."""
        with CheckpointReader(path) as reader:
            wanted = self.tensors()
            for kind in ("model", "optim"):
                compare(reader, {n: (t.dtype, t.shape) for n, t in wanted.items() if t.kind == kind}, kind=kind)
            versions = reader.metadata.get("versions", {})
            for shard, number, part in self._parts():
                for field, box, span in self._spans(part):
                    values = np.ascontiguousarray(reader.read(_tensor(part.name, field), box)).reshape(-1)
                    order = WriteShard(field, number, int(versions.get(part.name, 0)), span)
                    self._ask(shard, "write shard", order, values).get(Nothing)
            for replica in replicas:
                for machine, name, box in self._kept():
                    replica.put(machine, [(name, box)], [reader.read(name, box)])
            return dict(reader.metadata)

    def _parts(self) -> list[tuple[int, int, Any]]:
        return [(s, n, part) for s, parts in enumerate(self._layout.shards) for n, part in enumerate(parts)]

    def _spans(self, part: Part) -> Iterator[tuple[str, Box, Span]]:
        """(field, box, span of the flat part) of all that a server holds of a part, small enough to be held twice."""
        for field in self._fields:
            low = 0
            for box in slabs(part.box, SLAB):
                high = low + box_size(box)
                yield field, box, (low, high)
                low = high

    def _kept(self) -> list[tuple[str, str, Box]]:
        """What the server does not hold: variables that are not trained, such as running means."""
        names = [v.name for p in self._replica.plan.programs for v in p.variables if not v.trainable]
        return list(slabs_of(self._replica, names))

    def _ask(self, shard: int, what: str, body: Any, *values: np.ndarray) -> Any:
        coordinator = self._replica.job.coordinator
        timeout_s = coordinator.timeouts.start_s
        return coordinator.order(self._servers[shard], what, body, list(values), timeout_s=timeout_s)


def _tensor(name: str, field: str) -> str:
    return name if field == "w" else f"{name}/{field}"
