"""The search for layouts: what each node can choose from, what choices cost alone and together, and how to find cheap ones.

The cost of a choice is its compute time (the slowest machine's share) and the time of the bytes it makes cross, taken from exact
regions.

Source  exact costs per edge and elimination: Jia et al. (OptCNN), ICML 2018; Elango (PaSE), IPDPS 2021
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

import numpy as np

from rainshed.compiler.cost import FREE, WEIGHTLESS
from rainshed.compiler.layouts import Layout
from rainshed.compiler.machines import Cluster
from rainshed.compiler.partition.candidates import candidates
from rainshed.compiler.partition.derive import Piece, followed
from rainshed.compiler.partition.eliminate import Problem, solve
from rainshed.compiler.partition.facts import Facts, Shared, paces
from rainshed.compiler.partition.microbatch import batch_axes, sliced
from rainshed.compiler.partition.options import Block, Kind, Nest, Option
from rainshed.compiler.partition.spread import ALL, Spread, groups, layers_of, stages_of
from rainshed.compiler.partition.traffic import Wires
from rainshed.ops.access import Access
from rainshed.ops.ir import Graph, Node, users
from rainshed.ops.op import Op
from rainshed.ops.types import TensorType, TupleType, fixed

SWEEPS = 4
MOST_BESIDE = 4  # layouts that follow operands, of one node
MOST_PINS = 8  # machines with pins that are candidates for what has none
NEVER = 1e9  # seconds: more than any step


class Search:
    """The layouts of one graph on one cluster."""

    def __init__(
        self,
        graph: Graph,
        cluster: Cluster,
        spread: Spread = ALL,
        given: Mapping[Node, Layout] | None = None,
        shared: Shared | None = None,
    ) -> None:
        self.graph, self.cluster, self.given = graph, cluster, given
        self.machines = len(cluster.machines)
        self.speed = np.array([max(m.flops, *(u.flops for u in m.units), 0.0) for m in cluster.machines])
        self.band = np.array([m.bytes_per_s for m in cluster.machines])
        pins = {n.origin.pin for n in graph.nodes()}
        self.pins = [m for m, name in enumerate(cluster.names) if name in pins][
            :MOST_PINS
        ]  # what is there may want company
        self.roomiest = max(range(self.machines), key=lambda m: (cluster.machines[m].memory_bytes, -m))
        self.wires = Wires.of(cluster)
        self.holding = spread.holding
        self._paces: dict[Op, tuple[np.ndarray, ...]] = {}
        self.nodes = [n for n in graph.nodes() if n.op.name not in FREE]
        self.readers = users(graph.nodes())
        self.layer = layers_of(graph)
        self.groups = groups(cluster, spread)
        self.stage = stages_of(graph, self.layer, len(self.groups))
        self.turn = stages_of(graph, self.layer, self.machines)
        self.slices = spread.slices
        self.examples = batch_axes(graph.nodes()) if spread.slices > 1 else {}
        self.shared = shared or Shared()
        self.target = self._targets() if given else {}
        self.facts: dict[Node, Facts] = {}
        for node in sorted(self.nodes, key=lambda n: n.op.name != "variable"):  # what ends in them follows them
            self.facts[node] = self._facts(node)
        self.chosen: dict[Node, int] = {}
        self._solvable: tuple[Problem, dict[Node, int]] | None = None
        self.ends: dict[str, dict[Node, int]] = {}  # what was chosen by each strategy
        self.near = self._near()

    def _facts(self, node: Node) -> Facts:
        access = node.access
        shape = fixed(node.shape) if isinstance(node.type, TensorType) else ()
        shapes = tuple([fixed(i.shape) if isinstance(i.type, TensorType) else () for i in node.inputs])
        key = (access, shapes, shape)
        nest = self.shared.nests.get(key)
        if nest is None:
            nest = self.shared.nests[key] = Nest(access, shapes, shape, self.machines)
        kind = self._kind(node, nest)
        itemsize = node.dtype.itemsize if isinstance(node.type, TensorType) else 1
        variable = node.op.name == "variable"
        cost = node.op.cost_of(node)
        known = (node.op, cost.flops, cost.nbytes, itemsize, self.holding if variable else None)
        spent = self.shared.spent.get((kind, known))
        if spent is None:
            found = [(self._block_spent(node, block, itemsize, known), taken) for block, taken in kind.blocks]
            spent = self.shared.spent[kind, known] = (
                np.concatenate([busy[taken] for (busy, _), taken in found]),
                np.concatenate([seconds[taken] for (_, seconds), taken in found]),
            )
        return Facts(node, access, itemsize, kind, *spent)

    def _block_spent(self, node: Node, block: Block, itemsize: int, known: object) -> tuple[np.ndarray, np.ndarray]:
        if (block, known) not in self.shared.spent:
            self.shared.spent[block, known] = self._spent(node, block, itemsize)
        return self.shared.spent[block, known]

    def _kind(self, node: Node, nest: Nest) -> Kind:
        """What a node may choose from: where its pin says; where tiles were placed, or beside them; or any of the candidates."""
        single = (1,) * len(nest.access.axes)
        layouts: Sequence[Layout] | None = None
        key: tuple[object, ...] = ()
        if node.origin.pin is not None:
            layouts = (Layout(single, (self.cluster.names.index(node.origin.pin),)),)
        elif self.given is not None:
            layouts = self._beside(node, nest.access, nest.shapes, nest.shape)
        if layouts:
            key = (nest, tuple(layouts))
        else:
            own = self.groups[self.stage.get(self.layer[node], 0)]
            key = (nest, own, self.turn.get(self.layer[node], 0), self.examples.get(node), self.slices)
        if key not in self.shared.kinds:
            self.shared.kinds[key] = Kind.of(nest, layouts) if layouts else self._candidates(node, nest, own, single)
        return self.shared.kinds[key]

    def _candidates(self, node: Node, nest: Nest, own: tuple[int, ...], single: tuple[int, ...]) -> Kind:
        """The candidates on some machines, and all on a machine alone.

        All layers share a block of those that are on one machine, and those of one stage that of the candidates.
        """
        roomiest = [self.roomiest] if len(own) == self.machines else []
        alone = [self._sliced(node, nest, Layout(single, (m,))) for m in (self._turn(node), *roomiest, *self.pins)]
        if own == (self._turn(node),):
            return Kind.joined([(self._alone(node, nest, single), list(dict.fromkeys(alone)))])
        key = (nest, own, self.examples.get(node), self.slices)
        if key not in self.shared.blocks:
            speeds = tuple(float(self.speed[m]) for m in own)
            places = candidates(nest.access, nest.shapes, nest.shape, speeds)
            fastest = Layout(single, (max(own, key=lambda m: (self.speed[m], -m)),))
            found = [*(Layout(one.grid, tuple([own[i] for i in one.homes]), one.cut) for one in places), fastest]
            layouts = list(dict.fromkeys(self._sliced(node, nest, one) for one in found))
            self.shared.blocks[key] = Block(nest, layouts)
        block = self.shared.blocks[key]
        more = [one for one in dict.fromkeys(alone) if one not in block.number]
        return Kind.joined([(block, list(block.number)), (self._alone(node, nest, single), more)])

    def _turn(self, node: Node) -> int:
        return self.turn.get(self.layer[node], 0)

    def _sliced(self, node: Node, nest: Nest, layout: Layout) -> Layout:
        return sliced(nest.access, layout, self.examples[node], self.slices) if node in self.examples else layout

    def _alone(self, node: Node, nest: Nest, single: tuple[int, ...]) -> Block:
        """All on one machine, for each machine that some layer may be alone on."""
        key = (nest, self.examples.get(node), self.slices)
        if key not in self.shared.blocks:
            machines = sorted({0, *self.turn.values(), self.roomiest, *self.pins})
            layouts = [self._sliced(node, nest, Layout(single, (m,))) for m in machines]
            self.shared.blocks[key] = Block(nest, layouts)
        return self.shared.blocks[key]

    def _beside(
        self, node: Node, access: Access, shapes: tuple[tuple[int, ...], ...], shape: tuple[int, ...]
    ) -> tuple[Layout, ...]:
        """The layout that is given, or those that follow the operands and the target: the gradient of a value where that lies."""
        assert self.given is not None
        if node in self.given:
            return (self.given[node],)
        weights = any(value.op.name == "variable" for value in node.inputs)
        found: dict[Layout | None, None] = {}
        if self.target.get(node) in self.facts:
            found[followed(access, access.output, shape, self._lies(self.target[node]))] = None
        for value, reaches, size in zip(node.inputs, access.inputs, shapes, strict=True):
            if value in self.facts and size:
                found[followed(access, reaches, size, self._lies(value))] = None
        # the gradient of a placed value lies with it before all else; but products are made where their weights are
        first = next(iter(found), None) if self.target.get(node) in self.given and not weights else None
        layouts = [one for one in found if one is not None]
        layouts.sort(key=lambda one: (one is not first, -len(set(one.homes)), len(one.homes)))  # on many, in few tiles
        return tuple(layouts[:MOST_BESIDE])

    def _lies(self, value: Node) -> list[Piece]:
        """Where the pieces of a value are if it takes the first of its options."""
        first = self.facts[value].kind.options[0]
        return [
            (tuple((low, high) for low, high in box), home)
            for box, home in zip(first.corners.tolist(), first.piece_homes.tolist(), strict=True)
        ]

    def _targets(self) -> dict[Node, Node]:
        """What a value should lie with: the variable in which it ends as a gradient or an update, or a placed value, of its
        shape, that it is made from; and so what of the same shape these are made from."""
        found = dict(self._stored(self.nodes))
        values = {v for v in self.given or () if v.op.name != "variable"}
        for node in reversed(self.nodes):
            if node not in found and node.origin.backward:
                placed = next((v for v in node.inputs if v in values and v.type == node.type), None)
                if placed is not None:
                    found[node] = placed
            if node in found:
                for value in node.inputs:
                    if value.origin.backward and value.type == found[node].type:
                        found.setdefault(value, found[node])
        return found

    # -- costs in seconds ---------------------------------------------------------------------------------------------
    def _spent(self, node: Node, block: Block, itemsize: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each option by itself: seconds of each machine, and of computing and adding partial results."""
        busy = np.zeros(block.share.shape)
        if node.op.name not in WEIGHTLESS:
            busy = self._compute(node, block.share, block.calls)
        spent: np.ndarray = busy.max(axis=1) + np.array([self.adding(o, itemsize) for o in block.options])
        if node.op.name == "variable":
            # a price for holding much on one machine: small, so that equal choices spread it
            spent = spent + self.holding * node.type.nbytes * (block.share / self.band).max(axis=1)
        return busy, spent

    def _compute(self, node: Node, share: np.ndarray, calls: np.ndarray) -> np.ndarray:
        """Seconds of a node on each machine with these shares of its work, in so many calls.

        Shapes  share, calls, result: f64[..., machines]
        """
        cost = node.op.cost_of(node)
        if node.op not in self._paces:
            self._paces[node.op] = paces(self.cluster, node.op)
        flops, nbytes, overhead, measured = self._paces[node.op]
        work, traffic = cost.flops * share / flops, (cost.nbytes or 0) * share / nbytes
        own = np.where(measured, work + traffic, np.maximum(work, traffic)) + calls * overhead
        return np.where(share > 0, own, 0.0)

    def adding(self, one: Option, itemsize: int) -> float:
        """Seconds to bring partial results together."""
        if not len(one.partial):
            return 0.0
        source, target, elements = one.partial.T
        seconds = elements * itemsize * self.wires.per_byte[source, target]
        busy = max(np.bincount(source, seconds).max(), np.bincount(target, seconds).max())
        return float(self.wires.seconds(np.array(busy), np.array(len(one.partial) / self.machines)))

    def edge(self, value: Node, reader: Node) -> np.ndarray:
        """Seconds to bring one value to one reader, per option of both."""
        have, its = self.facts[value], self.facts[reader]
        i = reader.inputs.index(value)
        key = (have.kind, its.kind, i, have.itemsize, isinstance(value.type, TupleType))
        if key not in self.shared.edges:
            if isinstance(value.type, TupleType):  # a tuple does not travel
                homes = (
                    np.array([o.homes[0] for o in have.kind.options]),
                    np.array([o.homes[0] for o in its.kind.options]),
                )
                self.shared.edges[key] = np.where(homes[0][:, None] == homes[1][None, :], 0.0, NEVER)
            else:
                self.shared.edges[key] = self.shared.seconds(have.kind, its.kind, i, have.itemsize, self.wires)
        return self.shared.edges[key]

    def store(self, value: Node, variable: Node) -> np.ndarray:
        """Seconds to bring a gradient or an update to where its variable lies, per option of both."""
        have, its = self.facts[value], self.facts[variable]
        key = (have.kind, its.kind, -1, have.itemsize, False)
        if key not in self.shared.edges:
            self.shared.edges[key] = self.shared.seconds(have.kind, its.kind, -1, have.itemsize, self.wires)
        return self.shared.edges[key]

    def pairs(self) -> list[tuple[Node, Node, np.ndarray]]:
        """Every two nodes whose layouts make bytes cross, with the seconds per option of both."""
        found = [(v, n, self.edge(v, n)) for n in self.nodes for v in dict.fromkeys(n.inputs) if v in self.facts]
        return found + [(v, x, self.store(v, x)) for v, x in self.stored()]

    def stored(self) -> list[tuple[Node, Node]]:
        """(value, variable): what must end where a variable lies."""
        return self._stored(self.facts)

    def _stored(self, nodes: Container[Node]) -> list[tuple[Node, Node]]:
        variables = self.graph.variables
        found = [(node, variables[name]) for name, node in self.graph.updates.items()]
        for name, node in self.graph.outputs.items():
            if name.startswith("grad/") and name[5:] in variables:
                found.append((node, variables[name[5:]]))
        return [(node, variable) for node, variable in dict.fromkeys(found) if node in nodes and node is not variable]

    def _near(self) -> dict[Node, list[tuple[Node, np.ndarray]]]:
        near: dict[Node, list[tuple[Node, np.ndarray]]] = {n: [] for n in self.nodes}
        for a, b, seconds in self.pairs():
            near[a].append((b, seconds))
            near[b].append((a, seconds.T))
        return near

    def cost(self) -> float:
        """Seconds of all choices, as if everything ran one after the other."""
        total = sum(float(self.facts[n].spent[i]) for n, i in self.chosen.items())
        for node, near in self.near.items():
            total += sum(float(s[self.chosen[node], self.chosen[other]]) for other, s in near) / 2
        return total

    # -- searching ----------------------------------------------------------------------------------------------------
    def start(self, start: Callable[[Search, Node], int]) -> None:
        """Every node gets the start's layout; variables lie where the readers then want them."""
        self.chosen = {}
        for node in self.nodes:
            options = self.facts[node].kind.options
            if len(options) == 1:
                self.chosen[node] = 0
            elif node.op.name != "variable":
                self.chosen[node] = start(self, node)
        for node in self.nodes:
            if node not in self.chosen:
                self.chosen[node] = self.best(node)

    def best(self, node: Node) -> int:
        """The option that costs least now; the present one where several do."""
        costs = self.facts[node].spent.copy()
        for other, seconds in self.near[node]:
            if other in self.chosen:
                costs += seconds[:, self.chosen[other]]
        now = self.chosen.get(node)
        best = int(np.argmin(costs))
        return best if now is None or costs[best] < costs[now] else now

    def improve(self) -> None:
        """Each node takes its cheapest layout, in sweeps up and down, until nothing changes."""
        for sweep in range(SWEEPS):
            changed = False
            for node in self.nodes if sweep % 2 == 0 else reversed(self.nodes):
                new = self.best(node)
                changed |= new != self.chosen[node]
                self.chosen[node] = new
            if not changed:
                return

    def settle(self) -> bool:
        """The cheapest choice for all nodes at once, no worse than the present one. Whether there can be no cheaper one.

        Nodes of one layer that are of one kind and do the same (the time steps of a recurrent layer) choose alike; an
        optimizer's slots as their variable.
        """
        problem, of = self._problem()
        start = [0] * len(problem.unary)
        for node in reversed(self.nodes):
            start[of[node]] = self.chosen[node]
        choice, exact = solve(problem, start)
        before, cost = self.chosen, self.cost()
        self.chosen = {node: choice[of[node]] for node in self.nodes}
        if self.cost() > cost:
            self.chosen = before
        return exact

    def _problem(self) -> tuple[Problem, dict[Node, int]]:
        """The costs of all choices, alone and together, and the variable of each node; the same for every start."""
        if self._solvable is not None:
            return self._solvable
        of = self.alike()
        unary = [np.zeros(0)] * (max(of.values(), default=-1) + 1)
        for node in self.nodes:
            unary[of[node]] = self.facts[node].spent + (unary[of[node]] if len(unary[of[node]]) else 0.0)
        pairs: dict[tuple[int, int], np.ndarray] = {}
        for a, b, seconds in self.pairs():
            i, j = of[a], of[b]
            if i == j:
                unary[i] = unary[i] + np.diag(seconds)
                continue
            key, table = ((i, j), seconds) if i < j else ((j, i), seconds.T)
            pairs[key] = pairs[key] + table if key in pairs else table
        self._solvable = Problem(unary, pairs), of
        return self._solvable

    def alike(self) -> dict[Node, int]:
        """Numbers of nodes, equal for those that have to choose alike."""
        found: dict[object, int] = {}
        of: dict[Node, int] = {}
        repeated = self._repeated()
        variables = self.graph.variables
        for node in self.nodes:
            key: object = node
            own = variables.get(node.name.rpartition("/")[0]) if node.op.name == "variable" else None
            if own is not None and own in self.facts and self.facts[own].kind is self.facts[node].kind:
                key = own  # a slot
            elif self.layer[node] in repeated:
                key = (node.op.name, self.layer[node], self.facts[node].kind, node.origin.backward, node.name)
            of[node] = found.setdefault(key, len(found))
        return of

    def _repeated(self) -> set[str]:
        """Layers that read a variable again and again in the same way."""
        found = set()
        for node in self.nodes:
            if node.op.name == "variable":
                kinds = [self.facts[r].kind for r in self.readers[node]]
                if len(kinds) > 2 * len(set(kinds)):
                    found.add(self.layer[node])
        return found
