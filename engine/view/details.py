"""What the page shows of a layer or an arrow when it is chosen: ops with shapes and lines, variables, transfers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePath

from rainshed.engine.view.collapse import Afar
from rainshed.engine.view.drawing import stacked
from rainshed.engine.view.markup import Child, Markup, el, join
from rainshed.engine.view.model import Edge, Flow, Layer, OpRow, PlanView, VariableRow
from rainshed.engine.view.naming import Place
from rainshed.engine.view.picture import layer_parts, op_summary, shown_edges
from rainshed.engine.view.strips import MANY, shares_attr, strip, strip_tip
from rainshed.engine.view.units import (
    bytes_text,
    count_text,
    cut,
    flops_text,
    percent_text,
    plural,
    ratio_text,
    seconds_text,
)

OPS, VARIABLES, FLOWS = 40, 20, 12  # rows shown of each
DEEP_OPS, DEEP_FLOWS = 8, 4  # of each of many layers


def details(view: PlanView, far: Afar, colour: Mapping[str, str]) -> Markup:
    """A section for each box, each cut edge, and each layer of a group; the page's script shows one of them."""
    keys = layer_keys(view, far)
    boxes = [(f"b{i}", layer) for i, layer in enumerate(far.view.layers) if layer.place.kind == "layer"]
    first = max(boxes, key=lambda item: sum(item[1].load.values()), default=("", None))[0]
    sections = []
    for key, box in boxes:
        hidden = {} if key == first else {"hidden": ""}
        if box.place in far.members:
            inside = _group(far.view, box, far.members[box.place], keys, colour)
        else:
            inside = _layer(view, box, colour, ())
        sections.append(el("section", *inside, data_for=key, **hidden))
    home = {layer.place: key for key, box in boxes for layer in far.members.get(box.place, ())}
    into: dict[Place, list[Flow]] = {}
    for flow in view.flows if far.members else ():
        if flow.source != flow.target:
            into.setdefault(flow.target, []).append(flow)
    for layer in (layer for mine in far.members.values() for layer in mine):
        back = el("button", "‹ its group", data_key=home[layer.place], type="button", class_="rs-link")
        body = (back, *_layer(view, layer, colour, into.get(layer.place, ())))
        sections.append(el("section", *body, data_for=keys[layer.place], hidden=""))
    edges = [el("section", *_edge(e), data_for=f"e{i}", hidden="") for i, e in shown_edges(far.view) if e.crossing]
    return join(*sections, *edges)


def layer_keys(view: PlanView, far: Afar) -> dict[Place, str]:
    """The key of the details of each layer."""
    if not far.members:
        return {layer.place: f"b{i}" for i, layer in enumerate(view.layers) if layer.place.kind == "layer"}
    return {layer.place: f"l{i}" for i, layer in enumerate(view.layers) if layer.place.kind == "layer"}


def _shares(view: PlanView, layer: Layer, colour: Mapping[str, str]) -> Markup:
    if len(colour) <= MANY:
        return stacked(layer_parts(layer, colour))
    shares = view.share_of(layer)
    tip = strip_tip(shares, view.plan.machines)
    return el("div", strip(shares), title=tip, data_shares=shares_attr(shares), class_="rs-wide-strip")


def _group(
    view: PlanView, group: Layer, members: tuple[Layer, ...], keys: Mapping[Place, str], colour: Mapping[str, str]
) -> Iterable[Child]:
    """A group's layers, each of which can be chosen."""
    yield el("h3", group.place.name)
    yield _shares(view, group, colour)
    yield _facts(
        [
            ("layers", str(len(members))),
            ("compute", flops_text(sum(group.flops.values()))),
            ("crosses inside", bytes_text(group.crossing)),
        ]
    )
    rows = [
        el(
            "tr",
            el("td", el("button", layer.place.name, data_key=keys[layer.place], type="button", class_="rs-link")),
            el("td", cut(op_summary(layer), 30)),
            el("td", flops_text(sum(layer.flops.values())) if sum(layer.flops.values()) else "", class_="rs-num"),
            el("td", bytes_text(layer.crossing) if layer.crossing else "", class_="rs-num"),
        )
        for layer in members
    ]
    numbers = (el("th", text, class_="rs-num") for text in ("compute", "crosses inside"))
    yield el("table", el("thead", el("tr", el("th", "layer"), el("th", "ops"), *numbers)), el("tbody", *rows))


def _layer(view: PlanView, layer: Layer, colour: Mapping[str, str], into: Iterable[Flow]) -> Iterable[Child]:
    flops, seconds = sum(layer.flops.values()), list(layer.seconds.values())
    forward = sum(o.flops for o in layer.ops if not o.backward)
    spread, into = view.spread.get(layer.place), tuple(into)
    deep = len(view.layers) > 100
    facts = [
        ("compute", f"{flops_text(flops)}" + (f", {percent_text(forward / flops)} of it forward" if flops else "")),
        ("slowest machine", seconds_text(max(seconds, default=0.0))),
    ]
    balance = spread.balance(view.speeds) if spread else None
    if spread and spread.cut:
        facts.insert(0, ("cut", f"{spread.cut.text}, on {plural(spread.cut.machines, 'machine')}"))
    if balance is not None:
        facts.append(("phase balance", ratio_text(balance)))
    facts.append(("crosses inside", bytes_text(layer.crossing)))
    yield el("h3", layer.place.name)
    yield _shares(view, layer, colour)
    yield _facts(facts)
    yield _op_table(layer.ops, DEEP_OPS if deep else OPS)
    if layer.variables:
        yield _variable_table(layer.variables)
    if layer.inside:
        yield flow_table("Crosses inside the layer", layer.inside, DEEP_FLOWS if deep else FLOWS)
    if into:
        yield flow_table("Comes from other layers", into, DEEP_FLOWS if deep else FLOWS)


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


def _op_table(ops: tuple[OpRow, ...], most: int) -> Markup:
    rows = [
        el(
            "tr",
            el("td", _arrow(op.backward), _ops(op), class_="rs-word", title=" · ".join(op.ops)),
            el("td", count_text(op.tiles), class_="rs-num", title=f"{op.tiles} on all machines"),
            el("td", _shapes(op.shapes), title=" ".join(op.shapes[:8]), class_="rs-mono"),
            el("td", line_text(op.line), class_="rs-word"),
            el("td", flops_text(op.flops) if op.flops else "", class_="rs-num"),
        )
        for op in ops[:most]
    ]
    head = el("tr", *(el("th", t, class_=c) for t, c in zip(_OP_HEAD, _OP_CLASS, strict=True)))
    return el("table", el("thead", head), el("tbody", *rows, _more(len(ops) - most, 5)))


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


def flow_table(title: str, flows: tuple[Flow, ...], most: int = FLOWS) -> Markup:
    rows = [
        el(
            "tr",
            el("td", _arrow(f.backward), f.of),
            el("td", f.reason),
            el("td", f"{f.messages:,}", class_="rs-num"),
            el("td", bytes_text(f.nbytes), class_="rs-num", title=f"{f.nbytes:,} bytes"),
        )
        for f in flows[:most]
    ]
    numbers = (el("th", text, class_="rs-num") for text in ("messages", "bytes"))
    head = el("tr", el("th", title), el("th", "reason"), *numbers)
    return el("table", el("thead", head), el("tbody", *rows, _more(len(flows) - most, 4)))


def _more(count: int, columns: int) -> Markup | None:
    return el("tr", el("td", f"and {count} more", colspan=columns, class_="rs-soft")) if count > 0 else None
