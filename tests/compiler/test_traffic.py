"""Costs of edges: what is worked out axis by axis is what every part against every other one gives."""

import math
import random

import numpy as np
import pytest
from compiler_kit import cluster

from rainshed.compiler.layouts import Layout, pieces
from rainshed.compiler.machines import Link
from rainshed.compiler.partition.candidates import candidates
from rainshed.compiler.partition.options import Kind, Nest
from rainshed.compiler.partition.traffic import Parts, Wires, between, edge_seconds, general_seconds
from rainshed.ops import CATALOGUE as C
from rainshed.ops.access import Access, Axis, boxes
from rainshed.ops.ir import Node
from rainshed.ops.source import input, variable

Laid = tuple[np.ndarray, np.ndarray]  # boxes and homes


def random_grid(rng: random.Random, size: tuple[int, ...], machines: int, parts: int) -> Laid:
    """A grid of as many parts as axes allow, on machines in any order."""
    grid, left = [1] * len(size), parts
    for d in rng.sample(range(len(size)), len(size)):
        grid[d] = max(n for n in range(1, min(left, size[d]) + 1) if left % n == 0)
        left //= grid[d]
    access = Access(tuple(Axis(f"b{i}", n) for i, n in enumerate(size)), (), ())
    found = np.array(boxes(access, tuple(grid)), np.int64).reshape(math.prod(grid), len(size), 2)
    homes = [i % machines for i in range(len(found))]
    rng.shuffle(homes)
    return found, np.array(homes)


def with_borders(rng: random.Random, laid: Laid, size: tuple[int, ...]) -> Laid:
    """What a reader with windows wants, or one that needs all along some axis."""
    wanted, homes = laid[0].copy(), laid[1]
    for d, n in enumerate(size):
        border = rng.choice([0, 0, 1, 3, n])
        wanted[:, d] = np.clip(wanted[:, d] + (-border, border), 0, n)
    return wanted, homes


@pytest.mark.parametrize("seed", range(40))
def test_edges_between_grids_cost_what_all_pairs_of_parts_cost(seed: int) -> None:
    rng = random.Random(seed)
    machines = rng.choice([2, 3, 4, 6, 8, 12])
    size = tuple(rng.choice([1, 5, 8, 16, 33]) for _ in range(rng.choice([0, 1, 2, 3])))
    parts = machines * rng.choice([1, 1, 2])
    have = Parts.of([random_grid(rng, size, machines, parts) for _ in range(4)])
    want = Parts.of([with_borders(rng, random_grid(rng, size, machines, parts), size) for _ in range(5)])
    assert want.product.all()
    wires = Wires.of(cluster(machines))
    np.testing.assert_allclose(edge_seconds(have, want, 4, wires), general_seconds(have, want, 4, wires), rtol=1e-5)


def test_boxes_that_are_no_grid_are_told_from_those_that_are() -> None:
    grid = np.array([[[0, 2], [0, 3]], [[0, 2], [3, 6]], [[2, 4], [0, 3]], [[2, 4], [3, 6]]])
    bent = grid.copy()
    bent[3] = [[2, 4], [3, 5]]
    twice = np.concatenate([grid, grid])
    uneven = np.concatenate([grid, grid[:2]])  # still all combinations of what each axis has
    crooked = np.concatenate([grid, grid[:1]])
    layouts = [(b, np.arange(len(b))) for b in (grid, bent, twice, uneven, crooked)]
    assert Parts.of(layouts).product.tolist() == [True, False, True, True, False]


def test_links_of_several_speeds_are_priced_one_by_one() -> None:
    even = cluster(3)
    uneven = type(even)(machines=even.machines, default_link=even.default_link, links={("m0", "m1"): Link(1e6, 1e-4)})
    assert Wires.of(even).even is not None and Wires.of(uneven).even is None
    have = Parts.of([(np.array([[[0, 90]]]), np.array([0]))])
    want = Parts.of([(np.array([[[0, 30]], [[30, 60]], [[60, 90]]]), np.arange(3))])
    assert edge_seconds(have, want, 4, Wires.of(uneven)) > edge_seconds(have, want, 4, Wires.of(even))


NODES = {
    "product": lambda: C["matmul"](input("x", (96, 80)), variable("w", (80, 64))),
    "windows": lambda: C["conv2d"](input("x", (2, 24, 24, 3)), variable("f", (3, 3, 3, 16))),
    "sum": lambda: C["sum"](input("x", (96, 600)), axis=0),
    "number": lambda: C["sum"](input("x", (96, 600))),
    "pool": lambda: C["max_pool2d"](input("x", (2, 24, 24, 3)), size=(2, 2), stride=(2, 2)),
}


@pytest.mark.parametrize("machines", [3, 4, 6, 12])
@pytest.mark.parametrize("name", NODES)
def test_options_are_the_pieces_that_the_value_is_cut_into(name: str, machines: int) -> None:
    node: Node = NODES[name]()
    shapes = tuple(tuple(i.shape) for i in node.inputs)
    nest = Nest(node.access, shapes, tuple(node.shape), machines)
    layouts = [
        *candidates(node.access, shapes, tuple(node.shape), (1.0,) * machines),
        Layout((1,) * len(node.access.axes), (machines - 1,)),
    ]
    for option in Kind.of(nest, layouts).options:
        placed = pieces(node.access, option.layout, tuple(node.shape))
        assert [tuple(map(tuple, box)) for box in option.corners.tolist()] == [p.box for p in placed]
        assert option.piece_homes.tolist() == [p.home for p in placed]
        flow = np.zeros((machines, machines), np.int64)
        for p in placed:
            for home in {option.layout.homes[m] for m in p.members} - {p.home}:
                flow[home, p.home] += math.prod(high - low for low, high in p.box)
        found = np.zeros_like(flow)
        for a, b, elements in option.partial.tolist():
            found[a, b] += elements
        np.testing.assert_array_equal(found, flow)


def test_what_a_machine_has_does_not_go() -> None:
    halves = (np.array([[[0, 4]], [[4, 8]]]), np.arange(2))
    parts = Parts.of([halves])
    assert between(parts, 0, parts, 0, 2).sum() == 0
    assert edge_seconds(parts, parts, 4, Wires.of(cluster(2))) == 0
