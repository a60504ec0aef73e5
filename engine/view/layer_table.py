"""Layer x machine: who does how much of each layer, how even that is, how it is cut, and what arrives for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rainshed.engine.view.markup import Markup, el, join
from rainshed.engine.view.model import Layer, PlanView
from rainshed.engine.view.naming import Place
from rainshed.engine.view.strips import key, shares_attr, strip, strip_tip
from rainshed.engine.view.units import bytes_text, ratio_text, seconds_text, shortened

SCROLLED = 24  # from more layers on, the table scrolls within the page

_HEAD = ("layer", "", "phase balance", "slowest", "cut", "arrives")
_NUMBERS = ("phase balance", "slowest", "arrives")


def layer_table(view: PlanView, keys: Mapping[Place, str]) -> Markup:
    """A row for each layer; its name opens its details."""
    arriving = Counter[Place]()
    for flow in view.flows:
        arriving[flow.target] += flow.nbytes
    layers = [layer for layer in view.layers if layer.place.kind == "layer"]
    rows = [_row(view, layer, keys[layer.place], arriving[layer.place]) for layer in layers]
    names = view.plan.machines
    ends = el("span", names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}", class_="rs-soft")
    head = (
        el("th", title or ends, class_="rs-num" if title in _NUMBERS else None, title=_TIPS.get(title))
        for title in _HEAD
    )
    table = el("table", el("thead", el("tr", *head)), el("tbody", *rows), class_="rs-layers")
    box = {"class_": "rs-scroll rs-tall", "tabindex": "0"} if len(layers) > SCROLLED else {"class_": "rs-scroll"}
    return join(key(), el("div", table, role="region", aria_label="Work of each machine in each layer", **box))


_TIPS = {
    "phase balance": "arithmetic at the slowest machine over an even spread, forward and backward; 1 is perfect",
    "slowest": "predicted seconds of its ops on the machine that takes longest",
    "arrives": "bytes that machines receive for it in a step",
}


def _row(view: PlanView, layer: Layer, data_key: str, nbytes: int) -> Markup:
    shares, spread = view.share_of(layer), view.spread.get(layer.place)
    balance = spread.balance(view.speeds) if spread else None
    cut = spread.cut if spread else None
    name = el(
        "button",
        shortened(layer.place.name, 40),
        data_key=data_key,
        type="button",
        class_="rs-link",
        title=layer.place.name,
    )
    return el(
        "tr",
        el("th", name, scope="row"),
        el("td", strip(shares), title=strip_tip(shares, view.plan.machines), data_shares=shares_attr(shares)),
        el("td", "" if balance is None else ratio_text(balance), class_="rs-num"),
        el("td", seconds_text(max(layer.seconds.values(), default=0.0)), class_="rs-num"),
        el("td", cut.short if cut else "", title=cut.text if cut else None, class_="rs-word"),
        el("td", bytes_text(nbytes) if nbytes else "", class_="rs-num", title=f"{nbytes:,} bytes"),
    )
