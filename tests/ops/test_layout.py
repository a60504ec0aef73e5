"""permute_dims, flip, concat, and what is built from them, against NumPy."""

import numpy as np
import pytest
from laws import boolean, check_op, f32, f64, i64

from rainshed.ops import layout
from rainshed.ops.errors import DTypeError, RainshedError, ShapeError
from rainshed.ops.evaluate import evaluate, evaluate_nodes
from rainshed.ops.gradient import gradients
from rainshed.ops.ir import Graph
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.source import constant, input
from rainshed.ops.types import Batch


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (-1, 0, 1), (0, 2, 1)])
def test_permute_dims(axes):
    check_op(layout.permute_dims, f64(3, 4, 2), axes=axes, reference=lambda x: np.transpose(x, axes))


def test_permute_dims_of_a_number():
    check_op(layout.permute_dims, f64(), axes=(), reference=lambda x: x)


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)])
def test_flip(axis):
    check_op(layout.flip, f64(3, 4, 5), axis=axis, reference=lambda x: np.flip(x, axis))


@pytest.mark.parametrize("axis", [0, 1, -1, None])
def test_concat(axis):
    shapes = [(3, 4), (3, 4), (3, 4)]
    if axis is not None:
        shapes[1] = (5, 4) if axis == 0 else (3, 2)
    check_op(
        lambda *v: layout.concat(v, axis), *(f64(*s) for s in shapes), reference=lambda *v: np.concatenate(v, axis=axis)
    )


def test_concat_of_one_of_none_and_of_other_types():
    check_op(layout.concat_op, f64(3, 4), axis=0, reference=lambda x: x)
    check_op(layout.concat_op, f64(3, 4), f64(0, 4), axis=0, reference=lambda x, y: x)
    check_op(layout.concat_op, f32(3, 4), f64(2, 4), reference=lambda x, y: np.concatenate([x, y]), gradient=False)
    check_op(layout.concat_op, boolean(3, 4), boolean(2, 4), reference=lambda x, y: np.concatenate([x, y]))


def test_concat_along_the_batch_axis():
    x, y = input("x", (None, 2)), input("y", (None, 2))
    both = layout.concat([x, y])
    assert both.shape == (Batch(2), 2)
    graph = Graph({"both": both, "dy": gradients(sum_(both * both), [y])[0]}).bind(batch=3)
    got, _ = evaluate(graph, {"x": f32(3, 2), "y": -f32(3, 2)})
    np.testing.assert_array_equal(got["both"], np.concatenate([f32(3, 2), -f32(3, 2)]))
    np.testing.assert_array_equal(got["dy"], -2 * f32(3, 2))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_stack(axis):
    check_op(lambda *v: layout.stack(v, axis), f64(3, 4), f64(3, 4), reference=lambda *v: np.stack(v, axis))


@pytest.mark.parametrize("parts,axis", [(2, 0), (4, 0), (3, 1), (1, 1), ([1, 3], 0), ([2, 2], 1), ([], 0)])
def test_split(parts, axis):
    x = f64(4, 3)
    nodes = layout.split(input("x", x.shape, x.dtype), parts, axis)
    expected = np.split(x, parts, axis)
    assert len(nodes) == len(expected)
    for value, want in zip(evaluate_nodes(nodes, {"x": x}), expected, strict=True):
        np.testing.assert_array_equal(value, want)


def test_split_of_the_batch_axis():
    x = layout.concat([input("x", (None, 2))] * 2)
    assert [part.shape for part in layout.split(x, 2)] == [(Batch(), 2)] * 2


def test_unstack():
    x = f64(4, 3)
    nodes = layout.unstack(input("x", x.shape, x.dtype), -1)
    for value, want in zip(evaluate_nodes(nodes, {"x": x}), x.T, strict=True):
        np.testing.assert_array_equal(value, want)


@pytest.mark.parametrize("shift,axis", [(1, 0), (-2, 1), (7, 1), (0, 0), (3, None), ((1, -1), (0, 1)), (2, (0, 1))])
def test_roll(shift, axis):
    check_op(layout.roll, f64(3, 4), shift=shift, axis=axis, reference=lambda x: np.roll(x, shift, axis))


@pytest.mark.parametrize("repeats,axis", [(2, 0), (3, -1), (1, 0), (0, 1), (2, None)])
def test_repeat(repeats, axis):
    check_op(layout.repeat, f64(3, 4), repeats=repeats, axis=axis, reference=lambda x: np.repeat(x, repeats, axis))


@pytest.mark.parametrize("reps", [2, (2, 3), (2, 1, 3), (1,), (), (0, 2)])
def test_tile(reps):
    check_op(layout.tile, f64(3, 4), reps=reps, reference=lambda x: np.tile(x, reps))


@pytest.mark.parametrize("source,destination", [(0, 2), (2, 0), (-1, 1), ((0, 1), (1, 2)), ((2, 0), (0, 1))])
def test_moveaxis(source, destination):
    check_op(
        lambda x: layout.moveaxis(x, source, destination),
        f64(2, 3, 4),
        reference=lambda x: np.moveaxis(x, source, destination),
    )


@pytest.mark.parametrize("k", [0, 1, -2, 5])
@pytest.mark.parametrize("name", ["tril", "triu"])
def test_triangle(name, k):
    check_op(getattr(layout, name), f64(2, 3, 4), k=k, reference=lambda x: getattr(np, name)(x, k))
    check_op(getattr(layout, name), i64(3, 3), k=k, reference=lambda x: getattr(np, name)(x, k))


def test_the_batch_axis_stays_free():
    x = input("x", (None, 3))
    assert layout.permute_dims(x, axes=(1, 0)).shape == (3, Batch())
    assert layout.flip(x).shape == (Batch(), 3)
    assert layout.stack([x, x], 1).shape == (Batch(), 2, 3)
    assert layout.repeat(x, 2, 0).shape == (Batch(2), 3)
    assert layout.tile(x, (2, 2)).shape == (Batch(2), 6)
    got, _ = evaluate(Graph({"y": layout.tile(x, (2, 2)), "z": layout.flip(x, axis=0)}).bind(batch=4), {"x": f32(4, 3)})
    np.testing.assert_array_equal(got["y"], np.tile(f32(4, 3), (2, 2)))
    np.testing.assert_array_equal(got["z"], f32(4, 3)[::-1])


X = input("x", (3, 4))
BATCH = input("b", (None, 4))


@pytest.mark.parametrize(
    "build,text",
    [
        (lambda: layout.permute_dims(X, axes=(0, 0)), "each of 2 axes once"),
        (lambda: layout.permute_dims(X, axes=(0,)), "must hold 2"),
        (lambda: layout.permute_dims(X, axes=(0, 2)), "each of 2 axes once"),
        (lambda: layout.flip(X, axis=2), "no axis 2"),
        (lambda: layout.concat([X, input("y", (3, 5))]), "differ in more than axis 0"),
        (lambda: layout.concat([X, input("y", (3,))]), "differ in more than axis 0"),
        (lambda: layout.concat([X, BATCH]), "meets one of known length"),
        (lambda: layout.concat([X, X], axis=2), "no axis 2"),
        (lambda: layout.concat([]), "at least 1 inputs"),
        (lambda: layout.stack([X, input("y", (3, 5))]), "differ in shape"),
        (lambda: layout.split(X, 2), "equal parts"),
        (lambda: layout.split(X, [2, 1]), "must rise"),
        (lambda: layout.split(BATCH, [1]), "batch axis"),
        (lambda: layout.unstack(BATCH), "not known yet"),
        (lambda: layout.roll(BATCH, 1, 0), "not known yet"),
        (lambda: layout.roll(X, (1, 2), 0), "2 shifts for 1 axes"),
        (lambda: layout.repeat(X, -1, 0), "whole number"),
        (lambda: layout.moveaxis(X, (0, 0), (0, 1)), "named twice"),
        (lambda: layout.tril(input("v", (3,))), "takes matrices"),
    ],
)
def test_errors(build, text):
    with pytest.raises(RainshedError, match=text) as caught:
        build()
    assert "test_layout.py" in caught.value.detail["built at"]


def test_kinds_do_not_mix():
    with pytest.raises(DTypeError):
        layout.concat([constant(f32(2)), constant(i64(2))])
    with pytest.raises(ShapeError):
        layout.concat([constant(f32(2)), constant(f32(2))], axis=(0, 1))
