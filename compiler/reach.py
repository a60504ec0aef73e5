"""Machines that cannot all exchange values with each other: which of them a plan may use, and the plan as one for all.

A value goes from its machine straight to its reader; no machine passes on what is meant for another. So a plan uses machines that
are all linked to each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from msgspec import structs

from rainshed.compiler.cost import FREE
from rainshed.compiler.machines import Cluster
from rainshed.compiler.partition.spread import fastest_first
from rainshed.compiler.plan import MachinePrediction, Plan, Program
from rainshed.ops.errors import CompileError
from rainshed.ops.ir import Graph


def all_linked(cluster: Cluster) -> bool:
    """Whether every two machines can exchange values, and the link that goes without saying is one."""
    return cluster.default_link.bytes_per_s > 0 and not any(_missing(cluster, cluster.names))


def parts_of(cluster: Cluster, graph: Graph) -> list[Cluster]:
    """Groups of machines that are all linked, each with all the machines that the graph has pins on; the fastest first.

    Each machine begins a group, which others join in the order of their speed: where a cluster is several networks, these are
    the groups.

    Raises  CompileError if two of the machines with pins have no link
    """
    pinned = _pinned(cluster, graph)
    for a, b in _missing(cluster, pinned):
        what = f"pins put parts of the graph on {a} and {b}, which have no link"
        needed = f"a link between {a} and {b}, or all pins on machines that are linked"
        raise CompileError(what, **{f"on {a}": pinned[a], f"on {b}": pinned[b]}, needed=needed)
    names = cluster.names
    order = [names[m] for m in fastest_first(cluster)]
    found: dict[tuple[str, ...], float] = {}
    for first in order:
        group = list(pinned)
        for name in (first, *order):
            if name not in group and all(cluster.linked(name, other) for other in group):
                group.append(name)
        members = tuple(name for name in names if name in group)
        found.setdefault(members, sum(cluster.machine(name).flops for name in members))
    return [cluster.among(members) for members in sorted(found, key=lambda g: (-found[g], g))]


def unlinked(cluster: Cluster) -> dict[str, str]:
    """The pairs of machines without a link: a detail of an error."""
    pairs = [f"{a} - {b}" for a, b in _missing(cluster, cluster.names)]
    return {"no_link": _some(pairs, 8)}


def _missing(cluster: Cluster, names: Iterable[str]) -> Iterable[tuple[str, str]]:
    return ((a, b) for a, b in combinations(names, 2) if not cluster.linked(a, b))


def _pinned(cluster: Cluster, graph: Graph) -> Mapping[str, str]:
    """Machine -> the first thing that is pinned to it."""
    found: dict[str, str] = {}
    for node in graph.nodes():
        if node.origin.pin is not None and node.op.name not in FREE:
            found.setdefault(node.origin.pin, node.name or f"{node.origin.scope}/{node.op.name}".lstrip("/"))
    return found


def widened(plan: Plan, cluster: Cluster) -> Plan:
    """The plan of some machines as one of the whole cluster, in which the others have nothing to do."""
    if plan.machines == cluster.names:
        return structs.replace(plan, cluster=cluster.to_data())
    programs = {p.machine: p for p in plan.programs}
    nothing = MachinePrediction(compute_s=0.0, bytes_in=0, bytes_out=0, memory_bytes=0)
    machines = {name: plan.prediction.machines.get(name, nothing) for name in cluster.names}
    return structs.replace(
        plan,
        programs=tuple(programs.get(name) or Program(name, (), ()) for name in cluster.names),
        cluster=cluster.to_data(),
        prediction=structs.replace(plan.prediction, machines=machines),
        notes={**plan.notes, "machines used": ", ".join(plan.machines), "machines not used": _left_out(plan, cluster)},
    )


def _left_out(plan: Plan, cluster: Cluster) -> str:
    """Which machines have nothing to do, and what each would need."""
    found = [
        f"{name} (no link to {_some([other for other in plan.machines if not cluster.linked(name, other)], 3)})"
        for name in cluster.names
        if name not in plan.machines
    ]
    return f"{_some(found, 8)}: values go straight to their readers, so that all machines of a plan have to be linked"


def _some(names: Sequence[str], most: int) -> str:
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])
