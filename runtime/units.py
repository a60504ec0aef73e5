"""The units of a machine that a program uses: their memory, and calls that run on them or carry values to and from them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from rainshed.compiler.plan import ARENA, Program
from rainshed.compiler.units import HOST
from rainshed.ops.errors import PlanError, UnitError
from rainshed.ops.launch import Array, Call, Launcher, launcher
from rainshed.ops.op import Op
from rainshed.ops.types import TensorType, dtype_of

Attrs = Any


class Units:
    """`arrays[i]` is the flat device array of value i, for each value that lies on a unit.

    Raises  UnitError if this machine has no such unit; PlanError for a value that does not fit the unit's arena
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        names = sorted({v.unit for v in program.values} - {HOST})
        self._launchers = {name: _open(name, program.machine) for name in names}
        self._arenas = {name: at.zeros(program.arena_of(name)) for name, at in self._launchers.items()}
        self.arrays = {i: self._array(i) for i, v in enumerate(program.values) if v.unit != HOST}

    def _array(self, i: int) -> Any:
        v = self._program.values[i]
        at, dtype = self._launchers[v.unit], dtype_of(v.dtype).numpy
        raw, offset = (self._arenas[v.unit], v.offset) if v.place == ARENA else (at.zeros(v.nbytes), 0)
        if (
            offset < 0
            or offset % dtype.itemsize
            or (v.place == ARENA and offset + v.nbytes > self._program.arena_of(v.unit))
        ):
            raise PlanError(f"value {i} of {self._program.machine} does not fit the arena of {v.unit}", offset=offset)
        return at.view(raw, offset, v.nbytes // dtype.itemsize, dtype)

    def at(self, value: int) -> Launcher | None:
        """The unit on which a value lies; None: the host."""
        return self._launchers.get(self._program.values[value].unit)

    def call(self, op: Op, inputs: tuple[int, ...], output: int, attrs: Attrs) -> Call:
        """The call of an op whose values all lie on one unit. Raises PlanError if it has no kernel for it."""
        at = self.at(output)
        if at is None or any(self.at(v) is not at for v in inputs):
            raise PlanError(f"{op.name} on {self._program.machine} has values that are not on one unit")
        if op.name == "constant":
            return partial(at.upload, np.ascontiguousarray(attrs["value"]), self.arrays[output])
        if op.cuda is None:
            raise PlanError(f"{op.name} has no kernel for {self._program.values[output].unit}")
        types = tuple(self._type(v) for v in inputs)
        return at.call(op.cuda(types, self._type(output), attrs), [self.arrays[v] for v in inputs], self.arrays[output])

    def carry(self, source: int, target: int, host: tuple[Array, ...]) -> Call:
        """The call that copies a value between places; `host` are the arrays of the values on the host."""
        values = self._program.values
        if (values[source].dtype, values[source].shape) != (values[target].dtype, values[target].shape):
            raise PlanError(f"value {source} of {self._program.machine} is copied to value {target} of another type")
        out, into = self.at(source), self.at(target)
        if out is None and into is None:
            return partial(np.copyto, host[target], host[source])
        if out is None and into is not None:
            return partial(into.upload, host[source], self.arrays[target])
        if into is None and out is not None:
            return partial(out.download, self.arrays[source], host[target])
        if out is into and out is not None:
            return partial(out.copy, self.arrays[source], self.arrays[target])
        return partial(self._through_host, source, target)

    def _through_host(self, source: int, target: int) -> None:
        self.write(target, self.read(source))

    # -- between steps ----

    def read(self, value: int) -> Array:
        """A copy of a value that lies on a unit."""
        v, at = self._program.values[value], self.at(value)
        found = np.empty(v.shape, dtype_of(v.dtype).numpy)
        if at is not None:
            at.download(self.arrays[value], found)
        return found

    def write(self, value: int, array: Array) -> None:
        at = self.at(value)
        if at is not None:
            at.upload(np.ascontiguousarray(array), self.arrays[value])

    def _type(self, value: int) -> TensorType:
        v = self._program.values[value]
        return TensorType(dtype_of(v.dtype), v.shape)


def _open(name: str, machine: str) -> Launcher:
    if not name.startswith("cuda") or not name[4:].isdigit():
        raise UnitError(f"the plan places values on {name!r} of {machine}: units are called cuda0, cuda1, ...")
    try:
        return launcher(int(name[4:]))
    except UnitError as error:
        what = f"the plan uses {name} of {machine}, which cannot be used here: {error.message}"
        raise UnitError(what, **error.detail) from None
