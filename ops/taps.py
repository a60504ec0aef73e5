"""The loops over the taps of one window, in LLVM's language: shared by the pools and by convolutions of single channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final

from rainshed.ops.vector import target_shape

LOOPS: Final = (__name__, "rainshed.ops.vector")  # the modules that loops over taps are built from


class Taps:
    """Writes the loops over a window: channels outside, a vector at a time and then one by one; taps inside, in registers."""

    def __init__(self, builder: Any, x: Any, taps: Sequence[Any], channels: Any) -> None:
        self.ir, self.tools, self.builder = import_module("llvmlite.ir"), import_module("numba.core.cgutils"), builder
        self.x, self.channels = x, channels
        self.rows, self.row_step, self.columns, self.column_step = taps

    def each(self, body: Callable[[Any, int], None]) -> None:
        """`body` for each part of the channels: where it begins, and how many it has."""
        builder, width = self.builder, target_shape().width
        edge = builder.and_(self.channels, self.count(-width))
        with self.tools.for_range_slice(builder, self.count(0), edge, self.count(width), inc=True) as (c, _):
            body(c, width)
        with self.tools.for_range_slice(builder, edge, self.channels, self.count(1), inc=True) as (c, _):
            body(c, 1)

    def over(self, c: Any, body: Callable[[Any, Any], None]) -> None:
        """`body` for each tap: the place of channel c in x, and the taps' numbers."""
        builder = self.builder
        with self.tools.for_range(builder, self.rows) as row, self.tools.for_range(builder, self.columns) as column:
            down, across = builder.mul(row.index, self.row_step), builder.mul(column.index, self.column_step)
            body(builder.add(c, builder.add(down, across)), (row.index, column.index))

    def over_nine(self, c: Any, body: Callable[[Any, Any], None]) -> None:
        """`over` without loops, where there are three rows of three."""
        builder = self.builder
        for i in range(3):
            for j in range(3):
                row, column = self.count(i), self.count(j)
                down, across = builder.mul(row, self.row_step), builder.mul(column, self.column_step)
                body(builder.add(c, builder.add(down, across)), (row, column))

    def count(self, value: int) -> Any:
        return self.ir.Constant(self.ir.IntType(64), value)

    def kind(self, width: int) -> Any:
        return self.ir.VectorType(self.ir.FloatType(), width)

    def full(self, value: float, width: int) -> Any:
        return self.ir.Constant(self.kind(width), [value] * width)

    def at(self, address: Any, place: Any, width: int) -> Any:
        pointer = self.builder.inttoptr(address, self.ir.FloatType().as_pointer())
        return self.builder.bitcast(self.builder.gep(pointer, [place]), self.kind(width).as_pointer())

    def load(self, address: Any, place: Any, width: int) -> Any:
        return self.builder.load(self.at(address, place, width), align=4)

    def reduced(self, c: Any, width: int, first: float, step: Callable[[Any, Any], Any]) -> Any:
        """A variable that holds what `step` makes of all taps."""
        builder = self.builder
        total = self.tools.alloca_once(builder, self.kind(width))
        builder.store(self.full(first, width), total)

        def tap(place: Any, _: Any) -> None:
            builder.store(step(builder.load(total), self.load(self.x, place, width)), total)

        self.over(c, tap)
        return builder.load(total)

    def greater(self, best: Any, value: Any) -> Any:
        """As NumPy's maximum: what is not a number, stays."""
        builder = self.builder
        wins = builder.or_(builder.fcmp_ordered(">", value, best), builder.fcmp_unordered("uno", value, value))
        return builder.select(wins, value, best)
