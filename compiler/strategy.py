"""Choosing a layout for every node: a starting strategy for the whole graph, then each node in turn takes what costs least.

The cost of a choice is its compute time (the slowest machine's share) and the time of the bytes it makes cross, taken from exact
regions. Each strategy is one start; `compile` builds the plan of each and keeps the one whose simulated step is shortest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rainshed.compiler.cost import WEIGHTLESS, Pace, pace
from rainshed.compiler.layouts import Flow, Layout, Option, factor_grids, flow, option, spread
from rainshed.compiler.machines import Cluster
from rainshed.compiler.setting import Setting
from rainshed.ops.access import Access
from rainshed.ops.ir import Graph, Node, users
from rainshed.ops.op import Op
from rainshed.ops.types import TensorType, TupleType, fixed

# Free at every machine: fed to it, or written into its program.
FREE = frozenset({"input", "constant", "step"})
SWEEPS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What the search asks of a node again and again. Nodes of one kind (access and shapes) share their options."""

    node: Node
    access: Access
    itemsize: int
    flops: int
    nbytes: int
    paces: tuple[Pace, ...]  # of each machine
    options: tuple[Option, ...]


class Search:
    """The layouts of one graph on one cluster, improved node by node."""

    def __init__(self, graph: Graph, cluster: Cluster) -> None:
        self.graph, self.cluster = graph, cluster
        self.machines = len(cluster.machines)
        self.speed = [m.flops for m in cluster.machines]
        self.band = [m.bytes_per_s for m in cluster.machines]
        self._paces: dict[Op, tuple[Pace, ...]] = {}
        link = cluster.default_link
        self.link_bytes_per_s = min([link.bytes_per_s, *(x.bytes_per_s for x in cluster.links.values())])
        self.latency_s = max([link.latency_s, *(x.latency_s for x in cluster.links.values())])
        self._kinds: dict[object, tuple[Option, ...]] = {}
        self._flows: dict[tuple[Option, Option, int], Flow] = {}
        self._seconds: dict[tuple[Option, Option, int, int], float] = {}
        self.nodes = [n for n in graph.nodes() if n.op.name not in FREE]
        self.readers = users(graph.nodes())
        self.facts = {n: self._facts(n) for n in self.nodes}
        self.chosen: dict[Node, Option] = {}
        self.ends: dict[str, dict[Node, Option]] = {}  # what was chosen from each start
        self.stored = self._stored()
        self.stores: dict[Node, list[Node]] = {}
        for value, variable in self.stored.items():
            self.stores.setdefault(variable, []).append(value)
        self.layer_home = self._deal_layers()

    def _facts(self, node: Node) -> Facts:
        access = node.access
        shape = fixed(node.shape) if isinstance(node.type, TensorType) else ()
        shapes = tuple(fixed(i.shape) if isinstance(i.type, TensorType) else () for i in node.inputs)
        weightless = node.op.name in WEIGHTLESS
        cost = node.op.cost_of(node)
        if node.op not in self._paces:
            self._paces[node.op] = tuple(pace(m, node.op) for m in self.cluster.machines)
        kind = (access, shape, shapes, node.origin.pin)
        if kind not in self._kinds:
            layouts = self._layouts(node, access)
            self._kinds[kind] = tuple(option(access, one, shapes, shape, self.machines) for one in layouts)
        return Facts(
            node=node,
            access=access,
            itemsize=node.dtype.itemsize if isinstance(node.type, TensorType) else 1,
            flops=0 if weightless else cost.flops,
            nbytes=0 if weightless else cost.nbytes or 0,
            paces=self._paces[node.op],
            options=self._kinds[kind],
        )

    def _layouts(self, node: Node, access: Access) -> list[Layout]:
        """What a node can choose from: whole on any one machine, or cut along one or two axes for all of them."""
        single = (1,) * len(access.axes)
        if node.origin.pin is not None:
            return [Layout(single, (self.cluster.names.index(node.origin.pin),))]
        found = [Layout(single, (m,)) for m in range(self.machines)]
        if self.machines > 1:
            grids = dict.fromkeys(factor_grids(access, self.machines))
            found += [Layout(grid, spread(math.prod(grid), self.machines)) for grid in grids]
        return found

    def _stored(self) -> dict[Node, Node]:
        """Root -> variable: values that must end where a variable lies."""
        variables = self.graph.variables
        found = {}
        for name, node in self.graph.updates.items():
            found[node] = variables[name]
        for name, node in self.graph.outputs.items():
            if name.startswith("grad/") and name[5:] in variables:
                found[node] = variables[name[5:]]
        return {node: variable for node, variable in found.items() if node in self.facts}

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
    def compute(self, f: Facts, one: Option) -> float:
        if not f.flops and not f.nbytes:
            return 0.0
        slowest = 0.0
        for m, share in enumerate(one.share):
            if share:
                time = f.paces[m].seconds(f.flops * share, f.nbytes * share, one.calls[m])
                slowest = max(slowest, time)
        return slowest

    def carry(self, moved: Flow, itemsize: int) -> float:
        if not moved.messages:
            return 0.0
        busiest = max(*moved.out, *moved.into) * itemsize
        return busiest / self.link_bytes_per_s + self.latency_s * max(1.0, moved.messages / self.machines)

    def edge(self, value: Node, have: Option, reader: Node, its: Option) -> float:
        """Seconds to bring one value to one reader."""
        if isinstance(value.type, TupleType):
            return 0.0 if have.layout.homes[0] == its.layout.homes[0] else math.inf  # a tuple does not travel
        i = reader.inputs.index(value)
        itemsize = self.facts[value].itemsize
        key = (have, its, i, itemsize)
        if key not in self._seconds:
            if key[:3] not in self._flows:
                self._flows[key[:3]] = flow(have, its.regions[i], its.homes, self.machines)
            self._seconds[key] = self.carry(self._flows[key[:3]], itemsize)
        return self._seconds[key]

    def store(self, value: Node, have: Option, its: Option) -> float:
        """Seconds to bring a gradient or an update to where its variable lies."""
        key = (have, its, -1)
        if key not in self._flows:
            self._flows[key] = flow(have, its.corners, its.piece_homes, self.machines)
        return self.carry(self._flows[key], self.facts[value].itemsize)

    def cost(self, node: Node, one: Option) -> float:
        """All that changes with the layout of one node, the others staying as they are."""
        f = self.facts[node]
        total = self.compute(f, one) + self.carry(one.partial, f.itemsize)
        for value in dict.fromkeys(node.inputs):
            if value in self.chosen:
                total += self.edge(value, self.chosen[value], node, one)
        for reader in self.readers[node]:
            if reader in self.chosen:
                total += self.edge(node, one, reader, self.chosen[reader])
        variable = self.stored.get(node)
        if variable is not None and variable in self.chosen:
            total += self.store(node, one, self.chosen[variable])
        if node.op.name == "variable":
            total += sum(self.store(v, self.chosen[v], one) for v in self.stores.get(node, ()) if v in self.chosen)
            total += self._memory(f, one)
        return total

    def _memory(self, f: Facts, one: Option) -> float:
        """A small price for holding much of a variable on one machine, so that equal choices spread the parameters."""
        nbytes = f.node.type.nbytes
        return 0.1 * max(nbytes * share / self.band[m] for m, share in enumerate(one.share))

    # -- the search ---------------------------------------------------------------------------------------------------
    def start(self, strategy: Start) -> None:
        """Every node gets the strategy's layout; variables lie where the readers then want them."""
        self.chosen = {}
        for node in self.nodes:
            options = self.facts[node].options
            if len(options) == 1:
                self.chosen[node] = options[0]
            elif node.op.name != "variable":
                wanted = strategy(self, node)
                self.chosen[node] = next((o for o in options if o.layout == wanted), options[0])
        for node in self.nodes:
            if node not in self.chosen:
                self.chosen[node] = self.best(node)

    def best(self, node: Node) -> Option:
        """The option that costs least now; the present one where several do."""
        options = self.facts[node].options
        now = self.chosen.get(node)
        if len(options) == 1:
            return options[0]
        costs = [(self.cost(node, one), one is not now, i) for i, one in enumerate(options)]
        return options[min(costs)[2]]

    def improve(self) -> None:
        """Each node takes its cheapest layout, in sweeps up and down, until nothing changes."""
        open_ = set(self.nodes)  # those whose neighbours have changed since they chose; the others would choose the same
        for sweep in range(SWEEPS):
            for node in self.nodes if sweep % 2 == 0 else reversed(self.nodes):
                if node not in open_:
                    continue
                open_.remove(node)
                new = self.best(node)
                if new is not self.chosen[node]:
                    self.chosen[node] = new
                    open_.update(self._neighbours(node))
            if not open_:
                return

    def _neighbours(self, node: Node) -> list[Node]:
        """The nodes whose cost the layout of this one is part of."""
        found = [*node.inputs, *self.readers[node], *self.stores.get(node, ())]
        if node in self.stored:
            found.append(self.stored[node])
        return [n for n in found if n in self.chosen]


Start = Callable[[Search, Node], Layout]


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
    return Layout(
        (1,) * len(search.facts[node].access.axes), (max(range(search.machines), key=lambda m: search.speed[m]),)
    )


AS_STARTED = ("one", "even")  # these are kept as they start

STRATEGIES: dict[str, Start] = {
    "space": in_space,
    "features": along_features,
    "batch": along_batch,
    "longest": along_longest,
    "layers": layer_by_layer,
    "one": on_one,
    "even": in_space,  # every op on all machines, whether the search likes it or not
}


def choose_layouts(graph: Graph, setting: Setting) -> dict[Node, Layout]:
    """The layout of every node that needs one, from the start that the setting names."""
    if graph not in setting.shared:
        setting.shared[graph] = Search(graph, setting.cluster)
    search: Search = setting.shared[graph]
    search.start(STRATEGIES[setting.strategy])
    if setting.strategy not in AS_STARTED:
        search.improve()
    search.ends[setting.strategy] = dict(search.chosen)
    return {node: one.layout for node, one in search.chosen.items()}
