"""Runs of small kernels that go through machine code as one call: no interpreter between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from rainshed.compiler.dependencies import is_static
from rainshed.compiler.plan import Assign, Free, Program, Run
from rainshed.ops.errors import KernelError
from rainshed.ops.records import Record, Records, machine_code
from rainshed.runtime.kernels import Kernels

LONGEST_S: Final = 2e-3  # predicted, of all kernels of a segment where other threads could do some of them


@dataclass(frozen=True, slots=True)
class Segment:
    """Instructions, in order, that are done one after the other; the first stands for all of them."""

    members: tuple[int, ...]
    call: Callable[[], None]


def segments_of(
    program: Program, kernels: Kernels, *, threads: int, apart: Sequence[int], compiling: bool
) -> list[Segment]:
    """The longest runs of instructions that have records, nothing that leaves or arrives between them.

    apart      instructions that stay alone
    compiling  whether loops are compiled that the cache on disk does not have
    """
    alone = set(apart)
    found: list[Segment] = []
    group: list[tuple[int, Records]] = []
    seconds = 0.0
    for i, instruction in enumerate(program.instructions):
        if isinstance(instruction, Free) or is_static(program, instruction):
            continue
        records = None
        if isinstance(instruction, Run | Assign) and i not in alone:
            records = kernels.records(i, compiling=compiling)
        takes = instruction.seconds if isinstance(instruction, Run) else 0.0
        if group and (records is None or (threads > 1 and seconds + takes > LONGEST_S)):
            found.append(_segment(group, kernels))
            group, seconds = [], 0.0
        if records is not None:
            group.append((i, records))
            seconds += takes
    if group:
        found.append(_segment(group, kernels))
    return found


def _segment(group: list[tuple[int, Records]], kernels: Kernels) -> Segment:
    records = [(i, record) for i, group_records in group for record in group_records]
    return Segment(tuple(i for i, _ in group), _Call(records, kernels))


class _Call:
    """All records of a segment in one call, which releases the GIL."""

    __slots__ = ("_address", "_code", "_count", "_kernels", "_of", "_records", "_run")

    def __init__(self, records: list[tuple[int, Record]], kernels: Kernels) -> None:
        self._of = [i for i, _ in records]
        self._records = [record for _, record in records]  # their arrays and machine code must stay
        rows = [(int(r.function.address), int(r.numbers.ctypes.data)) for r in self._records]
        self._code = np.array(rows, np.int64)
        self._address, self._count = int(self._code.ctypes.data), len(rows)
        self._kernels = kernels
        self._run: Any = machine_code().run_at

    def __call__(self) -> None:
        failed = self._run(self._address, self._count)
        if failed >= 0:
            self._explain(self._of[failed])

    def _explain(self, i: int) -> None:
        """The Python kernel of the instruction says what is wrong. Raises its error."""
        try:
            self._kernels.call(i)()
        except Exception as error:
            raise self._kernels.error(i, error) from error
        raise self._kernels.error(i, KernelError("machine code refused what the Python kernel takes"))
