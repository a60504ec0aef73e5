"""Kernels as records for machine code: the bits of the Python kernels; what has none is told."""

import numpy as np
import pytest
from laws import f32, f64, i64

from rainshed.ops import CATALOGUE as C
from rainshed.ops.fused import fused
from rainshed.ops.ir import Graph
from rainshed.ops.product import matmul_call, product_call
from rainshed.ops.records import INEXACT, copy_records, is_cached, machine_code, records_of
from rainshed.ops.source import input as input_node
from rainshed.ops.text import graph_text
from rainshed.ops.types import dtype_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def run(records):
    code = np.array([(r.function.address, r.numbers.ctypes.data) for r in records], np.int64)
    return machine_code().run_at(code.ctypes.data, len(records))


def check(op, arrays, **attrs):
    """The record gives what the kernel gives, every bit of it for exact ops; inputs are unchanged."""
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
    if op.name in INEXACT:
        np.testing.assert_allclose(got, want, rtol=3e-6, atol=3e-6)
    else:
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


@pytest.mark.parametrize(
    "op, arrays, attrs",
    (
        ("sum_to", [f32(6, 5)], {"shape": (5,)}),
        ("sum_to", [f32(2, 3, 5)], {"shape": (5,)}),
        ("sum", [f32(7)], {}),
        ("sum", [f32(3, 4)], {"axis": 0}),
        ("matmul", [f32(5, 3), f32(3, 4)], {}),
        ("matmul", [f32(5, 3), f32(2, 3, 4)], {}),
        ("product", [f32(3, 5), f32(3, 4), f32(5, 4)], {"turn_a": True, "alpha": -0.5}),
        ("product", [f32(2, 5, 3), f32(2, 4, 3)], {"turn_b": True, "summed": 1}),
        ("softmax_cross_entropy", [f32(6, 4), np.arange(6) % 4], {}),
        ("softmax_cross_entropy_grad", [f32(6, 4), np.arange(6) % 4, f32(6)], {}),
    ),
)
def test_reductions_and_products(op, arrays, attrs):
    check(C[op], arrays, **attrs)


@pytest.mark.parametrize("label", (-1, 4))
def test_a_label_that_is_no_class_is_told_and_the_records_behind_it_do_not_run(label):
    logits, out, untouched = f32(3, 4), np.zeros(3, np.float32), np.zeros(3, np.float32)
    wrong = records_of(C["softmax_cross_entropy"], {}, [logits, np.array([0, label, 1])], out)
    assert run((*wrong, *copy_records(f32(3), untouched, compiling=True))) == 0
    assert not untouched.any()


@pytest.mark.parametrize(
    "op, arrays, shape, attrs",
    (
        ("tanh", [f32(3)], (3,), {}),  # NumPy's own is faster, and its bits are its own
        ("add", [f32(0, 3), f32(3)], (0, 3), {}),
        ("less", [f32(3), f32(3)], (3,), {}),
        ("sum", [f64(3)], (), {"axis": (0,), "keepdims": False}),
        ("matmul", [f32(9, 2, 2), f32(9, 2, 2)], (9, 2, 2), {}),
        ("flip", [f32(3)], (3,), {"axis": (0,)}),
    ),
)
def test_what_has_no_record(op, arrays, shape, attrs):
    dtype = bool if op == "less" else arrays[0].dtype
    assert records_of(C[op], attrs, arrays, np.zeros(shape, dtype)) is None


def test_without_compiling_only_what_the_cache_has():
    x, out = f64(3, 4), np.zeros((3, 4))
    assert records_of(C["negative"], {}, [x], out, compiling=False) is None
    assert records_of(C["negative"], {}, [x], out) is not None
    assert records_of(C["negative"], {}, [x], out, compiling=False) is not None
    assert not is_cached("def kernel(a):\n    return 0\n")
