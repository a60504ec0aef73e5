"""The networks that the demos train. The programs in examples/ write the same ones out as a user would."""

from __future__ import annotations

from rainshed.engine import init, layers
from rainshed.engine.graph import graph
from rainshed.engine.optimizers import Adagrad, Optimizer
from rainshed.engine.standard import mean
from rainshed.ops.elementwise import relu, sigmoid
from rainshed.ops.ir import Graph, Node
from rainshed.ops.softmax import log_softmax
from rainshed.ops.softmax_cross_entropy import softmax_cross_entropy
from rainshed.ops.source import input

__all__ = ["digits", "speech", "speech_lstm"]


def digits(filters: int = 8, optimizer: Optimizer | None = None) -> Graph:
    """Five layers, four of them locally connected, over images of 8 x 8 in 10 classes.

    Inputs   image: f32[B, 8, 8, 1]; label: i32[B]
    Outputs  loss; log_probabilities: f32[B, 10]
    Source   Dean et al. 2012, figure 1
    """
    h = input("image", (None, 8, 8, 1))
    for width, stride in ((filters, 1), (filters, 1), (2 * filters, 2), (2 * filters, 1)):
        h = layers.local2d(h, width, 3, stride=stride, padding="same", activation=relu)
    return _classifier(layers.dense(layers.flatten(h), 10), optimizer or Adagrad(0.05))


def speech(
    frames: int = 11,
    features: int = 12,
    hidden: tuple[int, ...] = (256, 256),
    classes: int = 9,
    optimizer: Optimizer | None = None,
) -> Graph:
    """Fully connected sigmoid layers and a softmax, over windows of frames.

    Inputs   window: f32[B, frames, features]; label: i32[B]
    Outputs  loss; log_probabilities: f32[B, classes]
    Source   Dean et al. 2012, section 5, where it is 11 frames of 40 features, hidden (2560,) * 4 and 8192 classes
    """
    h = layers.flatten(input("window", (None, frames, features)))
    for units in hidden:
        # Sigmoid layers want weights about four times larger than tanh layers do: Glorot and Bengio 2010.
        h = layers.dense(h, units, activation=sigmoid, init=init.scaled(init.glorot_uniform, 4))
    return _classifier(layers.dense(h, classes, name="softmax"), optimizer or Adagrad(0.03))


def speech_lstm(
    frames: int = 11, features: int = 12, units: int = 64, classes: int = 9, optimizer: Optimizer | None = None
) -> Graph:
    """The same with one LSTM layer over the frames in place of the fully connected ones."""
    h = layers.lstm(input("window", (None, frames, features)), units)
    return _classifier(layers.dense(h, classes, name="softmax"), optimizer or Adagrad(0.03))


def _classifier(logits: Node, optimizer: Optimizer) -> Graph:
    label = input("label", (None,), "int32")
    return graph(
        loss=mean(softmax_cross_entropy(logits, label)),
        outputs={"log_probabilities": log_softmax(logits)},
        optimizer=optimizer,
    )
