"""Which part of its inputs a part of an op's result needs: the one model behind split rules, halos and byte counts.

An op is a loop nest over iteration axes. Some index the result ("join": tiles cut along them are put side by side), some
are reduced away ("sum": tiles cut along them give partial results that `combine` adds up), and some must stay "whole".
Each axis of each operand is reached by an affine window of one iteration axis. Cutting the nest into boxes therefore gives, by
arithmetic alone, the exact region of each input that each tile needs, and so the exact bytes that must move.

Source  the affine cut of Tofu's tensor description language (Wang et al., EuroSys 2019, section 4)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Literal

import msgspec
import numpy as np

Interval = tuple[int, int]  # [low, high)
Box = tuple[Interval, ...]  # one interval per axis
Role = Literal["join", "sum", "whole"]


# Compared and hashed for every node and tile of a plan: structs do that some ten times faster than dataclasses.
class Axis(msgspec.Struct, frozen=True, cache_hash=True):
    """One axis of the loop nest. Cuts fall on multiples of `step` only."""

    name: str
    size: int
    role: Role = "join"
    step: int = 1

    @property
    def max_parts(self) -> int:
        """Into how many parts this axis can be cut at most."""
        return 1 if self.role == "whole" else max(1, self.size // self.step)


class Reach(msgspec.Struct, frozen=True, cache_hash=True):
    """How one operand axis follows one iteration axis.

    Iteration index i touches the operand's indices floor((scale*i + low) / per) to floor((scale*i + high) / per), both
    included; what falls outside the operand is clipped (padding). `axis=None`: the whole operand axis is needed.
    """

    axis: int | None
    scale: int = 1
    low: int = 0
    high: int = 0
    per: int = 1

    def interval(self, box: Box, size: int) -> Interval:
        """The operand interval, clipped to [0, size), that the iteration box touches."""
        if self.axis is None:
            return 0, size
        first, last = box[self.axis]
        if first >= last:
            return 0, 0
        ends = (self.scale * first, self.scale * (last - 1))
        start = (min(ends) + self.low) // self.per
        stop = (max(ends) + self.high) // self.per + 1
        start, stop = max(0, start), min(size, stop)
        return (start, stop) if start < stop else (min(start, size), min(start, size))


WHOLE = Reach(None)


class Access(msgspec.Struct, frozen=True, cache_hash=True):
    """The index signature of one node: axes of its loop nest, and how each operand axis follows them."""

    axes: tuple[Axis, ...]
    inputs: tuple[tuple[Reach, ...], ...]
    output: tuple[Reach, ...]
    combine: str | None = None  # the op that joins partial results; None where no axis has the role "sum"

    def regions(self, box: Box, shapes: tuple[tuple[int, ...], ...]) -> tuple[Box, ...]:
        """For each input, the region that the iteration box needs."""
        return tuple(
            tuple(reach.interval(box, size) for reach, size in zip(reaches, shape, strict=True))
            for reaches, shape in zip(self.inputs, shapes, strict=True)
        )

    def result(self, box: Box, shape: tuple[int, ...]) -> Box:
        """The region of the result that the iteration box computes (wholly, or as one partial)."""
        return tuple(reach.interval(box, size) for reach, size in zip(self.output, shape, strict=True))

    @property
    def full(self) -> Box:
        return tuple((0, axis.size) for axis in self.axes)


def unsplittable(input_shapes: tuple[tuple[int, ...], ...], output_shape: tuple[int, ...]) -> Access:
    """The access of an op about which nothing is known: one tile, all of each input."""
    return Access(
        axes=(),
        inputs=tuple(tuple(WHOLE for _ in shape) for shape in input_shapes),
        output=tuple(WHOLE for _ in output_shape),
    )


def cuts(axis: Axis, parts: int) -> tuple[Interval, ...]:
    """The axis in `parts` intervals as even as its step allows, all non-empty, in order."""
    units = -(-axis.size // axis.step)
    parts = max(1, min(parts, units))
    edges = [min(axis.size, (units * i // parts) * axis.step) for i in range(parts + 1)]
    return tuple(pairwise(edges))


def boxes(access: Access, grid: tuple[int, ...]) -> tuple[Box, ...]:
    """The tiles of the loop nest under a grid of parts per axis, in row-major order."""
    return tuple(product(*(cuts(axis, parts) for axis, parts in zip(access.axes, grid, strict=True))))


def box_shape(box: Box) -> tuple[int, ...]:
    return tuple(high - low for low, high in box)


def box_size(box: Box) -> int:
    total = 1
    for low, high in box:
        total *= max(0, high - low)
    return total


def whole(shape: tuple[int, ...]) -> Box:
    return tuple((0, size) for size in shape)


def intersect(a: Box, b: Box) -> Box | None:
    """The common part of two boxes of the same rank, or None if it is empty."""
    out = tuple((max(x[0], y[0]), min(x[1], y[1])) for x, y in zip(a, b, strict=True))
    return out if all(low < high for low, high in out) else None


def within(inner: Box, outer: Box) -> Box:
    """`inner` in coordinates that start at `outer`'s lower corner."""
    return tuple((low - base, high - base) for (low, high), (base, _) in zip(inner, outer, strict=True))


def cover_fault(shape: tuple[int, ...], boxes: Sequence[Box]) -> str:
    """What is wrong with boxes inside a shape that should cover each of its elements once; "" if nothing."""
    ends = np.array(boxes, np.int64).reshape(len(boxes), len(shape), 2)
    low, high = ends[..., 0], ends[..., 1]
    for start in range(0, len(boxes), 256):  # all pairs, but not all at once: a file may name very many
        rows = slice(start, start + 256)
        common = np.minimum(high[rows, None], high[None]) - np.maximum(low[rows, None], low[None])
        clash = np.argwhere(np.triu((common > 0).all(-1), 1 + start))
        if len(clash):
            return f"boxes {boxes[start + clash[0, 0]]} and {boxes[clash[0, 1]]} overlap"
    covered, total = sum(map(box_size, boxes)), math.prod(shape)
    return "" if covered == total else f"the boxes cover {covered} of the {total} elements of {list(shape)}"
