"""The networks that the demos train.

Each gives two graphs over the same variables: with `training` the loss, with dropout and noise on the way to it;
without, the output "log_probabilities". Their numbers were found by experiment on the data that ships with the package.
"""

from __future__ import annotations

from rainshed.engine import init, layers
from rainshed.engine.graph import graph
from rainshed.engine.optimizers import Adagrad
from rainshed.ops.elementwise import relu
from rainshed.ops.ir import Graph, Node, scope
from rainshed.ops.random import random_normal
from rainshed.ops.reduce import mean
from rainshed.ops.softmax import log_softmax
from rainshed.ops.softmax_cross_entropy import softmax_cross_entropy
from rainshed.ops.source import input

__all__ = ["digits", "speech", "speech_lstm"]


def digits(training: bool = True, rate: float = 0.02) -> Graph:
    """Locally connected layers over digits of 8 x 8: with image and classes, five layers of values as in the paper.

    Inputs   image: f32[B, 8, 8, 1]; label: i32[B]
    Outputs  loss, or log_probabilities: f32[B, 10]
    Source   Dean et al. 2012, figure 1
    """
    h = input("image", (None, 8, 8, 1))
    for filters in (8, 16, 32):  # on 6 x 6, 4 x 4 and 2 x 2 positions
        h = layers.local2d(h, filters, 3, activation=relu, init=init.he_normal)
    return _classifier(_flat(h), 10, training, rate)


def speech(training: bool = True, frames: int = 11, units: int = 256, rate: float = 0.02) -> Graph:
    """Fully connected layers over windows of frames.

    Inputs   window: f32[B, frames, 12]; label: i32[B]
    Outputs  loss, or log_probabilities: f32[B, 9]
    Source   Dean et al. 2012, section 5, where it is 11 frames of 40 features, 4 x 2560 sigmoids and 8192 classes
    """
    h = _flat(input("window", (None, frames, 12)))
    for _ in range(2):
        h = layers.dense(h, units, activation=relu, init=init.he_normal)
        h = layers.dropout(h, 0.5, training=training)
    return _classifier(h, 9, training, rate)


def speech_lstm(training: bool = True, frames: int = 11, units: int = 64, rate: float = 0.03) -> Graph:
    """The same with an LSTM over the frames in place of the fully connected layers; in training with noisy inputs."""
    shape = (None, frames, 12)
    window = input("window", shape)
    if training:
        with scope("noise"):
            window = window + random_normal(shape, name="noise", std=0.6)
    h = layers.dropout(layers.lstm(window, units), 0.5, training=training)
    return _classifier(h, 9, training, rate)


def _flat(h: Node) -> Node:
    with scope("flatten"):
        return layers.flatten(h)


def _classifier(h: Node, classes: int, training: bool, rate: float) -> Graph:
    logits = layers.dense(h, classes, name="softmax")
    if not training:
        return graph(outputs={"log_probabilities": log_softmax(logits)})
    with scope("loss"):
        loss = mean(softmax_cross_entropy(logits, input("label", (None,), "int32")))
    return graph(loss=loss, optimizer=Adagrad(rate, epsilon=1e-7))
