"""A machine beside the other as a strip of cells: pale where it has less than its share of the work, orange where more."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rainshed.engine.view.markup import Markup, el, join, void
from rainshed.engine.view.units import percent_text

MANY = 16  # machines: from more on, strips stand in for bars of a colour each
EVEN = 1.1  # up to here a share counts as even
STEPS = 5  # of blue, up to the even share
OVER = (1.25, 1.5, 2.0)  # of orange, above it


def level(share: float) -> str:
    """The class of a cell: "" if idle, s1 to s5 up to an even share, o1 to o4 above."""
    if share <= 0:
        return ""
    if share <= EVEN:
        return f"s{min(STEPS, max(1, round(STEPS * share)))}"
    return f"o{1 + sum(share > limit for limit in OVER)}"


def strip(shares: Sequence[float], **attrs: str | int | float | None) -> Markup:
    """The cells as an <svg>, neighbours of one colour together. The page's script tells the machine under the pointer."""
    paths: dict[str, list[str]] = {}
    x = 0
    for found, group in groupby(shares, key=level):
        width = sum(1 for _ in group)
        if found:
            paths.setdefault(found, []).append(f"M{x} 0h{width}v1h-{width}z")
        x += width
    return el(
        "svg",
        *(void("path", d="".join(ways), class_=f"rs-{name}") for name, ways in sorted(paths.items())),
        class_="rs-strip",
        viewBox=f"0 0 {len(shares)} 1",
        preserveAspectRatio="none",
        **attrs,
    )


def shares_attr(shares: Sequence[float]) -> str:
    """The shares in percent of an even one, for the page's script."""
    return " ".join(str(round(100 * share)) for share in shares)


def strip_tip(shares: Sequence[float], names: Sequence[str]) -> str:
    """Who has most and least."""
    working = [(share, name) for share, name in zip(shares, names, strict=True) if share > 0]
    if not working:
        return "nobody works"
    (most, busiest), (least, calmest) = max(working), min(working)
    return (
        f"{len(working)} of {len(names)} machines; most on {busiest}: {percent_text(most)} of an even share, "
        f"least on {calmest}: {percent_text(least)}"
    )


def key() -> Markup:
    """What the colours mean."""
    samples = (
        ("", "idle"),
        ("s2", "less than its share"),
        ("s5", "an even share"),
        ("o1", "more"),
        ("o4", "over twice"),
    )
    cells = (el("span", el("i", class_=f"rs-cell rs-{name}" if name else "rs-cell"), text) for name, text in samples)
    return el("div", join(*cells), class_="rs-legend")
