"""Ops of the user's own: from a ufunc, a NumPy function, a kernel; held to the laws of the built-in ops."""

from __future__ import annotations

import cloudpickle
import numpy as np
import pytest
from laws import check_op, f64

from rainshed.engine.user_op import op, ops_of
from rainshed.ops import CATALOGUE
from rainshed.ops.errors import GraphError, KernelError, ShapeError
from rainshed.ops.evaluate import evaluate_nodes
from rainshed.ops.ir import Graph
from rainshed.ops.op import Cost
from rainshed.ops.source import input
from rainshed.ops.text import graph_text, parse

cube_root = op(np.cbrt, name="cube_root")


@op(signature="(n)->()")
def median(x):
    """The middle value along the last axis."""
    return np.median(x, axis=-1)


@op(signature="(m,k),(k,n)->(m,n)", split="mn", summed="k", cost=lambda *, m, k, n: Cost(2 * m * k * n))
def own_product(a, b, out):
    np.matmul(a, b, out=out)


@op(signature="()->()", grad=lambda node, dy: dy * node.attrs["factor"])
def scale(x, *, factor=2.0):
    return x * factor


def stacked_shape(a, b):
    return a[0] + b[0], *a[1:]


@op(shape=stacked_shape, dtype="float64", grad=lambda node, dy: (dy[: node.inputs[0].shape[0]], None))
def beneath(a, b):
    return np.concatenate([a, b])


@pytest.mark.parametrize(
    "made,arrays,reference",
    [
        (cube_root, (f64(3, 4),), np.cbrt),
        (median, (f64(4, 5),), lambda x: np.median(x, axis=-1)),
        (scale, (f64(3, 2),), lambda x: 2 * x),
        (beneath, (f64(2, 3), f64(4, 3)), lambda a, b: np.concatenate([a, b])),
    ],
    ids=lambda case: getattr(case, "name", ""),
)
def test_laws(made, arrays, reference):
    check_op(made, *arrays, reference=reference, gradient=made is scale)


def test_a_kernel_that_is_split():
    a, b = f64(4, 6), f64(6, 3)
    node = own_product(input("a", a.shape, "float64"), input("b", b.shape, "float64"))
    (got,) = evaluate_nodes([node], {"a": a, "b": b})
    np.testing.assert_allclose(got, a @ b)
    assert [(x.name, x.role) for x in node.access.axes] == [("m", "join"), ("n", "join"), ("k", "sum")]
    assert node.op.cost_of(node).flops == 2 * 4 * 6 * 3


def test_what_is_not_said_is_not_cut():
    node = median(input("x", (2, 8), "float64"))
    assert [(x.name, x.max_parts) for x in node.access.axes] == [("b0", 2), ("n", 1)]
    whole = beneath(input("x", (2, 8), "float64"), input("y", (2, 8), "float64"))
    assert whole.access.axes == ()


def test_batch_axis_is_bound_later():
    graph = Graph({"y": median(input("x", (None, 5), "float64"))})
    assert str(graph.outputs["y"].type) == "f64[B]"
    assert str(graph.bind(batch=3).outputs["y"].type) == "f64[3]"


def test_attributes():
    x = input("x", (2,), "float64")
    (got,) = evaluate_nodes([scale(x, factor=3.0)], {"x": np.ones(2)})
    np.testing.assert_array_equal(got, [3, 3])
    with pytest.raises(GraphError, match="no attribute 'power'"):
        scale(x, power=2)


def test_ops_of_a_graph():
    graph = Graph({"y": scale(median(input("x", (2, 3), "float64")))})
    known = ops_of(graph)
    assert set(known) - set(CATALOGUE) == {"scale", "median"}
    assert graph_text(parse(graph_text(graph), known)) == graph_text(graph)
    other = op(lambda x: x, name="scale", signature="()->()")
    with pytest.raises(GraphError, match="two different ops have the name 'scale'"):
        ops_of(Graph({"y": other(graph.outputs["y"])}))


def test_travels_by_cloudpickle():
    space = {"op": op, "np": np}
    code = "def half(x):\n    return x / 2\nhalf = op(half, signature='()->()', grad=lambda node, dy: half(dy))"
    exec(code, space)  # a function of no module, as in a notebook, whose gradient names the op itself
    again = cloudpickle.loads(cloudpickle.dumps([space["half"]]))[0]
    check_op(again, f64(3, 2), reference=lambda x: x / 2)
    known = cloudpickle.loads(cloudpickle.dumps(scale))
    assert known.attrs == scale.attrs and known.name == "scale"


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: op(np.sin, name="matmul"), "an op 'matmul' already"),
        (lambda: op(lambda x: x, signature="()->()"), "needs a name"),
        (lambda: op(lambda x: x, name="f"), "needs signature= or shape="),
        (lambda: op(lambda x: x, name="f", signature="()->()", shape=lambda s: s), "and not both"),
        (lambda: op(lambda x: x, name="f", signature="(),()->()"), "2 inputs by its signature"),
        (lambda: op(lambda x: x, name="f", signature="x->x"), "not of the form"),
        (lambda: op(lambda x: x, name="f", signature="(in)->(in)"), "single letters"),
        (lambda: op(lambda x: x, name="F", signature="()->()"), "lower-case"),
        (lambda: op(lambda x: x, name="f", signature="()->()", dtype="float16"), "float16"),
    ],
)
def test_wrong_records(make, message):
    with pytest.raises(GraphError, match=message):
        make()


def test_a_function_that_breaks_its_word():
    wrong = op(lambda x: x[:1], name="wrong", signature="(n)->(n)")
    with pytest.raises(KernelError, match=r"gave float64\[1\], its record says float64\[3\]") as caught:
        evaluate_nodes([wrong(input("x", (3,), "float64"))], {"x": np.ones(3)})
    assert "test_user_op.py" in caught.value.detail["built at"]
    raising = op(lambda x: np.linalg.inv(x), name="inverse", signature="(n,n)->(n,n)")
    with pytest.raises(KernelError, match="Singular"):
        evaluate_nodes([raising(input("x", (2, 2), "float64"))], {"x": np.zeros((2, 2))})
    with pytest.raises(ShapeError):
        median(input("x", (), "float64"))
