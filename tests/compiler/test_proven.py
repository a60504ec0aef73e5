"""What is found against optima that HiGHS proves: layouts of whole ops exactly, placed tiles within 5 %.

Source  the linear relaxation of pairwise costs: Schlesinger 1976; Alpa (Zheng et al., OSDI 2022) chooses layouts so
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array

import rainshed as rs
from rainshed.compiler.machines import Cluster, Link, Machine
from rainshed.compiler.partition import eliminate
from rainshed.compiler.partition.atoms import tiling
from rainshed.compiler.partition.eliminate import Problem
from rainshed.compiler.partition.placement import Aim, place_tiles, task_of
from rainshed.compiler.partition.refine import Task
from rainshed.compiler.partition.search import NEVER, Search
from rainshed.compiler.partition.strategy import along_batch, in_space, on_one
from rainshed.compiler.pipeline import SHARED, run_passes
from rainshed.compiler.setting import Setting
from rainshed.ops.ir import Graph

PER_SECOND = 1e6  # costs in microseconds: near 1, as the solver's tolerances are


@dataclass(frozen=True, slots=True)
class Proven:
    """The cost of the best choice, and a bound that no choice is below; the same, if the solver has come to an end."""

    best: float
    bound: float


def proven(problem: Problem) -> Proven:
    """The cheapest choice by mixed-integer programming.

    A variable for each choice, and one for each two choices of a pair: together they are 1 where the choices are made.
    """
    first = np.cumsum([0, *(len(u) for u in problem.unary)])
    cost = [np.concatenate(problem.unary) * PER_SECOND]
    rows, columns, values, right = [], [], [], []
    count, equations = int(first[-1]), 0

    def equation(ones: np.ndarray, minus: int | None, equals: float) -> None:
        nonlocal equations
        rows.extend([equations] * (len(ones) + (minus is not None)))
        columns.extend([*ones.tolist(), *([] if minus is None else [minus])])
        values.extend([1.0] * len(ones) + [-1.0] * (minus is not None))
        right.append(equals)
        equations += 1

    for i, u in enumerate(problem.unary):
        equation(first[i] + np.arange(len(u)), None, 1.0)
    for (i, j), seconds in problem.pairs.items():
        both = count + np.arange(seconds.size).reshape(seconds.shape)
        for a in range(len(both)):
            equation(both[a], int(first[i]) + a, 0.0)
        for b in range(both.shape[1]):
            equation(both[:, b], int(first[j]) + b, 0.0)
        cost.append(seconds.ravel() * PER_SECOND)
        count += seconds.size
    price = np.concatenate(cost)
    never = price >= NEVER * PER_SECOND / 2
    found = milp(
        np.where(never, 0.0, price),
        integrality=np.arange(count) < first[-1],
        bounds=Bounds(0.0, np.where(never, 0.0, 1.0)),
        constraints=LinearConstraint(coo_array((values, (rows, columns)), (equations, count)).tocsr(), right, right),
        options={"mip_rel_gap": 0.0},
    )
    assert found.success, found.message
    return Proven(found.fun / PER_SECOND, found.mip_dual_bound / PER_SECOND)


def problem_of(search: Search) -> Problem:
    """Each node by itself, whatever it is like."""
    number = {node: i for i, node in enumerate(search.nodes)}
    pairs: dict[tuple[int, int], np.ndarray] = {}
    for a, b, seconds in search.pairs():
        i, j = number[a], number[b]
        key, table = ((i, j), seconds) if i < j else ((j, i), seconds.T)
        pairs[key] = pairs[key] + table if key in pairs else table
    return Problem([search.facts[n].spent for n in search.nodes], pairs)


def dense(layers: int) -> Graph:
    h = rs.input("x", (64, 96))
    for n in [128, 64, 160, 96, 192, 48][:layers]:
        h = rs.layers.dense(h, n, activation=rs.tanh)
    return rs.graph(loss=rs.mean(rs.square(h)), optimizer=rs.SGD(0.1))


def images() -> Graph:
    h = rs.layers.conv2d(rs.input("x", (4, 16, 16, 3)), 8, 3, activation=rs.relu, padding="same")
    h = rs.layers.conv2d(rs.layers.max_pool2d(h, 2), 12, 3, activation=rs.relu)
    return rs.graph(loss=rs.mean(rs.square(rs.layers.dense(rs.layers.flatten(h), 10))))


def steps() -> Graph:
    return rs.graph(loss=rs.sum(rs.layers.lstm(rs.input("x", (64, 2, 96)), 128)))


def there(*speeds: float) -> Cluster:
    each = tuple(Machine(name=f"m{i}", flops=s * 2e9, memory_bytes=2**34) for i, s in enumerate(speeds))
    return Cluster(machines=each, default_link=Link(1e9, 2e-6))


def searching(graph: Graph, cluster: Cluster) -> Search:
    return Search(run_passes(graph, Setting(cluster=cluster), SHARED), cluster)


@pytest.mark.parametrize(
    ("graph", "speeds"),
    [
        (dense(4), (1, 1)),
        (dense(4), (1, 2, 3)),
        (dense(5), (1, 1, 1, 1)),
        (dense(6), (1, 1, 1, 1)),
        (images(), (1, 1)),
        (images(), (1, 1, 1, 1)),
        (steps(), (1, 1)),
        (steps(), (1, 2, 3)),
    ],
)
def test_no_choice_of_layouts_is_cheaper_than_that_of_the_search(graph: Graph, speeds: tuple[float, ...]) -> None:
    """Graphs with far too many choices to try them all. Where the search says that there is none cheaper, there is none."""
    search = searching(graph, there(*speeds))
    assert len(set(search.alike().values())) == len(search.nodes)  # none has to be as another
    least = proven(problem_of(search))
    assert least.bound == pytest.approx(least.best, rel=1e-6)
    for start in (in_space, along_batch, on_one):
        search.start(start)
        search.improve()
        exact = search.settle()
        assert search.cost() >= least.bound * (1 - 1e-6)
        assert not exact or search.cost() == pytest.approx(least.best, rel=1e-6)
        assert max(len(search.facts[n].kind.options[i].homes) for n, i in search.chosen.items()) > 1


def test_where_tables_would_be_too_large_the_search_says_that_it_is_not_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eliminate, "MAX_TABLE", 300)
    search = searching(dense(4), there(1, 1, 1, 1))
    least = proven(problem_of(search))
    for start in (in_space, along_batch, on_one):
        search.start(start)
        search.improve()
        before = search.cost()
        assert not search.settle()
        assert least.bound * (1 - 1e-6) <= search.cost() <= before


# -- placed tiles ------------------------------------------------------------------------------------------------------
def proven_placement(task: Task) -> Proven:
    """The fewest bytes under the caps: x[v, p], vertex v is on machine p; y[e, p], net e touches machine p.

    A net touches at least the machines of its vertices, and moves its weight to all of these but one.
    """
    count, machines, nets = len(task.load), task.machines, len(task.weight)
    net = np.repeat(np.arange(nets), np.diff(task.starts))
    x = np.arange(count * machines).reshape(count, machines)
    y = count * machines + np.arange(nets * machines).reshape(nets, machines)
    size = x.size + y.size
    parts = [LinearConstraint(_rows(x, np.ones(x.shape), size), 1, 1)]
    for p in range(machines):
        pins = np.stack([y[net, p], x[task.pins, p]], axis=1)
        parts.append(LinearConstraint(_rows(pins, np.tile([1.0, -1.0], (len(pins), 1)), size), 0, np.inf))
        caps = task.caps[:, p]
        loads = task.load.T / caps[:, None]
        parts.append(LinearConstraint(_rows(np.tile(x[:, p], (len(caps), 1)), loads, size), -np.inf, 1 + 1e-9))
    upper = np.ones(size)
    if (task.caps == task.caps[:, :1]).all():
        upper[x[0, 1:]] = 0  # machines are alike: the first vertex may lie on the first
    found = milp(
        np.concatenate([np.zeros(x.size), np.repeat(task.weight.astype(float), machines)]),
        integrality=np.arange(size) < x.size,
        bounds=Bounds(0, upper),
        constraints=parts,
        options={"mip_rel_gap": 0.0},
    )
    assert found.success, found.message
    once = int(task.weight.sum())
    return Proven(found.fun - once, found.mip_dual_bound - once)


def _rows(columns: np.ndarray, values: np.ndarray, size: int) -> csr_array:
    """A matrix whose row i has values[i] in columns[i]."""
    rows = np.repeat(np.arange(len(columns)), columns.shape[1])
    return coo_array((values.ravel(), (rows, columns.ravel())), (len(columns), size)).tocsr()


def local(size: int, k: int) -> Graph:
    h = rs.input("x", (1, size, size, 2))
    for _ in range(2):
        h = rs.layers.local2d(h, 2, k, padding="same", bias=False)
    return rs.graph(loss=rs.sum(h))


def products(batch: int, *units: int) -> Graph:
    h = rs.input("x", (batch, units[0]))
    for n in units[1:]:
        h = rs.layers.dense(h, n, bias=False)
    return rs.graph(loss=rs.sum(h))


def shared_filters() -> Graph:
    h = rs.layers.conv2d(rs.input("x", (1, 16, 16, 2)), 4, 3, padding="same", bias=False)
    return rs.graph(loss=rs.sum(rs.layers.conv2d(h, 2, 3, padding="same", bias=False)))


@pytest.mark.parametrize(
    ("graph", "parts", "speeds"),
    [
        (local(12, 3), 9, (1, 1)),
        (local(16, 3), 16, (1, 1)),
        (local(16, 5), 16, (1, 1)),
        (local(12, 3), 9, (1, 2)),
        (products(4, 8, 16, 8), 8, (1, 1)),
        (products(16, 8, 16, 8), 9, (1, 1)),
        (products(16, 8, 16, 8), 9, (2, 1)),
        (products(8, 6, 12, 6), 6, (1, 1, 1)),
        (products(8, 6, 12, 6), 6, (1, 2, 3)),
        (shared_filters(), 9, (1, 1)),
    ],
)
def test_placed_tiles_are_within_5_percent_of_the_proven_optimum(
    graph: Graph, parts: int, speeds: tuple[float, ...]
) -> None:
    tiles, cluster = tiling(graph, parts), there(*speeds)
    assert 18 <= tiles.vertices <= 40
    task = task_of(tiles, cluster, Aim())
    found = place_tiles(tiles, cluster, Aim())
    least = proven_placement(task)
    assert found.excess == 0
    assert least.bound * (1 - 1e-6) <= found.nbytes <= 1.05 * least.bound
