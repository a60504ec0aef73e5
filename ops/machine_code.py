"""Kernels that machine code calls without the interpreter: each takes the address of its arguments, 64-bit numbers, and gives 0,
or 1 where the Python kernel must say what is wrong. Numba compiles them, so this module is loaded when it is first needed.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numba.extending
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils

from rainshed.ops.blas import FORMS
from rainshed.ops.exponential import LANES, functions
from rainshed.ops.lowering import ELEMENTS, Lowered, lowered_kernel

# Numba's annotations do not know signatures and intrinsics.
types: Any = numba.types
njit: Any = numba.njit
intrinsic: Any = numba.extending.intrinsic
alloca_once: Any = cgutils.alloca_once

LAST = 1 << 40
SPINS = 2000  # looks at what another thread does before it may have the core: some microseconds
SIGNATURE = types.int64(types.CPointer(types.int64))


def kernel(signature: Any = SIGNATURE) -> Any:
    """A function that is compiled when it is asked for: it becomes one without arguments, which gives it compiled."""
    return lambda function: lambda: lowered_kernel(function, signature)


def _caster(element: Any) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def at(typing: Any, address: Any) -> Any:
        def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), make

    return at


POINTERS = {short: _caster(element) for short, element in ELEMENTS.items()}
f32_at, i64_at = POINTERS["f32"], POINTERS["i64"]


@intrinsic  # type: ignore[untyped-decorator]
def _power_of_two(typing: Any, z: Any) -> Any:
    """The low bits of a float as its exponent."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = ir.IntType(32)
        return builder.bitcast(builder.shl(builder.bitcast(args[0], bits), ir.Constant(bits, 23)), ir.FloatType())

    return types.float32(types.float32), make


@njit  # type: ignore[untyped-decorator]
def _select(condition: Any, a: Any, b: Any) -> Any:
    return a if condition else b


NUMBERS = {f"{name}_f32": made for name, made in functions(_select, _power_of_two, compiled=njit).items()}
_falling: Any = NUMBERS["falling_f32"]


@intrinsic  # type: ignore[untyped-decorator]
def _call(typing: Any, function: Any, argument: Any) -> Any:
    """Call a kernel by its address."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = ir.IntType(64)
        pointer = builder.inttoptr(args[0], ir.FunctionType(number, [cgutils.voidptr_t]).as_pointer())
        return builder.call(pointer, [builder.inttoptr(args[1], cgutils.voidptr_t)])

    return types.int64(types.int64, types.int64), make


def _blas(form: str) -> Any:
    """Call a routine of BLAS with 64-bit sizes: the arguments as they stand behind the address in `a`.

    form  of each argument: f a flag, i a size, s a float, p an address
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def call(typing: Any, function: Any, a: Any) -> Any:
        def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            size, flag = ir.IntType(64), ir.IntType(32)
            kinds = [{"f": flag, "i": size, "s": ir.FloatType(), "p": cgutils.voidptr_t}[kind] for kind in form]
            function = builder.inttoptr(args[0], ir.FunctionType(ir.VoidType(), kinds).as_pointer())
            values = []
            for i, kind in enumerate(form):
                word = builder.load(builder.gep(args[1], [ir.Constant(size, i + 1)]))
                if kind in "fs":
                    word = builder.trunc(word, flag)
                if kind == "s":
                    word = builder.bitcast(word, ir.FloatType())
                elif kind == "p":
                    word = builder.inttoptr(word, cgutils.voidptr_t)
                values.append(word)
            builder.call(function, values)
            return context.get_dummy_value()

        return types.none(types.int64, types.CPointer(types.int64)), make

    return call


_gemm, _gemv = _blas(FORMS["gemm"]), _blas(FORMS["gemv"])


def _changer(how: str) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def change_at(typing: Any, address: Any, number: Any) -> Any:
        """Change what is at an address, as one step for all threads; gives what was there before."""

        def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
            return builder.atomic_rmw(how, pointer, args[1], "seq_cst")

        return types.int64(types.int64, types.int64), make

    return change_at


_add_at, _raise_at = _changer("add"), _changer("max")


@intrinsic  # type: ignore[untyped-decorator]
def _load_at(typing: Any, address: Any) -> Any:
    """What is at an address, after all that was written before it."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), make


@intrinsic  # type: ignore[untyped-decorator]
def _yield_to(typing: Any, function: Any) -> Any:
    """Let other threads run: calls sched_yield by its address."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        return builder.sext(builder.call(builder.inttoptr(args[0], kind.as_pointer()), []), ir.IntType(64))

    return types.int64(types.int64), make


@kernel(types.int64(*[types.int64] * 6))  # type: ignore[untyped-decorator]
def run_rows(rows: int, count: int, chains: int, code: int, state: int, give_way: int) -> int:
    """Do the rows of a segment, together with whoever else is called with the same state; the record that failed, or -1.

    All arguments but `count` are addresses. A thread takes chains of a row until none is left, and waits for the others to end
    theirs; it never waits for a thread that has not come.

    rows      for each, its first chain and how many there are, which may run at once
    chains    for each, its first record and how many there are, to be done one after the other
    code      for each record, its function and the address of its numbers
    state     zeros: LAST - the first record that failed; then for each row how many chains have begun, and have ended
    give_way  sched_yield, or 0
    """
    row, chain, record = i64_at(rows), i64_at(chains), i64_at(code)
    for r in range(count):
        first, many, begun = row[2 * r], row[2 * r + 1], state + 8 + 16 * r
        ended, waited = begun + 8, 0
        while _load_at(ended) < many:
            c = _add_at(begun, 1) if waited == 0 else many
            if c >= many:
                waited += 1
                if give_way and waited % SPINS == 0:
                    _yield_to(give_way)
                continue
            at = chain[2 * (first + c)]
            for i in range(at, at + chain[2 * (first + c) + 1]):
                if _call(record[2 * i], record[2 * i + 1]):
                    _raise_at(state, LAST - i)
                    break
            _add_at(ended, 1)
        if _load_at(state):
            break
    found = _load_at(state)
    return LAST - found if found else -1


@kernel()  # type: ignore[untyped-decorator]
def multiply(a: Any) -> int:
    """cblas_sgemm: its address, then its arguments."""
    _gemm(a[0], a)
    return 0


@kernel()  # type: ignore[untyped-decorator]
def multiply_vector(a: Any) -> int:
    """cblas_sgemv: its address, then its arguments."""
    _gemv(a[0], a)
    return 0


@kernel()  # type: ignore[untyped-decorator]
def add_rows(a: Any) -> int:
    """out[b, j] = sum over i of x[b, i, j], f32: many, rows, columns, x, out."""
    many, rows, columns = a[0], a[1], a[2]
    for b in range(many):
        x, out = f32_at(a[3] + 4 * b * rows * columns), f32_at(a[4] + 4 * b * columns)
        for j in range(columns):
            out[j] = x[j]
        for i in range(1, rows):
            for j in range(columns):
                out[j] += x[i * columns + j]
    return 0


@intrinsic  # type: ignore[untyped-decorator]
def _lanes(typing: Any) -> Any:
    """The address of LANES numbers, which lie on the stack."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room = alloca_once(builder, ir.ArrayType(ir.FloatType(), LANES))
        return builder.ptrtoint(room, ir.IntType(64))

    return types.int64(), make


@njit  # type: ignore[untyped-decorator]
def _highest(x: Any, at: int, n: int) -> Any:
    """The highest of n numbers; NaN is none."""
    lanes, whole = f32_at(_lanes()), n // LANES * LANES
    for k in range(LANES):
        lanes[k] = -np.float32(np.inf)
    for j in range(0, whole, LANES):
        for k in range(LANES):
            value = x[at + j + k]
            lanes[k] = value if value > lanes[k] else lanes[k]
    for k in range(n - whole):
        value = x[at + whole + k]
        lanes[k] = value if value > lanes[k] else lanes[k]
    high = lanes[0]
    for k in range(1, LANES):
        high = max(high, lanes[k])
    return high


@njit  # type: ignore[untyped-decorator]
def _sum_exp(x: Any, at: int, n: int, high: Any, out: Any) -> Any:
    """The sum of exp(x - high), as `row_sums` adds it up; out: where the exponentials go, or None."""
    lanes, whole = f32_at(_lanes()), n // LANES * LANES
    for k in range(LANES):
        lanes[k] = np.float32(0)
    for j in range(0, n, LANES):
        for k in range(LANES if j < whole else n - whole):
            value = _falling(x[at + j + k] - high)
            lanes[k] += value
            if out is not None:
                out[at + j + k] = value
    half = LANES // 2
    while half:
        for k in range(half):
            lanes[k] += lanes[k + half]
        half //= 2
    return lanes[0]


@njit  # type: ignore[untyped-decorator]
def _pairwise(address: int, n: int) -> Any:
    """The sum of n numbers that lie side by side, in the order of numpy.sum.

    Source  NumPy, loops_utils.h.src, pairwise_sum
    """
    x = f32_at(address)
    if n < 8:
        total = np.float32(0)
        for i in range(n):
            total += x[i]
        return total
    if n > 128:
        half = n // 2 // 8 * 8
        return _pairwise(address, half) + _pairwise(address + 4 * half, n - half)
    a, b, c, d, e, f, g, h = x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]
    whole = n // 8 * 8
    for i in range(8, whole, 8):
        a, b, c, d = a + x[i], b + x[i + 1], c + x[i + 2], d + x[i + 3]
        e, f, g, h = e + x[i + 4], f + x[i + 5], g + x[i + 6], h + x[i + 7]
    total = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for i in range(whole, n):
        total += x[i]
    return total


@kernel()  # type: ignore[untyped-decorator]
def add_all(a: Any) -> int:
    """out[b] = sum over i of x[b, i], f32: many, rows, 1, x, out."""
    out = f32_at(a[4])
    for b in range(a[0]):
        out[b] = _pairwise(a[3] + 4 * b * a[1], a[1])
    return 0


@kernel()  # type: ignore[untyped-decorator]
def softmax_rows(a: Any) -> int:
    """softmax of each row of x, f32: rows, columns, x, out."""
    rows, columns, x, out = a[0], a[1], f32_at(a[2]), f32_at(a[3])
    for i in range(rows):
        at = i * columns
        total = _sum_exp(x, at, columns, _highest(x, at, columns), out)
        for j in range(columns):
            out[at + j] /= total
    return 0


@kernel()  # type: ignore[untyped-decorator]
def cross_entropy(a: Any) -> int:
    """The loss of each row of logits, f32: rows, columns, logits, labels (i64), out."""
    rows, columns, x, labels, out = a[0], a[1], f32_at(a[2]), i64_at(a[3]), f32_at(a[4])
    for i in range(rows):
        label, at = labels[i], i * columns
        if label < 0 or label >= columns:
            return 1
        high = _highest(x, at, columns)
        total = _sum_exp(x, at, columns, high, None)
        out[i] = np.float32(math.log(np.float64(total))) - (x[at + label] - high)
    return 0


@kernel()  # type: ignore[untyped-decorator]
def cross_entropy_slope(a: Any) -> int:
    """(softmax - onehot) * dy for each row, f32: rows, columns, logits, labels (i64), dy, out."""
    rows, columns, x, labels, dy, out = a[0], a[1], f32_at(a[2]), i64_at(a[3]), f32_at(a[4]), f32_at(a[5])
    for i in range(rows):
        label, at = labels[i], i * columns
        if label < 0 or label >= columns:
            return 1
        total = _sum_exp(x, at, columns, _highest(x, at, columns), out)
        for j in range(columns):
            p = out[at + j] / total
            out[at + j] = (p - np.float32(1)) * dy[i] if j == label else p * dy[i]
    return 0


def compile_kernel(function: Any) -> Lowered:
    """A generated kernel."""
    return lowered_kernel(function, SIGNATURE)
