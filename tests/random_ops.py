"""How each op of the catalogue is made at random: its inputs, from its domain, and its attributes.

`OPS` has one builder per op: a function of a Maker (random_graphs.py) that returns a node of that op. An op of the catalogue is in
OPS, or in MADE_BY_COMPILER. Functions put together from several ops are in random_compounds.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rainshed.ops import CATALOGUE
from rainshed.ops.elementwise import ELEMENTWISE, ROWS, Row, astype, cos, sin
from rainshed.ops.ir import Node
from rainshed.ops.op import op, unsplittable
from rainshed.ops.source import pick, step_op
from rainshed.ops.types import TupleType, fixed

Build = Callable[[Any], Node]
C = CATALOGUE


# -- an op with two results, as a user could write one: the catalogue has none, and `pick` needs one -------------------
def _twins_cpu(x: np.ndarray, out: tuple[np.ndarray, np.ndarray]) -> None:
    np.sin(x, out=out[0])
    np.cos(x, out=out[1])


TWINS = op(
    name="twins",
    arity=1,
    kinds=("float",),
    infer=lambda types, attrs: TupleType((types[0], types[0])),
    access=lambda types, output, attrs: unsplittable(tuple(fixed(t.shape) for t in types), ()),
    grad=lambda node, a, b: (a * cos(node.inputs[0]) - b * sin(node.inputs[0]),),
    cpu=_twins_cpu,
)

# -- element-wise -----------------------------------------------------------------------------------------------------
DOMAIN: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("exp", "expm1", "sinh", "cosh", "erf"), (-3, 3)),
    **dict.fromkeys(("log", "log2", "log10", "sqrt"), (0.2, 6)),
    **dict.fromkeys(("asin", "acos", "atanh"), (-0.9, 0.9)),
    "log1p": (-0.7, 5), "tan": (-1, 1), "acosh": (1.2, 6), "reciprocal": (0.3, 4),
}  # fmt: skip
SECOND: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("divide", "remainder", "floor_divide", "hypot", "atan2"), (0.3, 4)),
    "pow": (-2, 2),
}
SECOND_INT: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("remainder", "floor_divide"), (1, 9)),
    **dict.fromkeys(("bitwise_left_shift", "bitwise_right_shift", "pow"), (0, 4)),
}
# Their value or their slope jumps: they take no loose floats.
SHARP = frozenset(
    {"abs", "sign", "relu", "step_positive", "signbit", "isfinite", "isinf", "isnan", "floor", "ceil", "trunc", "round"}
    | {"maximum", "minimum", "remainder", "floor_divide", "copysign"}
    | {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}
)


def _elementwise(row: Row) -> Build:
    def build(m: Any) -> Node:
        kind = m.one([k for k in row.kinds for _ in range(4 if k == "float" else 1)])
        x = m.value(kind, exact=row.name in SHARP and kind == "float")
        if row.name in DOMAIN:
            x = m.fit(x, *DOMAIN[row.name])
        if row.name == "pow":
            x = m.fit(x, 0.3, 3) if kind == "float" else m.fit(x, -5, 5)
        if row.arity == 1:
            return ELEMENTWISE[row.name](x)
        y = partner(m, x, kind, exact=row.name in SHARP and kind == "float")
        bounds = (SECOND if kind == "float" else SECOND_INT).get(row.name)
        if bounds is not None:
            return ELEMENTWISE[row.name](x, m.fit(y, *bounds))
        return ELEMENTWISE[row.name](y, x) if m.chance(0.3) else ELEMENTWISE[row.name](x, y)

    return build


def partner(m: Any, x: Node, kind: str, *, exact: bool = False) -> Node:
    """A second operand whose shape broadcasts against x's: the same, with sizes of 1, with fewer or with more axes; or x itself."""
    if m.chance(0.1) and x.dtype.kind == kind and not exact:
        return x
    shape = list(x.shape)
    if m.chance(0.5):
        shape = [1 if m.chance(0.3) else n for n in shape][m.int(0, len(shape)) if m.chance(0.4) else 0 :]
    elif len(shape) <= 2 and m.chance(0.3):
        shape = [m.int(1, 3), *shape]
    return m.shaped(tuple(shape), kind, exact=exact)


def _where(m: Any) -> Node:
    x = m.value(m.one(("float", "float", "int", "bool")))
    return C["where"](partner(m, x, "bool"), x, partner(m, x, x.dtype.kind))


def _astype(m: Any) -> Node:
    kind, to = m.one(
        (("float", "float"), ("float", "int"), ("int", "float"), ("bool", "float"), ("int", "bool"), ("bool", "int"))
    )
    x = m.value(kind, exact=to != "float")
    return astype(x, dtype=m.one({"float": ("float32", "float64"), "int": ("int32", "int64"), "bool": ("bool",)}[to]))


# -- leaves -----------------------------------------------------------------------------------------------------------
def _leaf(what: str) -> Build:
    def build(m: Any) -> Node:
        while True:
            node = m.leaf("float", m.shape())
            if node.op.name == what:
                return node

    return build


def _pick(m: Any) -> Node:
    both = m.add(TWINS(m.value("float")))
    return m.add(pick(both, 0)) * 2.0 + pick(both, 1) if m.chance(0.5) else pick(both, m.int(0, 1))


# -- shape ------------------------------------------------------------------------------------------------------------
def any_value(m: Any, low: int = 0, high: int = 4, known: Any = None) -> Node:
    return m.value(m.one(("float", "float", "float", "int", "bool")), low, high, known=known)


def _small(shape: tuple[int, ...]) -> bool:
    return math.prod(shape) <= 60


def _broadcast_to(m: Any) -> Node:
    x = any_value(m, known=_small)
    shape = [m.int(1, 4) if n == 1 else n for n in x.shape]
    return C["broadcast_to"](x, shape=(*([m.int(1, 3)] if len(shape) < 4 and m.chance(0.5) else []), *shape))


def _sum_to(m: Any) -> Node:
    x = m.value(m.one(("float", "float", "int")))
    shape = [1 if m.chance(0.4) else n for n in x.shape]
    return C["sum_to"](x, shape=tuple(shape[m.int(0, len(shape)) if m.chance(0.3) else 0 :]))


def factors(m: Any, size: int) -> tuple[int, ...]:
    """A shape of so many elements."""
    if size == 0:
        return (0, m.int(1, 3))
    found = []
    while size > 1 and len(found) < 3:
        part = m.one([d for d in range(1, size + 1) if size % d == 0])
        found.append(part)
        size //= part
    return (*found, *([size] if size > 1 or m.chance(0.2) else []))


def _flip(m: Any) -> Node:
    x = any_value(m, 1)
    return C["flip"](x, axis=None if m.chance(0.2) else m.int(-x.ndim, x.ndim - 1))


def _concat(m: Any) -> Node:
    x = any_value(m, 1)
    axis = m.int(0, x.ndim - 1)
    parts = [x] + [
        m.shaped((*x.shape[:axis], m.int(0, 3), *x.shape[axis + 1 :]), x.dtype.kind) for _ in range(m.int(0, 2))
    ]
    return C["concat"](*parts, axis=axis)


def _cut(m: Any, n: int) -> tuple[int, int, int]:
    """Some of n positions: start, stop, step."""
    step = m.one((1, 1, 1, 2, 3, -1, -2))
    low = m.int(0, n)
    high = m.int(low, n)
    if low == high:
        return 0, 0, 1
    return (low, high, step) if step > 0 else (high - 1, low - 1, step)


def _cuts(m: Any, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    cuts = [_cut(m, n) if m.chance(0.7) else (0, n, 1) for n in shape]
    return {name: tuple(c[i] for c in cuts) for i, name in enumerate(("start", "stop", "step"))}


def _slice(m: Any) -> Node:
    x = any_value(m, 1)
    return C["slice"](x, **_cuts(m, x.shape))


def _unslice(m: Any) -> Node:
    shape = m.shape(1, 3)
    cuts = _cuts(m, shape)
    taken = tuple(len(range(*c)) for c in zip(*cuts.values(), strict=True))
    return C["unslice"](m.shaped(taken, m.one(("float", "float", "int"))), shape=shape, **cuts)


def _pad(m: Any) -> Node:
    x = any_value(m, 1, known=_small)
    widths = tuple((m.int(0, 2), m.int(0, 2)) if m.chance(0.6) else (0, 0) for _ in x.shape)
    value = {"float": 0.5, "int": 3, "bool": True}[x.dtype.kind]
    return C["pad"](x, widths=widths, **({} if m.chance(0.4) and x.dtype.kind != "bool" else {"value": value}))


def _assemble(m: Any) -> Node:
    shape = m.shape(1, 3)
    boxes = [tuple((0, n) for n in shape)]
    for _ in range(m.int(1, 3)):
        box = boxes.pop(0)
        axis = m.int(0, len(shape) - 1)
        low, high = box[axis]
        at = m.int(low, high)
        boxes += [(*box[:axis], iv, *box[axis + 1 :]) for iv in ((low, at), (at, high))]
    dtype = m.one(("float32", "float64"))
    blocks = [m.cast(m.shaped(tuple(b - a for a, b in box)), dtype) for box in boxes]
    return C["assemble"](*blocks, boxes=tuple(boxes), shape=shape)


# -- chosen by index --------------------------------------------------------------------------------------------------
def indices(m: Any, shape: tuple[int, ...], size: int) -> Node:
    """Whole numbers from 0 to size - 1."""
    return m.fit(m.shaped(shape, "int"), 0, size - 1)


def with_axis(m: Any, kind: str = "float", low: int = 1) -> tuple[Node, int]:
    x = m.value(kind, low, 3, known=lambda s: 0 not in s and _small(s))
    return x, m.int(0, x.ndim - 1)


def _take(m: Any) -> Node:
    x, axis = with_axis(m, m.one(("float", "float", "int", "bool")))
    return C["take"](x, indices(m, m.shape(0, 2), x.shape[axis]), axis=axis)


def _scatter_add(m: Any) -> Node:
    shape, size = m.shape(0, 2), m.int(1, 6)
    before, after = m.shape(0, 1), m.shape(0, 1)
    values = m.shaped((*before, *shape, *after), m.one(("float", "float", "int")))
    return C["scatter_add"](values, indices(m, shape, size), axis=len(before), size=size)


def _take_along_axis(m: Any) -> Node:
    x, axis = with_axis(m, m.one(("float", "float", "int")))
    shape = (*x.shape[:axis], m.int(0, 4), *x.shape[axis + 1 :])
    return C["take_along_axis"](x, indices(m, shape, x.shape[axis]), axis=axis)


def _scatter_add_along_axis(m: Any) -> Node:
    x, axis = with_axis(m, m.one(("float", "float", "int")))
    size = m.int(1, 5)
    return C["scatter_add_along_axis"](x, indices(m, x.shape, size), axis=axis, size=size)


def _one_hot(m: Any) -> Node:
    size = m.int(1, 5)
    dtype = m.one(("float32", "float64", "int32", "bool"))
    return C["one_hot"](indices(m, m.shape(0, 2), size), size=size, dtype=dtype)


# -- random -----------------------------------------------------------------------------------------------------------
def _random(name: str, **attrs: Any) -> Build:
    def build(m: Any) -> Node:
        dtype = {} if name == "random_bernoulli" else {"dtype": m.one(("float32", "float64"))}
        return C[name](step_op(), shape=m.shape(), stream=m.name("noise"), seed=m.int(0, 3), **dtype, **attrs)

    return build


# -- products and reductions ------------------------------------------------------------------------------------------
def _matmul(m: Any, name: str = "matmul") -> Node:
    kind = m.one(("float", "float", "float", "int"))
    a = m.value(kind, 2, 3, known=_small)
    batch = tuple(1 if m.chance(0.3) else n for n in a.shape[:-2])
    batch = batch if m.chance(0.5) else ()
    b = m.shaped((*batch, a.shape[-1], m.int(1, 5)), kind)
    a, b = m.fit(a, -9, 9), m.fit(b, -9, 9)
    if name == "matmul_nt":
        b = C["matrix_transpose"](b)
    elif name == "matmul_tn":
        a = C["matrix_transpose"](a)
    return C[name](a, b)


def _axes(m: Any, rank: int) -> Any:
    if m.chance(0.2):
        return None
    axes = tuple(i for i in range(rank) if m.chance(0.5))
    return axes[0] if len(axes) == 1 and m.chance(0.5) else axes


def _reduction(name: str) -> Build:
    def build(m: Any) -> Node:
        kind = {"any": "bool", "all": "bool"}.get(name) or m.one(("float", "float", "int"))
        extreme = name in ("max", "min")
        sharp = kind == "float" and (extreme or name == "prod")
        x = m.value(
            kind, exact=sharp, known=lambda s: not (extreme and 0 in s) and (name != "prod" or math.prod(s) <= 30)
        )
        if name == "prod":
            x = m.fit(x, 0.5, 1.5) if kind == "float" else m.fit(x, -3, 3)
        return C[name](x, axis=_axes(m, x.ndim), keepdims=m.chance(0.4))

    return build


def _argument(name: str) -> Build:
    def build(m: Any) -> Node:
        x = m.value(m.one(("float", "int")), 1, exact=True, known=lambda s: 0 not in s)
        return C[name](x, axis=m.int(0, x.ndim - 1), keepdims=m.chance(0.4))

    return build


def _cumulative_sum(m: Any) -> Node:
    x = m.value(m.one(("float", "float", "int")), 1)
    return C["cumulative_sum"](x, axis=m.int(0, x.ndim - 1), reverse=m.chance(0.4))


def _softmax(name: str) -> Build:
    def build(m: Any) -> Node:
        x = m.value("float", 1, known=lambda s: 0 not in s)
        return C[name](x, axis=m.int(0, x.ndim - 1))

    return build


def _cross_entropy(m: Any) -> Node:
    x = m.value("float", 1, 3, known=lambda s: 0 not in s)
    labels = indices(m, x.shape[:-1] if m.chance(0.7) else (), x.shape[-1])
    return C["softmax_cross_entropy"](x, labels)


def _first_gradient(build: Build, which: int) -> Build:
    """The op that is the gradient of another one for its input number `which`, as a value of its own."""

    def gradient(m: Any) -> Node:
        node = m.add(build(m))
        while node.op.grad is None or len(node.op.grad(node, node)) <= which:  # tamed: the op itself is below
            node = node.inputs[0]
        dy = m.cast(m.shaped(node.shape), node.dtype)
        part = node.op.grad(node, dy)[which]
        assert part is not None
        return part

    return gradient


# -- images -----------------------------------------------------------------------------------------------------------
def image(m: Any, channels: int | None = None, *, exact: bool = False) -> Node:
    b, h, w = m.int(1, 4), m.int(1, 6), m.int(1, 6)
    return m.shaped((b, h, w, channels or m.int(1, 3)), exact=exact)


def _pair(m: Any, low: int, high: int) -> Any:
    return m.int(low, high) if m.chance(0.5) else (m.int(low, high), m.int(low, high))


def _padding(m: Any, x: Node, span: tuple[int, int]) -> Any:
    """A padding with which windows of this span fit the image."""
    fits = [max(0, n - size) for n, size in zip(span, x.shape[1:3], strict=True)]
    if m.chance(0.4) or any(fits):
        return "same"
    if m.chance(0.3):
        return "valid"
    return tuple((m.int(0, n - 1), m.int(0, n - 1)) for n in span)


def _conv2d(m: Any) -> Node:
    groups = m.one((1, 1, 1, 2, 3))
    x = image(m, groups * m.int(1, 2))
    kernel, dilation = (m.int(1, 3), m.int(1, 3)), (m.int(1, 2), m.int(1, 2))
    w = m.fit(m.shaped((*kernel, x.shape[3] // groups, groups * m.int(1, 3))), -2, 2)
    span = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    return C["conv2d"](
        m.fit(x, -4, 4), w, stride=_pair(m, 1, 3), padding=_padding(m, x, span), dilation=dilation, groups=groups
    )


def _local2d(m: Any) -> Node:
    x = image(m)
    kernel, stride = (m.int(1, 3), m.int(1, 3)), (m.int(1, 2), m.int(1, 2))
    padding = _padding(m, x, kernel)
    probe = C["conv2d"](x, np.zeros((*kernel, x.shape[3], 1), x.dtype.numpy), stride=stride, padding=padding)
    w = m.shaped((*probe.shape[1:3], *kernel, x.shape[3], m.int(1, 2)))
    return C["local2d"](m.fit(x, -4, 4), m.fit(w, -2, 2), stride=stride, padding=padding)


def _pool(name: str) -> Build:
    def build(m: Any) -> Node:
        x = image(m, exact=name == "max_pool2d")
        size = (m.int(1, 3), m.int(1, 3))
        return C[name](x, size=size, stride=None if m.chance(0.4) else _pair(m, 1, 3), padding=_padding(m, x, size))

    return build


def _window_sum(m: Any) -> Node:
    return C["window_sum"](m.value("float", 1, known=lambda s: 0 not in s), size=m.int(1, 5))


OPS: Mapping[str, Build] = {
    **{name: _leaf(name) for name in ("input", "variable", "constant")},
    "step": lambda m: step_op(),
    "axis_size": lambda m: C["axis_size"](m.value("float"), dtype=m.one(("float32", "int64"))),
    "pick": _pick,
    **{row.name: _elementwise(row) for row in ROWS},
    "where": _where,
    "astype": _astype,
    "broadcast_to": _broadcast_to,
    "sum_to": _sum_to,
    "reshape": lambda m: C["reshape"](x := any_value(m), shape=factors(m, math.prod(x.shape))),
    "matrix_transpose": lambda m: C["matrix_transpose"](any_value(m, 2)),
    "permute_dims": lambda m: C["permute_dims"](
        x := any_value(m, 1), axes=tuple(int(a) for a in m.rng.permutation(x.ndim))
    ),
    "flip": _flip,
    "concat": _concat,
    "slice": _slice,
    "unslice": _unslice,
    "pad": _pad,
    "assemble": _assemble,
    "take": _take,
    "scatter_add": _scatter_add,
    "take_along_axis": _take_along_axis,
    "scatter_add_along_axis": _scatter_add_along_axis,
    "one_hot": _one_hot,
    "random_uniform": _random("random_uniform", low=-1.0, high=2.0),
    "random_normal": _random("random_normal", mean=0.5, std=0.7),
    "random_bernoulli": _random("random_bernoulli", p=0.4),
    "matmul": _matmul,
    "matmul_nt": lambda m: _matmul(m, "matmul_nt"),
    "matmul_tn": lambda m: _matmul(m, "matmul_tn"),
    **{name: _reduction(name) for name in ("sum", "prod", "max", "min", "any", "all")},
    **{name: _argument(name) for name in ("argmax", "argmin")},
    "cumulative_sum": _cumulative_sum,
    **{name: _softmax(name) for name in ("softmax", "log_softmax")},
    "softmax_cross_entropy": _cross_entropy,
    "softmax_cross_entropy_grad": _first_gradient(_cross_entropy, 0),
    "window_sum": _window_sum,
    "conv2d": _conv2d,
    "conv2d_input_grad": _first_gradient(_conv2d, 0),
    "conv2d_weight_grad": _first_gradient(_conv2d, 1),
    "local2d": _local2d,
    "local2d_input_grad": _first_gradient(_local2d, 0),
    "local2d_weight_grad": _first_gradient(_local2d, 1),
    "max_pool2d": _pool("max_pool2d"),
    "max_pool2d_grad": _first_gradient(_pool("max_pool2d"), 0),
    "sum_pool2d": _pool("sum_pool2d"),
    "sum_pool2d_grad": _first_gradient(_pool("sum_pool2d"), 0),
    "copy": lambda m: C["copy"](any_value(m)),
}
MADE_BY_COMPILER = frozenset(
    {"send", "recv", "fused", "fused_sum", "product", "local2d_weight_step", "scatter_step", "pack", "packed_product"}
)
