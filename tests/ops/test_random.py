"""Random values: a tile is the same region of the whole, bit for bit; other names, seeds and steps give others."""

import itertools

import numpy as np
import pytest
from laws import check_op, check_split, check_text, f32, f64

from rainshed.ops.access import boxes
from rainshed.ops.code_cache import can_compile
from rainshed.ops.errors import RainshedError
from rainshed.ops.evaluate import evaluate, evaluate_nodes
from rainshed.ops.gradient import gradients
from rainshed.ops.ir import Graph
from rainshed.ops.native import native_calls
from rainshed.ops.philox import philox
from rainshed.ops.random import bernoulli_op, dropout, random_bernoulli, random_normal, random_uniform
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.source import constant, input, step_op
from rainshed.ops.types import Batch

MAKE = {
    "uniform": lambda shape, **kw: random_uniform(shape, low=-2.0, high=3.0, **kw),
    "normal": lambda shape, **kw: random_normal(shape, mean=1.0, std=2.0, **kw),
    "bernoulli": lambda shape, **kw: random_bernoulli(shape, 0.3, **kw),
}


def value(node, step=0):
    (got,) = evaluate_nodes([node], {}, step=step)
    return got


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("shape", [(7, 6), (5,), (), (3, 4, 5), (0, 3)], ids=str)
def test_laws(kind, shape):
    for dtype in ("float32", "float64"):
        node = MAKE[kind](shape, name="r", dtype=dtype)
        assert value(node).dtype == dtype and value(node).shape == shape
        check_text(node)
        check_split(node, {})


@pytest.mark.parametrize("kind", MAKE)
def test_tiles_of_tiles(kind):
    node = MAKE[kind]((8, 6), name="r")
    all_of_it = value(node, step=3)
    for box in boxes(node.access, (2, 3)):
        tile = node.op.make(node.inputs, node.op.tile_attrs(node, box))
        for inner in boxes(tile.access, (2, 2)):
            part = tile.op.make(tile.inputs, tile.op.tile_attrs(tile, inner))
            at = tuple(slice(a + c, a + d) for (a, _), (c, d) in zip(box, inner, strict=True))
            np.testing.assert_array_equal(value(part, step=3), all_of_it[at])


@pytest.mark.parametrize("kind", MAKE)
def test_other_steps_names_and_seeds_differ(kind):
    make = MAKE[kind]
    values = [
        value(make((64,), name="r")), value(make((64,), name="s")), value(make((64,), name="r", seed=1)),
        value(make((64,), name="r"), step=1), value(make((64,), name="r"), step=2**33),
    ]  # fmt: skip
    for one, other in itertools.combinations(values, 2):
        assert not np.array_equal(one, other)
    np.testing.assert_array_equal(values[0], value(make((64,), name="r")))


def test_distributions():
    n = (200, 500)
    uniform, normal = value(MAKE["uniform"](n, name="u")), value(MAKE["normal"](n, name="n"))
    hits = value(MAKE["bernoulli"](n, name="b"))
    assert uniform.min() >= -2 and uniform.max() < 3
    assert abs(uniform.mean() - 0.5) < 0.02 and abs(uniform.var() - 25 / 12) < 0.03
    assert abs(normal.mean() - 1) < 0.03 and abs(normal.std() - 2) < 0.03
    assert abs(hits.mean() - 0.3) < 0.006
    # Neighbours, in the array and in time, have nothing to do with each other.
    assert abs(np.corrcoef(uniform[:, :-1].ravel(), uniform[:, 1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(uniform.ravel(), value(MAKE["uniform"](n, name="u"), step=1).ravel())[0, 1]) < 0.02


def test_certain_and_impossible():
    assert value(random_bernoulli((100,), 1.0, name="b")).all()
    assert not value(random_bernoulli((100,), 0.0, name="b")).any()


def test_philox_is_philox():
    """The known answers of Random123 for philox4x32-10: counter and key all zero, and all ones."""
    assert [int(w[0]) for w in philox(np.zeros(1, np.uint64), 0, (0, 0))] == [0x6627E8D5, 0xE169C58D]
    ones = 2**64 - 1
    assert [int(w[0]) for w in philox(np.array([ones], np.uint64), ones, (2**32 - 1, 2**32 - 1))] == [
        0x408F276D,
        0x41C83B0E,
    ]


def test_the_batch_axis_stays_free():
    node = random_normal((None, 3), name="r")
    assert node.shape == (Batch(), 3)
    small, large = (evaluate(Graph({"y": node}).bind(batch=n), {})[0]["y"] for n in (2, 5))
    np.testing.assert_array_equal(small, large[:2])


def test_dropout():
    x = input("x", (None, 50))
    y = dropout(x, 0.25, name="drop")
    (dx,) = gradients(sum_(y), [x])
    got, _ = evaluate(Graph({"y": y, "dx": dx}).bind(batch=80), {"x": np.ones((80, 50), np.float32)}, step=4)
    assert set(np.unique(got["y"])) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(got["y"].mean() - 1) < 0.03
    np.testing.assert_array_equal(got["dx"], got["y"])
    check_op(dropout, f64(4, 5), rate=0.5, name="d")
    assert dropout(x, 0.0, name="d") is x


STEP = step_op()


@pytest.mark.parametrize(
    "build,text",
    [
        (lambda: random_uniform((3,), name=""), "needs a name"),
        (lambda: random_uniform((3,), name="r", dtype="int32"), "gives float"),
        (lambda: random_uniform((3,), name="r", high=float("inf")), "finite number"),
        (lambda: random_normal((-3,), name="r"), "a size is a whole number"),
        (lambda: random_normal((3,), name="r", seed=0.5), "a seed is a whole number"),
        (lambda: random_bernoulli((3,), 1.5, name="r"), "from 0 to 1"),
        (lambda: dropout(constant(f32(3)), 1.0, name="d"), "less than 1"),
        (lambda: dropout(constant(np.arange(3)), 0.5, name="d"), "takes float"),
        (lambda: bernoulli_op(constant(1.0), shape=(3,), stream="r", p=0.5), "its input is the step"),
        (lambda: bernoulli_op(STEP, shape=(3,), stream="r", p=0.5, offset=(2,), whole=(4,)), "does not lie inside"),
        (lambda: bernoulli_op(STEP, shape=(3,), stream="r", p=0.5, offset=(-1,)), "negative"),
        (lambda: bernoulli_op(STEP, shape=(3,), stream="r", p=0.5, offset=(0, 0)), "must hold 1"),
    ],
)
def test_errors(build, text):
    with pytest.raises(RainshedError, match=text) as caught:
        build()
    assert "test_random.py" in caught.value.detail["built at"]


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("part", [None, ((20, 190), (30, 400))])
def test_compiled_kernels_draw_the_same_bits(kind, pieces, part):
    node = MAKE[kind]((200, 400), name="r", seed=3)
    if part is not None:
        node = node.op.make(node.inputs, node.op.tile_attrs(node, part))
    out = np.zeros(node.shape, node.dtype.numpy)
    calls = native_calls(node.op, (np.array(2**33 + 7), out), node.attrs, pieces)
    assert len(calls) == (pieces if can_compile() else 1)
    for step in (2**33 + 7, 8):
        calls = native_calls(node.op, (np.array(step), out), node.attrs, pieces)
        for call in calls:
            call()
        np.testing.assert_array_equal(out, value(node, step))
