"""First values: in pieces, by any number of threads, the same numbers; and how far it is."""

import numpy as np
import pytest

from rainshed.compiler.plan import Variable
from rainshed.ops.access import box_size
from rainshed.ops.errors import PlanError
from rainshed.ops.fill import COMPILED_FROM
from rainshed.ops.init import Init
from rainshed.ops.text import attr_text
from rainshed.runtime.initial import PIECE, fill, untold
from rainshed.runtime.slabs import slabs


@pytest.mark.parametrize(
    "box", [(), ((0, 1),), ((3, 3),), ((2, 9), (0, 5)), ((1, 3), (4, 9), (2, 8)), ((0, 2), (0, 0))]
)
@pytest.mark.parametrize("most", [1, 4, 7, 100])
def test_slabs_are_the_box_in_the_order_of_memory(box, most):
    index = np.arange(1000).reshape(10, 10, 10)[(0,) * (3 - len(box))]
    found = [np.asarray(index[tuple(slice(*edge) for edge in slab)]) for slab in slabs(box, most)]
    whole = np.asarray(index[tuple(slice(*edge) for edge in box)])
    np.testing.assert_array_equal(np.concatenate([a.ravel() for a in found] or [[]]), whole.ravel())
    assert all(a.size <= most or a.size == 1 for a in found)


def part(init, whole, box):
    return Variable("w", 0, box, whole, attr_text(init)), np.full([high - low for low, high in box], np.nan, np.float32)


INITS = {"normal": Init("normal", (0.0, 0.5)), "uniform": Init("uniform", (-1.0, 2.0)), "constant": Init.of(0.25)}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("init", INITS.values(), ids=INITS)
def test_numbers_do_not_depend_on_pieces_and_threads(init, threads):
    whole, box = (3, 1100, 1500), ((1, 3), (0, 1100), (7, 1499))
    variable, array = part(init, whole, box)
    assert PIECE > COMPILED_FROM and array.size > PIECE / 2
    fill([(variable, array)], seed=5, threads=threads, told=untold)
    expected = np.empty(whole, np.float32)
    for i in range(whole[0]):
        for j in range(0, whole[1], 100):  # too small for machine code
            init.fill(expected[i : i + 1, j : j + 100], seed=5, name="w", whole=whole, offset=(i, j, 0))
    np.testing.assert_array_equal(array, expected[1:3, :, 7:1499])


def test_it_tells_how_far_it_is():
    parts = [part(INITS["constant"], shape, tuple((0, n) for n in shape)) for shape in ((3, PIECE // 2 + 1), (), (5,))]
    said = []
    fill(parts, seed=0, threads=2, told=lambda done, total: said.append((done, total)))
    total = 4 * sum(box_size(variable.box) for variable, _ in parts)
    assert len(said) == 5 and said[-1] == (total, total)
    assert [done for done, _ in said] == sorted(done for done, _ in said)
    assert all((array == 0.25).all() for _, array in parts)


def test_values_that_are_given():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    variable, array = part(Init.of(values[1:]), (3, 4), ((1, 3), (0, 4)))
    fill([(variable, array)], seed=0, threads=1, told=untold)
    np.testing.assert_array_equal(array, values[1:])


def test_a_variable_without_a_beginning():
    with pytest.raises(PlanError, match="no initial value"):
        fill([(Variable("w", 0, (), (), "3"), np.zeros(()))], seed=0, threads=1, told=untold)
