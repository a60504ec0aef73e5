"""A program loaded on its machine: its arrays and its calls, and what is put into them and taken out between steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from rainshed.compiler.dependencies import is_static
from rainshed.compiler.plan import Assign, Feed, Program, Recv, Run, Send, Variable
from rainshed.ops.access import Box, box_shape
from rainshed.ops.errors import DataError, PlanError, UsageError
from rainshed.ops.init import Init
from rainshed.ops.op import Op
from rainshed.ops.records import INEXACT
from rainshed.ops.text import parse_attr
from rainshed.ops.types import dtype_of
from rainshed.runtime.buffers import Array, Buffers
from rainshed.runtime.kernels import POLICIES, Call, Kernels, part_of, type_of
from rainshed.runtime.segments import Segment, segments_of
from rainshed.runtime.wire import array_payload

Feeds = Mapping[str, Any]  # input -> the whole array, or a function from a box to that part of it
PartKey = tuple[str, Box]

BIG_S: Final = 30e-6  # a kernel that takes longer is worth waking a thread for what else is ready
CUT_S: Final = 200e-6  # one that takes longer is cut, a piece for each thread


class Loaded:
    """Memory and calls of one program; the constants are computed. No threads: its user lets one step run at a time.

    calls     of each instruction; None: not a kernel, or a constant
    pieces    of an instruction that is cut for several threads; its call does all of it
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
        self.big = [False] * n
        self._threads = threads
        self.payloads: dict[int, memoryview] = {}
        self.arrivals: dict[int, tuple[int, int]] = {}
        self._parts = {(v.name, v.box): v for v in program.variables}
        self._mirrors: dict[int, Array] = {}  # variables on units that somebody fills on the host
        # Outputs that are variables which the step changes: what is asked for is the value at its start.
        self._assigned = {i.variable for i in program.instructions if isinstance(i, Assign)} | _written(program)
        self._old = {o.value: np.empty_like(self.arrays[o.value]) for o in program.outputs if o.value in self._assigned}
        self._bind()
        self.segments: list[Segment] = []

    @property
    def needs_machine_code(self) -> bool:
        """Whether there are kernels whose last bits depend on it: those go through it from the first step."""
        return any(isinstance(i, Run) and i.op in INEXACT for i in self.program.instructions)

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

    def join(self, *, compiling: bool) -> None:
        """Let runs of small kernels go through machine code. Whenever this is done, the values stay the same to the bit, but for
        the ops in INEXACT.

        compiling  False: only what needs no compiling
        """
        for segment in self.segments:
            for i in segment.members:
                self.calls[i] = self.kernels.call(i)
        self.segments = segments_of(
            self.program, self.kernels, threads=self._threads, apart=tuple(self.pieces), compiling=compiling
        )
        for segment in self.segments:
            for i in segment.members:
                self.calls[i] = None
            self.calls[segment.members[0]] = segment.call

    def _run_once(self, i: int, call: Call) -> None:
        try:
            call()
        except Exception as error:
            raise self.kernels.error(i, error) from error

    # -- variables ----

    def set_variable(self, name: str, box: Box, array: Any) -> None:
        """Give a part of a variable its value: of exactly its shape and element type. Raises DataError."""
        part = self._part(name, box)
        expected, given = type_of(self.program.values[part.value]), np.asarray(array)
        if given.shape != expected.shape or given.dtype != expected.dtype.numpy:
            raise DataError(f"variable {name!r}{text_of(box)} is {expected}; found {given.dtype}{list(given.shape)}")
        if self.units.at(part.value) is None:
            np.copyto(self.arrays[part.value], given)
            return
        if part.value in self._mirrors:
            np.copyto(self._mirrors[part.value], given)
        self.units.write(part.value, given)

    def get_variable(self, name: str, box: Box) -> Array:
        """A copy of a part of a variable that this machine owns."""
        value = self._part(name, box).value
        if value in self._mirrors:
            return self._mirrors[value].copy()
        return self.arrays[value].copy() if self.units.at(value) is None else self.units.read(value)

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

    def init_variables(self, seed: int) -> None:
        """Give every variable its first value: the same numbers however it is split."""
        for v in self.program.variables:
            init = parse_attr(v.init)
            if not isinstance(init, Init):
                raise PlanError(f"variable {v.name!r}: {v.init[:80]!r} is no initial value")
            offset = tuple(low for low, _ in v.box)
            at, of = self.units.at(v.value), self.program.values[v.value]
            array = self.arrays[v.value] if at is None else np.empty(of.shape, dtype_of(of.dtype).numpy)
            init.fill(array, seed=seed, name=v.name, whole=v.whole, offset=offset)
            if at is not None:
                self.set_variable(v.name, v.box, array)

    def _part(self, name: str, box: Box) -> Variable:
        part = self._parts.get((name, tuple(box)))
        if part is None:
            own = ", ".join(f"{n}{text_of(b)}" for n, b in self._parts) or "none"
            raise UsageError(f"{self.program.machine} does not own variable {name!r}{text_of(box)}", owns=own)
        return part

    # -- what goes into a step, and comes out ----

    def feed(self, step: int, feeds: Feeds) -> None:
        """Put the inputs and the step's number in their places. Raises DataError."""
        for feed in self.program.feeds:
            np.copyto(self.arrays[feed.value], self._fed_part(feed, feeds))
        if self.program.step_value >= 0:
            self.arrays[self.program.step_value][...] = step
        for value, old in self._old.items():
            np.copyto(old, self.arrays[value])
        for value, mirror in self._mirrors.items():
            self.units.write(value, mirror)

    def check_feeds(self, feeds: Feeds) -> None:
        """Raises DataError unless the arrays of `feeds` are what this machine reads; functions are not called."""
        for feed in self.program.feeds:
            if not callable(feeds.get(feed.name)):
                self._fed_part(feed, feeds)

    def outputs(self, *, copy: bool) -> dict[PartKey, Array]:
        found = {(o.name, o.box): self._old.get(o.value, self.arrays[o.value]) for o in self.program.outputs}
        return {key: array.copy() for key, array in found.items()} if copy else found

    def _fed_part(self, feed: Feed, feeds: Feeds) -> Array:
        name, box = feed.name, feed.box
        if name not in feeds:
            raise DataError(f"input {name!r} was not given", given=", ".join(feeds) or "none")
        expected = type_of(self.program.values[feed.value])
        given = feeds[name]
        array: Array
        if callable(given):
            array = np.asarray(given(box))
        else:
            array = np.asarray(given)
            if array.shape != feed.whole:
                raise DataError(
                    f"input {name!r} is {expected.dtype}{list(feed.whole)}; found shape {list(array.shape)}"
                )
            array = part_of(array, box)
        if array.dtype != expected.dtype.numpy:
            raise DataError(f"input {name!r} is {expected.dtype}; found element type {array.dtype}")
        if array.shape != box_shape(box):
            raise DataError(f"input {name!r}{text_of(box)} is {expected}; found shape {list(array.shape)}")
        return array


def _written(program: Program) -> set[int]:
    """The variables that kernels write where they lie."""
    variables = {v.value for v in program.variables}
    return {v for i in program.instructions if isinstance(i, Run) for v in i.outputs if v in variables}


def text_of(box: Sequence[Sequence[int]] | None) -> str:
    """A region as an index: [0:64, 10:20]."""
    return "" if not box else "[" + ", ".join(f"{low}:{high}" for low, high in box) + "]"
