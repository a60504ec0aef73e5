"""Matrix products of bfloat16 by a processor that multiplies it (AVX512_BF16): tiles in vector registers, sums in float32.

Operands are packed as pairs along the shared axis, the even one in the lower half of 32 bits. An instruction adds two products to
each sum, the odd one first. Products of two bfloat16 are exact in float32, so the same order in plain vector code gives the same
bits: that form is for tests, on processors that lack the instruction. The functions below are compiled, with the names that they
see bound to compiled ones, when the first kernel is asked for.

Source  Goto and van de Geijn 2008, doi:10.1145/1356052.1356053; Intel, Architecture Instruction Set Extensions, VDPBF16PS
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from typing import Any

import numpy as np

from rainshed.ops.blas import Array
from rainshed.ops.code_cache import can_compile, cpu
from rainshed.ops.launch import bound
from rainshed.ops.vector import address_intrinsic

INSTRUCTION = "llvm.x86.avx512bf16.dpbf16ps.512"
DEPTH, COLUMNS, ROWS = (
    512,
    1024,
    96,
)  # of a block: what is packed of b fits the second cache, and of a with room to spare


@dataclass(frozen=True, slots=True)
class Tile:
    """Numbers in a vector, rows of a tile, and whether the instruction is used; a tile has two vectors of columns."""

    width: int
    rows: int
    short: bool


SHORT, PLAIN = Tile(width=16, rows=12, short=True), Tile(width=8, rows=4, short=False)


def has_instruction() -> bool:
    """Whether Numba compiles for a processor with AVX512_BF16: this one, or what NUMBA_CPU_FEATURES says."""
    return can_compile() and "+avx512bf16" in cpu()[1].split(",")


def add_short_product(a: Array, b: Array, out: Array, *, alpha: float, beta: float) -> partial[Any]:
    """A function without arguments that makes `out` alpha * a @ b + beta * out. The arrays must stay where they are.

    Shapes  a: bf16[m, k]; b: bf16[k, n]; out: f32[m, n]; beta: 0 or 1
    """
    if not has_instruction():
        return partial(_by_blas, a, b, out, alpha, beta)
    return partial(multiply(SHORT), a.view(np.uint16), b.view(np.uint16), out, np.float32(alpha), bool(beta))


def _by_blas(a: Array, b: Array, out: Array, alpha: float, beta: float) -> None:
    """The same from float32 copies, where the processor lacks the instruction."""
    total = np.matmul(a.astype(np.float32), b.astype(np.float32))
    total *= np.float32(alpha)
    np.add(out, total, out=out) if beta else np.copyto(out, total)


# -- one tile, in LLVM's language -------------------------------------------------------------------------------------
def tile_intrinsic(tile: Tile) -> Any:
    """sums(a, b, pairs, out): out[r, j] = the sum over pairs of a and b, all addresses; a tile of a packed a and b, in order."""
    types, extending = import_module("numba").types, import_module("numba.extending")

    def sums(typing: Any, a: Any, b: Any, pairs: Any, out: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _Sums(builder, tile).emit(*args)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), emit

    return extending.intrinsic(sums)


class _Sums:
    """Writes the instructions of one tile; its sums are variables that LLVM keeps in registers."""

    def __init__(self, builder: Any, tile: Tile) -> None:
        self.ir, self.tools, self.builder = import_module("llvmlite.ir"), import_module("numba.core.cgutils"), builder
        self.tile, ir = tile, self.ir
        self.index, self.word, self.number = ir.IntType(64), ir.IntType(32), ir.FloatType()
        self.words, self.numbers = ir.VectorType(self.word, tile.width), ir.VectorType(self.number, tile.width)
        plain = f"llvm.fmuladd.v{tile.width}f32"
        operand, name = (self.words, INSTRUCTION) if tile.short else (self.numbers, plain)
        order = [self.numbers, operand, operand] if tile.short else [operand, operand, self.numbers]
        kind = ir.FunctionType(self.numbers, order)
        self.function = self.tools.get_or_insert_function(builder.module, kind, name)

    def emit(self, a: Any, b: Any, pairs: Any, out: Any) -> None:
        builder, tools, tile = self.builder, self.tools, self.tile
        cells = [(r, v) for r in range(tile.rows) for v in range(2)]
        sums = {cell: tools.alloca_once(builder, self.numbers) for cell in cells}
        for cell in cells:
            builder.store(self.ir.Constant(self.numbers, [0.0] * tile.width), sums[cell])
        left, right = (builder.inttoptr(x, self.word.as_pointer()) for x in (a, b))
        with tools.for_range(builder, pairs) as step:
            at_a, at_b = (builder.mul(step.index, self._int(n)) for n in (tile.rows, 2 * tile.width))
            columns = [self._vector(right, builder.add(at_b, self._int(v * tile.width))) for v in range(2)]
            for r in range(tile.rows):
                row = self._spread(builder.load(builder.gep(left, [builder.add(at_a, self._int(r))])))
                for v in range(2):
                    builder.store(self._two_products(builder.load(sums[r, v]), row, columns[v]), sums[r, v])
        target = builder.inttoptr(out, self.number.as_pointer())
        for i, cell in enumerate(cells):
            place = builder.gep(target, [self._int(i * tile.width)])
            builder.store(builder.load(sums[cell]), builder.bitcast(place, self.numbers.as_pointer()), align=4)

    def _two_products(self, total: Any, a: Any, b: Any) -> Any:
        if self.tile.short:
            return self.builder.call(self.function, [total, a, b])
        for half in (self._upper, self._lower):
            total = self.builder.call(self.function, [half(a), half(b), total])
        return total

    def _upper(self, words: Any) -> Any:
        mask = self.ir.Constant(self.words, [0xFFFF0000] * self.tile.width)
        return self.builder.bitcast(self.builder.and_(words, mask), self.numbers)

    def _lower(self, words: Any) -> Any:
        shift = self.ir.Constant(self.words, [16] * self.tile.width)
        return self.builder.bitcast(self.builder.shl(words, shift), self.numbers)

    def _vector(self, pointer: Any, i: Any) -> Any:
        place = self.builder.gep(pointer, [i])
        return self.builder.load(self.builder.bitcast(place, self.words.as_pointer()), align=4)

    def _spread(self, one: Any) -> Any:
        none, first = self.ir.Constant(self.words, self.ir.Undefined), self.ir.Constant(self.word, 0)
        return self.builder.shuffle_vector(
            self.builder.insert_element(none, one, first), none, self.ir.Constant(self.words, [0] * self.tile.width)
        )

    def _int(self, value: int) -> Any:
        return self.ir.Constant(self.index, value)


# -- plain functions, compiled with these names bound -----------------------------------------------------------------
address: Any = None
sums: Any = None
pack: Any = None
HEIGHT, PANEL = 0, 0  # rows and columns of a tile


def _pack(x, low, many, from_k, depth, size, out):  # type: ignore[no-untyped-def]
    """Pairs along the second axis of x, `size` rows of it side by side: panel by panel; zeros where there is nothing."""
    at, pairs = 0, (depth + 1) // 2
    for panel in range(0, many, size):
        rows = min(size, many - panel)
        for p in range(pairs):
            k = from_k + 2 * p
            whole = 2 * p + 1 < depth
            for r in range(rows):
                row = low + panel + r
                upper = np.uint32(x[row, k + 1]) if whole else np.uint32(0)
                out[at + r] = upper << np.uint32(16) | np.uint32(x[row, k])
            for r in range(rows, size):
                out[at + r] = np.uint32(0)
            at += size


def _multiply(a, b, out, alpha, add):  # type: ignore[no-untyped-def]
    """out (+)= alpha * a @ b, block by block; b is read by its transpose, so that both are packed alike."""
    m, depth, n = a.shape[0], a.shape[1], b.shape[1]
    turned = b.T
    pairs_most = (min(DEPTH, depth) + 1) // 2
    from_a = np.empty((min(ROWS, m) + HEIGHT) * pairs_most, np.uint32)
    from_b = np.empty((min(COLUMNS, n) + PANEL) * pairs_most, np.uint32)
    room = np.empty(HEIGHT * PANEL, np.float32)
    for k in range(0, depth, DEPTH):
        deep = min(DEPTH, depth - k)
        pairs = (deep + 1) // 2
        for left in range(0, n, COLUMNS):
            columns = min(COLUMNS, n - left)
            pack(turned, left, columns, k, deep, PANEL, from_b)
            for top in range(0, m, ROWS):
                rows = min(ROWS, m - top)
                pack(a, top, rows, k, deep, HEIGHT, from_a)
                for j in range(0, columns, PANEL):
                    for i in range(0, rows, HEIGHT):
                        sums(address(from_a) + 4 * i * pairs, address(from_b) + 4 * j * pairs, pairs, address(room))
                        for r in range(min(HEIGHT, rows - i)):
                            for c in range(min(PANEL, columns - j)):
                                value = alpha * room[r * PANEL + c]
                                if add or k:
                                    value += out[top + i + r, left + j + c]
                                out[top + i + r, left + j + c] = value


SIGNATURE = "void(uint16[:, :], uint16[:, :], float32[:, :], float32, boolean)"


@lru_cache(maxsize=2)
def multiply(tile: Tile) -> Callable[..., None]:
    """`_multiply` compiled, which releases the GIL. One form alone is kept on disk: Numba's cache would not tell them apart."""
    found: Callable[..., None] = dispatcher(tile, cache=tile.short)
    return found


def dispatcher(tile: Tile, *, cache: bool) -> Any:
    """The same as Numba's own object, which shows its assembly."""
    numba = import_module("numba")
    names = {"address": address_intrinsic(), "sums": tile_intrinsic(tile), "HEIGHT": tile.rows, "PANEL": 2 * tile.width}
    options = {"nogil": True, "error_model": "numpy"}
    names["pack"] = numba.njit(**options)(bound(_pack, **names))
    return numba.njit(SIGNATURE, cache=cache, **options)(bound(_multiply, **names))
