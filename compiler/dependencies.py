"""How far the instructions of a program may leave their order: for each of them, those that must be done before it.

The list of a program is right when it is run from top to bottom; `dependencies` finds how far it may run out of order:

    read after write    a value is read after what makes it
    write after read    a place in the arena, or a variable, is written after every reader of what lay there before

Freeing takes no action of its own: it is the edge from a value's last readers to the next value in its place.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from rainshed.compiler.plan import ARENA, FED, KEPT, Assign, Free, Instruction, Program, Recv, Run, Send
from rainshed.ops.errors import PlanError

REDUCE_UP_TO = 20_000  # instructions; beyond, the ancestor sets of the reduction take too much memory


def is_static(program: Program, instruction: Instruction) -> bool:
    """Whether this is a constant that is computed once, when the program is loaded."""
    return (
        type(instruction) is Run
        and instruction.op == "constant"
        and all(program.values[v].place == KEPT for v in instruction.outputs)
    )


def reads(instruction: Instruction) -> tuple[int, ...]:
    if isinstance(instruction, Run):
        inputs = instruction.inputs
        return inputs if len(inputs) < 2 else tuple(dict.fromkeys(inputs))
    return (instruction.value,) if isinstance(instruction, (Send, Assign)) else ()


def writes(instruction: Instruction) -> tuple[int, ...]:
    if isinstance(instruction, Run):
        return instruction.outputs
    if isinstance(instruction, Recv):
        return (instruction.value,)
    return (instruction.variable,) if isinstance(instruction, Assign) else ()


def dependencies(program: Program) -> tuple[tuple[int, ...], ...]:
    """For each instruction, those that must be done before it may start; those that follow from others are left out.

    Raises  PlanError if the list is wrong even when it is run from top to bottom
    """
    finder = _Finder(program)
    for i, instruction in enumerate(program.instructions):
        finder.add(i, instruction)
    for output in program.outputs:
        finder.require_live(output.value, f"output {output.name!r}")
    return tuple(finder.before)


class _Finder:
    """What lies where while the list is read from top to bottom."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._values = program.values
        self._reduce = len(program.instructions) <= REDUCE_UP_TO
        self._ancestors: list[int] = []  # of each instruction, as a bit set
        self.before: list[tuple[int, ...]] = []
        # Of each value: who wrote it, and who has read it since.
        self._writer: dict[int, int | None] = {
            i: None for i, value in enumerate(program.values) if value.place in (FED, KEPT)
        }
        self._readers: dict[int, list[int]] = {}
        self._freed: dict[int, tuple[int, ...]] = {}  # value -> its last users
        # For each unit's arena, who lies, or lay last, in which of its bytes: sorted, not overlapping.
        self._arenas: dict[str, tuple[list[int], list[tuple[int, int, int]]]] = {}  # starts; (start, end, value)

    def add(self, i: int, instruction: Instruction) -> None:
        before: Sequence[int] = ()
        if type(instruction) is Free:
            value = instruction.value
            if value in self._freed or value not in self._writer:
                self.require_live(value, self._where(i))
            self._freed[value] = self._last(self._users(value))
        elif not is_static(self._program, instruction):
            before = self._last(self._needed(i, instruction))
        self.before.append(tuple(before))
        if self._reduce:
            mine = 0
            for j in before:
                mine |= self._ancestors[j] | 1 << j
            self._ancestors.append(mine)

    def _needed(self, i: int, instruction: Instruction) -> list[int]:
        """Who must be done before the instruction: who wrote what it reads, and the last users of what lay where it writes."""
        found: list[int] = []
        read = reads(instruction)
        for value in read:
            if value in self._freed or value not in self._writer:
                self.require_live(value, self._where(i))
            writer = self._writer[value]
            if writer is not None:
                found.append(writer)
        for value in writes(instruction):
            found += self._write(value, i)
        for value in read:
            readers = self._readers.get(value)
            if readers is None:
                self._readers[value] = [i]
            else:
                readers.append(i)
        return [j for j in found if j != i]

    def _where(self, i: int) -> str:
        return f"instruction {i} of {self._program.machine}"

    def require_live(self, value: int, where: str) -> None:
        if not 0 <= value < len(self._values):
            raise PlanError(f"{where}: there is no value {value}", values=len(self._values))
        if value in self._freed:
            raise PlanError(f"{where}: value {value} was freed before")
        if value not in self._writer:
            raise PlanError(f"{where}: value {value} is not known yet")

    def _write(self, value: int, i: int) -> Sequence[int]:
        if not 0 <= value < len(self._values):
            raise PlanError(f"{self._where(i)}: there is no value {value}", values=len(self._values))
        place = self._values[value].place
        if place == FED:
            raise PlanError(f"{self._where(i)}: writes value {value}, which is fed")
        before: Sequence[int]
        if place == KEPT:
            before = self._users(value)
        elif value in self._writer:
            raise PlanError(f"{self._where(i)}: value {value} is written twice")
        else:
            before = self._occupy(value, i)
        self._writer[value] = i
        self._readers[value] = []
        return before

    def _occupy(self, value: int, i: int) -> Sequence[int]:
        """Put the value into its place of the arena; the last users of what lay there."""
        v = self._values[value]
        arena, nbytes = self._program.arena_of(v.unit), v.nbytes
        start, end = v.offset, v.offset + nbytes
        if v.place != ARENA or start < 0 or end > arena:
            found = f"{v.place}, {start} to {end} of {arena} bytes"
            raise PlanError(f"{self._where(i)}: value {value} has no place in the arena", found=found)
        if not nbytes:
            return ()
        starts, spans = self._arenas.setdefault(v.unit, ([], []))
        first = max(0, bisect_right(starts, start) - 1)
        if first < len(spans) and spans[first][1] <= start:
            first += 1
        last = bisect_left(starts, end)
        before: list[int] = []
        kept = [(start, end, value)]
        for low, high, other in spans[first:last]:
            freed = self._freed.get(other)
            if freed is None:
                where = self._where(i)
                raise PlanError(f"{where}: value {value} takes the place of value {other}, which is still needed")
            before += freed
            if low < start:
                kept.insert(0, (low, start, other))
            if high > end:
                kept.append((end, high, other))
        spans[first:last] = kept
        starts[first:last] = [low for low, _, _ in kept]
        return before

    def _users(self, value: int) -> list[int]:
        """Who must be done before the value may go: its readers, and its writer."""
        writer = self._writer[value]
        readers = self._readers.get(value, [])
        return readers if writer is None else [*readers, writer]

    def _last(self, users: Sequence[int]) -> tuple[int, ...]:
        """Those of the users that no other of them waits for."""
        if len(users) < 2:
            return tuple(users)
        found: list[int] = []
        covered = 0
        for i in sorted(set(users), reverse=True):
            if covered >> i & 1:
                continue
            found.append(i)
            if self._reduce:
                covered |= self._ancestors[i]
        found.reverse()
        return tuple(found)
