"""One call of the compiled loop of `ops/vector.py`, and what its makers share: `conv2d_native.py`, `local2d_native.py`.

How a result is cut into pieces never changes its bits: no sum is divided between pieces.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from rainshed.ops.array_kernel import ArrayKernel, Bound
from rainshed.ops.op import Call, Types
from rainshed.ops.types import TensorType
from rainshed.ops.vector import BESIDE, BLOCK, Array, Products, products
from rainshed.ops.window import Pair

LEAST_RUN = 32  # shorter parts of a run would cost more than they save


@dataclass(frozen=True, slots=True)
class Frame:
    """Images as the products see them: a group of their channels, moved by (top, left) into a frame of rows x columns.

    copied  whether they must be copied there; else the frame is the image itself
    blocks  whether BESIDE channels of all positions lie in one piece, and then the next, with none left over: else all channels of
            a position
    """

    image: tuple[int, int, int]  # height, width, channels
    channels: tuple[int, int]  # first, and how many
    place: Pair
    size: Pair
    blocks: bool = False

    @property
    def copied(self) -> bool:
        height, width, channels = self.image
        return self.blocks or self.place != (0, 0) or self.size != (height, width) or self.channels != (0, channels)

    @property
    def step(self) -> int:
        """Numbers from a position to the next."""
        return BESIDE if self.blocks else self.channels[1]

    @property
    def row(self) -> int:
        return self.size[1] * self.step

    @property
    def apart(self) -> Array:
        """Where the channels of a position lie, from its first."""
        each = np.arange(self.channels[1])
        return each // BESIDE * self.size[0] * self.row + each % BESIDE if self.blocks else each

    @property
    def numbers(self) -> int:
        return self.size[0] * self.size[1] * self.channels[1]


def framed(image: tuple[int, int, int], channels: tuple[int, int], place: Pair, wanted: Pair) -> Frame:
    """The least frame that holds `wanted` positions; the image itself where that does."""
    if place == (0, 0) and wanted[0] <= image[0] and wanted[1] <= image[1] and channels == (0, image[2]):
        return Frame(image, channels, place, (image[0], image[1]))
    return Frame(image, channels, place, wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweeps:
    """One call of the compiled loop. See `ops/vector.py`, `_products`.

    places, targets   of the rows, in a and in out
    runs, length      where the products of a row begin, and how many lie `a_step` apart from there
    weights, step     places of the rows of b, and how far its columns lie apart
    units             [units, 8]: place in a, in b and in out; first and last row; runs; images; 1 to add
    """

    frame: Frame | None = None
    images: int = 0
    places: Array
    targets: Array
    runs: Array
    length: int
    weights: Array
    columns: int
    units: Array
    a_step: int = 1
    step: int = 1
    chunk: int = 1 << 40
    at_once: int = 1 << 40
    packs: str = "once"  # "once", "each" unit, or "never": b is read as it is

    def of(self, units: slice) -> Sweeps:
        """The same for some of its units."""
        return replace(self, units=self.units[units])

    def call(self, made: Products, a: Array, b: Array, out: Array) -> Sweep:
        return self.prepared(made)(a, b, out)

    def prepared(self, made: Products) -> Callable[[Array, Array, Array], Sweep]:
        """The compiled loop with these tables: for a, b and out, its call."""
        panel, seen, reads = 2 * made.shape.width, self.frame, self.packs == "never"
        geometry = (0,) * 10
        if seen is not None:
            geometry = (*seen.image, *seen.channels, *seen.place, *seen.size, int(seen.blocks))
        b_step = int(self.weights[1] - self.weights[0]) if reads and len(self.weights) > 1 else panel
        n = (
            self.length,
            self.a_step,
            self.columns,
            self.step,
            b_step,
            self.chunk,
            self.at_once,
            int(self.packs == "once"),
        )
        packed = 0 if reads else -(-self.columns // panel) * panel * len(self.weights)
        frame = self.images * seen.numbers if seen is not None and seen.copied else 0
        tables = tuple(table.astype(np.int64) for table in (self.places, self.targets, self.runs, self.weights))
        units = np.ascontiguousarray(self.units, np.int64)

        def sweep(a: Array, b: Array, out: Array) -> Sweep:
            operands = a.reshape(-1), b.reshape(-1), out.reshape(-1)
            return Sweep(made.run, (*operands, n, geometry, tables, units), (packed, frame))

        return sweep


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """A call of the compiled loop; room: numbers of its packed columns, and of its frame."""

    run: ArrayKernel
    args: tuple[Any, ...]
    room: tuple[int, int]

    def __call__(self) -> None:
        self.run(*self.args, *(np.empty(n, np.float32) for n in self.room))

    def bound(self) -> Bound:
        """It for machine code, which gives it room."""
        none = np.empty(0, np.float32)
        return self.run.bound(*self.args, none, none, room=self.room)


def cuts(total: int, pieces: int, step: int = 1) -> list[Pair]:
    """The range 0 to total in at most so many parts of about one size, cut at multiples of `step`."""
    many = max(1, min(pieces, -(-total // step)))
    edges = [min(total, -(-total * i // (many * step)) * step) for i in range(many + 1)]
    return [(low, high) for low, high in itertools.pairwise(edges) if low < high]


def divided(runs: Array, length: int, step: int = 1) -> tuple[Array, int]:
    """Long runs in equal parts that fit the block, where their length has a divisor for it."""
    for parts in range(-(-length // BLOCK), length // LEAST_RUN + 1):
        if parts > 1 and length % parts == 0:
            part = length // parts
            return (runs[:, None] + np.arange(parts) * part * step).reshape(-1), part
    return runs, length


def grid(*axes: Iterable[int]) -> Array:
    """Sums of one number of each axis, in row-major order."""
    total = np.zeros(1, np.int64)
    for axis in axes:
        total = (total[:, None] + np.asarray(axis, np.int64)).reshape(-1)
    return total


def at_once(length: int) -> int:
    return max(1, BLOCK // max(1, length))


def ready(types: Types, output: TensorType) -> Products | None:
    """The compiled loop, where it can be used: for float32, and no empty value."""
    every = (*types, output)
    if any(t.dtype.name != "float32" or not t.size for t in every):
        return None
    return products()


def in_order(calls: Sequence[Call]) -> Call:
    return calls[0] if len(calls) == 1 else partial(do_all, tuple(calls))


def do_all(calls: Sequence[Call]) -> None:
    for call in calls:
        call()
