"""Two plans side by side on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rainshed.compiler.plan import MachinePrediction
from rainshed.engine.measured import ratio_of
from rainshed.engine.view.collapse import afar
from rainshed.engine.view.comparison import BytesPair, Comparison, Figure, LayerPair, LayerSide, MachinePair
from rainshed.engine.view.document import document, part
from rainshed.engine.view.markup import Child, Markup, el, join
from rainshed.engine.view.page import legend
from rainshed.engine.view.picture import plan_picture
from rainshed.engine.view.strips import key, strip, strip_tip
from rainshed.engine.view.units import bytes_text, change_text, colours, percent_text, plural, seconds_text, shortened

LAYERS, TRANSFERS, MACHINES = 24, 20, 16  # rows before the others are folded away
FOLDED = 600  # rows that can be unfolded


def comparison_html(c: Comparison, title: str) -> str:
    """The page: figures, what differs, layers, transfers, machines, and the two pictures."""
    a, b = c.names
    what = "They are the same plan." if c.same else "Biggest differences first."
    recut = sum(p.recut for p in c.layers)
    body = join(
        el(
            "header", el("h1", title), el("p", _chip("a"), f"{a} ", _chip("b"), f"{b}. {what}", class_="rs-soft rs-sub")
        ),
        _figures(c),
        _differing(c),
        part("Layers", f"{plural(recut, 'layer')} cut differently, of {len(c.layers)}.", key(), _layers(c)),
        part("Why bytes cross", "Payload of a step, by reason.", _bytes(c, c.reasons, ("reason",))),
        part("Transfers that differ most", "", _bytes(c, [t for t in c.transfers if t.a != t.b], ("value", "reason"))),
        part("Machines", "Predicted for one step.", _machines(c)),
        part("The two plans", "", el("div", *_pictures(c), class_="rs-twins")),
    )
    return document(title, body, ())


def comparison_small(c: Comparison) -> Markup:
    """What of it stands in a notebook: figures and layers."""
    return join(_figures(c), key(), _layers(c))


def _chip(side: str) -> Markup:
    return el("i", class_=f"rs-chip rs-side-{side}")


def _change(a: float | None, b: float | None) -> str:
    ratio = ratio_of(a, b)
    if ratio is None:
        return ""
    return "same" if a == b else change_text(ratio)


def _heads(c: Comparison, *titles: str) -> Markup:
    """A head row; in it "a" and "b" are the plans."""
    named = {"a": join(_chip("a"), c.names[0]), "b": join(_chip("b"), c.names[1])}
    words = ("layer", "reason", "value", "figure", "cut", "machine", "what")
    cells = (
        el("th", named.get(t, t), class_="rs-num" if t not in words and not t.startswith("cut") else None)
        for t in titles
    )
    return el("thead", el("tr", *cells))


def _figures(c: Comparison) -> Markup:
    rows = [_figure(f) for f in c.figures if f.a is not None or f.b is not None]
    return el("table", _heads(c, "figure", "a", "b", "change"), el("tbody", *rows), class_="rs-figures")


def _figure(f: Figure) -> Markup:
    cells = (
        el("td", "–" if x is None else f.text(x), class_="rs-num", title=None if x is None else f"{x:,g}")
        for x in (f.a, f.b)
    )
    return el("tr", el("th", f.name, scope="row"), *cells, el("td", _change(f.a, f.b), class_="rs-num rs-soft"))


def _differing(c: Comparison) -> Markup:
    if not c.differing:
        return part("What they were made for", "The same graph, cluster and search.")
    rows = [el("tr", el("th", d.what, scope="row"), el("td", d.a), el("td", d.b)) for d in c.differing]
    head = el("thead", el("tr", *(el("th", *x) for x in ((" ",), (_chip("a"), c.names[0]), (_chip("b"), c.names[1])))))
    lead = "What is not the same in their graphs, clusters and searches."
    return part("What they were made for", lead, el("table", head, el("tbody", *rows), class_="rs-wide"))


# -- layers -----------------------------------------------------------------------------------------------------------
def _layers(c: Comparison) -> Markup:
    rows = [_layer(c, p) for p in c.layers]
    head = el(
        "thead",
        el(
            "tr",
            el("th", "layer"),
            el("th", _chip("a"), c.names[0]),
            el("th", "cut"),
            el("th", _chip("b"), c.names[1]),
            el("th", "cut"),
            el("th", "slowest machine", colspan=2, class_="rs-num"),
            el("th", "arrives", colspan=2, class_="rs-num"),
        ),
    )
    return _folded(rows, LAYERS, "layers", lambda some: el("table", head, el("tbody", *some), class_="rs-pairs"))


def _layer(c: Comparison, pair: LayerPair) -> Markup:
    a, b = pair.a, pair.b
    return el(
        "tr",
        el("th", shortened(pair.name, 32), title=pair.name, scope="row"),
        *_side(a, c.views[0].plan.machines, pair.recut),
        *_side(b, c.views[1].plan.machines, pair.recut),
        el("td", seconds_text(a.slowest_s) if a else "–", class_="rs-num"),
        _after(b.slowest_s if b else None, a.slowest_s if a else None, seconds_text),
        el("td", bytes_text(a.nbytes) if a else "–", class_="rs-num"),
        _after(b.nbytes if b else None, a.nbytes if a else None, bytes_text),
    )


def _side(side: LayerSide | None, machines: tuple[str, ...], recut: bool) -> Iterable[Markup]:
    if side is None:
        return el("td", "not in it", class_="rs-soft"), el("td")
    text = f"{side.grid} on {side.machines}" if side.grid else ""
    return (
        el("td", strip(side.shares), title=strip_tip(side.shares, machines), class_="rs-strip-cell"),
        el("td", text, title=side.cut or None, class_="rs-word rs-recut" if recut else "rs-word"),
    )


def _after(value: float | None, before: float | None, text: Callable[[float], str]) -> Markup:
    """The second plan's number; strong where it is the greater, soft where it is the smaller."""
    if value is None:
        return el("td", "–", class_="rs-num")
    tone = (
        "rs-more"
        if before is not None and value > 1.005 * before
        else "rs-less"
        if before and value < 0.995 * before
        else ""
    )
    return el("td", text(value), class_=f"rs-num {tone}".strip(), title=_change(before, value) or None)


# -- bytes ------------------------------------------------------------------------------------------------------------
def _bytes(c: Comparison, pairs: Iterable[BytesPair], columns: tuple[str, ...]) -> Markup:
    pairs = list(pairs)
    if not pairs:
        return el("p", "None.")
    most = max(max(p.a, p.b) for p in pairs) or 1
    rows = [
        el(
            "tr",
            *(el("td", p.of if column == "value" else p.reason) for column in columns),
            el("td", _bar("a", p.a / most), _bar("b", p.b / most), class_="rs-two"),
            el("td", bytes_text(p.a), class_="rs-num", title=f"{p.a:,} bytes"),
            el("td", bytes_text(p.b), class_="rs-num", title=f"{p.b:,} bytes"),
            el("td", _change(p.a, p.b), class_="rs-num rs-soft"),
        )
        for p in pairs
    ]
    head = _heads(c, *columns, "", "a", "b", "change")
    return _folded(rows, TRANSFERS, "rows", lambda some: el("table", head, el("tbody", *some), class_="rs-wide"))


def _bar(side: str, share: float, tip: str | None = None) -> Markup:
    length = 100 * min(1.0, max(0.0, share))
    fill = el("i", style=f"width:{length:.2f}%", class_=f"rs-side-{side}") if length else None
    return el("span", fill, class_="rs-track", title=tip)


# -- machines ---------------------------------------------------------------------------------------------------------
_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("compute", "compute_s", seconds_text),
    ("memory", "memory_bytes", bytes_text),
    ("receives", "bytes_in", bytes_text),
    ("sends", "bytes_out", bytes_text),
)


def _machines(c: Comparison) -> Markup:
    known = [m for p in c.machines for m in (p.a, p.b) if m is not None]
    scales = {attr: max((getattr(m, attr) for m in known), default=0) or 1 for _, attr, _ in _COLUMNS}
    pairs = sorted(c.machines, key=lambda p: -_far(p, scales)) if len(c.machines) > MACHINES else list(c.machines)
    rows = [
        el(
            "tr",
            el("th", p.name, scope="row"),
            *(el("td", *_machine(p, attr, text, scales[attr])) for _, attr, text in _COLUMNS),
        )
        for p in pairs
    ]
    head = el("thead", el("tr", el("th", "machine"), *(el("th", title) for title, _, _ in _COLUMNS)))
    return _folded(rows, MACHINES, "machines", lambda some: el("table", head, el("tbody", *some), class_="rs-bars"))


def _far(pair: MachinePair, scales: dict[str, float]) -> float:
    """How different its loads are."""
    far = (abs(getattr(pair.a, attr, 0) - getattr(pair.b, attr, 0)) / scale for attr, scale in scales.items())
    return float(sum(far))


def _machine(pair: MachinePair, attr: str, text: Callable[[float], str], scale: float) -> Iterable[Markup]:
    sides: Iterable[tuple[str, MachinePrediction | None]] = (("a", pair.a), ("b", pair.b))
    for side, load in sides:
        if load is None:
            yield el("div", el("span", class_="rs-track"), el("b", "–"), class_="rs-bar")
        else:
            value = getattr(load, attr)
            yield el(
                "div",
                _bar(side, value / scale),
                el("b", text(value)),
                class_="rs-bar",
                title=percent_text(value / scale),
            )


# -- pictures ---------------------------------------------------------------------------------------------------------
def _pictures(c: Comparison) -> Iterable[Markup]:
    for side, name, view in zip("ab", c.names, c.views, strict=True):
        colour = dict(zip(view.plan.machines, colours(len(view.plan.machines)), strict=True))
        picture = el("div", plan_picture(afar(view).view, colour, clickable=False), class_="rs-scroll", tabindex=0)
        yield el("div", el("h3", _chip(side), name), legend(colour), picture)


def _folded(rows: list[Markup], most: int, what: str, table: Callable[[list[Markup]], Markup]) -> Markup:
    """A table of the first rows, and the others to be unfolded."""
    if len(rows) <= most:
        return table(rows)
    rest: list[Child] = [el("summary", f"{len(rows) - most:,} more {what}"), table(rows[most : most + FOLDED])]
    if len(rows) > most + FOLDED:
        rest.append(el("p", f"and {len(rows) - most - FOLDED:,} more", class_="rs-soft"))
    return join(table(rows[:most]), el("details", *rest))
