"""rainshed compile: a program and a cluster in, a plan out."""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import Any

from rainshed.compiler.passes.lower_precision import FLOAT32
from rainshed.compiler.pipeline import PASSES, compile, show
from rainshed.compiler.plan import Plan
from rainshed.engine.commands.common import (
    OK,
    add_program,
    build_graph,
    cluster_from,
    places_from,
    print_json,
    say,
    settings_from,
)
from rainshed.engine.commands.files import writable
from rainshed.engine.plans import save_plan
from rainshed.engine.view import plan_text
from rainshed.ops.text import graph_text

HELP = "compile a graph for a cluster, and see what would run where"
EXAMPLES = """\
  rainshed compile examples/digits.py:build --machines 4
  rainshed compile examples/digits.py:build --machines 4 --strategy space -o plan.json
  rainshed compile examples/speech.py:build --cluster cluster.toml --set rate=0.02 --json
  rainshed compile examples/speech.py:small --machines 2 --show split
  rainshed compile examples/speech.py:small --machines 2 --precision bf16 --show lower_precision
  rainshed compile examples/digits.py:build --machines 4 --place dense=m0 --place 'dense_1/*=m3'
"""


def add(parser: argparse.ArgumentParser) -> None:
    add_program(parser)
    parser.add_argument("-o", "--output", metavar="PLAN.json", help="write the plan")
    names = [step.__name__ for step in PASSES]
    parser.add_argument(
        "--show", metavar="PASS", choices=names, help=f"print the graph as it stands after a pass: {', '.join(names)}"
    )
    parser.add_argument("--json", action="store_true", help="print the plan's figures as JSON")


def run(args: Any) -> int:
    writable([args.output], read=[args.program.rpartition(":")[0], args.cluster])
    cluster = cluster_from(args)
    graph = build_graph(args.program, settings_from(args.set), args.batch)
    place = places_from(args.place)
    if args.show:
        chosen = {} if args.strategy == "auto" else {"strategy": args.strategy}
        shown = show(graph, cluster, args.show, seed=args.seed, place=place, precision=args.precision, **chosen)
        print(graph_text(shown))
        return OK
    plan = compile(
        graph,
        cluster,
        seed=args.seed,
        strategy=args.strategy,
        place=place,
        rematerialize=args.rematerialize,
        precision=args.precision,
    )
    if args.output:
        save_plan(plan, args.output)
    if args.json:
        print_json({**figures(plan), "output": args.output})
    else:
        print(plan_text(plan, terminal_width()), end="")
        if args.output:
            say(f"\nwrote {args.output}; next: rainshed show {args.output} -o plan.html")
    return OK


def figures(plan: Plan) -> dict[str, Any]:
    """What a program wants to know of a plan."""
    p = plan.prediction
    return {
        "hash": plan.hash,
        "machines": list(plan.machines),
        "strategy": plan.notes.get("strategy"),
        "precision": plan.notes.get("precision", FLOAT32),
        "step_s": p.step_s,
        "lower_bound_s": p.lower_bound_s,
        "bytes": p.bytes,
        "messages": p.messages,
        "bytes_between": [{"from": a, "to": b, "bytes": n} for (a, b), n in sorted(plan.bytes_between.items())],
        "memory_bytes": {name: m.memory_bytes for name, m in p.machines.items()},
        "memory_lower_bound_bytes": {name: m.memory_lower_bound_bytes for name, m in p.machines.items()},
        "compute_s": {name: m.compute_s for name, m in p.machines.items()},
    }


def terminal_width() -> int:
    """Columns to fill: those of the terminal, or 100 where there is none."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
