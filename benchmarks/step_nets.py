"""The networks of `step.py`, as a user writes them, with their batches; all trained by SGD in the graph.

The peers in `step_torch.py` and `step_jax.py` build the same networks from the same first weights, which they find under the
names of our variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

import rainshed as rs
from rainshed.ops.ir import Graph, Node

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Net:
    """One workload: from sizes to its loss. `sizes` are those of the table, `smoke` those of a quick trial run.

    sizes  name -> number; "batch" among them
    build  sizes -> loss, over the inputs x and labels
    draw   (random generator, sizes) -> the arrays to feed
    trains  whether a step is one of SGD; else it gives the value of what `build` makes, and no more
    """

    sizes: Mapping[str, int]
    smoke: Mapping[str, int]
    build: Callable[[Mapping[str, int]], Node]
    draw: Callable[[np.random.Generator, Mapping[str, int]], Arrays]
    trains: bool = True

    def graph(self, sizes: Mapping[str, int], rate: float) -> Graph:
        if not self.trains:
            return rs.graph(outputs={"loss": self.build(sizes)}).bind(batch=sizes["batch"])
        return rs.graph(loss=self.build(sizes), optimizer=rs.SGD(rate)).bind(batch=sizes["batch"])


def loss_of(logits: Node, labels: Node) -> Node:
    """The mean cross-entropy."""
    return rs.mean(rs.softmax_cross_entropy(logits, labels))


def _speech(s: Mapping[str, int]) -> Node:
    h = rs.input("x", (None, s["window"]))
    for _ in range(4):
        h = rs.layers.dense(h, s["units"], activation=rs.sigmoid)
    return loss_of(rs.layers.dense(h, s["classes"]), rs.input("labels", (None,), "int64"))


def _mlp(s: Mapping[str, int]) -> Node:
    h = rs.input("x", (None, s["features"]))
    for _ in range(2):
        h = rs.layers.dense(h, s["units"], activation=rs.relu)
    return loss_of(rs.layers.dense(h, s["classes"]), rs.input("labels", (None,), "int64"))


def _convnet(s: Mapping[str, int]) -> Node:
    h = rs.input("x", (None, s["edge"], s["edge"], 3))
    for filters, size in ((s["filters"], 5), (2 * s["filters"], 5), (2 * s["filters"], 3)):
        h = rs.layers.max_pool2d(rs.layers.conv2d(h, filters, size, activation=rs.relu), 2)
    h = rs.layers.dense(rs.layers.flatten(h), s["units"], activation=rs.relu)
    return loss_of(rs.layers.dense(h, s["classes"]), rs.input("labels", (None,), "int64"))


def _lstm(s: Mapping[str, int]) -> Node:
    x = rs.input("x", (None, s["steps"], s["features"]))
    h = rs.layers.lstm(x, s["units"], layers=2, return_sequences=True)
    return loss_of(rs.layers.dense(h, s["classes"]), rs.input("labels", (None, s["steps"]), "int64"))


def _local(s: Mapping[str, int]) -> Node:
    x = rs.input("x", (None, s["edge"], s["edge"], 3))
    h = rs.layers.max_pool2d(rs.layers.local2d(x, s["filters"], s["field"], activation=rs.tanh), 2)
    return loss_of(rs.layers.dense(rs.layers.flatten(h), s["classes"]), rs.input("labels", (None,), "int64"))


def _vectors(name: str) -> Callable[[np.random.Generator, Mapping[str, int]], Arrays]:
    return lambda random, s: drawn(random, (s["batch"], s[name]), (s["batch"],), s["classes"])


def _images(random: np.random.Generator, s: Mapping[str, int]) -> Arrays:
    return drawn(random, (s["batch"], s["edge"], s["edge"], 3), (s["batch"],), s["classes"])


def _frames(random: np.random.Generator, s: Mapping[str, int]) -> Arrays:
    frames = (s["batch"], s["steps"])
    return drawn(random, (*frames, s["features"]), frames, s["classes"])


def drawn(random: np.random.Generator, shape: tuple[int, ...], labelled: tuple[int, ...], classes: int) -> Arrays:
    """A batch x of this shape, with labels."""
    return {"x": random.standard_normal(shape, np.float32), "labels": random.integers(0, classes, labelled)}


NETS: Mapping[str, Net] = {
    "speech": Net(
        {"batch": 128, "window": 440, "units": 2560, "classes": 8192},
        {"batch": 4, "window": 10, "units": 12, "classes": 8},
        _speech,
        _vectors("window"),
    ),
    "mlp": Net(
        {"batch": 64, "features": 64, "units": 128, "classes": 10},
        {"batch": 4, "features": 6, "units": 8, "classes": 3},
        _mlp,
        _vectors("features"),
    ),
    "convnet": Net(
        {"batch": 64, "edge": 32, "filters": 32, "units": 256, "classes": 10},
        {"batch": 2, "edge": 8, "filters": 2, "units": 6, "classes": 3},
        _convnet,
        _images,
    ),
    "lstm": Net(
        {"batch": 32, "steps": 20, "features": 40, "units": 512, "classes": 64},
        {"batch": 2, "steps": 3, "features": 4, "units": 5, "classes": 3},
        _lstm,
        _frames,
    ),
    "local": Net(
        {"batch": 16, "edge": 32, "field": 10, "filters": 8, "classes": 100},
        {"batch": 2, "edge": 9, "field": 4, "filters": 2, "classes": 3},
        _local,
        _images,
    ),
}
