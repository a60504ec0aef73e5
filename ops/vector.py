"""Register-tiled products on the CPU, as LLVM vector code: the inner loops of convolutions and locally connected layers.

A tile is a few rows times one or two vectors of columns, which stay in registers while all products of a row are added up:

    out[targets[m] + j] (+)= sum over r, s of a[places[m] + runs[r] + s * a_step] * b[(r * length + s) * b_step + j]

Places, runs and targets are tables of offsets, so that windows of an image are read where they lie. Everything here is for
float32. The plain functions below are compiled, with the names that they see bound to compiled ones, when the first kernel is
asked for and the cache on disk does not have it; Numba is not imported before.

Source  Goto and van de Geijn 2008, doi:10.1145/1356052.1356053; Dukhan 2019, arXiv:1907.02129 (tables of places)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from rainshed.ops.array_kernel import INTS_2D, ArrayKernel, array_kernel, ints
from rainshed.ops.code_cache import can_compile, cpu, digest_of
from rainshed.ops.launch import bound

Array = np.ndarray[Any, Any]
BESIDE = 8  # channels of a position that lie side by side in a frame of blocks
BLOCK = 256  # products of a row at a time: so many rows of b, one panel wide, stay in the first cache


@dataclass(frozen=True, slots=True)
class Shape:
    """Of the tiles on one target: numbers in a vector, rows of a tile of two vectors, rows of a tile of one."""

    width: int
    wide: int
    narrow: int


def shape_for(features: str) -> Shape:
    """What fits the registers of a CPU with these features, in LLVM's words (+avx2,-avx512f, ...)."""
    on = {name[1:] for name in features.split(",") if name.startswith("+")}
    if "avx512f" in on:
        return Shape(width=16, wide=8, narrow=8)
    return Shape(width=8 if "avx" in on else 4, wide=6, narrow=8)


def target_shape() -> Shape:
    """For the CPU that Numba compiles for: this one, or what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say."""
    return shape_for(cpu()[1])


# -- bands of tiles, in LLVM's language -------------------------------------------------------------------------------
def band_intrinsic(rows: int, vectors: int, width: int) -> Any:
    """band(a, places, targets, first, last, runs, n_runs, length, a_step, b, b_step, out, columns, add), compiled into its caller.

    All rows of one panel, tile by tile. Arrays are addresses, steps count numbers; add: what is in `out` is added to. Nothing is
    written beside the first `columns` of a row.
    """
    types, extending = import_module("numba").types, import_module("numba.extending")

    def band(typing: Any, a: Any, places: Any, targets: Any, first: Any, last: Any, runs: Any, n_runs: Any, length: Any,
             a_step: Any, b: Any, b_step: Any, out: Any, columns: Any, add: Any) -> Any:  # fmt: skip
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a, places, targets, first, last, runs, n_runs, length, a_step, b, b_step, out, columns, add = args
            tiles = _Tiles(builder, (rows, vectors, width), (places, targets, first, last), (out, columns, add))
            tiles.emit(a, (runs, n_runs, length, a_step), (b, b_step))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 14), emit

    return extending.intrinsic(band)


class _Tiles:
    """Writes the instructions of one band; the sums of a tile are variables that LLVM keeps in registers."""

    def __init__(self, builder: Any, shape: tuple[int, int, int], rows: Any, into: Any) -> None:
        self.ir, self.tools, self.builder = import_module("llvmlite.ir"), import_module("numba.core.cgutils"), builder
        self.height, self.vectors, self.width = shape
        self.cells = [(r, v) for r in range(self.height) for v in range(self.vectors)]
        self.index, self.number = self.ir.IntType(64), self.ir.FloatType()
        self.vector = self.ir.VectorType(self.number, self.width)
        self.places, self.targets, self.first, self.last = rows
        self.out, self.columns, self.add = into
        self.whole = builder.icmp_signed(">=", self.columns, self._int(self.panel))
        self.adds = builder.icmp_signed("!=", self.add, self._int(0))
        kind = self.ir.FunctionType(self.vector, [self.vector] * 3)
        # Fused where the CPU can, two instructions where it cannot: never a call.
        self.multiply_add = self.tools.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{self.width}f32")

    @property
    def panel(self) -> int:
        return self.vectors * self.width

    def emit(self, a: Any, walk: Any, right: Any) -> None:
        builder = self.builder
        sums = {cell: self.tools.alloca_once(builder, self.vector) for cell in self.cells}
        room = self.tools.alloca_once(builder, self.number, size=self.height * self.panel)
        step = self._int(self.height)
        with self.tools.for_range_slice(builder, self.first, self.last, step, inc=True) as (m, _):
            at = [self._least(m, r) for r in range(self.height)]
            rows = [self._moved(a, self.places, i) for i in at]
            kept = [self._moved(self.out, self.targets, i) for i in at]
            self._begin(sums, kept)
            self._products(sums, rows, walk, right)
            with builder.if_else(self.whole) as (then, otherwise):
                with then:
                    for r, v in self.cells:
                        builder.store(builder.load(sums[r, v]), self._vector_at(kept[r], v), align=4)
                with otherwise:
                    for r, v in self.cells:
                        builder.store(builder.load(sums[r, v]), self._vector_at(room, r * self.vectors + v), align=4)
                    self._edge(room, m)

    def _begin(self, sums: Any, kept: Any) -> None:
        builder = self.builder
        with builder.if_else(builder.and_(self.whole, self.adds)) as (then, otherwise):
            with then:
                for r, v in self.cells:
                    builder.store(builder.load(self._vector_at(kept[r], v), align=4), sums[r, v])
            with otherwise:
                for cell in self.cells:
                    builder.store(self.ir.Constant(self.vector, [0.0] * self.width), sums[cell])

    def _products(self, sums: Any, rows: Any, walk: Any, right: Any) -> None:
        builder, (runs, n_runs, length, a_step), (b, b_step) = self.builder, walk, right
        from_b = self.tools.alloca_once_value(builder, self._floats(b))
        along = self.tools.alloca_once(builder, self.index)
        builder.store(self._floats(b), from_b)
        with self.tools.for_range(builder, n_runs) as run:
            builder.store(self._entry(runs, run.index), along)
            with self.tools.for_range(builder, length):
                step, here = builder.load(along), builder.load(from_b)
                columns = [builder.load(self._vector_at(here, v), align=4) for v in range(self.vectors)]
                for r in range(self.height):
                    left = self._spread(builder.load(builder.gep(rows[r], [step]), align=4))
                    for v in range(self.vectors):
                        total = builder.call(self.multiply_add, [left, columns[v], builder.load(sums[r, v])])
                        builder.store(total, sums[r, v])
                builder.store(builder.add(step, a_step), along)
                builder.store(builder.gep(here, [b_step]), from_b)

    def _edge(self, room: Any, m: Any) -> None:
        """From `room` into rows that are shorter than the tile."""
        builder, left = self.builder, self.builder.sub(self.last, m)
        many = builder.select(builder.icmp_signed("<", left, self._int(self.height)), left, self._int(self.height))
        with self.tools.for_range(builder, many) as row:
            target = self._moved(self.out, self.targets, builder.add(m, row.index))
            source = builder.gep(room, [builder.mul(row.index, self._int(self.panel))])
            with self.tools.for_range(builder, self.columns) as column:
                place = builder.gep(target, [column.index])
                value = builder.load(builder.gep(source, [column.index]))
                old = builder.select(self.adds, builder.load(place), self.ir.Constant(self.number, 0.0))
                builder.store(builder.fadd(value, old), place)

    def _int(self, value: int) -> Any:
        return self.ir.Constant(self.index, value)

    def _floats(self, address: Any) -> Any:
        return self.builder.inttoptr(address, self.number.as_pointer())

    def _entry(self, table: Any, i: Any) -> Any:
        return self.builder.load(self.builder.gep(self.builder.inttoptr(table, self.index.as_pointer()), [i]))

    def _moved(self, base: Any, table: Any, i: Any) -> Any:
        return self.builder.gep(self._floats(base), [self._entry(table, i)])

    def _least(self, m: Any, r: int) -> Any:
        """Row m + r, or the last one instead, whose tile cells then repeat it."""
        i, last = self.builder.add(m, self._int(r)), self.builder.sub(self.last, self._int(1))
        return self.builder.select(self.builder.icmp_signed("<", i, last), i, last)

    def _vector_at(self, pointer: Any, v: int) -> Any:
        moved = self.builder.gep(pointer, [self._int(v * self.width)])
        return self.builder.bitcast(moved, self.vector.as_pointer())

    def _spread(self, one: Any) -> Any:
        none, first = self.ir.Constant(self.vector, self.ir.Undefined), self.ir.Constant(self.ir.IntType(32), 0)
        every = self.ir.Constant(self.ir.VectorType(self.ir.IntType(32), self.width), [0] * self.width)
        return self.builder.shuffle_vector(self.builder.insert_element(none, one, first), none, every)


def address_intrinsic() -> Any:
    """address(array): of its first element."""
    numba, ir = import_module("numba"), import_module("llvmlite.ir")

    def address(typing: Any, array: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            made = context.make_array(signature.args[0])(context, builder, args[0])
            return builder.ptrtoint(made.data, ir.IntType(64))

        return numba.types.int64(array), emit

    return import_module("numba.extending").intrinsic(address)


def move_intrinsic() -> Any:
    """move(to, source, many): so many numbers, between addresses that do not overlap."""
    types, ir = import_module("numba").types, import_module("llvmlite.ir")
    tools = import_module("numba.core.cgutils")

    def move(typing: Any, to: Any, source: Any, many: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = ir.FloatType().as_pointer()
            to, source = (builder.inttoptr(x, pointer) for x in args[:2])
            tools.raw_memcpy(builder, to, source, args[2], 4, align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 3), emit

    return import_module("numba.extending").intrinsic(move)


# -- plain functions, compiled with these names bound -----------------------------------------------------------------
# They allocate nothing and are as short as can be: compiling them is part of a program's first step.
address: Any = None
move: Any = None
wide: Any = None  # a band of two vectors
narrow: Any = None  # a band of one
pad: Any = None
pack: Any = None
WIDTH = 0  # of a vector


def _pad(x, n, many, out):  # type: ignore[no-untyped-def]
    """Copy `many` images from address x into `out`, moved down and right by (top, left), cropped; the rest of out stays."""
    height, width, channels, from_channel, some, top, left, rows, columns, blocks = n
    first = max(0, -left)
    wanted = min(width, columns - left) - first
    if blocks:
        for i in range(many * height):
            row = i % height + top
            if 0 <= row < rows:
                source = x + 4 * ((i * width + first) * channels + from_channel)
                target = out + 4 * (i // height * rows * some + row * BESIDE) * columns + 4 * BESIDE * (first + left)
                for c in range(0, some, BESIDE):
                    for j in range(wanted):
                        move(target + 4 * (c * rows * columns + j * BESIDE), source + 4 * (j * channels + c), BESIDE)
        return
    parts, length = (1, wanted * some) if some == channels else (wanted, some)
    for i in range(many * height):
        row = i % height + top
        if 0 <= row < rows:
            source = x + 4 * ((i * width + first) * channels + from_channel)
            target = out + 4 * (((i // height * rows + row) * columns + first + left) * some)
            for j in range(parts):
                move(target + 4 * j * some, source + 4 * j * channels, length)


def _pack(b, start, places, rows, step, columns, out):  # type: ignore[no-untyped-def]
    """So many rows of b at `places`, `columns` numbers that lie `step` apart, as panels two vectors wide; zeros at the end."""
    panel, at = 2 * WIDTH, 0
    for low in range(0, columns, panel):
        many = min(panel, columns - low)
        for k in range(rows):
            source = start + places[k] + low * step
            if step == 1 and many == panel:
                move(address(out) + 4 * at, address(b) + 4 * source, panel)
            else:
                for j in range(panel):
                    out[at + j] = b[source + j * step] if j < many else np.float32(0)
            at += panel


def _products(a, b, out, n, geometry, tables, units, packed, frame):  # type: ignore[no-untyped-def]
    """Products of windows and packed columns, unit by unit: every kernel of a convolution, by way of its tables.

    n       what is unpacked below; `geometry` is for `pad`
    tables  places of all rows, their targets, runs, and places of the rows of b
    units   for each: place in a, in b and in out, first and last row, runs, images, 1 to add to what is there
    packed  room for the columns of one unit; where it is empty, b is read as it is
    frame   room for the padded images of one unit; where it is empty, a is read as it is
    """
    length, a_step, columns, step, b_step, chunk, at_once, once = n
    places, targets, runs, weights = tables
    at, ends = address(places), address(targets)
    for i in range(len(frame)):
        frame[i] = 0
    for u in range(len(units)):
        low, high, n_runs = units[u, 3], units[u, 4], units[u, 5]
        from_a, from_b, b_panel = address(a) + 4 * units[u, 0], address(b) + 4 * units[u, 1], 2 * WIDTH
        if len(packed):
            from_b, b_panel = address(packed), n_runs * length * b_panel
            if u == 0 or not once:
                pack(b, units[u, 1], weights, n_runs * length, step, columns, packed)
        if len(frame):
            pad(from_a, geometry, units[u, 6], address(frame))
            from_a = address(frame)
        while low < high:
            end, r = min(low + chunk, high), 0
            while r == 0 or r < n_runs:
                some, add, from_runs = min(at_once, n_runs - r), units[u, 7] + r, address(runs) + 8 * r
                to, column = address(out) + 4 * units[u, 2], from_b + 4 * r * length * b_step
                for left in range(columns, 0, -2 * WIDTH):
                    if left > WIDTH:
                        wide(from_a, at, ends, low, end, from_runs, some, length, a_step, column,
                             b_step, to, left, add)  # fmt: skip
                    else:
                        narrow(from_a, at, ends, low, end, from_runs, some, length, a_step, column,
                               b_step, to, left, add)  # fmt: skip
                    column += 4 * b_panel
                    to += 8 * WIDTH
                r += at_once
            low = end


# -- compiled ---------------------------------------------------------------------------------------------------------
FORM = ("f32", "f32", "f32", ints(8), ints(10), ("i64",) * 4, INTS_2D, "f32", "f32")  # of the arguments of _products


@dataclass(frozen=True, slots=True)
class Products:
    """`_products` compiled, which releases the GIL, and the shape of its tiles."""

    shape: Shape
    run: ArrayKernel


@lru_cache(maxsize=1)
def products() -> Products | None:
    """Compiled for this CPU, or for what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say; None with NUMBA_DISABLE_JIT=1."""
    if not can_compile():
        return None
    shape = target_shape()
    return Products(shape, array_kernel("products", FORM, digest_of(__name__), lambda: _bound_products(shape)))


def _bound_products(shape: Shape) -> Any:
    names: dict[str, Any] = {
        "address": address_intrinsic(),
        "move": move_intrinsic(),
        "wide": band_intrinsic(shape.wide, 2, shape.width),
        "narrow": band_intrinsic(shape.narrow, 1, shape.width),
        "WIDTH": shape.width,
        "BESIDE": BESIDE,
    }
    always = import_module("numba").njit(inline="always", nogil=True, error_model="numpy")
    for function in (_pad, _pack):
        names[function.__name__[1:]] = always(bound(function, **names))
    return bound(_products, **names)
