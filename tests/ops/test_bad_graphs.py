"""Random bad graphs: a valid random graph, and one thing done to it that cannot be right.

Each must end in an error of Rainshed's own tree that names the op, and the line here that did it; none may hang or raise
anything else.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from random_graphs import ALL_OPS, random_graph
from random_ops import TWINS

from rainshed.compiler.machines import Cluster
from rainshed.compiler.pipeline import compile
from rainshed.engine.graph import graph as user_graph
from rainshed.ops import CATALOGUE as C
from rainshed.ops.errors import RainshedError
from rainshed.ops.init import Init
from rainshed.ops.ir import Node, on
from rainshed.ops.source import input, variable
from rainshed.ops.text import graph_text, parse
from rainshed.ops.types import TupleType

GRAPHS, CHUNKS = 1000, 10
HERE = re.compile(r"built at +\S*(test_bad_graphs|random_\w+)\.py:\d+")
JUNK: tuple[Any, ...] = (
    None, -1, -7, 10**30, "x", "", 1.5, math.nan, math.inf, True, (), ((),), [1, [2]], {}, {"a": 1}, object(), b"ab", 3 + 4j,
    np.arange(3.0), np.int8(3), (1, "a"), (None, None), ((1, 2), (3,)), (-1, -1), (0, 0, 0, 0, 0, 0, 0), print, float, range(3),
)  # fmt: skip


class Base:
    """A valid graph to spoil, and its dice."""

    def __init__(self, seed: int) -> None:
        self.graph = random_graph(seed).graph
        self.rng = np.random.default_rng([seed, 2])
        self.nodes = [n for n in self.graph.nodes() if not isinstance(n.type, TupleType)]
        self.cluster = Cluster.local(5)

    def one(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def node(self, kind: str = "float", low: int = 0) -> Node:
        fits = [n for n in self.nodes if n.dtype.kind == kind and n.ndim >= low and 0 not in n.shape]
        dtype = {"float": "float32", "int": "int64", "bool": "bool"}[kind]
        return self.one(fits) if fits else input("base", (3, 4), dtype)

    def compile(self, **changes: Any) -> None:
        compile(replace(self.graph, **changes), self.cluster, strategy="longest")

    def parse(self, change: Callable[[list[str]], list[str]]) -> None:
        """Read the graph back from its text, with its lines changed."""
        parse("\n".join(change(graph_text(self.graph).split("\n"))), ALL_OPS)


def shapes_that_differ(b: Base) -> None:
    x = C["concat"](*(b.node(low=1),) * 2, axis=-1)
    y = input("y", (*x.shape[:-1], x.shape[-1] + 1), x.dtype)
    C[b.one(("add", "multiply", "maximum", "atan2", "less"))](x, y)


def inner_sizes_that_differ(b: Base) -> None:
    x = b.node(low=2)
    C["matmul"](x, input("y", (x.shape[-1] + 1, 2), x.dtype))


def mixed_kinds(b: Base) -> None:
    C[b.one(("add", "divide", "equal", "pow"))](b.node(), b.node(b.one(("int", "bool"))))


def wrong_kind(b: Base) -> None:
    C[b.one(("exp", "softmax", "sqrt", "any", "logical_not", "erf"))](b.node("int"))


def cycle(b: Base) -> None:
    b.parse(lambda lines: [lines[0], "  %0 = tanh(%1) : f32[2]", "  %1 = exp(%0) : f32[2]", "  output y = %1", "}"])


def later_value(b: Base) -> None:
    def swap(lines: list[str]) -> list[str]:
        rows = [i for i, line in enumerate(lines) if "(%" in line]
        return [*lines[:1], lines[b.one(rows)], *lines[1:]] if rows else ["graph {", "  %0 = exp(%1) : f32[]", "}"]

    b.parse(swap)


def self_loop(b: Base) -> None:
    b.parse(lambda lines: [*lines[:-1], "  %99999 = exp(%99999) : f32[2]", "}"])


def dangling_value(b: Base) -> None:
    b.parse(lambda lines: [*lines[:-1], "  %99999 = exp(%88888) : f32[2]", "}"])


def cut_text(b: Base) -> None:
    text = graph_text(b.graph)
    parse(text[: int(b.rng.integers(0, len(text)))], ALL_OPS)


def wrong_type_in_text(b: Base) -> None:
    b.parse(lambda lines: [*lines[:-1], "  %99999 = step() : f32[2, 3]", "}"])


def wrong_arity(b: Base) -> None:
    x = b.node()
    name = b.one([n for n, op in ALL_OPS.items() if op.arity is not None])
    ALL_OPS[name](*(x,) * ((ALL_OPS[name].arity or 0) + 1))


def bad_axis(b: Base) -> None:
    x = b.node(low=1)
    name = b.one(("sum", "max", "softmax", "cumulative_sum", "argmin", "flip", "concat", "take"))
    axis = b.one((x.ndim, -x.ndim - 1, 99, "rows", 0.5, (0, 0), [[0]], True))
    C[name](*((x, input("i", (2,), "int64")) if name == "take" else (x,)), axis=axis)


def negative_size(b: Base) -> None:
    x = b.node()
    b.one(
        (
            lambda: input("n", (3, -2)),
            lambda: C["reshape"](x, shape=(-2,)),
            lambda: C["broadcast_to"](x, shape=(-1, *x.shape)),
        )
    )()


def huge_size(b: Base) -> None:
    C["broadcast_to"](b.node(), shape=(2**40, 2**20, *(2**10,) * 4))


def overflowing_product(b: Base) -> None:
    input("n", b.one(((2**31,) * 3, (2**62, 4), (10**18, 10**18), (2**64,))))


def name_clash(b: Base) -> None:
    x = input("same", (2,))
    y = input("same", (2,)) if b.rng.random() < 0.5 else input("same", (3,))
    b.compile(outputs={**b.graph.outputs, "x": x, "y": y})


def bad_name(b: Base) -> None:
    b.one((input, variable))(b.one((5, None, "", " a", "a\nb", 'a"b', b"a", ("a",), {})), (2,))


def unknown_attribute(b: Base) -> None:
    C[b.one(("add", "exp", "matmul"))](*(b.node(low=2),) * 1, colour="blue")


def missing_attribute(b: Base) -> None:
    C[b.one(("reshape", "slice", "pad", "argmax", "one_hot"))](b.node("int"))


def unknown_machine(b: Base) -> None:
    with on("nowhere"):
        y = C["exp"](input("there", (2,)))
    b.compile(outputs={**b.graph.outputs, "there": y})


def memory_over_limit(b: Base) -> None:
    x = variable("big", (1000, 1000))
    b.cluster = Cluster.local(5, memory_bytes=1000)
    b.compile(outputs={**b.graph.outputs, "big": C["exp"](x)})


def nan_as_start(b: Base) -> None:
    variable(
        "n",
        (2,),
        init=b.one((math.nan, math.inf, "x", object(), Init, [[1.0, 2.0]], np.zeros(3), np.array(["a", "b"]))),
    )


def empty_graph(b: Base) -> None:
    b.compile(outputs={}, updates={}, loss=None)


def output_that_is_no_value(b: Base) -> None:
    user_graph(outputs={"y": b.one((3, None, "x", np.zeros(2)))})


def foreign_value(b: Base) -> None:
    C[b.one(("add", "matmul", "minimum"))](
        b.node(low=2), b.one(("text", None, object(), [1, 2], {}, 1 + 2j, np.array(["a"]), range(3)))
    )


def stretched_wrongly(b: Base) -> None:
    x = b.node(low=1)
    C["broadcast_to"](x, shape=(*x.shape[:-1], x.shape[-1] + 5) if x.shape[-1] != 1 else (*x.shape[:-1], 3)[:-1])


def nothing_to_reduce(b: Base) -> None:
    C[b.one(("max", "min", "argmax", "argmin"))](input("none", (2, 0)), axis=1)


def loss_that_is_none(b: Base) -> None:
    b.compile(outputs={"loss": b.one((input("a", (2,)), input("a", (), "int64"), b.node(low=1)))}, loss="loss")


def loss_not_there(b: Base) -> None:
    b.compile(loss="nothing")


def unbound_batch(b: Base) -> None:
    b.compile(outputs={**b.graph.outputs, "b": C["exp"](input("b", (None, 3)))})


def batch_used_twice(b: Base) -> None:
    x = input("b", (None, 3))
    C["reshape"](C["matmul"](x, C["matrix_transpose"](x)), shape=(-1,))


def update_of_nothing(b: Base) -> None:
    b.compile(updates={"nothing": b.node()})


def update_of_another_type(b: Base) -> None:
    w = variable("moved", (2, 2))
    b.compile(outputs={**b.graph.outputs, "w": w}, updates={"moved": input("m", (2, 3))})


def tuple_as_tensor(b: Base) -> None:
    C[b.one(("exp", "add", "sum"))](*(TWINS(b.node()),) * b.one((1, 1)))


def truth_of_a_node(b: Base) -> None:
    x = b.node()
    b.one(
        (lambda: bool(x), lambda: np.asarray(x), lambda: list(C["sum"](x)), lambda: x.T.T if x.ndim != 2 else bool(x))
    )()


def bad_index(b: Base) -> None:
    x = b.node(low=1)
    x[
        b.one(
            (
                99,
                -99,
                "a",
                1.5,
                (0,) * 9,
                (..., ...),
                np.array([True]),
                [[99]],
                slice("a", None),
                None.__class__,
                slice(None, None, 0),
            )
        )
    ]


MUTATIONS: tuple[Callable[[Base], None], ...] = (
    shapes_that_differ, inner_sizes_that_differ, mixed_kinds, wrong_kind, cycle, later_value, self_loop, dangling_value, cut_text,
    wrong_type_in_text, wrong_arity, bad_axis, negative_size, huge_size, overflowing_product, name_clash, bad_name,
    unknown_attribute, missing_attribute, unknown_machine, memory_over_limit, nan_as_start, empty_graph, output_that_is_no_value,
    foreign_value, stretched_wrongly, nothing_to_reduce, loss_that_is_none, loss_not_there, unbound_batch, batch_used_twice,
    update_of_nothing, update_of_another_type, tuple_as_tensor, truth_of_a_node, bad_index,
)  # fmt: skip
NO_LINE = {
    cycle,
    later_value,
    self_loop,
    dangling_value,
    cut_text,
    wrong_type_in_text,
    empty_graph,
    memory_over_limit,
    loss_not_there,
}


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_bad_graphs_are_refused(chunk: int) -> None:
    counts: Counter[str] = Counter()
    seconds = 0.0
    for seed in range(chunk, GRAPHS, CHUNKS):
        base, spoil = Base(seed), MUTATIONS[seed // CHUNKS % len(MUTATIONS)]
        started = time.perf_counter()
        with pytest.raises(RainshedError) as caught:
            spoil(base)
        seconds += time.perf_counter() - started
        counts[type(caught.value).__name__] += 1
        if spoil not in NO_LINE:
            assert HERE.search(str(caught.value)), (
                f"seed {seed}, {spoil.__name__}: no line of the user's in\n{caught.value}"
            )
    print(
        f"seeds {chunk}, {chunk + CHUNKS}, ... of {GRAPHS}:",
        dict(counts),
        f"{seconds / sum(counts.values()) * 1e3:.1f} ms each",
    )
    assert seconds / sum(counts.values()) < 0.05


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_attributes_of_any_kind_are_refused_or_right(chunk: int) -> None:
    """Every node of random graphs made again, with junk for one attribute: a node, or an error of our own."""
    refused = made = 0
    for seed in range(chunk, 300, CHUNKS):
        base = Base(seed)
        for node in base.nodes:
            for name in node.op.attrs:
                junk = base.one(JUNK)
                try:
                    again = node.op(*node.inputs, **{**node.attrs, name: junk})
                    made += 1
                except RainshedError as error:
                    assert HERE.search(str(error)) and node.op.name in str(error), (
                        f"{node.op.name} {name}={junk!r}\n{error}"
                    )
                    refused += 1
                    continue
                except Exception as error:
                    raise AssertionError(
                        f"{node.op.name} {name}={junk!r} raised {type(error).__name__}: {error}"
                    ) from error
                assert isinstance(again, Node)
    print(f"{refused} refused, {made} made")
