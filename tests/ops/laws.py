"""The laws that all ops share, tested once for all: `check_op` holds one op, on given inputs, to every one of them."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from rainshed.ops import CATALOGUE
from rainshed.ops.access import box_shape, boxes
from rainshed.ops.elementwise import astype, multiply
from rainshed.ops.evaluate import empty, evaluate_nodes, run_kernel
from rainshed.ops.gradient import gradients
from rainshed.ops.ir import Graph, Node
from rainshed.ops.op import Op
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.source import input as input_node
from rainshed.ops.text import graph_text, parse
from rainshed.ops.types import TupleType


def rng(*seed: Any) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(seed).encode()))


def f64(*shape: int, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """Different numbers (equal ones hide wrong gradients), the same on every run; shapes differ in their numbers."""
    return rng("f64", shape, low, high).uniform(low, high, shape)


def f32(*shape: int, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    return f64(*shape, low=low, high=high).astype(np.float32)


def i64(*shape: int, low: int = -5, high: int = 6) -> np.ndarray:
    return rng("i64", shape, low, high).integers(low, high, shape)


def i32(*shape: int, low: int = -5, high: int = 6) -> np.ndarray:
    return i64(*shape, low=low, high=high).astype(np.int32)


def boolean(*shape: int) -> np.ndarray:
    return rng("bool", shape).integers(0, 2, shape).astype(bool)


def check_op(
    op: Op | Callable[..., Node],
    *arrays: np.ndarray,
    reference: Callable[..., Any] | None = None,
    gradient: bool | None = None,
    tolerance: float | None = None,
    **attrs: Any,
) -> None:
    """Hold an op (or a function that builds nodes) to the laws.

    type        the inferred type is the result's
    kernel      equals the reference; `out`, full of NaN before, is filled wholly; the inputs are unchanged
    text        printing and parsing gives the same graph
    split       cut along every axis that may be cut, into 2 and 3 parts, and along pairs: the parts put together are the whole
    gradient    equals the central difference, in float64 (inputs of integers and bools have none)
    """
    arrays = tuple(_distinct(a, i) for i, a in enumerate(arrays))
    leaves = [input_node(f"x{i}", a.shape, a.dtype) for i, a in enumerate(arrays)]
    node = op(*leaves, **attrs)
    feeds = {f"x{i}": a for i, a in enumerate(arrays)}
    before = {name: a.copy() for name, a in feeds.items()}
    (got,) = evaluate_nodes([node], feeds)
    for name, a in before.items():
        np.testing.assert_array_equal(feeds[name], a, err_msg="an input was changed")
    for value, type in _tensors(got, node):
        assert value.dtype == type.dtype.numpy and value.shape == type.shape, (
            f"{value.dtype}{value.shape} is not {type}"
        )
    if reference is not None:
        expected = reference(*arrays)
        for one, want in zip(
            got if isinstance(got, tuple) else (got,),
            expected if isinstance(expected, tuple) else (expected,),
            strict=True,
        ):
            rtol = tolerance or (1e-5 if one.dtype == np.float32 else 1e-10)
            np.testing.assert_allclose(one, want, rtol=rtol, atol=rtol)
    if isinstance(op, Op):
        check_fills(node, [feeds[leaf.name] for leaf in leaves])
        check_cost(node)
    check_text(node)
    for inner in Graph({"y": node}).nodes():
        check_split(inner, feeds)
    floats = [leaf for leaf in leaves if leaf.dtype.kind == "float"]
    if gradient is None:
        gradient = bool(floats) and not isinstance(node.type, TupleType) and node.dtype.kind == "float"
    if gradient:
        check_gradient(lambda *ins: op(*ins, **attrs), arrays)


def _distinct(a: np.ndarray, i: int) -> np.ndarray:
    """Two inputs of one shape must differ; the second and later ones are turned round."""
    return a if i == 0 or a.size < 2 else np.ascontiguousarray(np.flip(a))


def _tensors(value: Any, node: Node) -> list[tuple[np.ndarray, Any]]:
    if isinstance(node.type, TupleType):
        return list(zip(value, node.type.items, strict=True))
    return [(value, node.type)]


def check_fills(node: Node, inputs: list[np.ndarray]) -> None:
    """The kernel fills its output wholly and gives the same bits again, whatever stood there before."""
    out = []
    for poison in (np.nan, 7.0):
        value = empty(node.type)
        for part in value if isinstance(value, tuple) else (value,):
            part[...] = poison if part.dtype.kind == "f" else 0 if np.isnan(poison) else 1
        run_kernel(node, inputs, value)
        out.append(value)
    np.testing.assert_equal(out[0], out[1], err_msg="the kernel leaves part of `out` unfilled")


def check_cost(node: Node) -> None:
    cost = node.op.cost_of(node)
    assert cost.flops >= 0 and cost.nbytes is not None and cost.nbytes >= 0


def check_text(node: Node) -> None:
    text = graph_text(Graph({"y": node}))
    assert graph_text(parse(text, {**CATALOGUE, node.op.name: node.op})) == text


def check_split(node: Node, feeds: dict[str, np.ndarray]) -> None:
    """Tiles under grids of 2 and 3 parts, put together, are the whole: joins bit for bit, sums within rounding."""
    if isinstance(node.type, TupleType) or node.op.name in ("pick", "input", "variable"):
        return  # leaves are cut by whoever feeds them: test_source.py
    access = node.access
    assert len(access.inputs) == len(node.inputs) and len(access.output) == node.ndim
    (whole,) = evaluate_nodes([node], feeds)
    inputs = evaluate_nodes(node.inputs, feeds)
    for grid in _grids(access):
        total: np.ndarray | None = None
        seen = np.zeros(whole.shape, int)
        for box in boxes(access, grid):
            region, part = tile_value(node, box, inputs)
            where = tuple(slice(*interval) for interval in region)
            if total is None:
                total = np.full(whole.shape, 0, whole.dtype)
            if seen[where].any():
                assert access.combine, f"{node.op.name}: tiles overlap, but nothing combines them"
                out = np.empty_like(part)
                CATALOGUE[access.combine].cpu(total[where], part, out)
                part = out
            total[where] = part
            seen[where] += 1
        assert (seen > 0).all() and total is not None, f"{node.op.name}: the tiles under {grid} leave a gap"
        summed = any(n > 1 and a.role == "sum" for n, a in zip(grid, access.axes, strict=True))
        if summed and whole.dtype.kind == "f":
            tol = 1e-4 if whole.dtype == np.float32 else 1e-9
            np.testing.assert_allclose(total, whole, rtol=tol, atol=tol, err_msg=f"{node.op.name} {grid}")
        elif node.op.name in BLAS:
            tol = 1e-5 if whole.dtype == np.float32 else 1e-12
            np.testing.assert_allclose(total, whole, rtol=tol, atol=tol, err_msg=f"{node.op.name} {grid}")
        else:
            np.testing.assert_array_equal(total, whole, err_msg=f"{node.op.name} {grid}")


# Their kernels add in an order that depends on the sizes: parts agree within rounding only.
BLAS = frozenset({"matmul", "matmul_nt", "matmul_tn", "sum_to", "sum", "local2d_weight_step", "packed_product"}).union(
    f"{name}{suffix}" for name in ("conv2d", "local2d") for suffix in ("", "_input_grad", "_weight_grad")
)


def tile_value(node: Node, box: Any, inputs: list[np.ndarray]) -> tuple[Any, np.ndarray]:
    """The result region of one tile, and its value, computed from just the input regions that the access names."""
    access = node.access
    regions = access.regions(box, tuple(i.shape for i in inputs))
    result = access.result(box, node.shape)
    parts = [
        np.array(x[tuple(slice(*iv) for iv in region)], order="C") for x, region in zip(inputs, regions, strict=True)
    ]
    leaves = tuple(input_node(f"p{i}", p.shape, p.dtype) for i, p in enumerate(parts))
    tile = node.op.make(leaves, node.op.tile_attrs(node, box), node.origin)
    assert tile.shape == box_shape(result), f"{node.op.name}: tile {box} gives {tile.type}, its region is {result}"
    out = empty(tile.type)
    run_kernel(tile, parts, out)
    return result, out


def check_tiles_split(op: Op, *arrays: np.ndarray, **attrs: Any) -> None:
    """A tile is a node like any other: cut again, its parts put together are the tile."""
    leaves = tuple(input_node(f"x{i}", a.shape, a.dtype) for i, a in enumerate(arrays))
    node = op(*leaves, **attrs)
    for grid in (g for g in _grids(node.access) if max(g) == 3):  # the middle one of three has neighbours on both sides
        for box in boxes(node.access, grid):
            regions = node.access.regions(box, tuple(a.shape for a in arrays))
            parts = [a[tuple(slice(*iv) for iv in region)] for a, region in zip(arrays, regions, strict=True)]
            own = tuple(input_node(f"p{i}", p.shape, p.dtype) for i, p in enumerate(parts))
            check_split(op.make(own, op.tile_attrs(node, box)), {f"p{i}": p for i, p in enumerate(parts)})


def _grids(access: Any) -> list[tuple[int, ...]]:
    free = [i for i, axis in enumerate(access.axes) if axis.max_parts > 1]
    found = []
    for i in free:
        found += [tuple(n if j == i else 1 for j in range(len(access.axes))) for n in (2, 3)]
    for i, j in itertools.islice(itertools.combinations(free, 2), 6):
        found.append(tuple(2 if k in (i, j) else 1 for k in range(len(access.axes))))
    return found


def check_gradient(build: Callable[..., Node], arrays: tuple[np.ndarray, ...], eps: float = 1e-6) -> None:
    """Backward equals the central difference of sum(weights * op(...)) in some random directions, in float64."""
    arrays = tuple(a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays)
    leaves = [input_node(f"x{i}", a.shape, a.dtype) for i, a in enumerate(arrays)]
    node = build(*leaves)
    weights = rng("weights", node.shape).uniform(0.5, 1.5, node.shape)
    loss = sum_(multiply(node if node.dtype.name == "float64" else astype(node, dtype="float64"), weights))
    wrt = [leaf for leaf in leaves if leaf.dtype.kind == "float"]
    grads = gradients(loss, wrt)
    feeds = {f"x{i}": a for i, a in enumerate(arrays)}
    values = evaluate_nodes(grads, feeds)
    for leaf, grad in zip(wrt, values, strict=True):
        x = feeds[leaf.name]
        for k in range(3):
            direction = rng("direction", k, x.shape).standard_normal(x.shape)
            high, low = (evaluate_nodes([loss], {**feeds, leaf.name: x + s * eps * direction})[0] for s in (1, -1))
            numeric, analytic = (high - low) / (2 * eps), float((grad * direction).sum())
            scale = max(1.0, abs(numeric), float(np.abs(grad).sum()))
            assert abs(numeric - analytic) <= 2e-6 * scale, (
                f"gradient for {leaf.name}: {analytic} but measured {numeric}"
            )
