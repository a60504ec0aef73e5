"""matmul: shapes with and without batch axes."""

import numpy as np
import pytest
from laws import check_op, f32, f64, i64

from rainshed.ops.errors import ShapeError
from rainshed.ops.matmul import matmul, matmul_nt, matmul_tn, matrix_transpose
from rainshed.ops.source import input


@pytest.mark.parametrize("m,k,n", [(3, 4, 5), (1, 1, 1), (2, 0, 3), (0, 2, 3)])
def test_matmul(m, k, n):
    check_op(matmul, f64(m, k), f64(k, n), reference=np.matmul)


@pytest.mark.parametrize("a,b", [((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 2))])
def test_batches_broadcast(a, b):
    check_op(matmul, f64(*a), f64(*b), reference=np.matmul)


@pytest.mark.parametrize("m,k,n", [(3, 4, 5), (1, 1, 1), (2, 0, 3), (0, 2, 3)])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_operands_that_lie_transposed(m, k, n, batch):
    check_op(matmul_nt, f64(*batch, m, k), f64(n, k), reference=lambda a, b: a @ np.swapaxes(b, -1, -2))
    check_op(matmul_tn, f64(k, m), f64(*batch, k, n), reference=lambda a, b: np.swapaxes(a, -1, -2) @ b)


def test_other_types():
    check_op(matmul, f32(3, 4), f32(4, 5), reference=np.matmul)
    check_op(matmul, i64(3, 4), i64(4, 5), reference=np.matmul)


def test_the_error_names_the_axis_and_the_line():
    with pytest.raises(ShapeError, match=r"axis k is 784 in input 0 .* but 128 in input 1") as caught:
        matmul(input("a", (64, 784)), input("b", (128, 10)))
    assert "test_matmul.py" in caught.value.detail["built at"]


def test_matrix_transpose():
    check_op(matrix_transpose, f64(2, 3, 4), reference=lambda x: np.swapaxes(x, -1, -2))
