"""Large kernels in a piece for each thread: the same values."""

import numpy as np
import pytest

from rainshed.compiler.machines import Cluster
from rainshed.compiler.pipeline import compile
from rainshed.ops import CATALOGUE as C
from rainshed.ops.errors import DataError
from rainshed.ops.ir import Graph
from rainshed.ops.softmax_cross_entropy import softmax_cross_entropy
from rainshed.ops.source import input, variable
from rainshed.runtime.executor import Executor, Options
from rainshed.runtime.kernels import POLICIES
from rainshed.runtime.trace import Recorder

ROWS = 301  # not a multiple of the number of threads


def program():
    x, labels = input("x", (ROWS, 256)), input("labels", (ROWS,), "int64")
    w = variable("w", (256, 512), init=np.random.default_rng(0).standard_normal((256, 512), np.float32) * 0.1)
    h = C["tanh"](x @ w) * 2.0 + 1.0
    losses = softmax_cross_entropy(h, labels)
    turned = C["matrix_transpose"](x) @ h
    graph = Graph({"losses": losses, "turned": turned, "h": h})
    return compile(graph, Cluster.local(1, cores=1)).programs[0]


def feeds(top=512):
    random = np.random.default_rng(1)
    return {"x": random.standard_normal((ROWS, 256), np.float32), "labels": random.integers(0, top, ROWS)}


@pytest.mark.parametrize("kernels", POLICIES)
@pytest.mark.parametrize("threads", (2, 3))
def test_pieces_give_what_the_whole_gives(threads, kernels):
    found = []
    for count in (1, threads, threads):
        recorder = Recorder()
        options = Options(threads=count, kernels=kernels, recorder=recorder)
        with Executor(program(), ops=C, options=options) as executor:
            executor.init_variables(0)
            for step in range(3):
                outputs = executor.run(step, feeds())
            found.append(outputs)
            assert any(len(calls) > 1 for calls in executor._loaded.pieces.values()) == (count > 1)
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(found[1][name], found[2][name])


def test_an_error_in_a_piece_stops_the_step():
    with Executor(program(), ops=C, options=Options(threads=2)) as executor:
        executor.init_variables(0)
        with pytest.raises(DataError, match="a label is from 0 to 511"):
            executor.run(0, feeds(top=9999))
