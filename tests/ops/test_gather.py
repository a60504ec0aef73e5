"""take, take_along_axis, one_hot and the sums that are their gradients."""

import numpy as np
import pytest
from laws import boolean, check_op, check_tiles_split, f32, f64, i32, i64

from rainshed.ops.access import boxes
from rainshed.ops.errors import DataError, DTypeError, RainshedError
from rainshed.ops.evaluate import evaluate, evaluate_nodes
from rainshed.ops.gather import embedding, one_hot, scatter_add, scatter_add_along_axis, take, take_along_axis
from rainshed.ops.gradient import gradients
from rainshed.ops.ir import Graph
from rainshed.ops.native import native_calls
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.scatter_step import scatter_step
from rainshed.ops.source import input
from rainshed.ops.types import Batch


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,)], ids=str)
def test_take(shape, axis):
    indices = i64(*shape, low=0, high=3)
    check_op(take, f64(3, 4, 3), indices, axis=axis, reference=lambda x, i: np.take(x, i, axis))


def test_take_of_other_types():
    check_op(take, f32(7), i32(5, low=0, high=7), reference=np.take)
    check_op(take, boolean(3, 4), i32(5, low=0, high=3), axis=0, reference=lambda x, i: np.take(x, i, 0))
    check_op(embedding, f64(6, 3), i64(2, 5, low=0, high=6), reference=lambda table, ids: table[ids])


def added(values, indices, axis, size):
    shape = [*values.shape[:axis], size, *values.shape[axis + indices.ndim :]]
    out = np.zeros(shape, values.dtype)
    for at in np.ndindex(*indices.shape):
        out[(*[slice(None)] * axis, indices[at])] += values[(*[slice(None)] * axis, *at)]
    return out


@pytest.mark.parametrize(
    "values,shape,axis",
    [
        ((5, 3), (5,), 0),
        ((3, 5), (5,), 1),
        ((2, 3, 4), (2, 3), 0),
        ((4, 2, 3, 2), (2, 3), 1),
        ((3, 2), (), 1),
        ((0, 3), (0,), 0),
    ],
)
def test_scatter_add(values, shape, axis):
    indices = i64(*shape, low=0, high=6)
    check_op(scatter_add, f64(*values), indices, axis=axis, size=6, reference=lambda v, i: added(v, i, axis, 6))


def test_scatter_add_of_many_rows_in_chunks(monkeypatch):
    indices = i64(500, low=0, high=7)
    check_op(scatter_add, f64(500, 3), indices, size=7, reference=lambda v, i: added(v, i, 0, 7), gradient=False)
    monkeypatch.setattr("rainshed.ops.gather.CHUNK", 16)
    check_op(scatter_add, f64(500, 3), indices, size=7, reference=lambda v, i: added(v, i, 0, 7), gradient=False)


@pytest.mark.parametrize("axis,shape", [(0, (5, 4)), (1, (3, 6)), (-1, (3, 1)), (0, (0, 4))])
def test_take_along_axis(axis, shape):
    indices = i64(*shape, low=0, high=3)
    check_op(take_along_axis, f64(3, 4), indices, axis=axis, reference=lambda x, i: np.take_along_axis(x, i, axis))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scatter_add_along_axis(axis):
    def reference(values, indices):
        shape = list(values.shape)
        shape[axis] = 5
        out = np.zeros(shape)
        for at in np.ndindex(*indices.shape):
            to = list(at)
            to[axis] = indices[at]
            out[tuple(to)] += values[at]
        return out

    indices = i64(3, 4, 2, low=0, high=5)
    check_op(scatter_add_along_axis, f64(3, 4, 2), indices, axis=axis, size=5, reference=reference)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "bool"])
def test_one_hot(dtype):
    for shape in ((5,), (2, 3), (), (0,)):
        check_op(
            one_hot, i64(*shape, low=0, high=4), depth=4, dtype=dtype, reference=lambda i: np.eye(4, dtype=dtype)[i]
        )


@pytest.mark.parametrize("bad", [-1, 3, 2**40])
@pytest.mark.parametrize(
    "build",
    [
        lambda i: take(input("x", (3, 2)), i, axis=0),
        lambda i: take_along_axis(input("x", (3,)), i, axis=0),
        lambda i: scatter_add(input("y", (2, 4)), i, size=3),
        lambda i: scatter_add_along_axis(input("z", (2,)), i, size=3),
        lambda i: one_hot(i, 3),
    ],
)
def test_indices_outside_are_refused(build, bad):
    node = build(input("i", (2,), "int64"))
    feeds = {"x": f32(3, 2) if node.op is take else f32(3), "y": f32(2, 4), "z": f32(2), "i": np.array([0, bad])}
    with pytest.raises(DataError, match=f"index {bad} at \\[1\\] is not one of the 3 positions") as caught:
        evaluate_nodes([node], feeds)
    assert "test_gather.py" in caught.value.detail["built at"]


def test_a_tile_of_the_rows_checks_against_all_of_them():
    node = scatter_add(input("y", (2, 4)), input("i", (2,), "int64"), size=6)
    box = boxes(node.access, (2, 1, 1))[1]
    assert node.op.tile_attrs(node, box)["base"] == 3
    tile = node.op.make(node.inputs, node.op.tile_attrs(node, box))
    (got,) = evaluate_nodes([tile], {"y": f32(2, 4), "i": np.array([1, 5])})
    np.testing.assert_array_equal(got, np.stack([np.zeros(4), np.zeros(4), f32(2, 4)[1]]).astype(np.float32))
    with pytest.raises(DataError, match="6 positions"):
        evaluate_nodes([tile], {"y": f32(2, 4), "i": np.array([1, 6])})


def test_the_batch_axis_stays_free():
    table, ids = input("t", (5, 3)), input("i", (None, 2), "int64")
    y = embedding(table, ids)
    assert y.shape == (Batch(), 2, 3) and one_hot(ids, 4).shape == (Batch(), 2, 4)
    x = input("x", (None, 3))
    first = take(x, input("j", (2,), "int64"), axis=0)
    loss = sum_(y * y) + sum_(first * first)
    graph = Graph({"dt": gradients(loss, [table])[0], "dx": gradients(loss, [x])[0]}).bind(batch=4)
    feeds = {"t": f32(5, 3), "i": i64(4, 2, low=0, high=5), "x": f32(4, 3), "j": np.array([3, 3])}
    got, _ = evaluate(graph, feeds)
    counts = np.bincount(feeds["i"].ravel(), minlength=5)
    np.testing.assert_allclose(got["dt"], 2 * feeds["t"] * counts[:, None], rtol=1e-6)
    np.testing.assert_allclose(got["dx"], feeds["x"] * [[0], [0], [0], [4]], rtol=1e-6)


X = input("x", (3, 4))
IDS = input("i", (3,), "int64")


@pytest.mark.parametrize(
    "build,text",
    [
        (lambda: take(X, IDS), "takes one axis"),
        (lambda: take(X, IDS, axis=2), "no axis 2"),
        (lambda: take(X, X, axis=0), "int32 or int64"),
        (lambda: take_along_axis(X, IDS), "differ in more than axis 1"),
        (lambda: scatter_add(X, IDS, axis=1, size=5), "do not have the axes"),
        (lambda: scatter_add(X, IDS, size=-1), "a size is a whole number"),
        (lambda: scatter_add(X, IDS, size=3, base=1), "needs `whole`"),
        (lambda: scatter_add(X, IDS, size=3, base=1, whole=3), "not among 3"),
        (lambda: scatter_add_along_axis(X, IDS, size=3), "do not have the shape"),
        (lambda: one_hot(X, 3), "int32 or int64"),
        (lambda: one_hot(IDS, 2.5), "a size is a whole number"),
    ],
)
def test_errors(build, text):
    with pytest.raises(RainshedError, match=text) as caught:
        build()
    assert "test_gather.py" in caught.value.detail["built at"]


def test_bools_cannot_be_added_up():
    with pytest.raises(DTypeError):
        scatter_add(input("b", (3, 4), "bool"), IDS, size=3)


@pytest.mark.parametrize("shape", [(7,), (3, 4), (0,)])
@pytest.mark.parametrize("dtype", [f32, f64])
def test_a_step_of_the_rows_that_were_taken(shape, dtype):
    def stepped(values, indices, w):
        found = w.copy()
        np.add.at(found, indices.reshape(-1), -0.25 * values.reshape(-1, 3))
        return found

    operands = dtype(*shape, 3), i64(*shape, low=0, high=5), dtype(5, 3)
    check_op(scatter_step, *operands, size=5, alpha=-0.25, reference=stepped, gradient=False)
    check_tiles_split(scatter_step, *operands, size=5, alpha=0.5)


def test_a_step_over_the_table_itself_in_pieces():
    values, indices, w = f32(40, 6), i64(40, low=0, high=9), f32(9, 6)
    attrs = {"axis": 0, "size": 9, "base": 0, "whole": None, "alpha": -2.0}
    want, own = np.empty_like(w), w.copy()
    scatter_step.cpu(values, indices, w, want, **attrs)
    for pieces in (1, 3):
        for target in (own.copy(), np.full_like(w, np.nan)):
            source = w if np.isnan(target).any() else target
            for call in native_calls(scatter_step, (values, indices, source, target), attrs, pieces):
                call()
            np.testing.assert_array_equal(target, want)
