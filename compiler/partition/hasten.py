"""Moves that shorten the step of placed tiles by more than they cost in bytes: of blocks of tiles first, then of single ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rainshed.compiler.partition.multilevel import levels
from rainshed.compiler.partition.refine import Search, Task, loops

TRIED = 2  # machines that a vertex is tried on


def hasten(
    task: Task, home: np.ndarray, seconds: Callable[[np.ndarray], float], budget: tuple[int, int], seed: int
) -> np.ndarray:
    """A placement with at most the same product of seconds and bytes of a step, under the caps of the task.

    seconds  of a step, for a placement of all vertices
    budget   bytes that it may move, and how many placements may be simulated
    """
    nbytes, left = budget
    steps = levels(task, home, seed)
    of = np.arange(len(home))
    parts = [of]
    for level in steps[:-1]:
        of = level.of[of]
        parts.append(of)
    best = seconds(home)
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
                took = seconds(moved)
                if took * (now - gain) < best * now * (1 - 1e-9):
                    best, home, now = took, moved, now - gain
                    break
                loops().move(search.state, v, came)
    return home
