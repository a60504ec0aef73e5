"""What every pass is told besides the graph: the cluster, the seed, and what the user asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rainshed.compiler.machines import Cluster
from rainshed.ops.ir import Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """
    cluster   where the plan will run
    seed      of every search; the same seed gives the same plan
    strategy  the name of the strategy `split` follows (see compiler/partition/strategy.py), "auto": see `compile`
    fuse      whether element-wise neighbours become one kernel
    segments  of the forward part, of which all but the last are computed again for backward; 1: everything is kept
    thrifty   whether the order of a machine's work is chosen for little memory rather than for a short step
    units     whether GPUs are used where machines have them
    precision of what products and convolutions read: "float32", or "bf16" (compiler/passes/lower_precision.py)
    shared    what the search knows of a graph whatever the strategy; kept for the strategies of one `compile`
    """

    cluster: Cluster
    seed: int = 0
    strategy: str = "longest"
    fuse: bool = True
    segments: int = 1
    thrifty: bool = False
    units: bool = True
    precision: str = "float32"
    shared: dict[Graph, Any] = field(default_factory=dict, compare=False)
