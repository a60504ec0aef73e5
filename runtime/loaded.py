"""A program loaded on its machine: its arrays and its calls, and what is put into them and taken out between steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from rainshed.compiler.dependencies import is_static
from rainshed.compiler.plan import Assign, Program, Recv, Run, Send, Variable
from rainshed.ops.access import Box, box_shape
from rainshed.ops.errors import DataError, UsageError
from rainshed.ops.op import Op
from rainshed.ops.types import TensorType, dtype_of
from rainshed.runtime.buffers import Array, Buffers
from rainshed.runtime.fed import Feeds, fed_of, lend
from rainshed.runtime.initial import Told, fill
from rainshed.runtime.kernels import POLICIES, Call, Kernels, part_of, text_of, type_of
from rainshed.runtime.segments import Segment, Wish, segments_of
from rainshed.runtime.wire import array_payload

PartKey = tuple[str, Box]

BIG_S: Final = 30e-6  # a kernel that takes longer is worth waking a thread for what else is ready
CUT_S: Final = 200e-6  # one that takes longer is cut, a piece for each thread


class Loaded:
    """Memory and calls of one program; the constants are computed. No threads: its user lets one step run at a time.

    calls     of each instruction; None: not a kernel, or a constant
    pieces    of an instruction that is cut for several threads; its call does all of it
    begin     of some that are cut: what is done before their first piece
    big       whether the plan expects an instruction to take longer than BIG_S
    payloads  of each send
    arrivals  key of a transfer -> the instruction that receives it, and the value
    Raises    PlanError for a program that cannot run here; KernelError if a constant cannot be computed
    """

    def __init__(self, program: Program, ops: Mapping[str, Op], policy: str = POLICIES[0], threads: int = 1) -> None:
        self.program = program
        self.buffers = Buffers(program)
        self.arrays = self.buffers.arrays
        self.units = self.buffers.units
        self.kernels = Kernels(program, self.buffers, ops, policy)
        n = len(program.instructions)
        self.calls: list[Call | None] = [None] * n
        self.pieces: dict[int, tuple[Call, ...]] = {}
        self.begin: dict[int, Call] = {}
        self.big = [False] * n
        self._threads = threads
        self._cut: set[int] = set()  # the instructions that have pieces where they are not joined with others
        self.payloads: dict[int, memoryview] = {}
        self.arrivals: dict[int, tuple[int, int]] = {}
        self._fed = fed_of(program, self.arrays)
        self._parts = {(v.name, v.box): v for v in program.variables}
        self._mirrors: dict[int, Array] = {}  # variables on units that somebody fills on the host
        # Outputs that are variables which the step changes: what is asked for is the value at its start.
        self._assigned = {i.variable for i in program.instructions if isinstance(i, Assign)} | _written(program)
        self._old = {o.value: np.empty_like(self.arrays[o.value]) for o in program.outputs if o.value in self._assigned}
        self._bind()
        self.segments: list[Segment] = []

    def _bind(self) -> None:
        for i, instruction in enumerate(self.program.instructions):
            match instruction:
                case Run() | Assign():
                    call = self.kernels.call(i)
                    if is_static(self.program, instruction):
                        self._run_once(i, call)
                    else:
                        self.calls[i] = call
                        self._grade(i, instruction)
                case Send(value=value):
                    self.payloads[i] = array_payload(self.arrays[value])
                case Recv(value=value, key=key):
                    self.arrivals[key] = (i, value)

    def _grade(self, i: int, instruction: Run | Assign) -> None:
        if not isinstance(instruction, Run):
            return
        self.big[i] = instruction.seconds > BIG_S
        if self._threads > 1 and instruction.seconds > CUT_S:
            pieces = self.kernels.pieces(i, self._threads)
            if len(pieces) > 1:
                self.pieces[i] = pieces
                self._cut.add(i)

    def join(self, *, compiling: bool, apart: bool = False) -> None:
        """Let runs of small kernels go through machine code. Whenever this is done, the values stay the same to the bit.

        compiling  False: only what needs no compiling
        apart      whether each kernel goes by itself, so that its time can be told
        """
        for segment in self.segments:
            del self.pieces[segment.members[0]]
            for i in segment.members:
                self.calls[i] = self.kernels.call(i)
                if i in self._cut:
                    self.pieces[i] = self.kernels.pieces(i, self._threads)
        self.begin.clear()
        wish = Wish(self._threads, frozenset(self._cut), compiling, apart)
        self.segments = segments_of(self.program, self.kernels, wish)
        for segment in self.segments:
            for i in segment.members:
                self.calls[i] = None
                self.pieces.pop(i, None)
            first = segment.members[0]
            self.calls[first], self.begin[first] = segment.call, segment.begin
            self.big[first] = segment.pieces > 1 or self.big[first]
            self.pieces[first] = (segment.call,) * segment.pieces
        lend(self._fed, self.program, self.segments)

    def _run_once(self, i: int, call: Call) -> None:
        try:
            call()
        except Exception as error:
            raise self.kernels.error(i, error) from error

    # -- variables ----

    def set_variable(self, name: str, box: Box, array: Any) -> None:
        """Give a box of a variable, within a part that this machine owns, its value: of exactly its shape and element type.

        Raises  DataError
        """
        part, region = self._held(name, box)
        expected, given = TensorType(type_of(self.program.values[part.value]).dtype, box_shape(box)), np.asarray(array)
        if given.shape != expected.shape or given.dtype != expected.dtype.numpy:
            raise DataError(f"variable {name!r}{text_of(box)} is {expected}; found {given.dtype}{list(given.shape)}")
        if self.units.at(part.value) is None:
            np.copyto(part_of(self.arrays[part.value], region), given)
            return
        mirror = self._mirrors.get(part.value)
        held = self.units.read(part.value) if mirror is None else mirror
        np.copyto(part_of(held, region), given)
        self.units.write(part.value, held)

    def get_variable(self, name: str, box: Box) -> Array:
        """A copy of a box of a variable, within a part that this machine owns."""
        part, region = self._held(name, box)
        if part.value in self._mirrors:
            return part_of(self._mirrors[part.value], region).copy()
        if self.units.at(part.value) is None:
            return part_of(self.arrays[part.value], region).copy()
        found = self.units.read(part.value)
        return found if found.shape == box_shape(box) else part_of(found, region).copy()

    def variable_array(self, name: str, box: Box) -> Array:
        """The array of a part of a variable that this machine owns, not a copy."""
        value = self._part(name, box).value
        if self.units.at(value) is None:
            return self.arrays[value]
        if value in self._assigned:
            raise UsageError(f"variable {name!r}{text_of(box)} is on a unit, and the step itself changes it")
        if value not in self._mirrors:
            self._mirrors[value] = self.units.read(value)
        return self._mirrors[value]

    def init_variables(self, seed: int, told: Told) -> None:
        """Give every variable its first value: the same numbers however it is split. `told`: of bytes done, and of all."""
        hosts = [(v, self.arrays[v.value]) for v in self.program.variables if self.units.at(v.value) is None]
        fill(hosts, seed=seed, threads=self._threads, told=told)
        for v in self.program.variables:
            if self.units.at(v.value) is not None:
                array = np.empty(box_shape(v.box), dtype_of(self.program.values[v.value].dtype).numpy)
                fill([(v, array)], seed=seed, threads=self._threads, told=told)
                self.set_variable(v.name, v.box, array)

    def _held(self, name: str, box: Box) -> tuple[Variable, Box]:
        """The part that holds this box of a variable, and where in it the box lies."""
        for (held, own), part in self._parts.items():
            if held == name and len(own) == len(box):
                pairs = list(zip(own, box, strict=True))
                if all(start <= low <= high <= end for (start, end), (low, high) in pairs):
                    return part, tuple((low - start, high - start) for (start, _), (low, high) in pairs)
        raise self._not_owned(name, box)

    def _part(self, name: str, box: Box) -> Variable:
        part = self._parts.get((name, tuple(box)))
        if part is None:
            raise self._not_owned(name, box)
        return part

    def _not_owned(self, name: str, box: Box) -> UsageError:
        own = ", ".join(f"{n}{text_of(b)}" for n, b in self._parts) or "none"
        return UsageError(f"{self.program.machine} does not own variable {name!r}{text_of(box)}", owns=own)

    # -- what goes into a step, and comes out ----

    def feed(self, step: int, feeds: Feeds) -> None:
        """Put the inputs and the step's number in their places. Raises DataError."""
        for one in self._fed:
            one.put(one.part(feeds))
        if self.program.step_value >= 0:
            self.arrays[self.program.step_value][...] = step
        for value, old in self._old.items():
            np.copyto(old, self.arrays[value])
        for value, mirror in self._mirrors.items():
            self.units.write(value, mirror)

    def check_feeds(self, feeds: Feeds) -> None:
        """Raises DataError unless the arrays of `feeds` are what this machine reads; functions are not called."""
        for one in self._fed:
            if not callable(feeds.get(one.feed.name)):
                one.part(feeds)

    def outputs(self, *, copy: bool) -> dict[PartKey, Array]:
        found = {(o.name, o.box): self._old.get(o.value, self.arrays[o.value]) for o in self.program.outputs}
        return {key: array.copy() for key, array in found.items()} if copy else found


def _written(program: Program) -> set[int]:
    """The variables that kernels write where they lie."""
    variables = {v.value for v in program.variables}
    return {v for i in program.instructions if isinstance(i, Run) for v in i.outputs if v in variables}
