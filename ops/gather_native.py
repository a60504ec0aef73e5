"""scatter_add as a compiled loop: the same bits as the NumPy kernel, whose values are added one index after the other.

Pieces are ranges of rows of the result; each looks at all indices and adds what is its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np

from rainshed.ops.array_kernel import ArrayKernel, array_kernel, ints
from rainshed.ops.code_cache import can_compile, text_of
from rainshed.ops.ir import Attrs
from rainshed.ops.op import Bind, Call, Types
from rainshed.ops.sweeps import cuts
from rainshed.ops.types import TensorType, fixed

Check = Callable[..., None]  # of indices and a size
FORM: Final = ("f32", "i64", "f32", ints(5), *ints(2))  # of the arguments of _scattered


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


@lru_cache(maxsize=1)
def _compiled() -> ArrayKernel:
    return array_kernel("scattered", FORM, text_of(__name__), lambda: _scattered)


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
