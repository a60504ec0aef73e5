"""fused_sum: sums of what is computed meanwhile."""

from collections.abc import Callable

import numpy as np
import pytest
from laws import f32
from test_vector import check

from rainshed.ops.elementwise import multiply, relu, square
from rainshed.ops.errors import GraphError
from rainshed.ops.fused_sum import fused_sum
from rainshed.ops.ir import Graph, Node
from rainshed.ops.source import input as input_node
from rainshed.ops.text import graph_text


def body_text(formula: Callable[..., Node], *shapes: tuple[int, ...]) -> str:
    return graph_text(Graph({"y": formula(*(input_node(f"x{i}", shape) for i, shape in enumerate(shapes)))}))


def centred(x: Node, mean: Node, factor: Node) -> Node:
    return square(relu(x) - mean) * factor


@pytest.mark.parametrize(
    "formula,shapes,axis,keepdims",
    [
        (lambda x: x, [(9, 40)], (0,), False),
        (lambda x: x, [(3, 5, 7, 33)], (1, 2), False),
        (centred, [(4, 6, 5, 24), (24,), ()], (0, 1, 2), True),
        (centred, [(4, 6, 5, 24), (1, 1, 1, 24), (1,)], (0, 1, 2), False),
        (multiply, [(4, 6, 24), (4, 6, 24)], (0,), False),
        (multiply, [(4, 6, 24), (4, 1, 1)], (0, 1), False),
        (multiply, [(8, 3), (8, 3)], (0, 1), False),
    ],
    ids=["whole", "of each image", "rows", "rows with all axes", "of many axes", "read in steps", "one number"],
)
def test_fused_sum(formula, shapes, axis, keepdims):
    check(fused_sum, *(f32(*s) for s in shapes), body=body_text(formula, *shapes), axis=axis, keepdims=keepdims)


def test_the_sum_of_many_rows_is_near_that_of_float64():
    x = f32(40_000, 16) + np.float32(1)
    got = check(fused_sum, x, tolerance=2e-4, body=body_text(lambda x: x, x.shape), axis=(0,))
    np.testing.assert_allclose(got, x.sum(0, dtype=np.float64), rtol=1e-5)


def test_axes_that_do_not_lie_side_by_side_are_refused():
    with pytest.raises(GraphError, match="side by side"):
        fused_sum(input_node("x", (2, 3, 4)), body=body_text(lambda x: x, (2, 3, 4)), axis=(0, 2))
