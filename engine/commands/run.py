"""rainshed run: run a plan on a batch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from rainshed.engine.commands.common import OK, positive, print_json, say
from rainshed.engine.commands.files import (
    add_plan,
    plan_and_ops,
    read_arrays,
    writable,
    write_arrays,
    write_text,
)
from rainshed.engine.measured import beside
from rainshed.engine.session import Session
from rainshed.engine.training_table import TrainingTable
from rainshed.engine.view import plan_html
from rainshed.engine.view.units import bytes_text, seconds_text

HELP = "run a plan on one batch of inputs"
EXAMPLES = """\
  rainshed run plan.json --inputs batch.npz --outputs out.npz
  rainshed run plan.json --inputs batch.npz --variables checkpoints/ --json
  rainshed run plan.json --inputs batch.npz --steps 20 --trace trace.json --page plan.html
"""
SHOWN = 8  # numbers of an output that are printed


def add(parser: argparse.ArgumentParser) -> None:
    add_plan(parser)
    parser.add_argument("--inputs", metavar="BATCH.npz", help="an array for each input of the plan")
    parser.add_argument("--outputs", metavar="OUT.npz", help="write the outputs of the last step")
    parser.add_argument(
        "--variables", metavar="PATH", help="a checkpoint, a folder of them, or an .npz file (fresh values)"
    )
    parser.add_argument("--save", metavar="DIR", help="write a checkpoint of the variables afterwards")
    parser.add_argument("--steps", type=positive, default=1, metavar="N", help="steps on the same batch (1)")
    parser.add_argument("--seed", type=int, help="of the first values of variables (the plan's)")
    parser.add_argument("--trace", metavar="TRACE.json", help="write what every thread did, for ui.perfetto.dev")
    parser.add_argument("--page", metavar="PLAN.html", help="write the plan's page with what was measured")
    parser.add_argument(
        "--backend", choices=("processes", "threads"), default="processes", help="where machines run (processes)"
    )
    parser.add_argument("--json", action="store_true", help="print what was predicted and measured as JSON")


def run(args: Any) -> int:
    writable([args.outputs, args.trace, args.page], read=[args.plan, args.inputs, args.variables])
    plan, ops = plan_and_ops(args)
    feeds = read_arrays(args.inputs) if args.inputs else {}
    traced = bool(args.trace or args.page or args.json)
    with TrainingTable() as table:
        made = Session(plan, backend=args.backend, seed=args.seed, trace=traced, ops=ops, on_work=table.working)
    with made as session:
        if args.variables:
            session.load(args.variables)
        outputs: dict[str, Any] = {}
        for _ in range(args.steps):
            outputs = session.run(feeds)
        measured, between, memory = session.measured(), session.bytes_between(), session.peak_memory()
        if args.trace:
            session.write_trace(args.trace)
        if args.save:
            say(f"wrote {session.save(args.save)}")
    if args.outputs:
        write_arrays(args.outputs, outputs)
    if args.page:
        write_text(args.page, plan_html(plan, measured=measured, title=Path(args.plan).stem))
    if args.json:
        rows = [{"from": a, "to": b, "bytes": n} for (a, b), n in sorted(between.items())]
        print_json({"steps": args.steps, **beside(plan, measured), "bytes_between": rows, "peak_memory_bytes": memory})
        return OK
    for name, value in outputs.items():
        print(f"{name}: {_shown(value)}")
    step_s, bytes_sent = measured.step_s or 0.0, measured.bytes or 0.0
    say(
        f"a step took {seconds_text(step_s)} (predicted {seconds_text(plan.prediction.step_s)}) "
        f"and sent {bytes_text(bytes_sent)} (predicted {bytes_text(plan.prediction.bytes)})"
    )
    return OK


def _shown(value: Any) -> str:
    array = np.asarray(value)
    if array.size > SHOWN:
        low, high = array.min(), array.max()
        return f"{array.dtype.name}{list(array.shape)} from {low:.6g} to {high:.6g}"
    return str(array.tolist())
