"""Products by a matrix that many of them read: it is laid out once in the order in which the compiled kernel reads it.

    pack            [.., k, n] -> [.., panels, k, PANEL]: PANEL columns side by side, zeros behind the last; or the transpose of it
    packed_product  c + a @ b, for b packed so; with `summed`, c + the sum over g of a[g] @ b[g]

A product of few rows takes as long as reading its matrix, and BLAS packs that anew each time. Both ops are made by the pass
`pack_products`. A panel is a cache line wide, whatever the processor, so that a plan depends on none. How a result is cut never
changes its bits.

Source  Goto and van de Geijn 2008, doi:10.1145/1356052.1356053
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, Final

import numpy as np

from rainshed.ops.access import WHOLE, Access, Axis, Reach
from rainshed.ops.code_cache import Code, callable_at, can_compile, digest_of, kernel_code
from rainshed.ops.errors import ShapeError
from rainshed.ops.ir import Attrs
from rainshed.ops.launch import bound
from rainshed.ops.op import REQUIRED, Cost, Op, Tile, Types, op
from rainshed.ops.types import TensorType, Type, fixed, float32
from rainshed.ops.vector import band_intrinsic, target_shape

Array = np.ndarray[Any, Any]
PANEL: Final = 16  # numbers: a line of the cache
SUMS: Final = 8  # of a tile, in vectors: so many additions are under way at once
MODULE: Final = "rainshed.ops.machine_code"  # loads Numba
SOURCES: Final = (__name__, "rainshed.ops.vector", "rainshed.ops.lowering")


def _panels(columns: int) -> int:
    return -(-columns // PANEL)


# -- pack -------------------------------------------------------------------------------------------------------------
def _pack_infer(types: Types, attrs: Attrs) -> Type:
    (x,) = types
    if len(x.shape) not in (2, 3) or x.dtype is not float32:
        raise ShapeError(f"pack: takes matrices of f32, or one stack of them; found {x}")
    *lead, rows, columns = fixed(x.shape)
    depth, many = (columns, rows) if attrs["turn"] else (rows, columns)
    return TensorType(x.dtype, (*lead, _panels(many), depth, PANEL))


def _pack_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    shape = fixed(output.shape)
    rank = len(shape)
    panels, depth = Reach(rank - 3, scale=PANEL, high=PANEL - 1), Reach(rank - 2)
    matrix = (panels, depth) if attrs["turn"] else (depth, panels)
    axes = (*(Axis(f"b{i}", n) for i, n in enumerate(shape[:-1])), Axis("j", PANEL, "whole"))
    lead = tuple(Reach(i) for i in range(rank - 3))
    return Access(axes, ((*lead, *matrix),), tuple(Reach(i) for i in range(rank)))


def _pack_cpu(x: Array, out: Array, *, turn: bool) -> None:
    x = np.swapaxes(x, -1, -2) if turn else x
    for p in range(out.shape[-3]):
        columns = x[..., p * PANEL : (p + 1) * PANEL]
        out[..., p, :, : columns.shape[-1]] = columns
        out[..., p, :, columns.shape[-1] :] = 0


pack: Op = op(
    name="pack",
    work="layout",
    arity=1,
    attrs={"turn": False},
    infer=_pack_infer,
    access=_pack_access,
    cost=lambda types, output, attrs: Cost(0),
    cpu=_pack_cpu,
    doc="A matrix, or its transpose, as panels of columns, for `packed_product`.",
)


# -- packed_product ---------------------------------------------------------------------------------------------------
def _clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    return {"columns": int(attrs["columns"]), "summed": bool(attrs["summed"])}


def _infer(types: Types, attrs: Attrs) -> Type:
    a, b, *c = types
    shape, packed, columns = fixed(a.shape), fixed(b.shape), attrs["columns"]
    lead, (panels, depth, width) = packed[:-3], packed[-3:]
    fits = (panels, width) == (_panels(columns), PANEL) and shape[-1] == depth
    fits = fits and shape[:-2] == (lead if attrs["summed"] else ()) and len(lead) >= attrs["summed"]
    result = TensorType(float32, (*(() if attrs["summed"] else lead), shape[-2], columns))
    if not fits or any(t.dtype is not float32 for t in types) or len(c) > 1 or any(t != result for t in c):
        raise ShapeError(f"packed_product: {', '.join(map(str, types))} do not fit together", **dict(attrs))
    return result


def _access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    """Stacked matrices that are not added up, rows, and panels may be cut."""
    (*lead, panels, _, _), summed = fixed(types[1].shape), attrs["summed"]
    many = len(lead)
    axes = (*(Axis(f"b{i}", n, "whole" if summed else "join") for i, n in enumerate(lead)),
            Axis("m", fixed(output.shape)[-2]), Axis("n", panels))  # fmt: skip
    stack = tuple(Reach(i) for i in range(many))
    rows, columns = Reach(many), Reach(many + 1, scale=PANEL, high=PANEL - 1)
    result = (*(() if summed else stack), rows, columns)
    a, b = (*(stack if summed else ()), rows, WHOLE), (*stack, Reach(many + 1), WHOLE, WHOLE)
    return Access(axes, (a, b, result)[: len(types)], result)


def _tile(tile: Tile) -> Mapping[str, Any]:
    low, high = tile.result[-1]
    return {**tile.attrs, "columns": high - low}


def _cost(types: Types, output: Type, attrs: Attrs) -> Cost:
    a, b = fixed(types[0].shape), fixed(types[1].shape)
    stack = b[0] if len(b) > 3 else 1
    return Cost(2 * stack * a[-2] * a[-1] * attrs["columns"])


def _cpu(*operands: Array, columns: int, summed: bool) -> None:
    a, b, *c, out = operands
    *lead, panels, depth, width = b.shape
    whole = np.moveaxis(b, -3, -2).reshape(*lead, depth, panels * width)[..., :columns]
    total = np.matmul(a, whole)
    total = total.sum(axis=0) if summed else total
    out[...] = c[0] + total if c else total


packed_product: Op = op(
    name="packed_product",
    work="product",
    arity=None,
    attrs={"columns": REQUIRED, "summed": False},
    clean=_clean,
    infer=_infer,
    access=_access,
    tile=_tile,
    cost=_cost,
    cpu=_cpu,
    doc="A product by a packed matrix, or the sum of several, added to a value.",
)


# -- by machine code --------------------------------------------------------------------------------------------------
# Plain functions, compiled with these names bound.
band: Any = None  # ops/vector.py: the tiles of one panel
f32_at: Any = None  # ops/machine_code.py: the numbers at an address


def _panels_of(n):  # type: ignore[no-untyped-def]
    """The numbers are those of `pack_numbers`."""
    along, aside = n[6], n[7]
    for g in range(n[0]):
        for p in range(n[1]):
            x, out = f32_at(n[4] + 4 * (g * n[5] + p * PANEL * aside)), f32_at(n[8] + 4 * (g * n[9] + p * n[10]))
            many = min(PANEL, n[3] - p * PANEL)
            if many < PANEL:
                for i in range(n[2] * PANEL):
                    k, j = i // PANEL, i % PANEL
                    out[i] = x[k * along + j * aside] if j < many else np.float32(0)
            elif aside == 1:
                for k in range(n[2]):
                    for j in range(PANEL):
                        out[k * PANEL + j] = x[k * along + j]
            else:
                for k in range(n[2]):
                    for j in range(PANEL):
                        out[k * PANEL + j] = x[k + j * aside]
    return 0


def _bands(n):  # type: ignore[no-untyped-def]
    """The numbers are those of `product_numbers`."""
    for g in range(n[0]):
        for r in range(n[1]):
            a, column, to = n[2] + 4 * g * n[3], n[4] + 4 * (g * n[5] + r * n[6]), n[7] + 4 * g * n[8]
            for left in range(n[9], 0, -PANEL):
                band(a, n[10], n[11], 0, n[12], n[13] + 8 * r, 1, n[14], 1, column, PANEL, to, left, n[15] + r)
                column += 4 * PANEL * n[14]
                to += 4 * PANEL
    return 0


@lru_cache(maxsize=1)
def pack_code() -> Code | None:
    """`_panels_of` compiled; None with NUMBA_DISABLE_JIT=1."""
    return kernel_code("pack", digest_of(*SOURCES, MODULE), _lowered_pack) if can_compile() else None


@lru_cache(maxsize=1)
def packed_code() -> Code | None:
    """`_bands` compiled; None with NUMBA_DISABLE_JIT=1."""
    return kernel_code("packed_product", digest_of(*SOURCES), _lowered_product) if can_compile() else None


def _lowered_pack() -> Any:
    code = import_module(MODULE)
    return code.compile_kernel(bound(_panels_of, f32_at=code.f32_at))


def _lowered_product() -> Any:
    width = target_shape().width
    vectors = PANEL // width
    made = bound(_bands, band=band_intrinsic(SUMS // vectors, vectors, width))
    return import_module(MODULE).compile_kernel(made)


def pack_numbers(x: Array, out: Array, turn: bool) -> Array | None:
    """The arguments of the compiled kernel; None where arrays lie so that it cannot read or write them."""
    x = np.swapaxes(x, -1, -2) if turn else x
    size, (panels, depth) = x.itemsize, out.shape[-3:-1]
    (along, aside), stack = (s // size for s in x.strides[-2:]), x.ndim > 2
    if 1 not in (along, aside) or out.strides[-2:] != (size * PANEL, size) or not x.size:
        return None
    step_x, step_out = (x.strides[0] // size, out.strides[0] // size) if stack else (0, 0)
    numbers = (
        x.shape[0] if stack else 1, panels, depth, x.shape[-1], int(x.ctypes.data), step_x, along, aside,
        int(out.ctypes.data), step_out, out.strides[-3] // size,
    )  # fmt: skip
    return np.array(numbers, np.int64)


def product_numbers(operands: Sequence[Array], summed: bool) -> tuple[Array, tuple[Array, ...]] | None:
    """The arguments of the compiled kernel, which adds to what is in the last operand if there is a c, and the arrays that
    must stay; None where it cannot read or write arrays that lie so."""
    a, b, *c, out = operands
    stack, depth = (b.shape[0] if b.ndim > 3 else 1), b.shape[-2]
    size = a.itemsize
    if any(x.strides[-1] != size or any(s % size for s in x.strides) for x in (a, out)):
        return None
    if b.strides[-3:] != (4 * PANEL * depth, 4 * PANEL, 4) or not all(x.size for x in operands):
        return None
    matrices, runs = (1, stack) if summed else (stack, 1)
    rows = np.arange(a.shape[-2], dtype=np.int64)
    places, targets = rows * (a.strides[-2] // size), rows * (out.strides[-2] // size)
    along = np.arange(runs, dtype=np.int64) * (a.strides[0] // size if summed else 0)
    step_b = b.strides[0] // size if b.ndim > 3 else 0
    tables = (places, targets, along)
    at = [int(x.ctypes.data) for x in (a, b, out, *tables)]
    step_out = out.strides[0] // size if matrices > 1 else 0
    numbers = (
        matrices, runs, at[0], 0, at[1], 0 if summed else step_b, step_b, at[2], step_out, out.shape[-1],
        at[3], at[4], len(rows), at[5], depth, len(c),
    )  # fmt: skip
    return np.array(numbers, np.int64), (*operands, *tables)


def packed_call(operands: Sequence[Array], summed: bool) -> partial[Any] | None:
    """A function without arguments that fills the last operand by machine code; None where there is none."""
    code, found = packed_code(), product_numbers(operands, summed)
    if code is None or found is None:
        return None
    numbers, kept = found
    c = operands[2] if len(operands) == 4 else None
    return partial(
        _fill, c, operands[-1], callable_at(code.address, 1), int(numbers.ctypes.data), (code, numbers, kept)
    )


def _fill(c: Array | None, out: Array, call: Any, address: int, kept: object) -> None:
    if c is not None:
        np.copyto(out, c)
    call(address)
