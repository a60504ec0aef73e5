"""Two plans side by side as text for a terminal: the same numbers as the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.console import Group, RenderableType
from rich.text import Text

from rainshed.engine.measured import ratio_of
from rainshed.engine.view.comparison import BytesPair, Comparison, LayerPair, LayerSide, MachinePair
from rainshed.engine.view.terminal import columns_table, heading, name_text, rendered
from rainshed.engine.view.units import bytes_text, change_text, plural, printable, seconds_text, shortened

LAYERS, TRANSFERS, MACHINES = 16, 10, 8
BETTER, WORSE = "green", "red"


def comparison_text(c: Comparison, width: int, colour: bool) -> str:
    """The comparison as lines of at most `width` characters."""
    a, b = (shortened(printable(name), 24) for name in c.names)
    parts: list[RenderableType] = [Text(f"{a} beside {b}", "bold"), _figures(c, a, b)]
    if c.same:
        parts.append(Text("They are the same plan."))
    parts.append(_differing(c, a, b))
    parts.append(_layers(c, a, b))
    if c.reasons:
        parts.append(_bytes("Why bytes cross", c.reasons, a, b))
    transfers = [t for t in c.transfers if t.a != t.b]
    if transfers:
        parts.append(_bytes("Transfers that differ most", transfers[:TRANSFERS], a, b))
    parts.append(_machines(c, a, b))
    return rendered(Group(*parts), width, colour)


def _change(a: float | None, b: float | None, *, less_is_better: bool = True) -> Text:
    ratio = ratio_of(a, b)
    if ratio is None:
        return Text("")
    if a == b:
        return Text("same", "dim")
    style = (BETTER if (ratio < 1) == less_is_better else WORSE) if abs(ratio - 1) > 0.005 else "dim"
    return Text(change_text(ratio), style)


def _figures(c: Comparison, a: str, b: str) -> RenderableType:
    table = columns_table("", a, b, "change", numbers=(a, b, "change"))
    for f in c.figures:
        if f.a is not None or f.b is not None:
            cells = ("-" if x is None else f.text(x) for x in (f.a, f.b))
            change = _change(f.a, f.b)
            table.add_row(Text(f.name, "dim"), *cells, change if f.name != "machines" else Text(change.plain, "dim"))
    return table


def _differing(c: Comparison, a: str, b: str) -> RenderableType:
    if not c.differing:
        return Group(heading("What they were made for"), Text("the same graph, cluster and search", "dim"))
    table = columns_table("", a, b)
    for d in c.differing:
        table.add_row(Text(printable(d.what), "dim"), Text(printable(d.a)), Text(printable(d.b)))
    return Group(heading("What they were made for"), table)


def _layers(c: Comparison, a: str, b: str) -> RenderableType:
    table = columns_table(
        "layer", f"cut {a}", f"cut {b}", "slowest", "", "arrives", " ", numbers=("slowest", "", "arrives", " ")
    )
    for pair in c.layers[:LAYERS]:
        table.add_row(*_layer(pair))
    recut = sum(p.recut for p in c.layers)
    told = f"{plural(recut, 'layer')} cut differently (*), of {len(c.layers)}; numbers are of {a}, then of {b}"
    parts: list[RenderableType] = [heading("Layers, biggest differences first"), Text(told, "dim"), table]
    if len(c.layers) > LAYERS:
        parts.append(Text(f"and {len(c.layers) - LAYERS} more, which differ less", "dim"))
    return Group(*parts)


def _layer(pair: LayerPair) -> Iterable[Text]:
    yield name_text(("* " if pair.recut else "  ") + pair.name)
    yield from (_grid(side) for side in (pair.a, pair.b))
    yield from _two(pair.a, pair.b, lambda side: side.slowest_s, seconds_text)
    yield from _two(pair.a, pair.b, lambda side: side.nbytes, bytes_text)


def _grid(side: LayerSide | None) -> Text:
    if side is None:
        return Text("not in it", "dim")
    return Text(f"{side.grid} on {side.machines}" if side.grid else "")


def _two(
    a: LayerSide | None, b: LayerSide | None, of: Callable[[LayerSide], float], text: Callable[[float], str]
) -> Iterable[Text]:
    yield Text(text(of(a)) if a else "-")
    if b is None:
        yield Text("-")
        return
    change = _change(of(a), of(b)) if a else Text("")
    yield Text(text(of(b)), change.style)


def _bytes(title: str, pairs: Iterable[BytesPair], a: str, b: str) -> RenderableType:
    pairs = list(pairs)
    named = any(p.of for p in pairs)
    first = ("value", "reason") if named else ("reason",)
    table = columns_table(*first, a, b, "change", numbers=(a, b, "change"))
    for p in pairs:
        cells = (name_text(p.of), Text(printable(p.reason))) if named else (Text(printable(p.reason)),)
        table.add_row(*cells, bytes_text(p.a), bytes_text(p.b), _change(p.a, p.b))
    return Group(heading(title), table)


def _machines(c: Comparison, a: str, b: str) -> RenderableType:
    columns = (
        ("compute", "compute_s", seconds_text),
        ("memory", "memory_bytes", bytes_text),
        ("receives", "bytes_in", bytes_text),
    )
    titles = [title for title, _, _ in columns]
    table = columns_table("machine", "plan", *titles, numbers=titles)
    pairs = sorted(c.machines, key=_busiest)[:MACHINES] if len(c.machines) > MACHINES else c.machines
    for pair in pairs:
        for first, name, load in ((True, a, pair.a), (False, b, pair.b)):
            cells = [text(getattr(load, attr)) if load is not None else "-" for _, attr, text in columns]
            table.add_row(name_text(pair.name) if first else Text(""), Text(name, "dim"), *cells)
    parts: list[RenderableType] = [heading("Machines"), table]
    if len(pairs) < len(c.machines):
        parts.append(Text(f"and {len(c.machines) - len(pairs)} more, with less to compute", "dim"))
    return Group(*parts)


def _busiest(pair: MachinePair) -> float:
    return -max(load.compute_s for load in (pair.a, pair.b) if load is not None)
