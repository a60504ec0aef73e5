"""Graphs with more nodes than Python's calls may nest: nothing on the way from graph to page walks them by recursion."""

import sys
from collections.abc import Callable

import pytest
from compiler_kit import cluster

from rainshed.compiler.load import plan_from_json
from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import to_json
from rainshed.engine.view import plan_html
from rainshed.ops import CATALOGUE as C
from rainshed.ops.ir import Graph, Node
from rainshed.ops.reduce import mean
from rainshed.ops.source import input, variable
from rainshed.ops.text import graph_text, parse

NODES = 1500
assert sys.getrecursionlimit() < NODES


def chain() -> Node:
    """Every node reads the one before."""
    h = input("x", (4, 6)) * variable("w", (6,))
    for i in range(NODES):
        h = C["tanh"](h) if i % 2 else C["exp"](h)
    return h


def wide() -> Node:
    """Very many read one value, and are added up two by two."""
    h = input("x", (4, 6)) * variable("w", (6,))
    parts = [C["tanh"](h * float(i + 1)) for i in range(NODES // 4)]
    while len(parts) > 1:
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)] + parts[len(parts) // 2 * 2 :]
    return parts[0]


def variables() -> Node:
    """Very many variables, added up one after the other."""
    h = input("x", (4, 6))
    for i in range(NODES // 2):
        h = h + variable(f"w{i}", (6,))
    return h


@pytest.mark.parametrize("net", [chain, wide, variables])
def test_a_long_graph_goes_all_the_way(net: Callable[[], Node]) -> None:
    graph = Graph({"loss": mean(net())}, loss="loss")
    text = graph_text(graph)
    assert graph_text(parse(text, C)) == text
    plan = compile(graph, cluster(2), strategy="longest")
    data = to_json(plan)
    assert to_json(plan_from_json(data, C)) == data
    assert plan_html(plan).startswith("<!doctype html>")
