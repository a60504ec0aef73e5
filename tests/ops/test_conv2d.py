"""conv2d and its gradients against loops: strides, paddings, dilations, groups, small and odd shapes."""

import numpy as np
import pytest
from laws import check_op, check_tiles_split, f32, f64

from rainshed.ops.conv2d import conv2d, conv2d_input_grad, conv2d_weight_grad
from rainshed.ops.errors import ShapeError
from rainshed.ops.evaluate import evaluate_nodes
from rainshed.ops.gradient import gradients
from rainshed.ops.ir import Graph
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.source import input, variable

# x, w, then the attributes with the padding in full
CASES = {
    "plain": ((2, 6, 5, 3), (3, 2, 3, 4), {}),
    "one by one": ((2, 4, 3, 3), (1, 1, 3, 2), {}),
    "kernel is image": ((2, 4, 3, 2), (4, 3, 2, 3), {}),
    "one image": ((1, 5, 5, 1), (3, 3, 1, 2), {"padding": ((1, 1), (1, 1))}),
    "stride": ((2, 7, 8, 2), (3, 3, 2, 3), {"stride": (2, 3)}),
    "stride past the kernel": ((2, 8, 7, 2), (1, 2, 2, 3), {"stride": (3, 3)}),
    "uneven padding": ((1, 5, 4, 2), (3, 2, 2, 2), {"padding": ((2, 0), (1, 3)), "stride": (2, 1)}),
    "wide padding": ((1, 2, 3, 1), (2, 1, 1, 2), {"padding": ((4, 3), (2, 2))}),
    "dilation": ((1, 8, 9, 2), (3, 2, 2, 2), {"dilation": (2, 3), "padding": ((1, 2), (0, 3))}),
    "dilation and stride": ((1, 9, 9, 1), (3, 3, 1, 2), {"dilation": (2, 2), "stride": (3, 2)}),
    "groups": ((2, 5, 4, 4), (3, 2, 2, 6), {"groups": 2, "padding": ((1, 1), (0, 1))}),
    "three groups": ((1, 4, 4, 3), (2, 2, 1, 6), {"groups": 3, "stride": (2, 2)}),
    "depthwise": ((2, 4, 4, 3), (3, 3, 1, 3), {"groups": 3, "padding": ((1, 1), (1, 1))}),
    "crop": ((1, 6, 6, 1), (2, 2, 1, 2), {"padding": ((-1, -1), (0, -2))}),
}


def each_product(x, w, dy, stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1):
    """Every (input index, weight index, output index) whose product a convolution adds up."""
    per_in, per_out = w[2], w[3] // groups
    for b, i, j, o, p, q, c in np.ndindex(*dy, *w[:3]):
        row = i * stride[0] - padding[0][0] + p * dilation[0]
        column = j * stride[1] - padding[1][0] + q * dilation[1]
        if 0 <= row < x[1] and 0 <= column < x[2]:
            yield (b, row, column, o // per_out * per_in + c), (p, q, c, o), (b, i, j, o)


def out_shape(x, w, stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1):
    sizes = [(x[k + 1] + sum(padding[k]) - (w[k] - 1) * dilation[k] - 1) // stride[k] + 1 for k in (0, 1)]
    return (x[0], *sizes, w[3])


def slow(x, w, **attrs):
    out = np.zeros(out_shape(x.shape, w.shape, **attrs))
    for i, k, o in each_product(x.shape, w.shape, out.shape, **attrs):
        out[o] += x[i] * w[k]
    return out


@pytest.mark.parametrize("x,w,attrs", CASES.values(), ids=CASES)
def test_conv2d(x, w, attrs):
    check_op(conv2d, f64(*x), f64(*w), reference=lambda x, w: slow(x, w, **attrs), **attrs)


@pytest.mark.parametrize("x,w,attrs", CASES.values(), ids=CASES)
def test_input_grad(x, w, attrs):
    def reference(dy, w):
        dx = np.zeros(x)
        for i, k, o in each_product(x, w.shape, dy.shape, **attrs):
            dx[i] += dy[o] * w[k]
        return dx

    dy = f64(*out_shape(x, w, **attrs))
    check_op(conv2d_input_grad, dy, f64(*w), reference=reference, image=x[1:3], **lowered(attrs))


@pytest.mark.parametrize("x,w,attrs", CASES.values(), ids=CASES)
def test_weight_grad(x, w, attrs):
    def reference(x, dy):
        dw = np.zeros(w)
        for i, k, o in each_product(x.shape, w, dy.shape, **attrs):
            dw[k] += dy[o] * x[i]
        return dw

    dy = f64(*out_shape(x, w, **attrs))
    check_op(conv2d_weight_grad, f64(*x), dy, reference=reference, kernel=w[:2], **lowered(attrs))


@pytest.mark.parametrize("name", ["uneven padding", "wide padding", "dilation and stride", "groups", "crop"])
def test_tiles_can_be_cut_again(name):
    x, w, attrs = CASES[name]
    dy = f64(*out_shape(x, w, **attrs))
    check_tiles_split(conv2d, f64(*x), f64(*w), **attrs)
    check_tiles_split(conv2d_input_grad, dy, f64(*w), image=x[1:3], **lowered(attrs))
    check_tiles_split(conv2d_weight_grad, f64(*x), dy, kernel=w[:2], **lowered(attrs))


def lowered(attrs):
    padding = attrs.get("padding", ((0, 0), (0, 0)))
    rest = {k: v for k, v in attrs.items() if k != "padding"}
    return {**rest, "low": (padding[0][0], padding[1][0])}


def test_same_padding():
    for size, stride in [(5, 1), (6, 2), (7, 3), (4, 3)]:
        node = conv2d(f64(1, size, size, 1), f64(3, 4, 1, 1), stride=stride, padding="same")
        assert node.shape == (1, -(-size // stride), -(-size // stride), 1)


def test_many_chunks_equal_one():
    x, w = f64(3, 24, 24, 16), f64(5, 5, 16, 4)
    check_op(conv2d, x, w, reference=by_shifts, gradient=False)


def by_shifts(x, w):
    h, v = x.shape[1] - w.shape[0] + 1, x.shape[2] - w.shape[1] + 1
    taps = np.ndindex(*w.shape[:2])
    return sum(x[:, p : p + h, q : q + v] @ w[p, q] for p, q in taps)


def test_two_float_types():
    check_op(conv2d, f32(1, 4, 4, 2), f64(2, 2, 2, 3), reference=slow, tolerance=1e-6, gradient=False)


def test_the_batch_may_be_unknown():
    x, w = input("x", (None, 6, 6, 2)), variable("w", (3, 3, 2, 4), init=0.5)
    y = conv2d(x, w, stride=2, padding="same")
    assert str(y.type) == "f32[B, 3, 3, 4]"
    dx, dw = gradients(sum_(y), [x, w])
    assert str(dx.type) == "f32[B, 6, 6, 2]" and str(dw.type) == "f32[3, 3, 2, 4]"
    bound = Graph({"dx": dx, "dw": dw}).bind(batch=2)
    got = evaluate_nodes(bound.roots, {"x": f32(2, 6, 6, 2)})
    assert [v.shape for v in got] == [(2, 6, 6, 2), (3, 3, 2, 4)]


def test_a_spatial_tile_needs_a_halo_only():
    access = conv2d(input("x", (4, 16, 16, 3)), input("w", (5, 5, 3, 8)), padding="same").access
    box = ((0, 4), (8, 16), (0, 16), (0, 8), (0, 3))
    assert access.regions(box, ((4, 16, 16, 3), (5, 5, 3, 8)))[0] == ((0, 4), (6, 16), (0, 16), (0, 3))


@pytest.mark.parametrize(
    "x,w,attrs,text",
    [
        ((2, 5, 5), (3, 3, 1, 1), {}, r"\[batch, height, width, channels\]"),
        ((2, 5, 5, 3), (3, 3, 3), {}, "kernel height"),
        ((2, 5, 5, 3), (3, 3, 4, 2), {}, "x has 3 channels, w takes 4"),
        ((2, 5, 5, 4), (3, 3, 2, 3), {"groups": 2}, "gives 3"),
        ((2, 5, 5, 3), (6, 3, 3, 2), {}, "a window of 6 does not fit the height 5"),
        ((2, 5, 5, 3), (3, 3, 3, 2), {"stride": 0}, "stride is a whole number"),
        ((2, 5, 5, 3), (3, 3, 3, 2), {"dilation": (1, 2, 3)}, "dilation is a whole number"),
        ((2, 5, 5, 3), (3, 3, 3, 2), {"groups": 0}, "groups is a whole number"),
        ((2, None, 5, 3), (3, 3, 3, 2), {}, "only the first axis"),
    ],
)
def test_wrong_arguments(x, w, attrs, text):
    with pytest.raises(ShapeError, match=text) as caught:
        conv2d(input("x", x), input("w", w), **attrs)
    assert "test_conv2d.py" in caught.value.detail["built at"]
