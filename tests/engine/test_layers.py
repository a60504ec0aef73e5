"""Layers: shapes, names, values against NumPy, gradients."""

from __future__ import annotations

import numpy as np
import pytest
from laws import check_gradient, f64, rng

import rainshed as rs
from rainshed.ops.errors import GraphError, ShapeError

L = rs.layers


def values_of(graph):
    """A value for each variable, in float64: random, so that no bias is 0."""
    return {name: rng(name, v.shape).uniform(-0.5, 0.5, v.shape) for name, v in graph.variables.items()}


def run(y, x, **more):
    graph = rs.graph(outputs={"y": y})
    values = values_of(graph)
    return rs.evaluate(graph, {"x": x, **more}, variables=values)["y"], values


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def input_like(array):
    return rs.input("x", (None, *array.shape[1:]), array.dtype)


# -- values -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_dense(shape):
    x = f64(*shape)
    got, v = run(L.dense(input_like(x), 5, activation=rs.tanh), x)
    np.testing.assert_allclose(got, np.tanh(x @ v["dense/w"] + v["dense/b"]))
    got, v = run(L.dense(input_like(x), 5, bias=False, name="out"), x)
    assert list(v) == ["out/w"]
    np.testing.assert_allclose(got, x @ v["out/w"])


def windows(x, size, stride, pad):
    """[batch, rows, columns, size, size, channels]"""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return np.moveaxis(view[:, ::stride, ::stride], 3, -1)


@pytest.mark.parametrize("stride,pad", [(1, 0), (2, 1)])
def test_conv2d_and_local2d(stride, pad):
    x = f64(2, 7, 6, 2)
    seen = windows(x, 3, stride, pad)
    y = L.conv2d(input_like(x), 4, 3, stride=stride, padding=pad, activation=rs.relu)
    got, v = run(y, x)
    want = np.einsum("bijpqc,pqco->bijo", seen, v["conv2d/w"]) + v["conv2d/b"]
    np.testing.assert_allclose(got, np.maximum(want, 0), atol=1e-12)
    y = L.local2d(input_like(x), 4, 3, stride=stride, padding=pad)
    got, v = run(y, x)
    np.testing.assert_allclose(got, np.einsum("bijpqc,ijpqco->bijo", seen, v["local2d/w"]) + v["local2d/b"], atol=1e-12)


def test_conv2d_in_groups():
    x = f64(2, 4, 4, 4)
    got, v = run(L.conv2d(input_like(x), 6, 1, groups=2, bias=False), x)
    assert v["conv2d/w"].shape == (1, 1, 2, 6)
    w = v["conv2d/w"][0, 0]
    np.testing.assert_allclose(got, np.concatenate([x[..., :2] @ w[:, :3], x[..., 2:] @ w[:, 3:]], -1), atol=1e-12)


def test_pools_and_norms():
    x = f64(2, 4, 4, 3)
    blocks = x.reshape(2, 2, 2, 2, 2, 3)
    np.testing.assert_allclose(run(L.max_pool2d(input_like(x), 2), x)[0], blocks.max((2, 4)))
    np.testing.assert_allclose(run(L.avg_pool2d(input_like(x), 2), x)[0], blocks.mean((2, 4)))
    got, _ = run(L.local_response_norm(input_like(x), size=1, alpha=1.0, beta=1.0, k=1.0), x)
    np.testing.assert_allclose(got, x / (1 + x * x))
    got, v = run(L.layer_norm(input_like(x), eps=1e-9), x)
    centred = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-9)
    np.testing.assert_allclose(got, centred * v["layer_norm/scale"] + v["layer_norm/shift"])
    np.testing.assert_allclose(run(L.flatten(input_like(x)), x)[0], x.reshape(2, -1))


def test_batch_norm():
    x = f64(6, 3)
    y, updates = L.batch_norm(input_like(x), training=True, momentum=0.75)
    graph = rs.graph(outputs={"y": y, **{f"new {n}": u for n, u in updates.items()}}, updates=updates)
    trained = [name for name, v in graph.variables.items() if v.attrs["trainable"]]
    assert sorted(trained) == ["batch_norm/scale", "batch_norm/shift"]
    got = rs.evaluate(graph, {"x": x})
    np.testing.assert_allclose(got["y"], (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5))
    np.testing.assert_allclose(got["new batch_norm/mean"], 0.25 * x.mean(0))
    np.testing.assert_allclose(got["new batch_norm/var"], 0.75 + 0.25 * x.var(0))
    y, updates = L.batch_norm(input_like(x), training=False)
    assert not updates
    np.testing.assert_allclose(run(y, x)[0].shape, x.shape)
    np.testing.assert_allclose(rs.evaluate(y, {"x": x}), x / np.sqrt(1 + 1e-5))


def test_embedding_and_dropout():
    ids = rs.input("ids", (None, 3), "int32")
    y = L.embedding(ids, 7, 4)
    assert str(y.type) == "f32[B, 3, 4]"
    graph = rs.graph(outputs={"y": y})
    table = f64(7, 4).astype(np.float32)
    got = rs.evaluate(graph, {"ids": [[1, 6, 0]]}, variables={"embedding/w": table})["y"]
    np.testing.assert_array_equal(got[0], table[[1, 6, 0]])
    x = rs.input("x", (None, 100))
    assert L.dropout(x, 0.5, training=False) is x
    both = rs.graph(outputs={"y": L.dropout(L.dropout(x, 0.5), 0.5)})  # named apart: two masks
    kept = rs.evaluate(both, {"x": np.ones((50, 100), np.float32)})["y"] > 0
    assert 0.2 < kept.mean() < 0.3


# -- recurrent --------------------------------------------------------------------------------------------------------
def lstm_reference(x, v, name, forget_bias=1.0):
    w, u, b = (v[f"{name}/{k}"] for k in "wub")
    h = c = np.zeros((x.shape[0], u.shape[-1]))
    states = []
    for t in range(x.shape[1]):
        i, f, g, o = x[:, t] @ w + h @ u + b
        c = sigmoid(f + forget_bias) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states, 1)


def gru_reference(x, v, name):
    w, u, b, bn = (v[f"{name}/{k}"] for k in ("w", "u", "b", "bn"))
    h = np.zeros((x.shape[0], u.shape[-1]))
    states = []
    for t in range(x.shape[1]):
        (r, z, n), (hr, hz, hn) = x[:, t] @ w + b, h @ u
        r, z = sigmoid(r + hr), sigmoid(z + hz)
        h = (1 - z) * np.tanh(n + r * (hn + bn)) + z * h
        states.append(h)
    return np.stack(states, 1)


@pytest.mark.parametrize("kind,reference", [("lstm", lstm_reference), ("gru", gru_reference)])
def test_recurrent(kind, reference):
    x = f64(3, 5, 4)
    make = getattr(L, kind)
    got, v = run(make(input_like(x), 6, return_sequences=True), x)
    np.testing.assert_allclose(got, reference(x, v, kind))
    got, v = run(make(input_like(x), 6), x)
    np.testing.assert_allclose(got, reference(x, v, kind)[:, -1])
    got, v = run(make(input_like(x), 2, layers=2, name="deep"), x)
    below = reference(x, v, "deep/0")
    np.testing.assert_allclose(got, reference(below, v, "deep/1")[:, -1])
    one = f64(3, 1, 4)
    got, v = run(make(input_like(one), 2), one)
    assert f"{kind}/u" not in v  # without a step before there is nothing to multiply
    unused = np.zeros((len(v[f"{kind}/w"]), 2, 2))
    np.testing.assert_allclose(got, reference(one, {**v, f"{kind}/u": unused}, kind)[:, -1])


def test_scopes_of_steps():
    y = L.lstm(rs.input("x", (None, 3, 2)), 4, layers=2)
    scopes = {node.origin.scope for node in rs.graph(outputs={"y": y}).nodes()}
    assert {"lstm/0/t0", "lstm/0/t2", "lstm/1/t1"} <= scopes


def test_deep_unrolling_does_not_recurse():
    """More steps than Python has stack frames, with gradients."""
    x = rs.input("x", (None, 150, 2))
    loss = rs.mean(L.gru(x, 2))
    graph = rs.graph(loss=loss)
    grads = rs.grad(loss, list(graph.variables.values()))
    values = rs.evaluate(grads, {"x": np.ones((1, 150, 2), np.float32)})
    assert all(np.isfinite(v).all() for v in values)


# -- gradients --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "build,shape",
    [
        (lambda x: L.dense(x, 3, activation=rs.sigmoid), (2, 4)),
        (lambda x: L.conv2d(x, 2, 3, stride=2), (2, 5, 5, 2)),
        (lambda x: L.local2d(x, 2, 2), (2, 4, 4, 2)),
        (lambda x: L.avg_pool2d(x, 2), (2, 4, 4, 2)),
        (lambda x: L.local_response_norm(x, size=3), (2, 3, 3, 4)),
        (lambda x: L.layer_norm(x), (3, 4)),
        (lambda x: L.batch_norm(x, training=True)[0], (5, 3)),
        (lambda x: L.lstm(x, 3, layers=2), (2, 4, 3)),
        (lambda x: L.gru(x, 3, return_sequences=True), (2, 4, 3)),
        (lambda x: L.dropout(x, 0.5), (3, 4)),
    ],
)
def test_gradient_for_the_input(build, shape):
    check_gradient(build, (f64(*shape),))


def test_gradient_for_the_weights():
    x = f64(2, 3, 2)
    check_gradient(lambda w, u, b: cell_by_hand(x, w, u, b), (f64(4, 2, 3), f64(4, 3, 3), f64(4, 1, 3)))


def cell_by_hand(x, w, u, b):
    """The LSTM layer, its variables replaced by the given nodes."""
    graph = rs.graph(outputs={"y": L.lstm(rs.constant(x), 3)})
    given = {"lstm/w": w, "lstm/u": u, "lstm/b": b}
    swapped = graph.rebuild(lambda node, ins: given[node.name] if node.name in given else node.with_inputs(ins))
    return swapped.outputs["y"]


# -- names and errors -------------------------------------------------------------------------------------------------
def build():
    x = rs.input("x", (None, 8))
    h = L.dense(L.dense(x, 4), 4)
    with rs.scope("tower"):
        h = L.dense(L.dense(h, 4), 4)
    return rs.graph(outputs={"y": L.dense(h, 2), "z": L.dense(h, 2, name="head")})


def test_names_are_the_same_on_every_call():
    names = [name for name in build().variables if name.endswith("/w")]
    assert names == ["dense/w", "dense_1/w", "tower/dense/w", "tower/dense_1/w", "dense_2/w", "head/w"]
    assert list(build().variables) == list(build().variables)


def test_layers_side_by_side_need_names():
    x = rs.input("x", (None, 8))
    with pytest.raises(GraphError, match="two variables have the name 'dense/w'") as caught:
        rs.graph(outputs={"y": L.dense(x, 4) + L.dense(x, 4)})
    assert "name='left'" in caught.value.detail["hint"]
    rs.graph(outputs={"y": L.dense(x, 4, name="left") + L.dense(x, 4, name="right")})


IMAGE = rs.input("image", (None, 8, 8, 3))
ROW = rs.input("row", (None, 8))


@pytest.mark.parametrize(
    "make",
    [
        lambda: L.dense(ROW, 0),
        lambda: L.dense(ROW, 2.5),
        lambda: L.dense(np.ones((2, 3)), 2),
        lambda: L.dense(rs.input("x", (3, None)), 2),
        lambda: L.dense(ROW, 2, name=""),
        lambda: L.dense(ROW, 2, init="glorot"),
        lambda: L.conv2d(ROW, 4, 3),
        lambda: L.conv2d(IMAGE, 4, 9, padding="valid"),
        lambda: L.conv2d(IMAGE, 4, 3, groups=2),
        lambda: L.conv2d(IMAGE, 4, (3, 3, 3)),
        lambda: L.local2d(IMAGE, 4, 9),
        lambda: L.local2d(ROW, 4, 3),
        lambda: L.local2d(IMAGE, 4, 3, padding="full"),
        lambda: L.max_pool2d(IMAGE, 0),
        lambda: L.batch_norm(ROW, training=True, momentum=1.0),
        lambda: L.dropout(ROW, 1.0),
        lambda: L.embedding(ROW, 3, 4),
        lambda: L.embedding(rs.input("i", (None,), "int64"), 0, 4),
        lambda: L.lstm(ROW, 4),
        lambda: L.lstm(rs.input("x", (2, None, 3)), 4),
        lambda: L.gru(rs.input("x", (2, 3, 4)), 4, layers=0),
        lambda: L.gru(rs.input("x", (2, 0, 4)), 4),
        lambda: L.flatten(rs.input("x", (2, None))),
    ],
)
def test_errors_name_the_users_line(make):
    with pytest.raises((GraphError, ShapeError)) as caught:
        make()
    assert caught.value.detail["built at"].endswith(f"test_layers.py:{make.__code__.co_firstlineno}")
