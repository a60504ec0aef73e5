"""Windowed sums along the last axis, and local response normalisation."""

import numpy as np
import pytest
from laws import check_op, f64

from rainshed.ops.errors import ShapeError
from rainshed.ops.local_response_norm import local_response_norm, window_sum
from rainshed.ops.source import input


def sums(x, size, low, high):
    wide = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(low, high)])
    return np.stack([wide[..., i : i + size].sum(-1) for i in range(wide.shape[-1] - size + 1)], -1)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("shape", [(3, 7), (2, 3, 2, 4), (1,)])
def test_window_sum(shape, size):
    low = size // 2
    check_op(window_sum, f64(*shape), size=size, reference=lambda x: sums(x, size, low, size - 1 - low))


@pytest.mark.parametrize("low,high", [(0, 0), (0, 2), (2, 0), (3, 1)])
def test_other_padding(low, high):
    check_op(window_sum, f64(2, 6), size=3, padding=(low, high), reference=lambda x: sums(x, 3, low, high))


def test_local_response_norm():
    def reference(x):
        return x / (2 + 0.1 * sums(x**2, 3, 1, 1)) ** 0.75

    check_op(local_response_norm, f64(2, 3, 2, 5), size=3, alpha=0.1, beta=0.75, k=2.0, reference=reference)


def test_wrong_arguments():
    with pytest.raises(ShapeError, match="size is a whole number"):
        window_sum(input("x", (3, 4)), size=0)
    with pytest.raises(ShapeError, match="does not fit"):
        window_sum(input("x", (3, 4)), size=9, padding=(0, 0))
