"""Boxes and arrows as SVG: what the pictures of plans and of graphs share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rainshed.engine.view.layout import Drawing, Point, Spacing, layered, nondecreasing
from rainshed.engine.view.markup import Markup, el, join, void
from rainshed.engine.view.strips import strip
from rainshed.engine.view.units import cut, shortened

BOX_WIDTH, BOX_HEIGHT, PILL_HEIGHT = 288.0, 66.0, 28.0
BAR_HEIGHT, PAD, LANE, MARGIN = 9.0, 14.0, 15.0, 40.0
WIDE_LANE = 92.0
THIN, THICK = 1.4, 7.0


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a stacked bar."""

    colour: str
    share: float
    tip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A layer (with a bar under its name), or a pill: an input or output."""

    name: str
    pill: bool = False
    right: str = ""
    note: str = ""
    alarm: str = ""  # bytes that cross inside
    bar: tuple[Part, ...] = ()
    strip: tuple[float, ...] = ()  # instead of the bar: the share of each machine
    tip: str = ""
    key: str | None = None

    @property
    def size(self) -> tuple[float, float]:
        if not self.pill:
            return BOX_WIDTH, BOX_HEIGHT if self.bar or self.strip else BOX_HEIGHT - 18
        return min(BOX_WIDTH, 7.4 * len(self.name) + 6.3 * len(self.note) + 3 * PAD), PILL_HEIGHT


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """`weight` 0 draws a thin line: nothing crosses; above that, up to 1, a thick one."""

    source: int
    target: int
    backward: bool = False
    weight: float = 0.0
    label: str = ""
    below: str = ""
    tip: str = ""
    key: str | None = None


def draw(boxes: Sequence[Box], arrows: Sequence[Arrow], name: str) -> Markup:
    """The picture, as one <svg>. `name` is what a screen reader says of it."""
    pair_of = _pairs(arrows)
    pairs = list(dict.fromkeys(pair_of))
    forks = len({a for a, b in pairs if not boxes[b].pill}) < sum(not boxes[b].pill for _, b in pairs)
    wide = Spacing(rank_gap=76.0 if forks else 58.0, node_gap=96.0, lane=84.0)
    pulls = [0.001 if boxes[a].pill or boxes[b].pill else 1.0 for a, b in pairs]
    drawing = layered([b.size for b in boxes], pairs, wide, pulls)
    routes = dict(zip(pairs, _ported(drawing, pairs, boxes), strict=True))
    lines, labels = [], []
    together = zip(arrows, _lanes(arrows), pair_of, strict=True)
    for arrow, lane, pair in sorted(together, key=lambda item: -item[0].weight):
        points = routes[pair] if (arrow.source, arrow.target) == pair else routes[pair][::-1]
        shape, label = _arrow(arrow, tuple((x + lane, y) for x, y in points), lane)
        lines.append(shape)
        labels.append(label)
    shapes = [_box(b, centre) for b, centre in zip(boxes, drawing.centres, strict=True)]
    width, height = drawing.width + 2 * MARGIN, drawing.height + 4
    return el(
        "svg",
        el("g", *lines),
        *shapes,
        el("g", *labels),
        class_="rs-graph",
        viewBox=f"{-MARGIN:.0f} -2 {width:.0f} {height:.0f}",
        width=round(width),
        style=f"max-width:100%;height:auto;min-width:{min(width, max(560, 0.75 * width)):.0f}px",
        role="img",
        aria_label=name,
    )


def _pairs(arrows: Sequence[Arrow]) -> list[tuple[int, int]]:
    """The pair of boxes whose route each arrow takes; there and back share one, which follows the forward arrow."""
    forward = {(a.source, a.target) for a in arrows if not a.backward}
    return [
        (a.source, a.target) if not a.backward or (a.source, a.target) in forward else (a.target, a.source)
        for a in arrows
    ]


def _lanes(arrows: Sequence[Arrow]) -> list[float]:
    """How far beside its route each arrow runs: alone on it, forward to the left and backward to the right."""
    sharing: dict[tuple[int, int], list[int]] = {}
    for i, arrow in enumerate(arrows):
        sharing.setdefault((min(arrow.source, arrow.target), max(arrow.source, arrow.target)), []).append(i)
    lanes = [0.0] * len(arrows)
    for group in sharing.values():
        group.sort(key=lambda i: arrows[i].backward)
        step = 2 * LANE if len(group) < 3 else WIDE_LANE  # between three, a label stands
        for place, i in enumerate(group):
            lanes[i] = (place - (len(group) - 1) / 2) * step
    return lanes


def _ported(drawing: Drawing, pairs: Sequence[tuple[int, int]], boxes: Sequence[Box]) -> list[tuple[Point, ...]]:
    """The routes, each leaving its box as near as it can to straight above or below where it leads."""
    routes = [list(route) for route in drawing.routes]
    for node, box in enumerate(boxes):
        for end, other in ((0, 1), (-1, -2)):
            here = [i for i, pair in enumerate(pairs) if pair[end] == node and routes[i]]
            below = [i for i in here if routes[i][other][1] > drawing.centres[node][1]]
            for side in (below, [i for i in here if i not in below]):
                side.sort(key=lambda i: drawing.routes[i][other][0])
                wishes = [drawing.routes[i][other][0] for i in side]
                for i, x in zip(side, _ports(wishes, drawing.centres[node][0], box.size[0]), strict=True):
                    routes[i][end] = (x, routes[i][end][1])
    return [tuple(route) for route in routes]


def _ports(wishes: Sequence[float], centre: float, width: float) -> list[float]:
    """Places on one side of a box, in order and apart, each near its wish. Only one: the middle."""
    half = width / 2 - PAD - LANE
    if len(wishes) <= 1 or half <= 0:
        return [centre] * len(wishes)
    wishes = [centre if abs(w - centre) < 8 else w for w in wishes]
    step = min(4 * LANE, 2 * half / (len(wishes) - 1))
    pull = [100.0 if w == centre else 1.0 for w in wishes]
    base = nondecreasing([min(half, max(-half, w - centre)) - i * step for i, w in enumerate(wishes)], pull)
    last = half - step * (len(wishes) - 1)
    return [centre + min(last, max(-half, b)) + i * step for i, b in enumerate(base)]


def _arrow(arrow: Arrow, points: tuple[Point, ...], lane: float) -> tuple[Markup, Markup]:
    """The line with its head, and its label."""
    kind = f"rs-{'bwd' if arrow.backward else 'fwd'} rs-{'cut' if arrow.weight else 'local'}"
    if not points:  # from a box to itself
        return Markup(""), Markup("")
    width = THIN if not arrow.weight else 2.0 + (THICK - 2.0) * arrow.weight
    half = 3.4 if not arrow.weight else 2.6 + 0.85 * width
    (x, y), down = points[-1], 1.0 if points[-1][1] >= points[-2][1] else -1.0
    stem = (*points[:-1], (x, y - down * half * 1.4))
    head = f"{x:.1f},{y:.1f} {x - half:.1f},{y - down * 1.7 * half:.1f} {x + half:.1f},{y - down * 1.7 * half:.1f}"
    shape = el(
        "g",
        el("title", arrow.tip),
        void("path", d=_path(stem), class_="rs-hit") if arrow.key else None,
        void("path", d=_path(stem), stroke_width=width, class_="rs-line"),
        void("polygon", points=head, class_="rs-head"),
        **_handle(f"rs-arrow {kind}", arrow.key),
    )
    (ax, ay), (bx, by) = (points[0], points[1]) if points[0][1] < points[-1][1] else (points[-2], points[-1])
    side = -1.0 if lane < 0 else 1.0
    slope = 2 * abs(bx - ax) / max(1.0, abs(by - ay))
    at = (ax + bx) / 2 + side * (width / 2 + 8 + min(46.0, 14 * slope))
    anchor = "end" if side < 0 else "start"
    middle = (ay + by) / 2 + (4.0 if not arrow.below else -3.0)
    texts = [el("text", arrow.label, x=at, y=middle, text_anchor=anchor)]
    if arrow.below:
        texts.append(el("text", arrow.below, x=at, y=middle + 14, text_anchor=anchor, class_="rs-soft"))
    return shape, el("g", *texts, class_=f"rs-label {kind}") if arrow.label else Markup("")


def _path(points: Sequence[Point]) -> str:
    """Through the points: straight where x stays, else an S with vertical ends."""
    (x, y), parts = points[0], []
    parts.append(f"M{x:.1f} {y:.1f}")
    for nx, ny in points[1:]:
        middle = (y + ny) / 2
        bend = f"C{x:.1f} {middle:.1f} {nx:.1f} {middle:.1f} {nx:.1f} {ny:.1f}"
        parts.append(f"V{ny:.1f}" if abs(nx - x) < 0.05 else bend)
        x, y = nx, ny
    return "".join(parts)


def _handle(kind: str, key: str | None) -> dict[str, str | int | float | None]:
    """Attributes of what can be clicked: the page's script shows the details named by data-key."""
    if key is None:
        return {"class_": kind}
    return {"class_": kind, "data_key": key, "tabindex": 0, "role": "button"}


def _box(box: Box, centre: Point) -> Markup:
    width, height = box.size
    left, top = centre[0] - width / 2, centre[1] - height / 2
    round_ = height / 2 if box.pill else 7.0
    frame = void("rect", x=left, y=top, width=width, height=height, rx=round_, class_="rs-frame")
    if box.pill:
        room = int((BOX_WIDTH - 3 * PAD - 6.3 * len(box.note)) / 7.4)
        name = el("tspan", shortened(box.name, max(8, room)), class_="rs-name")
        note = el("tspan", box.note, dx=8, class_="rs-soft") if box.note else None
        text = el("text", name, note, x=centre[0], y=centre[1] + 4, text_anchor="middle")
        return el("g", el("title", box.tip), frame, text, **_handle("rs-box rs-pill", box.key))
    room = int((width - 3 * PAD - 6.3 * len(box.right)) / 7.4)
    under = top + height - 11
    note_room = int((width - 2 * PAD - (6.3 * len(box.alarm) + 12 if box.alarm else 0)) / 6.2)
    end: dict[str, str | int | float | None] = {"x": left + width - PAD, "text_anchor": "end"}
    texts = (
        el("text", shortened(box.name, room), x=left + PAD, y=top + 21, class_="rs-name"),
        el("text", box.right, y=top + 21, class_="rs-soft", **end),
        el("text", cut(box.note, note_room), x=left + PAD, y=under, class_="rs-soft"),
        el("text", box.alarm, y=under, class_="rs-alarm", **end) if box.alarm else None,
    )
    bar = _bar(box.bar, left + PAD, top + 30, width - 2 * PAD) if box.bar else None
    if box.strip:
        bar = strip(box.strip, x=left + PAD, y=top + 30, width=width - 2 * PAD, height=BAR_HEIGHT)
    return el("g", el("title", box.tip), frame, *texts, bar, **_handle("rs-box", box.key))


def _bar(parts: Sequence[Part], x: float, y: float, width: float) -> Markup:
    gap = 1.0 if len(parts) <= 16 else 0.0
    shapes = []
    for part in parts:
        length = part.share * width
        if length <= 0:
            continue
        drawn = max(0.4, length - gap)
        shapes.append(
            el(
                "rect",
                el("title", part.tip),
                x=f"{x:.2f}",
                y=y,
                width=f"{drawn:.2f}",
                height=BAR_HEIGHT,
                fill=part.colour,
            )
        )
        x += length
    return el("g", *shapes)


def without_keys(boxes: Sequence[Box], arrows: Sequence[Arrow]) -> tuple[list[Box], list[Arrow]]:
    """The same, nothing in it to be clicked: for places without scripts."""
    return [replace(b, key=None) for b in boxes], [replace(a, key=None) for a in arrows]


def stacked(parts: Sequence[Part]) -> Markup:
    """A stacked bar in HTML."""
    pieces = (
        el("i", title=p.tip, style=f"width:{100 * p.share:.3f}%;background:{p.colour}") for p in parts if p.share > 0
    )
    return el("div", join(*pieces), class_="rs-stack")
