"""Compiled functions of arrays, whole numbers and tuples of them, called as kernels of one address (see `ops/code_cache.py`).

What they take is declared as a form, part by part: "f32" is a flat array of that element type, "i64x2" one with two axes, "u16" one
of unsigned words, "n" a whole number, and a tuple is a tuple of such parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Final

import numpy as np

from rainshed.ops.code_cache import Code, callable_at, digest_of, kernel_code
from rainshed.ops.op import Call
from rainshed.ops.types import dtype_of

Form = tuple[Any, ...]
MODULE: Final = "rainshed.ops.lowering"  # loads Numba
INTS_2D: Final = "i64x2"


def ints(count: int) -> Form:
    """A tuple of so many whole numbers."""
    return ("n",) * count


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """A compiled function and the numbers that stand for its arguments; `kept` are these.

    room  how many numbers of working memory each of the two last arrays needs that whoever calls it has to give; 0: none
    """

    code: Code
    numbers: np.ndarray[Any, Any]
    kept: tuple[Any, ...]
    room: tuple[int, int] = (0, 0)


class ArrayKernel:
    """A function compiled for arguments of one form. It releases the GIL."""

    __slots__ = ("_code", "_form")

    def __init__(self, code: Code, form: Form) -> None:
        self._code, self._form = code, form

    def __call__(self, *args: Any) -> None:
        numbers = np.array(list(_numbers(self._form, args)), np.int64)
        self._code(_address(numbers))

    def bind(self, *args: Any) -> Call:
        """A call without arguments, with these arrays, which must stay where they are."""
        bound = self.bound(*args)
        return partial(run_bound, callable_at(self._code.address, 1), _address(bound.numbers), bound)

    def bound(self, *args: Any, room: tuple[int, int] = (0, 0)) -> Bound:
        """It with these arrays, for machine code that calls it."""
        return Bound(self._code, np.array(list(_numbers(self._form, args)), np.int64), args, room)


def array_kernel(name: str, form: Form, source: str, make: Callable[[], Any]) -> ArrayKernel:
    """The function that `make` gives, compiled, or from the cache; `source` is all that it is made from."""
    text = f"{form}\n{source}\n{digest_of(MODULE)}"
    return ArrayKernel(kernel_code(name, text, lambda: import_module(MODULE).lowered_of_form(make(), form)), form)


def run_bound(call: Callable[[int], int], address: int, bound: Bound) -> None:
    """What `bind` gives, with `bound` to keep."""
    call(address)


def _address(array: np.ndarray[Any, Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _numbers(form: Form, args: tuple[Any, ...]) -> Iterator[int]:
    """Arguments as 64-bit numbers. Raises TypeError for arrays that are not as declared: machine code would not notice."""
    for part, arg in zip(form, args, strict=True):
        if isinstance(part, tuple):
            yield from _numbers(part, arg)
        elif part == "n":
            yield arg
        else:
            short, axes = array_of(part)
            if _short_of(arg.dtype) != short or arg.ndim != axes or not arg.flags.c_contiguous:
                raise TypeError(f"a compiled kernel takes {part}; found {arg.dtype}{list(arg.shape)}")
            yield _address(arg)
            yield from arg.shape


def _short_of(dtype: np.dtype[Any]) -> str:
    return f"u{8 * dtype.itemsize}" if dtype.kind == "u" else dtype_of(dtype).short


def array_of(part: str) -> tuple[str, int]:
    """Element type and number of axes."""
    short, _, axes = part.partition("x")
    return short, int(axes or 1)
