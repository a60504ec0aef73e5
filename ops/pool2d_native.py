"""The pools and their gradients as compiled loops, with channels innermost; the same bits as the NumPy kernels.

All images are independent, so pieces are ranges of images. `n` is (rows and columns of what is read, of what is written, channels,
window, stride, low). The functions are compiled when the first kernel is asked for; Numba is not imported before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial, reduce
from importlib import import_module
from typing import Any, Final

import numpy as np

from rainshed.ops.array_kernel import ArrayKernel, Form, array_kernel, ints
from rainshed.ops.code_cache import can_compile, digest_of
from rainshed.ops.ir import Attrs
from rainshed.ops.launch import bound
from rainshed.ops.op import Bind, Call, Types
from rainshed.ops.sweeps import cuts
from rainshed.ops.taps import LOOPS, Taps
from rainshed.ops.types import TensorType, fixed
from rainshed.ops.vector import Array, address_intrinsic
from rainshed.ops.window import lows

SIZES: Final = ints(11)
Emit = Callable[..., None]


# -- one window, in LLVM's language -----------------------------------------------------------------------------------
def _emit_pool(
    builder: Any, x: Any, rows: Any, row_step: Any, columns: Any, step: Any, channels: Any, out: Any, greatest: Any
) -> None:
    """The greatest value of the taps, or their sum."""
    taps = Taps(builder, x, (rows, row_step, columns, step), channels)

    def largest(c: Any, width: int) -> None:
        builder.store(taps.reduced(c, width, -np.inf, taps.greater), taps.at(out, c, width), align=4)

    def total(c: Any, width: int) -> None:
        builder.store(taps.reduced(c, width, 0.0, builder.fadd), taps.at(out, c, width), align=4)

    with builder.if_else(builder.icmp_signed("!=", greatest, taps.count(0))) as (then, otherwise):
        with then:
            taps.each(largest)
        with otherwise:
            taps.each(total)


def _emit_won(
    builder: Any, x: Any, rows: Any, row_step: Any, columns: Any, step: Any, channels: Any, out: Any, dy: Any, *box: Any
) -> None:
    """What dy gives to the first of the greatest taps is added to `out`.

    box  first and last row and column of the window that are in `out`, and how far its rows lie apart
    """
    low, high, start, stop, apart = box
    taps = Taps(builder, x, (rows, row_step, columns, step), channels)
    won = _Won(taps, out)

    def part(c: Any, width: int) -> None:
        best, given = taps.reduced(c, width, -np.inf, taps.greater), taps.load(dy, c, width)
        free = won.begin(width)

        def tap(place: Any, number: Any) -> None:
            row, column = number
            share = won.share(free, taps.load(x, place, width), best, given)
            inside = builder.and_(builder.icmp_signed(">=", row, low), builder.icmp_signed("<", row, high))
            inside = builder.and_(inside, builder.icmp_signed(">=", column, start))
            inside = builder.and_(inside, builder.icmp_signed("<", column, stop))
            with builder.if_then(inside):
                won.add(c, builder.add(builder.mul(row, apart), builder.mul(column, step)), share)

        taps.over(c, tap)

    def four(c: Any, width: int) -> None:
        """Two rows of two, all of them in `out`, without a loop."""
        best, given, free = taps.full(-np.inf, width), taps.load(dy, c, width), won.begin(width)
        moved = [
            (row, column, builder.add(row, column))
            for row in (taps.count(0), row_step)
            for column in (taps.count(0), step)
        ]
        values = [taps.load(x, builder.add(c, to), width) for _, _, to in moved]
        for value in values:
            best = taps.greater(best, value)
        for value, (row, column, _) in zip(values, moved, strict=True):
            down = apart if row is row_step else taps.count(0)
            won.add(c, builder.add(down, column), won.share(free, value, best, given))

    two = taps.count(2)
    all_inside = [builder.icmp_signed("<=", n, taps.count(0)) for n in (low, start)]
    all_inside += [builder.icmp_signed(">=", n, two) for n in (high, stop)]
    all_inside += [builder.icmp_signed("==", n, two) for n in (rows, columns)]
    with builder.if_else(reduce(builder.and_, all_inside)) as (then, otherwise):
        with then:
            taps.each(four)
        with otherwise:
            taps.each(part)


class _Won:
    """Which taps of a window have won: the first of the greatest, channel by channel."""

    def __init__(self, taps: Taps, out: Any) -> None:
        self.taps, self.builder, self.out = taps, taps.builder, out

    def begin(self, width: int) -> Any:
        """A variable: 1 while none has won."""
        free = self.taps.tools.alloca_once(self.builder, self.taps.kind(width))
        self.builder.store(self.taps.full(1.0, width), free)
        return free

    def share(self, free: Any, value: Any, best: Any, given: Any) -> Any:
        """What a tap with this value gets."""
        builder, width = self.builder, value.type.count
        none, one = self.taps.full(0.0, width), self.taps.full(1.0, width)
        equal = builder.fcmp_ordered("==", value, best)
        wins = builder.and_(equal, builder.fcmp_ordered("==", builder.load(free), one))
        builder.store(builder.select(wins, none, builder.load(free)), free)
        return builder.select(wins, given, none)

    def add(self, c: Any, to: Any, share: Any) -> None:
        kept = self.taps.at(self.out, self.builder.add(c, to), share.type.count)
        self.builder.store(self.builder.fadd(self.builder.load(kept, align=4), share), kept, align=4)


def _intrinsics() -> dict[str, Any]:
    """pool and won: functions of addresses, counts and steps."""
    types, extending = import_module("numba").types, import_module("numba.extending")

    def code(emit: Emit) -> Callable[..., Any]:
        def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit(builder, *args)
            return context.get_dummy_value()

        return write

    def pool(typing: Any, x: Any, rows: Any, row_step: Any, columns: Any, step: Any, channels: Any, out: Any,
             greatest: Any) -> Any:  # fmt: skip
        return types.void(*[types.int64] * 8), code(_emit_pool)

    def won(typing: Any, x: Any, rows: Any, row_step: Any, columns: Any, step: Any, channels: Any, out: Any, dy: Any,
            low: Any, high: Any, start: Any, stop: Any, apart: Any) -> Any:  # fmt: skip
        return types.void(*[types.int64] * 13), code(_emit_won)

    return {"address": address_intrinsic(), "pool": extending.intrinsic(pool), "won": extending.intrinsic(won)}


# -- plain functions, compiled with these names bound -----------------------------------------------------------------
address: Any = None
pool: Any = None
won: Any = None


def _pooled(x, out, n, greatest, first, last):  # type: ignore[no-untyped-def]
    """Each window to its place."""
    height, width, rows, columns, channels, tall, wide, down, across, top, left = n
    for i in range(first * rows, last * rows):
        image, row = divmod(i, rows)
        above = max(0, row * down - top)
        many = min(height, row * down - top + tall) - above
        for column in range(columns):
            before = max(0, column * across - left)
            some = min(width, column * across - left + wide) - before
            at = address(x) + 4 * ((image * height + above) * width + before) * channels
            to = address(out) + 4 * (i * columns + column) * channels
            pool(at, many, width * channels, some, channels, channels, to, greatest)


def _handed(dy, out, n, greatest, first, last):  # type: ignore[no-untyped-def]
    """What each position gets from the windows that cover it, from the last window to the first, as taps rise."""
    height, width, rows, columns, channels, tall, wide, down, across, top, left = n
    for i in range(first * rows, last * rows):
        image, row = divmod(i, rows)
        high = min(height - 1, (row + top) // down)
        many = high - max(0, (row + top - tall + down) // down) + 1
        for column in range(columns):
            stop = min(width - 1, (column + left) // across)
            some = stop - max(0, (column + left - wide + across) // across) + 1
            at = address(dy) + 4 * ((image * height + high) * width + stop) * channels
            to = address(out) + 4 * (i * columns + column) * channels
            pool(at, many, -width * channels, some, -channels, channels, to, greatest)


def _won(x, dy, out, n, inside, first, last):  # type: ignore[no-untyped-def]
    """dy goes to the first of the greatest values of its window."""
    height, width, rows, columns, channels, tall, wide, down, across, top, left = n
    low, high, start, stop = inside
    apart = (stop - start) * channels
    for i in range(last * rows - 1, first * rows - 1, -1):  # of windows that share a position, the last adds first
        image, row = divmod(i, rows)
        if row == rows - 1:
            for j in range(image * (high - low) * apart, (image + 1) * (high - low) * apart):
                out[j] = 0
        above = max(0, row * down - top)
        many = min(height, row * down - top + tall) - above
        for column in range(columns - 1, -1, -1):
            before = max(0, column * across - left)
            some = min(width, column * across - left + wide) - before
            at = address(x) + 4 * ((image * height + above) * width + before) * channels
            given = address(dy) + 4 * (i * columns + column) * channels
            to = address(out) + 4 * ((image * (high - low) + above - low) * apart + (before - start) * channels)
            won(at, many, width * channels, some, channels, channels, to, given,
                low - above, high - above, start - before, stop - before, apart)  # fmt: skip


# -- compiled ---------------------------------------------------------------------------------------------------------
@lru_cache(maxsize=8)
def compiled(function: Callable[..., None], form: Form) -> ArrayKernel | None:
    """The function, compiled; it releases the GIL. None with NUMBA_DISABLE_JIT=1."""
    if not can_compile():
        return None
    return array_kernel(
        function.__name__[1:], form, digest_of(__name__, *LOOPS), lambda: bound(function, **_intrinsics())
    )


def _usable(types: Types, output: TensorType) -> bool:
    return all(t.dtype.name == "float32" and t.size for t in (*types, output))


def _sizes(read: tuple[int, ...], written: tuple[int, ...], attrs: Attrs, low: tuple[int, int]) -> tuple[int, ...]:
    return (*read[1:3], *written[1:3], read[3], *attrs["size"], *attrs["stride"], *low)


def _bound(run: ArrayKernel, rest: tuple[Any, ...], operands: tuple[Array, ...], pieces: int) -> list[Call]:
    flat = [operand.reshape(-1) for operand in operands]
    return [run.bind(*flat, *rest, *span) for span in cuts(len(operands[0]), pieces)]


def _pool(types: Types, output: TensorType, attrs: Attrs, greatest: bool) -> Bind | None:
    if not _usable(types, output):
        return None
    forward = "padding" in attrs
    run = compiled(_pooled if forward else _handed, ("f32", "f32", SIZES, *ints(3)))
    low = lows(attrs["padding"]) if forward else attrs["low"]
    n = _sizes(fixed(types[0].shape), fixed(output.shape), attrs, low)
    return None if run is None else partial(_bound, run, (n, int(greatest)))


def largest(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of max_pool2d."""
    return _pool(types, output, attrs, True)


def total(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of sum_pool2d."""
    return _pool(types, output, attrs, False)


def handed(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of sum_pool2d_grad."""
    return _pool(types, output, attrs, False)


def winners(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of max_pool2d_grad."""
    if not _usable(types, output):
        return None
    run = compiled(_won, ("f32", "f32", "f32", SIZES, ints(4), *ints(2)))
    n = _sizes(fixed(types[0].shape), fixed(types[1].shape), attrs, attrs["low"])
    return None if run is None else partial(_bound, run, (n, (*attrs["inside"][0], *attrs["inside"][1])))
