"""Which server shard holds which part of which variable. Pure.

A part is a box of a named variable: the unit that a shard stores and moves. The parts of a plan are laid on a line of
bytes, machine after machine, and the line is cut into equal lengths, one for each shard: so shards are even, and a
machine's parts are on few of them. Where a cut falls inside a large part, the part is cut there between two rows.

Replicas of one model have plans of one shape, and so share one layout; machines have other names there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Final, TypeAlias

import msgspec

from rainshed.compiler.plan import Plan
from rainshed.ops.access import Box, box_shape
from rainshed.ops.errors import PlanError, UsageError

ITEMSIZE: Final[Mapping[str, int]] = {"f32": 4, "f64": 8}
MAX_RANK: Final = 32
_SMALL_NBYTES: Final = 1024  # not worth a cut
_EVEN: Final = 0.02  # of a shard's share: how far a cut may move to fall between two parts

PartKey: TypeAlias = tuple[str, Box]  # a variable's name and a box: what plans and gradients are keyed by


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A box of a variable."""

    name: str
    dtype: str  # short: "f32" or "f64"
    box: Box

    @property
    def key(self) -> PartKey:
        return self.name, self.box

    @property
    def shape(self) -> tuple[int, ...]:
        return box_shape(self.box)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * ITEMSIZE[self.dtype]

    def __str__(self) -> str:
        ranges = ", ".join(f"{low}:{high}" for low, high in self.box)
        return f"{self.name}[{ranges}] {self.dtype}"


@dataclass(frozen=True, slots=True)
class Owned:
    """A part and the machine of the plan that owns it."""

    part: Part
    machine: str


@dataclass(frozen=True, slots=True)
class Piece:
    """What one shard holds of a machine's part: its `number` there, and the elements [start, stop) of the flat part."""

    shard: int
    number: int
    start: int
    stop: int


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The parts of each shard; a part's number is its place in its shard's list. Wide element types come first, so that
    parts put one behind the other are aligned."""

    shards: tuple[tuple[Part, ...], ...]

    @cached_property
    def digest(self) -> str:
        """Names the layout, so that two processes find out at once that they hold different ones."""
        return hashlib.blake2b(msgspec.json.encode(self), digest_size=16).hexdigest()

    def nbytes(self, shard: int) -> int:
        return sum(part.nbytes for part in self.shards[shard])

    def pieces(self, part: Part) -> tuple[Piece, ...]:
        """Where the elements of `part` are, in their order. Raises PlanError if not all are somewhere."""
        found: list[Piece] = []
        for shard, parts in enumerate(self.shards):
            for number, held in enumerate(parts):
                at = _start(held.box, part.box) if (held.name, held.dtype) == (part.name, part.dtype) else None
                if at is not None:
                    found.append(Piece(shard, number, at, at + held.size))
        found.sort(key=lambda piece: piece.start)
        edges = [0, *(piece.stop for piece in found)]
        if [piece.start for piece in found] != edges[:-1] or edges[-1] != part.size or not found:
            raise PlanError(f"the server shards do not hold {part}", do="make the layout from this plan")
        return tuple(found)


def _start(piece: Box, part: Box) -> int | None:
    """Where the first element of `piece` is in the flat `part`; None if it is no run of rows of it."""
    if piece == part:
        return 0
    axis = _cut_axis(part)
    if len(piece) != len(part) or axis is None or piece[:axis] + piece[axis + 1 :] != part[:axis] + part[axis + 1 :]:
        return None
    (low, high), (base, end) = piece[axis], part[axis]
    return (low - base) * prod(box_shape(part[axis + 1 :])) if base <= low < high <= end else None


def _cut_axis(box: Box) -> int | None:
    """The first axis longer than one: runs of it are contiguous. None if there is none."""
    return next((axis for axis, size in enumerate(box_shape(box)) if size > 1), None)


# Made here: two threads that teach msgspec a type at once end the process (see compiler/load.py).
_LAYOUT: Final = msgspec.json.Decoder(Layout)


def layout_from_json(data: bytes) -> Layout:
    """The layout of these bytes, checked. Raises PlanError."""
    try:
        layout = _LAYOUT.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError(f"this is not a layout of server shards: {error}") from None
    check_layout(layout)
    return layout


def check_layout(layout: Layout) -> None:
    """Raises PlanError unless every part can be stored, once."""
    seen: set[PartKey] = set()
    for shard, parts in enumerate(layout.shards):
        for part in parts:
            _check_part(part, f"shard {shard}: ")
            if part.key in seen:
                raise PlanError(f"shard {shard}: {part} is there twice")
            seen.add(part.key)


def _check_part(part: Part, where: str = "") -> None:
    if part.dtype not in ITEMSIZE:
        known = ", ".join(ITEMSIZE)
        raise PlanError(f"{where}{part}: a server moves only {known}", do="keep other variables on their machines")
    if len(part.box) > MAX_RANK or any(not 0 <= low <= high for low, high in part.box):
        raise PlanError(f"{where}{part}: not a box")


def trainable_parts(plan: Plan) -> tuple[Owned, ...]:
    """The parts of the plan's trainable variables and their owners: those that gradients come for."""
    return tuple(
        Owned(Part(variable.name, program.values[variable.value].dtype, variable.box), program.machine)
        for program in plan.programs
        for variable in program.variables
        if variable.trainable
    )


def assign(parts: Iterable[Owned], servers: int) -> Layout:
    """The layout of these parts on this many shards; a shard may be empty where there are few bytes.

    Raises  UsageError for less than one server; PlanError if a part is there twice or has no float type
    """
    if servers < 1:
        raise UsageError(f"parameters need at least one server; found {servers}")
    line = _line(tuple(parts))
    share = sum(part.nbytes for part in line) / servers
    shards: list[list[Part]] = [[] for _ in range(servers)]
    begin = 0
    for part in line:
        for piece in _cut(part, [cut * share - begin for cut in range(1, servers)], share):
            middle = begin + piece.nbytes / 2
            shards[min(servers - 1, int(middle / share)) if share else 0].append(piece)
            begin += piece.nbytes
    layout = Layout(tuple(tuple(sorted(held, key=_order)) for held in shards))
    check_layout(layout)
    return layout


def _line(parts: Sequence[Owned]) -> tuple[Part, ...]:
    machines = tuple(dict.fromkeys(owned.machine for owned in parts))
    for owned in parts:
        _check_part(owned.part)
    order = sorted(parts, key=lambda owned: (machines.index(owned.machine), _order(owned.part)))
    return tuple(owned.part for owned in order)


def _order(part: Part) -> tuple[int, str, Box]:
    return -ITEMSIZE[part.dtype], part.name, part.box


def _cut(part: Part, cuts: Sequence[float], share: float) -> list[Part]:
    """The part in pieces, cut between rows near these bytes of it; not where the cut is as well beside the part."""
    axis = _cut_axis(part.box)
    if axis is None:
        return [part]
    rows, (low, high) = part.shape[axis], part.box[axis]
    least = max(_SMALL_NBYTES, _EVEN * share)
    inside = {round(at * rows / part.nbytes) for at in cuts if least <= at <= part.nbytes - least}
    edges = [low, *(low + row for row in sorted(inside - {0, rows})), high]
    boxes = [(*part.box[:axis], (a, b), *part.box[axis + 1 :]) for a, b in pairwise(edges)]
    return [Part(part.name, part.dtype, box) for box in boxes]
