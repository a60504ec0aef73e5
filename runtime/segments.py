"""Runs of small kernels as one call, which machine code does without the interpreter, and the threads of a machine together."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from rainshed.compiler.dependencies import dependencies, is_static
from rainshed.compiler.machines import OVERHEAD_S
from rainshed.compiler.plan import Assign, Free, Instruction, Program, Recv, Run, Send
from rainshed.ops.errors import KernelError
from rainshed.ops.records import Record, Records, machine_code
from rainshed.runtime.buffers import Array
from rainshed.runtime.kernels import Kernels

# Predicted, of what one thread does alone in a segment where others could do some of it; and of all of it, where what arrives
# meanwhile could be more urgent than the rest.
LONGEST_S: Final = 2e-3
SHARED_S: Final = 500e-6  # predicted, of what comes in pieces: less is over before another thread has been of use
CUT_S: Final = 5e-6  # the least that is worth a piece of its own in a segment

Chains = tuple[Records, ...]  # what may run at once


@dataclass(frozen=True, slots=True)
class Segment:
    """Instructions, in order, that are done one after the other; the first stands for all of them.

    records  what machine code does for them
    begin  before each time that it is done
    call   does it, or helps whoever does; as many threads as there are pieces may call it
    """

    members: tuple[int, ...]
    pieces: int
    records: Records
    begin: Callable[[], None]
    call: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """How segments are wanted.

    threads    of the machine
    cut        instructions that are done in pieces, one for each thread
    compiling  whether loops are compiled that the cache on disk does not have
    apart      whether each instruction is a segment by itself, to be measured or traced
    """

    threads: int
    cut: frozenset[int]
    compiling: bool
    apart: bool = False


def segments_of(program: Program, kernels: Kernels, wish: Wish) -> list[Segment]:
    """The longest runs of instructions that have records and wait for the same messages, nothing that leaves or arrives between
    them: so none of them is late because of another."""
    found: list[Segment] = []
    group: list[tuple[int, Chains]] = []
    held_s = 0.0
    waits = any(isinstance(x, Recv) for x in program.instructions)
    messages = _messages(program) if waits else [0] * len(program.instructions)
    for i, instruction in enumerate(program.instructions):
        if isinstance(instruction, Free) or is_static(program, instruction):
            continue
        chains = _chains(i, instruction, kernels, wish) if isinstance(instruction, Run | Assign) else None
        holds = waits or chains is None or len(chains) == 1
        takes = 0.0
        if holds and isinstance(instruction, Run):
            takes = instruction.seconds if waits else _native_s(instruction)
        ends = wish.apart or bool(group and messages[i] != messages[group[-1][0]])
        if group and (chains is None or ends or (wish.threads > 1 and held_s + takes > LONGEST_S)):
            found.append(_segment(group, program, kernels, wish))
            group, held_s = [], 0.0
        if chains is not None:
            group.append((i, chains))
            held_s += takes
    if group:
        found.append(_segment(group, program, kernels, wish))
    return found


def _messages(program: Program) -> list[int]:
    """Those that each instruction waits for, as bit sets: for what arrives, and for a place in memory out of which is sent."""
    found: list[int] = []
    for before in dependencies(program):
        own = 0
        for j in before:
            own |= found[j] | (1 << j if isinstance(program.instructions[j], Recv | Send) else 0)
        found.append(own)
    return found


def _chains(i: int, instruction: Run | Assign, kernels: Kernels, wish: Wish) -> Chains | None:
    """What does an instruction; None where only Python can."""
    parts = wish.threads
    if i not in wish.cut:
        parts = min(parts, 1 + int(_native_s(instruction) / CUT_S))
        parts = parts if kernels.same_bits(i, parts) else 1
    return kernels.chains(i, parts, compiling=wish.compiling)


def _native_s(instruction: Instruction) -> float:
    """Predicted seconds without what it takes the interpreter to call a kernel."""
    return max(0.0, instruction.seconds - OVERHEAD_S) if isinstance(instruction, Run) else 0.0


def _segment(group: list[tuple[int, Chains]], program: Program, kernels: Kernels, wish: Wish) -> Segment:
    shared_s = sum(_native_s(program.instructions[i]) for i, chains in group if len(chains) > 1)
    enough = group[0][0] in wish.cut if wish.apart else shared_s > SHARED_S
    shared = wish.threads > 1 and shared_s > 0 and enough
    call = _Call(group, kernels)
    return Segment(tuple(i for i, _ in group), wish.threads if shared else 1, call.records, call.begin, call)


class _Call:
    """All records of a segment in one call, which releases the GIL."""

    __slots__ = ("_args", "_kernels", "_of", "_room", "_run", "_state", "_tables", "records")

    def __init__(self, group: list[tuple[int, Chains]], kernels: Kernels) -> None:
        self._kernels = kernels
        self._of: list[int] = []
        records: list[Record] = []
        rows: list[tuple[int, int]] = []
        spans: list[tuple[int, int]] = []
        for i, chains in group:
            rows.append((len(spans), len(chains)))
            for chain in chains:
                spans.append((len(records), len(chain)))
                records += chain
                self._of += [i] * len(chain)
        self.records = tuple(records)  # their arrays and machine code must stay
        self._room = _given_room([chains for _, chains in group])
        code = [(int(r.function.address), int(r.numbers.ctypes.data)) for r in records]
        self._tables = tuple(np.array(table, np.int64) for table in (rows, spans, code))
        self._state = np.zeros(1 + 2 * len(rows), np.int64)
        at = [int(table.ctypes.data) for table in (*self._tables, self._state)]
        self._args = (at[0], len(rows), *at[1:], _give_way())
        self._run: Any = machine_code().run_rows

    def begin(self) -> None:
        self._state.fill(0)

    def __call__(self) -> None:
        failed = self._run(*self._args)
        if failed >= 0:
            self._explain(self._of[failed])

    def _explain(self, i: int) -> None:
        """The Python kernel of the instruction says what is wrong. Raises its error."""
        try:
            self._kernels.call(i)()
        except Exception as error:
            raise self._kernels.error(i, error) from error
        raise self._kernels.error(i, KernelError("machine code refused what the Python kernel takes"))


def _given_room(rows: list[Chains]) -> list[Array]:
    """Working memory for the records of a segment: chains at the same place of different rows never run at once, so they share."""
    needed: dict[int, int] = {}
    for chains in rows:
        for place, chain in enumerate(chains):
            needed[place] = max([needed.get(place, 0), *(sum(record.room) for record in chain)])
    room = {place: np.empty(numbers, np.float32) for place, numbers in needed.items() if numbers}
    for chains in rows:
        for place, chain in enumerate(chains):
            for record in chain:
                if any(record.room):
                    record.work_in(int(room[place].ctypes.data))
    return list(room.values())


@lru_cache(maxsize=1)
def _give_way() -> int:
    """The address of sched_yield; 0 where there is none."""
    function = getattr(ctypes.CDLL(None), "sched_yield", None)
    return (ctypes.cast(function, ctypes.c_void_p).value or 0) if function is not None else 0
