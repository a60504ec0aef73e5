"""lower_precision and widen: what products read is bfloat16, rounded once; all else, and every result, is float32."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from compiler_kit import cluster, setting

import rainshed as rs
from rainshed.compiler.check import check_graph
from rainshed.compiler.load import plan_from_json
from rainshed.compiler.machines import Cluster, Link, Machine, Rate, Unit
from rainshed.compiler.passes.differentiate import differentiate
from rainshed.compiler.passes.lower_precision import LOWERED, is_lowered, lower_precision
from rainshed.compiler.pipeline import compile, show
from rainshed.compiler.plan import Run, to_json
from rainshed.ops import CATALOGUE
from rainshed.ops.elementwise import astype
from rainshed.ops.errors import ClusterError, ContractError, UsageError
from rainshed.ops.evaluate import evaluate
from rainshed.ops.ir import Graph, Node, users
from rainshed.ops.types import bfloat16, float32

SLOW = Link(bytes_per_s=1e6, latency_s=1e-3)


def net(batch: int = 8, width: int = 16) -> Graph:
    """A convolution, two products, a loss."""
    image, label = rs.input("image", (batch, 6, 6, 3)), rs.input("label", (batch,), "int64")
    h = rs.relu(rs.layers.flatten(rs.layers.conv2d(image, 4, 3)))
    h = rs.layers.dense(rs.layers.dense(h, width, activation=rs.tanh), 10)
    return rs.graph(loss=rs.mean(rs.softmax_cross_entropy(h, label)), optimizer=rs.SGD(1.0))


def feeds(batch: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    images = rng.standard_normal((batch, 6, 6, 3)).astype(np.float32)
    return {"image": images, "label": rng.integers(0, 10, batch)}


def lowered(graph: Graph) -> Graph:
    return lower_precision(differentiate(graph, setting()), setting(precision="bf16"))


def products(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes() if node.op.work in LOWERED]


def test_without_the_option_it_is_the_identity() -> None:
    graph = differentiate(net(), setting())
    assert lower_precision(graph, setting()) is graph


def test_products_read_bfloat16_and_nothing_else_does() -> None:
    graph = lowered(net())
    check_graph(graph, after="lower_precision")
    assert len(products(graph)) == 8
    for node in products(graph):
        assert node.dtype is float32 and all(i.dtype is bfloat16 for i in node.inputs)
    others = [n for n in graph.nodes() if n not in products(graph)]
    assert not any(i.dtype is bfloat16 for n in others for i in n.inputs)
    assert all(n.dtype is float32 for n in (*graph.variables.values(), *graph.updates.values(), graph.outputs["loss"]))


def test_each_value_is_rounded_once() -> None:
    graph = lowered(net())
    read = users(graph.nodes())
    for node, readers in read.items():
        assert sum(r.op is astype and r.dtype is bfloat16 for r in readers) <= 1, node
    assert graph.inputs["image"].dtype is bfloat16, "nothing else reads it: it is rounded where it is fed"


def test_an_input_that_others_read_stays_float32() -> None:
    x = rs.input("x", (4, 4))
    graph = lowered(rs.graph(outputs={"y": x @ rs.variable("w", (4, 4)) + x}))
    assert graph.inputs["x"].dtype is float32
    alone = lowered(rs.graph(outputs={"y": x @ rs.variable("w", (4, 4)), "x": x}))
    assert alone.inputs["x"].dtype is float32


def test_a_constant_is_rounded_by_the_compiler() -> None:
    value = np.linspace(-1, 1, 100, dtype=np.float32).reshape(10, 10)
    graph = lowered(rs.graph(outputs={"y": rs.constant(value) @ rs.variable("w", (10, 4))}))
    (constant,) = [n for n in graph.nodes() if n.op.name == "constant"]
    np.testing.assert_array_equal(constant.attrs["value"], value.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_products_of_other_types_stay(dtype: str) -> None:
    x = rs.input("x", (4, 4), dtype)
    graph = lowered(rs.graph(outputs={"y": x @ x}))
    assert not any(n.dtype is bfloat16 or is_lowered(n) for n in graph.nodes())


def test_values_are_within_the_rounding_of_the_operands() -> None:
    plain, short = differentiate(net(), setting()), lowered(net())
    wanted, got = evaluate(plain, feeds(), seed=1), evaluate(short, feeds(), seed=1)
    for name, value in wanted[0].items():
        np.testing.assert_allclose(got[0][name], value, rtol=0.01)
    for name, value in wanted[1].items():
        assert np.abs(got[1][name] - value).max() <= 0.02 * np.abs(value).max(), name


@pytest.mark.parametrize("machines", [1, 3])
def test_widen_where_the_processor_does_not_multiply_it(machines: int) -> None:
    graph = show(net(), cluster(machines), "widen", precision="bf16")
    assert all(i.dtype is float32 for node in products(graph) for i in node.inputs)
    with_it = show(net(), cluster(machines, bfloat16=True), "widen", precision="bf16")
    for node in products(with_it):
        wanted = bfloat16 if node.op.work == "product" else float32
        assert all(i.dtype is wanted for i in node.inputs)


def test_the_contract_is_checked() -> None:
    graph = show(net(), cluster(1), "insert_send_recv", precision="bf16")
    check_graph(graph, after="insert_send_recv")
    with pytest.raises(ContractError, match="no kernel"):
        check_graph(graph, after="widen")


def test_forward_and_backward_have_copies_of_their_own() -> None:
    """In between the short form alone is kept."""
    graph = show(net(), cluster(1), "widen", precision="bf16")
    for node, readers in users(graph.nodes()).items():
        if node.op is astype and node.inputs[0].dtype is bfloat16:
            assert len({r.origin.backward for r in readers}) == 1


def test_what_crosses_for_a_product_crosses_in_half_the_bytes() -> None:
    """A model on two machines with a slow link: activations and their gradients are what crosses."""
    with rs.on("m0"):
        h = rs.layers.dense(rs.input("x", (64, 32)), 256, activation=rs.tanh)
    with rs.on("m1"):
        loss = rs.mean(rs.square(rs.layers.dense(h, 8)))
    graph = rs.graph(loss=loss, optimizer=rs.SGD(0.1))
    two = Cluster(machines=(Machine(name="m0"), Machine(name="m1")), default_link=SLOW)
    full, half = compile(graph, two), compile(graph, two, precision="bf16")
    assert {t.nbytes for t in full.transfers} == {64 * 256 * 4}
    forward = [t.nbytes for t in half.transfers if t.source == "m0"]
    assert forward == [64 * 256 * 2]
    assert half.prediction.bytes < full.prediction.bytes and half.prediction.step_s < full.prediction.step_s
    with rs.Session(half, backend="threads") as session:
        session.run({"x": np.ones((64, 32), np.float32)})
        assert session.bytes_between() == half.bytes_between


@pytest.mark.parametrize("strategy", ["batch", "features", "space"])
@pytest.mark.parametrize("machines", [2, 4])
def test_any_plan_computes_the_same(strategy: str, machines: int) -> None:
    """Small whole numbers, whose sums are exact: every plan gives the same bits, gradients too."""
    x, w = rs.input("x", (16, 12)), rs.variable("w", (12, 8), init=np.arange(96).reshape(12, 8) % 5 - 2.0)
    v = rs.variable("v", (8, 4), init=np.arange(32).reshape(8, 4) % 3 - 1.0)
    graph = rs.graph(outputs={"z": x @ w}, loss=rs.sum(rs.relu(x @ w) @ v))
    given = {"x": (np.arange(16 * 12).reshape(16, 12) % 7 - 3).astype(np.float32)}
    found = []
    for n, how in ((1, "one"), (machines, strategy)):
        plan = compile(graph, cluster(n), strategy=how, precision="bf16")
        with rs.Session(plan, backend="threads") as session:
            found.append(session.run(given))
    assert found[0].keys() == found[1].keys() and len(found[0]) == 4
    for name, value in found[0].items():
        np.testing.assert_array_equal(found[1][name], value, strict=True, err_msg=name)


def test_a_plan_file_holds_it() -> None:
    plan = compile(net(), cluster(2, bfloat16=True), precision="bf16")
    again = plan_from_json(to_json(plan), CATALOGUE)
    assert again.hash == plan.hash
    assert "8 products and convolutions" in again.notes["precision"]
    assert any(v.dtype == "bf16" for p in again.programs for v in p.values)
    with (
        rs.Session(again, backend="threads") as session,
        rs.Session(net(), rs.Cluster.local(1), precision="bf16") as one,
    ):
        assert session.run(feeds())["loss"] == pytest.approx(one.run(feeds())["loss"], rel=1e-3)


def test_the_clusters_that_say_which_processors_multiply_it() -> None:
    c = cluster(2, bfloat16=True)
    assert Cluster.from_data(c.to_data()) == c
    assert "bfloat16" not in cluster(1).to_data()["machine"][0]
    with pytest.raises(ClusterError, match="true or false"):
        cluster(1, bfloat16=1)


def test_products_cost_what_their_own_rate_says() -> None:
    def seconds(*rates: Rate) -> float:
        plan = compile(
            net(256, 512), Cluster(machines=(Machine(name="m0", bfloat16=True, rates=rates),)), precision="bf16"
        )
        runs = [i for i in plan.programs[0].instructions if isinstance(i, Run)]
        return sum(run.seconds for run in runs if run.op == "product" or run.op.startswith("matmul"))

    product = Rate(work="product", flops_per_s=1e10, bytes_per_s=1e12, overhead_s=0.0)
    fast = Rate(work="bf16_product", flops_per_s=2e10, bytes_per_s=2e12, overhead_s=0.0)
    assert seconds(product, fast) == pytest.approx(seconds(product) / 2)


def test_what_it_refuses() -> None:
    with pytest.raises(UsageError, match="no precision 'bf8'") as refused:
        compile(net(), cluster(1), precision="bf8")
    assert "float32, bf16" in str(refused.value)
    unit = Unit(name="cuda0", flops=1e12, bytes_per_s=1e11, memory_bytes=1 << 30)
    with pytest.raises(UsageError, match="for processors"):
        compile(net(), Cluster(machines=(Machine(name="m0", units=(unit,)),)), precision="bf16")
    with pytest.raises(UsageError, match="a plan has everything"):
        rs.Session(compile(net(), cluster(1)), precision="bf16")


def test_values_computed_a_second_time_to_save_memory() -> None:
    """Both options together: it fits where it did not, with the same values."""
    h = rs.input("x", (512, 64))
    for _ in range(12):
        h = rs.layers.dense(h, 64, activation=rs.tanh)
    graph = rs.graph(loss=rs.mean(rs.square(h)))
    roomy = compile(graph, cluster(1), precision="bf16")
    needed = max(m.memory_bytes for m in roomy.prediction.machines.values())
    small = compile(graph, cluster(1, memory_bytes=int(0.8 * needed)), precision="bf16", rematerialize=True)
    assert "rematerialized" in small.notes and "precision" in small.notes
    given = {"x": np.linspace(-1, 1, 512 * 64, dtype=np.float32).reshape(512, 64)}
    with rs.Session(roomy) as a, rs.Session(small) as b:
        for (name, value), other in zip(a.run(given).items(), b.run(given).values(), strict=True):
            np.testing.assert_array_equal(other, value, err_msg=name)


def test_weights_cross_in_half_the_bytes_too() -> None:
    """Of a model whose batch is cut; partial sums of their gradients cross in float32."""
    found = []
    for precision in ("float32", "bf16"):
        plan = compile(net(64, 64), cluster(2), strategy="batch", precision=precision)
        weights = sum(t.nbytes for t in plan.transfers if t.reason == "weight" and "/b" not in t.of)
        sums = sum(t.nbytes for t in plan.transfers if t.reason == "partial sum")
        found.append((weights, sums))
    (full, sums), (half, same) = found
    assert full == 2 * half > 0 and sums == same > 0
