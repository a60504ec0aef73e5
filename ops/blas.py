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
# Names of the functions in builds of OpenBLAS, and the type of their sizes.
NAMES = (
    ("scipy_cblas_{}gemm64_", ctypes.c_int64),
    ("cblas_{}gemm64_", ctypes.c_int64),
    ("scipy_cblas_{}gemm", ctypes.c_int32),
    ("cblas_{}gemm", ctypes.c_int32),
)


class Bound(partial[Any]):
    """A call of BLAS. It knows its arrays by their addresses only, so they are kept here."""

    kept: tuple[Array, ...]


@lru_cache(maxsize=2)
def gemm(letter: str) -> Callable[..., None] | None:
    """cblas_sgemm or cblas_dgemm, which releases the GIL; None where there is no OpenBLAS."""
    libraries = [x["filepath"] for x in threadpool_info() if x["internal_api"] == "openblas"]
    for path in sorted(libraries, key=lambda path: "numpy" not in path):  # other packages may bring one of their own
        loaded = ctypes.CDLL(path)
        for name, size in NAMES:
            found = getattr(loaded, name.format(letter), None)
            if found is not None:
                number = ctypes.c_float if letter == "s" else ctypes.c_double
                pointer, flag = ctypes.c_void_p, ctypes.c_int
                found.argtypes = (
                    flag,
                    flag,
                    flag,
                    size,
                    size,
                    size,
                    number,
                    pointer,
                    size,
                    pointer,
                    size,
                    number,
                    pointer,
                    size,
                )
                found.restype = None
                call: Callable[..., None] = found
                return call
    return None


def add_product(a: Array, b: Array, out: Array, *, alpha: float, beta: float) -> partial[Any]:
    """A function without arguments that makes `out` alpha * a @ b + beta * out. The arrays must stay where they are.

    Shapes  a: [m, k]; b: [k, n]; out: [m, n], none of them empty, of one type: float32 or float64
    """
    call = gemm(LETTERS[out.dtype])
    laid = [_laid(x) for x in (a, b, out)]
    if call is None or None in laid or laid[2][0] != PLAIN:  # type: ignore[index]
        return partial(_add_product, a, b, out, alpha, beta)
    (turn_a, step_a), (turn_b, step_b), (_, step_out) = laid  # type: ignore[misc]
    m, k = a.shape
    bound = Bound(
        call, ROWS, turn_a, turn_b, m, b.shape[1], k, alpha, a.ctypes.data, step_a, b.ctypes.data, step_b,
        beta, out.ctypes.data, step_out,
    )  # fmt: skip
    bound.kept = (a, b, out)
    return bound


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
