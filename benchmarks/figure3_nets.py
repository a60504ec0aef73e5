"""The four networks of figure 3 of the DistBelief paper, and the speed-ups that the figure shows.

The speech network is given exactly in the paper. Of the image networks it gives the number of parameters (80 million, 330 million,
1.7 billion), the input (100 x 100 pixels), three stages of filters, pooling and local contrast normalisation, patches of 10 x 10,
8 to 36 filters on each patch, weights that are not shared, and 21 thousand logistic outputs. All else is chosen here so that the
number of parameters is met within 5 %; every image network ends with 12 x 12 positions, the finest grid of the figure.

Source  Dean et al. 2012, sections 3 and 5; the points were read off the vector paths of the figure, +-1 machine, +-0.05
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import rainshed as rs
from benchmarks.nets import speech42
from rainshed.ops.ir import Graph, Node

SIDE, CHANNELS, PATCH, CLASSES = 100, 3, 10, 21_000
CONTRAST = 5  # side of the window of the local contrast normalisation
RATE = 0.01


@dataclass(frozen=True, slots=True)
class Images:
    """maps: filters on each patch. pools: side and step, per stage. Filters and pools of step 1 keep the size (zeros around)."""

    maps: int
    pools: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

    def graph(self, batch: int) -> Graph:
        """One step of simple SGD on so many images."""
        h = rs.input("image", (None, SIDE, SIDE, CHANNELS))
        for i, (size, stride) in enumerate(self.pools):
            with rs.scope(f"stage{i}"):
                h = rs.layers.local2d(h, self.maps, PATCH, padding="same", bias=False, activation=rs.abs)
                h = rs.layers.max_pool2d(h, size, stride=stride, padding="same" if stride == 1 else "valid")
                h = _contrast(h)
        logits = rs.layers.dense(rs.layers.flatten(h), CLASSES, bias=False, name="output")
        label = rs.input("label", (None, CLASSES))
        loss = rs.mean(rs.sigmoid_cross_entropy(logits, label))
        return rs.graph(loss=loss, optimizer=rs.SGD(RATE)).bind(batch=batch)


def _contrast(x: Node) -> Node:
    """Each value less the mean around it, over the deviation around it."""
    centred = x - rs.layers.avg_pool2d(x, CONTRAST, stride=1, padding="same")
    return centred / rs.sqrt(rs.layers.avg_pool2d(centred * centred, CONTRAST, stride=1, padding="same") + 1e-3)


def _speech(batch: int) -> Graph:
    return replace(speech42(batch), rule=rs.SGD(RATE).rule())


@dataclass(frozen=True, slots=True)
class Network:
    """One curve of the figure.

    parameters  as the paper says
    paper       machines -> speed-up; at those of `clipped` the curve leaves the figure, and has no marker
    by_hand     which plans a person would make (benchmarks/handmade.py)
    machines    how many machines are simulated: as in the paper, and 81 and 144 that it speaks of
    """

    graph: Callable[[int], Graph]
    parameters: float
    paper: Mapping[int, float]
    clipped: tuple[int, ...] = ()
    by_hand: tuple[str, ...] = ("blocks", "layers")
    machines: tuple[int, ...] = (1, 2, 4, 8, 16, 36, 64, 81, 100, 144)


NETWORKS: Mapping[str, Network] = {
    "speech 42M": Network(
        _speech,
        42e6,
        {1: 1.0, 2: 1.36, 4: 1.85, 8: 2.23, 16: 0.95, 32: 1.36, 64: 1.41, 128: 1.15},
        by_hand=("columns", "grids", "layers"),
        machines=(1, 2, 4, 8, 16, 32, 64, 81, 100, 144),
    ),
    "images 80M": Network(
        Images(8, ((2, 2), (3, 1), (4, 4))).graph,
        80e6,
        {1: 1.0, 2: 1.12, 4: 1.46, 8: 2.23, 16: 2.39, 36: 3.09, 64: 4.58, 100: 5.10, 128: 5.79},
        clipped=(128,),
    ),
    "images 330M": Network(
        Images(20, ((2, 2), (3, 1), (4, 4))).graph,
        330e6,
        {1: 1.0, 2: 1.49, 4: 2.23, 8: 3.78, 16: 4.71, 36: 6.29, 64: 7.01, 100: 11.09, 128: 12.14},
        clipped=(128,),
    ),
    "images 1.7B": Network(
        Images(35, ((3, 1), (2, 2), (4, 4))).graph,
        1.7e9,
        {1: 1.0, 2: 1.13, 4: 2.20, 8: 3.36, 16: 4.65, 36: 5.61, 64: 9.94, 100: 12.38, 128: 13.22},
        clipped=(128,),
    ),
}


def parameters(graph: Graph) -> int:
    return sum(node.tensor_type.size for node in graph.variables.values())
