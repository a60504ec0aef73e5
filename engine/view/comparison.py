"""Two plans side by side, as data: figures, what they were made for, layers, transfers and machines, biggest differences first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rainshed.compiler.plan import MachinePrediction, Plan, Run
from rainshed.engine.measured import ratio_of
from rainshed.engine.view.model import Layer, PlanView, view_of
from rainshed.engine.view.units import bytes_text, count_text, ratio_text, scaled, seconds_text

NAMES = 8  # listed where things are only in one of the plans


class Figure(NamedTuple):
    """One number of both plans; None where a plan has none."""

    name: str
    a: float | None
    b: float | None
    text: Callable[[float], str]

    @property
    def ratio(self) -> float | None:
        """The second plan's over the first's."""
        return ratio_of(self.a, self.b)


class Differing(NamedTuple):
    """Something the plans were made for or with that is not the same."""

    what: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class LayerSide:
    """A layer in one of the plans. `cut` and `grid` are empty where nothing is computed; `nbytes` arrive for it in a step."""

    cut: str
    grid: str
    machines: int
    slowest_s: float
    balance: float | None
    nbytes: int
    shares: tuple[float, ...]  # of each machine of the plan, over an even one


@dataclass(frozen=True, slots=True)
class LayerPair:
    """A layer of both plans, or of one of them. `weight`: its difference in time and bytes, as shares of a step's."""

    name: str
    a: LayerSide | None
    b: LayerSide | None
    weight: float

    @property
    def recut(self) -> bool:
        """Whether it is in both, but cut into other tiles or spread over another number of machines."""
        if self.a is None or self.b is None:
            return False
        return (self.a.grid, self.a.machines) != (self.b.grid, self.b.machines)


class BytesPair(NamedTuple):
    """Bytes of a step that cross for a reason, and of which value; "" for all of them."""

    of: str
    reason: str
    a: int
    b: int


class MachinePair(NamedTuple):
    name: str
    a: MachinePrediction | None
    b: MachinePrediction | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that is shown. `differing`: of clusters, graphs and searches; the rest is what came of it."""

    names: tuple[str, str]
    views: tuple[PlanView, PlanView]
    figures: tuple[Figure, ...]
    differing: tuple[Differing, ...]
    layers: tuple[LayerPair, ...]
    reasons: tuple[BytesPair, ...]
    transfers: tuple[BytesPair, ...]
    machines: tuple[MachinePair, ...]

    @property
    def same(self) -> bool:
        return self.views[0].plan.hash == self.views[1].plan.hash


def comparison_of(a: Plan, b: Plan, names: tuple[str, str]) -> Comparison:
    """Everything that two plans have in common and not. Their clusters and graphs may be others; layers meet by name."""
    views = view_of(a), view_of(b)
    return Comparison(
        names=names,
        views=views,
        figures=_figures(*views),
        differing=tuple(_differing(*views)),
        layers=_layers(*views),
        reasons=_bytes(*views, lambda f: ("", f.reason)),
        transfers=_bytes(*views, lambda f: (f.of, f.reason)),
        machines=_machines(a, b),
    )


def _figures(a: PlanView, b: PlanView) -> tuple[Figure, ...]:
    def of(view: PlanView) -> dict[str, tuple[float | None, Callable[[float], str]]]:
        p, runs = view.plan.prediction, _tiles(view.plan)
        return {
            "predicted step": (p.step_s, seconds_text),
            "lower bound": (p.lower_bound_s, seconds_text),
            "sent per step": (p.bytes, bytes_text),
            "messages": (p.messages, lambda n: f"{n:,.0f}"),
            "phase balance": (view.balance, ratio_text),
            "most compute": (max((m.compute_s for m in p.machines.values()), default=None), seconds_text),
            "most memory": (max((m.memory_bytes for m in p.machines.values()), default=None), bytes_text),
            "kernel calls": (runs, lambda n: f"{n:,.0f}"),
            "machines": (len(view.plan.machines), lambda n: f"{n:,.0f}"),
        }

    first, second = of(a), of(b)
    return tuple(Figure(name, value, second[name][0], text) for name, (value, text) in first.items())


def _tiles(plan: Plan) -> int:
    return sum(isinstance(i, Run) for p in plan.programs for i in p.instructions)


# -- what they were made for ------------------------------------------------------------------------------------------
def _differing(a: PlanView, b: PlanView) -> Iterable[Differing]:
    facts = zip(_made_for(a), _made_for(b), strict=True)
    yield from (Differing(what, x, y) for (what, x), (_, y) in facts if x != y)
    yield from _only("machines", a.plan.machines, b.plan.machines)
    yield from _only("layers", _layer_names(a), _layer_names(b))
    mine, other = _variables(a), _variables(b)
    yield from _only("variables", mine, other)
    changed = [name for name in mine if name in other and mine[name] != other[name]]
    for name in changed[:NAMES]:
        yield Differing(f"variable {name}", mine[name], other[name])
    if len(changed) > NAMES:
        yield Differing("variables of another shape", f"{len(changed)} in all", "")


def _made_for(view: PlanView) -> Iterable[tuple[str, str]]:
    plan = view.plan
    rows = plan.cluster.get("machine", ())
    link = plan.cluster.get("link", {})
    yield "number of machines", str(len(plan.machines))
    yield "speed of all machines", scaled(sum(view.speeds.values()), "flop/s")
    yield "cores of all machines", f"{sum(float(row.get('cores', 0.0)) for row in rows):g}"
    yield "memory of all machines", bytes_text(sum(view.memory.values()))
    yield "links", _link_text(link)
    yield "links of their own", str(len(link.get("between", ())))
    yield "batch", str(plan.batch or "none")
    yield "loss", plan.loss or "none"
    yield "seed", str(plan.seed)
    yield "backward pass", "yes" if view.backward else "no"
    yield "parameters", count_text(view.parameters)
    yield "inputs", ", ".join(f"{x.place.name} {x.type}" for x in view.layers if x.place.kind == "input")
    yield "strategy", plan.notes.get("strategy", "unknown")


def _link_text(link: Mapping[str, Any]) -> str:
    speed, latency = link.get("bytes_per_s"), link.get("latency_s")
    if speed is None or latency is None:
        return "unknown"
    return f"{scaled(float(speed), 'B/s')}, {seconds_text(float(latency))}"


def _only(what: str, a: Iterable[str], b: Iterable[str]) -> Iterable[Differing]:
    """What is only in one of the plans."""
    mine, other = dict.fromkeys(a), dict.fromkeys(b)
    left, right = [x for x in mine if x not in other], [x for x in other if x not in mine]
    if left or right:
        yield Differing(f"{what} that only one has", _listed(left), _listed(right))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more if names else "none"


def _layer_names(view: PlanView) -> list[str]:
    return [x.place.name for x in view.layers if x.place.kind == "layer"]


def _variables(view: PlanView) -> dict[str, str]:
    return {v.name: v.type for layer in view.layers for v in layer.variables}


# -- what came of it --------------------------------------------------------------------------------------------------
def _layers(a: PlanView, b: PlanView) -> tuple[LayerPair, ...]:
    first, second = _sides(a), _sides(b)
    step = max(a.plan.prediction.step_s, b.plan.prediction.step_s) or 1.0
    nbytes = max(a.plan.prediction.bytes, b.plan.prediction.bytes) or 1
    pairs = []
    for name in dict.fromkeys([*first, *second]):
        x, y = first.get(name), second.get(name)
        seconds = abs((x.slowest_s if x else 0.0) - (y.slowest_s if y else 0.0))
        crossing = abs((x.nbytes if x else 0) - (y.nbytes if y else 0))
        pairs.append(LayerPair(name, x, y, seconds / step + crossing / nbytes))
    return tuple(sorted(pairs, key=lambda pair: -pair.weight))


def _sides(view: PlanView) -> dict[str, LayerSide]:
    arriving: Counter[str] = Counter()
    for flow in view.flows:
        arriving[flow.target.name] += flow.nbytes
    layers = (x for x in view.layers if x.place.kind == "layer")
    return {x.place.name: _side(view, x, arriving[x.place.name]) for x in layers}


def _side(view: PlanView, layer: Layer, nbytes: int) -> LayerSide:
    spread = view.spread.get(layer.place)
    cut = spread.cut if spread else None
    return LayerSide(
        cut=cut.text if cut else "",
        grid=cut.short if cut else "",
        machines=cut.machines if cut else 0,
        slowest_s=max(layer.seconds.values(), default=0.0),
        balance=spread.balance(view.speeds) if spread else None,
        nbytes=nbytes,
        shares=tuple(view.share_of(layer)),
    )


def _bytes(a: PlanView, b: PlanView, key: Callable[[Any], tuple[str, str]]) -> tuple[BytesPair, ...]:
    """Bytes of flows by a key, the biggest differences first."""
    totals: tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]] = (Counter(), Counter())
    for total, view in zip(totals, (a, b), strict=True):
        for flow in view.flows:
            total[key(flow)] += flow.nbytes
    pairs = [BytesPair(*k, totals[0][k], totals[1][k]) for k in dict.fromkeys([*totals[0], *totals[1]])]
    return tuple(sorted(pairs, key=lambda p: (-abs(p.a - p.b), -max(p.a, p.b))))


def _machines(a: Plan, b: Plan) -> tuple[MachinePair, ...]:
    first, second = a.prediction.machines, b.prediction.machines
    names = dict.fromkeys([*a.machines, *b.machines])
    return tuple(MachinePair(name, first.get(name), second.get(name)) for name in names)


def data_of(c: Comparison) -> dict[str, Any]:
    """The comparison as JSON takes it."""
    machine = ("compute_s", "memory_bytes", "bytes_in", "bytes_out")
    return {
        "same": c.same,
        "plans": {
            side: {"name": name, "hash": v.plan.hash} for side, name, v in zip("ab", c.names, c.views, strict=True)
        },
        "figures": {f.name.replace(" ", "_"): {"a": f.a, "b": f.b, "ratio": f.ratio} for f in c.figures},
        "differing": [d._asdict() for d in c.differing],
        "layers": [
            {"name": p.name, "recut": p.recut, "a": _side_data(p.a), "b": _side_data(p.b), "weight": p.weight}
            for p in c.layers
        ],
        "reasons": [{"reason": p.reason, "a": p.a, "b": p.b} for p in c.reasons],
        "transfers": [p._asdict() for p in c.transfers],
        "machines": {
            p.name: {key: {"a": getattr(p.a, key, None), "b": getattr(p.b, key, None)} for key in machine}
            for p in c.machines
        },
    }


def _side_data(side: LayerSide | None) -> dict[str, Any] | None:
    if side is None:
        return None
    keys = ("cut", "machines", "slowest_s", "balance", "nbytes")
    return {key: getattr(side, key) for key in keys}
