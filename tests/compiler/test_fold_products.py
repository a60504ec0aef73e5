"""fold_products: text in, text out; weights that move where they lie."""

import numpy as np
import pytest
from compiler_kit import check_pass, cluster, graph_of, setting

from rainshed.compiler.passes.fold_products import fold_products
from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import Assign, Run
from rainshed.engine.optimizers import SGD
from rainshed.ops import CATALOGUE
from rainshed.ops.evaluate import evaluate
from rainshed.ops.init import Init
from rainshed.ops.ir import Graph
from rainshed.ops.local2d import local2d, local2d_weight_grad
from rainshed.ops.source import input, variable
from rainshed.runtime.cluster.local import LocalCluster
from rainshed.runtime.executor import Executor

LEAVES = """
    %0 = input() {name="a", shape=[4, 3], dtype=f32} : f32[4, 3] @ m0/cpu
    %1 = input() {name="b", shape=[4, 5], dtype=f32} : f32[4, 5] @ m0/cpu
"""


def folded(lines):
    graph = fold_products(graph_of(LEAVES + lines), setting())
    return [n.op.name for n in graph.nodes() if n.op.name != "input"], graph


def trained(plan, feeds):
    """The losses of three steps, and the variables after them."""
    with LocalCluster(plan, ops=CATALOGUE) as local:
        local.init(0)
        return [local.run(feeds)["loss"] for _ in range(3)] + list(local.variables().values())


def test_a_transpose_is_read_where_it_lies():
    check_pass(
        fold_products,
        LEAVES
        + """
    %2 = matrix_transpose(%0) : f32[3, 4] @ m0/cpu
    %3 = matmul(%2, %1) : f32[3, 5] @ m0/cpu
    output y = %3
    """,
        """
%0 = input() {name="a", shape=[4, 3], dtype=f32} : f32[4, 3] @ m0/cpu
%1 = input() {name="b", shape=[4, 5], dtype=f32} : f32[4, 5] @ m0/cpu
%2 = product(%0, %1) {turn_a=True} : f32[3, 5] @ m0/cpu
output y = %2
""",
    )


def test_a_transpose_that_is_asked_for_stays_and_a_plain_product_too():
    names, _ = folded("""
    %2 = matrix_transpose(%0) : f32[3, 4] @ m0/cpu
    %3 = matmul(%2, %1) : f32[3, 5] @ m0/cpu
    %4 = matmul(%0, %2) : f32[4, 4] @ m0/cpu
    output y = %3
    output t = %2
    output z = %4
    """)
    assert names.count("matrix_transpose") == 1 and names.count("product") == 2
    names, _ = folded("""
    %2 = matrix_transpose(%0) : f32[3, 4] @ m0/cpu
    %3 = matmul(%0, %2) : f32[4, 4] @ m0/cpu
    output y = %3
    """)
    assert names == ["product"]


@pytest.mark.parametrize("where", ("m0/cuda0", "m0/cpu"))
def test_only_on_hosts(where):
    text = """
    %2 = matrix_transpose(%0) : f32[3, 4] @ WHERE
    %3 = matmul(%2, %1) : f32[3, 5] @ WHERE
    output y = %3
    """.replace("WHERE", where)
    names, _ = folded(text)
    assert names == (["product"] if where == "m0/cpu" else ["matrix_transpose", "matmul"])


def net(steps=3):
    """A recurrent product, whose gradient is a sum over steps, and a head."""
    x, t = input("x", (2, 6), "float64"), input("t", (2, 2), "float64")
    u = variable("u", (6, 6), "float64", init=np.random.default_rng(0).standard_normal((6, 6)) * 0.3)
    w = variable("w", (6, 2), "float64", init=np.random.default_rng(1).standard_normal((6, 2)))
    h = x
    for _ in range(steps):
        h = CATALOGUE["tanh"](h @ u + x)
    error = h @ w - t
    return CATALOGUE["sum"](error * error)


def test_weights_are_moved_where_they_lie_and_as_without_folding():
    graph = Graph({"loss": net()}, loss="loss", rule=SGD(0.05).rule())
    plan = compile(graph, cluster(1))
    program = plan.programs[0]
    assert not [i for i in program.instructions if isinstance(i, Assign)]
    kept = {v.value for v in program.variables}
    writes = [i for i in program.instructions if isinstance(i, Run) and kept & set(i.outputs)]
    assert [i.op for i in writes] == ["product", "product"]
    assert not [i for i in program.instructions if isinstance(i, Run) and i.op == "matrix_transpose"]
    random = np.random.default_rng(3)
    feeds = {"x": random.standard_normal((2, 6)), "t": random.standard_normal((2, 2))}
    plain = compile(graph, cluster(1), fuse=False).programs[0]
    found = []
    for one in (program, plain):
        with Executor(one, ops=CATALOGUE) as executor:
            executor.init_variables(0)
            losses = [float(executor.run(step, feeds)["loss", ()]) for step in range(3)]
            found.append((losses, {v.name: executor.get_variable(v.name, v.box) for v in one.variables}))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-12)
    for name, value in found[0][1].items():
        np.testing.assert_allclose(value, found[1][1][name], rtol=1e-10)
    first = evaluate(Graph({"loss": net()}), feeds)[0]["loss"]
    np.testing.assert_allclose(found[0][0][0], first, rtol=1e-12)


def test_a_product_that_reads_a_transpose_by_itself_is_one_of_blas_too():
    names, graph = folded("""
    %2 = matmul_tn(%0, %1) : f32[3, 5] @ m0/cpu
    %3 = matmul_nt(%2, %2) : f32[3, 3] @ m0/cpu
    output y = %3
    """)
    assert names == ["product", "product"]
    assert [(n.attrs["turn_a"], n.attrs["turn_b"]) for n in graph.nodes() if n.op.name == "product"] == [(1, 0), (0, 1)]


def test_a_transpose_of_a_transpose_is_read_as_it_lies():
    names, graph = folded("""
    %2 = input() {name="c", shape=[3, 5], dtype=f32} : f32[3, 5] @ m0/cpu
    %3 = matrix_transpose(%0) : f32[3, 4] @ m0/cpu
    %4 = matmul_tn(%3, %2) : f32[4, 5] @ m0/cpu
    output y = %4
    """)
    assert names == ["product"]
    (node,) = (n for n in graph.nodes() if n.op.name == "product")
    assert (node.attrs["turn_a"], node.attrs["turn_b"]) == (0, 0)


def local_net():
    x, t = input("x", (2, 6, 6, 3)), input("t", (2, 3, 3, 4))
    h = CATALOGUE["tanh"](local2d(x, variable("v", (4, 4, 3, 3, 3, 5), init=Init("normal", (0.0, 0.3)))))
    y = local2d(h, variable("w", (3, 3, 2, 2, 5, 4), init=Init("normal", (0.0, 0.3))))
    return CATALOGUE["sum"]((y - t) * (y - t))


@pytest.mark.parametrize("machines", [1, 2])
def test_the_gradient_of_locally_connected_weights_is_never_there_as_a_whole(machines):
    graph = Graph({"loss": local_net()}, loss="loss", rule=SGD(0.05).rule())
    plan, plain = compile(graph, cluster(machines)), compile(graph, cluster(1), fuse=False)
    moved: list[str] = []
    for program in plan.programs:
        kept = {v.value: v.name for v in program.variables}
        runs = [i for i in program.instructions if isinstance(i, Run)]
        assert "local2d_weight_grad" not in [i.op for i in runs]
        steps = [i for i in runs if i.op == "local2d_weight_step"]
        assert all(i.inputs[2] == i.outputs[0] for i in steps)
        moved += [kept[i.outputs[0]] for i in steps]
    assert set(moved) == {"v", "w"}
    random = np.random.default_rng(3)
    feeds = {"x": random.random((2, 6, 6, 3), np.float32), "t": random.random((2, 3, 3, 4), np.float32)}
    for a, b in zip(trained(plan, feeds), trained(plain, feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_gradient_that_is_asked_for_stays():
    x, dy, w = input("x", (2, 4, 4, 3)), input("dy", (2, 3, 3, 5)), variable("w", (3, 3, 2, 2, 3, 5))
    dw = local2d_weight_grad(x, dy, kernel=(2, 2))
    plan = compile(Graph({"dw": dw}, {"w": w - dw * 0.5}), cluster(1))
    names = [i.op for i in plan.programs[0].instructions if isinstance(i, Run)]
    assert "local2d_weight_grad" in names and "local2d_weight_step" not in names


def test_the_gradient_of_an_embedding_is_never_there_as_a_whole():
    ids, t = input("ids", (4, 3), "int64"), input("t", (4, 3, 5))
    table = variable("table", (50, 5), init=Init("normal", (0.0, 0.3)))
    gap = CATALOGUE["take"](table, ids, axis=0) - t
    graph = Graph({"loss": CATALOGUE["sum"](gap * gap)}, loss="loss", rule=SGD(0.05).rule())
    plan, plain = compile(graph, cluster(1)), compile(graph, cluster(1), fuse=False)
    (step,) = [i for i in plan.programs[0].instructions if isinstance(i, Run) and i.op == "scatter_step"]
    assert step.inputs[2] == step.outputs[0]
    random = np.random.default_rng(3)
    feeds = {"ids": random.integers(0, 9, (4, 3)), "t": random.random((4, 3, 5), np.float32)}
    for a, b in zip(trained(plan, feeds), trained(plain, feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
