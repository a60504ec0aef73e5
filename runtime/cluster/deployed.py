"""A plan somewhere at work, as sessions, checkpoints and training see it: its variables by parts or whole, its steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from rainshed.compiler.plan import Plan
from rainshed.ops.access import Box
from rainshed.ops.errors import DataError
from rainshed.ops.types import as_fed, dtype_of
from rainshed.runtime.slabs import slabs
from rainshed.runtime.trace import MachineTrace

SLAB: Final = 1 << 24  # elements of a variable that are on their way to or from a machine at once
Array = np.ndarray[Any, Any]


class Deployed(ABC):
    """What all have that run a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._needed = {
            f.name: (dtype_of(program.values[f.value].dtype).name, f.whole)
            for program in plan.programs
            for f in program.feeds
        }

    @abstractmethod
    def init(self, seed: int) -> None:
        """Fill the variables."""

    @abstractmethod
    def run(self, step: int, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """One step on whole arrays by name; the outputs, put together. Raises DataError for feeds that do not fit."""

    @abstractmethod
    def get(self, machine: str, parts: Sequence[tuple[str, Box]]) -> list[Array]:
        """The values of boxes of variables, each within a part that the machine owns."""

    @abstractmethod
    def put(self, machine: str, parts: Sequence[tuple[str, Box]], values: Sequence[Array]) -> None:
        """Give boxes of variables, each within a part that the machine owns, their values."""

    @abstractmethod
    def bytes_between(self) -> dict[tuple[str, str], int]:
        """Payload bytes that crossed for each (from, to), counted where they were sent."""

    @abstractmethod
    def peak_memory(self) -> dict[str, int]:
        """The most memory that each machine's process has held, in bytes."""

    @abstractmethod
    def traces(self) -> list[MachineTrace]:
        """What every machine did, on the clock of this process."""

    @property
    @abstractmethod
    def pids(self) -> dict[str, int]:
        """Process of each machine."""

    def checked(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """The feeds as arrays. Raises DataError unless they are what the plan reads."""
        needed = self._needed
        strange = [name for name in feeds if name not in needed]
        if strange:
            raise DataError(f"the plan has no input {strange[0]!r}", inputs=", ".join(sorted(needed)) or "none")
        arrays = {}
        for name, (dtype, whole) in needed.items():
            if name not in feeds:
                raise DataError(f"input {name!r} was not given", given=", ".join(feeds) or "none")
            array = as_fed(np.asarray(feeds[name]), dtype_of(dtype))
            if array.dtype.name != dtype:
                raise DataError(f"input {name!r} is {dtype}; found element type {array.dtype}")
            if array.shape != whole:
                raise DataError(f"input {name!r} is {dtype}{list(whole)}; found shape {list(array.shape)}")
            arrays[name] = array
        return arrays

    def parts(self, names: Sequence[str] | None = None) -> list[tuple[str, str, Box, tuple[int, ...], str]]:
        """(machine, variable, box, whole shape, dtype) of every part of these variables, or of all."""
        return [
            (p.machine, v.name, v.box, v.whole, p.values[v.value].dtype)
            for p in self.plan.programs
            for v in p.variables
            if names is None or v.name in names
        ]

    def variables(self) -> dict[str, Array]:
        """Every variable, whole. Only for models that fit here: see `parts` and `get` for those that do not."""
        wholes: dict[str, Array] = {}
        for machine, name, box, whole, dtype in self.parts():
            into = wholes.setdefault(name, np.empty(whole, dtype_of(dtype).numpy))
            for slab in slabs(box, SLAB):
                into[slices_of(slab)] = self.get(machine, [(name, slab)])[0]
        return wholes

    def set_variables(self, values: Mapping[str, Any]) -> None:
        """Set variables by name, each whole. Raises DataError before anything is set."""
        known = {name: (whole, dtype) for _, name, _, whole, dtype in self.parts()}
        arrays = {}
        for name, value in values.items():
            if name not in known:
                raise DataError(f"the plan has no variable {name!r}", variables=", ".join(sorted(known)) or "none")
            whole, dtype = known[name]
            array = arrays[name] = as_fed(np.asarray(value), dtype_of(dtype))
            if array.shape != whole or array.dtype != dtype_of(dtype).numpy:
                raise DataError(f"variable {name!r} is {dtype}{list(whole)}; found {array.dtype}{list(array.shape)}")
        for machine, name, box, _, _ in self.parts(list(arrays)):
            for slab in slabs(box, SLAB):
                self.put(machine, [(name, slab)], [np.asarray(arrays[name][slices_of(slab)])])


def slices_of(box: Box) -> tuple[slice, ...]:
    return tuple(slice(low, high) for low, high in box)
