"""bfloat16: rounding, which ops take it, products of it against float64, gradients, text."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from laws import check_fills, check_split, f32

from rainshed.ops import CATALOGUE as C
from rainshed.ops.elementwise import astype
from rainshed.ops.errors import DTypeError
from rainshed.ops.evaluate import evaluate_nodes
from rainshed.ops.gradient import gradients
from rainshed.ops.ir import Graph, Node
from rainshed.ops.native import native_calls
from rainshed.ops.op import MOVED
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.source import constant, input, variable
from rainshed.ops.text import graph_text, parse
from rainshed.ops.types import bfloat16, dtype_of, float32, float64, promote

BF16 = np.dtype(ml_dtypes.bfloat16)


def short(*shape: int) -> np.ndarray:
    return f32(*shape).astype(BF16)


def special() -> np.ndarray:
    """Every upper half of a float32, with lower halves at, below and above the middle: all cases of rounding there are."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    return (upper[:, None] | np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)).view(np.float32).reshape(-1)


def rounded(x: np.ndarray) -> np.ndarray:
    """To nearest, ties to even, by the definition in whole numbers; what is no number stays none."""
    bits = x.view(np.uint32).astype(np.uint64)
    found = ((bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)).astype(np.uint16)
    return found


def converted(x: np.ndarray, dtype: str) -> np.ndarray:
    (found,) = evaluate_nodes([astype(input("x", x.shape, x.dtype), dtype=dtype)], {"x": x})
    return found


def test_the_type() -> None:
    assert dtype_of("bf16") is dtype_of("bfloat16") is dtype_of(BF16) is bfloat16
    assert bfloat16.numpy == BF16 and bfloat16.itemsize == 2 and str(bfloat16) == "bf16"
    assert promote("op", bfloat16, float32) is float32 and promote("op", float64, bfloat16) is float64


def test_rounding_is_to_nearest_even_and_keeps_what_is_no_number() -> None:
    x = special()
    got, none = converted(x, "bfloat16"), np.isnan(x)
    np.testing.assert_array_equal(got.view(np.uint16)[~none], rounded(x)[~none])
    assert np.isnan(got[none].astype(np.float32)).all()
    np.testing.assert_array_equal(np.signbit(got[none].astype(np.float32)), np.signbit(x[none]))


def test_the_way_back_is_exact() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(BF16)
    wide = converted(every, "float32")
    none = np.isnan(wide)
    np.testing.assert_array_equal(wide.view(np.uint32)[~none] >> 16, every.view(np.uint16)[~none])
    assert none.sum() == 2 * 127


@pytest.mark.parametrize("pieces", [1, 3])
def test_vector_code_gives_the_same_bits(pieces: int) -> None:
    """In any number of pieces, of which the last is not full."""
    many = special()[5:]
    for x in (many, converted(many, "bfloat16"), np.zeros((0, 3), np.float32), np.float32(1.5).reshape(())):
        other = "bfloat16" if x.dtype == np.float32 else "float32"
        want, out = converted(x, other), np.zeros(x.shape, dtype_of(other).numpy)
        for call in native_calls(astype, (x, out), {"dtype": dtype_of(other)}, pieces):
            call()
        word = np.uint16 if other == "bfloat16" else np.uint32
        none = np.isnan(converted(want, "float64"))
        np.testing.assert_array_equal(out.view(word)[~none], want.view(word)[~none])
        assert np.isnan(converted(out, "float64")[none]).all()


@pytest.mark.parametrize("dtype", ["float64", "int32"])
def test_other_conversions(dtype: str) -> None:
    x = short(3, 4) * BF16.type(8)
    np.testing.assert_array_equal(converted(x, dtype), x.astype(dtype))
    np.testing.assert_array_equal(converted(f32(3).astype(dtype), "bfloat16"), f32(3).astype(dtype).astype(BF16))


MATRICES = [("matmul", (5, 7), (7, 3)), ("matmul_nt", (2, 5, 7), (3, 7)), ("matmul_tn", (7, 5), (4, 7, 3))]
WINDOWS = [("conv2d", (2, 6, 5, 4), (3, 3, 4, 8)), ("local2d", (2, 6, 5, 4), (4, 3, 3, 3, 4, 8))]


@pytest.mark.parametrize(("op", "a", "b"), MATRICES)
def test_products_are_exact_and_added_up_in_float32(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = short(*a), short(*b)
    node = C[op](input("x", a, "bfloat16"), input("y", b, "bfloat16"))
    assert node.dtype is float32
    (got,) = evaluate_nodes([node], {"x": x, "y": y})
    (true,) = evaluate_nodes(
        [C[op](input("x", a, "float64"), input("y", b, "float64"))], {"x": x.astype(float), "y": y.astype(float)}
    )
    np.testing.assert_allclose(got, true, rtol=1e-6, atol=1e-6)
    check_fills(node, [x, y])
    check_split(node, {"x": x, "y": y})


@pytest.mark.parametrize(("op", "a", "b"), WINDOWS)
def test_convolutions_widen_what_they_read(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = short(*a), short(*b)
    (got,) = evaluate_nodes([C[op](input("x", a, "bfloat16"), input("y", b, "bfloat16"))], {"x": x, "y": y})
    wide = {"x": x.astype(np.float32), "y": y.astype(np.float32)}
    (want,) = evaluate_nodes([C[op](input("x", a), input("y", b))], wide)
    np.testing.assert_array_equal(got, want, strict=True)


def test_the_gradient_of_a_rounding_is_that_of_the_rounded_value() -> None:
    """A value that two products read has a gradient added up in float32."""
    a, b = input("a", (4, 3)), input("b", (3, 5))
    x = astype(a, dtype=bfloat16)
    loss = sum_(C["square"](C["matmul"](x, astype(b, dtype=bfloat16)))) + sum_(C["matmul_nt"](x, x))
    da, db = gradients(loss, [a, b])
    assert da.dtype is db.dtype is float32
    feeds = {"a": f32(4, 3), "b": f32(3, 5)}
    got_a, got_b = evaluate_nodes([da, db], feeds)
    s, t = (feeds[n].astype(BF16).astype(float) for n in "ab")
    dz = (2 * (s @ t)).astype(BF16).astype(float)
    np.testing.assert_allclose(got_b, s.T @ dz, rtol=0.01, atol=0.01)
    np.testing.assert_allclose(got_a, dz @ t.T + 2 * s.sum(axis=0), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("op", sorted(name for name, op in C.items() if op.kinds == MOVED and op.arity == 1))
def test_ops_that_move_values_take_it(op: str) -> None:
    attrs = {
        "reshape": {"shape": (3, 4)}, "broadcast_to": {"shape": (2, 4, 3)}, "permute_dims": {"axes": (1, 0)},
        "slice": {"start": (1, 0), "stop": (3, 2)}, "unslice": {"start": (1, 0), "stop": (5, 3), "shape": (6, 5)},
            "send": {"to": "m1"},
        "assemble": {"boxes": (((0, 4), (0, 3)),), "shape": (4, 3)}, "astype": {"dtype": "float64"},
    }.get(op, {})  # fmt: skip
    x = short(4, 3)
    node, wide = (C[op](input("x", (4, 3), t), **attrs) for t in ("bfloat16", "float32"))
    (got,), (want,) = evaluate_nodes([node], {"x": x}), evaluate_nodes([wide], {"x": x.astype(np.float32)})
    np.testing.assert_array_equal(got.astype(np.float64), want.astype(np.float64))
    check_split(node, {"x": x})


@pytest.mark.parametrize("op", ["add", "exp", "sum", "softmax", "take", "where", "equal"])
def test_all_others_refuse_it_and_say_what_to_do(op: str) -> None:
    x = input("x", (4, 4), "bfloat16")
    inputs: tuple[Node, ...] = {"add": (x, x), "take": (x, constant([0])), "equal": (x, x), "where": (x, x, x)}.get(
        op, (x,)
    )
    with pytest.raises(DTypeError, match="bfloat16") as refused:
        C[op](*inputs)
    assert "astype(x, 'float32')" in str(refused.value)


def test_a_variable_is_kept_in_float32() -> None:
    with pytest.raises(DTypeError, match="small steps would be rounded away"):
        variable("w", (3,), "bfloat16")


@pytest.mark.parametrize("size", [3, 300])
def test_constants_have_a_text(size: int) -> None:
    value = short(size)
    text = graph_text(Graph({"y": C["reshape"](constant(value), shape=(size, 1))}))
    graph = parse(text, C)
    assert graph_text(graph) == text
    (got,) = evaluate_nodes([graph.outputs["y"]], {})
    np.testing.assert_array_equal(got.view(np.uint16).reshape(-1), value.view(np.uint16))
