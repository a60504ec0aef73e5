"""The examples build the networks that they speak of; these, and those of the demos, learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import rainshed as rs
from rainshed.engine import models
from rainshed.engine.datasets import digits, vowels
from rainshed.ops.evaluate import evaluate, initial_value
from rainshed.ops.ir import Graph
from rainshed.ops.text import graph_text

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_papers_speech_network():
    """Dean et al. 2012, section 5: 440 inputs, 4 x 2560, 8192: about 42 million parameters."""
    graph = example("speech").build()
    weights = [v.shape for name, v in graph.variables.items() if name.endswith("/w")]
    assert weights == [(440, 2560), (2560, 2560), (2560, 2560), (2560, 2560), (2560, 8192)]
    assert sum(v.type.size for v in graph.variables.values()) == 41_777_152
    assert graph_text(example("speech").build()) == graph_text(graph)


def test_nobody_holds_the_papers_network_whole():
    """See benchmarks/paper_scale.py for the memory that processes really take."""
    machines = 4
    graph = example("speech").build().bind(batch=128)
    plan = rs.compile(Graph(graph.outputs, {}, graph.loss), rs.Cluster.local(machines))
    kept = [sum(p.values[v.value].nbytes for v in p.variables) for p in plan.programs]
    assert sum(kept) == 4 * 41_777_152 and max(kept) < 1.25 * sum(kept) / machines


@pytest.mark.parametrize(
    "build,data",
    [
        (example("digits").build, digits),
        (example("speech").small, vowels),
        (example("speech").recurrent, vowels),
        (models.digits, digits),
        (models.speech, vowels),
        (models.speech_lstm, vowels),
    ],
    ids=lambda case: f"{case.__module__}.{case.__name__}",
)
def test_they_learn(build, data):
    """Some steps on one batch bring the loss down to less than half."""
    graph = build()
    batch = {name: array[:: len(array) // 24][:24] for name, array in data().train.items() if name in graph.inputs}
    variables = graph.variables
    gradients = rs.grad(graph.outputs["loss"], list(variables.values()))
    step = Graph({"loss": graph.outputs["loss"], **dict(zip(variables, gradients, strict=True))}).bind(batch=24)
    rules = {name: graph.rule.graph(v.shape, v.dtype) for name, v in variables.items()}
    state = {
        name: {"w": initial_value(v, 0), **{s: np.full(v.shape, start, "f") for s, start in graph.rule.slots.items()}}
        for name, v in variables.items()
    }
    losses = []
    for number in range(14):
        found, _ = evaluate(step, batch, {name: s["w"] for name, s in state.items()}, step=number)
        losses.append(float(found["loss"]))
        for name, rule in rules.items():
            state[name], _ = evaluate(rule, {"dw": found[name], "step": np.int64(number), **state[name]})
    assert losses[-1] < losses[0] / 2
