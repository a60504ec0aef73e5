"""An update rule on a shard: equal to the plain evaluation of its graph, in place, whatever the size."""

import numpy as np
import pytest
from params_kit import adagrad, sgd

from rainshed.ops.elementwise import astype, sqrt, where
from rainshed.ops.errors import GraphError, ParseError
from rainshed.ops.evaluate import evaluate
from rainshed.ops.types import dtype_of
from rainshed.ops.update import UpdateRule
from rainshed.runtime.params.rule import BLOCK, Rule, Updater, rule_of


def _adam(w, dw, slots, step):
    t = astype(step, dtype=w.dtype) + 1.0
    m = slots["m"] * 0.9 + dw * 0.1
    v = slots["v"] * 0.99 + dw * dw * 0.01
    return w - m / (1.0 - 0.9**t) * 0.1 / (sqrt(v / (1.0 - 0.99**t)) + 1e-8), {"m": m, "v": v}


def _hand_on(w, dw, slots, step):
    """Reads old values where it writes new ones: w becomes a, a becomes b, b becomes w."""
    return slots["a"], {"a": slots["b"], "b": where(dw > 0.0, w, -w)}


RULES = {
    "sgd": sgd,
    "adagrad": adagrad,
    "adam": UpdateRule("adam", _adam, {"m": 0.0, "v": 0.0}),
    "hand_on": UpdateRule("hand_on", _hand_on, {"a": 1.0, "b": 2.0}),
}


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("size", [0, 1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_in_blocks_equals_its_graph(name, size, dtype):
    rule, draw = RULES[name], np.random.default_rng(size)
    updater = Updater(rule_of(rule, [dtype]), dtype)
    kind = dtype_of(dtype).numpy
    w, *others = (draw.normal(size=size).astype(kind) for _ in range(4))
    slots = {slot: np.full(size, fill, kind) for slot, fill in rule.slots.items()}
    expected = {"w": w.copy(), **{slot: array.copy() for slot, array in slots.items()}}
    graph = rule.graph((size,), dtype_of(dtype))
    for step, dw in enumerate(others):
        expected, _ = evaluate(graph, {**expected, "dw": dw, "step": np.asarray(step)})
        updater.apply(w, dw, slots, step)
    for slot, array in {"w": w, **slots}.items():
        np.testing.assert_array_equal(array, expected[slot])


def test_the_gradient_is_left_as_it_is():
    updater = Updater(rule_of(adagrad, ["f32"]), "f32")
    dw = np.ones(7, "f4")
    updater.apply(np.zeros(7, "f4"), dw, {"seen": np.zeros(7, "f4")}, 0)
    assert (dw == 1.0).all()


def text(lines: str, outputs: str = "output w = %2") -> str:
    w = '%0 = input() {name="w", shape=[8], dtype=f32} : f32[8]'
    dw = '%1 = input() {name="dw", shape=[8], dtype=f32} : f32[8]'
    return "\n  ".join(["graph {", w, dw, lines, outputs]) + "\n}"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("", ParseError),
        (text("%2 = add(%0, %1) : f32[8]").replace("%0,", "%9,"), ParseError),
        (text("%2 = os.system(%0) : f32[8]"), ParseError),
        (text("%2 = cumulative_sum(%0) {axis=0} : f32[8]"), GraphError),
        (text("%2 = add(%0, %1) : f32[8]").replace("[8]", "[2, 4]"), GraphError),
        (text("%2 = add(%0, %1) : f32[8]", "output v = %2"), GraphError),
        (text("%2 = add(%0, %1) : f32[8]").replace('"dw"', '"wd"'), GraphError),
        (text("%2 = add(%0, %1) : f32[8]").replace("f32", "f64"), GraphError),
        (text("%2 = add(%0, %1) : f32[8]").replace("[8]", "[0]"), GraphError),
        (text("%2 = add(%0, %1) : f32[8]").replace("[8]", "[9000000]"), GraphError),
    ],
)
def test_texts_that_are_no_update_rule_are_refused(wrong, error):
    with pytest.raises(error):
        Updater(Rule({"f32": wrong}, {}), "f32")


def test_a_good_text_of_this_form_is_taken_and_others_named():
    rule = Rule({"f32": text("%2 = add(%0, %1) : f32[8]")}, {})
    w = np.ones(19, "f4")
    Updater(rule, "f32").apply(w, np.full(19, 2, "f4"), {}, 0)
    assert (w == 3.0).all()
    with pytest.raises(GraphError, match="no text for f64"):
        Updater(rule, "f64")
