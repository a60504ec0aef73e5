"""Pipelining: the batch of every op in several slices, so that a stage works on one while the next stage has the one before.

Source  Huang et al., GPipe, NeurIPS 2019: stages that work on slices of the batch in turn
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rainshed.compiler.layouts import Layout, tiles
from rainshed.ops.access import Access, cuts
from rainshed.ops.ir import Node
from rainshed.ops.types import TensorType


def batch_axes(nodes: Iterable[Node]) -> dict[Node, int]:
    """The axis of each node's loop nest that runs over examples, where its result has such an axis too.

    Examples lie along the first axis of every input. What sums over them (the gradient of a weight) is not listed: it is
    computed once, of the whole batch, since sums of its parts would move all of it through memory again and again.
    """
    found: dict[Node, int] = {}
    along: dict[Node, int] = {}  # the axis of a value
    for node in nodes:
        if not isinstance(node.type, TensorType):
            continue
        if node.op.name == "input":
            if node.type.shape:
                along[node] = 0
            continue
        axis = _followed(node, along)
        if axis is None or node.access.axes[axis].role != "join":
            continue
        for d, reach in enumerate(node.access.output):
            if reach.axis == axis:
                found[node], along[node] = axis, d
                break
    return found


def _followed(node: Node, along: dict[Node, int]) -> int | None:
    for value, reaches in zip(node.inputs, node.access.inputs, strict=True):
        if value in along and along[value] < len(reaches):
            reach = reaches[along[value]]
            if reach.axis is not None and (reach.scale, reach.low, reach.high, reach.per) == (1, 0, 0, 1):
                return reach.axis
    return None


def sliced(access: Access, layout: Layout, axis: int, slices: int) -> Layout:
    """A layout with every tile cut along the batch, the slices where the tile was; as it is if the batch is cut already."""
    slices = min(slices, access.axes[axis].max_parts)
    if layout.grid[axis] > 1 or slices == 1:
        return layout
    grid = tuple(slices if a == axis else n for a, n in enumerate(layout.grid))
    if layout.cut is None:
        homes = np.repeat(np.array(layout.homes).reshape(layout.grid), slices, axis=axis)
        return Layout(grid, tuple(homes.ravel().tolist()))
    parts = cuts(access.axes[axis], slices)
    cut = [(*box[:axis], part, *box[axis + 1 :]) for box in tiles(access, layout) for part in parts]
    return Layout(grid, tuple(home for home in layout.homes for _ in parts), tuple(cut))
