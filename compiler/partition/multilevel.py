"""Placements by levels: vertices that belong together are joined, again and again; few joined ones are placed, then taken apart.

A move of a joined vertex is one of many tiles at once: a block of a layer, or a column of blocks through several layers. That
is what single moves do not find, since each of them alone costs bytes.

Source  Karypis and Kumar 1999 (multilevel, k parts); Sanders and Schulz 2011 (again from a placement, within its parts)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rainshed.compiler.partition.refine import Task, contract, crossing, excess, loops, refine, turned

FEWEST = 24  # joined vertices for each machine: then it ends
LARGEST = 64  # vertices of a net that still tells which of them belong together
SHARE = 0.2  # of a machine's cap: more than that is not joined
GAIN = 0.95  # of the vertices at most must be left after a round of joining
ROUGH = 6  # kicks at the coarsest level, where they cost least
MOST = 60_000  # joined vertices there times machines, over which there are fewer


@dataclass(frozen=True, slots=True)
class Level:
    """A task, and the vertex of the next coarser level that each of its vertices is part of; at the coarsest, itself."""

    task: Task
    of: np.ndarray


def levels(task: Task, home: np.ndarray | None, seed: int) -> list[Level]:
    """From the finest to the coarsest. With a placement given, only vertices of one machine are joined."""
    found = []
    random = np.random.default_rng(seed)
    limit = np.maximum(SHARE * task.caps.min(axis=1), task.load.max(axis=0, initial=0.0))
    apart = np.zeros(len(task.load), np.int64) if home is None else home
    while len(task.load) > FEWEST * task.machines:
        vertex_starts, nets = turned(task.starts, task.pins, len(task.load))
        order = random.permutation(len(task.load)).astype(np.int64)
        root = loops().join(
            (task.starts, task.pins, task.weight, vertex_starts, nets, task.load, task.fixed),
            apart,
            limit,
            order,
            LARGEST,
        )
        roots, of = np.unique(root, return_inverse=True)
        if len(roots) > GAIN * len(root):
            break
        found.append(Level(task, of))
        task, apart = without_twins(contract(task, of, len(roots))), apart[roots]
    return [*found, Level(task, np.arange(len(task.load)))]


def without_twins(task: Task) -> Task:
    """Nets of the same vertices as one."""
    count = len(task.weight)
    if not count:
        return task
    mark = np.random.default_rng(0).integers(-(2**63), 2**63, len(task.load))
    sums = np.add.reduceat(
        mark[task.pins], task.starts[:-1]
    )  # in the ring of 64 bits: equal for equal sets, else by a wonder
    _, first, twin = np.unique(sums, return_index=True, return_inverse=True)
    if len(first) == count:
        return task
    weight = np.zeros(len(first), np.int64)
    np.add.at(weight, twin.ravel(), task.weight)
    size = np.diff(task.starts)[first]
    starts = np.zeros(len(first) + 1, np.int64)
    np.cumsum(size, out=starts[1:])
    at = np.arange(starts[-1]) - np.repeat(starts[:-1], size) + np.repeat(task.starts[first], size)
    return replace(task, starts=starts, pins=task.pins[at], weight=weight)


def again(task: Task, home: np.ndarray, seed: int, apart: np.ndarray | None = None) -> np.ndarray:
    """A placement that moves no more bytes than `home`: joined within its machines, and taken apart level by level.

    apart  a second placement: only vertices that are on one machine in both are joined, so that the two are mixed
    """
    within = home if apart is None else home * task.machines + apart
    steps = levels(task, within, seed)
    return _taken_apart(steps, _joined(steps, home), seed)


def afresh(task: Task, starts: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Joined without regard to any placement, then placed near one of `starts`: the best of them, taken apart level by level."""
    steps = levels(task, None, seed)
    coarse = [refine(steps[-1].task, _joined(steps, home), seed=seed, kicks=0) for home in starts]
    over = [round(excess(steps[-1].task, home), 3) for home in coarse]
    best = min(range(len(coarse)), key=lambda i: (over[i], crossing(steps[-1].task, coarse[i])))
    return _taken_apart(steps, coarse[best], seed)


def _taken_apart(steps: Sequence[Level], home: np.ndarray, seed: int) -> np.ndarray:
    """From a placement of the coarsest level to one of the finest, refined at each."""
    coarsest = steps[-1].task
    kicks = min(ROUGH, MOST // (1 + len(coarsest.load) * coarsest.machines))
    home = refine(coarsest, home, seed=seed, kicks=kicks)
    for level in reversed(steps[:-1]):
        home = refine(level.task, home[level.of], seed=seed, kicks=0)
    return home


def _joined(steps: Sequence[Level], home: np.ndarray) -> np.ndarray:
    """The machine of each vertex of the coarsest level: where most of its work is."""
    for level in steps[:-1]:
        count, machines = int(level.of.max(initial=-1)) + 1, level.task.machines
        held = np.zeros(count * machines)
        np.add.at(held, level.of * machines + home, level.task.load[:, 0] + 1e-9)
        home = held.reshape(count, machines).argmax(axis=1).astype(np.int64)
    return home
