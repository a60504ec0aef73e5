"""Pools and their gradients against loops. Tiles give the bits of the whole, ties included."""

import numpy as np
import pytest
from laws import check_op, check_tiles_split, f32, f64, i64

from rainshed.ops.errors import ShapeError
from rainshed.ops.evaluate import evaluate_nodes
from rainshed.ops.gradient import gradients
from rainshed.ops.pool2d import avg_pool2d, max_pool2d, max_pool2d_grad, sum_pool2d, sum_pool2d_grad
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.source import input

CASES = {
    "plain": ((2, 6, 4, 3), (2, 2), (2, 2), ((0, 0), (0, 0))),
    "image is not a multiple": ((1, 7, 8, 2), (2, 3), (2, 3), ((0, 0), (0, 0))),
    "overlap": ((2, 7, 6, 2), (3, 3), (2, 2), ((0, 0), (0, 0))),
    "every position": ((1, 5, 6, 1), (3, 2), (1, 1), ((1, 1), (0, 1))),
    "gaps": ((1, 9, 8, 2), (1, 2), (3, 4), ((0, 0), (0, 0))),
    "padding": ((1, 6, 5, 2), (3, 4), (2, 3), ((2, 1), (1, 3))),
    "gaps and padding": ((1, 10, 9, 1), (2, 2), (4, 3), ((1, 1), (1, 0))),
    "one window": ((1, 4, 3, 2), (4, 3), (1, 1), ((0, 0), (0, 0))),
    "one by one": ((2, 3, 4, 1), (1, 1), (1, 1), ((0, 0), (0, 0))),
}


def windows(x, size, stride, padding):
    """For each window: its place in the result, and where on the image it lies."""
    counts = [(x[k + 1] + sum(padding[k]) - size[k]) // stride[k] + 1 for k in (0, 1)]
    for i, j in np.ndindex(*counts):
        row, column = i * stride[0] - padding[0][0], j * stride[1] - padding[1][0]
        yield (i, j), (slice(max(0, row), row + size[0]), slice(max(0, column), column + size[1]))


def pooled(x, case, take):
    found = {place: take(x[:, rows, columns], (1, 2)) for place, (rows, columns) in windows(x.shape, *case)}
    height, width = map(max, zip(*found, strict=True))
    out = np.zeros((x.shape[0], height + 1, width + 1, x.shape[3]))
    for (i, j), value in found.items():
        out[:, i, j] = value
    return out


def attrs_of(case):
    return dict(zip(("size", "stride", "padding"), case, strict=True))


@pytest.mark.parametrize("x,size,stride,padding", CASES.values(), ids=CASES)
def test_pools(x, size, stride, padding):
    case = (size, stride, padding)
    for op, take in [(max_pool2d, np.max), (sum_pool2d, np.sum), (avg_pool2d, np.mean)]:
        check_op(op, f64(*x), reference=lambda x, take=take: pooled(x, case, take), **attrs_of(case))
        check_op(op, f32(*x), gradient=False, **attrs_of(case))


@pytest.mark.parametrize("x,size,stride,padding", CASES.values(), ids=CASES)
def test_max_gradient(x, size, stride, padding):
    case = (size, stride, padding)
    for values in (f64(*x), i64(*x, low=0, high=3).astype(np.float64)):  # the second has many ties

        def reference(x, dy):
            dx = np.zeros(x.shape)
            for (i, j), (rows, columns) in windows(x.shape, *case):
                for b, c in np.ndindex(x.shape[0], x.shape[3]):
                    part = x[b, rows, columns, c]
                    p, q = np.unravel_index(part.argmax(), part.shape)
                    dx[b, rows, columns, c][p, q] += dy[b, i, j, c]
            return dx

        dy = f64(*pooled(values, case, np.max).shape)
        low = (padding[0][0], padding[1][0])
        check_op(max_pool2d_grad, values, dy, size=size, stride=stride, low=low, reference=reference, gradient=False)


@pytest.mark.parametrize("x,size,stride,padding", CASES.values(), ids=CASES)
def test_sum_gradient(x, size, stride, padding):
    case = (size, stride, padding)

    def reference(dy):
        dx = np.zeros(x)
        for (i, j), (rows, columns) in windows(x, *case):
            dx[:, rows, columns] += dy[:, i, j, None, None]
        return dx

    dy = f64(*pooled(f64(*x), case, np.sum).shape)
    low = (padding[0][0], padding[1][0])
    check_op(sum_pool2d_grad, dy, image=x[1:3], size=size, stride=stride, low=low, reference=reference)


@pytest.mark.parametrize("x,size,stride,padding", CASES.values(), ids=CASES)
def test_tiles_can_be_cut_again(x, size, stride, padding):
    case = (size, stride, padding)
    low = (padding[0][0], padding[1][0])
    dy = f64(*pooled(f64(*x), case, np.sum).shape)
    for op in (max_pool2d, sum_pool2d):
        check_tiles_split(op, f64(*x), **attrs_of(case))
    check_tiles_split(max_pool2d_grad, f64(*x), dy, size=size, stride=stride, low=low)
    check_tiles_split(sum_pool2d_grad, dy, image=x[1:3], size=size, stride=stride, low=low)


def test_pools_without_overlap_need_nothing_of_their_neighbours():
    x = input("x", (2, 8, 8, 3))
    node = max_pool2d_grad(x, input("dy", (2, 4, 4, 3)), size=2, stride=2)
    regions = node.access.regions(((0, 2), (4, 8), (0, 8), (0, 3)), ((2, 8, 8, 3), (2, 4, 4, 3)))
    assert regions[0][1] == (4, 8) and regions[1][1] == (2, 4)


def test_negative_images_and_padding():
    x = np.full((1, 2, 2, 1), -3.0)
    check_op(
        max_pool2d, x, size=2, stride=1, padding=1, reference=lambda x: np.full((1, 3, 3, 1), -3.0), gradient=False
    )
    check_op(avg_pool2d, x, size=2, stride=1, padding=1, reference=lambda x: np.full((1, 3, 3, 1), -3.0))


def test_the_batch_may_be_unknown():
    x = input("x", (None, 6, 6, 2))
    for pool in (max_pool2d, avg_pool2d, sum_pool2d):
        for padding in ("same", "valid"):
            y = pool(x, size=3, stride=2, padding=padding)
            (dx,) = gradients(sum_(y), [x])
            assert dx.type == x.type and str(y.shape[0]) == "B"


def test_not_a_number_is_seen():
    x = f64(1, 4, 4, 1)
    x[0, 0, 0, 0] = np.nan
    (y,) = evaluate_nodes([max_pool2d(input("x", x.shape, "float64"), size=2)], {"x": x})
    assert np.isnan(y[0, 0, 0, 0]) and np.isfinite(y[0, 1:, 1:]).all()


def test_wrong_arguments():
    x = input("x", (2, 5, 5, 3))
    for attrs, text in [
        ({"size": 6}, "max_pool2d: a window of 6 does not fit"),
        ({"size": 2, "padding": 2}, "padding is less than the window"),
        ({"size": (2, 0)}, "size is a whole number"),
    ]:
        with pytest.raises(ShapeError, match=text):
            max_pool2d(x, **attrs)
