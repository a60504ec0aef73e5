"""The memory of one machine: arena, kept and fed values as arrays, made once when the program is loaded."""

from __future__ import annotations

from typing import Any

import numpy as np

from rainshed.compiler.plan import ARENA, FED, KEPT, Program, Value
from rainshed.compiler.units import HOST
from rainshed.ops.errors import PlanError
from rainshed.ops.types import dtype_of
from rainshed.runtime.rendezvous import Where
from rainshed.runtime.units import Units

ALIGN = 64  # bytes: a cache line, and the widest vector register
PLACES = (ARENA, KEPT, FED)

Array = np.ndarray[Any, Any]


def aligned(nbytes: int) -> Array:
    """`nbytes` zero bytes that start at a multiple of ALIGN."""
    # Zeros cost nothing (the kernel maps them on first touch), and make what nobody wrote the same on every run.
    raw = np.zeros(nbytes + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + nbytes]


class Buffers:
    """`arrays[i]` is the array of value i; an empty one, where the value lies on a unit: see `units`. Arrays in the
    arena overlap where the plan says so.

    Raises  PlanError for a value that does not fit its place; UnitError for one on a unit that this machine lacks
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self.arena = aligned(program.arena_nbytes)
        self.units = Units(program)
        self.arrays: tuple[Array, ...] = tuple(self._array(i, v) for i, v in enumerate(program.values))
        self._spares: dict[tuple[int, Where], Array] = {}

    def spare(self, key: int, value: int, where: Where) -> Array:
        """The buffer for a transfer that arrives before its place is free; made when it is first needed, then kept."""
        found = self._spares.get((key, where))
        if found is None:
            v = self._program.values[value]
            found = self._spares[key, where] = _shaped(aligned(v.nbytes), v)
        return found

    def _array(self, i: int, value: Value) -> Array:
        where = f"value {i} of {self._program.machine}"
        if value.place not in PLACES:
            raise PlanError(f"{where} has the place {value.place!r}", known=", ".join(PLACES))
        if value.unit != HOST:
            return np.empty(0, dtype_of(value.dtype).numpy)
        if value.place != ARENA:
            return _shaped(aligned(value.nbytes), value)
        itemsize = dtype_of(value.dtype).itemsize
        if value.offset < 0 or value.offset + value.nbytes > len(self.arena) or value.offset % itemsize:
            raise PlanError(
                f"{where} does not fit the arena",
                offset=value.offset,
                nbytes=value.nbytes,
                arena_nbytes=len(self.arena),
                itemsize=itemsize,
            )
        return _shaped(self.arena[value.offset : value.offset + value.nbytes], value)


def _shaped(raw: Array, value: Value) -> Array:
    return raw.view(dtype_of(value.dtype).numpy).reshape(value.shape)
