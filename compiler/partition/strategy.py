"""The strategies: each is one way to search for layouts; `compile` keeps the plan whose simulated step is shortest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from rainshed.compiler.cost import FREE
from rainshed.compiler.layouts import Layout
from rainshed.compiler.partition.estimate import estimate
from rainshed.compiler.partition.facts import Shared
from rainshed.compiler.partition.guide import guide, worth_guiding
from rainshed.compiler.partition.placement import Aim
from rainshed.compiler.partition.search import Search
from rainshed.compiler.partition.spread import ALL, Spread, groups
from rainshed.compiler.partition.tiled import tile_layouts
from rainshed.compiler.setting import Setting
from rainshed.ops.ir import Graph, Node

Start = Callable[[Search, Node], int]
MANY = 1 << 20  # stages: one for every machine
SHORT_S, MIDDLE_S, LONG_S = 1e-3, 5e-3, 0.1  # steps from which some strategies are worth the time that they take


# -- starts -----------------------------------------------------------------------------------------------------------
def _along(search: Search, node: Node, order: list[int]) -> int:
    """The first option that cuts just one axis, the first of `order` that can be cut for all machines."""
    options = search.facts[node].kind.options
    for axis in order:
        for i, o in enumerate(options):
            if [k for k, n in enumerate(o.layout.grid) if n > 1] == [axis] and len(o.layout.homes) == search.machines:
                return i
    return 0


def along_batch(search: Search, node: Node) -> int:
    """Every op is cut along its first axis: the batch, in most graphs."""
    axes = search.facts[node].access.axes
    joins = [i for i, a in enumerate(axes) if a.role == "join"]
    return _along(search, node, joins + [i for i, a in enumerate(axes) if a.role == "sum"])


def along_features(search: Search, node: Node) -> int:
    """Every op is cut along its last axis: units of a layer, channels."""
    axes = search.facts[node].access.axes
    joins = [i for i, a in enumerate(axes) if a.role == "join"]
    return _along(search, node, joins[::-1] + [i for i, a in enumerate(axes) if a.role == "sum"])


def along_longest(search: Search, node: Node) -> int:
    axes = search.facts[node].access.axes
    return _along(search, node, sorted(range(len(axes)), key=lambda i: (axes[i].role != "join", -axes[i].size)))


def in_space(search: Search, node: Node) -> int:
    """Images are cut in two dimensions, as squares as the machines allow; the rest along its longest axis."""
    if len(search.facts[node].access.axes) >= 4:
        found = [
            (abs(o.layout.grid[1] - o.layout.grid[2]), i)
            for i, o in enumerate(search.facts[node].kind.options)
            if [k for k, n in enumerate(o.layout.grid) if n > 1] == [1, 2]
        ]
        if found:
            return min(found)[1]
    return along_longest(search, node)


def layer_by_layer(search: Search, node: Node) -> int:
    """Whole layers, in order, on one machine after the other, each with an even share of the work."""
    return _single(search, node, search.turn.get(search.layer[node], 0))


def on_one(search: Search, node: Node) -> int:
    """Everything on the fastest machine."""
    return _single(search, node, max(search.groups[0], key=lambda m: (search.speed[m], -m)))


def on_roomiest(search: Search, node: Node) -> int:
    """Everything on the machine with the most memory."""
    return _single(search, node, search.roomiest)


def _single(search: Search, node: Node, machine: int) -> int:
    options = search.facts[node].kind.options
    return next((i for i, o in enumerate(options) if o.layout.homes == (machine,)), 0)


@dataclass(frozen=True, slots=True)
class Strategy:
    """A start, then nothing ("keep"), a better layout for one node after the other ("sweep"), or for all at once ("solve")."""

    start: Start
    then: str = "solve"
    spread: Spread = ALL
    after: str = ""  # tried only if the estimate of that strategy is at most `within` times the shortest
    within: float = 1.1
    worth_s: float = 0.0  # tried only if a step takes so long: planning takes time too
    last: bool = False  # only for when no other plan fits the memory
    tiles: Aim | None = None  # the forward part is placed tile by tile with this aim; the rest follows it


STRATEGIES: dict[str, Strategy] = {
    "exact": Strategy(in_space),
    "one": Strategy(on_one, "keep"),
    "space": Strategy(in_space, "sweep"),
    "features": Strategy(along_features, "sweep"),
    "batch": Strategy(along_batch, "sweep"),
    "longest": Strategy(along_longest, "sweep"),
    "layers": Strategy(layer_by_layer, "sweep"),
    "even": Strategy(in_space, "keep"),  # every op on all machines, whether the search likes it or not
    "half": Strategy(in_space, spread=Spread(parts=2), after="exact", within=1.3, worth_s=SHORT_S),
    "quarter": Strategy(in_space, spread=Spread(parts=4), after="half"),
    "stages": Strategy(in_space, spread=Spread(stages=2), after="exact", worth_s=SHORT_S),
    "more stages": Strategy(in_space, spread=Spread(stages=4), after="stages", within=2.0),
    "many stages": Strategy(in_space, spread=Spread(stages=MANY), after="more stages", within=2.0),
    "pipeline": Strategy(in_space, spread=Spread(stages=MANY, slices=4), after="many stages", within=3.0),
    "fine pipeline": Strategy(in_space, spread=Spread(stages=MANY, slices=8), after="pipeline"),
    "stages in slices": Strategy(in_space, spread=Spread(stages=2, slices=4), after="stages", within=2.0),
    "tiles": Strategy(in_space, tiles=Aim(goal="both", tries=0), worth_s=LONG_S),
    "tight": Strategy(in_space, spread=Spread(holding=1e4), last=True),
    "roomy": Strategy(on_roomiest, "keep", last=True),
}
SLICED = frozenset(name for name, strategy in STRATEGIES.items() if strategy.spread.slices > 1)
LARGE = 10_000  # nodes, above which only the first strategy is tried unasked
TILED_MACHINES = 16  # more are not placed tile by tile unasked: it would take longer than all else
ALIKE = 3  # plans of layouts that promise the same: what is left is their order in time
GUIDED = "guided"  # the best of all these by estimate, then moves that shorten the estimated step
NAMES = (*STRATEGIES, GUIDED)


def choose_layouts(graph: Graph, setting: Setting) -> dict[Node, Layout]:
    """The layout of every node that needs one, by the strategy that the setting names."""
    strategy = STRATEGIES.get(setting.strategy, STRATEGIES["one"])
    if len(setting.cluster.machines) == 1 and strategy.spread.slices == 1:  # there is nothing to choose
        return {n: Layout((1,) * len(n.access.axes), (0,)) for n in graph.nodes() if n.op.name not in FREE}
    search = search_of(graph, setting)
    return {node: search.facts[node].kind.options[i].layout for node, i in search.chosen.items()}


def search_of(graph: Graph, setting: Setting) -> Search:
    """The search of a strategy, done."""
    name = setting.strategy
    if name == GUIDED:
        return _guided(graph, setting)
    search = _searching(graph, setting, STRATEGIES[name])
    if name not in search.ends:
        _run(search, STRATEGIES[name])
        search.ends[name] = search.chosen
    search.chosen = dict(search.ends[name])
    return search


def _searching(graph: Graph, setting: Setting, strategy: Strategy) -> Search:
    """The search that all strategies on the same machines share."""
    searches = setting.shared.setdefault(graph, {})
    kind = (strategy.spread, strategy.tiles)
    if kind not in searches:
        given = tile_layouts(graph, setting.cluster, strategy.tiles) if strategy.tiles else None
        shared = searches.setdefault("shared", Shared())
        searches[kind] = Search(graph, setting.cluster, strategy.spread, given, shared)
    found: Search = searches[kind]
    return found


def _guided(graph: Graph, setting: Setting) -> Search:
    searches = setting.shared.setdefault(graph, {})
    if GUIDED not in searches:
        best = next(n for n in rank(graph, setting) if STRATEGIES[n].spread.slices == 1)
        search = search_of(graph, replace(setting, strategy=best))
        searches["guided seconds"] = guide(search)
        search.ends[GUIDED] = search.chosen
        searches[GUIDED] = search
    found: Search = searches[GUIDED]
    found.chosen = dict(found.ends[GUIDED])
    return found


def guided_seconds(graph: Graph, setting: Setting) -> float | None:
    """The seconds of a step that the guided strategy promises; None where the graph is too large for it."""
    if not worth_guiding(len(graph.nodes()), len(setting.cluster.machines)):
        return None
    _guided(graph, setting)
    found: float = setting.shared[graph]["guided seconds"]
    return found


def known(graph: Graph, setting: Setting, name: str) -> Search | None:
    """The search of a strategy that has been done, as it was left."""
    searches = setting.shared.get(graph, {})
    kind = GUIDED if name == GUIDED else (STRATEGIES[name].spread, STRATEGIES[name].tiles)
    found = searches.get(kind)
    return found if found is not None and name in found.ends else None


def tiles_of(graph: Graph, setting: Setting) -> int:
    """How many tiles the layouts of a strategy make, if its search has been done; else 0."""
    search = known(graph, setting, setting.strategy)
    if search is None:
        return 0
    end = search.ends[setting.strategy]
    return sum(len(search.facts[node].kind.options[i].layout.homes) for node, i in end.items())


def rank(graph: Graph, setting: Setting) -> dict[str, float]:
    """The strategies worth a plan on this cluster, with the seconds of a step that each promises, shortest first.

    Those that are further from the best than they allow are not followed up (fewer machines, more stages), and those for when
    memory is short are left out.
    """
    ranks = setting.shared.setdefault(graph, {})
    if "rank" in ranks:
        return dict(ranks["rank"])
    if len(graph.nodes()) > LARGE:
        return {next(iter(STRATEGIES)): 0.0}  # there is nothing to compare it with
    about: dict[str, float] = {}  # of each strategy; the same for those that do the same
    distinct: dict[object, str] = {}
    equal: dict[str, list[str]] = {}  # layouts that differ and promise all but the same
    for name, strategy in STRATEGIES.items():
        shortest = min(about.values(), default=math.inf)
        if strategy.last or shortest < strategy.worth_s or (strategy.after and strategy.after not in about):
            continue
        if strategy.after and about[strategy.after] > strategy.within * shortest:
            continue
        if strategy.tiles and len(setting.cluster.machines) > TILED_MACHINES:
            continue
        machines = tuple(groups(setting.cluster, strategy.spread))
        first = distinct.setdefault(
            (strategy.start, strategy.then, machines, strategy.spread.slices, strategy.tiles), name
        )
        if first == name:
            search = search_of(graph, replace(setting, strategy=name))
            layouts = tuple(search.facts[node].kind.options[i].layout for node, i in search.chosen.items())
            first = distinct.setdefault(layouts, name)
            if first == name:
                about[name] = estimate(search)
                equal.setdefault(f"{about[name]:.6g} s", []).append(name)
            else:
                about[name] = about[first]
        else:
            about[name] = about[first]
    found = {name: about[name] for names in equal.values() for name in names[:ALIKE]}
    ranks["rank"] = dict(sorted(found.items(), key=lambda item: item[1]))
    return dict(ranks["rank"])


def _run(search: Search, strategy: Strategy) -> None:
    if strategy.then == "solve":
        _best_settled(search)
    else:
        search.start(strategy.start)
    if strategy.then != "keep":
        search.improve()


def _best_settled(search: Search) -> None:
    """The cheapest of what the starts lead to: where the elimination is not exact, the start decides what it finds."""
    best: tuple[float, dict[Node, int]] | None = None
    seen: list[dict[Node, int]] = []
    for start in (in_space, along_features, along_batch, along_longest, on_one):
        search.start(start)
        search.improve()
        if search.chosen in seen:
            continue
        seen.append(search.chosen)
        exact = search.settle()
        cost = search.cost()
        if best is None or cost < best[0]:
            best = cost, search.chosen
        if exact:
            break
    assert best is not None
    search.chosen = best[1]
