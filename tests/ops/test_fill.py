"""Random numbers into arrays: machine code and NumPy give the same bits, and a box is the same box of the whole."""

import numpy as np
import pytest

from rainshed.ops.code_cache import can_compile
from rainshed.ops.fill import COMPILED_FROM, Stream, compiled, fill_normal, fill_uniform, runs_of
from rainshed.ops.philox import element_indices

STREAM = Stream((123, 2**32 - 7), (5, 600, 700), step=2**40 + 3)
WHOLE = ((0, 0, 0), STREAM.whole)
KINDS = {"uniform": fill_uniform, "normal": fill_normal}
LINES = {"uniform": (-0.3, 0.7), "normal": (0.1, 1.7)}
BOXES = {
    "whole": WHOLE,
    "rows": ((2, 0, 0), (3, 600, 700)),
    "columns": ((0, 3, 11), (5, 590, 660)),
    "part of a row": ((1, 7, 0), (1, 100, 700)),
    "one": ((4, 599, 699), (1, 1, 1)),
}


def filled(kind, offset, shape, dtype="float32", line=()):
    out = np.full(shape, np.nan, dtype)
    KINDS[kind](out, STREAM, offset, *line)
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_machine_code_has_the_bits_of_numpy(kind, box):
    """The first three boxes have enough elements for machine code, none of their rows has."""
    (first, *rest), shape = box
    found = filled(kind, *box, line=LINES[kind])
    rows = [filled(kind, (first + i, *rest), (1, *shape[1:]), line=LINES[kind]) for i in range(shape[0])]
    assert rows[0].size < COMPILED_FROM < filled(kind, *WHOLE).size
    np.testing.assert_array_equal(found.view(np.int32), np.concatenate(rows).view(np.int32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_a_box_is_the_same_box_of_the_whole(kind, box):
    offset, shape = box
    at = tuple(slice(low, low + n) for low, n in zip(offset, shape, strict=True))
    np.testing.assert_array_equal(filled(kind, *box), filled(kind, *WHOLE)[at])


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_runs_are_the_indices_of_the_box(box):
    length, starts = runs_of(STREAM.whole, *box)
    found = starts[:, None] + np.arange(length, dtype=np.uint64)
    np.testing.assert_array_equal(found.reshape(box[1]), element_indices(STREAM.whole, *box))
    assert runs_of((), (), ()) == (1, np.zeros(1, np.uint64))


def test_float32_is_float64_rounded():
    """The short polynomials are as exact as float32 is, also far out and around zero."""
    short, long = (filled("normal", *WHOLE, dtype=dtype) for dtype in ("float32", "float64"))
    np.testing.assert_allclose(short, long, rtol=2e-6, atol=3e-7)
    assert abs(short.mean()) < 4 / short.size**0.5 and abs(short.std() - 1) < 4 / short.size**0.5
    assert np.abs(short).max() > 4.5


def test_an_array_that_is_not_contiguous():
    out = np.zeros((600, 5, 700), np.float32).transpose(1, 0, 2)
    fill_normal(out, STREAM, (0, 0, 0))
    np.testing.assert_array_equal(out, filled("normal", *WHOLE))


def test_machine_code_is_asked_for_where_there_is_much():
    assert (compiled("normal") is None) is not can_compile()
