"""The text form: what is printed can be read back, and what cannot be read is refused with its line."""

from contextlib import suppress

import numpy as np
import pytest
from laws import f32, f64, i64, rng

from rainshed.ops import CATALOGUE
from rainshed.ops.compose import eye
from rainshed.ops.errors import GraphError, ParseError, RainshedError
from rainshed.ops.evaluate import evaluate
from rainshed.ops.gather import embedding
from rainshed.ops.gradient import gradients
from rainshed.ops.init import Init
from rainshed.ops.ir import Device, Graph, scope
from rainshed.ops.layout import concat
from rainshed.ops.pad import pad
from rainshed.ops.random import dropout, random_normal
from rainshed.ops.reduce import mean, sum
from rainshed.ops.source import constant, input, pick, variable, variable_op
from rainshed.ops.text import attr_text, graph_text, parse
from rainshed.ops.types import Batch, bool_, float32, int64


def again(graph):
    return parse(graph_text(graph), CATALOGUE)


def model():
    """A graph with leaves of every kind, and attributes of most."""
    x, ids = input("x", (None, 4)), input("ids", (None,), "int64")
    w = variable("w", (4, 3), init=Init("normal", (0.0, 0.5)))
    table = variable("a table", (6, 3), init=f32(6, 3), trainable=False)
    h = dropout(x @ w + embedding(table, ids), 0.25, name='drop "1"\n')
    h = concat([h, pad(h, widths=((0, 0), (1, 2)), value=-0.5)], axis=1)[:, ::-1]
    loss = mean(h * h) + sum(eye(3) * constant(f32(3, 3)))
    return Graph({"loss": loss, "grad/w": gradients(loss, [w])[0]}, {"w": w * 0.5}, "loss")


def test_a_graph_reads_as_its_description_says():
    x, w = input("x", (None, 4)), variable("w", (4, 3))
    y = (x @ w).at(Device("worker1"))
    text = graph_text(Graph({"y": y}, {"w": w + 1.0}))
    assert text == "\n".join(
        [
            "graph {",
            '  %0 = input() {name="x", shape=[B, 4], dtype=f32} : f32[B, 4]',
            '  %1 = variable() {name="w", shape=[4, 3], dtype=f32, init=init constant [0.0]} : f32[4, 3]',
            "  %2 = matmul(%0, %1) : f32[B, 3] @ worker1/cpu",
            "  %3 = constant() {value=array float32 [] [1.0]} : f32[]",
            "  %4 = add(%1, %3) : f32[4, 3]",
            "  output y = %2",
            "  update w = %4",
            "}",
        ]
    )
    assert graph_text(parse(text, CATALOGUE)) == text


def test_a_model_comes_back_the_same():
    graph = model()
    assert graph_text(again(graph)) == graph_text(graph)
    assert again(graph).loss == "loss" and again(graph).updates.keys() == {"w"}
    feeds = {"x": f32(5, 4), "ids": i64(5, low=0, high=6)}
    for before, after in zip(*(evaluate(g.bind(batch=5), feeds, step=2) for g in (graph, again(graph))), strict=True):
        assert before.keys() == after.keys()
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])


ARRAYS = [
    f32(3, 2), f64(2), f32(5, 7), f64(40), i64(3), i64(6, 6), np.array([True, False]), np.zeros((40,), bool),
    np.float32(2.5),
    np.zeros((0, 3), np.float32), np.array([np.inf, -np.inf, np.nan]), np.array([2**63 - 1, -(2**63)]), np.int32(-7),
    np.array([1e-45, 3.4028235e38], np.float32), np.array([0.1, 1e-300, -0.0]),
]  # fmt: skip


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{list(a.shape)}")
def test_arrays(array):
    node = constant(array)
    (got,), (want,) = again(Graph({"y": node})).outputs.values(), [node]
    assert got.attrs["value"].tobytes() == want.attrs["value"].tobytes() and got.type == want.type


INITS = [0.5, True, Init("uniform", (-0.1, 1e-7)), Init("normal", (0.0, 2.0)), f64(2, 3), f64(2, 3).tolist()]


@pytest.mark.parametrize("init", INITS, ids=lambda i: type(i).__name__)
def test_inits(init):
    node = variable("v", (2, 3), "float64", init=init)
    got = again(Graph({"y": node})).outputs["y"].attrs["init"]
    assert got.kind == node.attrs["init"].kind and got.numbers == node.attrs["init"].numbers
    np.testing.assert_array_equal(got.values, node.attrs["init"].values)


STRINGS = [
    "a",
    "a b",
    "ein Öl",
    'say "x"',
    "back\\slash",
    "\\n",
    "line\nbreak",
    "\r\n",
    "a\u2028b\x0c\x1cc",
    "# no comment",
    "{x=1} : f32[2] @ w",
    "%1",
]


@pytest.mark.parametrize("text", STRINGS, ids=ascii)
def test_strings(text):
    node = random_normal((2,), name=text)
    assert again(Graph({"y": node + 1.0})).outputs["y"].inputs[0].attrs["stream"] == text


def test_attribute_values():
    for value, text in [
        (None, "None"), (True, "True"), (3, "3"), (-3, "-3"), (1e-05, "1e-05"), (float("-inf"), "-inf"), (2.0, "2.0"),
        (Batch(), "B"), (Batch(3), "3B"), (float32, "f32"), (int64, "i64"), (bool_, "bool"),
        ((1, (2, 3), ()), "[1, [2, 3], []]"),
        (np.float32(0.5), "0.5"), (np.int64(4), "4"), ([1, None], "[1, None]"),
    ]:  # fmt: skip
        assert attr_text(value) == text
    with pytest.raises(ParseError, match="no text form"):
        attr_text(object())


def test_parts_of_leaves_and_devices():
    node = variable_op(name="w", shape=(2, 3), init=1.0, offset=(1, 0), whole=(4, 3)).at(Device("a.b-c", "cuda0"))
    got = again(Graph({"y": node})).outputs["y"]
    assert got.attrs["offset"] == (1, 0) and got.attrs["whole"] == (4, 3) and got.device == Device("a.b-c", "cuda0")


def test_origins_are_comments():
    with scope("layer"):
        y = input("x", (2,)) * 2.0
    text = graph_text(Graph({"y": y}), origins=True)
    assert "# layer" in text and "test_text.py" in text
    assert graph_text(parse(text, CATALOGUE)) == graph_text(Graph({"y": y}))


HEAD = 'graph {\n  %0 = input() {name="x", shape=[2], dtype=f32} : f32[2]\n'


@pytest.mark.parametrize(
    "body,text",
    [
        ("  %1 = nosuch(%0) : f32[2]", "there is no op 'nosuch'"),
        ("  %1 = exp(%7) : f32[2]", "%7 is used before it is defined"),
        ("  %0 = exp(%0) : f32[2]", "defined twice"),
        ("  %1 = exp(%0, %0) : f32[2]", "takes 1 inputs, found 2"),
        ("  %1 = exp(%0) : f32[3]", "the type is written f32\\[3\\], but is f32\\[2\\]"),
        ("  %1 = exp(%0) {a=1} : f32[2]", "has no attribute 'a'"),
        ("  %1 = exp(%0) {", "expected word"),
        ("  %1 = exp(%0", "expected ,"),
        ("  %1 = exp(%0) f32[2]", "expected :"),
        ("  %1 = reshape(%0) {shape=os} : f32[2]", "'os' is not a value"),
        ("  %1 = reshape(%0) {shape=[3]} : f32[3]", "has 2 elements"),
        ("  %1 = reshape(%0) {shape=None} : f32[2]", "not a size"),
        ("  %1 = permute_dims(%0) {axes=None} : f32[2]", "must hold 1"),
        ("  %1 = constant() {value=array object [1] [0]} : f32[1]", "not an element type"),
        ("  %1 = constant() {value=array float32 [3] [0.0]} : f32[3]", "bad array"),
        ('  %1 = constant() {value=array float32 [3] "!"} : f32[3]', "bad array"),
        ('  %1 = constant() {value="text"} : f32[3]', "not an element type"),
        ("  %1 = reshape(%0) {shape=" + "[" * 5000, "nested deeper"),
        ("  %1 = reshape(%0) {shape=[" + "9" * 5000 + "]}", "more than 400 digits"),
        ("  %1 = reshape(%0) {shape=[0B]}", "not a size"),
        ("  output y = %9", "not defined"),
        ("  output y = %0\n  output y = %0", "named twice"),
        ("  loss z", "not an output"),
        ("  import os", "a line defines"),
        ("  ?", "cannot read this"),
    ],
)
def test_errors(body, text):
    with pytest.raises(ParseError, match=text):
        parse(f"{HEAD}{body}\n}}", CATALOGUE)


@pytest.mark.parametrize("text", ["", "graph {", "}", "graph {\n%0", "hello\n}", "\n\n"])
def test_not_a_graph(text):
    with pytest.raises(ParseError, match="starts with"):
        parse(text, CATALOGUE)


def _mutated(text, random):
    """The text with one place damaged: characters, tokens or lines replaced, removed, doubled or swapped."""
    at, other = (int(random.integers(len(text))) for _ in range(2))
    long = int(random.integers(1, 12))
    lines = text.split("\n")
    i, j = (int(n) for n in random.integers(1, len(lines) - 1, 2))
    pieces = [
        "None",
        "-1",
        "[[",
        "]",
        '"',
        "B",
        "7B",
        "nan",
        "1e999",
        "%3",
        "99999999999999999999",
        "array",
        "init",
        "\\",
        "{",
        "\x00",
        "f32",
        "-",
        "[0, 1]",
        "''",
    ]
    match int(random.integers(7)):
        case 0:
            return text[:at] + text[at + long :]
        case 1:
            return text[:at] + pieces[random.integers(len(pieces))] + text[at + long :]
        case 2:
            return text[:at] + text[other : other + long] + text[at:]
        case 3:
            lines[i], lines[j] = lines[j], lines[i]
            return "\n".join(lines)
        case 4:
            return "\n".join(lines[:i] + lines[i + 1 :])
        case 5:
            digits = [k for k, c in enumerate(text) if c.isdigit()]
            k = digits[random.integers(len(digits))]
            return text[:k] + str(random.integers(-2, 12)) + text[k + 1 :]
        case _:
            parts = lines[i].split("=")
            parts[-1 if len(parts) < 3 else int(random.integers(2, len(parts)))] = (
                pieces[random.integers(len(pieces))] + "}"
            )
            return "\n".join([*lines[:i], "=".join(parts), *lines[i + 1 :]])


@pytest.mark.parametrize("seed", range(2))
def test_damaged_text_is_refused_or_still_a_graph(seed):
    """Never another exception than ours, and what is read without one prints again."""
    random, texts = rng("damage", seed), [graph_text(model()), graph_text(model().bind(batch=3))]
    refused = 0
    for n in range(200):
        text = _mutated(texts[n % 2], random)
        try:
            graph = parse(text, CATALOGUE)
        except GraphError:
            refused += 1
        else:
            assert graph_text(parse(graph_text(graph), CATALOGUE)) == graph_text(graph)
    assert refused > 100


def test_any_attribute_may_be_damaged():
    """Every attribute of every op with every sort of value: refused in our own words, or taken."""
    values = [
        "None",
        "-1",
        "2.5",
        "True",
        '"a"',
        "B",
        "f32",
        "[]",
        "[0]",
        "[[0, 4], [0, 4]]",
        "[None]",
        "array float32 [1] [0.0]",
    ]
    for op in CATALOGUE.values():
        if op.name == "pick":
            continue
        for name in op.attrs:
            for value in values:
                lines = ['%0 = input() {name="x", shape=[4, 4], dtype=f32} : f32[4, 4]']
                inputs = ", ".join(["%0"] * (op.arity if op.arity is not None else 2))
                lines.append(f"%1 = {op.name}({inputs}) {{{name}={value}}} : f32[4, 4]")
                with suppress(ParseError):
                    parse("\n".join(["graph {", *lines, "output y = %1", "}"]), CATALOGUE)


def test_errors_are_ours():
    assert issubclass(ParseError, GraphError) and issubclass(GraphError, RainshedError)


def test_tuples_cannot_be_used_without_pick():
    with pytest.raises(GraphError, match="not a tuple"):
        pick(input("x", (2,)), 0)
