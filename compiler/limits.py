"""What a graph needs at least, beside what the machines have: memory that can never be enough is refused before any search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rainshed.compiler.cost import FREE
from rainshed.compiler.machines import Cluster, Machine
from rainshed.compiler.plan import Program
from rainshed.compiler.simulate import memory_of
from rainshed.ops.access import box_size
from rainshed.ops.errors import CompileError
from rainshed.ops.fused import is_fusable
from rainshed.ops.ir import Graph, Node
from rainshed.ops.types import TupleType, fixed


def memory_lack(graph: Graph, cluster: Cluster) -> CompileError | None:
    """Why no plan of this graph can fit these machines, with what would be needed; None if that is not sure.

    In      the graph after `merge_equal`: gradients, updates and slots are in it
    """
    return _all_together(graph, cluster) or _pinned(graph, cluster) or _whole(graph, cluster)


def spread_memory(graph: Graph, cluster: Cluster) -> dict[str, str]:
    """What there is to hold, and where: the details of an error."""
    variables = list(graph.variables.values())
    if not variables:
        return {"memory": _memories(cluster.machines)}
    total = f"{sum(v.type.nbytes for v in variables)} bytes; the largest is {_largest(variables)}"
    return {"variables": total, "memory": _memories(cluster.machines)}


def memory_needed(plans: Mapping[str, Sequence[Program]], cluster: Cluster) -> str | None:
    """What the machines would need for the programs, of those by strategy, that lack least; None if only units lack memory."""
    there = {m.name: m.memory_bytes for m in cluster.machines}
    lacks = {
        name: {p.machine: memory_of(p) for p in programs if memory_of(p) > there[p.machine]}
        for name, programs in plans.items()
    }
    lacks = {name: machines for name, machines in lacks.items() if machines}
    if not lacks:
        return None
    name = min(lacks, key=lambda name: sum(needed - there[m] for m, needed in lacks[name].items()))
    found = [f"{nbytes} bytes on {machine}" for machine, nbytes in lacks[name].items()]
    more = ["..."] if len(found) > 8 else []
    return f"{', '.join([*found[:8], *more])} (strategy {name}); a smaller batch and more machines need less on each"


def memory_there(machine: Machine) -> int:
    """Bytes of a machine, its units' among them."""
    return machine.memory_bytes + sum(u.memory_bytes for u in machine.units)


def _all_together(graph: Graph, cluster: Cluster) -> CompileError | None:
    variables = list(graph.variables.values())
    needed, there = sum(v.type.nbytes for v in variables), sum(map(memory_there, cluster.machines))
    if needed <= there:
        return None
    holder = cluster.names[0] if len(cluster.machines) == 1 else "all machines together"
    have = "has" if len(cluster.machines) == 1 else "have"
    return CompileError(
        f"the variables need {needed} bytes of memory at least, and {holder} {have} {there}",
        largest=_largest(variables),
        machines=_memories(cluster.machines),
        needed=f"{needed - there} bytes more at least, on these machines or on others beside them",
    )


def _pinned(graph: Graph, cluster: Cluster) -> CompileError | None:
    pins: dict[str, list[Node]] = {}
    for node in graph.nodes():
        if node.origin.pin is not None and node.op.name not in FREE:
            pins.setdefault(node.origin.pin, []).append(node)
    for name, nodes in pins.items():
        there = memory_there(cluster.machine(name))
        variables = [n for n in nodes if n.op.name == "variable"]
        kept = sum(v.type.nbytes for v in variables)
        if kept > there:
            what = f"the variables pinned to {name} need {kept} bytes of memory, and it has {there}"
            return CompileError(what, largest=_largest(variables), needed=f"more memory on {name}, or fewer pins to it")
        for node in nodes:
            needed = kept + _at_once(node, variables)
            if needed > there:
                what = f"{_named(node)}, pinned to {name}, needs {needed} bytes of memory there at least, and {name} has {there}"
                more = f"{kept} bytes of variables pinned to it are among them" if kept else None
                return CompileError(what, of_these=more, needed=f"more memory on {name}", built_at=node.origin)
    return None


def _whole(graph: Graph, cluster: Cluster) -> CompileError | None:
    """What cannot be cut must fit on one machine."""
    there, largest = max((memory_there(m), m.name) for m in cluster.machines)
    for node in graph.nodes():
        if node.op.name in FREE or any(axis.max_parts > 1 for axis in node.access.axes):
            continue
        needed = _at_once(node, ())
        if needed > there:
            what = f"{_named(node)} cannot be cut, and needs {needed} bytes of memory on one machine at least"
            return CompileError(what, largest_machine=f"{largest}, {there} bytes", built_at=node.origin)
    return None


def _at_once(node: Node, besides: Iterable[Node]) -> int:
    """Bytes of what a whole node reads and gives, which are all there while it runs; less what is in `besides`.

    Of what may become a part of a larger kernel nothing is sure.
    """
    if node.op.name == "variable":
        return 0 if node in besides else node.type.nbytes
    if is_fusable(node) or any(isinstance(i.type, TupleType) for i in node.inputs):
        return 0
    access = node.access
    regions = access.regions(access.full, tuple(fixed(i.shape) for i in node.inputs))
    needed: dict[Node, int] = {}
    for value, region in zip(node.inputs, regions, strict=True):
        if value not in besides:
            needed[value] = max(needed.get(value, 0), box_size(region) * value.dtype.itemsize)
    return node.type.nbytes + sum(needed.values())


def _named(node: Node) -> str:
    name = node.name or f"{node.origin.scope}/{node.op.name}".lstrip("/")
    return f"{name} {node.type}"


def _largest(variables: Iterable[Node]) -> str:
    first = max(variables, key=lambda v: v.type.nbytes)
    return f"{first.name} {first.type}, {first.type.nbytes} bytes"


def _memories(machines: Iterable[Machine]) -> str:
    found = [f"{m.name} {memory_there(m)}" for m in machines]
    return ", ".join([*found[:8], *(["..."] if len(found) > 8 else [])])
