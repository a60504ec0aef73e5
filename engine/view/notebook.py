"""Small pictures for notebooks, without scripts: of a plan, and of a graph that is not compiled yet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Any, Protocol

from rainshed.compiler.plan import Plan
from rainshed.engine.view import tables
from rainshed.engine.view.collapse import afar
from rainshed.engine.view.drawing import Arrow, Box, draw
from rainshed.engine.view.markup import Markup, el
from rainshed.engine.view.model import view_of
from rainshed.engine.view.page import headline, legend
from rainshed.engine.view.picture import plan_picture
from rainshed.engine.view.style import NOTEBOOK_STYLE
from rainshed.engine.view.units import colours, plural
from rainshed.ops.ir import Graph, Node

EACH = 24  # up to so many nodes each has a box of its own; larger graphs are drawn by layer
MATRIX = 64


def plan_repr_html(plan: Plan) -> str:
    """The plan's figures, its layers, and its matrix of bytes."""
    view = view_of(plan)
    colour = dict(zip(plan.machines, colours(len(plan.machines)), strict=True))
    matrix = tables.matrix(view, colour) if plan.transfers and len(plan.machines) <= MATRIX else None
    return framed(headline(view), legend(colour), plan_picture(afar(view).view, colour, clickable=False), matrix)


class Formatter(Protocol):
    """IPython's, for one kind of output."""

    def for_type(self, kind: type, show: Callable[[Any], str]) -> Any: ...


def show_in_notebooks(formatter: Formatter | None) -> None:
    """Let plans and graphs show themselves where they are the last line of a cell; nothing to do outside of IPython."""
    if formatter is not None:
        formatter.for_type(Plan, plan_repr_html)
        formatter.for_type(Graph, graph_repr_html)


def html_formatter() -> Formatter | None:
    """That of the running IPython, if this process is one. Plans and graphs lie below this layer and cannot know how they
    look, so the notebook is told."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or shell.display_formatter is None:
        return None
    found: Formatter = shell.display_formatter.formatters["text/html"]
    return found


def graph_repr_html(graph: Graph) -> str:
    """The graph from inputs to outputs: each node if they are few, else its layers."""
    nodes = [n for n in graph.nodes() if n.op.name != "constant"]
    boxes, home = _node_boxes(nodes) if len(nodes) <= EACH else _layer_boxes(nodes)
    seen: dict[tuple[int, int], list[Node]] = {}
    for node in nodes:
        for value in node.inputs:
            if value in home and home[value] != home[node]:
                seen.setdefault((home[value], home[node]), []).append(value)
    arrows = [
        Arrow(source=a, target=b, tip=", ".join(dict.fromkeys(str(v.type) for v in values)))
        for (a, b), values in seen.items()
    ]
    for name, node in graph.outputs.items():
        boxes.append(Box(name=name, pill=True, note=str(node.type), tip=f"output {name} : {node.type}"))
        if node in home:
            arrows.append(Arrow(source=home[node], target=len(boxes) - 1, tip=str(node.type)))
    inputs, variables = len(graph.inputs), len(graph.variables)
    sizes = [plural(len(graph.nodes()), "node"), plural(inputs, "input"), plural(variables, "variable")]
    loss = [f"trained on {graph.loss}"] if graph.loss else []
    return framed(el("p", " · ".join(sizes + loss), class_="rs-soft"), draw(boxes, arrows, "The graph"))


def framed(*parts: Markup | None) -> str:
    rows = (el("div", part, style="margin:0 0 18px") for part in parts if part)
    return el("div", el("style", Markup(NOTEBOOK_STYLE)), *rows, class_="rs", style="padding:6px 2px;overflow-x:auto")


def _line(node: Node) -> str:
    return f"{PurePath(node.origin.file).name}:{node.origin.line}" if node.origin.file else ""


def _node_boxes(nodes: Sequence[Node]) -> tuple[list[Box], dict[Node, int]]:
    boxes = []
    for node in nodes:
        where = " · ".join(filter(None, (node.origin.scope, _line(node))))
        tip = f"{node.op.name} : {node.type}\n{node.origin}"
        if node.op.name in ("input", "variable"):
            boxes.append(Box(name=node.name, pill=True, note=str(node.type), tip=f"{node.op.name} {node.name}\n{tip}"))
        else:
            boxes.append(Box(name=node.op.name, right=str(node.type), note=where, tip=tip))
    return boxes, {node: i for i, node in enumerate(nodes)}


def _layer_boxes(nodes: Sequence[Node]) -> tuple[list[Box], dict[Node, int]]:
    """A box for each first part of a scope, or line where there is none; variables stand in the box that reads them."""
    groups: dict[str, list[Node]] = {}
    home: dict[Node, str] = {}
    for node in nodes:
        if node.op.name == "variable":
            continue
        key = f"input {node.name}" if node.op.name == "input" else _group(node)
        home[node] = key
        groups.setdefault(key, []).append(node)
        for value in node.inputs:
            if value.op.name == "variable" and value not in home:
                home[value] = key
                groups[key].append(value)
    for node in nodes:  # a variable that nothing reads
        if node not in home:
            home[node] = _group(node)
            groups.setdefault(home[node], []).append(node)
    place = {key: i for i, key in enumerate(groups)}
    return [_layer_box(key, group) for key, group in groups.items()], {n: place[k] for n, k in home.items()}


def _group(node: Node) -> str:
    return node.origin.scope.split("/")[0] or _line(node) or node.op.name


def _layer_box(key: str, group: Sequence[Node]) -> Box:
    first = group[0]
    if first.op.name == "input":
        return Box(name=first.name, pill=True, note=str(first.type), tip=f"{key} : {first.type}\n{first.origin}")
    held = sum(n.op.name == "variable" for n in group)
    ops = _names(n.op.name for n in group if n.op.name != "variable")
    return Box(name=key, right=plural(held, "variable") if held else "", note=ops, tip=key)


def _names(names: Iterable[str]) -> str:
    return " · ".join(dict.fromkeys(names))
