"""Reductions: sum, prod, max, min, any, all, argmax, argmin over some axes; mean, var, std built from them; cumulative_sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rainshed.ops.access import WHOLE, Access, Axis, Reach, Role
from rainshed.ops.broadcast import broadcast_to
from rainshed.ops.cuda import Launches
from rainshed.ops.elementwise import ELEMENTWISE, astype, equal, sqrt, square, where
from rainshed.ops.errors import DTypeError, ShapeError
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.op import NUMBERS, REQUIRED, Op, Types, op
from rainshed.ops.reshape import reshape
from rainshed.ops.scalar import FIRST, reduce_axes
from rainshed.ops.source import axis_size
from rainshed.ops.types import Shape, TensorType, Type, fixed, int64

BOOLS = ("bool",)
Axes = int | tuple[int, ...] | None


def clean_axes(name: str, axis: Any, rank: int) -> tuple[int, ...]:
    """An axis argument as sorted, non-negative axes: None means all. Raises ShapeError where one does not exist or repeats."""
    if axis is None:
        return tuple(range(rank))
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    for a in given:
        if isinstance(a, bool) or not isinstance(a, (int, np.integer)):
            raise ShapeError(f"{name}: an axis is a whole number; found {a!r}")
        if not -rank <= a < rank:
            raise ShapeError(f"{name}: there is no axis {a} in a value with {rank} axes")
    axes = tuple(sorted(int(a) % rank for a in given))
    if len(set(axes)) < len(axes):
        raise ShapeError(f"{name}: an axis is named twice in {axis!r}")
    return axes


def _cleaner(name: str) -> Callable[[Types, dict[str, Any]], Mapping[str, Any]]:
    def clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
        return {"axis": clean_axes(name, attrs["axis"], len(types[0].shape)), "keepdims": bool(attrs["keepdims"])}

    return clean


def reduced_shape(shape: Shape, axis: tuple[int, ...], keepdims: bool) -> Shape:
    if keepdims:
        return tuple(1 if i in axis else size for i, size in enumerate(shape))
    return tuple(size for i, size in enumerate(shape) if i not in axis)


def reduce_access(combine: str | None) -> Callable[[Types, TensorType, Attrs], Access]:
    """Reduced axes have the role "sum" if partial results can be combined, else they stay whole."""

    def access(types: Types, output: TensorType, attrs: Attrs) -> Access:
        shape, axis = fixed(types[0].shape), attrs["axis"]
        role: Role = "sum" if combine else "whole"
        axes = tuple(Axis(f"b{i}", size, role if i in axis else "join") for i, size in enumerate(shape))
        reach = [Reach(i) for i in range(len(shape)) if i not in axis]
        if attrs["keepdims"]:
            reach = [WHOLE if i in axis else Reach(i) for i in range(len(shape))]
        return Access(axes, (tuple(Reach(i) for i in range(len(shape))),), tuple(reach), combine)

    return access


def _reduction(name: str, numpy: Callable[..., Any], combine: str, kinds: tuple[str, ...], grad: Any, start: str) -> Op:
    formula = ELEMENTWISE[combine].formula or ""

    def infer(types: Types, attrs: Attrs) -> Type:
        (x,) = types
        if start == FIRST and 0 in [x.shape[i] for i in attrs["axis"]]:
            raise ShapeError(f"{name}: has no value over an axis of size 0: {x}, axis {attrs['axis']}")
        return TensorType(x.dtype, reduced_shape(x.shape, attrs["axis"], attrs["keepdims"]))

    def cpu(x: np.ndarray, out: np.ndarray, *, axis: tuple[int, ...], keepdims: bool) -> None:
        with np.errstate(all="ignore"):
            numpy(x, axis=axis, keepdims=keepdims, out=out)

    def cuda(types: Types, output: TensorType, attrs: Attrs) -> Launches:
        return reduce_axes(types[0], attrs["axis"], formula, start)

    return op(
        name=name,
        work="reduction",
        arity=1,
        attrs={"axis": None, "keepdims": False},
        kinds=kinds,
        clean=_cleaner(name),
        infer=infer,
        access=reduce_access(combine),
        grad=grad,
        cpu=cpu,
        cuda=cuda,
        doc=f"The {name} over `axis` (None: all axes).",
    )


def _kept(node: Node) -> Shape:
    return reduced_shape(node.inputs[0].shape, node.attrs["axis"], keepdims=True)


def _stretch(value: Node, node: Node) -> Node:
    """A value of the node's own shape stretched back to the shape of the node's input."""
    return broadcast_to(reshape(value, shape=_kept(node)), shape=node.inputs[0].shape)


def _prod_grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    """dy * (product of the others): by division where nothing is zero, and by the one zero where there is just one."""
    (x,) = node.inputs
    axis = node.attrs["axis"]
    zero = equal(x, x * 0)
    zeros = broadcast_to(sum(astype(zero, dtype=x.dtype), axis=axis, keepdims=True), shape=x.shape)
    others = prod(where(zero, x * 0 + 1, x), axis=axis, keepdims=True)
    stretched = broadcast_to(others, shape=x.shape)
    safe = where(zero, x * 0 + 1, x)
    plain = stretched / safe
    slope = where(
        equal(zeros, zeros * 0), plain, where(zero, where(equal(zeros, zeros * 0 + 1), stretched, x * 0), x * 0)
    )
    return (_stretch(dy, node) * slope,)


def _extreme_grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    """The gradient goes to the elements that attain the extreme, in equal shares."""
    (x,) = node.inputs
    hit = astype(equal(x, _stretch(node, node)), dtype=x.dtype)
    count = broadcast_to(sum(hit, axis=node.attrs["axis"], keepdims=True), shape=x.shape)
    return (_stretch(dy, node) * hit / count,)


sum: Op = _reduction("sum", np.sum, "add", NUMBERS, lambda node, dy: (_stretch(dy, node),), "0")
prod: Op = _reduction("prod", np.prod, "multiply", NUMBERS, _prod_grad, "1")
max: Op = _reduction("max", np.max, "maximum", NUMBERS, _extreme_grad, FIRST)
min: Op = _reduction("min", np.min, "minimum", NUMBERS, _extreme_grad, FIRST)
any: Op = _reduction("any", np.any, "logical_or", BOOLS, None, "False")
all: Op = _reduction("all", np.all, "logical_and", BOOLS, None, "True")


def mean(x: Node, *, axis: Axes = None, keepdims: bool = False) -> Node:
    """The mean over `axis` (None: all axes) of a float value."""
    return sum(x, axis=axis, keepdims=keepdims) / axis_size(x, axis=_axes("mean", x, axis), dtype=x.dtype)


def var(x: Node, *, axis: Axes = None, correction: float = 0.0, keepdims: bool = False) -> Node:
    """The variance over `axis`, divided by N - correction."""
    axes = _axes("var", x, axis)
    centred = x - mean(x, axis=axes, keepdims=True)
    return sum(square(centred), axis=axes, keepdims=keepdims) / (
        axis_size(x, axis=axes, dtype=x.dtype) - float(correction)
    )


def std(x: Node, *, axis: Axes = None, correction: float = 0.0, keepdims: bool = False) -> Node:
    """The square root of the variance."""
    return sqrt(var(x, axis=axis, correction=correction, keepdims=keepdims))


def _axes(name: str, x: Node, axis: Axes) -> tuple[int, ...]:
    if x.dtype.kind != "float":
        raise DTypeError(f"{name}: takes float; found {x.type}", built_at=x.origin, hint="astype(x, dtype) first")
    return clean_axes(name, axis, x.ndim)


def _arg_clean(name: str) -> Callable[[Types, dict[str, Any]], Mapping[str, Any]]:
    def clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
        rank = len(types[0].shape)
        axis = clean_axes(name, attrs["axis"], rank)
        if len(axis) != 1:
            raise ShapeError(f"{name}: takes one axis; found {attrs['axis']!r} for {types[0]}")
        return {"axis": axis, "keepdims": bool(attrs["keepdims"])}

    return clean


def _arg_infer(name: str) -> Callable[[Types, Attrs], Type]:
    def infer(types: Types, attrs: Attrs) -> Type:
        (x,) = types
        if x.shape[attrs["axis"][0]] == 0:
            raise ShapeError(f"{name}: has no value over an axis of size 0: {x}")
        return TensorType(int64, reduced_shape(x.shape, attrs["axis"], attrs["keepdims"]))

    return infer


def _arg(name: str, numpy: Callable[..., Any]) -> Op:
    def cpu(x: np.ndarray, out: np.ndarray, *, axis: tuple[int, ...], keepdims: bool) -> None:
        out[...] = numpy(x, axis=axis[0], keepdims=keepdims)

    return op(
        name=name,
        work="reduction",
        arity=1,
        attrs={"axis": REQUIRED, "keepdims": False},
        kinds=NUMBERS,
        clean=_arg_clean(name),
        infer=_arg_infer(name),
        access=reduce_access(None),
        cpu=cpu,
        doc=f"The index of the first {name[3:]}imum along one axis.",
    )


argmax: Op = _arg("argmax", np.argmax)
argmin: Op = _arg("argmin", np.argmin)


def _scan_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    axis = clean_axes("cumulative_sum", attrs["axis"], len(types[0].shape))
    if len(axis) != 1:
        raise ShapeError(f"cumulative_sum: takes one axis; found {attrs['axis']!r} for {types[0]}")
    return {"axis": axis, "reverse": bool(attrs["reverse"])}


def _scan_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    shape = fixed(output.shape)
    axes = tuple(Axis(f"b{i}", n, "whole" if i in attrs["axis"] else "join") for i, n in enumerate(shape))
    reach = tuple(Reach(i) for i in range(len(shape)))
    return Access(axes, (reach,), reach)


def _scan_cpu(x: np.ndarray, out: np.ndarray, *, axis: tuple[int, ...], reverse: bool) -> None:
    if reverse:
        x, out = np.flip(x, axis), np.flip(out, axis)
    np.cumsum(x, axis=axis[0], out=out)


cumulative_sum: Op = op(
    name="cumulative_sum",
    work="reduction",
    arity=1,
    attrs={"axis": REQUIRED, "reverse": False},
    kinds=NUMBERS,
    clean=_scan_clean,
    infer=lambda types, attrs: types[0],
    access=_scan_access,
    grad=lambda node, dy: (cumulative_sum(dy, axis=node.attrs["axis"], reverse=not node.attrs["reverse"]),),
    cpu=_scan_cpu,
    doc="Running sums along one axis; `reverse` runs from the end.",
)
