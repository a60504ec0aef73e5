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

# Numba's annotations do not know signatures and intrinsics.
types: Any = numba.types
cfunc: Any = numba.cfunc
njit: Any = numba.njit
intrinsic: Any = numba.extending.intrinsic

SIGNATURE = types.int64(types.CPointer(types.int64))


def _caster(element: Any) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def at(typing: Any, address: Any) -> Any:
        def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), make

    return at


f32_at, f64_at, i32_at, i64_at = (_caster(t) for t in (types.float32, types.float64, types.int32, types.int64))
POINTERS = {"f32": f32_at, "f64": f64_at, "i32": i32_at, "i64": i64_at}
# Of bfloat16 and float32, where one becomes the other.
WORDS = {"u16": _caster(types.uint16), "u32": _caster(types.uint32)}


@intrinsic  # type: ignore[untyped-decorator]
def _call(typing: Any, function: Any, argument: Any) -> Any:
    """Call a kernel by its address."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = ir.IntType(64)
        pointer = builder.inttoptr(args[0], ir.FunctionType(number, [cgutils.voidptr_t]).as_pointer())
        return builder.call(pointer, [builder.inttoptr(args[1], cgutils.voidptr_t)])

    return types.int64(types.int64, types.int64), make


@intrinsic  # type: ignore[untyped-decorator]
def _gemm(typing: Any, function: Any, a: Any) -> Any:
    """Call cblas_sgemm with 64-bit sizes: the arguments as they stand behind the address in `a`."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        flag, size, number, pointer = ir.IntType(32), ir.IntType(64), ir.FloatType(), cgutils.voidptr_t
        kinds = [flag, flag, flag, size, size, size, number, pointer, size, pointer, size, number, pointer, size]
        function = builder.inttoptr(args[0], ir.FunctionType(ir.VoidType(), kinds).as_pointer())
        values = []
        for i, kind in enumerate(kinds):
            word = builder.load(builder.gep(args[1], [ir.Constant(size, i + 1)]))
            if kind is flag:
                word = builder.trunc(word, flag)
            elif kind is number:
                word = builder.bitcast(builder.trunc(word, flag), number)
            elif kind is pointer:
                word = builder.inttoptr(word, pointer)
            values.append(word)
        builder.call(function, values)
        return context.get_dummy_value()

    return types.none(types.int64, types.CPointer(types.int64)), make


@njit(types.int64(types.CPointer(types.int64), types.int64), nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def run(code: Any, count: int) -> int:
    """Run kernels, each an address and the address of its arguments; the number of the one that failed, or -1."""
    for i in range(count):
        if _call(code[2 * i], code[2 * i + 1]):
            return i
    return -1


@njit(types.int64(types.int64, types.int64), nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def run_at(address: int, count: int) -> int:
    """`run` from an address."""
    done: int = run(i64_at(address), count)
    return done


@cfunc(SIGNATURE, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def multiply(a: Any) -> int:
    """cblas_sgemm: its address, then its arguments."""
    _gemm(a[0], a)
    return 0


@cfunc(SIGNATURE, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def add_rows(a: Any) -> int:
    """out[j] = sum over i of x[i, j], f32: rows, columns, x, out."""
    rows, columns, x, out = a[0], a[1], f32_at(a[2]), f32_at(a[3])
    for j in range(columns):
        out[j] = x[j]
    for i in range(1, rows):
        for j in range(columns):
            out[j] += x[i * columns + j]
    return 0


@cfunc(SIGNATURE, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def cross_entropy(a: Any) -> int:
    """The loss of each row of logits, f32: rows, columns, logits, labels (i64), out."""
    rows, columns, x, labels, out = a[0], a[1], f32_at(a[2]), i64_at(a[3]), f32_at(a[4])
    for i in range(rows):
        label, at = labels[i], i * columns
        if label < 0 or label >= columns:
            return 1
        high = x[at]
        for j in range(1, columns):
            high = max(high, x[at + j])
        total = np.float32(0)
        for j in range(columns):
            total += math.exp(x[at + j] - high)
        out[i] = math.log(total) - (x[at + label] - high)
    return 0


@cfunc(SIGNATURE, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def cross_entropy_slope(a: Any) -> int:
    """(softmax - onehot) * dy for each row, f32: rows, columns, logits, labels (i64), dy, out."""
    rows, columns, x, labels, dy, out = a[0], a[1], f32_at(a[2]), i64_at(a[3]), f32_at(a[4]), f32_at(a[5])
    for i in range(rows):
        label, at = labels[i], i * columns
        if label < 0 or label >= columns:
            return 1
        high = x[at]
        for j in range(1, columns):
            high = max(high, x[at + j])
        total = np.float32(0)
        for j in range(columns):
            value = math.exp(x[at + j] - high)
            out[at + j] = value
            total += value
        for j in range(columns):
            p = out[at + j] / total
            out[at + j] = (p - np.float32(1)) * dy[i] if j == label else p * dy[i]
    return 0


def compile_kernel(function: Any, *, cached: bool) -> Any:
    """A generated kernel: its `address` holds as long as the object."""
    return cfunc(SIGNATURE, cache=cached, error_model="numpy")(function)
