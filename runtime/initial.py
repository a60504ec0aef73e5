"""First values of variables: made where they will lie, in pieces, by several threads at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

from rainshed.compiler.plan import Variable
from rainshed.ops.errors import PlanError
from rainshed.ops.init import Init
from rainshed.ops.text import parse_attr
from rainshed.runtime.buffers import Array
from rainshed.runtime.kernels import part_of
from rainshed.runtime.slabs import slabs

PIECE: Final = 1 << 22  # elements: some hundredths of a second

Told = Callable[[int, int], None]  # bytes done, of so many


def done_text(what: str, done: int, total: int) -> str:
    """How far a long task is, in bytes."""
    return f"{what}: {done:,} of {total:,} bytes"


def untold(done: int, total: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one thread fills at once: an array, and where it lies in the variable."""

    init: Init
    array: Array
    name: str
    whole: tuple[int, ...]
    offset: tuple[int, ...]

    def fill(self, seed: int) -> int:
        """Fill it; its bytes."""
        self.init.fill(self.array, seed=seed, name=self.name, whole=self.whole, offset=self.offset)
        return self.array.nbytes


def fill(parts: Sequence[tuple[Variable, Array]], *, seed: int, threads: int, told: Told) -> None:
    """Give these parts of variables their first values: the same numbers however they are cut.

    told    called after each piece, on this thread
    Raises  PlanError for a variable that does not say how it begins
    """
    pieces = [piece for variable, array in parts for piece in _pieces(variable, array)]
    total, done = sum(piece.array.nbytes for piece in pieces), 0
    with ThreadPoolExecutor(threads, "rainshed first values") as pool:
        for nbytes in pool.map(partial(Piece.fill, seed=seed), pieces):
            done += nbytes
            told(done, total)


def _pieces(variable: Variable, array: Array) -> Iterator[Piece]:
    init = parse_attr(variable.init)
    if not isinstance(init, Init):
        raise PlanError(f"variable {variable.name!r}: {variable.init[:80]!r} is no initial value")
    origin = tuple(low for low, _ in variable.box)
    # Values that are given belong to the part as it is.
    most = PIECE if init.values is None else array.size
    for slab in slabs(tuple((0, n) for n in array.shape), most):
        offset = tuple(start + low for start, (low, _) in zip(origin, slab, strict=True))
        yield Piece(init, part_of(array, slab), variable.name, variable.whole, offset)
