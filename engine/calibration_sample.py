"""The program on which kernels are measured: small and large pieces of every kind of work, forward, backward and updates."""

from __future__ import annotations

from rainshed.engine.graph import graph
from rainshed.engine.layers import conv2d, dense, flatten, local2d, max_pool2d
from rainshed.engine.optimizers import SGD
from rainshed.ops.elementwise import exp, relu, sqrt, square, tanh
from rainshed.ops.ir import Graph, Node
from rainshed.ops.layout import concat, permute_dims
from rainshed.ops.reduce import mean
from rainshed.ops.softmax_cross_entropy import softmax_cross_entropy
from rainshed.ops.source import input

# batch and size of each piece: from where the call is all to where it is nothing
DENSE = ((4, 16), (32, 128), (128, 512), (64, 1024), (256, 1024))
IMAGES = ((2, 8, 4), (8, 16, 8), (16, 24, 16), (8, 12, 48), (64, 28, 16))
LOCAL = ((4, 6, 2), (16, 8, 8), (32, 16, 8), (32, 8, 16), (64, 20, 16))


def sample_graph(sizes: int = 5) -> Graph:
    """One step of training of several small networks at once; of each kind, so many sizes."""
    losses = [_dense(f"dense{i}", *size) for i, size in enumerate(DENSE[:sizes])]
    losses += [_images(f"images{i}", *size) for i, size in enumerate(IMAGES[:sizes])]
    losses += [_local(f"local{i}", *size) for i, size in enumerate(LOCAL[:sizes])]
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return graph(loss=total, optimizer=SGD(0.01))


def _dense(name: str, batch: int, size: int) -> Node:
    x = input(f"{name}_x", (batch, size))
    label = input(f"{name}_label", (batch,), "int32")
    h = dense(x, size, activation=relu, name=f"{name}_1")
    half = size // 2
    h = concat([h[:, half:], h[:, :half]], axis=1)
    h = dense(h, size, activation=relu, name=f"{name}_2")
    h = h + 0.1 * tanh(h) + square(h) / (sqrt(square(h) + 1.0) + exp(-square(h)))
    return mean(softmax_cross_entropy(h, label))


def _images(name: str, batch: int, side: int, channels: int) -> Node:
    x = input(f"{name}_x", (batch, side, side, channels))
    h = conv2d(x, channels, 3, activation=relu, name=f"{name}_1")
    h = max_pool2d(h, 2)
    h = conv2d(h, channels + 8, 3, activation=relu, name=f"{name}_2")
    return mean(permute_dims(h, axes=(0, 3, 1, 2)))


def _local(name: str, batch: int, side: int, channels: int) -> Node:
    x = input(f"{name}_x", (batch, side, side, channels))
    h = local2d(x, channels, 3, padding="same", activation=relu, name=f"{name}_1")
    h = local2d(h, channels, 3, activation=relu, name=f"{name}_2")
    return mean(flatten(h))
