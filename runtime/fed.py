"""What is fed to a program: checked, and put where its kernels read it, or read where it lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from rainshed.compiler.dependencies import reads
from rainshed.compiler.plan import Feed, Program
from rainshed.ops.access import box_shape, whole
from rainshed.ops.errors import DataError
from rainshed.ops.types import TensorType, as_fed
from rainshed.runtime.buffers import Array
from rainshed.runtime.kernels import part_of, slices, text_of, type_of
from rainshed.runtime.segments import Segment

Feeds = Mapping[str, Any]  # input -> the whole array, or a function from a box to that part of it

LARGE: Final = 1 << 16  # bytes: less is copied sooner than addresses are changed


@dataclass(frozen=True, slots=True, eq=False)
class Address:
    """One argument of machine code that is an address within a fed value: `numbers[at]`, so many bytes from its start."""

    numbers: Array
    at: int
    offset: int


class Fed:
    """One value that is fed, and its place. `addresses`: where machine code, which alone reads it, finds it; () if it is copied."""

    def __init__(self, feed: Feed, type: TensorType, array: Array) -> None:
        self.feed, self.type, self.array = feed, type, array
        self.addresses: tuple[Address, ...] = ()
        self._lent: Array | None = None  # what is read where it lies: it must stay until the next step

    @cached_property
    def _index(self) -> tuple[slice, ...] | None:
        """The part of what is given; None: all of it."""
        return None if self.feed.box == whole(self.feed.whole) else slices(self.feed.box)

    def part(self, feeds: Feeds) -> Array:
        """What is given for it. Raises DataError."""
        given = feeds.get(self.feed.name)
        if type(given) is np.ndarray and given.shape == self.feed.whole and given.dtype == self.array.dtype:
            return given if self._index is None else given[self._index]
        return self._converted(feeds)

    def _converted(self, feeds: Feeds) -> Array:
        name, box = self.feed.name, self.feed.box
        if name not in feeds:
            raise DataError(f"input {name!r} was not given", given=", ".join(feeds) or "none")
        expected, given = self.type, feeds[name]
        array: Array
        if callable(given):
            array = np.asarray(given(box))
        else:
            array = np.asarray(given)
            if array.shape != self.feed.whole:
                raise DataError(
                    f"input {name!r} is {expected.dtype}{list(self.feed.whole)}; found shape {list(array.shape)}"
                )
            array = part_of(array, box)
        array = as_fed(array, expected.dtype)
        if array.dtype != expected.dtype.numpy:
            raise DataError(f"input {name!r} is {expected.dtype}; found element type {array.dtype}")
        if array.shape != box_shape(box):
            raise DataError(f"input {name!r}{text_of(box)} is {expected}; found shape {list(array.shape)}")
        return array

    def put(self, part: Array) -> None:
        """Let the kernels read this part: where it lies, if they can, for this step."""
        lent = part if self.addresses and part.flags.c_contiguous and part.flags.aligned else None
        if lent is None:
            np.copyto(self.array, part)
        if lent is not None or self._lent is not None:
            start = (self.array if lent is None else lent).ctypes.data
            for address in self.addresses:
                address.numbers[address.at] = start + address.offset
        self._lent = lent

    def read_by(self, addresses: Iterable[Address]) -> None:
        """From the next step on these are all addresses that are read."""
        self.addresses, self._lent = tuple(addresses), None


def fed_of(program: Program, arrays: Sequence[Array]) -> tuple[Fed, ...]:
    """All that a program is fed."""
    return tuple(Fed(f, type_of(program.values[f.value]), arrays[f.value]) for f in program.feeds)


def lend(fed: Iterable[Fed], program: Program, segments: Sequence[Segment]) -> None:
    """Let large values be read where they lie in the caller's memory: numbers that nothing but machine code reads.

    Labels and indices are copied: a kernel that refuses them is followed by the Python kernel, which says why.
    """
    joined = {i for segment in segments for i in segment.members}
    outside = {o.value for o in program.outputs}
    for i, instruction in enumerate(program.instructions):
        if i not in joined:
            outside.update(reads(instruction))
    for one in fed:
        array = one.array
        if one.feed.value in outside or array.dtype.kind != "f" or array.nbytes < LARGE:
            one.read_by(())
            continue
        first = array.ctypes.data
        numbers = [record.numbers for segment in segments for record in segment.records]
        one.read_by(
            Address(own, int(at), int(own[at]) - first)
            for own in numbers
            for at in np.flatnonzero((own >= first) & (own < first + array.nbytes))
        )
