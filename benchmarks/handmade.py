"""Plans as an experienced person would make them by hand, through the same passes as the automatic ones.

Only the layouts are made here, by rules that look at shapes and scopes; what follows (transfers, fusion, order, memory, the
simulated step) is that of the compiler.

    blocks   images and the weights of locally connected filters in a x b blocks of positions, as square as the machines allow;
             fully connected layers as in columns
    columns  every fully connected layer cut by its units: weights, their gradients and what the units give stay on one machine
    grids    the weights of fully connected layers in a x b blocks, as square as the machines allow; each machine multiplies by its
             own block, and what the b blocks of a column of units give is added where these units then lie
    layers   whole layers, in order, on one machine after the other, each machine with as even a share of the work as they allow;
             a layer is what shares the outermost scope, forward and backward
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping

import numpy as np
from msgspec import structs

from rainshed.compiler.collector import at_rest
from rainshed.compiler.cost import FREE, WEIGHTLESS
from rainshed.compiler.drafts import draft
from rainshed.compiler.layouts import Layout
from rainshed.compiler.machines import Cluster
from rainshed.compiler.passes.split import Splitter
from rainshed.compiler.pipeline import PLACED, SHARED, run_passes
from rainshed.compiler.plan import Plan
from rainshed.compiler.setting import Setting
from rainshed.ops.ir import Graph, Node
from rainshed.ops.types import Shape

Layouts = dict[Node, Layout]
Rule = Callable[[Graph, int], Layouts]


@at_rest()
def plan_by_hand(graph: Graph, cluster: Cluster, rule: Rule) -> Plan:
    """The plan with the rule's layouts. Whether it fits the memory is not looked at."""
    setting = Setting(cluster=cluster)
    graph = run_passes(graph, setting, SHARED)
    return plan_of_layouts(graph, setting, rule(graph, len(cluster.machines)))


def plan_of_layouts(graph: Graph, setting: Setting, layouts: Layouts) -> Plan:
    """The plan of a graph that has been through the passes SHARED, with these layouts."""
    placed = run_passes(Splitter(graph, layouts).run(), setting, PLACED[1:])
    return structs.replace(draft(placed, setting).plan(), notes={"strategy": "by hand"})


def blocks(graph: Graph, machines: int) -> Layouts:
    return {node: _block(node, machines) for node in graph.nodes() if node.op.name not in FREE}


def columns(graph: Graph, machines: int) -> Layouts:
    return {node: _column(node, machines) for node in graph.nodes() if node.op.name not in FREE}


def grids(graph: Graph, machines: int) -> Layouts:
    weights = {n.shape for n in graph.variables.values() if len(n.shape) == 2}
    return {node: _in_grid(node, machines, weights) for node in graph.nodes() if node.op.name not in FREE}


def layers(graph: Graph, machines: int) -> Layouts:
    layer = _layers(graph)
    work: dict[str, float] = {layer[n]: 0.0 for n in graph.nodes() if n.op.name == "variable"}  # in order
    for node in graph.nodes():
        if node.op.name not in WEIGHTLESS:
            work[layer[node]] += node.op.cost_of(node).flops
    before = dict(zip(work, itertools.accumulate(work.values(), initial=0.0), strict=False))
    total = sum(work.values())
    turn = {k: min(machines - 1, int((before[k] + work[k] / 2) / total * machines)) for k in work}
    return {
        node: Layout((1,) * len(node.access.axes), (turn[layer[node]],))
        for node in graph.nodes()
        if node.op.name not in FREE
    }


def _layers(graph: Graph) -> dict[Node, str]:
    """What stands in no scope goes with what it reads; without that, with the last layer: it belongs to the loss."""
    nodes = graph.nodes()
    own = {n: (n.name if n.op.name == "variable" else n.origin.scope).partition("/")[0] for n in nodes}
    last = next(own[n] for n in reversed(nodes) if own[n] and not n.origin.backward and n.op.name != "variable")
    for node in nodes:
        own[node] = own[node] or next((own[i] for i in node.inputs if own[i] and i.op.name not in FREE), last)
    return own


def _block(node: Node, machines: int) -> Layout:
    """The axes of positions follow the batch, but in the weights of local filters they come first."""
    rank = len(node.access.axes)
    first = 0 if rank == 6 else 1
    tall = _divisor(machines, math.isqrt(machines))
    if rank >= 4:
        found = _cut(node, {first: tall, first + 1: machines // tall})
        if len(found.homes) == machines:
            return found
    return _column(node, machines)


def _column(node: Node, machines: int) -> Layout:
    """Along the units of the layer. Where images become rows or the other way round: along the batch, then along lines."""
    axes = node.access.axes
    if not axes:
        return Layout((), (0,))
    if node.op.name == "reshape":
        batch = _divisor(machines, axes[0].max_parts)
        return _cut(node, {0: batch, 1: machines // batch})
    return _cut(node, {_units(node): machines})


def _in_grid(node: Node, machines: int, weights: Collection[Shape]) -> Layout:
    """Which axes of a loop nest run over the units that a layer gives, and over those that it reads."""
    known = {"matmul": (1, 2), "matmul_nt": (2, 1), "matmul_tn": (1, 0)}
    axes = node.access.axes
    if node.op.name in known or node.shape in weights:
        outer, inner = known.get(node.op.name, (1, 0))
        b = _divisor(machines, math.isqrt(machines))
        a = machines // b
        if axes[outer].max_parts >= a and axes[inner].max_parts >= b:
            grid = tuple(a if i == outer else b if i == inner else 1 for i in range(len(axes)))
            homes = np.arange(machines).reshape(a, b)
            return Layout(grid, tuple((homes if outer < inner else homes.T).ravel().tolist()))
    return _column(node, machines)


def _units(node: Node) -> int:
    """The axis of a layer's units. A product by transposed weights adds up over them; transposed values have them first."""
    axes = node.access.axes
    if node.op.name == "matmul_nt" and node.inputs[1].op.name == "variable":
        return 2
    if node.op.name in ("matmul", "matmul_nt", "matmul_tn"):
        return 1
    if node.op.name == "matrix_transpose" or axes[-1].max_parts == 1:
        return 0
    return len(axes) - 1


def _cut(node: Node, parts: dict[int, int]) -> Layout:
    """So many parts per axis, or as many as there can be, on the first machines in order."""
    axes = node.access.axes
    grid = tuple(min(parts.get(i, 1), axis.max_parts) for i, axis in enumerate(axes))
    return Layout(grid, tuple(range(math.prod(grid))))


def _divisor(n: int, most: int) -> int:
    """The greatest divisor of n that is not above `most`."""
    return next(d for d in range(min(n, most), 0, -1) if n % d == 0)


RULES: Mapping[str, Rule] = {"blocks": blocks, "columns": columns, "grids": grids, "layers": layers}
