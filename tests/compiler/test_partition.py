"""Tiles and their placement: exact bytes against closed forms and against plans, the optimum on small cases, caps and pins."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from compiler_kit import laid_out, sent_elements

import rainshed as rs
from rainshed.compiler.machines import Cluster, Link, Machine
from rainshed.compiler.partition.atoms import Tiling, tiling
from rainshed.compiler.partition.hasten import hasten
from rainshed.compiler.partition.multilevel import afresh, again, levels
from rainshed.compiler.partition.placement import (
    Aim,
    best_of,
    candidates,
    measure,
    phase_balance,
    place_tiles,
    starts_of,
    task_of,
)
from rainshed.compiler.partition.refine import Task, crossing, excess, refine
from rainshed.compiler.partition.seeds import bisected, blocks
from rainshed.compiler.partition.simulate_tiles import Rates, simulate_tiles
from rainshed.compiler.partition.tiled import forward_part, layouts_of, placed_layouts
from rainshed.compiler.pipeline import SHARED, run_passes
from rainshed.compiler.plan import Run
from rainshed.compiler.setting import Setting
from rainshed.ops.ir import Graph


def cluster(*speeds: float) -> Cluster:
    machines = tuple(Machine(name=f"m{i}", flops=s * 1e9, memory_bytes=2**34) for i, s in enumerate(speeds))
    return Cluster(machines=machines, default_link=Link(1.25e8, 1e-4))


def local_net(size: int, channels: int, k: int) -> Graph:
    h = rs.input("x", (1, size, size, 2))
    for _ in range(2):
        h = rs.layers.local2d(h, channels, k, padding="same", bias=False)
    return rs.graph(loss=rs.sum(h))


def dense_net(batch: int, *units: int) -> Graph:
    h = rs.input("x", (batch, units[0]))
    for n in units[1:]:
        h = rs.layers.dense(h, n, bias=False)
    return rs.graph(loss=rs.sum(h))


@pytest.mark.parametrize("g", [2, 3, 4])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_squares_of_a_local_network_move_halos(g: int, k: int) -> None:
    """Forwards and backwards 2(2(g-1)(k-1) N C + ((g-1)(k-1))^2 C) elements; of the loss a partial sum from each machine, and
    nothing back: its gradient is 1 everywhere. The graph that is cut so sends as much."""
    size, channels = 24, 4
    there = cluster(*[1.0] * g * g)
    graph = run_passes(local_net(size, channels, k), Setting(cluster=there), SHARED)
    tiles = tiling(forward_part(graph), 144)
    home = blocks(tiles, (1, g, g))
    halo = 2 * (g - 1) * (k - 1) * size * channels + ((g - 1) * (k - 1)) ** 2 * channels
    loss = g * g - 1
    assert crossing(task_of(tiles, there, Aim()), home) == 4 * (2 * halo + loss)
    assert 4 * sent_elements(laid_out(graph, placed_layouts(graph, there, tiles, home), g * g)) == 4 * (2 * halo + loss)
    assert phase_balance(tiles, there, home) == pytest.approx(1)


def test_the_gradient_of_a_mean_of_squares_crosses_nowhere() -> None:
    """h in two halves: forwards a partial sum of its squares, backwards nothing, since 1/n is known to both machines."""
    h = rs.layers.local2d(rs.input("x", (1, 8, 8, 2)), 2, 1, padding="same", bias=False)
    tiles = tiling(rs.graph(loss=rs.mean(rs.square(h))), 2)
    home = (tiles.place.max(axis=1) > 0.5).astype(np.int64)
    assert crossing(task_of(tiles, cluster(1, 1), Aim()), home) == 4


@pytest.mark.parametrize("seed", range(6))
def test_bytes_are_those_of_every_element_sent_to_a_machine_once(seed: int) -> None:
    """Atoms against sets of (element, machine), for random placements of a network whose tiles overlap in what they read.

    Gradients go the same ways back, but those of the loss and of what it is the sum of, which are 1.
    """
    size, channels, k = 12, 2, 3
    graph = local_net(size, channels, k)
    tiles = tiling(graph, 16)
    machines = 3
    home = np.random.default_rng(seed).integers(0, machines, tiles.vertices)
    task = task_of(tiles, cluster(*[1.0] * machines), Aim())
    expected = 0
    loss = graph.outputs["loss"]
    for value, cut in tiles.cuts.items():
        ways = 1 if value in (loss, loss.inputs[0]) else 2
        shape = tuple(int(n) for n in value.shape)
        there = np.full(shape, -1)
        owner = dict(zip(cut.pieces, cut.owners, strict=True))
        for box, task_number in owner.items():
            there[tuple(slice(a, b) for a, b in box)] = home[tiles.tasks.vertex[task_number]]
        asked = np.zeros((machines, *shape), bool)
        for reader in tiles.cuts.values():
            for i, given in enumerate(reader.node.inputs):
                if given is value:
                    for t, box in enumerate(reader.tiles):
                        m = home[tiles.tasks.vertex[reader.first + t]]
                        shapes = tuple(tuple(int(n) for n in v.shape) for v in reader.node.inputs)
                        region = reader.access.regions(box, shapes)[i]
                        asked[(m, *(slice(a, b) for a, b in region))] = True
        for m in range(machines):
            expected += ways * 4 * int((asked[m] & (there != m)).sum())
        partial: dict[object, set[int]] = {}
        for t, box in enumerate(cut.tiles):
            region = cut.access.result(box, shape)
            partial.setdefault(region, set()).add(int(home[tiles.tasks.vertex[cut.first + t]]))
        for region, members in partial.items():
            own = int(home[tiles.tasks.vertex[owner[region]]])
            elements = int(np.prod([b - a for a, b in region]))
            expected += ways * 4 * elements * len(members - {own})
    assert crossing(task, home) == expected


def enumerated(task: Task) -> int:
    """The fewest bytes under the caps, of all placements."""
    count, machines = len(task.load), task.machines
    best = np.iinfo(np.int64).max
    for rest in product(range(machines), repeat=count - 1):
        home = np.array((0, *rest), np.int64)  # machines are alike: the first vertex may lie on the first
        if excess(task, home) == 0:
            best = min(best, crossing(task, home))
    return int(best)


@pytest.mark.parametrize(
    "graph, parts, machines",
    [
        (local_net(8, 2, 3), 4, 2),
        (local_net(12, 2, 5), 4, 2),
        (dense_net(4, 8, 16, 8), 4, 2),
        (dense_net(4, 8, 16, 8), 3, 3),
        (dense_net(16, 4, 8, 32), 4, 2),
    ],
)
def test_small_cases_are_within_5_percent_of_the_optimum(graph: Graph, parts: int, machines: int) -> None:
    tiles = tiling(graph, parts)
    assert tiles.vertices <= 14
    there = cluster(*[1.0] * machines)
    task = task_of(tiles, there, Aim())
    found = place_tiles(tiles, there, Aim())
    assert found.excess == 0
    assert found.nbytes <= 1.05 * enumerated(task)


@pytest.mark.parametrize("speeds", [(1, 1, 1), (1, 2, 3), (1, 1, 1, 1, 1, 1, 1), (4, 1, 1, 1, 1)])
def test_caps_hold_for_any_number_and_speed_of_machines(speeds: tuple[float, ...]) -> None:
    tiles, there = tiling(local_net(24, 4, 3), 144), cluster(*speeds)
    found = place_tiles(tiles, there, Aim())
    assert found.excess == 0
    work = np.bincount(found.home, weights=tiles.work, minlength=len(speeds))
    fair = tiles.work.sum() * np.array(speeds) / sum(speeds)
    assert (work <= 1.25 * fair).all()
    assert found.nbytes == crossing(task_of(tiles, there, Aim()), found.home)
    again = place_tiles(tiles, there, Aim())
    assert (again.home == found.home).all()


@pytest.mark.parametrize("seed", range(4))
def test_refinement_saves_bytes_and_leaves_the_fixed(seed: int) -> None:
    tiles, there = tiling(local_net(24, 4, 3), 64), cluster(1, 1, 1, 1)
    random = np.random.default_rng(seed)
    fixed = np.where(random.random(tiles.vertices) < 0.1, random.integers(0, 4, tiles.vertices), -1)
    task = replace(task_of(tiles, there, Aim()), fixed=fixed)
    for name, home in starts_of(tiles, there).items():
        start = np.where(fixed >= 0, fixed, home)
        found = refine(task, start, seed=seed, kicks=2)
        assert (found[fixed >= 0] == fixed[fixed >= 0]).all(), name
        better = excess(task, start) == 0
        assert not better or (excess(task, found) == 0 and crossing(task, found) <= crossing(task, start)), name


@pytest.mark.parametrize("seed", range(4))
def test_joining_moves_no_more_bytes_and_leaves_the_fixed(seed: int) -> None:
    """From random placements of random hypergraphs: within the machines of one placement, and of two."""
    random = np.random.default_rng(seed)
    count, machines = 600, 3
    rows = [np.unique(random.integers(v, v + 8, 3) % count) for v in range(count)] * 2  # every net twice
    starts = np.cumsum([0, *map(len, rows)])
    weight, load = random.integers(1, 9, len(rows)), np.ones((count, 1))
    fixed = np.where(random.random(count) < 0.05, random.integers(0, machines, count), -1)
    caps = np.full((1, machines), 1.1 * count / machines)
    task = Task(starts, np.concatenate(rows), weight, load, caps, fixed, np.full(count, -1))
    one, two = (refine(task, random.integers(0, machines, count), seed=s, kicks=0) for s in (1, 2))
    assert excess(task, one) == excess(task, two) == 0
    for found in (again(task, one, seed), again(task, one, seed, two)):
        assert excess(task, found) == 0 and crossing(task, found) <= crossing(task, one)
        assert (found[fixed >= 0] == fixed[fixed >= 0]).all()
    new = afresh(task, [one], seed)
    assert excess(task, new) == 0 and (new[fixed >= 0] == fixed[fixed >= 0]).all()
    alone = levels(task, None, seed)
    assert len(alone) > 1 and len(alone[1].task.weight) < len(rows) / 2  # of twins one is left
    coarse = random.integers(0, machines, len(alone[1].task.load))
    assert crossing(alone[1].task, coarse) == crossing(task, coarse[alone[0].of])


def test_a_step_is_shortened_for_bytes_that_are_worth_it() -> None:
    tiles, there = tiling(local_net(24, 4, 3), 144), cluster(1, 1, 1)
    task = task_of(tiles, there, Aim())
    start = place_tiles(tiles, there, Aim(tries=0)).home
    before = measure(tiles, task, there, start, "")
    budget = int(1.1 * before.nbytes)

    def product(home: np.ndarray, nbytes: int) -> float:
        return measure(tiles, task, there, home, "").step_s * nbytes

    after = measure(tiles, task, there, hasten(task, start, product, (budget, 200), 0), "")
    assert after.excess == 0 and after.nbytes <= budget and after.step_s * after.nbytes <= before.step_s * before.nbytes
    assert (hasten(task, start, product, (budget, 0), 0) == start).all()


@pytest.mark.parametrize("speeds", [(1, 1, 1, 1), (1, 2, 3)])
def test_a_goal_is_reached_at_least_as_well_as_by_the_others(speeds: tuple[float, ...]) -> None:
    """One search for all three: the fewest bytes, the least product within a budget, and the shortest step, also of any seed."""
    tiles, there = tiling(local_net(24, 4, 3), 144), cluster(*speeds)
    found = candidates(tiles, there, Aim(goal="step", tries=1))
    few, both, fast = (best_of(found, tiles, there, Aim(goal=goal, tries=1)) for goal in ("bytes", "both", "step"))
    assert few.excess == both.excess == 0 and few.nbytes <= both.nbytes <= 1.1 * few.nbytes
    assert both.nbytes * both.step_s <= few.nbytes * few.step_s
    assert fast.step_s <= min(few.step_s, both.step_s)
    task = task_of(tiles, there, Aim())
    for name, home in starts_of(tiles, there).items():
        assert fast.step_s <= measure(tiles, task, there, home, name).step_s, name


def test_bisection_puts_either_half_first() -> None:
    """Three machines, cut first from top to bottom: the machine that is alone is at the top, or at the bottom."""
    tiles, there = tiling(local_net(24, 4, 3), 144), cluster(1, 1, 1)
    rows = tiles.place[:, 1]
    for larger, alone in ((False, 0), (True, 2)):
        home = bisected(tiles, np.ones(3), 1, larger=larger)
        mean = [float(rows[(home == m) & (tiles.layer >= 0)].mean()) for m in range(3)]
        assert mean[alone] == (max(mean) if larger else min(mean))
        assert phase_balance(tiles, there, home) <= 1.05
        assert crossing(task_of(tiles, there, Aim()), home) < crossing(
            task_of(tiles, there, Aim()), blocks(tiles, (1, 3, 1))
        )


def test_the_shortest_step_is_within_memory() -> None:
    """A machine that is fast and small: the others' share is more than their speed says."""
    tiles, there = tiling(local_net(24, 4, 3), 144), cluster(8, 1, 1)
    all_of_it = int(tiles.nbytes.sum())
    small = tuple(replace(m, memory_bytes=all_of_it // (3 if i == 0 else 1)) for i, m in enumerate(there.machines))
    tight = replace(there, machines=small)
    found = place_tiles(tiles, tight, Aim(goal="step", tries=1))
    held = np.bincount(found.home, weights=tiles.nbytes, minlength=3)
    assert held[0] <= all_of_it // 3
    assert found.step_s > place_tiles(tiles, there, Aim(goal="step", tries=1)).step_s


def test_pinned_nodes_are_placed_where_they_are_pinned() -> None:
    x = rs.input("x", (16, 64))
    with rs.on("m2"):
        h = rs.layers.dense(x, 64, bias=False)
    graph = rs.graph(loss=rs.sum(rs.layers.dense(rs.relu(h), 64, bias=False)))
    tiles, there = tiling(graph, 16), cluster(1, 1, 1)
    assert set(tiles.pinned.values()) == {"m2"} and tiles.layers == ("dense_1",)
    found = place_tiles(tiles, there, Aim())
    assert all(found.home[vertex] == 2 for vertex in tiles.pinned) and found.excess == 0
    assert len(np.unique(found.home[tiles.layer == 0])) == 3  # the other layer is on all of them


def test_a_plan_of_placed_tiles_keeps_pins() -> None:
    h = rs.layers.dense(rs.input("x", (16, 64)), 64, activation=rs.relu)
    h = rs.layers.dense(h, 64, activation=rs.relu)
    graph = rs.graph(loss=rs.mean(rs.layers.dense(h, 8)), optimizer=rs.SGD(0.1))
    plan = rs.compile(graph, cluster(1, 1, 1), strategy="tiles", place={"dense_1": "m2"})
    found = {
        i.scope: p.machine for p in plan.programs for i in p.instructions if isinstance(i, Run) and i.op == "matmul"
    }
    assert found["dense_1"] == "m2"
    assert {p.machine for p in plan.programs for v in p.variables if v.name == "dense_1/w"} == {"m2"}


def test_a_slow_link_counts() -> None:
    """Two machines near each other and one far away: a step takes longer when neighbours are far apart."""
    near = cluster(1, 1, 1)
    far = replace(near, links={("m0", "m2"): Link(1e6, 1e-2), ("m1", "m2"): Link(1e6, 1e-2)})
    tiles = tiling(local_net(24, 4, 3), 144)
    task = task_of(tiles, near, Aim())
    strips = blocks(tiles, (1, 3, 1))  # m0, m1, m2 from top to bottom
    assert measure(tiles, task, far, strips, "").step_s > 5 * measure(tiles, task, near, strips, "").step_s
    middle = np.array([0, 2, 1])[strips]  # the far one between the others: both borders are slow
    assert measure(tiles, task, far, middle, "").step_s > measure(tiles, task, far, strips, "").step_s
    found = place_tiles(tiles, far, Aim(goal="both", slack=2.0))
    assert found.step_s < measure(tiles, task, far, middle, "").step_s


def test_blocks_of_one_machine_become_one_tile() -> None:
    """144 tiles in four squares are four tiles again."""
    tiles = tiling(local_net(24, 4, 3), 144)
    found = layouts_of(tiles, blocks(tiles, (1, 2, 2)))
    heavy = [layout for node, layout in found.items() if node.op.name == "local2d"]
    assert len(heavy) == 2
    for layout in heavy:
        assert layout.cut is not None and sorted(layout.homes) == [0, 1, 2, 3]
        assert {box[1:3] for box in layout.cut} == set(product([(0, 12), (12, 24)], repeat=2))


def test_tiles_that_wait_take_their_time() -> None:
    """Two layers on two machines: computing, sending, computing, and back again."""
    tiles: Tiling = tiling(dense_net(4, 8, 16, 8), 1)
    tasks = tiles.tasks
    home = np.zeros(tiles.vertices, np.int64)
    rates = Rates(np.array([1e3, 1e3]), np.full((2, 2), 1e3), np.full((2, 2), 0.5))
    alone, messages = simulate_tiles(tasks, home, rates)
    assert messages == 0 and alone == pytest.approx((tasks.work + tasks.behind).sum() / 1e3)
    second = tasks.vertex[1]
    home[second] = 1
    apart, messages = simulate_tiles(tasks, home, rates)
    assert messages == 3  # to the second layer and back, and to the loss, which no other machine waits for
    there = int(tasks.nbytes[tasks.maker == 0].sum())
    beside = tasks.work[2] + tasks.behind[2]  # of the loss, while the second layer's gradients are computed
    assert apart == pytest.approx(alone - beside / 1e3 + 2 * (there / 1e3 + 0.5))


def test_gradients_of_layers_in_turn_come_back_as_the_values_went() -> None:
    """Recurrent layers, each whole on one machine: nothing but what its tiles say crosses, forwards and backwards."""
    sequence = rs.input("sequence", (4, 3, 16))
    loss = rs.mean(rs.square(rs.layers.lstm(sequence, 16, layers=2)))
    there = cluster(1, 1)
    graph = run_passes(rs.graph(loss=loss, optimizer=rs.SGD(0.1)), Setting(cluster=there), SHARED)
    tiles = tiling(forward_part(graph), 4)
    home = starts_of(tiles, there)["layers"]
    sent = 4 * sent_elements(laid_out(graph, placed_layouts(graph, there, tiles, home), 2))
    assert sent == crossing(task_of(tiles, there, Aim()), home)
