"""Moving vertices of a hypergraph between machines until no move or exchange saves bytes, under caps that hold for each machine.

Source  Fiduccia and Mattheyses 1982; gains kept per vertex and machine as in Gottesbueren et al., Mt-KaHyPar, 2021
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

KICKS = 12  # disturbances without success, after which the search ends
PATIENCE = 0.08  # of the vertices: so many moves without a better result end a pass


@dataclass(frozen=True, slots=True)
class Task:
    """What to place.

    starts, pins, weight  the nets: the vertices of net e are pins[starts[e]:starts[e + 1]]
    load      f64[vertices, kinds]: what a vertex takes of each resource (work, memory, work of heavy layer i, ...)
    caps      f64[kinds, machines]
    fixed     i64[vertices]: the machine of a pinned vertex, or -1
    group     i64[vertices]: vertices of one group (a heavy layer) may be exchanged; -1: none
    """

    starts: np.ndarray
    pins: np.ndarray
    weight: np.ndarray
    load: np.ndarray
    caps: np.ndarray
    fixed: np.ndarray
    group: np.ndarray

    @property
    def machines(self) -> int:
        return int(self.caps.shape[1])


@cache
def loops() -> Any:
    """The compiled loops. Loaded late: to import Numba takes longer than to make most plans."""
    return import_module("rainshed.compiler.partition.loops")


def crossing(task: Task, home: np.ndarray) -> int:
    """Bytes that a placement moves: for each net its weight, times the machines beyond the first that it touches."""
    net = np.repeat(np.arange(len(task.weight)), np.diff(task.starts))
    touched = _distinct(net * task.machines + home[task.pins]) // task.machines
    return int((task.weight * (np.bincount(touched, minlength=len(task.weight)) - 1)).sum())


def _distinct(keys: np.ndarray) -> np.ndarray:
    """Each number once, in order. (Some versions of `np.unique` hash, which takes many times as long.)"""
    keys = np.sort(keys)
    return keys[np.diff(keys, prepend=keys[:1] - 1) > 0]


def excess(task: Task, home: np.ndarray) -> float:
    """How far the worst machine is over its cap, as a share of the cap; 0 if every cap holds."""
    held = loads(task, home)
    over = held / np.maximum(task.caps, 1e-300) - 1
    return max(0.0, float(over.max(initial=0.0)) - 1e-9)


def loads(task: Task, home: np.ndarray) -> np.ndarray:
    """f64[kinds, machines]: what each machine holds of each resource."""
    held = np.zeros((task.load.shape[1], task.machines))
    for kind in range(len(held)):
        held[kind] = np.bincount(home, weights=task.load[:, kind], minlength=task.machines)
    return held


def refine(task: Task, home: np.ndarray, *, seed: int = 0, kicks: int = KICKS) -> np.ndarray:
    """A placement that moves no more bytes than `home`, or that keeps the caps where `home` breaks them.

    Fixed vertices stay where they are fixed. The same seed gives the same result.
    """
    home = np.where(task.fixed >= 0, task.fixed, home).astype(np.int64)
    if task.machines == 1 or not len(home):
        return home
    search = Search(task, home, seed)
    search.settle()
    best, lowest, failed = home.copy(), search.score(), 0
    best[:] = search.home
    while failed < kicks and lowest[1] > 0:
        loops().kick(search.state, search.random, max(4, len(home) // 100))
        search.settle()
        score = search.score()
        if score < lowest:
            lowest, failed = score, 0
            best[:] = search.home
        else:
            failed += 1
            loops().back(search.state, best)
    return best


def contract(task: Task, of: np.ndarray, count: int) -> Task:
    """The task with vertices joined: vertex v becomes part of vertex of[v]. Nets that end in one vertex are left out."""
    load = np.zeros((count, task.load.shape[1]))
    np.add.at(load, of, task.load)
    fixed = np.full(count, -1, np.int64)
    np.maximum.at(fixed, of, task.fixed)
    net = np.repeat(np.arange(len(task.weight)), np.diff(task.starts))
    unique = _distinct(net * count + of[task.pins])
    net, pins = unique // count, unique % count
    size = np.bincount(net, minlength=len(task.weight))
    kept = size > 1
    starts = np.zeros(int(kept.sum()) + 1, np.int64)
    np.cumsum(size[kept], out=starts[1:])
    most = np.argmax(load / np.maximum(task.caps.max(axis=1), 1e-300), axis=1) if count else np.zeros(0, np.int64)
    return Task(starts, pins[kept[net]], task.weight[kept], load, task.caps, fixed, most)


def turned(starts: np.ndarray, pins: np.ndarray, vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """The nets of each vertex, packed."""
    net = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.argsort(pins, kind="stable")
    first = np.zeros(vertices + 1, np.int64)
    np.cumsum(np.bincount(pins, minlength=vertices), out=first[1:])
    return first, net[order]


class Search:
    """The state of a search: a placement, and the gain of every move from it."""

    def __init__(self, task: Task, home: np.ndarray, seed: int) -> None:
        self.task, self.home = task, home.copy()
        vertex_starts, nets = turned(task.starts, task.pins, len(task.load))
        count, machines = len(home), task.machines
        phi = np.zeros((len(task.weight), machines), np.int64)
        benefit, penalty = np.zeros(count, np.int64), np.zeros((count, machines), np.int64)
        held, touched, over = loads(task, home), np.zeros(count * 8 + 64, np.int64), np.array([1 + 1e-9])
        self.state = (
            task.starts, task.pins, task.weight, vertex_starts, nets, task.load, task.caps * over, task.fixed, self.home,
            phi, held, benefit, penalty, touched,
        )  # fmt: skip
        self.random = np.array([seed * 2654435761 % 2**31 + 1], np.int64)
        self.rng = np.random.default_rng(seed)
        loops().prepare(self.state)
        self.by_group = np.argsort(task.group, kind="stable")
        groups = np.arange(int(task.group.max(initial=-1)) + 2)
        self.first = np.searchsorted(task.group[self.by_group], groups).astype(np.int64)
        self.heap = np.zeros((4 * count + 1024, 3), np.int64)

    def settle(self) -> None:
        """To a local optimum within the caps."""
        loops().relieve(self.state, self.heap)
        for _ in range(30):
            won = loops().fm_pass(self.state, self.random, self.heap, max(50, int(PATIENCE * len(self.home))))
            if won <= 0:  # an exchange takes longer to find
                order = self.rng.permutation(len(self.home)).astype(np.int64)
                won = loops().exchange(self.state, self.task.group, order, self.by_group, self.first)
            if won <= 0:
                return

    def choices(self, v: int, most: int) -> list[tuple[int, int]]:
        """Machines with room for a vertex of several machines' nets, and the bytes that each move saves: the most first."""
        benefit, penalty = self.state[11], self.state[12]
        if self.task.fixed[v] >= 0 or benefit[v] == 0:
            return []
        lost = penalty[v] - benefit[v]
        found = [t for t in np.argsort(lost, kind="stable").tolist() if t != self.home[v]][:most]
        return [(t, -int(lost[t])) for t in found if loops().fits(self.state, v, t)]

    def score(self) -> tuple[float, int]:
        """How far caps are broken, then bytes: to be small."""
        phi = self.state[9]
        spread = (phi > 0).sum(axis=1) - 1
        return round(excess(self.task, self.home), 9), int((self.task.weight * spread).sum())
