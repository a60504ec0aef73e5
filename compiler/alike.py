"""What passes that make very many nodes share: of nodes that are alike one is checked; equal questions are answered once.

A pass turns one node into hundreds of tiles that differ in nothing but where they are. Their types, attributes and costs are
worked out once, and so is which pieces of a value a region touches.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rainshed.compiler.layouts import Layout, Placed, regions_of, tiles
from rainshed.ops.access import Access, Box, intersect, within
from rainshed.ops.ir import Device, Node, Origin
from rainshed.ops.op import Op

FEW = 6  # pieces, up to which Python is faster than NumPy


class Maker:
    """Makes nodes by `Op.make`; those of one op with equal attributes on inputs of equal types are checked once."""

    def __init__(self) -> None:
        self._first: dict[Hashable, Node] = {}

    def __call__(
        self, op: Op, inputs: tuple[Node, ...], attrs: Mapping[str, Any], origin: Origin, device: Device | None = None
    ) -> Node:
        """Every value in `attrs` must be hashable, and equal only to what means the same."""
        key = (op, tuple([value.type for value in inputs]), *attrs.values())
        first = self._first.get(key)
        if first is not None:
            return first.alike(inputs, origin, device)
        node = self._first[key] = op.make(inputs, attrs, origin, device)
        return node


@dataclass(frozen=True, slots=True)
class Cut:
    """The tiles of a loop nest: their boxes, the regions of all inputs that each needs, and the region that each gives."""

    boxes: tuple[Box, ...]
    regions: list[tuple[Box, ...]]
    results: list[Box]

    @classmethod
    def of(cls, access: Access, layout: Layout, shapes: tuple[tuple[int, ...], ...], shape: tuple[int, ...]) -> Cut:
        """Shapes of the inputs, and of the result."""
        boxes = tiles(access, layout)
        if len(boxes) == 1:
            return cls(boxes, [access.regions(boxes[0], shapes)], [access.result(boxes[0], shape)])
        cut = np.array(boxes, np.int64).reshape(len(boxes), len(access.axes), 2)
        inputs = [_boxes(regions_of(reaches, cut, size)) for reaches, size in zip(access.inputs, shapes, strict=True)]
        regions: list[tuple[Box, ...]] = list(zip(*inputs, strict=True)) if inputs else [()] * len(boxes)
        return cls(boxes, regions, _boxes(regions_of(access.output, cut, shape)))


def _boxes(array: np.ndarray) -> list[Box]:
    return [tuple([(low, high) for low, high in box]) for box in array.tolist()]


@dataclass(frozen=True, slots=True)
class Touch:
    """What a region has in common with a piece: in coordinates of the piece, and of the region."""

    piece: int
    inner: Box
    place: Box


class Pieces:
    """The pieces of all values that lie in the same boxes on the same machines."""

    def __init__(self, placed: tuple[Placed, ...]) -> None:
        self.placed = placed
        self.number: dict[Box, int] = {}
        for i, piece in enumerate(placed):
            self.number.setdefault(piece.box, i)
        many = len(placed) > FEW
        self._corners = np.array([p.box for p in placed], np.int64).reshape(len(placed), -1, 2) if many else None
        self._touched: dict[Box, tuple[Touch, ...]] = {}

    def touched(self, region: Box) -> tuple[Touch, ...]:
        """The pieces that have elements of a region, in their order."""
        if region not in self._touched:
            self._touched[region] = tuple(self._touch(region))
        return self._touched[region]

    def _touch(self, region: Box) -> list[Touch]:
        near: Iterable[int] = range(len(self.placed))
        if self._corners is not None:
            low, high = np.array(region, np.int64).reshape(-1, 2).T
            lengths = np.minimum(self._corners[..., 1], high) - np.maximum(self._corners[..., 0], low)
            near = np.flatnonzero((lengths > 0).all(axis=1)).tolist()
        found = []
        for i in near:
            box = self.placed[i].box
            common = intersect(box, region)
            if common is not None:
                found.append(Touch(i, within(common, box), within(common, region)))
        return found
