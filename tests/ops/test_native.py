"""Fused ops as compiled loops on the CPU: the same values as NumPy, block by block."""

import numpy as np
import pytest
from laws import boolean, f32, f64, i64

from rainshed.ops import CATALOGUE as C
from rainshed.ops.code_cache import callable_at
from rainshed.ops.elementwise import ROWS
from rainshed.ops.fused import fused
from rainshed.ops.ir import Graph
from rainshed.ops.native import native_call
from rainshed.ops.records import records_of
from rainshed.ops.source import input as input_node
from rainshed.ops.text import graph_text


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def check(build, *arrays, tolerance=2e-6):
    leaves = [input_node(f"x{i}", a.shape, a.dtype) for i, a in enumerate(arrays)]
    node = build(*leaves)
    body = graph_text(Graph({"y": node}))
    want, got = (np.full(node.shape, -1, node.dtype.numpy) for _ in range(2))
    fused.cpu(*arrays, want, body=body)
    before = [a.copy() for a in arrays]
    native_call(body, *arrays, got)()
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_functions_of_one_number():
    """Each float function, weighted so that none can hide behind another; where they are defined."""
    rows = [r for r in ROWS if r.arity == 1 and r.kinds[0] == "float" and not r.to_bool]
    assert len(rows) > 30

    def build(x):
        total = None
        for i, row in enumerate(rows):
            inside = C["abs"](x) + (1.1 if row.name == "acosh" else 0.05)
            term = C[row.name](inside) * (1.0 + 0.01 * i)
            total = term if total is None else total + term
        return total

    check(build, f64(3, 5, low=-0.9, high=0.9), tolerance=1e-12)


def test_broadcasts_types_and_special_values():
    x = np.array([[0.0, -0.0, 2.5, -2.5], [np.inf, -np.inf, np.nan, 1e30]], np.float32)

    def build(x, row, column, flag, count):
        scaled = C["round"](x) * row + C["floor"](column)
        chosen = C["where"](flag, scaled, C["maximum"](x, column) / (x - x + 0.0))
        return chosen + C["astype"](C["remainder"](count, 3), dtype="float32") - C["relu"](x)

    check(build, x, f32(4), f32(2, 1), boolean(2, 4), i64(4) + 6)


def test_whole_numbers_wrap_around_as_numpys_do():
    """A compiler that takes it that sums of signed numbers never overflow leaves out the comparison, or the sign of abs."""
    x = np.concatenate([[2**63 - 1, -(2**63), 1 - 2**63, 2**62, -(2**62), 14], i64(20)])

    def build(x):
        later = C["where"](x + 1 > x, x * 3, C["abs"](x - 7) + C["square"](x))
        return C["floor_divide"](later + later, 2) - C["where"](-x < x, C["abs"](-x), 5 - x)

    check(build, x, tolerance=0)
    check(build, x.astype(np.int32), tolerance=0)


def test_an_empty_result_and_a_scalar():
    check(lambda x: C["exp"](x) + 1.0, f32(0, 3))
    check(lambda x, y: x * y - 0.5, f32(), f32(1))


def test_the_machine_code_is_kept_on_disk(own_cache):
    check(lambda x: x * 3.25 + 0.125, f32(7))
    kept = own_cache / "rainshed" / "kernels"
    assert [path.suffix for path in kept.iterdir()] == [".o"]


def test_without_a_place_on_disk_it_is_compiled_all_the_same(own_cache, monkeypatch):
    blocked = own_cache / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    check(lambda x: x * 4.25 - 0.125, f32(7))


def test_the_result_in_the_place_of_an_input():
    """Bit for bit what it is elsewhere, by each of the two ways to machine code; also where the input is read twice."""
    arrays = [f32(5, 9), f32(5, 9), f32(9), f32()]
    leaves = [input_node(f"x{i}", a.shape, a.dtype) for i, a in enumerate(arrays)]
    x, y, row, one = leaves
    body = graph_text(Graph({"y": (x - y / (C["sqrt"](C["abs"](x)) + one)) * row}))
    want = np.empty((5, 9), np.float32)
    native_call(body, *arrays, want)()
    for place in (0, 1):
        for by_record in (False, True):
            here = [a.copy() for a in arrays]
            if by_record:
                for record in records_of(fused, {"body": body}, here, here[place]) or ():
                    callable_at(record.function.address, 1)(record.numbers.ctypes.data)
            else:
                native_call(body, *here, here[place])()
            np.testing.assert_array_equal(here[place], want)
