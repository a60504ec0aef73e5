"""Pins: what the user wants on one machine, by `rs.on(machine)` while the graph was built or by `place=` when it is compiled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase

from rainshed.compiler.cost import FREE
from rainshed.compiler.machines import Cluster
from rainshed.compiler.passes.split import value_names
from rainshed.ops.errors import CompileError, UsageError
from rainshed.ops.ir import Graph, Node

WILD = "*?["


def pinned(graph: Graph, cluster: Cluster, place: Mapping[str, str]) -> Graph:
    """The graph with the pins of `place`, all of which can hold together.

    place   layer, variable or value ("dense", "dense/w", "dense/matmul"), or a pattern of them ("dense_?/*") -> machine
    Raises  UsageError for a name that nothing in the graph has; CompileError for pins on machines that are not there, and for two
            machines that one value is to be on
    """
    if not isinstance(place, Mapping):
        raise UsageError(f"place maps names to machines; found {place!r}", hint='place={"dense": "m0"}')
    names = value_names(graph)
    asked = {node: (node.origin.pin, "rs.on") for node in names if node.origin.pin is not None}
    for key, machine in place.items():
        for node in _meant(graph, names, key, machine):
            _ask(asked, names, node, machine, f"place {key!r}")
    for node in names:
        if node.op.name == "pick":  # the results of one op come from one call
            (source,) = node.inputs
            for a, b in ((node, source), (source, node)):
                if a in asked:
                    _ask(asked, names, b, *asked[a])
    for node, (machine, by) in asked.items():
        if machine not in cluster.names:
            raise CompileError(
                f"{names[node]} is pinned to {machine!r}, which is not a machine of the cluster",
                pinned_by=by,
                machines=", ".join(cluster.names),
                built_at=node.origin,
            )
    if not place and all(node.origin.pin == machine for node, (machine, _) in asked.items()):
        return graph
    new: dict[Node, Node] = {}
    for node in names:
        moved = node.with_inputs(new[i] for i in node.inputs)
        new[node] = moved.with_origin(pin=asked[node][0]) if node in asked else moved
    return graph.renamed(new)


def _ask(asked: dict[Node, tuple[str, str]], names: Mapping[Node, str], node: Node, machine: str, by: str) -> None:
    before, first = asked.setdefault(node, (machine, by))
    if before != machine:
        raise CompileError(
            f"{names[node]} cannot be on two machines: {before} and {machine}",
            **{f"on {before}": first, f"on {machine}": by},
            needed="one of the two pins less",
            built_at=node.origin,
        )


def _meant(graph: Graph, names: Mapping[Node, str], key: str, machine: str) -> list[Node]:
    """The nodes of a key of `place`. What is in every machine's program anyway (inputs, constants) is not pinned."""
    if not isinstance(key, str) or not isinstance(machine, str):
        raise UsageError(f"place is names and machines, as texts; found {key!r}: {machine!r}")
    found = [node for node, name in names.items() if _matches(key, name)]
    if not found and key in graph.outputs:
        found = [graph.outputs[key]]
    if not found:
        known = list(dict.fromkeys([*_layers(names.values()), *names.values(), *graph.outputs]))
        near = get_close_matches(key, known, 5, 0.5) or [n for n in known if key.strip(WILD).lower() in n.lower()][:5]
        raise UsageError(
            f"place {key!r}: the graph has no layer, variable or value of this name",
            known=", ".join(near or known[:20]),
        )
    held = [node for node in found if node.op.name not in FREE]
    if not held:
        what = f"place {key!r}: {names[found[0]]} is at every machine that reads it, and cannot be pinned"
        raise CompileError(what, hint="pin what reads it")
    return held


def _matches(key: str, name: str) -> bool:
    if any(c in key for c in WILD):
        return fnmatchcase(name, key) or fnmatchcase(name, f"{key}/*")
    return name == key or name.startswith(f"{key}/")


def _layers(names: Iterable[str]) -> list[str]:
    return [name.rpartition("/")[0] for name in names if "/" in name]
