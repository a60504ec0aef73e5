"""Elimination against enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from rainshed.compiler.partition import eliminate
from rainshed.compiler.partition.eliminate import Problem, solve


def random_problem(rng: np.random.Generator, count: int, density: float) -> Problem:
    sizes = rng.integers(1, 4, count)
    unary = [rng.random(n) for n in sizes]
    pairs = {
        (i, j): rng.random((sizes[i], sizes[j]))
        for i in range(count)
        for j in range(i + 1, count)
        if rng.random() < density
    }
    return Problem(unary, pairs)


@pytest.mark.parametrize("density", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_the_cheapest_of_all_choices(density: float, seed: int) -> None:
    problem = random_problem(np.random.default_rng(seed), 8, density)
    least = min(problem.cost(choice) for choice in product(*(range(len(u)) for u in problem.unary)))
    found, exact = solve(problem, [0] * len(problem.unary))
    assert exact and problem.cost(found) == pytest.approx(least, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_small_tables_never_make_it_worse(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tables of 30 entries some variables must be held; what comes out is at least as good as the start."""
    monkeypatch.setattr(eliminate, "MAX_TABLE", 30)
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, 12, 0.5)
    start = [int(rng.integers(len(u))) for u in problem.unary]
    found, exact = solve(problem, start)
    assert problem.cost(found) <= problem.cost(start)
    assert (found, exact) == solve(problem, start)


@pytest.mark.parametrize("seed", range(8))
def test_all_tables_together_are_bounded_too(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they would have more than 300 entries, tables are smaller; no choice is then worse than the start."""
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, 14, 0.9)
    start = [int(rng.integers(len(u))) for u in problem.unary]
    assert solve(problem, start)[1]
    monkeypatch.setattr(eliminate, "MAX_ENTRIES", 300)
    monkeypatch.setattr(eliminate, "MIN_TABLE", 16)
    bounded = Problem(problem.unary, problem.pairs)
    found, exact = solve(bounded, start)
    assert not exact and bounded.cost(found) <= bounded.cost(start)


def test_a_long_chain_is_solved_exactly() -> None:
    """2,000 variables: shortest path by the Viterbi recursion gives the same."""
    rng = np.random.default_rng(0)
    unary = [rng.random(5) for _ in range(2000)]
    pairs = {(i, i + 1): rng.random((5, 5)) for i in range(1999)}
    best = unary[0]
    for i in range(1999):
        best = (best[:, None] + pairs[i, i + 1]).min(axis=0) + unary[i + 1]
    problem = Problem(unary, pairs)
    assert problem.cost(solve(problem, [0] * 2000)[0]) == pytest.approx(best.min())
