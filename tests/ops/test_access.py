"""Which part of the inputs a tile needs, against closed forms: halos, strides, borders, and grids."""

import itertools

import pytest

from rainshed.ops.access import (
    WHOLE,
    Access,
    Axis,
    Reach,
    box_shape,
    box_size,
    boxes,
    cuts,
    intersect,
    unsplittable,
    whole,
    within,
)
from rainshed.ops.layout import flip, permute_dims
from rainshed.ops.matmul import matmul
from rainshed.ops.reduce import sum
from rainshed.ops.reshape import reshape
from rainshed.ops.source import input


def touched(reach, box, size):
    """The definition, element by element: all indices that some iteration of the box touches and that exist."""
    found = set()
    for i in range(*box):
        found |= set(range((reach.scale * i + reach.low) // reach.per, (reach.scale * i + reach.high) // reach.per + 1))
    found &= set(range(size))
    return (min(found), max(found) + 1) if found else None


REACHES = [
    Reach(0), Reach(0, scale=2, low=-1, high=1), Reach(0, scale=3, low=-2, high=0), Reach(0, scale=-1, low=19, high=19),
    Reach(0, scale=-2, low=19, high=20), Reach(0, low=1, high=-1, per=3), Reach(0, low=0, high=0, per=4),
    Reach(0, scale=-1, low=19, high=18, per=2), Reach(0, low=-30, high=-30), Reach(0, low=30, high=31),
]  # fmt: skip


@pytest.mark.parametrize("reach", REACHES, ids=str)
def test_interval_is_the_hull_of_what_is_touched(reach):
    for first in range(20):
        for last in range(first, 21):
            for size in (1, 7, 20):
                low, high = reach.interval(((first, last),), size)
                expected = touched(reach, (first, last), size)
                assert 0 <= low <= high <= size
                assert (low, high) == expected if expected else low == high, f"{first}:{last} of {size}"


@pytest.mark.parametrize(
    "kernel,stride,pad,dilation", [(3, 1, 1, 1), (5, 1, 2, 1), (3, 2, 1, 1), (2, 2, 0, 1), (3, 1, 2, 2)]
)
def test_halo_of_a_window(kernel, stride, pad, dilation):
    """Output rows [a, b) need input rows [a s - p, (b - 1) s - p + (k - 1) d + 1), clipped to the image."""
    size = 32
    span = (kernel - 1) * dilation
    out = (size + 2 * pad - span - 1) // stride + 1
    reach = Reach(0, scale=stride, low=-pad, high=-pad + span)
    axis = Axis("h", out)
    for parts in (1, 2, 3, 5):
        needed = [reach.interval((cut,), size) for cut in cuts(axis, parts)]
        for (a, b), got in zip(cuts(axis, parts), needed, strict=True):
            assert got == (max(0, a * stride - pad), min(size, (b - 1) * stride - pad + span + 1))
        overlap = [up[1] - down[0] for up, down in itertools.pairwise(needed)]
        assert all(rows == span + 1 - stride for rows in overlap), "the halo is the kernel's span less the stride"


def test_bytes_of_a_matrix_product():
    access = matmul(input("a", (8, 6)), input("b", (6, 10))).access
    assert [(axis.name, axis.size, axis.role) for axis in access.axes] == [
        ("m", 8, "join"),
        ("n", 10, "join"),
        ("k", 6, "sum"),
    ]
    for box in boxes(access, (2, 5, 3)):
        (m, n, k) = box
        assert access.regions(box, ((8, 6), (6, 10))) == ((m, k), (k, n))
        assert access.result(box, (8, 10)) == (m, n)
    assert access.combine == "add"


def test_regions_of_other_ops():
    x = input("x", (4, 6))
    assert permute_dims(x, axes=(1, 0)).access.regions(((0, 3), (2, 4)), ((4, 6),)) == (((2, 4), (0, 3)),)
    assert flip(x, axis=0).access.regions(((0, 1), (2, 4)), ((4, 6),)) == (((3, 4), (2, 4)),)
    access = sum(x, axis=0).access
    assert access.regions(((1, 2), (0, 3)), ((4, 6),)) == (((1, 2), (0, 3)),) and access.result(
        ((1, 2), (0, 3)), (6,)
    ) == ((0, 3),)
    rows = reshape(x, shape=(2, 2, 6)).access
    assert rows.regions(((1, 2), (0, 2), (0, 6)), ((4, 6),)) == (((2, 4), (0, 6)),)


@pytest.mark.parametrize(
    "size,step,parts", [(10, 1, 3), (10, 4, 2), (10, 4, 9), (7, 1, 7), (7, 1, 20), (0, 1, 3), (1, 1, 1)]
)
def test_cuts(size, step, parts):
    axis = Axis("x", size, step=step)
    found = cuts(axis, parts)
    assert [low for low, _ in found[1:]] == [high for _, high in found[:-1]], "one follows the other"
    assert (found[0][0], found[-1][1]) == (0, size)
    assert all(low % step == 0 for low, _ in found)
    if size:
        assert all(low < high for low, high in found)
        sizes = [-(-(high - low) // step) for low, high in found]
        assert max(sizes) - min(sizes) <= 1, "as even as the step allows"
    assert len(found) <= parts


def test_what_must_stay_whole_is_not_cut():
    assert Axis("c", 10, "whole").max_parts == 1
    assert Axis("c", 10, step=4).max_parts == 2
    assert Axis("c", 0).max_parts == 1


def test_unsplittable():
    access = unsplittable(((3, 4), ()), (5,))
    assert boxes(access, ()) == ((),)
    assert access.regions((), ((3, 4), ())) == (((0, 3), (0, 4)), ()) and access.result((), (5,)) == ((0, 5),)


def test_boxes_in_row_major_order():
    access = Access((Axis("a", 4), Axis("b", 3)), ((WHOLE,),), (Reach(0), Reach(1)))
    assert boxes(access, (2, 1)) == (((0, 2), (0, 3)), ((2, 4), (0, 3)))
    assert access.full == ((0, 4), (0, 3))


def test_box_arithmetic():
    a, b = ((0, 4), (2, 6)), ((3, 8), (0, 3))
    assert intersect(a, b) == ((3, 4), (2, 3)) == intersect(b, a)
    assert intersect(a, ((4, 8), (0, 3))) is None
    assert box_shape(a) == (4, 4) and box_size(a) == 16 and box_size(((3, 3), (0, 5))) == 0 and box_size(()) == 1
    assert whole((2, 3)) == ((0, 2), (0, 3))
    assert within(((3, 4), (2, 3)), ((3, 8), (0, 3))) == ((0, 1), (2, 3))
