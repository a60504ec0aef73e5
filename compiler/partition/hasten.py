"""Moves that shorten the simulated step of placed tiles, or step and bytes together: first of blocks of tiles, then of tiles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rainshed.compiler.partition.multilevel import levels
from rainshed.compiler.partition.refine import Search, Task, crossing, loops

TRIED = 2  # machines that a vertex is tried on


def hasten(
    task: Task, home: np.ndarray, cost: Callable[[np.ndarray, int], float], budget: tuple[int, int], seed: int
) -> np.ndarray:
    """A placement that costs no more; a vertex only goes where the caps of the task leave room.

    cost    to be small: of a placement of all vertices, and the bytes that it moves
    budget  bytes that it may move, and how many placements may be tried
    """
    nbytes, left = budget
    steps = levels(task, home, seed)
    of = np.arange(len(home))
    parts = [of]
    for level in steps[:-1]:
        of = level.of[of]
        parts.append(of)
    best = cost(home, crossing(task, home))
    for level, of in zip(reversed(steps), reversed(parts), strict=True):
        own = np.zeros(len(level.task.load), np.int64)
        own[of] = home
        search = Search(level.task, own, seed)
        now = search.score()[1]
        for v in search.rng.permutation(len(own)).tolist():
            for t, gain in search.choices(v, TRIED):
                if left <= 0:
                    return home
                if now - gain > nbytes:
                    continue
                came = int(search.home[v])
                loops().move(search.state, v, t)
                moved = search.home[of]
                left -= 1
                took = cost(moved, now - gain)
                if took < best * (1 - 1e-9):
                    best, home, now = took, moved, now - gain
                    break
                loops().move(search.state, v, came)
    return home
