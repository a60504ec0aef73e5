"""What the page shows of a layer or an arrow when it is chosen: ops with shapes and lines, variables, transfers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePath

from rainshed.engine.view.drawing import stacked
from rainshed.engine.view.markup import Markup, el, join
from rainshed.engine.view.model import Edge, Flow, Layer, OpRow, PlanView, VariableRow
from rainshed.engine.view.picture import layer_parts, shown_edges
from rainshed.engine.view.units import bytes_text, count_text, cut, flops_text, percent_text, plural, seconds_text

OPS, VARIABLES, FLOWS = 40, 20, 12  # rows shown of each


def details(view: PlanView, colour: Mapping[str, str]) -> Markup:
    """A section for each layer and each cut edge; the page's script shows one of them."""
    layers = [(f"b{i}", layer) for i, layer in enumerate(view.layers) if layer.place.kind == "layer"]
    first = max(layers, key=lambda item: sum(item[1].load.values()), default=("", None))[0]
    sections = [el("section", *_layer(x, colour), data_for=k, **_hidden(k != first)) for k, x in layers]
    edges = [el("section", *_edge(e), data_for=f"e{i}", hidden="") for i, e in shown_edges(view) if e.crossing]
    return join(*sections, *edges)


def _hidden(yes: bool) -> dict[str, str]:
    return {"hidden": ""} if yes else {}


def _layer(layer: Layer, colour: Mapping[str, str]) -> Iterable[Markup]:
    flops, seconds = sum(layer.flops.values()), list(layer.seconds.values())
    forward = sum(o.flops for o in layer.ops if not o.backward)
    facts = [
        ("compute", f"{flops_text(flops)}" + (f", {percent_text(forward / flops)} of it forward" if flops else "")),
        ("slowest machine", seconds_text(max(seconds, default=0.0))),
        ("crosses inside", bytes_text(layer.crossing)),
    ]
    yield el("h3", layer.place.name)
    yield stacked(layer_parts(layer, colour))
    yield _facts(facts)
    yield _op_table(layer.ops)
    if layer.variables:
        yield _variable_table(layer.variables)
    if layer.inside:
        yield flow_table("Crosses inside the layer", layer.inside)


def _edge(edge: Edge) -> Iterable[Markup]:
    yield el("h3", f"{edge.source.name} → {edge.target.name}")
    ratio = f" ({percent_text(edge.crossing / edge.nbytes)})" if edge.nbytes else ""
    yield _facts(
        [
            ("direction", "backward" if edge.backward else "forward"),
            ("crosses", f"{bytes_text(edge.crossing)} in {plural(edge.messages, 'message')}"),
            ("values hold", bytes_text(edge.nbytes) + ratio if edge.nbytes else "only sent on"),
        ]
    )
    yield flow_table("What crosses, and why", edge.flows)


def _facts(rows: Iterable[tuple[str, str]]) -> Markup:
    return el("dl", *(join(el("dt", k), el("dd", v)) for k, v in rows))


def line_text(line: str) -> Markup:
    """file:line, without the folders; they show when pointed at."""
    return el("span", PurePath(line).name, title=line, class_="rs-line-of") if line else Markup("")


def _op_table(ops: tuple[OpRow, ...]) -> Markup:
    rows = [
        el(
            "tr",
            el("td", _arrow(op.backward), _ops(op), class_="rs-word", title=" · ".join(op.ops)),
            el("td", count_text(op.tiles), class_="rs-num", title=f"{op.tiles} on all machines"),
            el("td", _shapes(op.shapes), title=" ".join(op.shapes[:8]), class_="rs-mono"),
            el("td", line_text(op.line), class_="rs-word"),
            el("td", flops_text(op.flops) if op.flops else "", class_="rs-num"),
        )
        for op in ops[:OPS]
    ]
    head = el("tr", *(el("th", t, class_=c) for t, c in zip(_OP_HEAD, _OP_CLASS, strict=True)))
    return el("table", el("thead", head), el("tbody", *rows, _more(len(ops) - OPS, 5)))


def _arrow(backward: bool) -> Markup | None:
    return el("span", "← ", class_="rs-bwd", title="backward") if backward else None


_OP_HEAD = ("op", "tiles", "shape of a tile", "line", "compute")
_OP_CLASS = (None, "rs-num", None, None, "rs-num")


def _ops(row: OpRow) -> str:
    return cut(" · ".join(row.ops), 22)


def _shapes(shapes: tuple[str, ...]) -> str:
    return shapes[0] + ("\N{NO-BREAK SPACE}…" if len(shapes) > 1 else "") if shapes else ""


def _variable_table(variables: tuple[VariableRow, ...]) -> Markup:
    rows = [
        el(
            "tr",
            el("td", v.name),
            el("td", v.type, class_="rs-mono"),
            el("td", _owners(v.parts)),
            el("td", bytes_text(v.nbytes), _slots(v), class_="rs-num"),
        )
        for v in variables[:VARIABLES]
    ]
    head = el("tr", el("th", "variable"), el("th", "shape"), el("th", "lives on"), el("th", "size", class_="rs-num"))
    return el("table", el("thead", head), el("tbody", *rows, _more(len(variables) - VARIABLES, 4)))


def _slots(v: VariableRow) -> Markup | None:
    if not v.slot_nbytes:
        return None
    return el("span", f" + {bytes_text(v.slot_nbytes)}", title="kept by the optimizer", class_="rs-soft")


def _owners(parts: Mapping[str, int]) -> str:
    return ", ".join(parts) if len(parts) <= 4 else f"{len(parts)} machines"


def flow_table(title: str, flows: tuple[Flow, ...]) -> Markup:
    rows = [
        el(
            "tr",
            el("td", _arrow(f.backward), f.of),
            el("td", f.reason),
            el("td", f"{f.messages:,}", class_="rs-num"),
            el("td", bytes_text(f.nbytes), class_="rs-num", title=f"{f.nbytes:,} bytes"),
        )
        for f in flows[:FLOWS]
    ]
    numbers = (el("th", text, class_="rs-num") for text in ("messages", "bytes"))
    head = el("tr", el("th", title), el("th", "reason"), *numbers)
    return el("table", el("thead", head), el("tbody", *rows, _more(len(flows) - FLOWS, 4)))


def _more(count: int, columns: int) -> Markup | None:
    return el("tr", el("td", f"and {count} more", colspan=columns, class_="rs-soft")) if count > 0 else None
