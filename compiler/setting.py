"""What every pass is told besides the graph: the cluster, the seed, and what the user asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from rainshed.compiler.machines import Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """
    cluster   where the plan will run
    seed      of every search; the same seed gives the same plan
    strategy  the name of the strategy `split` follows (see compiler/strategy.py), "auto" inside `compile` means each in turn
    fuse      whether element-wise neighbours become one kernel
    """

    cluster: Cluster
    seed: int = 0
    strategy: str = "longest"
    fuse: bool = True
    notes: dict[str, str] = field(default_factory=dict)
