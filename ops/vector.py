"""Register-tiled products on the CPU, as LLVM vector code: the inner loops of convolutions and locally connected layers.

A tile is a few rows times one or two vectors of columns, which stay in registers while all products of a row are added up:

    out[targets[m] + j] (+)= sum over r, s of a[places[m] + runs[r] + s * a_step] * b[(r * length + s) * b_step + j]

Places, runs and targets are tables of offsets, so that windows of an image are read where they lie. Everything here is for
float32. The plain functions below are compiled, with the names that they see bound to compiled ones, when the first kernel is
asked for; Numba is not imported before. They stand in one file because Numba's cache on disk looks at a function's own file only.

Source  Goto and van de Geijn 2008, doi:10.1145/1356052.1356053; Dukhan 2019, arXiv:1907.02129 (tables of places)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from rainshed.ops.launch import bound

Array = np.ndarray[Any, Any]
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


# -- one tile, in LLVM's language -------------------------------------------------------------------------------------
def tile_intrinsic(rows: int, vectors: int, width: int) -> Any:
    """tile(a, places, first, last, runs, n_runs, length, a_step, b, b_step, out, targets, add), compiled into its caller.

    Rows are places[first], ..., of which those after places[last] repeat that one. Arrays are addresses, steps count numbers;
    add: what is in `out` is added to. Nothing outside the tile is written, nothing outside the sums is read.
    """
    numba = import_module("numba")
    extending = import_module("numba.extending")

    def tile(typing: Any, a: Any, places: Any, first: Any, last: Any, runs: Any, n_runs: Any, length: Any, a_step: Any,
             b: Any, b_step: Any, out: Any, targets: Any, add: Any) -> Any:  # fmt: skip
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _Tile(builder, rows, vectors, width).emit(*args)
            return context.get_dummy_value()

        return numba.types.void(*[numba.types.int64] * 13), emit

    return extending.intrinsic(tile)


class _Tile:
    """Writes the instructions of one tile; sums are variables that LLVM keeps in registers."""

    def __init__(self, builder: Any, rows: int, vectors: int, width: int) -> None:
        self.ir, self.tools = import_module("llvmlite.ir"), import_module("numba.core.cgutils")
        self.builder, self.width = builder, width
        self.index, self.number = self.ir.IntType(64), self.ir.FloatType()
        self.vector = self.ir.VectorType(self.number, width)
        self.cells = [(r, v) for r in range(rows) for v in range(vectors)]
        self.rows, self.vectors = range(rows), range(vectors)
        kind = self.ir.FunctionType(self.vector, [self.vector] * 3)
        # Fused where the CPU can, two instructions where it cannot: never a call.
        self.multiply_add = self.tools.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{width}f32")

    def emit(self, a: Any, places: Any, first: Any, last: Any, runs: Any, n_runs: Any, length: Any, a_step: Any,
             b: Any, b_step: Any, out: Any, targets: Any, add: Any) -> None:  # fmt: skip
        at = [self._least(first, r, last) for r in self.rows]
        rows = [self._moved(a, places, i) for i in at]
        kept = [self._moved(out, targets, i) for i in at]
        sums = {cell: self.tools.alloca_once(self.builder, self.vector) for cell in self.cells}
        self._begin(sums, kept, add)
        self._products(sums, rows, (runs, n_runs, length, a_step), (b, b_step))
        for r, v in self.cells:
            self.builder.store(self.builder.load(sums[r, v]), self._vector_at(kept[r], v), align=4)

    def _begin(self, sums: Any, kept: Any, add: Any) -> None:
        builder = self.builder
        with builder.if_else(builder.icmp_signed("!=", add, self._int(0))) as (then, otherwise):
            with then:
                for r, v in self.cells:
                    builder.store(builder.load(self._vector_at(kept[r], v), align=4), sums[r, v])
            with otherwise:
                for cell in self.cells:
                    builder.store(self.ir.Constant(self.vector, [0.0] * self.width), sums[cell])

    def _products(self, sums: Any, rows: Any, walk: Any, columns: Any) -> None:
        builder, (runs, n_runs, length, a_step), (b, b_step) = self.builder, walk, columns
        from_b = self.tools.alloca_once_value(builder, self._floats(b))
        along = self.tools.alloca_once(builder, self.index)
        with self.tools.for_range(builder, n_runs) as run:
            starts = [builder.gep(row, [self._entry(runs, run.index)]) for row in rows]
            builder.store(self._int(0), along)
            with self.tools.for_range(builder, length):
                step, here = builder.load(along), builder.load(from_b)
                right = [builder.load(self._vector_at(here, v), align=4) for v in self.vectors]
                for r in self.rows:
                    left = self._spread(builder.load(builder.gep(starts[r], [step]), align=4))
                    for v in self.vectors:
                        total = builder.call(self.multiply_add, [left, right[v], builder.load(sums[r, v])])
                        builder.store(total, sums[r, v])
                builder.store(builder.add(step, a_step), along)
                builder.store(builder.gep(here, [b_step]), from_b)

    def _int(self, value: int) -> Any:
        return self.ir.Constant(self.index, value)

    def _floats(self, address: Any) -> Any:
        return self.builder.inttoptr(address, self.number.as_pointer())

    def _entry(self, table: Any, i: Any) -> Any:
        return self.builder.load(self.builder.gep(self.builder.inttoptr(table, self.index.as_pointer()), [i]))

    def _moved(self, base: Any, table: Any, i: Any) -> Any:
        return self.builder.gep(self._floats(base), [self._entry(table, i)])

    def _least(self, first: Any, r: int, last: Any) -> Any:
        i = self.builder.add(first, self._int(r))
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


# -- plain functions, compiled with these names bound -----------------------------------------------------------------
# They are kept small, allocate nothing and take few arrays: compiling them is part of a program's first step.
address: Any = None
wide: Any = None  # a tile of two vectors
narrow: Any = None  # a tile of one
pad: Any = None
pack: Any = None
sweep: Any = None
WIDTH = WIDE = NARROW = 0  # of a vector; rows of the tiles


def _pad(x, start, n, many, out):  # type: ignore[no-untyped-def]
    """Copy `many` images from x[start:] into `out`, moved down and right by (top, left), cropped; the rest of out stays."""
    height, width, channels, from_channel, some = n[0], n[1], n[2], n[3], n[4]
    top, left, rows, columns = n[5], n[6], n[7], n[8]
    first, last = max(0, -left), min(width, columns - left)
    for i in range(many * height):
        image, row = divmod(i, height)
        if 0 <= row + top < rows:
            source = start + (i * width + first) * channels + from_channel
            target = ((image * rows + row + top) * columns + first + left) * some
            if some == channels:
                for c in range((last - first) * some):
                    out[target + c] = x[source + c]
            else:
                for j in range(last - first):
                    for c in range(some):
                        out[target + j * some + c] = x[source + j * channels + c]


def _pack(b, start, places, place, rows, step, columns, out):  # type: ignore[no-untyped-def]
    """Rows of b at places[place:], `columns` numbers that lie `step` apart, as panels two vectors wide; zeros at the end."""
    panel, at, low = 2 * WIDTH, 0, 0
    while low < columns:
        many = min(panel, columns - low)
        for k in range(place, place + rows):
            source = start + places[k] + low * step
            if step == 1 and many == panel:
                for j in range(panel):
                    out[at + j] = b[source + j]
            else:
                for j in range(panel):
                    out[at + j] = b[source + j * step] if j < many else np.float32(0)
            at += panel
        low += panel


def _sweep(t, rows, walk, right, out, into, room, spare):  # type: ignore[no-untyped-def]
    """All rows times all columns, tile by tile.

    t      tables: places of rows and their targets, and runs
    rows   (where in t their places are, where their targets are, first, last)
    walk   (address that the rows' places count from, where in t the runs are, number of runs, length, a_step)
    right  (address of b's first row, b_step, from one panel to the next, columns)
    into   (place in out, 1 to add)
    room   for one tile, and `spare` for its rows: columns that are fewer than a tile's go by way of it
    """
    place, target, first, last = rows
    from_a, run, n_runs, length, a_step = walk
    b, b_step, b_panel, columns = right
    start, add = into
    panel, low, runs = 2 * WIDTH, 0, address(t) + 8 * run
    while low < columns:
        many = min(panel, columns - low)
        height = WIDE if many > WIDTH else NARROW
        whole = many in (panel, WIDTH)
        m = first
        while m < last:
            at, ends, to, adds = (
                address(t) + 8 * (place + m),
                address(t) + 8 * (target + m),
                address(out) + 4 * (start + low),
                add,
            )
            end = last - 1 - m
            if not whole:
                for r in range(height):
                    spare[r] = r * panel
                ends, to, adds = address(spare), address(room), 0
                if end < height - 1:
                    for r in range(height):
                        spare[height + r] = t[place + m + min(r, end)]
                    at, end = address(spare) + 8 * height, height - 1
            if many > WIDTH:
                wide(from_a, at, 0, end, runs, n_runs, length, a_step, b, b_step, to, ends, adds)
            else:
                narrow(from_a, at, 0, end, runs, n_runs, length, a_step, b, b_step, to, ends, adds)
            if not whole:
                for r in range(min(height, last - m)):
                    here = start + t[target + m + r] + low
                    for j in range(many):
                        out[here + j] = room[r * panel + j] + (out[here + j] if add else np.float32(0))
            m += height
        b += 4 * b_panel
        low += panel


def _products(a, b, out, n, t, units, packed, frame, room, spare):  # type: ignore[no-untyped-def]
    """Products of windows and packed columns, unit by unit: every kernel of a convolution, by way of its tables.

    n       geometry for `pad`, then what is unpacked below
    t       places of all rows, their targets, runs, and places of the rows of b
    units   for each: place in a, in b and in out, first and last row, runs, images, 1 to add to what is there
    packed  room for the columns of one unit; where it is empty, b is read as it is
    frame   room for the padded images of one unit, zeros at first; where it is empty, a is read as it is
    """
    rows, all_runs, length, a_step, columns = n[9], n[10], n[11], n[12], n[13]
    step, b_step, chunk, at_once, once = n[14], n[15], n[16], n[17], n[18]
    panel, runs = 2 * WIDTH, 2 * rows
    for u in range(0, len(units), 8):
        n_runs, images, low, high = units[u + 5], units[u + 6], units[u + 3], units[u + 4]
        from_a, from_b, b_panel = address(a) + 4 * units[u], address(b) + 4 * units[u + 1], panel
        if len(packed):
            if u == 0 or not once:
                pack(b, units[u + 1], t, runs + all_runs, n_runs * length, step, columns, packed)
            from_b, b_panel = address(packed), n_runs * length * panel
        if len(frame):
            pad(a, units[u], n, images, frame)
            from_a = address(frame)
        while low < high:
            end, r = min(low + chunk, high), 0
            while r == 0 or r < n_runs:
                walk = (from_a, runs + r, min(at_once, n_runs - r), length, a_step)
                right = (from_b + 4 * r * length * b_step, b_step, b_panel, columns)
                sweep(t, (0, rows, low, end), walk, right, out, (units[u + 2], units[u + 7] + r), room, spare)
                r += at_once
            low = end


# -- compiled ---------------------------------------------------------------------------------------------------------
FLOATS, INTS = "float32[::1]", "int64[::1]"
SIGNATURE = f"void({', '.join([FLOATS] * 3)}, {', '.join([INTS] * 3)}, {', '.join([FLOATS] * 3)}, {INTS})"


@dataclass(frozen=True, slots=True)
class Products:
    """`_products` compiled, which releases the GIL, and the shape of its tiles."""

    shape: Shape
    run: Callable[..., None]


@lru_cache(maxsize=1)
def products() -> Products | None:
    """Compiled for this CPU, or for what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say; None with NUMBA_DISABLE_JIT=1."""
    numba = import_module("numba")
    if numba.config.DISABLE_JIT:
        return None
    target = import_module("numba.core.registry").cpu_target.target_context.codegen().magic_tuple()
    shape = shape_for(target[2])
    names: dict[str, Any] = {
        "address": address_intrinsic(),
        "wide": tile_intrinsic(shape.wide, 2, shape.width),
        "narrow": tile_intrinsic(shape.narrow, 1, shape.width),
        "WIDTH": shape.width,
        "WIDE": shape.wide,
        "NARROW": shape.narrow,
    }
    options = {"nogil": True, "error_model": "numpy"}
    for function in (_pad, _pack, _sweep):
        names[function.__name__[1:]] = numba.njit(inline="always", **options)(bound(function, **names))
    return Products(shape, numba.njit(SIGNATURE, cache=True, **options)(bound(_products, **names)))
