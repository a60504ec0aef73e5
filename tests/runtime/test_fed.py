"""What is fed: read where it lies once machine code alone reads it, and the same values as when it is copied."""

import numpy as np
import pytest

from rainshed.compiler.machines import Cluster
from rainshed.compiler.pipeline import compile
from rainshed.ops import CATALOGUE as C
from rainshed.ops.errors import DataError
from rainshed.ops.ir import Graph
from rainshed.ops.source import input, variable
from rainshed.runtime.executor import Executor, Options
from rainshed.runtime.fed import LARGE

SHAPE = (128, 160)
assert 4 * SHAPE[0] * SHAPE[1] > LARGE


def executor_of(*, shown: bool = False, **options):
    x = input("x", SHAPE)
    w = variable("w", (160, 3), init=np.random.default_rng(0).standard_normal((160, 3), np.float32))
    outputs = {"y": C["tanh"](x @ w)} | ({"x": x} if shown else {})
    program = compile(Graph(outputs), Cluster.local(1, cores=1)).programs[0]
    executor = Executor(program, ops=C, options=Options(**options))
    executor.init_variables(0)
    return executor


def batches():
    """Arrays at new addresses, the same once more, one that lies in steps, one on an odd address, a function."""
    random = np.random.default_rng(1)
    first, wide = random.standard_normal(SHAPE, np.float32), random.standard_normal((128, 320), np.float32)
    odd = np.zeros(first.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(SHAPE)
    odd[...] = first[::-1]
    return [first, first, first.copy() + 1, wide[:, ::2], odd, lambda box: first * 2, first]


@pytest.mark.parametrize("threads", (1, 2))
def test_fed_values_are_read_where_they_lie_with_the_same_results(threads):
    with executor_of(threads=threads, compile_at=0) as lent, executor_of(threads=threads, kernels="numpy") as copied:
        (place,) = lent._loaded._fed
        assert place.addresses
        for x in batches():
            found, expected = (e.run(0, {"x": x}) for e in (lent, copied))
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name], value)


def test_what_is_read_where_it_lies_is_read_anew_in_each_step():
    with executor_of(compile_at=0) as executor:
        x = np.ones(SHAPE, np.float32)
        first = next(iter(executor.run(0, {"x": x}).values()))
        x *= -1
        np.testing.assert_array_equal(next(iter(executor.run(1, {"x": x}).values())), -first)
        assert not executor._loaded._fed[0].array.any()  # nothing was copied


def test_what_is_handed_out_again_is_copied():
    with executor_of(shown=True, compile_at=0) as executor:
        assert executor._loaded._fed[0].addresses == ()
        x = np.random.default_rng(2).standard_normal(SHAPE, np.float32)
        found = {name: value for (name, _), value in executor.run(0, {"x": x}).items()}
        np.testing.assert_array_equal(found["x"], x)


def test_what_does_not_fit_is_refused_as_before():
    with executor_of(compile_at=0) as executor:
        for bad, words in ((np.ones((128, 161), np.float32), "found shape"), (np.ones(SHAPE), "element type float64")):
            with pytest.raises(DataError, match=words):
                executor.run(0, {"x": bad})
        with pytest.raises(DataError, match="was not given"):
            executor.run(0, {})
        executor.run(0, {"x": np.ones(SHAPE, np.float32)})
