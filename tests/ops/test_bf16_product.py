"""Products of bfloat16 in machine code: bits against sums in the same order, and the instruction for processors that have it."""

from __future__ import annotations

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from laws import check_fills, f32

from rainshed.ops.bf16_product import DEPTH, PLAIN, add_short_product, multiply
from rainshed.ops.evaluate import evaluate_nodes
from rainshed.ops.product import matmul_call, product, product_call
from rainshed.ops.source import input

BF16 = np.dtype(ml_dtypes.bfloat16)


def short(*shape: int) -> np.ndarray:
    return f32(*shape).astype(BF16)


def in_order(a: np.ndarray, b: np.ndarray, alpha: float, c: np.ndarray | None) -> np.ndarray:
    """Sums of float32 as the kernel makes them: block by block, of each pair the odd product first."""
    x, y = a.astype(np.float32), b.astype(np.float32)
    total = c
    for k in range(0, x.shape[1], DEPTH):
        block = np.zeros((len(x), y.shape[1]), np.float32)
        for p in range(k, min(k + DEPTH, x.shape[1]), 2):
            for i in (p + 1, p):
                if i < min(k + DEPTH, x.shape[1]):
                    block += x[:, i : i + 1] * y[i : i + 1]
        total = np.float32(alpha) * block if total is None else np.float32(alpha) * block + total
    assert total is not None
    return total


@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (5, 7, 3), (13, DEPTH * 2 + 1, 70), (100, 60, 1100)])
@pytest.mark.parametrize("turned", [False, True])
def test_plain_vector_code_gives_the_bits_of_its_order(m: int, k: int, n: int, turned: bool) -> None:
    a = short(k, m).T if turned else short(m, k)
    b = short(n, k).T if turned else short(k, n)
    for alpha, c in ((1.0, None), (-0.5, f32(m, n))):
        out = np.full((m, n), np.nan, np.float32) if c is None else c.copy()
        multiply(PLAIN)(a.view(np.uint16), b.view(np.uint16), out, np.float32(alpha), c is not None)
        np.testing.assert_array_equal(out, in_order(a, b, alpha, c), strict=True)


ASSEMBLY = """
from rainshed.ops.bf16_product import SHORT, dispatcher, has_instruction
assert has_instruction()
text = "\\n".join(dispatcher(SHORT, cache=False).inspect_asm().values())
print(text.count("vdpbf16ps"), sum("vdpbf16ps" in line and "(%" in line for line in text.splitlines()))
"""


def test_the_instruction_where_a_processor_has_it() -> None:
    """A tile is one instruction for each row and vector, and its sums stay in registers. Compiled, not run."""
    features = "+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx512bf16"
    env = {**os.environ, "NUMBA_CPU_NAME": "sapphirerapids", "NUMBA_CPU_FEATURES": features}
    done = subprocess.run(
        [sys.executable, "-c", ASSEMBLY], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["24", "0"]


def test_without_the_instruction_blas_adds_up_copies() -> None:
    a, b, out = short(4, 6), short(6, 5), f32(4, 5)
    before = out.copy()
    add_short_product(a, b, out, alpha=-2.0, beta=1.0)()
    np.testing.assert_allclose(out, before - 2 * (a.astype(float) @ b.astype(float)), rtol=1e-6, atol=1e-6)
    add_short_product(a, b, out, alpha=1.0, beta=0.0)()
    np.testing.assert_allclose(out, a.astype(float) @ b.astype(float), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("turn_a", "turn_b", "summed"), [(False, False, 0), (True, False, 0), (False, True, 1)])
@pytest.mark.parametrize("pairs", [1, 3])
def test_the_op_product(turn_a: bool, turn_b: bool, summed: int, pairs: int) -> None:
    lead = (2,) * summed
    shape_a, shape_b = (*lead, *((6, 4) if turn_a else (4, 6))), (*lead, *((5, 6) if turn_b else (6, 5)))
    arrays = [x for i in range(pairs) for x in (short(*shape_a) * BF16.type(i + 1), short(*shape_b))] + [f32(4, 5)]
    attrs = {"turn_a": turn_a, "turn_b": turn_b, "summed": summed, "alpha": -0.5}
    leaves = [input(f"x{i}", x.shape, x.dtype) for i, x in enumerate(arrays)]
    node = product(*leaves, **attrs)
    assert str(node.type) == "f32[4, 5]"
    (got,) = evaluate_nodes([node], {leaf.name: x for leaf, x in zip(leaves, arrays, strict=True)})
    check_fills(node, arrays)
    wide = [x.astype(np.float32) for x in arrays]
    (want,) = evaluate_nodes(
        [product(*(input(f"x{i}", x.shape) for i, x in enumerate(wide)), **attrs)],
        {f"x{i}": x for i, x in enumerate(wide)},
    )
    np.testing.assert_array_equal(got, want)
    out = np.full((4, 5), np.nan, np.float32)
    product_call(node.attrs, *arrays, out)()
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)


def test_a_plain_product_is_called_the_same_way() -> None:
    a, b, out = short(3, 4), short(4, 2), np.empty((3, 2), np.float32)
    call = matmul_call(a, b, out)
    assert call is not None and matmul_call(a, f32(4, 2), out) is None
    call()
    np.testing.assert_allclose(out, a.astype(float) @ b.astype(float), rtol=1e-6, atol=1e-6)
