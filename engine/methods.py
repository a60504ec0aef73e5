"""The methods of training, and what can be chosen about it: data, without any doing.

Source  Dean et al. 2012, section 4.1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rainshed.compiler.machines import Cluster
from rainshed.compiler.passes.lower_precision import FLOAT32
from rainshed.engine.optimizers import Optimizer
from rainshed.ops.errors import UsageError
from rainshed.ops.types import whole_of
from rainshed.ops.update import UpdateRule
from rainshed.runtime.cluster.job import Backend
from rainshed.runtime.deadlines import Timeouts


@dataclass(frozen=True, slots=True)
class Single:
    """One replica; its plan moves its variables by itself. The graph must hold its optimizer, or one is given."""

    replicas: ClassVar[int] = 1
    servers: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class Downpour:
    """Asynchronous replicas and a sharded parameter server.

    replicas       copies of the model, each a plan over its own machines
    servers        shards of the parameter server, each a process
    n_push         steps between pushes of the summed gradients
    n_fetch        steps between fetches of the parameters
    warm_start     steps that one replica makes alone before the others begin
    max_staleness  a push that is more versions behind is refused and counted; None: no bound
    Source  Dean et al. 2012, section 4.1
    """

    replicas: int = 2
    servers: int = 1
    n_push: int = 1
    n_fetch: int = 1
    warm_start: int = 0
    max_staleness: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("replicas", 1), ("servers", 1), ("n_push", 1), ("n_fetch", 1), ("warm_start", 0)):
            _set_whole(self, name, least)
        if self.max_staleness is not None:
            _set_whole(self, "max_staleness", 0)


Method = Single | Downpour


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How a graph is trained.

    cluster    the machines of one replica; every replica has so many of its own
    optimizer  moves the variables: on the server (Downpour), or in the graph (Single)
    seed       of initial values, random ops, and the order of the data
    backend    "processes" on this computer, "threads" in this process, "join": wait for workers at `listen`
    strategy, place, rematerialize, precision   see rs.compile; `place` names the machines of one replica
    checkpoint        a folder: training writes there when it ends, and after every `checkpoint_every` steps
    resume            go on from the newest checkpoint there; the machines, replicas and servers may be others
    """

    cluster: Cluster = field(default_factory=lambda: Cluster.local(1))
    method: Method = field(default_factory=Single)
    optimizer: Optimizer | UpdateRule | None = None
    batch: int = 32
    seed: int = 0
    backend: Backend = "processes"
    strategy: str = "auto"
    place: Mapping[str, str] = field(default_factory=dict)
    rematerialize: bool = False
    precision: str = FLOAT32
    trace: bool = False
    timeouts: Timeouts = field(default_factory=Timeouts)
    checkpoint: str | Path | None = None
    checkpoint_every: int | None = None
    resume: bool = False
    listen: str = "tcp://127.0.0.1:0"
    token: bytes | None = field(default=None, repr=False)
    on_wait: Callable[[str, int], None] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.method, Single | Downpour):
            raise UsageError(f"method is rs.Single() or rs.Downpour(...); found {self.method!r}")
        if not isinstance(self.optimizer, Optimizer | UpdateRule | None):
            raise UsageError(f"an optimizer is one such as rs.Adagrad(0.02); found {self.optimizer!r}")
        if not isinstance(self.timeouts, Timeouts):
            raise UsageError(f"timeouts are rs.TrainingOptions().timeouts, scaled; found {self.timeouts!r}")
        if not isinstance(self.checkpoint, str | Path | None):
            raise UsageError(f"checkpoint is a folder; found {self.checkpoint!r}")
        _set_whole(self, "batch", 1)
        _set_whole(self, "seed")
        if self.checkpoint_every is not None:
            _set_whole(self, "checkpoint_every", 1)


def _set_whole(options: Any, name: str, least: int | None = None) -> None:
    """Make a field of a frozen record the whole number that it means. Raises UsageError."""
    given = getattr(options, name)
    value = whole_of(given)
    if value is None or (least is not None and value < least):
        bound = "" if least is None else f", {least} or more"
        raise UsageError(f"{type(options).__name__}: {name} is a whole number{bound}; found {given!r}")
    object.__setattr__(options, name, value)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training did. `staleness`: versions -> pushes that were so stale; `bytes_sent`: payload bytes of all processes."""

    steps: int
    seconds: float
    loss: float | None
    examples: int
    bytes_sent: int
    pushes: int = 0
    applied: int = 0
    dup: int = 0
    refused: int = 0
    staleness: Mapping[int, int] = field(default_factory=dict)
