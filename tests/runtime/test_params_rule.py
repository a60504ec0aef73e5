"""An update rule on a shard: equal to the plain evaluation of its graph, in place, whatever the size."""

import numpy as np
import pytest
from params_kit import adagrad, sgd

from rainshed.engine.optimizers import SGD, Adam, Momentum, RMSProp
from rainshed.ops.code_cache import can_compile
from rainshed.ops.elementwise import astype, exp, sqrt, where
from rainshed.ops.errors import GraphError, ParseError
from rainshed.ops.evaluate import evaluate
from rainshed.ops.types import dtype_of
from rainshed.ops.update import UpdateRule
from rainshed.ops.update_code import update_code
from rainshed.runtime.params.rule import BLOCK, COMPILED_FROM, Rule, Updater, rule_of


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
    "by_step": UpdateRule("by_step", lambda w, dw, slots, step: (w - dw / astype(step + 1, dtype=w.dtype), {}), {}),
    "clipped": SGD(0.1, clip=0.5, weight_decay=0.01).rule(),
    "nesterov": Momentum(0.1, nesterov=True).rule(),
    "rmsprop": RMSProp(0.1).rule(),
    "adamw": Adam(0.1, weight_decay=0.1).rule(),
}


@pytest.fixture(params=["numpy", "loop"])
def elements(request, monkeypatch):
    """How many elements an updater is told that it will move, so that it works by NumPy, or by a loop of machine code."""
    if request.param == "numpy":
        monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
        return 0
    return COMPILED_FROM


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("size", [0, 1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_in_place_equals_its_graph(name, size, dtype, elements):
    rule, draw = RULES[name], np.random.default_rng(size)
    updater = Updater(rule_of(rule, [dtype]), dtype, elements)
    kind = dtype_of(dtype).numpy
    w, *others = (draw.normal(size=size).astype(kind) for _ in range(4))
    others[1][: size // 2] *= np.finfo(kind).smallest_normal  # denormals, squares that vanish
    others[2][: size // 4] = np.resize([np.nan, np.inf, -np.inf, -0.0], size // 4)
    slots = {slot: np.full(size, fill, kind) for slot, fill in rule.slots.items()}
    expected = {"w": w.copy(), **{slot: array.copy() for slot, array in slots.items()}}
    graph = rule.graph((size,), dtype_of(dtype))
    for step, dw in enumerate(others):
        expected, _ = evaluate(graph, {**expected, "dw": dw, "step": np.asarray(step)})
        updater.apply(w, dw, slots, step)
    for slot, array in {"w": w, **slots}.items():
        np.testing.assert_array_equal(array, expected[slot])


@pytest.mark.parametrize("name", RULES)
def test_every_rule_here_is_one_loop(name):
    assert (update_code(RULES[name].graph((BLOCK,), dtype_of("f32"))) is not None) is can_compile()


def test_a_rule_whose_bits_no_machine_code_has_is_done_by_numpy():
    rule = UpdateRule("slow", lambda w, dw, slots, step: (w - exp(dw), {}), {})
    assert update_code(rule.graph((BLOCK,), dtype_of("f32"))) is None
    w = np.ones(5, "f4")
    Updater(rule_of(rule, ["f32"]), "f32", COMPILED_FROM).apply(w, np.zeros(5, "f4"), {}, 0)
    assert (w == 0.0).all()


def test_a_gradient_at_an_odd_place_is_read_all_the_same(elements):
    updater, w = Updater(rule_of(sgd, ["f32"]), "f32", elements), np.ones(7, "f4")
    updater.apply(w, np.frombuffer(b"_" + np.ones(7, "f4").tobytes(), "f4", offset=1), {}, 0)
    assert (w == 0.5).all()


def test_the_gradient_is_left_as_it_is(elements):
    updater = Updater(rule_of(adagrad, ["f32"]), "f32", elements)
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
