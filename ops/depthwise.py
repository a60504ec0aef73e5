"""conv2d and its gradients where each channel is a group of its own: channels are the vector, and nothing is packed.

All three are the same loop: each place of the result adds up products of two arrays over some rows and columns of taps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, Final

import numpy as np

from rainshed.ops.array_kernel import INTS_2D, ArrayKernel, array_kernel, ints
from rainshed.ops.code_cache import can_compile, digest_of
from rainshed.ops.ir import Attrs
from rainshed.ops.launch import bound
from rainshed.ops.op import Bind, Call, Types
from rainshed.ops.sweeps import cuts
from rainshed.ops.taps import LOOPS, Taps
from rainshed.ops.types import TensorType, fixed
from rainshed.ops.vector import Array, address_intrinsic
from rainshed.ops.window import Pair, Window, lows, two_windows

Over = Callable[[Any, Callable[[Any, Any], None]], None]
FORM: Final = ("f32", "f32", "f32", INTS_2D, INTS_2D, ints(9), *ints(2))  # of the arguments of _products


def _emit(
    builder: Any, a: Any, b: Any, rows: Any, columns: Any, a_row: Any, a_step: Any, b_row: Any, b_step: Any,
    channels: Any, out: Any, add: Any,
) -> None:  # fmt: skip
    """out[c] (+)= the sum over rows r and columns s of a[r * a_row + s * a_step + c] * b[r * b_row + s * b_step + c]."""
    taps = Taps(builder, a, (rows, a_row, columns, a_step), channels)

    def part(c: Any, width: int, over: Over) -> None:
        kind = taps.ir.FunctionType(taps.kind(width), [taps.kind(width)] * 3)
        fused = taps.tools.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{width}f32")
        total = taps.tools.alloca_once(builder, taps.kind(width))
        old = taps.load(out, c, width)
        builder.store(builder.select(builder.icmp_signed("!=", add, taps.count(0)), old, taps.full(0.0, width)), total)

        def tap(place: Any, number: Any) -> None:
            row, column = number
            to = builder.add(c, builder.add(builder.mul(row, b_row), builder.mul(column, b_step)))
            factors = [taps.load(a, place, width), taps.load(b, to, width), builder.load(total)]
            builder.store(builder.call(fused, factors), total)

        over(c, tap)
        builder.store(builder.load(total), taps.at(out, c, width), align=4)

    three = [builder.icmp_signed("==", n, taps.count(3)) for n in (rows, columns)]
    with builder.if_else(builder.and_(*three)) as (then, otherwise):
        with then:
            taps.each(lambda c, width: part(c, width, taps.over_nine))
        with otherwise:
            taps.each(lambda c, width: part(c, width, taps.over))


def _intrinsic() -> Any:
    types = import_module("numba").types

    def added(typing: Any, a: Any, b: Any, rows: Any, columns: Any, a_row: Any, a_step: Any, b_row: Any, b_step: Any,
              channels: Any, out: Any, add: Any) -> Any:  # fmt: skip
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _emit(builder, *args)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), code

    return import_module("numba.extending").intrinsic(added)


address: Any = None
added: Any = None


def _products(a, b, out, rows, columns, n, first, last):  # type: ignore[no-untyped-def]
    """Rows first to last of the result, of all images.

    rows, columns  of the result, for each: place in a, place in b, how many taps
    n              images; numbers of an image of a, of b, of out (0: images are added up); steps; channels
    """
    images, a_image, b_image, out_image, a_row, a_step, b_row, b_step, channels = n
    for image in range(images):
        for i in range(first, last):
            from_a = address(a) + 4 * (image * a_image + rows[i, 0])
            from_b = address(b) + 4 * (image * b_image + rows[i, 1])
            to = address(out) + 4 * (image * out_image + i * len(columns) * channels)
            add = image if out_image == 0 else 0
            for j in range(len(columns)):
                added(from_a + 4 * columns[j, 0], from_b + 4 * columns[j, 1], rows[i, 2], columns[j, 2],
                      a_row, a_step, b_row, b_step, channels, to + 4 * j * channels, add)  # fmt: skip


@lru_cache(maxsize=1)
def compiled() -> ArrayKernel | None:
    """The loop, compiled; it releases the GIL. None with NUMBA_DISABLE_JIT=1."""
    if not can_compile():
        return None
    return array_kernel("taps", FORM, digest_of(__name__, *LOOPS), _bound_products)


def _bound_products() -> Callable[..., None]:
    return bound(_products, address=address_intrinsic(), added=_intrinsic())


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows and columns of the result, [places, 3], and the other numbers that `_products` takes."""

    rows: Array
    columns: Array
    n: tuple[int, ...]

    def bind(self, run: ArrayKernel, operands: tuple[Array, ...], pieces: int) -> list[Call]:
        flat = [operand.reshape(-1) for operand in operands]
        return [run.bind(*flat, self.rows, self.columns, self.n, *span) for span in cuts(len(self.rows), pieces)]


def _spans(found: list[list[tuple[int, int]]], a_step: int, b_step: int) -> Array:
    """For each place its pairs (number in a, number in b), evenly apart, as the first place in each, and how many."""
    rows = [(pairs[0][0] * a_step, pairs[0][1] * b_step, len(pairs)) if pairs else (0, 0, 0) for pairs in found]
    return np.array(rows, np.int64).reshape(-1, 3)


def _seen(window: Window, size: int, count: int) -> list[list[tuple[int, int]]]:
    """Of each window: (position, tap)."""
    at = [
        [(o * window.stride - window.low + t * window.dilation, t) for t in range(window.kernel)] for o in range(count)
    ]
    return [[(i, t) for i, t in pairs if 0 <= i < size] for pairs in at]


def _turned(found: list[list[tuple[int, int]]], places: int, which: int) -> list[list[tuple[int, int]]]:
    """The same by position (which = 0: (window, tap)) or by tap (which = 1: (position, window))."""
    turned: list[list[tuple[int, int]]] = [[] for _ in range(places)]
    for o, pairs in enumerate(found):
        for i, t in pairs:
            turned[i if which == 0 else t].append((o, t) if which == 0 else (i, o))
    return turned


def _steps(found: list[list[tuple[int, int]]]) -> Pair:
    """How far the pairs of one place lie apart, in a and in b."""
    return next(((p[1][0] - p[0][0], p[1][1] - p[0][1]) for p in found if len(p) > 1), (0, 0))


def _plan(by_row: Any, by_column: Any, widths: Pair, images: tuple[int, ...], channels: int) -> Plan:
    """widths: columns of a and of b; images: how many, and numbers of an image of a, of b, of out."""
    a, b = widths[0] * channels, widths[1] * channels
    (a_row, b_row), (a_step, b_step) = _steps(by_row), _steps(by_column)
    n = (*images, a_row * a, a_step * channels, b_row * b, b_step * channels, channels)
    return Plan(_spans(by_row, a, b), _spans(by_column, channels, channels), n)


def fits(groups: int, channels: int, out: int) -> bool:
    """Whether each channel is a group of its own, and has one channel of the result."""
    return groups == channels == out and groups > 1


def plan(kind: str, types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of conv2d ("forward"), conv2d_input_grad ("input") or conv2d_weight_grad ("weight")."""
    run = compiled()
    if run is None:
        return None
    a, b, out = (fixed(t.shape) for t in (*types, output))
    x, dy, w = {"forward": (a, out, b), "input": (out, a, b), "weight": (a, b, out)}[kind]
    windows = two_windows((w[0], w[1]), attrs, lows(attrs["padding"]) if kind == "forward" else attrs["low"])
    rows, columns = (_seen(v, n, m) for v, n, m in zip(windows, x[1:3], dy[1:3], strict=True))
    c, whole, given = x[3], x[1] * x[2] * x[3], dy[1] * dy[2] * dy[3]
    if kind == "forward":
        made = _plan(rows, columns, (x[2], w[1]), (x[0], whole, 0, given), c)
    elif kind == "input":
        turned = _turned(rows, x[1], 0), _turned(columns, x[2], 0)
        made = _plan(*turned, (dy[2], w[1]), (x[0], given, 0, whole), c)
    else:
        turned = _turned(rows, w[0], 1), _turned(columns, w[1], 1)
        made = _plan(*turned, (x[2], dy[2]), (x[0], whole, given, 0), c)
    return partial(made.bind, run)
