"""CUDA kernels: each equals the NumPy truth (tests/gpu/check_ops.py); their formulas, their layouts, and life without a GPU."""

import os
import subprocess
import sys

import numpy as np
import pytest
from gpu_process import MODES, run_checks
from laws import boolean, i32, i64

from rainshed.ops import CATALOGUE
from rainshed.ops.cuda import cuda, merged, steps_of, stretched
from rainshed.ops.elementwise import ELEMENTWISE, ROWS
from rainshed.ops.errors import GraphError, RainshedError, UnitError
from rainshed.ops.evaluate import evaluate_nodes
from rainshed.ops.fused import lines_of
from rainshed.ops.launch import HINT, bound, plain
from rainshed.ops.native import plain_loop
from rainshed.ops.scalar import Line, expression, loop_of, number_text
from rainshed.ops.source import input as input_node
from rainshed.ops.types import bool_, float32, float64, int32, int64

SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.5, 1.5, 2.5, -2.5, -0.3, 1e3, -1e3, 3e9, -1e18, 1e-30]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("which", ["test_rows", "not test_rows"])
def test_kernels_equal_the_truth(mode, which):
    run_checks(mode, "check_ops.py", "-k", which)


def operands(row, kind):
    if kind == "float":
        a, b = np.meshgrid(SPECIAL, SPECIAL)
        return [([a, b][: row.arity], dtype) for dtype in (np.float32, np.float64)]
    if kind == "int":
        second = ["pow", "floor_divide", "remainder", "bitwise_left_shift", "bitwise_right_shift"]
        return [
            ([make(5, 7), np.abs(make(5, 7).T.reshape(5, 7)) + (row.name in second)][: row.arity], None)
            for make in (i32, i64)
        ]
    return [([boolean(5, 7), np.flip(boolean(5, 7))][: row.arity], None)]


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_formula_is_the_op(row):
    """The formula as plain Python gives what NumPy gives, also at poles, at infinities and for NaN."""
    for kind in row.kinds:
        for arrays, dtype in operands(row, kind):
            arrays = [np.ascontiguousarray(a if dtype is None else a.astype(dtype)) for a in arrays]
            node = ELEMENTWISE[row.name](*(input_node(f"x{i}", a.shape, a.dtype) for i, a in enumerate(arrays)))
            (want,) = evaluate_nodes([node], {f"x{i}": a for i, a in enumerate(arrays)})
            types = tuple(i.tensor_type for i in node.inputs)
            loop, numbers = loop_of(
                types, node.tensor_type, (Line(row.formula, tuple(range(len(arrays))), node.dtype),)
            )
            out = np.empty(want.size, want.dtype)
            plain(plain_loop(loop))(*(a.reshape(-1) for a in arrays), out, *numbers)
            rtol = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-14}.get(want.dtype, 0)
            np.testing.assert_allclose(
                out.reshape(want.shape), want, rtol=rtol, atol=rtol, err_msg=f"{row.name} {arrays[0].dtype}"
            )


def test_every_number_in_a_formula_has_the_type_of_the_operands():
    assert expression("1 / (1 + math.exp(-x0))", ("a",), (float32,), float32) == "f32(f32(1) / (f32(1) + math.exp(-a)))"
    assert expression("math.floor(x0)", ("a",), (float64,), float64) == "f64(f64(math.floor(a)))"
    assert expression("x0 + x1", ("a", "b"), (int32, int64), int64) == "i64(a + b)"
    assert expression("x0 > x1", ("a", "b"), (float32, float32), bool_) == "a > b"
    assert expression("x0", ("a",), (float32,), bool_) == "a != f32(0)"
    assert [number_text(np.array(v), float32) for v in (0.5, np.inf, -np.inf)] == [
        "f32(0.5)",
        "f32(math.inf)",
        "f32(-math.inf)",
    ]


def test_walks_have_as_few_axes_as_may_be():
    assert steps_of((2, 3, 4)) == (12, 4, 1)
    assert stretched((3, 1), (2, 3, 4)) == (0, 1, 0)
    assert merged((2, 3, 4), (12, 4, 1), (12, 4, 1)) == ((24,), (1,), (1,))
    assert merged((2, 3, 4), (12, 4, 1), (0, 4, 1)) == ((2, 12), (12, 1), (0, 1))
    assert merged((1, 1), (5, 1)) == ((1,), (0,))
    assert merged((), ()) == ((1,), (0,))


def test_a_body_with_a_large_constant_has_no_formula():
    body = "%0 = constant() {value=[1.0, 2.0]} : f32[2]"
    with pytest.raises((GraphError, RainshedError)):
        lines_of(body)


def test_which_ops_have_no_kernel_is_visible():
    """A list to make shorter, not to make longer."""
    without = {name for name, op in CATALOGUE.items() if op.cuda is None}
    leaves = {"input", "variable", "constant", "step", "axis_size", "pick", "send", "recv"}
    by_index = {
        "take",
        "scatter_add",
        "take_along_axis",
        "scatter_add_along_axis",
        "one_hot",
        "argmax",
        "argmin",
        "cumulative_sum",
    }
    on_hosts = {"product", "scatter_step", "pack", "packed_product", "fused_sum"}  # made by passes for hosts
    random = {"random_uniform", "random_normal", "random_bernoulli"}
    windows = {n for n in CATALOGUE if n.startswith(("conv2d", "local2d", "max_pool2d", "sum_pool2d"))} | {"window_sum"}
    assert without == leaves | by_index | random | windows | on_hosts


def test_numba_is_imported_when_a_launcher_is_made_not_before():
    code = "import sys, rainshed, rainshed.runtime.cluster.local; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=50).returncode == 0


def test_a_kernel_that_is_not_bound_says_so():
    with pytest.raises(AttributeError, match="not bound to a device"):
        cuda.grid(1)
    assert bound(steps_of, ignored=1)((2, 3)) == (3, 1)
    with pytest.raises(UnitError, match="not a plain Python function"):
        bound(len)


def test_without_such_a_gpu_the_error_says_what_is_needed():
    code = "from rainshed.ops.launch import Launcher; Launcher(99)"
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, env=environment)
    assert done.returncode == 1 and "UnitError" in done.stderr and HINT in done.stderr
