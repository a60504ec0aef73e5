"""Compiled kernels on the CPU: those that an op brings, and fused element-wise ops as loops by Numba, from the formulas that
also make the kernels for CUDA.

A loop is compiled once per body and pattern of shapes; its machine code is kept on disk (see `ops/code_cache.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np

from rainshed.ops.array_kernel import ArrayKernel, array_kernel, ints
from rainshed.ops.fused import fused, lines_of
from rainshed.ops.ir import Attrs
from rainshed.ops.op import Call, Op
from rainshed.ops.scalar import ONE, OUT, STEPS, Loop, loop_of, made
from rainshed.ops.types import TensorType, dtype_of

HEADER = "for i in range(n):"


def native_calls(op: Op, operands: tuple[np.ndarray, ...], attrs: Attrs, pieces: int = 1) -> list[Call]:
    """At most so many calls without arguments, which fill the last operand together and may run at once.

    One call of the NumPy kernel where the op has no compiled one for these types, or an array is not contiguous. The result has
    the same bits for any number of pieces.
    """
    *inputs, out = operands
    if all(x.flags.c_contiguous for x in operands):
        if op is fused:
            return [native_call(attrs["body"], *operands)]
        types = tuple(TensorType(dtype_of(x.dtype), x.shape) for x in operands)
        bind = op.native(types[:-1], types[-1], attrs) if op.native is not None else None
        if bind is not None and all(x.flags.writeable for x in operands):
            return bind(operands, pieces)
    return [partial(op.cpu, *inputs, out, **attrs)]


def native_call(body: str, *operands: np.ndarray) -> Callable[[], object]:
    """A function without arguments that fills the last operand from the others, all of them contiguous."""
    *inputs, out = operands
    types = tuple(TensorType(dtype_of(x.dtype), x.shape) for x in operands)
    loop, numbers = loop_of(types[:-1], types[-1], lines_of(body))
    if not out.size:
        return lambda: None
    # Read from there, LLVM sees that no other element of it is written before it is read, and makes vectors.
    inside = [read == ONE and is_same_place(x, out) for read, x in zip(loop.reads, inputs, strict=True)]
    loop = replace(loop, reads=tuple(OUT if i else read for i, read in zip(inside, loop.reads, strict=True)))
    kernel = compiled(loop, len(numbers[1]) if len(numbers) > 1 else 0)
    return kernel.bind(*(x.reshape(-1) for x in inputs), out.reshape(-1), *numbers)


def is_same_place(x: np.ndarray, out: np.ndarray) -> bool:
    """Whether an input is the array that is written."""
    return x.size == out.size and x.dtype == out.dtype and x.ctypes.data == out.ctypes.data


@lru_cache(maxsize=4096)
def compiled(loop: Loop, axes: int) -> ArrayKernel:
    """The loop as machine code; float errors give inf and NaN, as in NumPy. `axes`: of the shape that its numbers hold."""
    source = loop.source(HEADER, wraps=True)
    strided = ((ints(axes),) * (1 + loop.reads.count(STEPS))) if STEPS in loop.reads else ()
    form = (*(t.short for t in loop.inputs), loop.lines[-1].dtype.short, "n", *strided)
    return array_kernel("element_loop", form, source, lambda: made(source))


def plain_loop(loop: Loop) -> Callable[..., None]:
    """The same loop as plain Python."""
    return made(loop.source(HEADER))
