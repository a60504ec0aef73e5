"""Partition invariance: any plan of a graph computes the same function. Random graphs over the whole catalogue, on 1 to 5 machines.

Every graph becomes a plan by a random strategy, or by random layouts for its nodes, and is then compared with plain evaluation: as
a plan that runs in threads, and some also node by node after the passes. What was not added up in another order must be equal
bit for bit; for the rest, plain evaluation is repeated with the inputs of every sum and product moved by a few roundings, and the
plan may differ by what that differs. Kernels are NumPy's here, as in plain evaluation: those in machine code, of which some add in
another order, are held to them in tests/ops.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from compiler_kit import plan_of, random_layouts
from random_graphs import ADDING, ALL_OPS, Sample, random_graph
from random_ops import MADE_BY_COMPILER, OPS

from rainshed.compiler.load import plan_from_json
from rainshed.compiler.machines import Cluster
from rainshed.compiler.passes.differentiate import differentiate
from rainshed.compiler.pipeline import PASSES, compile, show
from rainshed.compiler.plan import Plan, to_json
from rainshed.compiler.setting import Setting
from rainshed.ops import CATALOGUE
from rainshed.ops.evaluate import empty, evaluate, evaluate_nodes, run_kernel
from rainshed.ops.ir import Graph, Node, walk
from rainshed.ops.source import input, variable
from rainshed.ops.text import graph_text
from rainshed.ops.types import fixed
from rainshed.runtime.cluster.local import LocalCluster

GRAPHS, CHUNKS = 1000, 50
COUNTED = 250  # of the graphs: every op is the heart of one of them
MOVES, SLACK = 3, 50.0  # how often plain evaluation is repeated with roundings moved; how much more a plan may differ

Arrays = dict[str, np.ndarray]


def reference(sample: Sample) -> tuple[Arrays, dict[str, float]]:
    """The values that plain evaluation gives, gradients too, and how far a changed order could move each."""
    graph = differentiate(sample.graph, Setting(cluster=Cluster.local(1)))
    outputs, updates = evaluate(graph, sample.feeds, step=sample.step, seed=sample.seed)
    values = {**outputs, **{f"update {name}": value for name, value in updates.items()}}
    spread = dict.fromkeys(values, 0.0)
    rng = np.random.default_rng(sample.seed)
    for _ in range(MOVES):
        for name, moved in zip(values, _moved(graph, sample, rng), strict=True):
            if moved.size and moved.dtype.kind == "f":
                spread[name] = max(spread[name], float(np.abs(moved - values[name]).max()))
    return values, spread


def _moved(graph: Graph, sample: Sample, rng: np.random.Generator) -> list[np.ndarray]:
    values: dict[Node, np.ndarray] = {}
    for node in walk(graph.roots):
        if node.op.name in ("input", "variable", "step"):
            (values[node],) = evaluate_nodes([node], sample.feeds, step=sample.step, seed=sample.seed)
            continue
        inputs = [values[i] for i in node.inputs]
        if node.op.name in ADDING and inputs[0].dtype.kind == "f":
            inputs = [_rounded(x, rng) for x in inputs]
        values[node] = empty(node.type)
        run_kernel(node, inputs, values[node])
    return [values[root] for root in graph.roots]


def _rounded(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if x.dtype.kind != "f":
        return x
    return x * (1 + 4 * np.finfo(x.dtype).eps * rng.standard_normal(x.shape)).astype(x.dtype)


def check_equal(sample: Sample, got: Arrays, values: Arrays, spread: dict[str, float], how: str) -> None:
    assert got.keys() == values.keys(), how
    for name, value in got.items():
        want, where = values[name], f"seed {sample.seed}, {how}, {name}"
        assert (value.dtype, value.shape) == (want.dtype, want.shape), where
        if name in sample.exact or want.dtype.kind != "f":
            np.testing.assert_array_equal(value, want, err_msg=where, strict=True)
        elif want.size:
            eps = np.finfo(want.dtype).eps
            atol = SLACK * spread[name] + 16 * eps * float(np.abs(want).max())
            np.testing.assert_allclose(value, want, rtol=0, atol=atol, err_msg=where)


def evaluate_placed(sample: Sample, graph: Graph) -> Arrays:
    """What a placed graph computes: its pieces put together."""
    outputs, updates = evaluate(graph, sample.feeds, step=sample.step, seed=sample.seed)
    pieces = [(key, value, graph.outputs[key]) for key, value in outputs.items()]
    pieces += [(f"update {key}", value, graph.updates[key]) for key, value in updates.items()]
    shapes: dict[str, tuple[int, ...]] = {}
    for key, _, node in pieces:
        highs = tuple(high for _, high in box_of(node))
        name = key.rpartition("@")[0]
        shapes[name] = tuple(map(max, shapes.get(name, highs), highs))
    whole: Arrays = {}
    seen: dict[str, np.ndarray] = {}
    for key, value, node in pieces:
        name = key.rpartition("@")[0]
        array = whole.setdefault(name, np.empty(shapes[name], value.dtype))
        array[tuple(slice(*interval) for interval in box_of(node))] = value
        seen.setdefault(name, np.zeros(shapes[name], int))[tuple(slice(*interval) for interval in box_of(node))] += 1
    for name, count in seen.items():
        assert (count == 1).all(), f"seed {sample.seed}: the pieces of {name} do not cover it once"
    return whole


def box_of(node: Node) -> tuple[tuple[int, int], ...]:
    return node.origin.box if node.origin.box is not None else tuple((0, n) for n in fixed(node.shape))


def run_plan(sample: Sample, plan: Plan) -> Arrays:
    """What a plan computes in threads; the bytes that cross are those that it promised."""
    with LocalCluster(plan, ops=ALL_OPS, threads=1 + sample.seed % 2) as cluster:
        cluster.init(sample.seed)
        before = cluster.variables()
        read = {
            feed.name for program in plan.programs for feed in program.feeds
        }  # the compiler may find that one is not needed
        got = dict(cluster.run({name: sample.feeds[name] for name in read}, step=sample.step))
        after = cluster.variables()
        check_wires(plan, cluster.bytes_between, cluster.arrived, f"seed {sample.seed}")
    graph = sample.graph
    moved = set(graph.updates)
    if graph.rule is not None and graph.loss is not None:
        moved = {
            v.name
            for p in plan.programs
            for v in p.variables
            if v.trainable or v.name in graph.updates or "/" in v.name
        }
    for name in before.keys() - moved:
        np.testing.assert_array_equal(before[name], after[name], err_msg=f"seed {sample.seed}: {name} was not to move")
    return {**got, **{f"update {name}": after[name] for name in moved}}


def check_wires(plan: Plan, sent: dict[tuple[str, str], int], arrived: dict[int, tuple[int, int]], how: str) -> None:
    """One step's bytes and messages on the wires are those of the plan: per tensor where they came, per pair where they left."""
    assert sent == {pair: nbytes for pair, nbytes in plan.bytes_between.items() if nbytes}, how
    assert arrived == {t.key: (1, t.nbytes) for t in plan.transfers}, how


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_any_plan_computes_the_same(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plans of all graphs in threads; of every twelfth also node by node after the passes, whose contracts are checked."""
    monkeypatch.setenv("RAINSHED_KERNELS", "numpy")
    reached: Counter[str] = Counter()
    for seed in range(chunk, GRAPHS, CHUNKS):
        sample = random_graph(seed)
        expected = reference(sample)
        if seed % 12 == 0:
            with monkeypatch.context() as patched:
                patched.setenv("RAINSHED_CHECK", "1")
                check_passes(sample, expected)
        reached.update(check_plan(sample, expected))
    print(f"seeds {chunk}, {chunk + CHUNKS}, ... of {GRAPHS}; ops run:", dict(reached.most_common()))


def check_passes(sample: Sample, expected: tuple[Arrays, dict[str, float]]) -> None:
    """Hold the graph that the passes leave to the law; their contracts are checked on the way."""
    placed = show(
        sample.graph, Cluster.local(sample.machines), PASSES[-1].__name__, seed=sample.seed, strategy=sample.strategy
    )
    check_pins(sample, placed)
    check_equal(sample, evaluate_placed(sample, placed), *expected, "after the passes")


def check_plan(sample: Sample, expected: tuple[Arrays, dict[str, float]]) -> Counter[str]:
    """Hold the plan of a graph to the law; how many instructions run each op."""
    plan = any_plan(sample)
    if sample.seed % 4 < 2:
        data = to_json(plan)
        plan = plan_from_json(data, ALL_OPS)
        assert to_json(plan) == data, f"seed {sample.seed}: reading the plan back changes it"
    check_equal(sample, run_plan(sample, plan), *expected, "as a plan in threads")
    return Counter(getattr(i, "op", type(i).__name__.lower()) for p in plan.programs for i in p.instructions)


def any_plan(sample: Sample) -> Plan:
    """A plan that a strategy finds, or one that nobody would look for: every node in a layout of its own."""
    cluster = Cluster.local(sample.machines)
    if sample.seed % 2:
        return compile(sample.graph, cluster, seed=sample.seed, strategy=sample.strategy)
    graph = show(sample.graph, cluster, "merge_equal")
    rng = np.random.default_rng([sample.seed, 2])
    return plan_of(graph, random_layouts(graph, sample.machines, rng), Setting(cluster=cluster, seed=sample.seed))


def check_pins(sample: Sample, placed: Graph) -> None:
    for node in placed.nodes():
        if node.origin.pin is not None and node.op.name not in (
            "slice",
            "assemble",
            "send",
            "recv",
            "copy",
            "constant",
            "input",
            "step",
        ):
            assert node.device is not None and node.device.machine == node.origin.pin, f"seed {sample.seed}: {node!r}"


def leaf(name: str, *shape: int) -> Node:
    return input(name, shape)


def test_the_graphs_reach_every_op() -> None:
    """Counts graphs, not nodes; a new op of the catalogue fails here until random_ops.py says how to make it."""
    missing = CATALOGUE.keys() - OPS.keys() - MADE_BY_COMPILER
    assert not missing, f"tests/random_ops.py does not make {sorted(missing)}"
    reached: Counter[str] = Counter()
    for seed in range(COUNTED):
        sample = random_graph(seed)
        reached.update({n.op.name for n in differentiate(sample.graph, Setting(cluster=Cluster.local(1))).nodes()})
    for seed in (*range(20), 44):  # 44 trains through products
        sample = random_graph(seed)
        placed = show(sample.graph, Cluster.local(5), PASSES[-1].__name__)
        reached.update({n.op.name for n in placed.nodes() if n.op.name in MADE_BY_COMPILER})
    for name, gradient in (
        ("local", CATALOGUE["local2d_weight_grad"](leaf("x", 2, 4, 4, 3), leaf("dy", 2, 3, 3, 5), kernel=(2, 2))),
        ("table", CATALOGUE["scatter_add"](leaf("dy", 4, 5), input("ids", (4,), "int64"), size=9)),
    ):
        moved = Graph({}, {name: variable(name, gradient.shape) - gradient * 0.5})
        reached.update({n.op.name for n in show(moved, Cluster.local(1), PASSES[-1].__name__).nodes()})
    h, w = leaf("h", 4, 512), variable("w", (512, 512))
    for _ in range(4):
        h = h @ w
    reached.update({n.op.name for n in show(Graph({"h": h}), Cluster.local(1), PASSES[-1].__name__).nodes()})
    summed = show(Graph({"y": CATALOGUE["sum"](leaf("x", 4096, 16), axis=0)}), Cluster.local(1), PASSES[-1].__name__)
    reached.update({n.op.name for n in summed.nodes()})
    print(f"graphs with each op, of seeds 0 to {COUNTED - 1}:", dict(reached.most_common()))
    assert not CATALOGUE.keys() - reached.keys()


def test_a_seed_gives_the_same_graph_again() -> None:
    one, again = random_graph(77), random_graph(77)
    assert graph_text(one.graph) == graph_text(again.graph)
    np.testing.assert_equal(dict(one.feeds), dict(again.feeds))
    plans = [compile(sample.graph, Cluster.local(3), strategy="longest") for sample in (one, again)]
    assert plans[0].hash == plans[1].hash
