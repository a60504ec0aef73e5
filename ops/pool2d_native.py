"""The pools and their gradients as compiled loops, with channels innermost; the same bits as the NumPy kernels.

All images are independent, so pieces are ranges of images. `n` is (rows and columns of what is read, of what is written, channels,
window, stride, low). The functions are compiled when the first kernel is asked for; Numba is not imported before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module
from typing import Any

import numpy as np

from rainshed.ops.ir import Attrs
from rainshed.ops.op import Bind, Call, Types
from rainshed.ops.sweeps import cuts
from rainshed.ops.types import TensorType, fixed
from rainshed.ops.vector import Array
from rainshed.ops.window import lows

FLOATS = "float32[::1]"


def _largest(x, out, n, first, last):  # type: ignore[no-untyped-def]
    height, width, rows, columns, channels, tall, wide, down, across, top, left = n
    for i in range(first * rows, last * rows):
        image, row = divmod(i, rows)
        for column in range(columns):
            to = (i * columns + column) * channels
            for c in range(channels):
                out[to + c] = -np.inf
            for h in range(max(0, row * down - top), min(height, row * down - top + tall)):
                for v in range(max(0, column * across - left), min(width, column * across - left + wide)):
                    at = ((image * height + h) * width + v) * channels
                    for c in range(channels):
                        value, best = x[at + c], out[to + c]
                        out[to + c] = value if value > best or value != value else best


def _total(x, out, n, first, last):  # type: ignore[no-untyped-def]
    height, width, rows, columns, channels, tall, wide, down, across, top, left = n
    for i in range(first * rows, last * rows):
        image, row = divmod(i, rows)
        for column in range(columns):
            to = (i * columns + column) * channels
            for c in range(channels):
                out[to + c] = 0
            for h in range(max(0, row * down - top), min(height, row * down - top + tall)):
                for v in range(max(0, column * across - left), min(width, column * across - left + wide)):
                    at = ((image * height + h) * width + v) * channels
                    for c in range(channels):
                        out[to + c] += x[at + c]


def _handed(dy, out, n, first, last):  # type: ignore[no-untyped-def]
    """What each position gets from the windows that cover it, from the last window to the first, as taps rise."""
    height, width, rows, columns, channels, tall, wide, down, across, top, left = n
    for i in range(first * rows, last * rows):
        image, row = divmod(i, rows)
        low, high = max(0, (row + top - tall + down) // down), min(height - 1, (row + top) // down)
        for column in range(columns):
            to = (i * columns + column) * channels
            for c in range(channels):
                out[to + c] = 0
            start, stop = max(0, (column + left - wide + across) // across), min(width - 1, (column + left) // across)
            for h in range(high, low - 1, -1):
                for v in range(stop, start - 1, -1):
                    at = ((image * height + h) * width + v) * channels
                    for c in range(channels):
                        out[to + c] += dy[at + c]


def _won(x, dy, out, n, inside, room, first, last):  # type: ignore[no-untyped-def]
    """dy goes to the first of the greatest values of its window. `room` is for the best values and whether they were met."""
    height, width, rows, columns, channels, tall, wide, down, across, top, left = n
    low, high, start, stop = inside
    out[first * (high - low) * (stop - start) * channels : last * (high - low) * (stop - start) * channels] = 0
    for i in range(last * rows - 1, first * rows - 1, -1):  # of the windows that share a position, the last adds first
        image, row = divmod(i, rows)
        above, below = max(0, row * down - top), min(height, row * down - top + tall)
        for column in range(columns - 1, -1, -1):
            before, behind = max(0, column * across - left), min(width, column * across - left + wide)
            given = (i * columns + column) * channels
            for c in range(channels):
                room[c], room[channels + c] = -np.inf, 1
            for h in range(above, below):
                for v in range(before, behind):
                    at = ((image * height + h) * width + v) * channels
                    for c in range(channels):
                        value, best = x[at + c], room[c]
                        room[c] = value if value > best or value != value else best
            for h in range(above, below):
                for v in range(before, behind):
                    at = ((image * height + h) * width + v) * channels
                    to = ((image * (high - low) + h - low) * (stop - start) + v - start) * channels
                    kept = low <= h < high and start <= v < stop
                    for c in range(channels):
                        wins = room[channels + c] if x[at + c] == room[c] else np.float32(0)
                        room[channels + c] -= wins
                        if kept:
                            out[to + c] += dy[given + c] if wins else np.float32(0)


@lru_cache(maxsize=8)
def compiled(function: Callable[..., None], signature: str) -> Callable[..., None] | None:
    """The function, compiled; it releases the GIL. None with NUMBA_DISABLE_JIT=1."""
    numba = import_module("numba")
    if numba.config.DISABLE_JIT:
        return None
    made: Callable[..., None] = numba.njit(signature, nogil=True, error_model="numpy", cache=True)(function)
    return made


def _sizes(read: tuple[int, ...], written: tuple[int, ...], attrs: Attrs, low: tuple[int, int]) -> tuple[int, ...]:
    return (*read[1:3], *written[1:3], read[3], *attrs["size"], *attrs["stride"], *low)


def _usable(types: Types, output: TensorType) -> bool:
    return all(t.dtype.name == "float32" and t.size for t in (*types, output))


def _pool(function: Callable[..., None], types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    run = (
        compiled(function, f"void({FLOATS}, {FLOATS}, UniTuple(int64, 11), int64, int64)")
        if _usable(types, output)
        else None
    )
    if run is None:
        return None
    low = lows(attrs["padding"]) if "padding" in attrs else attrs["low"]
    return partial(_bound, run, _sizes(fixed(types[0].shape), fixed(output.shape), attrs, low))


def _bound(run: Callable[..., None], n: tuple[int, ...], operands: tuple[Array, ...], pieces: int) -> list[Call]:
    x, out = (operand.reshape(-1) for operand in operands)
    return [partial(run, x, out, n, *span) for span in cuts(len(operands[0]), pieces)]


def largest(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of max_pool2d."""
    return _pool(_largest, types, output, attrs)


def total(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of sum_pool2d."""
    return _pool(_total, types, output, attrs)


def handed(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of sum_pool2d_grad."""
    return _pool(_handed, types, output, attrs)


def won(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of max_pool2d_grad."""
    kinds = f"{FLOATS}, {FLOATS}, {FLOATS}, UniTuple(int64, 11), UniTuple(int64, 4), {FLOATS}, int64, int64"
    run = compiled(_won, f"void({kinds})") if _usable(types, output) else None
    if run is None:
        return None
    n = _sizes(fixed(types[0].shape), fixed(types[1].shape), attrs, attrs["low"])
    inside: tuple[Any, ...] = (*attrs["inside"][0], *attrs["inside"][1])
    return partial(_won_bound, run, n, inside)


def _won_bound(
    run: Callable[..., None],
    n: tuple[int, ...],
    inside: tuple[Any, ...],
    operands: tuple[Array, ...],
    pieces: int,
) -> list[Call]:
    x, dy, out = (operand.reshape(-1) for operand in operands)
    room = [np.empty(2 * n[4], np.float32) for _ in range(pieces)]
    return [
        partial(run, x, dy, out, n, inside, own, *span)
        for own, span in zip(room, cuts(len(operands[0]), pieces), strict=False)
    ]
