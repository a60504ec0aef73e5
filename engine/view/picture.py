"""The picture of a plan: a box for each layer, coloured by machine, and what flows and crosses between them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rainshed.engine.view.drawing import Arrow, Box, Part, draw, without_keys
from rainshed.engine.view.markup import Markup
from rainshed.engine.view.model import Edge, Layer, PlanView
from rainshed.engine.view.strips import MANY, strip_tip
from rainshed.engine.view.units import bytes_text, flops_text, percent_text, plural

CRUMB = 0.01  # of all bytes that cross
# Ops that only move data say little about a layer: they are named where there are no others.
_LAYOUT = {"assemble", "constant", "slice", "getitem", "concat", "reshape", "permute_dims", "expand_dims", "squeeze"}


def shown_edges(view: PlanView) -> list[tuple[int, Edge]]:
    """The edges worth an arrow, with their numbers. Not backward ones that would only clutter: saved activations that
    stay on their machine, and crumbs that do not follow a forward edge back."""
    forward = {(e.source, e.target) for e in view.edges if not e.backward}
    crumb = CRUMB * sum(f.nbytes for f in view.flows)
    return [
        (i, e)
        for i, e in enumerate(view.edges)
        if not e.backward or (e.target, e.source) in forward or e.crossing > crumb
    ]


def plan_picture(view: PlanView, colour: Mapping[str, str], *, clickable: bool) -> Markup:
    """The layers as one <svg>; where `clickable`, boxes and arrows carry the keys of their details."""
    boxes = [_box(view, layer, f"b{i}", colour) for i, layer in enumerate(view.layers)]
    index = {layer.place: i for i, layer in enumerate(view.layers)}
    edges = shown_edges(view)
    most = max((*(e.crossing for _, e in edges), *(layer.crossing for layer in view.layers)), default=0)
    arrows = [
        Arrow(
            source=index[e.source],
            target=index[e.target],
            backward=e.backward,
            weight=math.sqrt(e.crossing / most) if e.crossing else 0.0,
            label=bytes_text(e.crossing) if e.crossing else "",
            below=f"of {bytes_text(e.nbytes)}" if e.crossing and e.nbytes else "",
            tip=edge_tip(e),
            key=f"e{i}" if e.crossing else None,
        )
        for i, e in edges
        if e.source in index and e.target in index
    ]
    if not clickable:
        boxes, arrows = without_keys(boxes, arrows)
    return draw(boxes, arrows, "The layers of the plan and what flows between them")


def edge_tip(edge: Edge) -> str:
    way = f"{edge.source.name} → {edge.target.name}" + (" (backward)" if edge.backward else "")
    if not edge.crossing:
        return f"{way}: {bytes_text(edge.nbytes)}, all of it stays on its machine"
    messages = plural(edge.messages, "message")
    return f"{way}: {edge.crossing:,} bytes cross in {messages}; the values hold {edge.nbytes:,}"


def op_summary(layer: Layer) -> str:
    """The names of its forward ops."""
    rows = [op for op in layer.ops if not op.backward] or layer.ops
    names = list(dict.fromkeys(name for op in rows for name in op.ops))
    return " · ".join([n for n in names if n not in _LAYOUT] or names)


def layer_parts(layer: Layer, colour: Mapping[str, str]) -> tuple[Part, ...]:
    """The share of each machine in the layer's work."""
    total = sum(layer.load.values())
    unit = flops_text if layer.load is layer.flops else bytes_text
    return tuple(
        Part(colour[m], amount / total, f"{m}: {percent_text(amount / total)}, {unit(amount)}")
        for m, amount in layer.load.items()
        if amount
    )


def _box(view: PlanView, layer: Layer, key: str, colour: Mapping[str, str]) -> Box:
    kind, name = layer.place
    if kind != "layer":
        return Box(name=name, pill=True, note=layer.type, tip=f"{kind} {name} {layer.type}")
    flops = sum(layer.flops.values())
    inside = f"{bytes_text(layer.crossing)} inside" if layer.crossing else ""
    many, shares = len(colour) > MANY, view.share_of(layer)
    return Box(
        name=name,
        right=flops_text(flops) if flops else "",
        note=op_summary(layer),
        alarm=inside,
        bar=() if many else layer_parts(layer, colour),
        strip=tuple(shares) if many else (),
        tip=f"{name}: {strip_tip(shares, view.plan.machines)}" if many else name,
        key=key,
    )
