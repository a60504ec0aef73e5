"""Each optimizer against a NumPy reference, in the graph and through the text that servers get."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rainshed.engine.optimizers import SGD, Adagrad, Adam, Momentum, Optimizer, RMSProp
from rainshed.ops import CATALOGUE
from rainshed.ops.errors import GraphError
from rainshed.ops.evaluate import evaluate
from rainshed.ops.text import graph_text, parse
from rainshed.ops.types import float32, float64
from rainshed.ops.update import check_rule

STEPS = 10


def sgd(w, dw, s, t, o):
    return w - o.rate * dw, s


def momentum(w, dw, s, t, o):
    v = o.momentum * s["velocity"] + dw
    return w - o.rate * (dw + o.momentum * v if o.nesterov else v), {"velocity": v}


def adagrad(w, dw, s, t, o):
    seen = s["seen"] + dw**2
    return w - o.rate * dw / (np.sqrt(seen) + o.epsilon), {"seen": seen}


def rmsprop(w, dw, s, t, o):
    power = o.decay * s["power"] + (1 - o.decay) * dw**2
    return w - o.rate * dw / (np.sqrt(power) + o.epsilon), {"power": power}


def adam(w, dw, s, t, o):
    mean = o.beta1 * s["mean"] + (1 - o.beta1) * dw
    power = o.beta2 * s["power"] + (1 - o.beta2) * dw**2
    hat = mean / (1 - o.beta1 ** (t + 1)), power / (1 - o.beta2 ** (t + 1))
    return w - o.rate * hat[0] / (np.sqrt(hat[1]) + o.epsilon), {"mean": mean, "power": power}


CASES = [
    (SGD(0.1), sgd),
    (Momentum(0.1), momentum),
    (Momentum(0.1, 0.5, nesterov=True), momentum),
    (Adagrad(0.1), adagrad),
    (Adagrad(0.3, initial=0.1, epsilon=1e-6), adagrad),
    (RMSProp(0.01), rmsprop),
    (RMSProp(0.01, 0.0), rmsprop),
    (Adam(), adam),
    (Adam(0.05, beta1=0.0, beta2=0.9), adam),
]


def names(case):
    return repr(case) if isinstance(case, Optimizer) else ""


@pytest.mark.parametrize("dtype,rtol", [(float64, 1e-9), (float32, 2e-5)])
@pytest.mark.parametrize("optimizer,reference", CASES, ids=names)
def test_ten_steps(optimizer, reference, dtype, rtol):
    rule = optimizer.rule()
    text = graph_text(rule.graph((3, 4), dtype))
    graph = parse(text, CATALOGUE)
    check_rule(graph, tuple(rule.slots))
    assert graph_text(graph) == text
    rng = np.random.default_rng(7)
    w = rng.standard_normal((3, 4)).astype(dtype.numpy)
    slots = {name: np.full(w.shape, start, w.dtype) for name, start in rule.slots.items()}
    exact, exact_slots = w.astype(float), {name: s.astype(float) for name, s in slots.items()}
    for step in range(STEPS):
        dw = rng.standard_normal(w.shape).astype(w.dtype)
        dw[0, 0] = 0  # an element without gradient must not become NaN
        outputs, _ = evaluate(graph, {"w": w, "dw": dw, "step": np.int64(step), **slots})
        w = outputs.pop("w")
        slots = outputs
        exact, exact_slots = reference(exact, dw.astype(float), exact_slots, step, optimizer)
    np.testing.assert_allclose(w, exact, rtol=rtol, atol=rtol)
    assert set(slots) == set(exact_slots)
    for name, slot in slots.items():
        np.testing.assert_allclose(slot, exact_slots[name], rtol=rtol, atol=rtol)


def one_step(optimizer, w, dw):
    rule = optimizer.rule()
    slots = {name: np.full(np.shape(w), start) for name, start in rule.slots.items()}
    feeds = {"w": np.asarray(w), "dw": np.asarray(dw), "step": np.int64(0), **slots}
    return evaluate(rule.graph(np.shape(w), float64), feeds)[0]["w"]


@pytest.mark.parametrize("make", [SGD, Momentum, Adagrad, RMSProp, Adam])
def test_weight_decay_and_clip(make):
    w, dw = [2.0, -3.0], [50.0, -0.25]
    plain = one_step(make(0.1), w, [1.0, -0.25])
    np.testing.assert_allclose(one_step(make(0.1, clip=1.0), w, dw), plain, rtol=1e-12)
    decayed = one_step(make(0.1, weight_decay=0.5), w, [1.0, -0.25])
    np.testing.assert_allclose(decayed, plain - 0.05 * np.array(w), rtol=1e-12)


def test_scalar_variable():
    assert one_step(Adam(0.5), 1.0, 3.0) == pytest.approx(0.5)


def test_adam_is_exact_late():
    """1 - beta2^t has no cancellation in float32: the first step is the rate, to the last digits."""
    rule = Adam(1.0, beta2=0.99999).rule()
    one = np.ones(1, np.float32)
    feeds = {"w": one * 0, "dw": one, "step": np.int64(0), "mean": one * 0, "power": one * 0}
    (w,) = evaluate(rule.graph((1,), float32), feeds)[0]["w"]
    assert w == pytest.approx(-1.0, abs=3e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(0.0),
        lambda: SGD(-1),
        lambda: SGD(math.nan),
        lambda: SGD(math.inf),
        lambda: SGD("0.1"),
        lambda: SGD(True),
        lambda: SGD(0.1, weight_decay=-1.0),
        lambda: SGD(0.1, clip=0.0),
        lambda: Momentum(0.1, 1.0),
        lambda: Momentum(0.1, -0.1),
        lambda: Adagrad(0.1, epsilon=0.0),
        lambda: Adagrad(0.1, initial=-1.0),
        lambda: RMSProp(0.1, 1.5),
        lambda: Adam(0.1, beta2=1.0),
    ],
)
def test_bad_numbers(make):
    with pytest.raises(GraphError):
        make()
