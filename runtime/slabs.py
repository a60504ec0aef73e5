"""Boxes cut into slabs: neighbours in memory, none with more elements than wanted, in the order of memory."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from rainshed.ops.access import Box, box_shape


def slabs(box: Box, most: int) -> Iterator[Box]:
    """The box in slabs of at most `most` elements each (at least one); a slab of an array is contiguous if the array is."""
    if not box:
        yield ()
        return
    (low, high), rest = box[0], box[1:]
    row = prod(box_shape(rest))
    if row > most:
        for i in range(low, high):
            for slab in slabs(rest, most):
                yield ((i, i + 1), *slab)
        return
    rows = max(1, most // max(1, row))
    for start in range(low, high, rows):
        yield ((start, min(start + rows, high)), *rest)
