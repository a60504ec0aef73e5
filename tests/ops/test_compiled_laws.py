"""What every op's compiled kernel must keep: the truth of its NumPy kernel for odd sizes, arrays that are not contiguous, axes of
size 0, and numbers that are not finite or very small. An op that gets one needs a case here."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from laws import f32, i64
from test_fused_sum import body_text
from test_vector import check

from rainshed.ops import CATALOGUE
from rainshed.ops.elementwise import multiply

WINDOW = {"kernel": (3, 2), "low": (1, 0)}
POOL = {"size": (3, 2), "stride": (2, 2)}
SPECIAL = (np.nan, np.inf, -np.inf, 1e-42, -1e-42, 1e18, -0.0)
Case = Callable[[int, int], tuple[list[np.ndarray], dict[str, Any]]]

# Batch and channels -> the op's inputs and attributes. Images of 7 x 5, windows of 3 x 2, padded by a row on top.
PADDING = ((1, 0), (0, 0))
CASES: dict[str, Case] = {
    "conv2d": lambda n, c: ([f32(n, 7, 5, c), f32(3, 2, c, 5)], {"padding": PADDING}),
    "conv2d_input_grad": lambda n, c: ([f32(n, 6, 4, 5), f32(3, 2, c, 5)], {"image": (7, 5), "low": (1, 0)}),
    "conv2d_weight_grad": lambda n, c: ([f32(n, 7, 5, c), f32(n, 6, 4, 5)], WINDOW),
    "local2d": lambda n, c: ([f32(n, 7, 5, c), f32(6, 4, 3, 2, c, 5)], {"padding": PADDING}),
    "local2d_input_grad": lambda n, c: ([f32(n, 6, 4, 5), f32(6, 4, 3, 2, c, 5)], {"image": (7, 5), "low": (1, 0)}),
    "local2d_weight_grad": lambda n, c: ([f32(n, 7, 5, c), f32(n, 6, 4, 5)], WINDOW),
    "local2d_weight_step": lambda n, c: (
        [f32(n, 7, 5, c), f32(n, 6, 4, 5), f32(6, 4, 3, 2, c, 5)],
        {**WINDOW, "alpha": 2.0},
    ),
    "max_pool2d": lambda n, c: ([f32(n, 7, 5, c)], {**POOL, "padding": PADDING}),
    "max_pool2d_grad": lambda n, c: ([f32(n, 7, 5, c), f32(n, 3, 2, c)], {**POOL, "low": (1, 0)}),
    "sum_pool2d": lambda n, c: ([f32(n, 7, 5, c)], {**POOL, "padding": PADDING}),
    "sum_pool2d_grad": lambda n, c: ([f32(n, 3, 2, c)], {**POOL, "image": (7, 5), "low": (1, 0)}),
    "fused_sum": lambda n, c: (
        [f32(n, 7, 5, c), f32(n, 7, 5, c)],
        {"body": body_text(multiply, (n, 7, 5, c), (n, 7, 5, c)), "axis": (0, 1, 2)},
    ),
    "scatter_step": lambda n, c: ([f32(n, 7, c), i64(n, 7, low=0, high=5), f32(5, c)], {"size": 5, "alpha": 2.0}),
    "scatter_add": lambda n, c: ([f32(n, 7, c), i64(n, 7, low=0, high=5)], {"size": 5}),
}
# Bits that depend on nothing, or on no number: tests/ops/test_random.py, tests/ops/test_bfloat16.py.
ELSEWHERE = frozenset({"random_uniform", "random_normal", "random_bernoulli", "astype"})
APART: dict[str, Case] = {  # each channel a group of its own
    "conv2d": lambda n, c: ([f32(n, 7, 5, c), f32(3, 2, 1, c)], {"padding": PADDING, "groups": c}),
    "conv2d_input_grad": lambda n, c: (
        [f32(n, 6, 4, c), f32(3, 2, 1, c)],
        {"image": (7, 5), "low": (1, 0), "groups": c},
    ),
    "conv2d_weight_grad": lambda n, c: ([f32(n, 7, 5, c), f32(n, 6, 4, c)], {**WINDOW, "groups": c}),
}
EVERY = [
    *((name, "together", case) for name, case in CASES.items()),
    *((n, "apart", case) for n, case in APART.items()),
]
every = pytest.mark.parametrize("name,groups,case", EVERY, ids=[f"{name} {groups}" for name, groups, _ in EVERY])
BITS = frozenset({"max_pool2d", "max_pool2d_grad", "sum_pool2d", "sum_pool2d_grad", "scatter_add"})


def hold(name: str, arrays: list[np.ndarray], attrs: dict[str, Any]) -> np.ndarray:
    return check(CATALOGUE[name], *arrays, tolerance=0 if name in BITS else 2e-5, **attrs)


def test_each_op_with_a_compiled_kernel_has_a_case():
    assert {name for name, op in CATALOGUE.items() if op.native is not None} == set(CASES) | ELSEWHERE


@every
@pytest.mark.parametrize("batch,channels", [(1, 1), (3, 7), (2, 33), (0, 3), (2, 0)])
def test_sizes(name: str, groups: str, case: Case, batch: int, channels: int):
    if groups == "apart" and channels < 2:
        return  # no groups
    hold(name, *case(batch, channels))


@every
def test_arrays_that_are_not_contiguous(name: str, groups: str, case: Case):
    arrays, attrs = case(2, 6)
    want = hold(name, arrays, attrs)
    for i in range(len(arrays)):
        turned = [np.asfortranarray(a) if k == i else a for k, a in enumerate(arrays)]
        wide = [np.repeat(a, 2, -1)[..., ::2] if k == i else a for k, a in enumerate(arrays)]
        for strided in (turned, wide):
            assert not strided[i].flags.c_contiguous
            np.testing.assert_allclose(hold(name, strided, attrs), want, rtol=2e-5, atol=2e-5)


@every
@pytest.mark.parametrize("special", SPECIAL)
def test_numbers_that_are_not_finite_or_very_small(name: str, groups: str, case: Case, special: float):
    """In what the windows lie on. Of weights, a kernel may leave out the products with padding, which are 0 or not a number."""
    arrays, attrs = case(2, 9)
    arrays[0].flat[arrays[0].size // 2] = arrays[0].flat[1] = special
    hold(name, arrays, attrs)


@every
def test_denormal_numbers_are_not_flushed(name: str, groups: str, case: Case):
    arrays, attrs = case(2, 9)
    floats = [array for array in arrays if array.dtype == np.float32]
    for array in floats:
        array[...] = 1.0
    floats[-1 if name.startswith("max_pool2d") else 0][...] = 1e-42
    if name.endswith("_step"):
        floats[-1][...] = 0  # what the result is added to
    got = hold(name, arrays, attrs)
    assert got.max() >= np.float32(1e-42) and got.max() < 1e-38
