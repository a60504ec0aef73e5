"""A plan as text for a terminal: the same numbers as the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rainshed.compiler.plan import Plan
from rainshed.engine.measured import Measured
from rainshed.engine.view.collapse import afar
from rainshed.engine.view.model import Layer, PlanView, view_of
from rainshed.engine.view.picture import op_summary, shown_edges
from rainshed.engine.view.terminal import coloured, columns_table, heading, name_text, rendered
from rainshed.engine.view.units import (
    bytes_text,
    colours,
    count_text,
    cut,
    flops_text,
    plural,
    printable,
    seconds_text,
    shortened,
)

SYMBOLS = "0123456789abcdefghijklmnopqrstuvwxyz"  # stand for machines where there is no colour
MATRIX, PAIRS, BUSIEST, TRANSFERS, BAR = 10, 10, 8, 10, 20
FORWARD, BACKWARD = "#2f6fde", "#c2662d"


def plan_text(plan: Plan, width: int = 100, *, measured: Measured | None = None, colour: bool | None = None) -> str:
    """The plan as lines of at most `width` characters.

    measured  what a run showed, per step
    colour    None: colours if stdout is a terminal and NO_COLOR is not set
    """
    colour = coloured(colour)
    view = view_of(plan)
    far = afar(view).view
    shades = dict(zip(plan.machines, colours(len(plan.machines)), strict=True))
    parts: list[RenderableType] = [_headline(view, measured), _layers(far, shades, colour)]
    if plan.transfers:
        parts += [_edges(far), _matrix(view) if len(plan.machines) <= MATRIX else _pairs(view)]
    parts.append(_machines(view, shades, measured))
    if plan.transfers:
        parts.append(_transfers(view))
    if plan.notes:
        parts.append(_notes(plan))
    return rendered(Group(*parts), width, colour)


def _headline(view: PlanView, measured: Measured | None) -> RenderableType:
    p, plan = view.plan.prediction, view.plan
    table = Table(box=None, pad_edge=False, padding=(0, 2), show_header=False)
    bound = f"{p.step_s / p.lower_bound_s:.2f} x its lower bound" if p.lower_bound_s > 0 else ""
    table.add_row(Text("predicted step", "dim"), Text(seconds_text(p.step_s), "bold"), bound)
    if measured is not None and measured.step_s is not None:
        change = f"{100 * (measured.step_s / p.step_s - 1):+.0f} % against predicted" if p.step_s > 0 else ""
        table.add_row(Text("measured step", "dim"), Text(seconds_text(measured.step_s), "bold"), change)
    table.add_row(Text("lower bound", "dim"), seconds_text(p.lower_bound_s), "")
    messages = f"{p.bytes:,} bytes in {plural(p.messages, 'message')}"
    table.add_row(Text("sent per step", "dim"), Text(bytes_text(p.bytes), "bold"), messages)
    table.add_row(Text("parameters", "dim"), count_text(view.parameters), "")
    batch = f", batch {plan.batch}" if plan.batch else ""
    return Group(Text(f"Plan for {plural(len(plan.machines), 'machine')}{batch}", "bold"), table)


def _layers(view: PlanView, shades: Mapping[str, str], colour: bool) -> RenderableType:
    table = columns_table(
        "layer", "machines", "compute", "crosses inside", "ops", numbers=("compute", "crosses inside")
    )
    for layer in view.layers:
        if layer.place.kind == "layer":
            flops = sum(layer.flops.values())
            table.add_row(
                name_text(layer.place.name),
                _share_bar(layer, shades, colour),
                flops_text(flops) if flops else "",
                bytes_text(layer.crossing) if layer.crossing else "",
                Text(cut(printable(op_summary(layer)), 40), "dim"),
            )
    return Group(heading("Layers"), _legend(shades, colour), table)


def _legend(shades: Mapping[str, str], colour: bool) -> Text:
    legend = Text()
    if len(shades) > BAR:
        return Text("how many machines work on a layer, and the least and the largest share of one", "dim")
    for i, (machine, shade) in enumerate(shades.items()):
        legend.append("██" if colour else f"{SYMBOLS[i]} =", shade if colour else "")
        legend.append(f" {printable(machine)}   ")
    return legend


def _share_bar(layer: Layer, shades: Mapping[str, str], colour: bool) -> Text:
    """The machines' shares in a layer's work as a bar, or as their range if they are too many for one."""
    total = sum(layer.load.values())
    if not total:
        return Text("")
    if len(shades) > BAR:
        shares = [amount / total for amount in layer.load.values() if amount]
        return Text(f"{len(shares)} with {100 * min(shares):.1f} to {100 * max(shares):.1f} %")
    bar, done, drawn = Text(), 0, 0
    for i, (machine, shade) in enumerate(shades.items()):
        done += layer.load.get(machine, 0)
        upto = round(BAR * done / total)
        bar.append(("█" if colour else SYMBOLS[i]) * (upto - drawn), shade if colour else "")
        drawn = upto
    return bar


def _edges(view: PlanView) -> RenderableType:
    table = columns_table("from", "to", "pass", "crosses", "of", "messages", numbers=("crosses", "of", "messages"))
    for _, e in shown_edges(view):
        if e.crossing:
            shade = BACKWARD if e.backward else FORWARD
            table.add_row(
                name_text(e.source.name),
                name_text(e.target.name),
                Text("backward" if e.backward else "forward", shade),
                Text(bytes_text(e.crossing), f"bold {shade}"),
                bytes_text(e.nbytes) if e.nbytes else "",
                f"{e.messages:,}",
            )
    return Group(heading("Between layers, across machines"), table)


def _matrix(view: PlanView) -> RenderableType:
    names, between = view.plan.machines, view.plan.bytes_between
    most = max(between.values(), default=0) or 1
    labels = [printable(m) for m in names]
    table = columns_table("from \\ to", *labels, "sends", numbers=(*labels, "sends"))
    for a in names:
        cells = [(between.get((a, b), 0), a == b) for b in names]
        texts = [Text("·" if own else bytes_text(n) if n else "", _heat(n / most)) for n, own in cells]
        table.add_row(name_text(a), *texts, Text(bytes_text(sum(n for n, _ in cells)), "dim"))
    into = [Text(bytes_text(sum(between.get((a, b), 0) for a in names)), "dim") for b in names]
    table.add_row(Text("receives", "dim"), *into, Text(bytes_text(sum(between.values())), "dim"))
    return Group(heading("Bytes per step between machines"), table)


def _heat(share: float) -> str:
    return f"bold {FORWARD}" if share > 0.5 else FORWARD if share > 0.05 else "dim"


def _pairs(view: PlanView) -> RenderableType:
    between = view.plan.bytes_between
    ordered = sorted(between.items(), key=lambda item: -item[1])
    table = columns_table("from", "to", "bytes", numbers=("bytes",))
    for (a, b), nbytes in ordered[:PAIRS]:
        table.add_row(name_text(a), name_text(b), bytes_text(nbytes))
    parts: list[RenderableType] = [heading("Bytes per step between machines: the busiest pairs"), table]
    if len(ordered) > PAIRS:
        rest = sum(n for _, n in ordered[PAIRS:])
        parts.append(Text(f"and {len(ordered) - PAIRS:,} more pairs with {bytes_text(rest)}", "dim"))
    return Group(*parts)


def _machines(view: PlanView, shades: Mapping[str, str], measured: Measured | None) -> RenderableType:
    predicted = view.plan.prediction.machines
    columns: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("compute", "compute_s", seconds_text),
        ("memory", "memory_bytes", bytes_text),
        ("receives", "bytes_in", bytes_text),
        ("sends", "bytes_out", bytes_text),
    )
    titles = [title for title, _, _ in columns]
    table = columns_table("machine", "", *titles, numbers=titles)
    names = sorted(predicted, key=lambda m: -predicted[m].compute_s)
    most = (predicted[names[0]].compute_s if names else 0) or 1
    shown = [m for m in view.plan.machines if m in predicted]
    if len(shown) > 2 * BUSIEST:
        shown = names[:BUSIEST]
    for m in shown:
        bar = Text("█" * math.ceil(BAR * predicted[m].compute_s / most), shades[m])
        cells = []
        for _, key, text in columns:
            cell = text(getattr(predicted[m], key))
            found = getattr(measured.of(m), key) if measured else None
            cells.append(cell if found is None else f"{cell}\n{text(found)} *")
        table.add_row(name_text(m), bar, *cells)
    parts: list[RenderableType] = [heading("Machines"), table]
    if measured:
        parts.append(Text("* measured", "dim"))
    if len(shown) < len(predicted):
        least = predicted[names[-1]].compute_s
        parts.append(Text(f"and {len(predicted) - len(shown)} more, down to {seconds_text(least)} of compute", "dim"))
    return Group(*parts)


def _transfers(view: PlanView) -> RenderableType:
    table = columns_table("value", "reason", "layers", "messages", "bytes", numbers=("messages", "bytes"))
    for f in view.flows[:TRANSFERS]:
        way = f.source.name if f.source == f.target else f"{f.source.name} -> {f.target.name}"
        reason = Text(printable(f.reason), BACKWARD if f.backward else "")
        table.add_row(
            name_text(f.of), reason, Text(shortened(printable(way), 40)), f"{f.messages:,}", bytes_text(f.nbytes)
        )
    return Group(heading("The biggest transfers"), table)


def _notes(plan: Plan) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2), show_header=False)
    for key, text in plan.notes.items():
        table.add_row(Text(printable(key), "dim"), Text(printable(text, lines=True)))
    return Group(heading("How the plan was found"), table)
