"""Compiled convolutions, locally connected layers, pools and sums by index beside the NumPy truth; any number of pieces gives
the same bits."""

import numpy as np
import pytest
from laws import f32, i64, rng
from test_conv2d import CASES, lowered, out_shape
from test_local2d import CASES as LOCAL
from test_local2d import weight_shape
from test_pool2d import CASES as POOLS

from rainshed.ops.conv2d import conv2d, conv2d_input_grad, conv2d_weight_grad
from rainshed.ops.errors import DataError
from rainshed.ops.evaluate import empty
from rainshed.ops.gather import scatter_add
from rainshed.ops.local2d import local2d, local2d_input_grad, local2d_weight_grad
from rainshed.ops.native import native_calls
from rainshed.ops.op import Op
from rainshed.ops.pool2d import max_pool2d, max_pool2d_grad, sum_pool2d, sum_pool2d_grad
from rainshed.ops.source import input as input_node
from rainshed.ops.vector import Shape, shape_for

EVEN = ((1, 1), (1, 1))
CONVOLUTIONS = {
    **CASES,
    "first layer": ((3, 12, 13, 3), (5, 5, 3, 32), {"padding": ((2, 2), (2, 2))}),
    "many channels": ((2, 7, 8, 40), (3, 3, 40, 72), {"padding": EVEN}),
    "long rows": ((1, 4, 300, 5), (3, 3, 5, 24), {"padding": EVEN}),
    "small images": ((21, 3, 3, 8), (3, 3, 8, 19), {"padding": EVEN}),
    "deep, one by one": ((2, 5, 5, 514), (1, 1, 514, 9), {"stride": (2, 2)}),
    "one by one, wide": ((3, 9, 10, 48), (1, 1, 48, 150), {}),
    "one by one, narrow": ((2, 5, 5, 200), (1, 1, 200, 16), {}),
    "one by one, cropped": ((2, 5, 6, 20), (1, 1, 20, 17), {"padding": ((-1, 0), (0, -1))}),
    "channels apart": ((3, 9, 10, 21), (3, 3, 1, 21), {"groups": 21, "padding": ((1, 1), (2, 0)), "stride": (2, 3)}),
    "channels apart, dilated": ((2, 9, 10, 8), (3, 2, 1, 8), {"groups": 8, "dilation": (2, 3), "stride": (4, 2)}),
    "wide groups": ((3, 5, 6, 32), (3, 3, 16, 48), {"groups": 2, "padding": EVEN, "stride": (2, 1)}),
}
LAYERS = {**LOCAL, "eight maps": ((5, 9, 8, 3), (4, 5), 8, {}), "many maps": ((19, 5, 5, 3), (2, 3), 40, {})}


def check(op: Op, *arrays: np.ndarray, tolerance: float = 2e-5, **attrs: object) -> np.ndarray:
    """Compiled in 1, 2, 3 and 7 pieces: equal bits, near the truth; the whole result is written, the inputs are not."""
    node = op(*(input_node(f"x{i}", a.shape, a.dtype) for i, a in enumerate(arrays)), **attrs)
    want = empty(node.type)
    with np.errstate(all="ignore"):
        op.cpu(*arrays, want, **node.attrs)
    before = [a.copy() for a in arrays]
    found = []
    for pieces in (1, 2, 3, 7):
        out = np.full(node.shape, 7.0 if pieces == 1 else np.nan, node.dtype.numpy)
        for call in native_calls(op, (*arrays, out), node.attrs, pieces):
            call()
        found.append(out)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    finite = want[np.isfinite(want)]
    scale = max(1.0, float(np.abs(finite).max())) if finite.size else 1.0
    np.testing.assert_allclose(found[0], want, rtol=tolerance, atol=tolerance * scale)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)
    return found[0]


@pytest.mark.parametrize("x,w,attrs", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions(x, w, attrs):
    dy = f32(*out_shape(x, w, **attrs))
    check(conv2d, f32(*x), f32(*w), **attrs)
    check(conv2d_input_grad, dy, f32(*w), image=x[1:3], **lowered(attrs))
    check(conv2d_weight_grad, f32(*x), dy, kernel=w[:2], **lowered(attrs))


@pytest.mark.parametrize("x,kernel,out,attrs", LAYERS.values(), ids=LAYERS)
def test_locally_connected(x, kernel, out, attrs):
    w = weight_shape(x, kernel, out, **attrs)
    dy, rest = f32(x[0], *w[:2], out), lowered(attrs)
    check(local2d, f32(*x), f32(*w), **attrs)
    check(local2d_input_grad, dy, f32(*w), image=x[1:3], **rest)
    check(local2d_weight_grad, f32(*x), dy, kernel=kernel, **rest)


@pytest.mark.parametrize("x,size,stride,padding", POOLS.values(), ids=POOLS)
def test_pools(x, size, stride, padding):
    """Bit for bit; also where values are equal, or not a number."""
    where, rest = {"size": size, "stride": stride}, {"low": (padding[0][0], padding[1][0])}
    values = f32(*x)
    for change in (lambda a: a, np.round, lambda a: np.where(a > 0.9, np.nan, a).astype(np.float32)):
        image = change(values)
        dy = f32(*check(max_pool2d, image, tolerance=0, padding=padding, **where).shape)
        check(max_pool2d_grad, image, dy, tolerance=0, **where, **rest)
        check(sum_pool2d, image, tolerance=0, padding=padding, **where)
    check(sum_pool2d_grad, dy, tolerance=0, image=x[1:3], **where, **rest)
    if x[1] > 2:
        check(max_pool2d_grad, values, dy, tolerance=0, inside=((1, x[1] - 1), (0, x[2])), **where, **rest)


@pytest.mark.parametrize(
    "values,shape,axis,rows",
    [
        ((50, 3), (50,), 0, {"size": 9}),
        ((4, 5, 7), (4, 5), 0, {"size": 9}),
        ((3, 11, 2), (11,), 1, {"size": 9}),
        ((6, 1), (6,), 0, {"size": 4, "base": 3, "whole": 9}),
        ((0, 3), (0,), 0, {"size": 9}),
        ((2, 0), (2,), 0, {"size": 9}),
    ],
)
def test_sums_by_index(values, shape, axis, rows):
    """Bit for bit, with what is not finite or very small, and indices of both types."""
    given, at = f32(*values), i64(*shape, low=0, high=9)
    for special in (1.0, np.nan, -np.inf, 1e-42, -0.0):
        if given.size:
            given.flat[given.size // 2] = special
        for indices in (at, at.astype(np.int32)):
            check(scatter_add, given, indices, tolerance=0, axis=axis, **rows)
    check(scatter_add, np.ones((7, 9), np.float32)[:, ::3], i64(7, low=0, high=9), tolerance=0, size=9)


def test_an_index_that_is_none_is_told():
    values, out = f32(3, 2), np.zeros((4, 2), np.float32)
    attrs = scatter_add(values, i64(3), size=4).attrs
    for wrong in (-1, 4):
        for call in native_calls(scatter_add, (values, np.array([0, wrong, 1]), out), attrs, 2):
            with pytest.raises(DataError, match=f"index {wrong}"):
                call()
    assert not out.any()


def test_random_shapes():
    """Sizes, strides, dilations, groups and paddings that nobody chose."""
    draw = rng("shapes")
    for _ in range(40):
        kernel, stride, dilation = (tuple(int(n) for n in draw.integers(1, top, 2)) for top in (5, 4, 3))
        groups = int(draw.choice([1, 1, 1, 2, 3]))
        per_group, per_out = (int(n) for n in draw.integers(1, 21, 2))
        padding = tuple((int(a), int(b)) for a, b in draw.integers(-1, 4, (2, 2)))
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        sizes = [max(1, s - sum(p)) + int(draw.integers(0, 9)) for s, p in zip(spans, padding, strict=True)]
        x, w = (int(draw.integers(1, 5)), *sizes, per_group * groups), (*kernel, per_group, per_out * groups)
        test_convolutions(x, w, {"stride": stride, "dilation": dilation, "groups": groups, "padding": padding})


def test_numbers_that_are_not_finite_and_very_small_ones():
    x, w, dy = f32(2, 6, 6, 3), f32(3, 3, 3, 11), f32(2, 6, 6, 11)
    attrs = {"padding": EVEN}
    for bad in (np.nan, np.inf, -np.inf, 1e-42):
        for a in (x, dy):
            a[1, 2, 3, 1] = bad
        got = check(conv2d, x, w, **attrs)
        assert np.isfinite(got[0]).all()
        check(conv2d_input_grad, dy, w, image=(6, 6), low=(1, 1))
        check(conv2d_weight_grad, x, dy, kernel=(3, 3), low=(1, 1))
        v = f32(4, 4, 3, 3, 3, 5)
        check(local2d, x, v)
        check(local2d_input_grad, dy[:, :4, :4, :5].copy(), v, image=(6, 6))
        check(local2d_weight_grad, x, dy[:, :4, :4, :5].copy(), kernel=(3, 3))
    tiny = np.full((1, 4, 4, 2), 1e-42, np.float32)
    assert (check(conv2d, tiny, np.ones((1, 1, 2, 3), np.float32)) > 0).all()


@pytest.mark.parametrize(
    "x,w", [((0, 4, 4, 2), (3, 3, 2, 3)), ((2, 4, 4, 0), (3, 3, 0, 3)), ((2, 4, 4, 2), (3, 3, 2, 0))]
)
def test_nothing_to_do(x, w):
    dy = np.zeros(out_shape(x, w), np.float32)
    check(conv2d, f32(*x), f32(*w))
    check(conv2d_input_grad, dy, f32(*w), image=x[1:3])
    check(conv2d_weight_grad, f32(*x), dy, kernel=w[:2])


def test_other_types_and_strided_arrays_take_the_plain_kernel():
    x, w = f32(2, 6, 5, 4), f32(3, 3, 4, 5)
    check(conv2d, x.astype(np.float64), w.astype(np.float64), tolerance=1e-12)
    check(conv2d, x[:, ::-1, ::2], w[..., ::-1])
    out = np.empty((2, 4, 3, 10), np.float32)[..., ::2]
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    for call in native_calls(conv2d, (x, w, out), attrs, 2):
        call()
    want = np.empty(out.shape, np.float32)
    conv2d.cpu(x, w, want, **attrs)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)


def test_pieces_share_the_work():
    x, w = f32(8, 8, 8, 4), f32(3, 3, 4, 64)
    node = conv2d(x, w)
    dy = f32(*node.shape)
    for op, arrays, attrs in [
        (conv2d, (x, w), node.attrs),
        (conv2d_weight_grad, (x, dy), conv2d_weight_grad(x, dy, kernel=(3, 3)).attrs),
        (conv2d_input_grad, (dy, w), conv2d_input_grad(dy, w, image=(8, 8)).attrs),
    ]:
        made = op(*arrays, **attrs)
        assert len(native_calls(op, (*arrays, empty(made.type)), attrs, 3)) == 3


def test_tiles_fit_the_registers():
    for features, registers in [
        ("+avx,+avx2,+fma,+avx512f", 32),
        ("+avx,+avx2,+fma,-avx512f", 16),
        ("+sse2,-avx,-avx512f", 16),
        ("+neon", 32),
        ("", 16),
    ]:
        shape = shape_for(features)
        assert shape.wide * 2 + 2 + 1 <= registers and shape.narrow + 2 <= registers
    assert shape_for("+avx2,+avx,+fma") == Shape(8, 6, 8)
