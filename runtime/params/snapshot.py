"""A shard at one moment, as data and as bytes: its arrays, and the table of what was applied, which belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from rainshed.ops.errors import CheckpointError
from rainshed.ops.types import dtype_of
from rainshed.runtime.params.layout import Part
from rainshed.runtime.params.rule import Array


class Last(msgspec.Struct, forbid_unknown_fields=True):
    """The last push of a sender that is done."""

    incarnation: int
    seq: int


class Counts(msgspec.Struct, forbid_unknown_fields=True):
    """What a shard has done with pushes. `lost` ones were acknowledged, and then lost when a snapshot was restored."""

    applied: int = 0
    dup: int = 0
    gap: int = 0
    stale: int = 0
    too_old: int = 0
    nonfinite: int = 0
    lost: int = 0
    fetches: int = 0
    nonfinite_of: dict[str, int] = {}  # "WORKER VARIABLE" -> pushes refused
    staleness: dict[int, int] = {}  # versions -> pushes applied that were so stale


class Table(msgspec.Struct, forbid_unknown_fields=True):
    """What a snapshot holds beside arrays."""

    layout: str
    shard: int
    versions: list[int]
    present: dict[str, list[bool]]
    last: dict[str, Last]
    counts: Counts


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A shard at one moment. `arrays`: field -> one flat array per part, the snapshot's own."""

    table: Table
    arrays: Mapping[str, tuple[Array, ...]] = field(repr=False)


def encode_snapshot(snapshot: Snapshot) -> list[memoryview]:
    """The snapshot as buffers of a payload: the table's length (u64, little-endian), the table as JSON, the arrays."""
    table = msgspec.json.encode(snapshot.table)
    arrays = [flat_bytes(array) for arrays in snapshot.arrays.values() for array in arrays]
    return [memoryview(len(table).to_bytes(8, "little") + table), *arrays]


# Made here: two threads that teach msgspec a type at once end the process (see compiler/load.py).
_TABLE: Final = msgspec.json.Decoder(Table)


def decode_snapshot(payload: memoryview, parts: Sequence[Part], fields: Sequence[str]) -> Snapshot:
    """The snapshot of these bytes; its arrays are read-only copies. Raises CheckpointError if they do not fit."""
    end = 8 + int.from_bytes(payload[:8], "little")
    due = len(fields) * sum(part.nbytes for part in parts)
    if len(payload) < 8 or end > len(payload) or len(payload) - end != due:
        raise CheckpointError(f"{len(payload)} bytes are no snapshot: its arrays have {due} bytes")
    try:
        table = _TABLE.decode(payload[8:end])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"a snapshot with a wrong table: {error}") from None
    arrays: dict[str, tuple[Array, ...]] = {}
    for name in fields:
        found = []
        for part in parts:
            found.append(np.frombuffer(bytes(payload[end : end + part.nbytes]), dtype_of(part.dtype).numpy))
            end += part.nbytes
        arrays[name] = tuple(found)
    return Snapshot(table, arrays)


def flat_bytes(array: Array) -> memoryview:
    """The bytes of a flat array, not copied."""
    return array.view(np.uint8).data if array.size else memoryview(b"")
