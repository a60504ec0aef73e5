"""rematerialize: the same values bit for bit, in less memory, and only where memory is short."""

from __future__ import annotations

import numpy as np
import pytest
from compiler_kit import cluster, setting
from random_graphs import random_graph

import rainshed as rs
from rainshed.compiler.check import check_graph
from rainshed.compiler.passes.rematerialize import live_nbytes, rematerialize, second_flops, worth_trying
from rainshed.compiler.passes.schedule import schedule
from rainshed.compiler.pipeline import PLACED, SHARED, compile, run_passes
from rainshed.compiler.simulate import memory_of
from rainshed.ops.errors import CompileError, UsageError
from rainshed.ops.evaluate import evaluate
from rainshed.ops.ir import Graph


def chain(layers: int = 16, units: int = 64, batch: int = 512) -> Graph:
    """Dense layers of equal size: every activation is as large as the others."""
    h = rs.input("x", (None, units))
    for _ in range(layers):
        h = rs.layers.dense(h, units, activation=rs.tanh)
    return rs.graph(loss=rs.mean(h * h)).bind(batch=batch)


def differentiated(graph: Graph) -> Graph:
    return run_passes(graph, setting(), SHARED)


def test_square_root_of_the_activations() -> None:
    """Chen et al. 2016: of n equal layers in k segments, k - 1 cuts and one segment of n / k are alive, not n."""
    graph = differentiated(chain())
    activation = 512 * 64 * 4
    again = rematerialize(graph, setting(segments=4))
    assert live_nbytes(graph) >= 16 * activation
    assert live_nbytes(again) <= (3 + 4 + 3) * activation, "cuts, a segment, and what the work at hand needs"
    forward = sum(n.op.cost_of(n).flops for n in graph.nodes() if not n.origin.backward)
    assert 0 < second_flops(again) < forward


def test_each_choice_needs_less() -> None:
    graph = differentiated(chain())
    needed = [live_nbytes(graph), *map(live_nbytes, worth_trying(graph, setting()))]
    assert len(needed) >= 3 and needed == sorted(set(needed), reverse=True)


@pytest.mark.parametrize("segments", [2, 3, 8])
@pytest.mark.parametrize("seed", range(0, 40, 5))
def test_the_values_are_the_same(seed: int, segments: int) -> None:
    made = random_graph(seed)
    graph = differentiated(made.graph)
    again = rematerialize(graph, setting(segments=segments))
    check_graph(again, after="rematerialize")
    for before, after in zip(*(evaluate(g, made.feeds, step=made.step) for g in (graph, again)), strict=True):
        assert before.keys() == after.keys()
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_without_a_backward_part_nothing_changes() -> None:
    graph = differentiated(rs.graph(outputs={"y": rs.exp(rs.input("x", (4, 2)))}))
    again = rematerialize(graph, setting(segments=4))
    assert len(again.nodes()) == len(graph.nodes()) and not second_flops(again)


@pytest.mark.parametrize("machines", [1, 3])
def test_a_second_computation_directly_precedes_its_reader(machines: int) -> None:
    told = setting(machines, segments=4, strategy="features")
    graph = run_passes(rematerialize(differentiated(chain(8)), told), told, PLACED)
    order = schedule(graph, told)
    at = {node: i for i, node in enumerate(order)}
    assert len(order) == len(at) == len(graph.nodes())
    assert all(at[i] < at[node] for node in order for i in node.inputs)
    first_backward = min(at[n] for n in order if n.origin.backward and not n.origin.again)
    assert all(at[n] > first_backward for n in order if n.origin.again)
    assert any(n.origin.again for n in order)


@pytest.mark.parametrize(("machines", "share"), [(1, 0.6), (2, 0.45)])
def test_a_plan_that_would_not_fit(machines: int, share: float) -> None:
    graph, roomy = chain(14, 32, 512), cluster(machines)
    strategy = "one" if machines == 1 else "batch"
    plan = compile(graph, roomy, strategy=strategy)
    needed = max(map(memory_of, plan.programs))
    small = cluster(machines, memory_bytes=int(needed * share))
    with pytest.raises(CompileError, match="no plan fits") as refused:
        compile(graph, small, strategy=strategy)
    assert "rematerialize" in str(refused.value)
    fits = compile(graph, small, strategy=strategy, rematerialize=True)
    assert all(memory_of(p) <= needed * share for p in fits.programs)
    assert "a second time" in fits.notes["rematerialized"]
    assert compile(graph, roomy, strategy=strategy, rematerialize=True).hash == plan.hash, (
        "a plan that fits stays as it is"
    )
    x = np.random.default_rng(0).standard_normal((512, 32)).astype(np.float32)
    with rs.Session(plan, backend="threads") as one, rs.Session(fits, backend="threads") as two:
        first, second = one.run({"x": x}), two.run({"x": x})
    np.testing.assert_allclose(second["loss"], first["loss"], rtol=1e-5)
    name = next(n for n in first if n.startswith("grad/"))
    np.testing.assert_allclose(second[name], first[name], rtol=1e-4, atol=1e-7)


def test_what_can_never_fit_is_refused_all_the_same() -> None:
    with pytest.raises(CompileError):
        compile(chain(), cluster(2, memory_bytes=100_000), rematerialize=True)


@pytest.mark.parametrize("tried,advice", [(False, "or rematerialize=True"), (True, "was tried")])
def test_advice_is_not_what_was_tried(tried: bool, advice: str) -> None:
    with pytest.raises(CompileError, match="no plan fits") as caught:
        compile(chain(4, 16), cluster(1, memory_bytes=100_000), rematerialize=tried)
    assert advice in caught.value.detail["hint"]


def test_a_plan_is_not_compiled_again() -> None:
    plan = compile(chain(2), cluster(1))
    with pytest.raises(UsageError, match="everything in its place"):
        rs.Session(plan, rematerialize=True)
