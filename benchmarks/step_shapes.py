"""Twelve further networks of `step.py`, in shapes that users have: wide, thin, one example at a time, no training, and others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

import rainshed as rs
from benchmarks.step_nets import Arrays, Net, drawn, loss_of
from rainshed.ops.ir import Node

Sizes = Mapping[str, int]
HEADS = 4
DEPTHS: Mapping[str, int] = MappingProxyType({"wide": 1, "thin": 24, "single": 2, "inference": 3, "logistic": 0})


def _labels() -> Node:
    return rs.input("labels", (None,), "int64")


def _stack(net: str, s: Sizes) -> Node:
    h = rs.input("x", (None, s["features"]))
    for _ in range(DEPTHS[net]):
        h = rs.layers.dense(h, s["units"], activation=rs.relu)
    return rs.layers.dense(h, s["classes"])


def _classifier(net: str) -> Callable[[Sizes], Node]:
    return lambda s: loss_of(_stack(net, s), _labels())


def _inference(s: Sizes) -> Node:
    return rs.mean(rs.square(_stack("inference", s)))


def _image(s: Sizes) -> Node:
    return rs.input("x", (None, s["edge"], s["edge"], s["channels"]))


def _scored(h: Node, s: Sizes) -> Node:
    """The loss of a linear classifier on the mean of all positions."""
    return loss_of(rs.layers.dense(rs.mean(h, axis=(1, 2)), s["classes"]), _labels())


def _strided(s: Sizes) -> Node:
    h = _image(s)
    for times, size in ((1, 7), (2, 3), (4, 3)):
        h = rs.layers.conv2d(h, times * s["filters"], size, stride=2, padding=size // 2, activation=rs.relu)
    return _scored(h, s)


def _separable(s: Sizes) -> Node:
    h = _image(s)
    for times, stride in ((2, 1), (4, 2), (4, 1)):
        channels = int(h.shape[-1] or 0)
        h = rs.layers.conv2d(h, channels, 3, stride=stride, padding=1, groups=channels, activation=rs.relu)
        h = rs.layers.conv2d(h, times * s["channels"], 1, activation=rs.relu)
    return _scored(h, s)


def _residual(s: Sizes) -> Node:
    h = _image(s)
    for _ in range(2):
        inner = h
        for last in (False, True):
            inner = rs.layers.conv2d(inner, s["channels"], 3, bias=False)
            inner, _ = rs.layers.batch_norm(inner, training=True)
            inner = inner if last else rs.relu(inner)
        h = rs.relu(h + inner)
    return _scored(h, s)


def _words(s: Sizes) -> Node:
    ids = rs.input("x", (None, s["length"]), "int64")
    h = rs.mean(rs.layers.embedding(ids, s["words"], s["units"]), axis=1)
    h = rs.layers.dense(h, 2 * s["units"], activation=rs.relu)
    return loss_of(rs.layers.dense(h, s["classes"]), _labels())


def _attention(s: Sizes) -> Node:
    """A block of a transformer, and the mean of its tokens classified."""
    length, width = s["length"], s["units"]
    x = rs.input("x", (None, length, width))
    split = (x.shape[0], length, HEADS, width // HEADS)
    h = rs.layers.layer_norm(x, name="norm")
    q, k, v = (rs.permute_dims(rs.reshape(rs.layers.dense(h, width, name=name), split), (0, 2, 1, 3)) for name in "qkv")
    shares = rs.softmax(rs.matmul(q, rs.matrix_transpose(k)) * (width // HEADS) ** -0.5, axis=-1)
    mixed = rs.reshape(rs.permute_dims(rs.matmul(shares, v), (0, 2, 1, 3)), (x.shape[0], length, width))
    x = x + rs.layers.dense(mixed, width, name="mixed")
    h = rs.layers.dense(rs.layers.layer_norm(x, name="norm2"), 4 * width, activation=rs.relu, name="up")
    x = x + rs.layers.dense(h, width, name="down")
    return loss_of(rs.layers.dense(rs.mean(x, axis=1), s["classes"], name="score"), _labels())


def _autoencoder(s: Sizes) -> Node:
    x = h = rs.input("x", (None, s["features"]))
    for units in (s["units"], s["units"] // 4, s["units"]):
        h = rs.layers.dense(h, units, activation=rs.relu)
    return rs.mean(rs.square(rs.layers.dense(h, s["features"]) - x))


def _gru(s: Sizes) -> Node:
    h = rs.layers.gru(rs.input("x", (None, s["length"], s["features"])), s["units"])
    return loss_of(rs.layers.dense(h, s["classes"]), _labels())


# -- batches ----------------------------------------------------------------------------------------------------------
def _vectors(random: np.random.Generator, s: Sizes) -> Arrays:
    return drawn(random, (s["batch"], s["features"]), (s["batch"],), s["classes"])


def _mostly_zero(random: np.random.Generator, s: Sizes) -> Arrays:
    arrays = _vectors(random, s)
    return {**arrays, "x": np.where(random.random(arrays["x"].shape) < 0.02, arrays["x"], 0).astype(np.float32)}


def _only_x(random: np.random.Generator, s: Sizes) -> Arrays:
    return {"x": random.standard_normal((s["batch"], s["features"]), np.float32)}


def _images(random: np.random.Generator, s: Sizes) -> Arrays:
    return drawn(random, (s["batch"], s["edge"], s["edge"], s["channels"]), (s["batch"],), s["classes"])


def _ids(random: np.random.Generator, s: Sizes) -> Arrays:
    ids = random.integers(0, s["words"], (s["batch"], s["length"]))
    return {"x": ids, "labels": random.integers(0, s["classes"], s["batch"])}


def _sequences(axis: str) -> Callable[[np.random.Generator, Sizes], Arrays]:
    return lambda random, s: drawn(random, (s["batch"], s["length"], s[axis]), (s["batch"],), s["classes"])


def _sizes(**sizes: int) -> Sizes:
    return MappingProxyType(sizes)


SMALL = _sizes(batch=3, features=6, units=8, classes=3)
SMALL_IMAGES = _sizes(batch=2, edge=8, channels=4, filters=4, classes=3)
SMALL_SEQUENCES = _sizes(batch=2, length=3, units=8, words=9, features=5, classes=3)

SHAPES: Mapping[str, Net] = {
    "wide": Net(_sizes(batch=16, features=1024, units=8192, classes=10), SMALL, _classifier("wide"), _vectors),
    "thin": Net(_sizes(batch=32, features=32, units=32, classes=10), SMALL, _classifier("thin"), _vectors),
    "single": Net(_sizes(batch=1, features=784, units=512, classes=10), SMALL, _classifier("single"), _vectors),
    "inference": Net(_sizes(batch=64, features=784, units=1024, classes=10), SMALL, _inference, _only_x, trains=False),
    "strided": Net(_sizes(batch=16, edge=64, channels=3, filters=32, classes=10), SMALL_IMAGES, _strided, _images),
    "separable": Net(_sizes(batch=16, edge=32, channels=32, classes=10), SMALL_IMAGES, _separable, _images),
    "residual": Net(_sizes(batch=32, edge=16, channels=64, classes=10), SMALL_IMAGES, _residual, _images),
    "words": Net(_sizes(batch=64, length=32, words=20000, units=64, classes=20), SMALL_SEQUENCES, _words, _ids),
    "attention": Net(
        _sizes(batch=8, length=64, units=128, classes=10), SMALL_SEQUENCES, _attention, _sequences("units")
    ),
    "autoencoder": Net(_sizes(batch=128, features=784, units=256, classes=1), SMALL, _autoencoder, _only_x),
    "logistic": Net(_sizes(batch=256, features=10000, classes=2), SMALL, _classifier("logistic"), _mostly_zero),
    "gru": Net(
        _sizes(batch=1, length=30, features=64, units=128, classes=10), SMALL_SEQUENCES, _gru, _sequences("features")
    ),
}
