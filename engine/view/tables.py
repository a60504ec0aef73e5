"""The tables of the page: bytes from machine to machine, the load of each machine, the biggest transfers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from rainshed.compiler.explain import BIG_SHARE, worth_listing
from rainshed.engine.measured import Measured, busy_of
from rainshed.engine.view.markup import Markup, el, join
from rainshed.engine.view.model import Flow, PlanView
from rainshed.engine.view.strips import MANY
from rainshed.engine.view.units import bytes_text, count_text, percent_text, plural, ratio_text, scaled, seconds_text

NUMBERED = 12  # up to so many machines the matrix has numbers in its cells
BUSIEST = 8
LISTED = 300  # transfers below the threshold that can be unfolded
GATHERED = 12  # names in a sentence
_HEATS = 10


def matrix(view: PlanView, colour: Mapping[str, str]) -> Markup:
    """Machine x machine: payload bytes per step, rows send, columns receive."""
    names, between = view.plan.machines, view.plan.bytes_between
    most = max(between.values(), default=0)
    small = len(names) > NUMBERED
    head = [el("th", _chip(colour[m]), el("span", m), title=m) for m in names]
    rows = []
    for a in names:
        cells = [_cell(a, b, between.get((a, b), 0), most, small) for b in names]
        out = sum(between.get((a, b), 0) for b in names)
        name = el("th", _chip(colour[a]), el("span", a), title=f"{a} sends", scope="row")
        rows.append(el("tr", name, *cells, _total(out)))
    into = [_total(sum(between.get((a, b), 0) for a in names), small) for b in names]
    corner = el("th", "from \\ to", class_="rs-soft")
    return el(
        "table",
        el("thead", el("tr", corner, *head, el("th", "sends", class_="rs-num"))),
        el("tbody", *rows),
        el("tfoot", el("tr", el("th", "receives", scope="row"), *into, _total(sum(between.values())))),
        class_="rs-matrix rs-small" if small else "rs-matrix",
    )


def _cell(a: str, b: str, nbytes: int, most: int, small: bool) -> Markup:
    if a == b or not nbytes:
        return el("td", class_="rs-self" if a == b else None)
    heat = max(1, round(_HEATS * math.sqrt(nbytes / most)))
    tip = f"{a} → {b}: {nbytes:,} bytes"
    return el("td", None if small else bytes_text(nbytes), class_=f"rs-h{heat}", title=tip)


def _total(nbytes: int, small: bool = False) -> Markup:
    return el("td", "" if small else bytes_text(nbytes), class_="rs-total", title=f"{nbytes:,} bytes")


def _chip(colour: str) -> Markup:
    return el("i", class_="rs-chip", style=f"background:{colour}")


_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("compute", "compute_s", seconds_text),
    ("memory", "memory_bytes", bytes_text),
    ("receives", "bytes_in", bytes_text),
    ("sends", "bytes_out", bytes_text),
)


def machines(view: PlanView, colour: Mapping[str, str], measured: Measured | None) -> Markup:
    """For each machine, bars of time, memory and traffic; what a run showed stands below what was predicted."""
    names, predicted = list(view.plan.machines), view.plan.prediction.machines
    known = (*predicted.values(), *(measured.machines.values() if measured else ()))
    scales = {key: max((getattr(row, key) or 0 for row in known), default=0) for _, key, _ in _COLUMNS}
    rows = {m: _machine_row(m, view, colour[m], measured, scales) for m in names}
    head = el("thead", el("tr", el("th", "machine"), *(el("th", title) for title, _, _ in _COLUMNS)))
    if len(names) <= MANY:
        return el("table", head, el("tbody", *rows.values()), class_="rs-bars")
    busy = sorted(names, key=lambda m: -predicted[m].compute_s if m in predicted else 0.0)[:BUSIEST]
    return join(
        el("p", f"The {BUSIEST} machines with most to compute", class_="rs-soft"),
        el("table", head, el("tbody", *(rows[m] for m in busy)), class_="rs-bars"),
        el(
            "details",
            el("summary", f"All {len(names)} machines"),
            el("table", head, el("tbody", *rows.values()), class_="rs-bars"),
        ),
    )


def _machine_row(
    name: str, view: PlanView, colour: str, measured: Measured | None, scales: Mapping[str, float]
) -> Markup:
    mine = view.plan.prediction.machines.get(name)
    seen = measured.of(name) if measured else None
    cells = []
    busy = busy_of(view.plan, measured, name)
    for _, key, text in _COLUMNS:
        value, found = getattr(mine, key, None), getattr(seen, key, None)
        has = view.memory.get(name) if key == "memory_bytes" else None
        scale = has or scales.get(key) or 1
        bars = []
        if value is not None:
            after = _busy(busy[0]) if key == "compute_s" else f"of {bytes_text(has)}" if has else ""
            bars.append(_bar(value / scale, text(value), colour, after))
        if found is not None:
            after = _busy(busy[1]) if key == "compute_s" else ""
            bars.append(_bar(found / scale, text(found), colour, after, seen=True))
        cells.append(el("td", *bars))
    return el("tr", el("th", _chip(colour), name, scope="row"), *cells)


def _busy(share: float | None) -> str:
    return "" if share is None else f"{percent_text(share)} busy"


def beside(view: PlanView, measured: Measured) -> Markup:
    """The figures of a step: predicted, measured, and the second over the first."""
    p, plan = view.plan.prediction, view.plan
    busy = [busy_of(plan, measured, m) for m in plan.machines]
    expected, seen = _mean(a for a, _ in busy), _mean(b for _, b in busy)
    facts: Iterable[tuple[str, float | None, float | None, Callable[[float], str]]] = (
        ("step", p.step_s, measured.step_s, seconds_text),
        ("sent", p.bytes, measured.bytes, bytes_text),
        ("messages", p.messages, measured.messages, count_text),
        ("busy, mean of machines", expected, seen, percent_text),
    )
    rows = [
        el(
            "tr",
            el("th", name, scope="row"),
            el("td", "–" if a is None else text(a), class_="rs-num"),
            el("td", text(b), class_="rs-num"),
            el("td", ratio_text(b / a) if a else "", class_="rs-num rs-soft"),
        )
        for name, a, b, text in facts
        if b is not None
    ]
    titles = ("", "predicted", "measured", "ratio")
    head = el("thead", el("tr", *(el("th", t, class_="rs-num" if t else None) for t in titles)))
    return el("table", head, el("tbody", *rows), class_="rs-figures")


def _mean(shares: Iterable[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def _bar(share: float, text: str, colour: str, after: str = "", *, seen: bool = False) -> Markup:
    """A bar with its number; hatched if it was `seen` in a run rather than predicted."""
    length = 100 * min(1.0, max(0.0, share))
    fill = f"width:{length:.2f}%;" + (f"--rs-colour:{colour}" if seen else f"background:{colour}")
    return el(
        "div",
        el("span", el("i", style=fill, class_="rs-seen" if seen else None) if length else None, class_="rs-track"),
        el("b", text),
        el("small", after),
        class_="rs-bar",
        title=f"{text} {'measured' if seen else 'predicted'}",
    )


_REASONS: Mapping[str, str] = {
    "partial sum": "a sum whose parts several machines have computed",
    "weight": "a part of a variable, to a machine that reads but does not own it",
    "halo or part": "the region that a tile reads beyond what its machine has",
    "gradient part": "the same of a gradient",
    "activation": "a tile that another machine reads whole",
    "gradient": "the same of a gradient",
}


def reasons(view: PlanView) -> Markup:
    """Why bytes cross: the share of each reason."""
    total = sum(view.reasons.values())
    rows = [
        el(
            "tr",
            el("th", reason, scope="row", title=_REASONS.get(reason)),
            el("td", el("span", el("i", style=f"width:{100 * nbytes / total:.2f}%"), class_="rs-track")),
            el("td", bytes_text(nbytes), class_="rs-num", title=f"{nbytes:,} bytes"),
            el("td", percent_text(nbytes / total), class_="rs-num rs-soft"),
        )
        for reason, nbytes in view.reasons.items()
        if total
    ]
    return el("table", el("tbody", *rows), class_="rs-reasons")


def transfers(flows: Sequence[Flow]) -> Markup:
    """What crosses, the transfers of one value for one reason in one row. All rows that are worth it are shown; the others can
    be unfolded."""
    total = sum(f.nbytes for f in flows)
    listed, least = worth_listing({i: f.nbytes for i, f in enumerate(flows)}, total)
    big, small = ([f for i, f in enumerate(flows) if (i in listed) == shown] for shown in (True, False))
    held = percent_text(sum(f.nbytes for f in big) / total) if total else "nothing"
    told = (
        f"All rows of {bytes_text(least)} and more, {percent_text(BIG_SHARE)} of the bytes of a step: {held} of them."
    )
    rest = bytes_text(sum(f.nbytes for f in small))
    left = small[LISTED:]
    more = f"and {plural(len(left), 'row')} of {bytes_text(sum(f.nbytes for f in left))} in all"
    return join(
        el("p", told, class_="rs-soft rs-lead"),
        _flow_rows(big, flows[0].nbytes),
        el(
            "details",
            el("summary", f"{plural(len(small), 'smaller row')} with {rest}"),
            _flow_rows(small[:LISTED], flows[0].nbytes),
            el("p", more, class_="rs-soft") if left else None,
        )
        if small
        else None,
    )


def _flow_rows(flows: Iterable[Flow], most: int) -> Markup:
    rows = [
        el(
            "tr",
            el("td", f.of),
            el("td", f.reason, title=_REASONS.get(f.reason)),
            el("td", _way(f)),
            el("td", "backward" if f.backward else "forward", class_="rs-bwd" if f.backward else None),
            el("td", f"{f.messages:,}", class_="rs-num"),
            el("td", _largest(f), class_="rs-soft"),
            el("td", el("span", el("i", style=f"width:{100 * f.nbytes / most:.2f}%"), class_="rs-track")),
            el("td", bytes_text(f.nbytes), class_="rs-num", title=f"{f.nbytes:,} bytes"),
        )
        for f in flows
    ]
    heads = ("value", "reason", "layers", "pass", "messages", "the largest", "", "bytes")
    head = el("tr", *(el("th", h, class_="rs-num" if h in ("messages", "bytes") else None) for h in heads))
    return el("table", el("thead", head), el("tbody", *rows), class_="rs-wide")


def gathered(names: Sequence[str]) -> Markup | None:
    """A sentence on what goes whole to several machines."""
    if not names:
        return None
    some = ", ".join(names[:GATHERED]) + (f" and {len(names) - GATHERED} more" if len(names) > GATHERED else "")
    return el("p", f"Goes whole to several machines, whose ops there need all of it: {some}.", class_="rs-lead")


def _way(flow: Flow) -> str:
    return flow.source.name if flow.source == flow.target else f"{flow.source.name} → {flow.target.name}"


def _largest(flow: Flow) -> str:
    t = flow.largest
    return f"{scaled(t.nbytes, 'B')}, {t.source} → {t.to}"
