"""Choosing a layout for every node: a starting strategy for the whole graph, then each node in turn takes what costs least.

The cost of a choice is its compute time (the slowest machine's share) and the time of the bytes it makes cross, taken from exact
regions. Each strategy is one start; `compile` builds the plan of each and keeps the one whose simulated step is shortest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rainshed.compiler.cost import WEIGHTLESS
from rainshed.compiler.layouts import Flow, Layout, Placed, factor_grids, flow, partial_flow, pieces, spread, tiles
from rainshed.compiler.machines import Cluster
from rainshed.ops.access import Access, box_size
from rainshed.ops.ir import Graph, Node, users
from rainshed.ops.types import TensorType, TupleType, fixed

# Free at every machine: fed to it, or written into its program.
FREE = frozenset({"input", "constant", "step"})
SWEEPS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What the search asks of a node again and again."""

    node: Node
    access: Access
    shape: tuple[int, ...]
    itemsize: int
    flops: int
    nbytes: int
    candidates: tuple[Layout, ...]


class Search:
    """The layouts of one graph on one cluster, improved node by node."""

    def __init__(self, graph: Graph, cluster: Cluster) -> None:
        self.graph, self.cluster = graph, cluster
        self.machines = len(cluster.machines)
        self.nodes = [n for n in graph.nodes() if n.op.name not in FREE]
        self.readers = users(graph.nodes())
        self.facts = {n: self._facts(n) for n in self.nodes}
        self.layout: dict[Node, Layout] = {}
        self.speed = [m.flops for m in cluster.machines]
        self.band = [m.bytes_per_s for m in cluster.machines]
        self.stored = self._stored()
        link = cluster.default_link
        slowest = min([link.bytes_per_s, *(x.bytes_per_s for x in cluster.links.values())])
        self.link_bytes_per_s, self.latency_s = slowest, max([link.latency_s, *(x.latency_s for x in cluster.links.values())])
        self.overhead_s = max(m.overhead_s for m in cluster.machines)
        self.layer_home = self._deal_layers()

    def _facts(self, node: Node) -> Facts:
        access = node.access
        itemsize = node.dtype.itemsize if isinstance(node.type, TensorType) else 1
        shape = fixed(node.shape) if isinstance(node.type, TensorType) else ()
        cost = node.op.cost_of(node)
        weightless = node.op.name in WEIGHTLESS
        return Facts(
            node,
            access,
            shape,
            itemsize,
            0 if weightless else cost.flops,
            0 if weightless else cost.nbytes or 0,
            self._candidates(node, access),
        )

    def _candidates(self, node: Node, access: Access) -> tuple[Layout, ...]:
        single = (1,) * len(access.axes)
        if node.origin.pin is not None:
            return (Layout(single, (self.cluster.names.index(node.origin.pin),)),)
        found = [Layout(single, (m,)) for m in range(self.machines)]
        if self.machines > 1:
            grids = dict.fromkeys(factor_grids(access, self.machines))
            found += [Layout(grid, spread(math.prod(grid), self.machines)) for grid in grids]
        return tuple(found)

    def _stored(self) -> dict[Node, Node]:
        """Root -> variable: values that must end where a variable lies."""
        variables = self.graph.variables
        found = {}
        for name, node in self.graph.updates.items():
            found[node] = variables[name]
        for name, node in self.graph.outputs.items():
            if name.startswith("grad/") and name[5:] in variables:
                found[node] = variables[name[5:]]
        return found

    def _deal_layers(self) -> dict[str, int]:
        """The machine of each layer when layers are dealt out in order of first use, by work; backward follows forward."""
        work: dict[str, float] = {}
        for node, f in self.facts.items():
            work[node.origin.scope] = work.get(node.origin.scope, 0.0) + f.flops + f.nbytes
        total, so_far, machine = sum(work.values()) or 1.0, 0.0, {}
        for scope, amount in work.items():
            machine[scope] = min(self.machines - 1, int((so_far + amount / 2) / total * self.machines))
            so_far += amount
        return machine

    # -- costs in seconds ---------------------------------------------------------------------------------------------
    def compute(self, facts: Facts, layout: Layout) -> float:
        if not facts.flops and not facts.nbytes:
            return 0.0
        total = max(1, box_size(facts.access.full))
        load = [0.0] * self.machines
        for box, home in zip(tiles(facts.access, layout), layout.homes, strict=True):
            share = box_size(box) / total if facts.access.axes else 1.0
            load[home] += max(facts.flops * share / self.speed[home], facts.nbytes * share / self.band[home]) + self.overhead_s
        return max(load)

    def carry(self, moved: Flow) -> float:
        if not moved.messages:
            return 0.0
        return max(*moved.out, *moved.into) / self.link_bytes_per_s + self.latency_s * max(1, moved.messages / self.machines)

    def have(self, value: Node, layout: Layout) -> tuple[Placed, ...]:
        f = self.facts[value]
        return pieces(f.access, layout, f.shape)

    def edge(self, value: Node, layout: Layout, reader: Node, its: Layout) -> float:
        """Seconds to bring one value to one reader."""
        if isinstance(value.type, TupleType):
            return 0.0 if layout.homes[0] == its.homes[0] else math.inf  # a tuple does not travel
        f, r = self.facts[value], self.facts[reader]
        total = 0.0
        for i, node in enumerate(reader.inputs):
            if node is value:
                have = self.have(value, layout)
                total += self.carry(flow(have, r.access, its, i, f.shape, f.itemsize, self.machines))
                break
        return total

    def store(self, value: Node, layout: Layout, variable: Node, its: Layout) -> float:
        """Seconds to bring a gradient or an update to where its variable lies."""
        f, v = self.facts[value], self.facts[variable]
        same_index = v.access
        moved = flow(self.have(value, layout), _identity(same_index), its, 0, f.shape, f.itemsize, self.machines)
        return self.carry(moved)

    def cost(self, node: Node, layout: Layout) -> float:
        """All that changes with the layout of one node, the others staying as they are."""
        f = self.facts[node]
        total = self.compute(f, layout)
        total += self.carry(partial_flow(f.access, layout, f.shape, f.itemsize, self.machines))
        for value in dict.fromkeys(node.inputs):
            if value in self.layout:
                total += self.edge(value, self.layout[value], node, layout)
        for reader in self.readers[node]:
            if reader in self.layout:
                total += self.edge(node, layout, reader, self.layout[reader])
        if node in self.stored and self.stored[node] in self.layout:
            total += self.store(node, layout, self.stored[node], self.layout[self.stored[node]])
        if node.op.name == "variable":
            for value, variable in self.stored.items():
                if variable is node and value in self.layout:
                    total += self.store(value, self.layout[value], node, layout)
            total += self._memory(f, layout)
        return total

    def _memory(self, facts: Facts, layout: Layout) -> float:
        """A small price for holding much of a variable on one machine, so that equal choices spread the parameters."""
        held = [0.0] * self.machines
        for box, home in zip(tiles(facts.access, layout), layout.homes, strict=True):
            held[home] += box_size(box) * facts.itemsize
        return max(h / self.band[i] for i, h in enumerate(held)) * 0.1

    # -- the search ---------------------------------------------------------------------------------------------------
    def start(self, strategy: Callable[[Search, Node], Layout]) -> None:
        self.layout = {}
        for node in self.nodes:
            if len(self.facts[node].candidates) == 1:
                self.layout[node] = self.facts[node].candidates[0]
            elif node.op.name != "variable":
                self.layout[node] = strategy(self, node)
        for node in self.nodes:  # variables lie where the start's readers want them
            if node not in self.layout:
                self.layout[node] = self.best(node)

    def best(self, node: Node) -> Layout:
        options = self.facts[node].candidates
        if len(options) == 1:
            return options[0]
        now = self.layout.get(node)
        costs = [(self.cost(node, option), option != now, i) for i, option in enumerate(options)]
        return options[min(costs)[2]]

    def improve(self) -> None:
        """Each node takes its cheapest layout, in sweeps up and down, until nothing changes."""
        for sweep in range(SWEEPS):
            changed = False
            for node in self.nodes if sweep % 2 == 0 else reversed(self.nodes):
                new = self.best(node)
                changed |= new != self.layout[node]
                self.layout[node] = new
            if not changed:
                return


def _identity(access: Access) -> Access:
    """The access of a reader that needs each element where it lies."""
    return Access(access.axes, (access.output,), access.output)


# -- starts -----------------------------------------------------------------------------------------------------------
def _cut(search: Search, node: Node, order: list[int]) -> Layout:
    """The first axis of `order` that can be cut for all machines."""
    access = search.facts[node].access
    for i in order:
        if access.axes[i].max_parts >= search.machines and access.axes[i].role != "whole":
            grid = tuple(search.machines if k == i else 1 for k in range(len(access.axes)))
            return Layout(grid, spread(search.machines, search.machines))
    return Layout((1,) * len(access.axes), (0,))


def along_batch(search: Search, node: Node) -> Layout:
    """Every op is cut along its first axis: the batch, in most graphs."""
    axes = search.facts[node].access.axes
    joins = [i for i, a in enumerate(axes) if a.role == "join"]
    return _cut(search, node, joins + [i for i, a in enumerate(axes) if a.role == "sum"])


def along_features(search: Search, node: Node) -> Layout:
    """Every op is cut along its last axis: units of a layer, channels."""
    axes = search.facts[node].access.axes
    joins = [i for i, a in enumerate(axes) if a.role == "join"]
    return _cut(search, node, joins[::-1] + [i for i, a in enumerate(axes) if a.role == "sum"])


def along_longest(search: Search, node: Node) -> Layout:
    axes = search.facts[node].access.axes
    return _cut(search, node, sorted(range(len(axes)), key=lambda i: (axes[i].role != "join", -axes[i].size)))


def in_space(search: Search, node: Node) -> Layout:
    """Images are cut in two dimensions, as squares as the machines allow; the rest along its longest axis."""
    access = search.facts[node].access
    joins = [i for i, a in enumerate(access.axes) if a.role == "join"]
    if len(joins) >= 4:
        y, x = joins[1], joins[2]
        for a in range(math.isqrt(search.machines), 0, -1):
            b = search.machines // a
            if search.machines % a == 0 and access.axes[y].max_parts >= b and access.axes[x].max_parts >= a:
                grid = tuple(b if k == y else a if k == x else 1 for k in range(len(access.axes)))
                return Layout(grid, spread(search.machines, search.machines))
    return along_longest(search, node)


def layer_by_layer(search: Search, node: Node) -> Layout:
    """Whole layers, in order, on one machine after the other, each with an even share of the work."""
    single = (1,) * len(search.facts[node].access.axes)
    return Layout(single, (search.layer_home[node.origin.scope],))


def on_one(search: Search, node: Node) -> Layout:
    """Everything on the fastest machine."""
    return Layout((1,) * len(search.facts[node].access.axes), (max(range(search.machines), key=lambda m: search.speed[m]),))


STRATEGIES: dict[str, Callable[[Search, Node], Layout]] = {
    "space": in_space,
    "features": along_features,
    "batch": along_batch,
    "longest": along_longest,
    "layers": layer_by_layer,
    "one": on_one,
}


def choose_layouts(graph: Graph, cluster: Cluster, strategy: str) -> dict[Node, Layout]:
    """The layout of every node that needs one, from one start."""
    search = Search(graph, cluster)
    search.start(STRATEGIES[strategy])
    if strategy != "one":
        search.improve()
    return search.layout


