"""rainshed explain: why is it cut and placed so, and what crosses because of it?"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from msgspec import to_builtins

from rainshed.compiler.explain import Explanation, Piece, explain
from rainshed.compiler.gathered import Gathered
from rainshed.compiler.plan import Candidate
from rainshed.engine.commands.common import OK, not_negative, print_json
from rainshed.engine.commands.files import add_plan, plan_and_ops
from rainshed.engine.view.units import bytes_text, plural, seconds_text

HELP = "tell why a layer, value or variable of a plan was cut and placed as it is, and what crosses"
EXAMPLES = """\
  rainshed explain plan.json
  rainshed explain plan.json dense/w
  rainshed explain plan.json local2d_1 --threshold 10000
  rainshed explain plan.json dense --json
"""
MACHINES = 8  # that are named one by one
PIECES = 16  # of a value that are listed


def add(parser: argparse.ArgumentParser) -> None:
    add_plan(parser)
    parser.add_argument(
        "name", nargs="?", default="", metavar="NAME", help="a layer, value, variable, input or output (the whole plan)"
    )
    parser.add_argument(
        "--threshold",
        type=not_negative,
        metavar="BYTES",
        help="list values that move so much (a hundredth of the plan)",
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: Any) -> int:
    plan, _ = plan_and_ops(args)
    found = explain(plan, args.name, threshold=args.threshold)
    if args.json:
        print_json({f.name: to_builtins(getattr(found, f.name)) for f in fields(found)})
    else:
        print("\n".join(lines(found)))
    return OK


def lines(e: Explanation) -> Iterable[str]:
    for value, pieces in e.values.items():
        yield value
        yield from (f"  {text}" for text in _pieces(pieces))
        if value in e.candidates:
            yield from _candidates(e.candidates[value])
        yield ""
    if not e.name:
        yield "How the plan was found"
        yield from (f"  {key}: {text}" for key, text in e.notes.items())
        yield ""
    yield f"What crosses, of values that move {bytes_text(e.threshold)} and more"
    for c in e.crossings:
        read = f", read by {c.reader}" if c.reader else ""
        yield f"  {bytes_text(c.nbytes):>9}  {c.source} to {c.to}  {c.of}: {c.reason}{read}"
    if not e.crossings:
        yield "  nothing"
    yield from (f"  {_gathered(g)}" for g in e.gathered)
    if e.small:
        yield f"  and {plural(e.small, 'smaller transfer')} of {bytes_text(e.small_nbytes)} together"


def _gathered(g: Gathered) -> str:
    """Which machines get all of a value, from where, what for, and why."""
    every = "every machine has" if g.kind != "gather" else "several machines get"
    takers = ", ".join(g.machines) if len(g.machines) <= MACHINES else f"{len(g.machines)} machines"
    source = g.sources[0] if len(g.sources) == 1 else f"{len(g.sources)} machines"
    return (
        f"{g.kind} of {g.of}: {every} all of it; {bytes_text(g.nbytes)} from {source} to {takers} "
        f"({', '.join(g.reasons)}), read whole by {', '.join(g.readers)}"
    )


def _pieces(pieces: tuple[Piece, ...]) -> Iterable[str]:
    for p in pieces[:PIECES]:
        box = "" if p.box is None else "[" + ", ".join(f"{low}:{high}" for low, high in p.box) + "]"
        yield f"{p.op} {box} on {p.machine}" + (f", {seconds_text(p.seconds)}" if p.seconds else "")
    if len(pieces) > PIECES:
        yield f"and {len(pieces) - PIECES} more"


def _candidates(candidates: tuple[Candidate, ...]) -> Iterable[str]:
    width = max((len(c.layout) for c in candidates), default=0)
    yield f"    {'candidates':<{width + 2}} {'total':>9} {'computing':>9} {'reading':>9} {'sums':>9} {'readers':>9}"
    for c in candidates:
        cells = (c.total_s, c.compute_s, c.inputs_s, c.sums_s, c.readers_s)
        mark = "> " if c.chosen else "  "
        yield f"    {mark}{c.layout:<{width}} " + " ".join(f"{seconds_text(s):>9}" for s in cells)
    best = min(candidates, key=lambda c: c.total_s, default=None)
    chosen = next((c for c in candidates if c.chosen), None)
    if chosen is not None and best is not None:
        yield f"    {_decided(chosen, best, candidates)}"


def _decided(chosen: Candidate, best: Candidate, candidates: tuple[Candidate, ...]) -> str:
    """What decided, in a sentence."""
    others = [c for c in candidates if not c.chosen]
    if not others:
        return "There was nothing else to choose from."
    if chosen.total_s > best.total_s * 1.0001:
        return f"By itself {best.layout} would cost less; the plan that starts so was slower as a whole."
    second = min(others, key=lambda c: c.total_s)
    if second.total_s <= chosen.total_s * 1.0001:
        return f"As good as {second.layout}."
    parts = ("computing", "compute_s"), ("reading", "inputs_s"), ("partial sums", "sums_s"), ("readers", "readers_s")
    gains = {word: getattr(second, key) - getattr(chosen, key) for word, key in parts}
    word = max(gains, key=lambda w: gains[w])
    return f"It saves {seconds_text(second.total_s - chosen.total_s)} over {second.layout}, most of it in {word}."
