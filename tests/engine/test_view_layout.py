"""The layered drawing: nothing overlaps, edges lead down, chains are straight."""

import random
from itertools import combinations

import pytest

from rainshed.engine.view.layout import Spacing, layered, nondecreasing

SPACING = Spacing(rank_gap=50, node_gap=20, lane=30)


def drawn(count, edges):
    return layered([(100, 40)] * count, edges, SPACING)


def test_nothing():
    assert drawn(0, []).centres == ()


def test_a_chain_is_straight():
    drawing = drawn(5, [(i, i + 1) for i in range(4)])
    assert {x for x, _ in drawing.centres} == {50}
    assert [y for _, y in drawing.centres] == [20, 110, 200, 290, 380]
    assert (drawing.width, drawing.height) == (100, 400)


def test_a_fork_is_even_and_a_long_edge_passes_beside():
    drawing = drawn(4, [(0, 1), (0, 2), (1, 3), (2, 3)])
    x = [c[0] for c in drawing.centres]
    assert x[0] == x[3] == pytest.approx((x[1] + x[2]) / 2)
    drawing = drawn(3, [(0, 1), (1, 2), (0, 2)])
    assert drawing.ranks == (0, 1, 2)
    passing = drawing.routes[2][1][0]
    assert abs(passing - drawing.centres[1][0]) >= 50 + 15 + 20 - 1e-6


def test_a_source_stands_above_its_reader():
    assert drawn(4, [(0, 1), (1, 2), (3, 2)]).ranks == (0, 1, 2, 1)


def test_a_cycle_is_drawn_with_one_edge_up():
    drawing = drawn(3, [(0, 1), (1, 2), (2, 0)])
    assert drawing.ranks == (0, 1, 2)
    up = drawing.routes[2]
    assert up[0][1] > up[-1][1]
    assert up[0][0] == drawing.centres[2][0]


def test_a_loop_has_no_route():
    assert drawn(1, [(0, 0)]).routes == ((),)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_overlaps_and_all_lead_down(seed):
    rng = random.Random(seed)
    count = rng.randint(2, 30)
    edges = list({tuple(sorted(rng.sample(range(count), 2))) for _ in range(rng.randint(1, 2 * count))})
    drawing = drawn(count, edges)
    for (ax, ay), (bx, by) in combinations(drawing.centres, 2):
        assert ay != by or abs(ax - bx) >= 120 - 1e-6
    for (a, b), route in zip(edges, drawing.routes, strict=True):
        assert drawing.ranks[a] < drawing.ranks[b]
        ys = [y for _, y in route]
        assert ys == sorted(ys)
        assert route[0][0] == drawing.centres[a][0]
        assert route[-1][0] == drawing.centres[b][0]
    assert all(50 - 1e-6 <= x <= drawing.width - 50 + 1e-6 for x, _ in drawing.centres)
    assert drawing == drawn(count, edges)


def test_nondecreasing_is_the_weighted_mean_of_what_is_out_of_order():
    assert nondecreasing([1, 3, 2, 5], [1, 1, 1, 1]) == [1, 2.5, 2.5, 5]
    assert nondecreasing([4, 1], [1, 3]) == [1.75, 1.75]
