"""The page of a plan: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rainshed.compiler.gathered import gathered
from rainshed.compiler.plan import Plan
from rainshed.engine.measured import Measured
from rainshed.engine.view import tables
from rainshed.engine.view.collapse import Afar, afar
from rainshed.engine.view.details import details, layer_keys
from rainshed.engine.view.document import document, part
from rainshed.engine.view.layer_table import layer_table
from rainshed.engine.view.markup import Child, Markup, el, join, void
from rainshed.engine.view.model import PlanView, view_of
from rainshed.engine.view.picture import plan_picture
from rainshed.engine.view.strips import MANY
from rainshed.engine.view.units import bytes_text, colours, count_text, plural, ratio_text, seconds_text


def plan_html(plan: Plan, *, measured: Measured | None = None, title: str = "Plan") -> str:
    """The plan as one self-contained page: layers and what crosses between them, bytes from machine to machine,
    the load of each machine, the biggest transfers, and how the plan was found.

    measured  what a run showed, per step: it is put beside what was predicted
    """
    view = view_of(plan)
    far = afar(view)
    colour = dict(zip(plan.machines, colours(len(plan.machines)), strict=True))
    about = (plural(len(plan.machines), "machine"), f"batch {plan.batch}" if plan.batch else "", f"seed {plan.seed}")
    body = join(
        el("header", el("h1", title), el("p", " · ".join(filter(None, about)), class_="rs-soft rs-sub")),
        headline(view, measured),
        _layers(view, far, colour),
        _machines_of_layers(view, far),
        _traffic(view, colour),
        _beside(view, measured),
        part("Machines", _machines_lead(measured), tables.machines(view, colour, measured)),
        part("The biggest transfers", "What crosses in every step, put together by value and reason.", *_moved(view)),
        _notes(plan),
        el("footer", f"Rainshed plan {plan.hash}", class_="rs-soft"),
    )
    return document(title, body, plan.machines)


def headline(view: PlanView, measured: Measured | None = None) -> Markup:
    """The figures of the plan as a whole."""
    p, plan = view.plan.prediction, view.plan
    peak = max(p.machines, key=lambda m: p.machines[m].memory_bytes, default=None)
    seen = measured or Measured()
    bound = f"{p.step_s / p.lower_bound_s:.2f} × its lower bound" if p.lower_bound_s > 0 else ""
    facts: Iterable[tuple[str, str, str | None]] = (
        ("Predicted step", seconds_text(p.step_s), bound),
        ("Measured step", seconds_text(seen.step_s), _against(seen.step_s, p.step_s)) if seen.step_s else ("", "", ""),
        ("Lower bound", seconds_text(p.lower_bound_s), None),
        ("Sent per step", bytes_text(p.bytes), _seen(seen.bytes, bytes_text) or f"{p.bytes:,} bytes"),
        ("Phase balance", ratio_text(view.balance), "1 is perfect") if view.balance is not None else ("", "", ""),
        ("Messages per step", f"{p.messages:,}", _seen(seen.messages, count_text)),
        ("Most memory", bytes_text(p.machines[peak].memory_bytes) if peak else "–", f"on {peak}" if peak else None),
        ("Parameters", count_text(view.parameters), plural(len(_trained(plan)), "variable")),
    )
    shown = (el("div", el("dt", name), el("dd", value, _small(note))) for name, value, note in facts if name)
    return el("dl", *shown, class_="rs-kpis")


def _small(note: str | None) -> Markup | None:
    return el("small", note) if note else None


def _against(seen: float, predicted: float) -> str:
    return f"{100 * (seen / predicted - 1):+.0f} % against predicted" if predicted > 0 else ""


def _seen(value: float | None, text: Callable[[float], str]) -> str | None:
    return f"{text(value)} measured" if value is not None else None


def _trained(plan: Plan) -> set[str]:
    return {v.name for p in plan.programs for v in p.variables if v.trainable}


def legend(colour: dict[str, str]) -> Markup | None:
    """Which colour is which machine; nothing for many machines, where the bars' tips say it."""
    if len(colour) > MANY:
        return None
    names = (el("span", el("i", class_="rs-chip", style=f"background:{c}"), m) for m, c in colour.items())
    return el("div", *names, class_="rs-legend")


def _machines_of_layers(view: PlanView, far: Afar) -> Markup:
    lead = (
        "Each cell is a machine: how much of a layer it does, against a share with which all would work equally long. "
        "Phase balance is what the slowest machine does over that share, forward and backward."
    )
    return part("Work by layer and machine", lead, layer_table(view, layer_keys(view, far)))


def _layers(view: PlanView, far: Afar, colour: dict[str, str]) -> Markup:
    lead = (
        "A bar shows which machines share the work of a layer. Thick arrows cross machines: bytes sent per step, "
        "and below them the size of the values. Choose a layer or a thick arrow to see what is in it."
    )
    if far.members:
        count = sum(map(len, far.members.values()))
        lead += (
            f" The {count} layers are drawn as {len(far.members)} groups of neighbours: choose one to see its layers."
        )
    left: list[Child] = []
    if view.backward:
        left.append(void("input", type="checkbox", id="rs-backward", checked="", class_="rs-switch-box"))
        left.append(el("label", "Backward traffic", for_="rs-backward", class_="rs-switch"))
    left.append(legend(colour))
    left.append(el("div", plan_picture(far.view, colour, clickable=True), class_="rs-scroll"))
    side = el("aside", details(view, far, colour), class_="rs-details")
    split = el("div", el("div", *left), side, class_="rs-split")
    return part("Layers", lead, split)


def _traffic(view: PlanView, colour: dict[str, str]) -> Markup:
    if not view.plan.transfers:
        return part("Bytes between machines", "Nothing crosses: all of the plan runs where its values are.")
    most = max(view.plan.bytes_between.values())
    why = el("div", el("h3", "Why they cross"), tables.reasons(view))
    grid = el("div", tables.matrix(view, colour), class_="rs-scroll")
    lead = f"Payload per step; rows send, columns receive. The busiest pair moves {bytes_text(most)}."
    return part("Bytes between machines", lead, el("div", grid, why, class_="rs-split rs-even"))


def _beside(view: PlanView, measured: Measured | None) -> Markup | None:
    if measured is None:
        return None
    lead = "One step as it was predicted, and the mean of the steps of a run."
    return part("Predicted beside measured", lead, tables.beside(view, measured))


def _machines_lead(measured: Measured | None) -> str:
    if measured is None:
        return "Predicted for one step."
    return "For one step: predicted, and hatched below it what a run showed."


def _moved(view: PlanView) -> Iterable[Markup | None]:
    if not view.flows:
        return (el("p", "None."),)
    return tables.transfers(view.flows), tables.gathered([g.of for g in gathered(view.plan) if len(g.machines) > 1])


def _notes(plan: Plan) -> Markup | None:
    if not plan.notes:
        return None
    rows = (join(el("dt", key), el("dd", text)) for key, text in plan.notes.items())
    return part("How the plan was found", "", el("dl", *rows, class_="rs-notes"))
