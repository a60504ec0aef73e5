"""Where the bytes of an arriving value go. Pure: it keeps the state of each transfer, its user moves the bytes.

A receive is *posted* once its place in the arena is free. Bytes that come later go straight there; bytes that come
before go into a spare buffer of the planned size, and are copied when the receive is posted. A peer may be one step
ahead, not more (`Finished` in messages.py holds it back), so each transfer has at most two spares.
"""

from __future__ import annotations

from enum import Enum, IntEnum

from rainshed.compiler.plan import Program, Recv
from rainshed.ops.errors import PlanError, ProtocolError


class Where(IntEnum):
    """FINAL: the value's place in the arena. The spares are for even and for odd steps."""

    FINAL = -1
    EVEN = 0
    ODD = 1


SPARES = (Where.EVEN, Where.ODD)  # by parity of the step


class Then(Enum):
    """What is to be done after an event."""

    WAIT = "wait"
    COPY = "copy"  # out of the spare of this step, and the receive is done
    DONE = "done"  # the receive is done


class Rendezvous:
    """The transfers to one machine. Not thread-safe: its user holds a lock."""

    def __init__(self, program: Program) -> None:
        self.step = 0  # the step that runs, or comes next; steps are counted from the start of the job
        self._machine = program.machine
        self._expected: dict[int, tuple[str, int]] = {}  # key -> its source and its bytes
        self._begun: tuple[dict[int, Where], dict[int, Where]] = ({}, {})  # by parity of the step: key -> where it goes
        self._here: tuple[set[int], set[int]] = (set(), set())
        self._posted: set[int] = set()
        for i in program.instructions:
            if isinstance(i, Recv):
                if i.key in self._expected:
                    raise PlanError(f"{self._machine}: transfer {i.key} is received twice")
                self._expected[i.key] = (i.source, program.values[i.value].nbytes)

    def place(self, source: str, step: int, key: int, nbytes: int) -> Where:
        """A value begins to arrive: where its bytes go.

        Raises  ProtocolError for what was not planned, and for what has come before
        """
        begun = self._begun[step & 1]
        if self._expected.get(key) != (source, nbytes) or not self.step <= step <= self.step + 1 or key in begun:
            raise ProtocolError(
                f"transfer {key} of step {step} from {source}: {self._why_not(source, step, key, nbytes)}"
            )
        begun[key] = where = Where.FINAL if step == self.step and key in self._posted else SPARES[step & 1]
        return where

    def _why_not(self, source: str, step: int, key: int, nbytes: int) -> str:
        """What is wrong with a value that may not come."""
        if key not in self._expected:
            return f"{self._machine} expects no such transfer"
        planned_source, planned_nbytes = self._expected[key]
        if source != planned_source:
            return f"{self._machine} expects it from {planned_source}"
        if nbytes != planned_nbytes:
            return f"has {nbytes} bytes, planned are {planned_nbytes}"
        if not self.step <= step <= self.step + 1:
            late = "over" if step < self.step else "too far ahead"
            return f"{self._machine} is at step {self.step}, that step is {late}"
        return "has come before"

    def arrived(self, step: int, key: int) -> Then:
        """All bytes of a value are there."""
        self._here[step & 1].add(key)
        if step != self.step or key not in self._posted:
            return Then.WAIT
        return Then.DONE if self._begun[step & 1][key] is Where.FINAL else Then.COPY

    def post(self, key: int) -> Then:
        """The place of a receive of this step is free."""
        self._posted.add(key)
        return Then.COPY if key in self._here[self.step & 1] else Then.WAIT

    def finish(self) -> None:
        """The step is over: every receive of it is done."""
        parity = self.step & 1
        self._begun[parity].clear()
        self._here[parity].clear()
        self._posted.clear()
        self.step += 1
