"""The cheapest choice for many variables at once: costs of single choices and of pairs, minimised exactly where the pairs allow.

Variables are eliminated one after the other, each into a table over the neighbours it still has. Where a table would be too
large, some variables are held at what they are, the others are solved exactly, and then others are held; no round makes it worse.

Source  Bertele and Brioschi 1972 (nonserial dynamic programming); Elango, PaSE, IPDPS 2021 (orders with small frontiers)
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

MAX_TABLE = 1 << 22  # entries of one table
MAX_ENTRIES = 1 << 26  # of all tables of one elimination; where it takes more, tables have to be smaller
MIN_TABLE = 1 << 10  # entries that a table may have in any case
ROUNDS = 6  # of holding some variables, where the exact solution would take too much

Pairs = Mapping[tuple[int, int], np.ndarray]
Order = tuple[list[int], frozenset[int]]  # variables as they are eliminated, and those that are held


@dataclass(frozen=True, slots=True)
class Problem:
    """unary[i][a]: the cost of choice a for variable i; pairs[i, j][a, b]: of choices a and b together, i < j.

    orders  of elimination, worked out once: they do not depend on the start
    """

    unary: Sequence[np.ndarray]
    pairs: Pairs
    orders: dict[frozenset[int], Order] = field(default_factory=dict)

    def cost(self, choice: Sequence[int]) -> float:
        total = sum(float(u[choice[i]]) for i, u in enumerate(self.unary))
        return total + sum(float(m[choice[i], choice[j]]) for (i, j), m in self.pairs.items())


def solve(problem: Problem, start: Sequence[int]) -> tuple[tuple[int, ...], bool]:
    """A choice that costs no more than `start`, and whether it is the cheapest of all: it is, if the tables stay small."""
    best = list(start)
    alone = frozenset(i for i, u in enumerate(problem.unary) if len(u) == 1)  # nothing to choose: no axis of a table
    order, held = _order(problem, frozenset(), alone)
    if not held:
        return tuple(_exact(problem, best, order, alone)), True
    best = _descend(problem, best)
    for turn in range(ROUNDS):
        new = _exact(problem, best, order, held | alone)
        if problem.cost(new) < problem.cost(best) * (1 - 1e-12):
            best = _descend(problem, new)
        elif turn:
            break
        order, held = _order(problem, held, alone)
    return tuple(best), False


def _descend(problem: Problem, start: Sequence[int]) -> list[int]:
    """Each variable in turn takes its cheapest choice, until nothing changes."""
    choice = list(start)
    near = _neighbours(problem)
    for sweep in range(8):
        changed = False
        for i in range(len(choice)) if sweep % 2 == 0 else range(len(choice) - 1, -1, -1):
            costs = problem.unary[i].copy()
            for j in near[i]:
                costs += problem.pairs[i, j][:, choice[j]] if i < j else problem.pairs[j, i][choice[j]]
            new = int(np.argmin(costs))
            if costs[new] < costs[choice[i]]:
                choice[i], changed = new, True
        if not changed:
            break
    return choice


def _neighbours(problem: Problem) -> list[set[int]]:
    near: list[set[int]] = [set() for _ in problem.unary]
    for i, j in problem.pairs:
        near[i].add(j)
        near[j].add(i)
    return near


def _order(problem: Problem, avoid: frozenset[int], alone: frozenset[int]) -> Order:
    """An order of elimination by smallest table first, and the variables that have to be held to keep the tables small, each of
    them and all together.

    Variables of `avoid`, which were held before, are held again only if there is no other.
    """
    if avoid not in problem.orders:
        most = MAX_TABLE
        found = _order_within(most, problem, avoid, alone)
        while found is None:
            most //= 4
            found = _order_within(most, problem, avoid, alone)
        problem.orders[avoid] = found
    return problem.orders[avoid]


def _order_within(most: int, problem: Problem, avoid: frozenset[int], alone: frozenset[int]) -> Order | None:
    """The order with no table of more than `most` entries; None where all tables together are too large."""
    near = [beside - alone for beside in _neighbours(problem)]
    size = [len(u) for u in problem.unary]
    left = set(range(len(size))) - alone
    table = {i: _table(i, near, size) for i in left}
    heap = [(table[i], i) for i in left]
    heapq.heapify(heap)
    order: list[int] = []
    held: set[int] = set()
    entries = 0
    while left:
        least, i = heapq.heappop(heap)
        if i not in left or table[i] != least:
            continue
        if least > most:
            heapq.heappush(heap, (least, i))
            i = max(left, key=lambda k: (k not in avoid, len(near[k]), -k))
            held.add(i)
            changed = near[i]
            for j in changed:
                near[j].discard(i)
        else:
            entries += least
            if entries > MAX_ENTRIES and most > MIN_TABLE:
                return None
            order.append(i)
            changed = near[i]
            for j in changed:
                near[j] |= changed - {j}
                near[j].discard(i)
        left.discard(i)
        for j in changed:
            table[j] = _table(j, near, size)
            heapq.heappush(heap, (table[j], j))
    return order, frozenset(held)


def _table(i: int, near: list[set[int]], size: list[int]) -> int:
    total = size[i]
    for j in near[i]:
        total *= size[j]
    return total


def _exact(problem: Problem, start: Sequence[int], order: list[int], held: frozenset[int]) -> list[int]:
    """The cheapest choice with the held variables as they are."""
    choice = list(start)
    factors: dict[int, list[tuple[tuple[int, ...], np.ndarray]]] = {i: [((i,), problem.unary[i])] for i in order}
    place = {i: k for k, i in enumerate(order)}
    for (i, j), matrix in problem.pairs.items():
        if i in held and j in held:
            continue
        if i in held or j in held:
            free, row = (j, matrix[choice[i]]) if i in held else (i, matrix[:, choice[j]])
            factors[free].append(((free,), row))
        else:
            factors[min(i, j, key=lambda k: place[k])].append(((i, j), matrix))
    decided: list[tuple[int, tuple[int, ...], np.ndarray]] = []
    for i in order:
        others = tuple(sorted({k for names, _ in factors[i] for k in names if k != i}, key=lambda k: place[k]))
        names = (*others, i)
        shape = tuple(len(problem.unary[k]) for k in names)
        total = np.zeros(shape)
        for own, table in factors.pop(i):
            total += _spread(table, own, names)
        decided.append((i, others, total.argmin(axis=-1)))
        if others:
            factors[others[0]].append((others, total.min(axis=-1)))
    for i, others, best in reversed(decided):
        choice[i] = int(best[tuple(choice[k] for k in others)])
    return choice


def _spread(table: np.ndarray, own: tuple[int, ...], names: tuple[int, ...]) -> np.ndarray:
    """A table over `own` as one over `names`, of length 1 along those it does not have."""
    turned = table.transpose([own.index(k) for k in names if k in own])
    return turned.reshape([table.shape[own.index(k)] if k in own else 1 for k in names])
