"""slice, unslice, pad, assemble and x[key], against NumPy."""

import numpy as np
import pytest
from laws import boolean, check_op, f32, f64, i64, rng

from rainshed.ops.access import boxes, whole
from rainshed.ops.assemble import assemble
from rainshed.ops.errors import DataError, RainshedError, ShapeError
from rainshed.ops.evaluate import evaluate, evaluate_nodes
from rainshed.ops.gradient import gradients
from rainshed.ops.ir import Graph
from rainshed.ops.pad import pad
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.slice import slice_op, unslice
from rainshed.ops.source import constant, input
from rainshed.ops.types import Batch

# (size of the axis, start, stop, step)
CUTS = [
    (9, 0, 9, 1),
    (9, 2, 7, 1),
    (9, 1, 9, 3),
    (9, 0, 8, 2),
    (9, 8, -1, -1),
    (9, 7, 1, -2),
    (9, 8, 0, -4),
    (9, 4, 5, 1),
    (9, 3, 3, 1),
]


def numpys(start, stop, step):
    return slice(start, None if step < 0 and stop == -1 else stop, step)


@pytest.mark.parametrize("size,start,stop,step", CUTS)
def test_slice(size, start, stop, step):
    key = numpys(start, stop, step)
    check_op(slice_op, f64(size), start=(start,), stop=(stop,), step=(step,), reference=lambda x: x[key])
    check_op(slice_op, f64(4, size), start=(1, start), stop=(3, stop), step=(1, step), reference=lambda x: x[1:3, key])


@pytest.mark.parametrize("size,start,stop,step", CUTS)
def test_unslice(size, start, stop, step):
    def reference(dy):
        x = np.zeros((4, size))
        x[1:3, numpys(start, stop, step)] = dy
        return x

    count = len(range(start, stop, step))
    cut = {"start": (1, start), "stop": (3, stop), "step": (1, step)}
    check_op(unslice, f64(2, count), shape=(4, size), **cut, reference=reference)


def test_tiles_of_a_slice_need_just_what_they_take():
    node = slice_op(input("x", (100,)), start=(90,), stop=(-1,), step=(-10,))
    assert node.shape == (10,)
    assert [node.access.regions(box, ((100,),)) for box in boxes(node.access, (2,))] == [(((50, 91),),), (((0, 41),),)]


def test_equal_cuts_have_one_form():
    x = input("x", (9,))
    one, other = slice_op(x, start=(0,), stop=(8,), step=(3,)), slice_op(x, start=(0,), stop=(9,), step=(3,))
    assert one.attrs == other.attrs


WIDTHS = [0, 2, ((1, 0), (0, 3)), ((0, 0), (2, 2)), ((5, 1), (1, 5))]


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_pad(widths):
    check_op(pad, f64(3, 4), widths=widths, value=-1.5, reference=lambda x: np.pad(x, widths, constant_values=-1.5))
    check_op(pad, i64(3, 4), widths=widths, value=7, reference=lambda x: np.pad(x, widths, constant_values=7))


def test_pad_of_other_values():
    check_op(pad, boolean(3, 2), widths=1, value=True, reference=lambda x: np.pad(x, 1, constant_values=True))
    check_op(pad, f64(), widths=3, reference=lambda x: x)
    check_op(pad, f64(0, 2), widths=1, reference=lambda x: np.pad(x, 1))


BOXES = [
    ((((0, 2), (0, 4)), ((2, 5), (0, 4))), (5, 4)),
    ((((0, 5), (1, 4)), ((0, 2), (0, 1)), ((2, 5), (0, 1))), (5, 4)),
    ((((0, 5), (0, 4)),), (5, 4)),
    (((),), ()),
    ((((0, 2),), ((2, 2),), ((2, 3),)), (3,)),
]


@pytest.mark.parametrize("given,shape", BOXES)
def test_assemble(given, shape):
    blocks = [rng(i).standard_normal([high - low for low, high in box]) for i, box in enumerate(given)]

    def reference(*blocks):
        out = np.full(shape, np.nan)
        for block, box in zip(blocks, given, strict=True):
            out[tuple(slice(*pair) for pair in box)] = block
        return out

    check_op(assemble, *blocks, boxes=given, shape=shape, reference=reference)


@pytest.mark.parametrize(
    "given,shapes,text",
    [
        ([((0, 2),), ((2, 3),)], [(2,), (1,)], "cover 3 of the 4"),
        ([((0, 2),), ((1, 4),)], [(2,), (3,)], "overlap"),
        ([((0, 2),), ((2, 5),)], [(2,), (3,)], "inside"),
        ([((0, 2),), ((2, 4),)], [(2,), (3,)], "does not fill"),
        ([((0, 2),)], [(2,), (2,)], "one box per input"),
        ([((0, 2),), ((2, 4), (0, 1))], [(2,), (2,)], "one interval per axis"),
        ([((0, 2),), ((2, "4"),)], [(2,), (2,)], "whole numbers"),
    ],
)
def test_boxes_must_be_disjoint_and_cover(given, shapes, text):
    with pytest.raises(ShapeError, match=text):
        assemble(*(input(f"x{i}", s) for i, s in enumerate(shapes)), boxes=tuple(given), shape=(4,))


# -- x[key] -----------------------------------------------------------------------------------------------------------
KEYS = [
    0, -1, np.int64(2), slice(None), slice(1, 3), slice(None, None, -1), slice(-2, None), slice(5, 1, -2), slice(2, 2),
    slice(-100, 100), None, Ellipsis, (), (0, 1), (0, 1, 2), (slice(None), 1), (Ellipsis, 0), (0, Ellipsis), (None, 0),
    (0, None, slice(1, 3)), (Ellipsis, None), (slice(0, 2), Ellipsis, slice(None, None, 2)),
    (None, Ellipsis, None, 1, None),
    [0, 2], [-1, 0, 0], np.array([[0, 1], [2, 0]]), np.array(1), (slice(None), [0, 3]),
    (slice(1, 3), [0, 3], slice(0, 2)),
    (0, [0, 3]), ([0, 2], 1), (0, slice(None), [0, 2]), ([0, 2], slice(None), 1), (slice(None), 0, [0, 2]),
    (slice(None), [1, 2], None), (0, None, [1, 2]), (1, Ellipsis, [[1, 2]]), (Ellipsis, np.array([1, 1, 0], np.int32)),
    (None, [0, 1], 0), [],
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_getitem(key):
    check_op(lambda x: x[key], f64(3, 4, 5), reference=lambda x: x[key])


def test_getitem_of_a_number():
    check_op(lambda x: x[()], f64(), reference=lambda x: x)
    check_op(lambda x: x[None, ..., None], f64(), reference=lambda x: x[None, ..., None])


def test_random_keys():
    """Keys of every mixture that one axis after the other allows, against NumPy's shapes and values."""
    random = rng("keys")
    x = f64(3, 4, 5)
    node = input("x", x.shape, x.dtype)
    for _ in range(300):
        parts = []
        for size in x.shape[: random.integers(0, 4)]:
            low, high, step = (int(n) for n in random.integers(-7, 8, 3))
            parts.append(
                [int(random.integers(-size, size)), slice(low, high, step or None), slice(None)][random.integers(3)]
            )
        if random.integers(2) and parts:
            at = int(random.integers(len(parts)))
            parts[at] = random.integers(-x.shape[at], x.shape[at], random.integers(0, 3, random.integers(1, 3)))
        elif random.integers(2):
            parts.append(Ellipsis)
        for _ in range(random.integers(0, 3)):
            parts.insert(int(random.integers(len(parts) + 1)), None)
        key = tuple(parts)
        (got,) = evaluate_nodes([node[key]], {"x": x})
        np.testing.assert_array_equal(got, x[key], err_msg=str(key), strict=True)


def test_a_node_as_index():
    x, at = f64(3, 4), np.array([2, 0, 0])
    check_op(lambda x, i: x[i], x, at, reference=lambda x, i: x[i])
    check_op(lambda x, i: x[:, i], x, at, reference=lambda x, i: x[:, i])
    check_op(lambda x, i: x[1, i], x, np.array(3), reference=lambda x, i: x[1, i])
    node = input("x", (3, 4))[input("i", (2,), "int64")]
    with pytest.raises(DataError, match="index -1 at \\[1\\] is not one of the 3 positions") as caught:
        evaluate_nodes([node], {"x": f32(3, 4), "i": np.array([0, -1])})
    assert "test_slice.py" in caught.value.detail["built at"]


def test_iteration():
    values = evaluate_nodes(list(input("x", (3, 4))), {"x": f32(3, 4)})
    np.testing.assert_array_equal(values, f32(3, 4))


X = input("x", (3, 4))
BATCH = input("b", (None, 4))


@pytest.mark.parametrize(
    "build,text",
    [
        (lambda: X[3], "index 3 is not one of the 3"),
        (lambda: X[0, -5], "index -5 is not one of the 4"),
        (lambda: X[0, 0, 0], "2 axes, but 3 indices"),
        (lambda: X[..., ...], "one Ellipsis"),
        (lambda: X[[0, 3]], "not all among the 3 positions"),
        (lambda: X[[0], [1]], "one array at a time"),
        (lambda: X[True], "an index is a number"),
        (lambda: X[1.5], "an index is a number"),
        (lambda: X["a"], "an index is a number"),
        (lambda: X[[True, False, True]], "holds integers"),
        (lambda: X[X > 0], "an index is an integer"),
        (lambda: X[::"a"], "not a slice of numbers"),
        (lambda: X[np.array([1, 2]) : 3], "not a slice of numbers"),
        (lambda: X[::0], "not a slice of numbers"),
        (lambda: BATCH[0], "batch axis B can only be taken whole"),
        (lambda: BATCH[1:], "batch axis B can only be taken whole"),
        (lambda: BATCH[::-1], "batch axis B can only be taken whole"),
        (lambda: slice_op(X, start=(0, 0), stop=(3, 5)), "leaves the axis"),
        (lambda: slice_op(X, start=(0, 0), stop=(3, 4), step=(0, 1)), "must not be 0"),
        (lambda: slice_op(X, start=(0,), stop=(3,)), "one number per axis"),
        (lambda: slice_op(X, start=(0, "a"), stop=(3, 4)), "whole numbers"),
        (lambda: slice_op(BATCH, start=(0, 0), stop=(3, 4)), "only be taken whole"),
        (lambda: unslice(X, shape=(9, 9), start=(0, 0), stop=(4, 4)), "the slice is f32\\[4, 4\\], found"),
        (lambda: pad(BATCH, widths=1), "batch axis of f32\\[B, 4\\] cannot be padded"),
        (lambda: pad(X, widths=-1), "must not be negative"),
        (lambda: pad(X, widths=((1, 1),)), "for each of 2 axes"),
        (lambda: pad(X, widths=1, value="a"), "takes one number"),
        (lambda: pad(constant(i64(3)), widths=1, value=0.5), "does not fit i64"),
    ],
)
def test_errors(build, text):
    with pytest.raises(RainshedError, match=text) as caught:
        build()
    assert "test_slice.py" in caught.value.detail["built at"]


def test_the_batch_axis_stays_free():
    y = BATCH[:, 1:3]
    assert y.shape == (Batch(), 2)
    assert BATCH[..., 0].shape == (Batch(),)
    assert BATCH[:, None].shape == (Batch(), 1, 4)
    assert BATCH[0:] is BATCH
    assert BATCH[[0, 2]].shape == (2, 4)
    padded = pad(BATCH, widths=((0, 0), (1, 1)))
    assert padded.shape == (Batch(), 6)
    loss = sum_(y * y) + sum_(padded * padded)
    graph = Graph({"y": y, "db": gradients(loss, [BATCH])[0]}).bind(batch=3)
    got, _ = evaluate(graph, {"b": f32(3, 4)})
    np.testing.assert_array_equal(got["y"], f32(3, 4)[:, 1:3])
    np.testing.assert_allclose(got["db"], 2 * f32(3, 4) * [1, 2, 2, 1], rtol=1e-6)


def test_cutting_and_assembling_gives_the_same():
    x = input("x", (5, 4))
    cuts = boxes((x * x).access, (2, 3))
    blocks = [x[tuple(slice(*pair) for pair in box)] for box in cuts]
    (got,) = evaluate_nodes([assemble(*blocks, boxes=cuts, shape=(5, 4))], {"x": f32(5, 4)})
    np.testing.assert_array_equal(got, f32(5, 4))
    assert whole((5, 4)) == ((0, 5), (0, 4))
