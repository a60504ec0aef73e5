"""Sums of matrix products by BLAS: the same as by NumPy, however the matrices lie."""

import numpy as np
import pytest
from laws import f32, f64

from rainshed.ops import blas
from rainshed.ops.errors import ShapeError
from rainshed.ops.product import DEEP, product, product_call
from rainshed.ops.source import input as input_node

PLAIN = {"turn_a": False, "turn_b": False, "summed": 0, "alpha": 1.0}


def lying(shape, turn, make, seed):
    shape = (*shape[:-2], shape[-1], shape[-2]) if turn else shape
    return np.random.default_rng(seed).standard_normal(shape).astype(make(1).dtype)


def operands(left, right, pairs, attrs, make):
    found = []
    for i in range(pairs):
        found.append(lying(left, attrs["turn_a"], make, 2 * i))
        found.append(lying(right, attrs["turn_b"], make, 2 * i + 1))
    return found


def check(inputs, attrs, tolerance):
    leaves = tuple(input_node(f"x{i}", x.shape, x.dtype) for i, x in enumerate(inputs))
    node = product.make(leaves, attrs)
    want, got = (np.full(node.shape, np.nan, node.dtype.numpy) for _ in range(2))
    product.cpu(*inputs, want, **node.attrs)
    before = [x.copy() for x in inputs]
    product_call(node.attrs, *inputs, got)()
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    for x, old in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(x, old)
    return want


@pytest.mark.parametrize("turn_a", (False, True))
@pytest.mark.parametrize("turn_b", (False, True))
@pytest.mark.parametrize("pairs", (1, 2, 5))
@pytest.mark.parametrize(
    "m, k, n", ((3, 4, 5), (1, 1, 1), (17, 1, 9), (2, 0, 3), (0, 2, 3), (1, 7, 1), (1, 7, 5), (6, 7, 1))
)
def test_a_sum_of_products(turn_a, turn_b, pairs, m, k, n):
    attrs = {**PLAIN, "turn_a": turn_a, "turn_b": turn_b, "alpha": -0.5}
    inputs = operands((m, k), (k, n), pairs, attrs, f64)
    check(inputs, attrs, 1e-12)
    c = f64(m, n)
    want = check([*inputs, c], attrs, 1e-12)
    product_call(attrs, *inputs, c, c)()  # in its place
    np.testing.assert_allclose(c, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("turn_a", (False, True))
@pytest.mark.parametrize("turn_b", (False, True))
@pytest.mark.parametrize(
    "left, right, summed", (((3, 130), (130, 4), 0), ((1, 90), (90, 4), 0), ((2, 3, 90), (2, 90, 4), 1))
)
def test_many_pairs_are_multiplied_in_groups(turn_a, turn_b, left, right, summed):
    attrs = {**PLAIN, "turn_a": turn_a, "turn_b": turn_b, "summed": summed, "alpha": -0.5}
    inputs = operands(left, right, 5, attrs, f64)
    assert 5 * left[-1] > DEEP > left[-1]
    check(inputs, attrs, 1e-12)
    c = f64(*left[summed:-1], right[-1])
    want = check([*inputs, c], attrs, 1e-12)
    product_call(attrs, *inputs, c, c)()  # in its place
    np.testing.assert_allclose(c, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("turn_a", (False, True))
@pytest.mark.parametrize("pairs", (1, 4))
@pytest.mark.parametrize("summed", (0, 1))
@pytest.mark.parametrize("left, right", (((3, 2, 5), (3, 5, 4)), ((2, 5), (3, 5, 4)), ((3, 2, 5), (1, 5, 4))))
def test_a_batch_that_broadcasts_or_is_summed(turn_a, pairs, summed, left, right):
    attrs = {**PLAIN, "turn_a": turn_a, "summed": summed, "alpha": 2.0}
    check(operands(left, right, pairs, attrs, f32), attrs, 1e-5)


@pytest.mark.parametrize("turn_a", (False, True))
@pytest.mark.parametrize("turn_b", (False, True))
@pytest.mark.parametrize(
    "left, right, summed, calls",
    (
        ((3, 2, 5), (5, 4), 0, 1),
        ((2, 3, 2, 5), (5, 4), 0, 1),
        ((3, 2, 5), (3, 5, 4), 1, 1),
        ((2, 3, 2, 5), (2, 3, 5, 4), 2, 1),
        ((2, 3, 2, 5), (2, 3, 5, 4), 1, 6),
        ((2, 3, 2, 5), (3, 5, 4), 0, 6),
        ((3, 1, 5), (5, 4), 0, 1),
        ((3, 2, 1), (3, 1, 4), 1, 1),
        ((3, 2, 5), (1, 5, 4), 1, 3),
    ),
)
def test_what_lies_in_equal_steps_is_one_call_of_blas(turn_a, turn_b, left, right, summed, calls):
    attrs = {**PLAIN, "turn_a": turn_a, "turn_b": turn_b, "summed": summed, "alpha": -0.5}
    inputs = operands(left, right, 1, attrs, f64)
    want = check(inputs, attrs, 1e-12)
    rows, depth = summed < len(left) - 2 and not turn_a, summed == len(left) - 2 and turn_a and not turn_b
    made = product_call(attrs, *inputs, np.empty(want.shape))
    if rows or depth or calls > 1:
        assert (len(made.args[0]) if isinstance(made.args[0], tuple) else 1) == calls
    c = f64(*want.shape)
    want = check([*inputs, c], attrs, 1e-12)
    product_call(attrs, *inputs, c, c)()  # in its place
    np.testing.assert_allclose(c, want, rtol=1e-12, atol=1e-12)


def test_a_part_of_a_batch_is_read_where_it_lies():
    x, w, out = f32(4, 6, 8)[1:, :3, 2:7], f32(5, 9)[:, 1:8], np.zeros((5, 6, 9), np.float32)
    for left, to in (
        (x, out[:3, :3, 1:8]),
        (x[:, :1], out[:3, :1, 1:8]),
        (np.broadcast_to(x[:1], x.shape), out[:3, :3, 1:8]),
    ):
        out[...] = 7.0
        product_call(PLAIN, left, w, to)()
        np.testing.assert_allclose(to, left @ w, rtol=1e-5, atol=1e-5)
        to[...] = 7.0
        np.testing.assert_array_equal(out, np.full(out.shape, 7.0, np.float32))  # nothing beside it


def test_parts_of_larger_matrices_and_any_other_steps():
    a, b, out = f32(6, 8)[1:5, 2:6], f32(9, 7)[::2, 1:6], f32(6, 9)[:4, 3:8]
    a, b = a, b[:4]
    for left, right in ((a, b), (a[::-1], b), (a.T[:4].T, b[:, ::-1]), (np.broadcast_to(a[:1], a.shape), b)):
        want = out * 0.5 + 3.0 * (left @ right)
        got = np.zeros((6, 9), np.float32)[:4, 3:8]
        got[...] = out
        blas.add_product(left, right, got, alpha=3.0, beta=0.5)()
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_without_openblas_numpy_does_it(monkeypatch):
    monkeypatch.setattr(blas, "routine", lambda letter, name: None)
    attrs = {**PLAIN, "turn_a": True, "alpha": -0.25}
    check([*operands((4, 3), (3, 5), 3, attrs, f32), f32(4, 5)], attrs, 1e-5)


@pytest.mark.parametrize(
    "shapes, attrs, what",
    (
        (((2, 3), (4, 5)), {}, "shared axes"),
        (((2, 3), (3, 5), (2, 3), (3, 4)), {}, "differ in shape"),
        (((2, 3), (3, 5), (2, 4)), {}, "c that of the result"),
        (((2, 3), (3, 5)), {"summed": 1}, "cannot sum"),
        (((3,), (3, 5)), {}, "takes matrices"),
    ),
)
def test_what_does_not_fit_is_refused(shapes, attrs, what):
    with pytest.raises(ShapeError, match=what):
        product.make(tuple(input_node(f"x{i}", s, "float32") for i, s in enumerate(shapes)), attrs)


def test_a_call_keeps_its_arrays():
    want = f32(300, 200) @ f32(200, 100)
    out = np.empty((300, 100), np.float32)
    call = blas.add_product(f32(300, 200), f32(200, 100), out, alpha=1.0, beta=0.0)
    others = [np.full((300, 200), np.nan, np.float32) for _ in range(20)]  # they would take the place of what is freed
    call()
    np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-4)
    assert len(others) == 20
