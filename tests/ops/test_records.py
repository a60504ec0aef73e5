"""Kernels as records for machine code: the bits of the Python kernels; what has none is told."""

import numpy as np
import pytest
from laws import f32, f64, i64

from rainshed.ops import CATALOGUE as C
from rainshed.ops.code_cache import is_cached
from rainshed.ops.fused import fused
from rainshed.ops.ir import Graph
from rainshed.ops.product import matmul_call, product_call
from rainshed.ops.records import BY_STEPS, copy_records, machine_code, records_of
from rainshed.ops.source import input as input_node
from rainshed.ops.text import graph_text
from rainshed.ops.types import dtype_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def run(records):
    """One after the other; the number of the one that failed, or -1."""
    tables = [[(i, 1) for i in range(len(records))]] * 2
    tables.append([(r.function.address, r.numbers.ctypes.data) for r in records])
    rows, chains, code = (np.array(table, np.int64) for table in tables)
    state = np.zeros(1 + 2 * len(records), np.int64)
    at = [x.ctypes.data for x in (rows, chains, code, state)]
    return machine_code().run_rows(at[0], len(records), *at[1:], 0)


def check(op, arrays, **attrs):
    """The record gives what the kernel gives, every bit of it; inputs are unchanged."""
    node = op.make(tuple(input_node(f"x{i}", a.shape, a.dtype) for i, a in enumerate(arrays)), attrs)
    want, got = (np.full(node.shape, 77, node.dtype.numpy) for _ in range(2))
    call = {
        "product": lambda: product_call(node.attrs, *arrays, want)(),
        "matmul": lambda: matmul_call(*arrays, want)(),
    }
    with np.errstate(all="ignore"):
        call.get(op.name, lambda: op.cpu(*arrays, want, **node.attrs))()
    before = [a.copy() for a in arrays]
    records = records_of(op, node.attrs, arrays, got)
    assert records is not None and run(records) == -1
    np.testing.assert_array_equal(comparable(got), comparable(want))
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(comparable(a), comparable(b))


def comparable(a):
    """NumPy's comparison knows NaN in types of its own only."""
    return a.astype(np.float32) if a.dtype.kind == "V" else a


def loop(build, *arrays):
    node = build(*(input_node(f"x{i}", a.shape, a.dtype) for i, a in enumerate(arrays)))
    check(fused, list(arrays), body=graph_text(Graph({"y": node})))


EDGES = np.array([0.0, -0.0, 1.5, -2.5, np.inf, -np.inf, np.nan, 1e-42, -1e-42, 3e38], np.float32)


def test_conversions_from_and_to_bfloat16():
    short = EDGES.astype(dtype_of("bfloat16").numpy)
    check(C["astype"], [EDGES], dtype="bfloat16")
    check(C["astype"], [short], dtype="float32")
    source = [np.ones(3, np.float32)], np.empty(3, short.dtype)
    assert records_of(C["astype"], {"dtype": dtype_of("bfloat16")}, *source, compiling=False) is not None, (
        "it is in the cache"
    )
    assert records_of(C["astype"], {"dtype": dtype_of("bfloat16")}, [np.ones(3)], source[1]) is None


def test_loops_with_every_way_to_read_have_numpys_bits_also_at_the_edges_of_numbers():
    row, column = EDGES.reshape(1, -1), EDGES.reshape(-1, 1)

    def build(a, b, c):
        total = C["relu"](a * b) + C["maximum"](a, b) - C["minimum"](b, a) / (C["abs"](a) + c)
        return C["where"](a > b, C["sqrt"](total) * 0.1, -total + C["step_positive"](b))

    loop(build, row, column, np.array(3, np.float32))
    loop(build, f32(3, 1, 5), f32(4, 1), f32(3, 4, 5))
    loop(build, f64(7), f64(7), f64(1))


@pytest.mark.parametrize("name", ("add", "multiply", "divide", "negative", "relu", "sqrt", "square"))
def test_single_ops(name):
    arrays = [f32(3, 4), f32(4)] if C[name].arity == 2 else [f32(3, 4)]
    check(C[name], arrays)


def test_whole_numbers():
    loop(lambda a, b: C["where"](a < b, a * b, a - b), i64(5, 3), i64(3))


def test_truth_values():
    """A mask that is read, one that is written, and one that is both, as for dropout."""
    mask, other = f32(len(EDGES)) > 0, EDGES > 0
    loop(lambda m, a, b: C["where"](m, a, a * 0.0) * C["step_positive"](b) * 1.25, mask, EDGES, EDGES[::-1].copy())
    loop(lambda a, b: a <= b, EDGES, EDGES[::-1].copy())
    loop(lambda m, n: C["logical_and"](C["logical_not"](m), n), mask, other)
    loop(lambda m: C["astype"](m, dtype="float32"), mask)
    check(C["permute_dims"], [f32(3, 4) > 0], axes=(1, 0))


REDUCTIONS = pytest.mark.parametrize(
    "op, arrays, attrs",
    (
        ("sum_to", [f32(6, 5)], {"shape": (5,)}),
        ("sum_to", [f32(2, 3, 5)], {"shape": (5,)}),
        ("sum", [f32(7)], {}),
        ("sum", [f32(3, 4)], {"axis": 0}),
        ("matmul", [f32(5, 3), f32(3, 4)], {}),
        ("matmul", [f32(5, 3), f32(2, 3, 4)], {}),
        ("product", [f32(3, 5), f32(3, 4), f32(5, 4)], {"turn_a": True, "alpha": -0.5}),
        ("matmul", [f32(1, 30), f32(30, 4)], {}),
        ("matmul", [f32(5, 30), f32(30, 1)], {}),
        ("matmul", [f32(1, 30), f32(30, 1)], {}),
        ("product", [f32(1, 30), f32(4, 30), f32(1, 4)], {"turn_b": True, "alpha": -0.5}),
        ("product", [f32(30, 5), f32(1, 30), f32(5, 1)], {"turn_a": True, "turn_b": True}),
        ("product", [f32(1, 5), f32(3, 1, 4)] * 4 + [f32(3, 5, 4)], {"turn_a": True}),
        ("product", [f32(90, 5), f32(90, 4)] * 7 + [f32(5, 4)], {"turn_a": True}),
        ("sum_to", [f32(3, 50, 4)], {"shape": (3, 1, 4)}),
        ("sum_to", [f32(1, 5)], {"shape": (5,)}),
        ("sum_to", [f32(9, 1, 7)], {"shape": (9, 1, 1)}),
        ("sum_to", [f32(20, 3, 300)], {"shape": (20, 3, 1)}),
        ("sum", [f32(20, 3, 300)], {"axis": -1, "keepdims": True}),
        ("sum", [f32(12, 3, 30)], {"axis": 1}),
        ("sum", [f32(5, 6, 7, 3)], {"axis": (1, 2)}),
        ("sum", [f32(5, 6, 7, 3)], {"axis": (2, 3)}),
        ("softmax", [f32(4, 3, 37) * 30], {"axis": -1}),
        ("softmax", [f32(4, 37, 1)], {"axis": 1}),
        ("softmax", [EDGES[None] * f32(4, 1)], {}),
        ("sum_to", [f32(2, 30, 2, 4)], {"shape": (2, 1, 1, 4)}),
        ("reshape", [f32(3, 4, 5)], {"shape": (12, 5)}),
        ("permute_dims", [f32(3, 4, 5, 6)], {"axes": (0, 2, 1, 3)}),
        ("permute_dims", [i64(3, 4, 5)], {"axes": (2, 0, 1)}),
        ("matrix_transpose", [f32(3, 4, 5)], {}),
        ("broadcast_to", [f32(4, 1, 3)], {"shape": (2, 4, 5, 3)}),
        ("matmul", [f32(5, 4, 6, 7), f32(5, 4, 7, 3)], {}),
        ("slice", [f32(5, 6, 7)], {"start": (1, 0, 6), "stop": (4, 6, -1), "step": (1, 2, -2)}),
        ("slice", [i64(4, 6)], {"start": (3, 0), "stop": (4, 6), "step": (1, 1)}),
        ("unslice", [f32(3, 2)], {"shape": (4, 7), "start": (1, 6), "stop": (4, 2), "step": (1, -2)}),
        ("concat", [f32(2, 3), f32(2, 1), f32(2, 4)], {"axis": 1}),
        ("product", [f32(2, 5, 3), f32(2, 4, 3)], {"turn_b": True, "summed": 1}),
        ("sum_to", [f32(40, 1)], {"shape": (1,)}),
        ("sum", [f32(1234)], {"axis": (0,), "keepdims": False}),
        ("sum", [f32(32, 20)], {"axis": (0, 1), "keepdims": False}),
        ("sum", [f32(6, 7, 5)], {"axis": (0, 1), "keepdims": True}),
        ("softmax_cross_entropy", [f32(6, 4), np.arange(6) % 4], {}),
        ("softmax_cross_entropy", [f32(5, 100) * 30, np.arange(5)], {}),
        ("softmax_cross_entropy_grad", [f32(5, 100) * 30, np.arange(5), f32(5)], {}),
        ("softmax_cross_entropy", [EDGES[None] * f32(4, 1), np.arange(4)], {}),
        ("softmax_cross_entropy_grad", [f32(6, 4), np.arange(6) % 4, f32(6)], {}),
    ),
)


@REDUCTIONS
def test_reductions_products_and_moves(op, arrays, attrs):
    check(C[op], arrays, **attrs)


NEAR = np.concatenate(
    [EDGES, np.linspace(-1e-3, 1e-3, 101), np.linspace(-10, 10, 40_001), np.linspace(-120, 120, 4_001)]
).astype(np.float32)
EXACT_VALUES = {"tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x))}


@pytest.mark.parametrize("name", ("tanh", "sigmoid"))
def test_tanh_and_sigmoid_have_the_same_bits_everywhere_and_are_close_to_the_exact_value(name):
    check(C[name], [NEAR])
    check(C[name], [f32(3, 5)])
    got = np.empty_like(NEAR)
    C[name].cpu(NEAR, got)
    with np.errstate(all="ignore"):
        want = EXACT_VALUES[name](NEAR.astype(np.float64))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    normal = np.abs(want) >= np.finfo(np.float32).tiny
    units = np.abs(got - want)[normal] / np.spacing(np.abs(want[normal]).astype(np.float32))
    assert units.max() < 2.5
    below = ~normal & ~np.isnan(want)
    assert np.all(np.abs(got[below] - want[below]) <= np.finfo(np.float32).tiny)
    apart, part = np.empty((got.size, 2), np.float32)[:, 0], slice(7, 5_000)
    C[name].cpu(NEAR, apart)
    np.testing.assert_array_equal(apart, got)
    piece = np.empty_like(got[part])
    C[name].cpu(NEAR[part], piece)
    np.testing.assert_array_equal(piece, got[part])


@REDUCTIONS
def test_reductions_and_products(op, arrays, attrs):
    check(C[op], arrays, **attrs)


@REDUCTIONS
@pytest.mark.parametrize("special", EDGES)
def test_reductions_and_products_at_the_edges_of_numbers(op, arrays, attrs, special):
    first = arrays[0].copy()
    if first.dtype.kind == "f":
        first.flat[first.size // 2] = special
    check(C[op], [first, *arrays[1:]], **attrs)


@REDUCTIONS
def test_arrays_that_are_not_contiguous(op, arrays, attrs):
    strided = np.repeat(arrays[0], 2, -1)[..., ::2]
    node = C[op].make(tuple(input_node(f"x{i}", a.shape, a.dtype) for i, a in enumerate(arrays)), attrs)
    found = records_of(C[op], node.attrs, [strided, *arrays[1:]], np.zeros(node.shape, node.dtype.numpy))
    assert found is None or op in BY_STEPS
    if found is not None:
        check(C[op], [strided, *arrays[1:]], **attrs)


@pytest.mark.parametrize("label", (-1, 4))
def test_a_label_that_is_no_class_is_told_and_the_records_behind_it_do_not_run(label):
    logits, out, untouched = f32(3, 4), np.zeros(3, np.float32), np.zeros(3, np.float32)
    wrong = records_of(C["softmax_cross_entropy"], {}, [logits, np.array([0, label, 1])], out)
    assert run((*wrong, *copy_records(f32(3), untouched, compiling=True))) == 0
    assert not untouched.any()


@pytest.mark.parametrize(
    "op, arrays, shape, attrs",
    (
        ("tanh", [f64(3)], (3,), {}),  # NumPy's bits are its own
        ("exp", [f32(3)], (3,), {}),
        ("add", [f32(0, 3), f32(3)], (0, 3), {}),
        ("sum", [f64(3)], (), {"axis": (0,), "keepdims": False}),
        ("matmul", [f32(65, 2, 2), f32(65, 2, 2)], (65, 2, 2), {}),
        ("flip", [f32(3)], (3,), {"axis": (0,)}),
    ),
)
def test_what_has_no_record(op, arrays, shape, attrs):
    assert records_of(C[op], attrs, arrays, np.zeros(shape, arrays[0].dtype)) is None


def test_without_compiling_only_what_the_cache_has():
    x, out = f64(3, 4), np.zeros((3, 4))
    assert records_of(C["negative"], {}, [x], out, compiling=False) is None
    assert records_of(C["negative"], {}, [x], out) is not None
    assert records_of(C["negative"], {}, [x], out, compiling=False) is not None
    assert not is_cached("loop", "def kernel(a):\n    return 0\n")
