"""The compiled kernels of ops that draw random numbers: those of `ops/fill.py`, cut along the first axis, told each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Final

import numpy as np

from rainshed.ops.array_kernel import ArrayKernel
from rainshed.ops.fill import compiled, compiled_chances, room, runs_of
from rainshed.ops.ir import Attrs
from rainshed.ops.op import Bind, Call, NativeRule, Types
from rainshed.ops.philox import key_of
from rainshed.ops.sweeps import cuts
from rainshed.ops.types import TensorType

DRAWN_FROM: Final = 1 << 14  # elements of one value: fewer are not worth loading a compiler


def draws(kind: str, line: Callable[[Attrs], tuple[float, float]]) -> NativeRule:
    """The rule for an op that gives numbers of this kind; `line`: its attributes -> scale and shift."""

    def native(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
        run = compiled(kind) if output.dtype.name == "float32" and output.size >= DRAWN_FROM else None
        if run is None:
            return None
        scale, shift = line(attrs)
        return partial(_drawing, _Drawn(run, np.array([scale, shift], np.float32), 6), attrs)

    return native


def chances(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The compiled kernel of random_bernoulli, where it gives bools: a uniform number of 53 bits is less than p."""
    run = compiled_chances() if output.dtype.name == "bool" and output.size >= DRAWN_FROM else None
    limit = np.array([ceil(attrs["p"] * 2**53)], np.uint64)
    return None if run is None else partial(_drawing, _Drawn(run, limit, 2), attrs)


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """A kernel of `ops/fill.py`, what it is told of the numbers, and how much of `room` it takes."""

    run: ArrayKernel
    numbers: np.ndarray
    room: int


def _drawing(drawn: _Drawn, attrs: Attrs, operands: tuple[np.ndarray, ...], pieces: int) -> list[Call]:
    step, out = operands
    whole, (first, *rest) = attrs["whole"] or out.shape, attrs["offset"] or (0,) * out.ndim
    flat = out.view(np.uint8) if out.dtype == np.bool_ else out
    calls: list[Call] = []
    for low, high in cuts(len(out), pieces):
        length, starts = runs_of(whole, (first + low, *rest), out[low:high].shape)
        words = np.array([0, 0, *key_of(attrs["seed"], attrs["stream"])], np.uint64)
        own = room()[: drawn.room]
        draw = drawn.run.bind(flat[low:high].reshape(-1), starts, length, words, drawn.numbers, *own)
        calls.append(partial(_draw, draw, step, words))
    return calls


def _draw(draw: Call, step: np.ndarray, words: np.ndarray) -> None:
    number = int(step)
    words[0], words[1] = number & 0xFFFFFFFF, number >> 32 & 0xFFFFFFFF
    draw()
