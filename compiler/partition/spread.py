"""Which machines a layer may use: all, a part of them, or one group of them per stage of the network."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from rainshed.compiler.cost import WEIGHTLESS
from rainshed.compiler.machines import Cluster
from rainshed.ops.ir import Graph, Node


@dataclass(frozen=True, slots=True)
class Spread:
    """`parts`: on one of so many parts of the machines; `stages`: the layers dealt out to so many groups of machines.

    slices   of the batch, in which the stages work one behind the other
    holding  the price of a variable's bytes on the machine that holds most of it, in passes over its memory
    """

    parts: int = 1
    stages: int = 1
    slices: int = 1
    holding: float = 0.1


ALL = Spread()


def fastest_first(cluster: Cluster) -> tuple[int, ...]:
    return tuple(sorted(range(len(cluster.machines)), key=lambda m: (-cluster.machines[m].flops, m)))


def groups(cluster: Cluster, spread: Spread) -> list[tuple[int, ...]]:
    """The machines of each stage, in the order of the cluster."""
    count = len(cluster.machines)
    used = sorted(fastest_first(cluster)[: max(1, -(-count // spread.parts))])
    stages = min(spread.stages, len(used))
    edges = [len(used) * i // stages for i in range(stages + 1)]
    return [tuple(used[a:b]) for a, b in itertools.pairwise(edges)]


def layers_of(graph: Graph) -> dict[Node, str]:
    """The layer of each node: the innermost scope around it that has variables; without scopes, that of what it reads."""
    nodes = graph.nodes()
    scopes = {n.name.rpartition("/")[0] for n in nodes if n.op.name == "variable"} - {""}
    found: dict[Node, str] = {}
    for node in nodes:
        name = node.name if node.op.name == "variable" else node.origin.scope
        while name and name not in scopes:
            name = name.rpartition("/")[0]
        if not name and node.op.name == "variable":
            name = node.name
        if name:
            found[node] = name
        elif node.origin.scope:
            found[node] = node.origin.scope
        else:
            known = [i for i in node.inputs if i in found]
            if known:
                found[node] = found[max(known, key=lambda i: (i.op.name == "variable", i.type.nbytes))]
    for node in reversed(nodes):
        for value in node.inputs:
            if node in found:
                found.setdefault(value, found[node])
    return {node: found.get(node, "") for node in nodes}


def stages_of(graph: Graph, layers: Mapping[Node, str], count: int) -> dict[str, int]:
    """The stage of each layer when layers are dealt out in order of first use, by work; backward follows forward."""
    work: dict[str, float] = {}
    for node in graph.nodes():
        if node.op.name in WEIGHTLESS:
            continue
        cost = node.op.cost_of(node)
        work[layers[node]] = work.get(layers[node], 0.0) + cost.flops + (cost.nbytes or 0)
    total, so_far, stage = sum(work.values()) or 1.0, 0.0, {}
    for layer, amount in work.items():
        stage[layer] = min(count - 1, int((so_far + amount / 2) / total * count))
        so_far += amount
    return stage
