"""Moves that the estimate of a step guides: what the sum of costs cannot see, that machines wait for one another."""

from __future__ import annotations

from rainshed.compiler.partition.estimate import estimate
from rainshed.compiler.partition.search import NEVER, Search
from rainshed.ops.ir import Node

WORK = 100_000  # nodes times machines that may be estimated in all: what bounds the time
TRIES = 3  # other layouts of one node
GAIN = 1e-3  # of the step: less is no improvement


def worth_guiding(nodes: int, machines: int) -> bool:
    """Whether a move or two of so many nodes can be estimated within the bound."""
    return 3 * nodes * machines <= WORK


def guide(search: Search) -> float:
    """Give one node after the other, the costliest first, another layout where the estimated step gets shorter: that estimate."""
    best = estimate(search)
    left = WORK // max(1, len(search.nodes) * search.machines) - 1
    of = search.alike()
    members: dict[int, list[Node]] = {}
    for node, group in of.items():
        members.setdefault(group, []).append(node)
    weight = {group: sum(_cost(search, n) for n in nodes) for group, nodes in members.items()}
    for group in sorted(members, key=lambda g: (-weight[g], g)):
        nodes = members[group]
        for choice in _others(search, nodes):
            if left <= 0:
                return best
            left -= 1
            before = search.chosen
            search.chosen = _moved(search, nodes, choice)
            now = estimate(search)
            if now < best * (1 - GAIN):
                best = now
            else:
                search.chosen = before
    return best


def _cost(search: Search, node: Node) -> float:
    """Seconds of a node and of what goes to and from it."""
    own = search.chosen[node]
    return float(search.facts[node].spent[own]) + sum(float(s[own, search.chosen[o]]) for o, s in search.near[node])


def _others(search: Search, nodes: list[Node]) -> list[int]:
    """The cheapest options other than the present one."""
    first = nodes[0]
    costs = search.facts[first].spent.copy()
    for other, seconds in search.near[first]:
        costs += seconds[:, search.chosen[other]]
    order = sorted(range(len(costs)), key=lambda i: (float(costs[i]), i))
    return [i for i in order if i != search.chosen[first] and costs[i] < NEVER][:TRIES]


def _moved(search: Search, nodes: list[Node], choice: int) -> dict[Node, int]:
    """The choice with these nodes moved; light nodes beside them then take what is cheapest for them."""
    before = search.chosen
    search.chosen = {**before, **dict.fromkeys(nodes, choice)}
    fixed = set(nodes)
    beside = [n for node in nodes for n, _ in search.near[node] if n not in fixed]
    for _ in range(2):
        for node in dict.fromkeys(beside):
            if search.facts[node].spent.max() <= search.facts[nodes[0]].spent.max() / 4:
                search.chosen[node] = search.best(node)
        beside += [n for node in beside for n, _ in search.near[node] if n not in fixed and n not in beside]
    found, search.chosen = search.chosen, before
    return found
