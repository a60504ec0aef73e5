"""The networks that the partitioner is measured on, each as a graph with a loss and a known batch.

Another network is one more row of NETS: a name, and a function without arguments that gives such a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from onnx.backend.test import data

import rainshed as rs
import rainshed.onnx
from rainshed.ops.ir import Graph, Node


def local3(batch: int = 1) -> Graph:
    """Three stages of locally connected filters, pooling and local contrast normalisation over 96 x 96 positions.

    Source  the image network of Dean et al. 2012, section 5, whose sizes the paper does not give
    """
    h = rs.input("image", (None, 96, 96, 3))
    for _ in range(3):
        h = rs.layers.local2d(h, 8, 5, padding="same", bias=False, activation=rs.abs)
        h = rs.layers.max_pool2d(h, 2)
        h = _contrast(h, 5)
    return rs.graph(loss=rs.mean(h * h)).bind(batch=batch)


def _contrast(x: Node, size: int) -> Node:
    """Local contrast normalisation: each value less the mean around it, over the deviation around it."""
    centred = x - rs.layers.avg_pool2d(x, size, stride=1, padding="same")
    return centred / rs.sqrt(rs.layers.avg_pool2d(centred * centred, size, stride=1, padding="same") + 1e-3)


def speech42(batch: int = 128) -> Graph:
    """The fully connected network of 42 million parameters: 440, 4 x 2560, 8192. Source: Dean et al. 2012, section 5."""
    h = rs.input("window", (None, 440))
    for _ in range(4):
        h = rs.layers.dense(h, 2560, activation=rs.sigmoid, bias=False)
    return _classified(rs.layers.dense(h, 8192, bias=False), batch)


def lstm(batch: int = 32, layers: int = 4, steps: int = 12, units: int = 768) -> Graph:
    """LSTM layers over a short sequence."""
    h = rs.layers.lstm(rs.input("sequence", (None, steps, units)), units, layers=layers)
    return _classified(rs.layers.dense(h, 48), batch)


def conv(batch: int = 4) -> Graph:
    """Convolutions of 3 x 3 in pairs over 96, 48 and 24 positions, then one fully connected layer."""
    h = rs.input("image", (None, 96, 96, 3))
    for filters in (48, 96, 192):
        for _ in range(2):
            h = rs.layers.conv2d(h, filters, 3, bias=False, activation=rs.relu)
        h = rs.layers.max_pool2d(h, 2)
    return _classified(rs.layers.dense(rs.layers.flatten(h), 48, bias=False), batch)


def _classified(logits: Node, batch: int) -> Graph:
    label = rs.input("label", (None,), "int32")
    return rs.graph(loss=rs.mean(rs.softmax_cross_entropy(logits, label))).bind(batch=batch)


def shipped(name: str, batch: int = 4) -> Graph:
    """A network of the onnx wheel, with the mean square of its scores as the loss. Needs the extra [onnx]."""
    model = rs.onnx.load(Path(next(iter(data.__path__))) / "light" / f"light_{name}.onnx", batch=batch)
    return rs.graph(loss=rs.mean(rs.square(next(iter(model.outputs.values())))))


NETS: Mapping[str, Callable[[], Graph]] = {
    "local3": local3,
    "speech42": speech42,
    "lstm": lstm,
    "conv": conv,
    "resnet50": partial(shipped, "resnet50"),
    "densenet121": partial(shipped, "densenet121"),
}
