"""compile: the order of the passes, the choice among strategies, limits, and what is refused."""

import numpy as np
import pytest
from compiler_kit import cluster
from random_graphs import random_graph

from rainshed.compiler.partition.strategy import STRATEGIES
from rainshed.compiler.pipeline import PASSES, compile, show
from rainshed.ops import CATALOGUE as C
from rainshed.ops.errors import CompileError, UsageError
from rainshed.ops.ir import Graph
from rainshed.ops.reduce import mean
from rainshed.ops.source import input, variable


def net(batch: int | None = 32) -> Graph:
    x = input("x", (batch, 256))
    y = C["sigmoid"](x @ variable("w1", (256, 512))) @ variable("w2", (512, 10))
    return Graph({"y": y, "loss": mean(C["square"](y))}, loss="loss")


def test_the_order_of_the_passes() -> None:
    names = [p.__name__ for p in PASSES]
    assert names.index("differentiate") < names.index("simplify") < names.index("merge_equal") < names.index("split")
    assert names.index("split") < names.index("place") < names.index("insert_send_recv") < names.index("fuse")


def test_show_stops_after_a_pass() -> None:
    assert not any(n.device for n in show(net(), cluster(2), "split").nodes())
    assert all(n.device for n in show(net(), cluster(2), "place").nodes())
    with pytest.raises(UsageError, match="no pass 'optimise'"):
        show(net(), cluster(2), "optimise")


def test_the_fastest_strategy_is_kept() -> None:
    """Those with the best estimates become plans; of these the fastest is kept, and no other strategy is much faster."""
    auto = compile(net(), cluster(4))
    each = {name: compile(net(), cluster(4), strategy=name).prediction.step_s for name in STRATEGIES}
    tried = [name for name in STRATEGIES if f"tried {name}" in auto.notes]
    assert len(tried) > 1 and auto.notes["strategy"] in tried
    assert auto.prediction.step_s == min(each[name] for name in tried)
    assert auto.prediction.step_s <= 1.05 * min(each.values())


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(UsageError, match="no strategy 'luck'"):
        compile(net(), cluster(2), strategy="luck")


@pytest.mark.parametrize("seed", range(0, 40, 7))
def test_the_same_graph_gives_the_same_plan(seed: int) -> None:
    one, again = (compile(random_graph(seed).graph, cluster(4), seed=seed) for _ in range(2))
    assert one.hash == again.hash


def test_the_batch_must_be_bound() -> None:
    with pytest.raises(CompileError, match="batch axis B") as caught:
        compile(net(None), cluster(2))
    assert __file__ in str(caught.value)
    compile(net(None).bind(batch=8), cluster(2))


def test_memory_that_is_never_enough() -> None:
    """The variables alone would fit; what a step makes of them does not. (See test_limits.py for what is sure before.)"""
    with pytest.raises(CompileError, match="no plan fits") as caught:
        compile(net(), cluster(2, memory_bytes=300_000))
    assert "would need" in str(caught.value)
    assert caught.value.detail["variables"] == "544768 bytes; the largest is w1 f32[256, 512], 524288 bytes"
    assert caught.value.detail["memory"] == "m0 300000, m1 300000"


def test_a_graph_too_large_for_one_machine_is_spread() -> None:
    """The weights and their gradients alone are 1.1 MB."""
    with pytest.raises(CompileError):
        compile(net(), cluster(1, memory_bytes=1_000_000))
    plan = compile(net(), cluster(4, memory_bytes=1_000_000))
    assert all(m.memory_bytes <= 1_000_000 for m in plan.prediction.machines.values())
    assert sum(sum(np.prod(v.whole) for v in p.variables) > 0 for p in plan.programs) >= 2


def test_an_empty_graph_is_refused() -> None:
    with pytest.raises(CompileError, match="no outputs"):
        compile(Graph({}), cluster(1))


def test_an_update_names_a_variable_and_has_its_type() -> None:
    w = variable("w", (3,))
    with pytest.raises(CompileError, match="'other'"):
        compile(Graph({"w": w}, {"other": w * 2.0}), cluster(1))
    with pytest.raises(CompileError, match="f32\\[3\\]; its update is f32\\[\\]"):
        compile(Graph({"w": w}, {"w": mean(w)}), cluster(1))


def test_an_output_may_be_a_leaf() -> None:
    x, w = input("x", (4,)), variable("w", (4,))
    plan = compile(Graph({"x": x, "w": w, "c": C["constant"](value=np.zeros(3))}), cluster(2), strategy="longest")
    assert {o.name for p in plan.programs for o in p.outputs} == {"x", "w", "c"}
