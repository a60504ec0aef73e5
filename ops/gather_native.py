"""scatter_add and scatter_step as compiled loops: the bits of the NumPy kernels, whose values are added one index after the other.

Pieces are ranges of rows of the result; each looks at all indices and adds what is its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np

from rainshed.ops.array_kernel import ArrayKernel, array_kernel, ints
from rainshed.ops.code_cache import can_compile, digest_of
from rainshed.ops.ir import Attrs
from rainshed.ops.op import Bind, Call, Types
from rainshed.ops.sweeps import cuts
from rainshed.ops.types import TensorType, fixed

Check = Callable[..., None]  # of indices and a size
FORM: Final = ("f32", "i64", "f32", ints(5), *ints(2))  # of the arguments of _scattered
STEP_FORM: Final = ("f32", "i64", "f32", "f32", ints(3), *ints(2))  # and of _stepped


def _scattered(values, indices, out, n, first, last):  # type: ignore[no-untyped-def]
    """Rows first to last of each [rows, after] of the result.

    n  how many of these; how many indices; the index of row 0; rows; after
    """
    before, many, base, rows, after = n
    for b in range(before):
        for i in range((b * rows + first) * after, (b * rows + last) * after):
            out[i] = np.float32(0)
        for i in range(many):
            row = indices[i] - base
            if first <= row < last:
                source, target = (b * many + i) * after, (b * rows + row) * after
                for j in range(after):
                    out[target + j] += values[source + j]


def _stepped(values, indices, alpha, out, n, first, last):  # type: ignore[no-untyped-def]
    """The same, times alpha[0] and added to what is there."""
    many, base, after = n
    for i in range(many):
        row = indices[i] - base
        if first <= row < last:
            for j in range(after):
                out[row * after + j] += values[i * after + j] * alpha[0]


@lru_cache(maxsize=1)
def _compiled() -> ArrayKernel:
    return array_kernel("scattered", FORM, digest_of(__name__), lambda: _scattered)


@lru_cache(maxsize=1)
def _compiled_step() -> ArrayKernel:
    return array_kernel("stepped", STEP_FORM, digest_of(__name__), lambda: _stepped)


def added(check: Check, types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of scatter_add, for float32; `check` refuses indices that are not below a size."""
    values, indices = types
    if values.dtype.name != "float32" or not values.size or not output.size or not can_compile():
        return None
    shape, axis = fixed(output.shape), attrs["axis"]
    n = (math.prod(shape[:axis]), indices.size, attrs["base"], shape[axis], math.prod(shape[axis + 1 :]))
    size = attrs["size"] if attrs["whole"] is None else attrs["whole"]
    return partial(_bound, partial(check, size=size), n)


def _bound(
    check: Callable[[np.ndarray], None], n: tuple[int, ...], operands: tuple[Any, ...], pieces: int
) -> list[Call]:
    values, indices, out = (operand.reshape(-1) for operand in operands)
    run = _compiled()
    if indices.dtype == np.int64:
        bound = [run.bind(values, indices, out, n, *span) for span in cuts(n[3], pieces)]
        return [partial(_checked, check, operands[1], call) for call in bound]
    wide = np.empty(indices.shape, np.int64)
    bound = [run.bind(values, wide, out, n, *span) for span in cuts(n[3], 1)]
    return [partial(_widened, check, operands[1], wide, bound[0])]


def _checked(check: Callable[[np.ndarray], None], indices: np.ndarray, call: Call) -> None:
    check(indices)
    call()


def _widened(check: Callable[[np.ndarray], None], indices: np.ndarray, wide: np.ndarray, call: Call) -> None:
    check(indices)
    np.copyto(wide, indices.reshape(-1))
    call()


def moved(check: Check, types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of scatter_step, for float32 and indices of 64 bits."""
    values, indices = types[:2]
    fits = values.dtype.name == "float32" and indices.dtype.name == "int64"
    if not fits or not values.size or not output.size or not can_compile():
        return None
    size = attrs["size"] if attrs["whole"] is None else attrs["whole"]
    n = (indices.size, attrs["base"], values.size // indices.size)
    return partial(_step_bound, partial(check, size=size), n, np.full(1, attrs["alpha"], np.float32))


def _step_bound(
    check: Callable[[np.ndarray], None], n: tuple[int, ...], alpha: np.ndarray, operands: tuple[Any, ...], pieces: int
) -> list[Call]:
    values, indices, w, out = operands
    flat, run = [x.reshape(-1) for x in (values, indices, out)], _compiled_step()
    return [
        partial(_moved, check, indices, (w[low:high], out[low:high]), run.bind(*flat[:2], alpha, flat[2], n, low, high))
        for low, high in cuts(len(out), pieces)
    ]


def _moved(
    check: Callable[[np.ndarray], None], indices: np.ndarray, rows: tuple[np.ndarray, np.ndarray], call: Call
) -> None:
    """w is put in its place if it is not there already, and the steps are added."""
    check(indices)
    if rows[0].ctypes.data != rows[1].ctypes.data:
        np.copyto(rows[1], rows[0])
    call()
