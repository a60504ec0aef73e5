"""product: a sum of matrix products that reads its matrices transposed where they lie so. Made by the pass `fold_products`.

    out = c + alpha * sum over i of op(a_i) @ op(b_i),     op: the last two axes swapped, or not

BLAS adds each product to what is there, so that neither a transposed copy nor a gradient that is only subtracted from its
variable is ever written. `out` may be `c` itself: the update of a weight in its place. Matrices of bfloat16 are added up in
float32, the type of c and of the result (ops/bf16_product.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from rainshed.ops.access import WHOLE, Access, Axis, Reach
from rainshed.ops.bf16_product import add_short_product
from rainshed.ops.blas import LETTERS, Array, add_product
from rainshed.ops.errors import GraphError, ShapeError
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.op import FACTORS, Cost, Op, Types, op
from rainshed.ops.types import Shape, TensorType, Type, bfloat16, broadcast, fixed, sum_type

Pair = tuple[Array, Array]
PLAIN: Attrs = MappingProxyType({"turn_a": False, "turn_b": False, "summed": 0, "alpha": 1.0})
FEW = 64  # matrices of a batch, one call of BLAS each
DEEP = 256  # shared axes shorter than this are laid one after the other, up to about so much of them, and multiplied at once


def _turned(shape: Shape, turn: bool) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2]) if turn else shape


def _pairs(values: Sequence[Any], attrs: Attrs) -> tuple[list[tuple[Any, Any]], Any]:
    """The pairs of matrices, and c or None."""
    n = len(values) // 2
    return [(values[2 * i], values[2 * i + 1]) for i in range(n)], values[-1] if len(values) % 2 else None


def _shape(a: TensorType, b: TensorType, attrs: Attrs) -> Shape:
    """The shape of one product, its first `summed` axes still there."""
    if len(a.shape) < 2 or len(b.shape) < 2:
        raise ShapeError(f"product: takes matrices; found {a}, {b}")
    left, right = _turned(a.shape, attrs["turn_a"]), _turned(b.shape, attrs["turn_b"])
    if left[-1] != right[-2]:
        raise ShapeError(f"product: the shared axes of {a} and {b} differ", **dict(attrs))
    return (*broadcast("product", left[:-2], right[:-2]), left[-2], right[-1])


def _infer(types: Types, attrs: Attrs) -> Type:
    pairs, c = _pairs(types, attrs)
    if not pairs:
        raise GraphError("product: takes pairs of matrices, and perhaps what their products are added to")
    shapes = {_shape(a, b, attrs) for a, b in pairs}
    if len(shapes) > 1:
        raise ShapeError(f"product: the products differ in shape: {sorted(map(str, shapes))}")
    (shape,) = shapes
    if not 0 <= attrs["summed"] <= len(shape) - 2:
        raise ShapeError(f"product: cannot sum {attrs['summed']} axes of {shape}")
    factors = [t.dtype for pair in pairs for t in pair]
    result = TensorType(sum_type("product", *factors), shape[attrs["summed"] :])
    if len(set(factors)) > 1 or (c is not None and c != result):
        raise ShapeError(
            f"product: factors have one type, and c that of the result; found {', '.join(map(str, types))}"
        )
    return result


def _clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    return {
        "turn_a": bool(attrs["turn_a"]),
        "turn_b": bool(attrs["turn_b"]),
        "summed": int(attrs["summed"]),
        "alpha": float(attrs["alpha"]),
    }


def _access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    """Batch axes, rows and columns may be cut; also what is added up if it is one product, and else not."""
    pairs, c = _pairs(types, attrs)
    shape, summed = fixed(_shape(*pairs[0], attrs)), attrs["summed"]
    rank = len(shape)
    one = len(pairs) == 1 and c is None
    axes = [Axis(f"b{i}", n, "join" if i >= summed else "sum" if one else "whole") for i, n in enumerate(shape)]
    if one:
        axes.append(Axis("k", fixed(_turned(pairs[0][0].shape, attrs["turn_a"]))[-1], "sum"))
    shared = Reach(rank) if one else WHOLE

    def reach(t: TensorType, matrix: tuple[Reach, Reach], turn: bool) -> tuple[Reach, ...]:
        lead = rank - len(t.shape)
        batch = [WHOLE if n == 1 else Reach(lead + i) for i, n in enumerate(t.shape[:-2])]
        return (*batch, *(reversed(matrix) if turn else matrix))

    inputs = []
    for a, b in pairs:
        inputs.append(reach(a, (Reach(rank - 2), shared), attrs["turn_a"]))
        inputs.append(reach(b, (shared, Reach(rank - 1)), attrs["turn_b"]))
    result = tuple(Reach(i) for i in range(summed, rank))
    return Access(tuple(axes), (*inputs, *([] if c is None else [result])), result, combine="add" if one else None)


def _cost(types: Types, output: Type, attrs: Attrs) -> Cost:
    pairs, _ = _pairs(types, attrs)
    flops = 0
    for a, b in pairs:
        depth = fixed(_turned(a.shape, attrs["turn_a"]))[-1]
        flops += 2 * depth * math.prod(fixed(_shape(a, b, attrs)))
    return Cost(flops)


def _cpu(*operands: Array, turn_a: bool, turn_b: bool, summed: int, alpha: float) -> None:
    *inputs, out = operands
    pairs, c = _pairs(inputs, {})
    wide = [(a.astype(out.dtype, copy=False), b.astype(out.dtype, copy=False)) for a, b in pairs]
    total = sum(np.matmul(_swapped(a, turn_a), _swapped(b, turn_b)).sum(axis=tuple(range(summed))) for a, b in wide)
    total *= out.dtype.type(alpha)
    out[...] = total if c is None else c + total


def _swapped(x: Array, turn: bool) -> Array:
    return np.swapaxes(x, -1, -2) if turn else x


# -- by BLAS ----------------------------------------------------------------------------------------------------------
def product_call(attrs: Attrs, *operands: Array) -> partial[Any]:
    """A function without arguments that fills the last operand from the others, none of which moves."""
    *inputs, out = operands
    pairs, c = _pairs(inputs, attrs)
    if out.dtype not in LETTERS or any(not x.size for x in operands):
        return partial(_cpu, *operands, **attrs)
    pairs = [(_swapped(a, attrs["turn_a"]), _swapped(b, attrs["turn_b"])) for a, b in pairs]
    calls: list[partial[Any]] = []
    if c is not None and c.ctypes.data != out.ctypes.data:
        calls.append(partial(np.copyto, out, c))
    beta = 0.0 if c is None else 1.0
    if len(pairs) > 2 and all(a.shape[-1] < DEEP for a, _ in pairs):
        calls += _side_by_side(pairs, attrs, out, beta)
    else:
        pairs, out, summed = _larger(pairs, out, attrs["summed"])
        calls += _matrices(pairs, out, summed, attrs["alpha"], beta)
    return calls[0] if len(calls) == 1 else partial(_each, tuple(calls))


def matmul_call(a: Array, b: Array, out: Array) -> partial[Any] | None:
    """The same for a plain product; None where NumPy does it as well: other types, none or many matrices."""
    if out.dtype not in LETTERS or not (a.size and b.size):
        return None
    if math.prod(_larger([(a, b)], out, 0)[1].shape[:-2]) > FEW:
        return None
    if not (a.dtype == b.dtype == out.dtype) and not (_is_short(a) and _is_short(b)):
        return None
    return product_call(PLAIN, a, b, out)


def _is_short(x: Array) -> bool:
    return str(x.dtype) == bfloat16.name


def _each(calls: tuple[partial[Any], ...]) -> None:
    for call in calls:
        call()


def _larger(pairs: list[Pair], out: Array, summed: int) -> tuple[list[Pair], Array, int]:
    """The same as fewer and larger matrices, where they lie so: BLAS packs what it reads anew in each of its calls.

    A batch axis that no b has becomes rows of a; one that is added up becomes part of the shared axis.
    """
    batch = max(x.ndim - 2 for pair in pairs for x in pair)
    while batch:
        if summed == batch:
            axes = [(x, axis) for a, b in pairs for x, axis in ((a, -1), (b, -2))]
        elif all(b.ndim == 2 for _, b in pairs):
            axes = [*((a, -2) for a, _ in pairs), (out, -2)]
        else:
            break
        many = {x.shape[-3] if x.ndim == batch + 2 else 0 for x, _ in axes}
        merged = [_merged(x, axis) for x, axis in axes] if len(many) == 1 else []
        found = [x for x in merged if x is not None]
        if len(found) < len(axes):
            break
        if summed == batch:
            pairs, summed = list(zip(found[::2], found[1::2], strict=True)), batch - 1
        else:
            pairs, out = [(a, b) for a, (_, b) in zip(found[:-1], pairs, strict=True)], found[-1]
        batch -= 1
    return pairs, out, summed


def _merged(x: Array, axis: int) -> Array | None:
    """A view whose `axis` is also the last axis before the matrices; None where its elements do not lie in equal steps."""
    many, own = x.shape[-3], x.shape[axis]
    step = x.strides[axis] if own > 1 else x.strides[-3]
    if many > 1 and x.strides[-3] != own * step:
        return None
    shape, steps = list(x.shape), list(x.strides)
    shape[axis], steps[axis] = many * own, step
    del shape[-3], steps[-3]
    return as_strided(x, shape, steps)


def _matrices(
    pairs: list[tuple[Array, Array]], out: Array, summed: int, alpha: float, beta: float
) -> list[partial[Any]]:
    """One call of BLAS for each matrix of the batch, of each pair."""
    calls = []
    add = add_short_product if _is_short(pairs[0][0]) else add_product
    done: set[tuple[int, ...]] = set()
    for a, b in pairs:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a, b = (np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
        for index in np.ndindex(batch):
            at = index[summed:]
            calls.append(add(a[index], b[index], out[at], alpha=alpha, beta=1.0 if at in done else beta))
            done.add(at)
    return calls


def _side_by_side(pairs: list[tuple[Array, Array]], attrs: Attrs, out: Array, beta: float) -> list[partial[Any]]:
    """Groups of pairs, each as one pair whose shared axis is all the shared axes, one after the other: the calls that copy a group
    side by side, all to the same place, and those of BLAS."""
    count = min(len(pairs), -(-sum(a.shape[-1] for a, _ in pairs) // DEEP))
    ends = [len(pairs) * i // count for i in range(count + 1)]
    groups = [pairs[low:high] for low, high in pairwise(ends)]
    depths = [sum(a.shape[-1] for a, _ in group) for group in groups]
    sides = []
    for side, turn, axis in ((0, attrs["turn_a"], -1), (1, attrs["turn_b"], -2)):
        rows = turn == (axis == -1)  # the shared axis is that of rows as the parts lie: they are copied whole
        sides.append((side, turn, -2 if rows else -1, _scratch(_swapped(pairs[0][side], turn), rows, max(depths))))
    calls: list[partial[Any]] = []
    for group, depth in zip(groups, depths, strict=True):
        joined = []
        for side, turn, where, scratch in sides:
            used = scratch[..., :depth, :] if where == -2 else scratch[..., :depth]
            calls.append(_joined([_swapped(pair[side], turn) for pair in group], where, used))
            joined.append(_swapped(used, turn))
        calls += _matrices([(joined[0], joined[1])], out, attrs["summed"], attrs["alpha"], beta)
        beta = 1.0
    return calls


def _scratch(like: Array, rows: bool, depth: int) -> Array:
    """Room for matrices like this one, as it lies, with so many rows or columns."""
    shape = (*like.shape[:-2], depth, like.shape[-1]) if rows else (*like.shape[:-1], depth)
    return np.empty(shape, like.dtype)


def _joined(parts: list[Array], axis: int, out: Array) -> partial[Any]:
    return partial(np.concatenate, parts, axis=axis, out=out)


def product_of(pairs: Sequence[tuple[Node, Node]], c: Node | None, attrs: Mapping[str, Any]) -> Node:
    """The node of these pairs."""
    flat = [x for pair in pairs for x in pair]
    return product.make((*flat, *(() if c is None else (c,))), attrs)


product: Op = op(
    name="product",
    work="product",
    arity=None,
    attrs={"turn_a": False, "turn_b": False, "summed": 0, "alpha": 1.0},
    kinds=FACTORS,
    clean=_clean,
    infer=_infer,
    access=_access,
    cost=_cost,
    cpu=_cpu,
    doc="A sum of matrix products, added to a value.",
)
