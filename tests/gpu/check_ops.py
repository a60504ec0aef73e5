"""The CUDA kernels of ops, held to the NumPy truth.

Run by tests/ops/test_cuda.py in a process of its own: in Numba's simulator, and on a GPU where there is one.
"""

import sys

import numpy as np
import pytest
from laws import boolean, f32, f64, i32, i64

from rainshed.ops import CATALOGUE
from rainshed.ops.elementwise import ELEMENTWISE, ROWS
from rainshed.ops.evaluate import empty, evaluate_nodes
from rainshed.ops.fused import fused
from rainshed.ops.ir import Graph
from rainshed.ops.launch import Launcher, Limits, launcher
from rainshed.ops.source import input as input_node
from rainshed.ops.text import graph_text

C = CATALOGUE
sys.setswitchinterval(1e-4)  # the simulator waits for its threads in a busy loop


def on_device(launch: Launcher, node, arrays) -> np.ndarray:
    """The node's value by its CUDA kernel; `out` is full of NaN before, and the inputs must be unchanged after."""
    devices = []
    for array in arrays:
        device = launch.view(launch.zeros(array.nbytes), 0, array.size, array.dtype)
        launch.upload(np.ascontiguousarray(array), device)
        devices.append(device)
    out = empty(node.type)
    out[...] = np.nan if out.dtype.kind == "f" else -1
    target = launch.view(launch.zeros(out.nbytes), 0, out.size, out.dtype)
    launch.upload(out, target)
    types = tuple(i.tensor_type for i in node.inputs)
    launch.call(node.op.cuda(types, node.tensor_type, node.attrs), devices, target)()
    launch.download(target, out)
    for array, device in zip(arrays, devices, strict=True):
        back = np.empty_like(array, order="C")
        launch.download(device, back)
        np.testing.assert_array_equal(back, array)
    return out


def check(op, *arrays, launch=None, tolerance=None, **attrs) -> None:
    arrays = tuple(
        np.ascontiguousarray(np.flip(a)).reshape(a.shape) if i and a.size > 1 else a for i, a in enumerate(arrays)
    )
    node = op(*(input_node(f"x{i}", a.shape, a.dtype) for i, a in enumerate(arrays)), **attrs)
    (want,) = evaluate_nodes([node], {f"x{i}": a for i, a in enumerate(arrays)})
    got = on_device(launch or launcher(0), node, arrays)
    tolerance = tolerance or (2e-6 if want.dtype == np.float32 else 1e-14)
    where = f"{node.op.name} {[str(i.type) for i in node.inputs]} {dict(attrs)}"
    if want.dtype.kind == "f":
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance, err_msg=where)
    else:
        np.testing.assert_array_equal(got, want, err_msg=where)


def operands(row, kind, shapes):
    """Numbers from -1.5 to 1.5 and from where functions have poles: infinities, NaN, zeros of both signs."""
    if kind == "float":
        special = np.array(
            [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.5, 2.5, -2.5, 1e3, -1e3, 0.3, 1.7], np.float32
        )
        return [np.resize(np.roll(special, 5 * i), s).astype(np.float32) for i, s in enumerate(shapes)]
    if kind == "int":
        positive = row.name in ("pow", "floor_divide", "remainder", "bitwise_left_shift", "bitwise_right_shift")
        return [np.abs(i32(*s)) + 1 if positive and i else i32(*s) for i, s in enumerate(shapes)]
    return [boolean(*s) for s in shapes]


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_rows(row):
    op = ELEMENTWISE[row.name]
    for kind in row.kinds:
        shapes = [(14,), (14,)] if row.arity == 1 else [(14, 1), (14,)]
        check(op, *operands(row, kind, shapes[: row.arity]))
    if row.arity == 2:
        kind = row.kinds[0]
        check(op, *operands(row, kind, [(3, 4), ()]))
        check(op, *operands(row, kind, [(3, 4), (3, 4)]))


def test_mixed_types_broadcasts_and_nothing():
    check(C["add"], f32(2, 3), f64(3))
    check(C["multiply"], i32(2, 1, 3), i64(4, 1))
    check(C["where"], boolean(3, 1), f32(3, 4), f64(4))
    check(C["add"], f32(2, 0), f32(2, 0))
    for source in (f32(3, 4) * 4, i64(3, 4), boolean(3, 4)):
        for target in ("float32", "float64", "int32", "int64", "bool"):
            check(C["astype"], source, dtype=target)


def test_layout():
    x = f32(2, 3, 4)
    check(C["broadcast_to"], f32(3, 1), shape=(2, 3, 4))
    check(C["reshape"], x, shape=(4, 6))
    check(C["copy"], x)
    check(C["matrix_transpose"], x)
    check(C["permute_dims"], x, axes=(2, 0, 1))
    check(C["flip"], x, axis=(0, 2))
    check(C["concat"], x, f32(2, 2, 4), f32(2, 0, 4), axis=1)
    check(C["slice"], x, start=(0, 2, 3), stop=(2, 0, -1), step=(1, -1, -2))
    check(C["unslice"], f32(2, 2, 2), shape=(2, 3, 4), start=(0, 2, 3), stop=(2, 0, -1), step=(1, -1, -2))
    check(C["pad"], f32(2, 3), widths=((1, 0), (2, 1)), value=-1.5)
    check(C["pad"], boolean(2, 3), widths=1, value=True)
    boxes = (((0, 2), (0, 3)), ((0, 2), (3, 4)), ((2, 3), (0, 4)))
    check(C["assemble"], f32(2, 3), f32(2, 1), f32(1, 4), boxes=boxes, shape=(3, 4))


@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "any", "all"])
def test_reductions(name):
    make = boolean if name in ("any", "all") else f32
    for axis in (None, 0, 1, (0, 2)):
        check(C[name], make(2, 3, 4), axis=axis, keepdims=axis == 1)
    check(C[name], make(2, 70), axis=1)  # a block of threads per element
    check(C[name], make(70, 2), axis=0)
    if name in ("sum", "prod", "any", "all"):
        check(C[name], make(2, 0), axis=1)
    if name in ("sum", "max"):
        check(C[name], i32(3, 66), axis=1)
        check(C[name], np.array([[1.0, np.nan], [np.inf, 1.0]], np.float32), axis=1)


def test_sum_to():
    check(C["sum_to"], f32(2, 3, 4), shape=(3, 1))
    check(C["sum_to"], f32(2, 3, 4), shape=())
    check(C["sum_to"], f32(2, 3, 4), shape=(2, 3, 4))


def test_matmul():
    for m, k, n in ((3, 4, 5), (1, 1, 1), (2, 0, 3), (0, 2, 3), (7, 5, 1)):
        check(C["matmul"], f32(m, k), f32(k, n))
        check(C["matmul_nt"], f32(m, k), f32(n, k))
        check(C["matmul_tn"], f32(k, m), f32(k, n))
    check(C["matmul"], f32(2, 1, 3, 4), f32(2, 4, 2))
    check(C["matmul_nt"], f32(2, 1, 3, 4), f32(2, 2, 4))
    check(C["matmul_tn"], f32(2, 1, 4, 3), f32(2, 4, 2))
    check(C["matmul"], f32(2, 3), f64(3, 2))
    check(C["matmul"], i32(2, 3), i32(3, 2))


def test_blocks_of_the_size_that_a_gpu_has():
    large = Launcher(0, Limits(threads=64, tile=16, blocks=65535))
    check(C["matmul"], f32(17, 20), f32(20, 5), launch=large)
    check(C["matmul_nt"], f32(17, 20), f32(5, 20), launch=large)
    check(C["matmul_tn"], f32(20, 17), f32(20, 5), launch=large)
    check(C["sum"], f32(2, 130), axis=1, launch=large)
    check(C["add"], f32(10, 10), f32(10), launch=large)


def test_softmax():
    x = f32(3, 5, low=-4.0, high=4.0)
    extreme = np.array([[1e4, -1e4, 0.0], [-np.inf, 0.0, 1.0], [np.nan, 0.0, 1.0]], np.float32)
    for name in ("softmax", "log_softmax"):
        for axis in (0, 1):
            check(C[name], x, axis=axis)
        check(C[name], f64(2, 3, 2), axis=1)
        check(C[name], extreme, axis=1)


def test_softmax_cross_entropy():
    logits, labels, dy = f32(3, 5, low=-4.0, high=4.0), np.array([0, 4, 2]), f32(3)
    check(C["softmax_cross_entropy"], logits, labels)
    check(C["softmax_cross_entropy_grad"], logits, labels, dy)
    check(C["softmax_cross_entropy"], f64(5), np.array([[1], [3]], np.int32))
    check(C["softmax_cross_entropy_grad"], f32(2, 1, 5), np.array([1, 3]), f32(2, 2))


def test_a_label_that_is_no_class_gives_nan():
    logits, labels = f32(2, 3), np.array([1, 3])
    node = C["softmax_cross_entropy"](input_node("x", (2, 3)), input_node("y", (2,), "int64"))
    got = on_device(launcher(0), node, [logits, labels])
    assert np.isfinite(got[0]) and np.isnan(got[1])


def test_fused():
    x, w, b = (input_node(name, shape) for name, shape in (("x0", (3, 4)), ("x1", (4,)), ("x2", (3, 1))))
    y = C["tanh"](x * w + b) * 0.1 + C["astype"](x > w, dtype="float32") - C["where"](x > b, x, x / 0.0)
    body = graph_text(Graph({"y": y}))
    check(fused, f32(3, 4), f32(4), f32(3, 1), body=body)


def test_optimizer_step():
    w, dw, seen = (input_node(f"x{i}", (5,)) for i in range(3))
    step = input_node("x3", (), "int64")
    rate = C["astype"](step + 1, dtype="float32") * 0.01
    body = graph_text(Graph({"y": w - dw * rate / (C["sqrt"](seen + dw * dw) + 1e-8)}))
    check(fused, f32(5), f32(5), np.abs(f32(5)), np.array(3), body=body)
