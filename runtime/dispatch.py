"""Which instruction of a program may run when. Pure: an event comes in, the instructions that it makes ready go out.

How far they may leave the list's order is the compiler's to say: compiler/dependencies.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rainshed.compiler.dependencies import dependencies, is_static
from rainshed.compiler.plan import Free, Program, Recv, Send

_NONE: tuple[int, ...] = ()


def _together(
    before: tuple[tuple[int, ...], ...], groups: Iterable[Sequence[int]], active: list[bool]
) -> tuple[tuple[int, ...], ...]:
    """The dependencies with each group as its first; its others are no longer active."""
    first = {i: group[0] for group in groups for i in group}
    if not first:
        return before
    found: list[set[int]] = [set() for _ in before]
    for i, earlier in enumerate(before):
        own = first.get(i, i)
        found[own].update(other for other in (first.get(j, j) for j in earlier) if other != own)
        active[i] = active[i] and own == i
    return tuple(tuple(sorted(one)) for one in found)


class Dispatcher:
    """The state of one step. Not thread-safe: its user holds a lock.

    What it returns are places in `program.instructions`, in the order in which they should run: sends and receives
    first, so that bytes move while kernels run, then by the list. A receive that it returns may take its place in the
    arena; it is done when the bytes are there.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._before = dependencies(program)
        n = len(program.instructions)
        # The rank orders the ready: unique, small first; `rank % n` is the instruction.
        self.ranks = tuple(i - n if isinstance(x, Send | Recv) else i for i, x in enumerate(program.instructions))
        self._recvs = tuple(i for i, x in enumerate(program.instructions) if isinstance(x, Recv))
        self._left = [-1] * n  # how many others each one waits for; -1: done
        self.remaining = 0  # instructions of this step that are not done
        self.group(())

    def group(self, groups: Iterable[Sequence[int]]) -> None:
        """From the next step on these instructions are done together: each group in the list's order, with nothing else
        between; its first stands for all."""
        program, n = self.program, len(self.program.instructions)
        active = [not (isinstance(x, Free) or is_static(program, x)) for x in program.instructions]
        before = _together(self._before, groups, active)
        after: list[list[int]] = [[] for _ in range(n)]
        for i, earlier in enumerate(before):
            for j in earlier:
                after[j].append(i)
        self._after = tuple(tuple(sorted(x, key=self.ranks.__getitem__)) for x in after)
        self._needed = [len(x) if active[i] else -1 for i, x in enumerate(before)]
        self._first = sorted((i for i, x in enumerate(self._needed) if x == 0), key=self.ranks.__getitem__)
        self._active = sum(active)

    def start(self) -> Sequence[int]:
        """Begin a step: what is ready at once."""
        self._left[:] = self._needed
        self.remaining = self._active
        return self._first

    def done(self, i: int) -> Sequence[int]:
        """Instruction `i` is done: what it makes ready."""
        left = self._left
        left[i] = -1
        self.remaining -= 1
        ready: list[int] | None = None
        for j in self._after[i]:
            count = left[j] - 1
            left[j] = count
            if not count:
                if ready is None:
                    ready = [j]
                else:
                    ready.append(j)
        return _NONE if ready is None else ready

    @property
    def finished(self) -> bool:
        return not self.remaining

    def waiting(self) -> tuple[Recv, ...]:
        """The receives that are ready and whose bytes have not come."""
        found = (self.program.instructions[i] for i in self._recvs if self._left[i] == 0)
        return tuple(x for x in found if isinstance(x, Recv))
