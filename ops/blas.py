"""The matrix product of the BLAS library that NumPy brings, with what `numpy.matmul` leaves out: a factor, and adding to what
is there already. Found through threadpoolctl; where it is not OpenBLAS, NumPy does the same in more passes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

Array = np.ndarray[Any, Any]

ROWS, PLAIN, TURNED = 101, 111, 112  # CBLAS: rows lie one after the other; an operand as it is, or transposed
LETTERS = {np.dtype(np.float32): "s", np.dtype(np.float64): "d"}
# Names of a routine in builds of OpenBLAS, and the type of their sizes.
NAMES = (
    ("scipy_cblas_{}64_", ctypes.c_int64),
    ("cblas_{}64_", ctypes.c_int64),
    ("scipy_cblas_{}", ctypes.c_int32),
    ("cblas_{}", ctypes.c_int32),
)
# What they take: f a flag, i a size, s a number, p an address.
FORMS = {"gemm": "fffiiispipispi", "gemv": "ffiispipispi"}


class Bound(partial[Any]):
    """A call of BLAS. It knows its arrays by their addresses only, so they are kept here."""

    kept: tuple[Array, ...]


@lru_cache(maxsize=4)
def routine(letter: str, name: str) -> Callable[..., None] | None:
    """cblas_sgemm, cblas_dgemv and so on, which release the GIL; None where there is no OpenBLAS."""
    libraries = [x["filepath"] for x in threadpool_info() if x["internal_api"] == "openblas"]
    for path in sorted(libraries, key=lambda path: "numpy" not in path):  # other packages may bring one of their own
        loaded = ctypes.CDLL(path)
        for form, size in NAMES:
            found = getattr(loaded, form.format(letter + name), None)
            if found is not None:
                number = ctypes.c_float if letter == "s" else ctypes.c_double
                kinds = {"f": ctypes.c_int, "i": size, "s": number, "p": ctypes.c_void_p}
                found.argtypes = tuple(kinds[kind] for kind in FORMS[name])
                found.restype = None
                call: Callable[..., None] = found
                return call
    return None


def add_product(a: Array, b: Array, out: Array, *, alpha: float, beta: float) -> partial[Any]:
    """A function without arguments that makes `out` alpha * a @ b + beta * out. The arrays must stay where they are.

    Shapes  a: [m, k]; b: [k, n]; out: [m, n], none of them empty, of one type: float32 or float64
    """
    (m, k), n, letter = a.shape, b.shape[1], LETTERS[out.dtype]
    vector = k > 1 and 1 in (m, n)  # a matrix is read where it lies, not packed first
    call = routine(letter, "gemv" if vector else "gemm")
    laid = [_laid(x) for x in (a, b, out)]
    if call is None or None in laid or laid[2][0] != PLAIN:  # type: ignore[index]
        return partial(_add_product, a, b, out, alpha, beta)
    if vector:
        args = _vector_args(a, b, out, alpha, beta)
    else:
        (turn_a, step_a), (turn_b, step_b), (_, step_out) = laid  # type: ignore[misc]
        args = (
            ROWS, turn_a, turn_b, m, n, k, alpha, a.ctypes.data, step_a, b.ctypes.data, step_b,
            beta, out.ctypes.data, step_out,
        )  # fmt: skip
    bound = Bound(call, *args)
    bound.kept = (a, b, out)
    return bound


def _vector_args(a: Array, b: Array, out: Array, alpha: float, beta: float) -> tuple[Any, ...]:
    """Of cblas_sgemv, for a product with one row or one column: the matrix by the vector."""
    if out.shape[0] == 1:
        matrix, vector, axis = b.T, a, 1
    else:
        matrix, vector, axis = a, b, 0
    turned, step = _laid(matrix) or (PLAIN, 1)
    lying = matrix.T if turned == TURNED else matrix
    along, to = (max(1, x.strides[axis] // x.itemsize) for x in (vector, out))
    return (
        ROWS, turned, *lying.shape, alpha, matrix.ctypes.data, step, vector.ctypes.data, along,
        beta, out.ctypes.data, to,
    )  # fmt: skip


def _laid(x: Array) -> tuple[int, int] | None:
    """Whether a matrix lies transposed, and elements from row to row of what lies there; None where BLAS cannot read it."""
    (rows, columns), (down, across), size = x.shape, x.strides, x.itemsize
    if (across == size or columns == 1) and down % size == 0 and down >= columns * size:
        return PLAIN, max(1, down // size)
    if (down == size or rows == 1) and across % size == 0 and across >= rows * size:
        return TURNED, max(1, across // size)
    return None


def _add_product(a: Array, b: Array, out: Array, alpha: float, beta: float) -> None:
    product = np.matmul(a, b)
    product *= out.dtype.type(alpha)
    if beta:
        out *= out.dtype.type(beta)
        out += product
    else:
        out[...] = product
