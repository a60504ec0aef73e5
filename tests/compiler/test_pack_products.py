"""pack_products: weights that many products of few rows read are packed once; others are left as they are."""

from collections import Counter

import numpy as np
import pytest

import rainshed as rs
from rainshed.compiler.pipeline import compile, show
from rainshed.ops import CATALOGUE
from rainshed.runtime.executor import Executor, Options

UNITS = 260  # the recurrent weight of an LSTM is larger than a megabyte, and no multiple of a panel


def network(steps=6, units=UNITS, batch=8, layer=rs.layers.lstm):
    x, y = rs.input("x", (batch, steps, 3)), rs.input("y", (batch, units))
    h = layer(x, units)
    return rs.graph(loss=rs.mean(rs.square(h - y)), optimizer=rs.SGD(0.5))


def counts(graph, machines=1):
    found = Counter(node.op.name for node in show(graph, rs.Cluster.local(machines), "fuse").nodes())
    return found["pack"], found["packed_product"]


def test_the_recurrent_weight_is_packed_for_both_directions():
    assert counts(network()) == (2, 10)  # five products each, and five of their gradients
    assert counts(network(layer=rs.layers.gru, units=400)) == (2, 10)


def test_what_is_read_seldom_or_small_or_by_many_rows_is_not():
    assert counts(network(steps=4)) == (0, 0)
    assert counts(network(units=128)) == (0, 0)
    assert counts(network(batch=65)) == (0, 0) and counts(network(batch=3)) == (0, 0)
    assert counts(network(), machines=2)[0] == 0


@pytest.mark.parametrize("threads", (1, 2))
def test_steps_are_those_of_the_graph_and_repeat_to_the_bit(threads):
    graph = network()
    random = np.random.default_rng(0)
    feeds = {n: random.standard_normal(x.shape, np.float32) for n, x in graph.inputs.items()}
    program = compile(graph, rs.Cluster.local(1)).programs[0]
    plain = compile(graph, rs.Cluster.local(1), fuse=False).programs[0]
    losses = []
    for p, kernels in ((program, "native"), (program, "native"), (program, "numpy"), (plain, "numpy")):
        with Executor(p, ops=CATALOGUE, options=Options(threads=threads, kernels=kernels)) as executor:
            executor.init_variables(3)
            losses.append([float(executor.run(i, feeds)["loss", ()]) for i in range(4)])
    assert losses[0] == losses[1]
    np.testing.assert_allclose(losses[0], losses[3], rtol=1e-4)
    np.testing.assert_allclose(losses[2], losses[3], rtol=1e-4)
