"""Questions about element types, by the Array API standard."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from rainshed.ops.errors import DTypeError, GraphError
from rainshed.ops.ir import Node, current_origin
from rainshed.ops.op import ANY
from rainshed.ops.types import DTYPES, DType, bfloat16, bool_, dtype_of, float32, int64, promote

__all__ = ["Info", "can_cast", "finfo", "iinfo", "isdtype", "result_type"]

_KINDS = {
    "bool": ("bool",),
    "signed integer": ("int",),
    "unsigned integer": (),
    "integral": ("int",),
    "real floating": ("float",),
    "complex floating": (),
    "numeric": ("int", "float"),
}


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a type is `kind`: a type, "bool", "integral", "real floating", "numeric", ..., or a tuple of these."""
    given = dtype_of(dtype)
    if isinstance(kind, tuple):
        return any(isdtype(given, one) for one in kind)
    if not isinstance(kind, str):
        return given == dtype_of(kind)
    if kind not in _KINDS:
        raise DTypeError(f"isdtype: {kind!r} is not a kind", known=", ".join(_KINDS), built_at=current_origin())
    return given.kind in _KINDS[kind]


def result_type(*values: Any) -> DType:
    """The common element type of nodes, arrays and types. Plain numbers follow the others, if their kind allows it."""
    numbers = [v for v in values if isinstance(v, (bool, int, float)) and not isinstance(v, np.generic)]
    found = [_type_of(v) for v in values if not any(v is n for n in numbers)]
    if not found:
        raise GraphError("result_type: needs at least one value with an element type", built_at=current_origin())
    result = promote("result_type", *found)
    for number in numbers:
        kind = "bool" if isinstance(number, bool) else "int" if isinstance(number, int) else "float"
        if ANY.index(kind) < ANY.index(result.kind) or (kind == "bool") != (result is bool_):
            raise DTypeError(f"result_type: {number!r} does not fit {result}", built_at=current_origin())
    return result


def can_cast(from_: Any, to: Any, /) -> bool:
    """Whether every value of a type or node has its place in the type `to`, by the rules of promotion."""
    given, wanted = _type_of(from_), dtype_of(to)
    return given.kind == wanted.kind and promote("can_cast", given, wanted) == wanted


def _type_of(value: Any) -> DType:
    if isinstance(value, Node):
        return value.dtype
    return dtype_of(value.dtype if isinstance(value, (np.ndarray, np.generic)) else value)


def finfo(type: Any, /) -> np.finfo[Any]:
    """The limits of a float type, of a node's or an array's too: bits, eps, max, min, smallest_normal."""
    found = _type_of(type)
    if found.kind != "float":
        raise DTypeError(f"finfo: takes a float type; found {found}", built_at=current_origin())
    return import_module("ml_dtypes").finfo(found.numpy) if found is bfloat16 else np.finfo(found.numpy)


def iinfo(type: Any, /) -> np.iinfo[Any]:
    """The limits of an integer type, of a node's or an array's too: bits, max, min."""
    found = _type_of(type)
    if found.kind != "int":
        raise DTypeError(f"iinfo: takes an integer type; found {found}", built_at=current_origin())
    return np.iinfo(found.numpy)


class Info:
    """What `__array_namespace_info__()` tells of this namespace."""

    def capabilities(self) -> dict[str, Any]:
        return {"boolean indexing": False, "data-dependent shapes": False, "max dimensions": None}

    def default_device(self) -> None:
        """None: where a value is computed is the compiler's choice, or that of `rs.on`."""

    def default_dtypes(self, *, device: Any = None) -> dict[str, DType]:
        return {"real floating": float32, "integral": int64, "indexing": int64}

    def devices(self) -> list[None]:
        return [None]

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, DType]:
        return {d.name: d for d in DTYPES if kind is None or isdtype(d, kind)}
