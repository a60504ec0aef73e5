"""The bytes of layouts against closed forms: fully connected layers in grids, strips and squares of images."""

from __future__ import annotations

import numpy as np
import pytest
from compiler_kit import laid_out, sends, sent_elements

from rainshed.compiler.layouts import Layout, disjoint, pieces, tiles
from rainshed.compiler.partition.candidates import candidates
from rainshed.ops import CATALOGUE as C
from rainshed.ops.access import box_size, intersect
from rainshed.ops.ir import Graph, Node
from rainshed.ops.source import constant, input, variable

B, N_IN, N_OUT = 8, 48, 96


def distributed(name: str, shape: tuple[int, ...]) -> Node:
    """A value that some machine has computed: an input would be there everywhere."""
    return C["tanh"](input(name, shape))


@pytest.mark.parametrize("a, b", [(1, 1), (2, 1), (4, 1), (1, 4), (2, 2), (3, 2), (2, 3), (4, 4)])
def test_a_fully_connected_layer_in_a_grid(a: int, b: int) -> None:
    """a parts of the outputs, b of the inputs: forwards and backwards 2B((a-1) n_in + (b-1) n_out) elements."""
    x, w, dy = distributed("x", (B, N_IN)), variable("w", (N_IN, N_OUT)), distributed("dy", (B, N_OUT))
    wt = C["matrix_transpose"](w)
    y, dx = C["matmul"](x, w), C["matmul"](dy, wt)
    assert [axis.name for axis in y.access.axes] == ["m", "n", "k"]
    homes = {(i, j): i * b + j for i in range(a) for j in range(b)}
    in_order = tuple(homes[i, j] for i in range(a) for j in range(b))  # parts of n_out, then of n_in
    turned = tuple(homes[i, j] for j in range(b) for i in range(a))
    forward = {
        x: Layout((1, b), tuple(homes[0, j] for j in range(b))),
        w: Layout((b, a), turned),
        y: Layout((1, a, b), in_order),
    }
    backward = {
        w: Layout((b, a), turned),
        wt: Layout((a, b), in_order),
        dy: Layout((1, a), tuple(homes[i, 0] for i in range(a))),
        dx: Layout((1, b, a), turned),
    }
    one = sent_elements(laid_out(Graph({"y": y}), forward, a * b))
    other = sent_elements(laid_out(Graph({"dx": dx}), backward, a * b))
    assert one == B * ((a - 1) * N_IN + (b - 1) * N_OUT)
    assert one + other == 2 * B * ((a - 1) * N_IN + (b - 1) * N_OUT)


def image_layer(op: str, size: int, channels: int, k: int) -> tuple[Node, Node]:
    """An image and a layer of `k` x `k` windows over it that keeps its size."""
    x = distributed("x", (2, size, size, channels))
    if op == "conv2d":
        return x, C["conv2d"](x, constant(np.ones((k, k, channels, 5), np.float32)), padding="same")
    w = constant(np.ones((size, size, k, k, channels, 5), np.float32))
    return x, C["local2d"](x, w, padding="same")


@pytest.mark.parametrize("op", ["conv2d", "local2d"])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_an_image_in_strips(op: str, k: int, parts: int) -> None:
    """(P-1)(k-1) rows of N C elements per image."""
    size, channels = 16, 3
    x, y = image_layer(op, size, channels, k)
    rank = len(y.access.axes)
    homes = tuple(range(parts))
    layouts = {x: Layout((1, parts, 1, 1), homes), y: Layout((1, parts, *(1,) * (rank - 2)), homes)}
    got = laid_out(Graph({"y": y}), layouts, parts)
    assert sent_elements(got) == 2 * (parts - 1) * (k - 1) * size * channels
    assert len(sends(got)) == (2 * (parts - 1) if k > 1 else 0)


@pytest.mark.parametrize("op", ["conv2d", "local2d"])
@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("g", [2, 3, 4])
def test_an_image_in_squares(op: str, k: int, g: int) -> None:
    """2(g-1)(k-1) N C elements over the sides and ((g-1)(k-1))^2 C over the corners, per image."""
    size, channels = 12 if g == 3 else 16, 2
    x, y = image_layer(op, size, channels, k)
    rank = len(y.access.axes)
    homes = tuple(range(g * g))
    layouts = {x: Layout((1, g, g, 1), homes), y: Layout((1, g, g, *(1,) * (rank - 3)), homes)}
    sides, corners = 2 * (g - 1) * (k - 1) * size, ((g - 1) * (k - 1)) ** 2
    assert sent_elements(laid_out(Graph({"y": y}), layouts, g * g)) == 2 * channels * (sides + corners)


@pytest.mark.parametrize("op", ["conv2d", "local2d"])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("g", [1, 2, 4])
def test_the_gradient_of_an_image_moves_as_much_as_the_image(op: str, k: int, g: int) -> None:
    """Backwards the same halos as forwards, as partial results of dx: no weights, which stay with their windows."""
    size, channels, out = 16, 2, 5
    dy = distributed("dy", (2, size, size, out))
    shape = (k, k, channels, out) if op == "conv2d" else (size, size, k, k, channels, out)
    w = constant(np.ones(shape, np.float32)) if op == "conv2d" else variable("w", shape)
    low = ((k - 1) // 2,) * 2
    dx = C[f"{op}_input_grad"](dy, w, image=(size, size), low=low)
    read = C["tanh"](dx)
    homes = tuple(range(g * g))
    layouts = {dy: Layout((1, g, g, 1), homes), dx: Layout((1, g, g, 1, 1), homes), read: Layout((1, g, g, 1), homes)}
    if op == "local2d":
        layouts[w] = Layout((g, g, 1, 1, 1, 1), homes)
    sides, corners = 2 * (g - 1) * (k - 1) * size, ((g - 1) * (k - 1)) ** 2
    assert sent_elements(laid_out(Graph({"y": read}), layouts, g * g)) == 2 * channels * (sides + corners)


def test_overlapping_halos_are_sent_once() -> None:
    """Two layers that read one image: the wider halo goes, the narrower one is cut out of it where it is read."""
    x = distributed("x", (1, 16, 16, 2))
    narrow, wide = (C["conv2d"](x, constant(np.ones((k, k, 2, 1), np.float32)), padding="same") for k in (3, 5))
    layouts = {n: Layout((1, 2, *(1,) * (len(n.access.axes) - 2)), (0, 1)) for n in (x, narrow, wide)}
    assert sent_elements(laid_out(Graph({"a": narrow, "b": wide}), layouts, 2)) == 4 * 16 * 2


def test_a_value_goes_to_a_machine_once() -> None:
    x = distributed("x", (6, 6))
    readers = [C[name](x) for name in ("exp", "sin", "cos", "negative")]
    layouts = {r: Layout((1, 1), (1,)) for r in readers}
    got = laid_out(Graph({"x": x, **{str(i): r for i, r in enumerate(readers)}}), layouts, 2)
    assert sent_elements(got) == 36 and len(sends(got)) == 1


def test_partial_sums_of_one_machine_are_added_before_they_go() -> None:
    """Six partial results on three machines: each machine sends the sum of its two."""
    x = distributed("x", (6, 4))
    y = C["sum"](x, axis=0)
    homes = (0, 1, 2, 0, 1, 2)
    got = laid_out(Graph({"y": y}), {x: Layout((6, 1), homes), y: Layout((6, 1), homes)}, 3)
    assert sent_elements(got) == 2 * 4


@pytest.mark.parametrize("machines", [2, 3, 5, 6, 12])
@pytest.mark.parametrize("uneven", [False, True])
def test_candidates_cover_the_loop_nest_on_all_machines(machines: int, uneven: bool) -> None:
    """Beside the whole on one machine: a tile for each machine, without overlap, no layout twice."""
    node = C["matmul"](input("x", (64, 48)), variable("w", (48, 96)))
    speeds = tuple(1.0 + i % 3 * uneven for i in range(machines))
    found = candidates(node.access, ((64, 48), (48, 96)), (64, 96), speeds)
    assert len(found) > 3 and len(set(found)) == len(found)
    assert found[0].homes == (0,)
    for layout in found[1:]:
        cut = tiles(node.access, layout)
        assert sorted(layout.homes) == list(range(machines)) and len(cut) == machines
        assert sum(map(box_size, cut)) == 64 * 48 * 96
        assert all(intersect(a, b) is None for i, a in enumerate(cut) for b in cut[i + 1 :])


@pytest.mark.parametrize("machines,parts", [(12, [10, 6]), (11, [10]), (25, [])])
def test_an_axis_too_short_for_all_machines_is_cut_for_most_of_them(machines: int, parts: list[int]) -> None:
    """Ten rows, which belong together, on twelve machines: on the ten fastest, or on the six fastest."""
    node = C["softmax_cross_entropy"](input("x", (10, 64)), input("label", (10,), "int32"))
    speeds = tuple(2.0 if m == machines - 1 else 1.0 for m in range(machines))
    found = candidates(node.access, ((10, 64), (10,)), (10,), speeds)
    assert found[0].homes == (0,)
    cut = [layout for layout in found if len(layout.homes) > 1]
    assert sorted((max(layout.grid) for layout in cut), reverse=True) == parts
    for layout in cut:
        assert machines - 1 in layout.homes and len(set(layout.homes)) == len(layout.homes)
        assert sum(map(box_size, tiles(node.access, layout))) == 10 * 64


def test_boxes_made_disjoint_are_the_same_union() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        boxes = [tuple(tuple(sorted(rng.integers(0, 7, 2).tolist())) for _ in range(2)) for _ in range(5)]
        seen = np.zeros((7, 7), int)
        for (a, b), (c, d) in boxes:
            seen[a:b, c:d] = 1
        apart = disjoint([b for b in boxes if box_size(b)])
        count = np.zeros((7, 7), int)
        for (a, b), (c, d) in apart:
            count[a:b, c:d] += 1
        np.testing.assert_array_equal(count, seen)
        assert sum(map(box_size, disjoint([b for b in boxes if box_size(b)]))) == seen.sum()


def test_large_partial_sums_are_added_in_slices() -> None:
    """Each of the machines that hold a partial result adds one slice of it; a small one is added in one place."""
    large, small = (C["sum"](input("x", (4, n)), axis=0) for n in (1024, 8))
    layout = Layout((4, 1), (0, 1, 2, 3))
    assert [p.home for p in pieces(large.access, layout, (1024,))] == [0, 1, 2, 3]
    assert [p.home for p in pieces(small.access, layout, (8,))] == [0]
