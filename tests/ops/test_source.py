"""Leaves: what they are checked for, and that a part of one is the same region of the whole."""

import numpy as np
import pytest
from laws import check_op, f32, f64

from rainshed.ops.access import boxes
from rainshed.ops.errors import DataError, RainshedError
from rainshed.ops.evaluate import evaluate, evaluate_nodes, initial_value
from rainshed.ops.init import Init
from rainshed.ops.ir import Graph
from rainshed.ops.source import axis_size, constant, input, pick, step_op, variable, variable_op
from rainshed.ops.types import Batch

INITS = {
    "constant": 0.25,
    "uniform": Init("uniform", (-1.0, 3.0)),
    "normal": Init("normal", (0.5, 2.0)),
    "array": f64(7, 5, 3),
}


def tile_of(node, box):
    return node.op.make((), node.op.tile_attrs(node, box), node.origin)


def at(box):
    return tuple(slice(*interval) for interval in box)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", INITS)
def test_a_part_of_a_variable_starts_as_that_part_of_the_whole(kind, dtype):
    node = variable("w", (7, 5, 3), dtype, init=INITS[kind])
    whole = initial_value(node, seed=3)
    for box in boxes(node.access, (3, 2, 1)):
        tile = tile_of(node, box)
        np.testing.assert_array_equal(initial_value(tile, seed=3), whole[at(box)])
        for inner in boxes(tile.access, (2, 1, 2)):
            np.testing.assert_array_equal(initial_value(tile_of(tile, inner), seed=3), whole[at(box)][at(inner)])


def test_initial_values_follow_seed_and_name():
    values = [
        initial_value(variable(name, (50,), init=INITS["normal"]), seed)
        for name, seed in (("a", 0), ("b", 0), ("a", 1))
    ]
    assert not np.array_equal(values[0], values[1]) and not np.array_equal(values[0], values[2])
    assert abs(initial_value(variable("n", (100, 100), init=INITS["normal"]), 0).std() - 2) < 0.05
    uniform = initial_value(variable("u", (100, 100), init=INITS["uniform"]), 0)
    assert -1 <= uniform.min() < -0.99 and 2.99 < uniform.max() < 3


def test_other_element_types():
    np.testing.assert_array_equal(
        initial_value(variable("n", (2,), "int32", init=7), 0), np.array([7, 7], np.int32), strict=True
    )
    np.testing.assert_array_equal(initial_value(variable("t", (1,), "bool", init=True), 0), [True], strict=True)
    np.testing.assert_array_equal(initial_value(variable("s", (), init=1.5), 0), np.float32(1.5))


def test_a_part_of_an_input_reads_its_part_of_what_is_fed():
    node, x = input("x", (6, 4)), f32(6, 4)
    for box in boxes(node.access, (2, 2)):
        tile = tile_of(node, box)
        (got,) = evaluate_nodes([tile], {"x": x})
        np.testing.assert_array_equal(got, x[at(box)])
        (inner,) = boxes(tile.access, (1, 1))
        assert tile_of(tile, inner).attrs["offset"] == tuple(low for low, _ in box)


def test_a_part_of_a_variable_reads_its_part_of_what_is_given():
    node, w = variable("w", (6, 4)), f32(6, 4)
    box = boxes(node.access, (2, 2))[3]
    (got,) = evaluate_nodes([tile_of(node, box)], {}, {"w": w})
    np.testing.assert_array_equal(got, w[3:, 2:])


def test_a_part_of_a_constant():
    node = constant(f32(6, 4))
    for box in boxes(node.access, (2, 3)):
        np.testing.assert_array_equal(tile_of(node, box).attrs["value"], f32(6, 4)[at(box)])


def test_constants_and_their_types():
    for value, text in [
        (1.5, "f32[]"),
        (3, "i64[]"),
        (True, "bool[]"),
        ([[1, 2]], "i64[1, 2]"),
        (f64(2), "f64[2]"),
        (f32(2), "f32[2]"),
    ]:
        assert str(constant(value).type) == text
    assert str(constant(3, "float64").type) == "f64[]"
    array = f32(3)
    node = constant(array)
    array[0] = 99
    assert node.attrs["value"][0] != 99, "a constant must not change with the array it came from"


def test_step():
    got, _ = evaluate(Graph({"n": step_op() + 1}), {}, step=41)
    assert got["n"] == 42 and got["n"].dtype == np.int64


@pytest.mark.parametrize("axis,size", [(None, 24), ((0,), 2), ((-1, 0), 8), ((), 1)])
def test_axis_size(axis, size):
    check_op(axis_size, f64(2, 3, 4), axis=axis, dtype="float64", reference=lambda x: np.float64(size), gradient=False)


def test_axis_size_of_the_batch():
    got, _ = evaluate(Graph({"n": axis_size(input("x", (None, 3)))}).bind(batch=5), {"x": f32(5, 3)})
    assert got["n"] == 15


def test_names_and_shapes_that_are_refused():
    for build, text in [
        (lambda: input("", (2,)), "non-empty"),
        (lambda: input(" x", (2,)), "non-empty"),
        (lambda: input('a"b', (2,)), "without quotes"),
        (lambda: input(3, (2,)), "non-empty"),
        (lambda: input("x", (-2,)), "a size is a whole number"),
        (lambda: input("x", (2.5,)), "a size is a whole number"),
        (lambda: input("x", "ab"), "a size is a whole number"),
        (lambda: input("x", (2,), "complex64"), "not an element type"),
        (lambda: input("x", (2**40, 2**40)), "TiB"),
        (lambda: variable("w", (None, 2)), "batch axis"),
        (lambda: variable("w", (2,), init="zeros"), "init must be"),
        (lambda: variable("w", (2,), init=f32(3)), "shape"),
        (lambda: variable("w", (2,), init=float("nan")), "not finite"),
        (lambda: variable("w", (2,), init=np.array(["a"])), "must hold numbers"),
        (lambda: Init("uniform", (1.0,)), "no initialiser"),
        (lambda: variable_op(name="w", shape=(2,), offset=(3,), whole=(4,)), "does not lie inside"),
        (lambda: variable_op(name="w", shape=(2,), offset=(-1,)), "negative"),
        (lambda: axis_size(constant(f32(3)), axis=(1,)), "no axes"),
        (lambda: pick(constant(1.0), 0), "not a tuple"),
    ]:
        with pytest.raises(RainshedError, match=text):
            build()


def test_feeds_are_checked():
    x = input("x", (2, 3))
    for feeds, text in [
        ({}, "was not given"),
        ({"x": f64(2, 3)}, "found element type float64"),
        ({"x": f32(3, 2)}, "found shape \\[3, 2\\]"),
    ]:
        with pytest.raises(DataError, match=text):
            evaluate_nodes([x], feeds)


def test_the_batch_axis_of_an_input():
    assert input("x", (None, 3)).shape == (Batch(), 3)
    assert str(input("x", (None, 3)).type) == "f32[B, 3]"
    assert input("x", 5).shape == (5,)
