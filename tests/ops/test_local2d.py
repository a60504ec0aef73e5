"""local2d and its gradients against loops; cutting it along height moves borders of images, and no weights."""

import numpy as np
import pytest
from laws import check_op, check_tiles_split, f64

from rainshed.ops.errors import ShapeError
from rainshed.ops.gradient import gradients
from rainshed.ops.local2d import local2d, local2d_input_grad, local2d_weight_grad, local2d_weight_step
from rainshed.ops.native import native_calls
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.source import input, variable

CASES = {
    "plain": ((2, 6, 5, 3), (3, 2), 4, {}),
    "one by one": ((2, 4, 3, 3), (1, 1), 2, {}),
    "kernel is image": ((2, 4, 3, 2), (4, 3), 3, {}),
    "one image": ((1, 5, 5, 1), (3, 3), 2, {"padding": ((1, 1), (1, 1))}),
    "stride": ((2, 7, 8, 2), (3, 3), 3, {"stride": (2, 3)}),
    "stride past the kernel": ((2, 8, 7, 2), (1, 2), 3, {"stride": (3, 3)}),
    "uneven padding": ((1, 5, 4, 2), (3, 2), 2, {"padding": ((2, 0), (1, 3)), "stride": (2, 1)}),
    "wide padding": ((1, 2, 3, 1), (2, 1), 2, {"padding": ((3, 3), (2, 2))}),
}


def weight_shape(x, kernel, out, stride=(1, 1), padding=((0, 0), (0, 0))):
    counts = [(x[k + 1] + sum(padding[k]) - kernel[k]) // stride[k] + 1 for k in (0, 1)]
    return (*counts, *kernel, x[3], out)


def each_product(x, w, stride=(1, 1), padding=((0, 0), (0, 0))):
    """Every (input index, weight index, output index) whose product the layer adds up."""
    for b, i, j, p, q, c, o in np.ndindex(x[0], *w):
        row, column = i * stride[0] - padding[0][0] + p, j * stride[1] - padding[1][0] + q
        if 0 <= row < x[1] and 0 <= column < x[2]:
            yield (b, row, column, c), (i, j, p, q, c, o), (b, i, j, o)


@pytest.mark.parametrize("x,kernel,out,attrs", CASES.values(), ids=CASES)
def test_local2d(x, kernel, out, attrs):
    w = weight_shape(x, kernel, out, **attrs)

    def slow(x, w):
        y = np.zeros((x.shape[0], *w.shape[:2], out))
        for i, k, o in each_product(x.shape, w.shape, **attrs):
            y[o] += x[i] * w[k]
        return y

    check_op(local2d, f64(*x), f64(*w), reference=slow, **attrs)


@pytest.mark.parametrize("x,kernel,out,attrs", CASES.values(), ids=CASES)
def test_gradients(x, kernel, out, attrs):
    w = weight_shape(x, kernel, out, **attrs)
    dy = f64(x[0], *w[:2], out)

    def to_x(dy, w):
        dx = np.zeros(x)
        for i, k, o in each_product(x, w.shape, **attrs):
            dx[i] += dy[o] * w[k]
        return dx

    def to_w(x, dy):
        dw = np.zeros(w)
        for i, k, o in each_product(x.shape, w, **attrs):
            dw[k] += dy[o] * x[i]
        return dw

    padding = attrs.get("padding", ((0, 0), (0, 0)))
    rest = {"stride": attrs.get("stride", 1), "low": (padding[0][0], padding[1][0])}
    check_op(local2d_input_grad, dy, f64(*w), reference=to_x, image=x[1:3], **rest)
    check_op(local2d_weight_grad, f64(*x), dy, reference=to_w, kernel=kernel, **rest)

    def moved(x, dy, old):
        return old - 0.25 * to_w(x, dy)

    check_op(
        local2d_weight_step, f64(*x), dy, f64(*w), reference=moved, gradient=False, kernel=kernel, alpha=-0.25, **rest
    )


@pytest.mark.parametrize("name", ["stride", "uneven padding", "wide padding"])
def test_tiles_can_be_cut_again(name):
    x, kernel, out, attrs = CASES[name]
    w = weight_shape(x, kernel, out, **attrs)
    dy, padding = f64(x[0], *w[:2], out), attrs.get("padding", ((0, 0), (0, 0)))
    rest = {"stride": attrs.get("stride", 1), "low": (padding[0][0], padding[1][0])}
    check_tiles_split(local2d, f64(*x), f64(*w), **attrs)
    check_tiles_split(local2d_input_grad, dy, f64(*w), image=x[1:3], **rest)
    check_tiles_split(local2d_weight_grad, f64(*x), dy, kernel=kernel, **rest)
    check_tiles_split(local2d_weight_step, f64(*x), dy, f64(*w), kernel=kernel, alpha=0.5, **rest)


@pytest.mark.parametrize("name", ["stride", "uneven padding", "wide padding"])
@pytest.mark.parametrize("pieces", [1, 2, 50])
def test_a_step_may_be_written_over_the_weights(name, pieces):
    x, kernel, out, attrs = CASES[name]
    shape = weight_shape(x, kernel, out, **attrs)
    x, dy, w = (f64(*s).astype(np.float32) for s in (x, (x[0], *shape[:2], out), shape))
    padding = attrs.get("padding", ((0, 0), (0, 0)))
    rest = {"kernel": kernel, "stride": attrs.get("stride", (1, 1)), "low": (padding[0][0], padding[1][0])}
    gradient, expected = np.empty(shape, np.float32), np.full(shape, np.nan, np.float32)
    local2d_weight_grad.cpu(x, dy, gradient, **rest)
    local2d_weight_step.cpu(x, dy, w, expected, alpha=-2.0, **rest)
    np.testing.assert_allclose(expected, w - 2 * gradient, rtol=1e-5, atol=1e-5)
    apart = np.full(shape, np.nan, np.float32)
    for target in (apart, w):
        for call in native_calls(local2d_weight_step, (x, dy, w, target), {"alpha": -2.0, **rest}, pieces):
            call()
        np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-5)


def test_many_bands_equal_one():
    x, w = f64(16, 20, 20, 8), f64(16, 16, 5, 5, 8, 2)

    def by_position(x, w):
        y = np.zeros((16, 16, 16, 2))
        for i, j in np.ndindex(16, 16):
            y[:, i, j] = np.tensordot(x[:, i : i + 5, j : j + 5], w[i, j], 3)
        return y

    check_op(local2d, x, w, reference=by_position, gradient=False)


def test_a_spatial_cut_moves_no_weights():
    node = local2d(input("x", (8, 12, 12, 2)), input("w", (10, 10, 3, 3, 2, 4)))
    upper, lower = (((0, 8), rows, (0, 10), (0, 4), (0, 2)) for rows in ((0, 5), (5, 10)))
    shapes = ((8, 12, 12, 2), (10, 10, 3, 3, 2, 4))
    (x_up, w_up), (x_low, w_low) = node.access.regions(upper, shapes), node.access.regions(lower, shapes)
    assert (x_up[1], x_low[1]) == ((0, 7), (5, 12))
    assert (w_up[0], w_low[0]) == ((0, 5), (5, 10))


def test_the_batch_may_be_unknown():
    x, w = input("x", (None, 6, 6, 2)), variable("w", (4, 4, 3, 3, 2, 5))
    y = local2d(x, w)
    assert str(y.type) == "f32[B, 4, 4, 5]"
    dx, dw = gradients(sum_(y), [x, w])
    assert dx.type == x.type and dw.type == w.type


@pytest.mark.parametrize(
    "x,w,text",
    [
        ((2, 5, 5, 3), (3, 3, 3, 1), "w has the axes"),
        ((2, 5, 5, 3), (4, 3, 3, 3, 3, 1), "3 x 3 windows lie on x"),
        ((2, 5, 5, 3), (3, 3, 3, 3, 2, 1), "x has 3 channels, w takes 2"),
        ((5, 5, 3), (3, 3, 3, 3, 3, 1), "x has the axes"),
    ],
)
def test_wrong_arguments(x, w, text):
    with pytest.raises(ShapeError, match=text):
        local2d(input("x", x), input("w", w))
