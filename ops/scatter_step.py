"""scatter_step: a step of the rows of a table that were taken, in its place. Made by the pass `fold_products`.

    out = w + alpha * scatter_add(values, indices, axis=0)

The gradient of a table that few rows were taken from is nearly all zeros, and is never there as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from rainshed.ops.access import Access, Axis
from rainshed.ops.errors import ShapeError
from rainshed.ops.gather import check_indices, scatter_access, scatter_clean, scatter_tile
from rainshed.ops.gather_native import moved
from rainshed.ops.ir import Attrs
from rainshed.ops.op import NUMBERS, REQUIRED, Cost, Op, Types, op
from rainshed.ops.types import TensorType, Type


def _clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    rest = {name: value for name, value in attrs.items() if name != "alpha"}
    return {**scatter_clean(types[:2], rest), "alpha": float(attrs["alpha"])}


def _infer(types: Types, attrs: Attrs) -> Type:
    values, indices, w = types
    found = TensorType(values.dtype, (attrs["size"], *values.shape[len(indices.shape) :]))
    if attrs["axis"] or found != w:
        raise ShapeError(f"scatter_step: the gradient along axis {attrs['axis']} is {found}; found w {w}")
    return found


def _access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    """The axes of the indices stay together: w is added once."""
    access = scatter_access(types[:2], output, attrs)
    axes = tuple(Axis(a.name, a.size, "whole") if a.role == "sum" else a for a in access.axes)
    return Access(axes, (*access.inputs, access.output), access.output)


def _cpu(
    values: np.ndarray, indices: np.ndarray, w: np.ndarray, out: np.ndarray,
    *, axis: int, size: int, base: int, whole: int | None, alpha: float,
) -> None:  # fmt: skip
    """One index after the other."""
    check_indices("scatter_add", indices, size if whole is None else whole)
    if w.ctypes.data != out.ctypes.data:
        np.copyto(out, w)
    flat = indices.reshape(-1).astype(np.int64) - base
    own = (flat >= 0) & (flat < size)
    with np.errstate(all="ignore"):
        steps = values.reshape(flat.size, *out.shape[1:])[own] * out.dtype.type(alpha)
        np.add.at(out, flat[own], steps)


scatter_step: Op = op(
    name="scatter_step",
    work="layout",
    arity=3,
    attrs={"axis": 0, "size": REQUIRED, "base": 0, "whole": None, "alpha": REQUIRED},
    kinds=NUMBERS,
    clean=_clean,
    infer=_infer,
    access=_access,
    tile=scatter_tile,
    cost=lambda types, output, attrs: Cost(2 * types[0].size, 3 * types[0].nbytes + types[1].nbytes),
    cpu=_cpu,
    native=lambda types, output, attrs: moved(partial(check_indices, "scatter_add"), types, output, attrs),
    doc="w + alpha * scatter_add(values, indices), which may be written over w: the gradient is never there as a whole.",
)
