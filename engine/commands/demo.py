"""rainshed demo: a model over several machines, trained by several replicas on real data, in a minute."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from rainshed.compiler.this_computer import usable_cores
from rainshed.engine.commands.common import OK, positive, print_json, say
from rainshed.engine.commands.files import writable
from rainshed.engine.demo import DemoOptions, DemoResult, demo_of, run_demo
from rainshed.engine.measured import beside
from rainshed.engine.training import Training
from rainshed.engine.training_table import TrainingTable
from rainshed.engine.view.units import bytes_text, count_text, plural, seconds_text
from rainshed.ops.errors import UsageError

HELP = "train a small model on real data, split over machines, and look at it"
EXAMPLES = """\
  rainshed demo
  rainshed demo speech
  rainshed demo speech --model lstm
  rainshed demo digits --machines 2 --replicas 2 --servers 1 --json
  rainshed demo --single
"""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", nargs="?", choices=("digits", "speech"), default="digits", help="what is learned (digits)"
    )
    parser.add_argument(
        "--model", choices=("local", "mlp", "lstm"), help="local for digits; mlp or lstm for speech (mlp)"
    )
    parser.add_argument("--machines", type=positive, default=4, metavar="N", help="machines of one replica (4)")
    parser.add_argument(
        "--replicas", type=positive, default=3, metavar="N", help="copies of the model that learn at once (3)"
    )
    parser.add_argument("--servers", type=positive, default=2, metavar="N", help="shards of the parameter server (2)")
    parser.add_argument(
        "--single", action="store_true", help="one replica on one machine in this process, to compare with"
    )
    parser.add_argument("--steps", type=positive, metavar="N", help="batches of all replicas together (the demo's own)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of initial values, random ops and the order of the data (0)"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path(), help="where plan.html and trace.json go (.)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of an explanation")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: Any) -> int:
    demo = demo_of(args.data, args.model)
    options = DemoOptions(
        machines=args.machines,
        replicas=args.replicas,
        servers=args.servers,
        steps=args.steps,
        seed=args.seed,
        single=args.single,
        out=args.out,
    )
    if not args.single:
        _make_folder(args.out)
    say(_intention(options, demo.title), quiet=args.quiet)
    with TrainingTable(quiet=args.quiet) as table:
        result = run_demo(
            demo,
            options,
            on_start=lambda training: say(_processes(training, options), quiet=args.quiet),
            on_progress=table.on,
        )
    if args.json:
        print_json(summary(result, options))
    else:
        print(explanation(result, options), end="")
    return OK


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {out}: {error.strerror}") from None
    writable([out / "plan.html", out / "trace.json"])


def _intention(options: DemoOptions, title: str) -> str:
    if options.single:
        return f"Training {title}: one replica on one machine, in this process."
    replicas, servers = plural(options.replicas, "replica"), plural(options.servers, "parameter server shard")
    each = plural(options.machines, "machine")
    total = options.machines * options.replicas + options.servers + 1
    return f"Training {title}: {replicas} x {each} + {servers} + this coordinator = {total} processes."


def _processes(training: Training, options: DemoOptions) -> str:
    if options.single:
        return ""
    names = " ".join(f"{name}:{pid}" for name, pid in training.pids.items())
    return f"Processes: coordinator:{os.getpid()} {names}"


def summary(result: DemoResult, options: DemoOptions) -> dict[str, Any]:
    """What a program wants to know."""
    r = result.result
    pushes = sum(r.staleness.values())
    single = options.single
    found: dict[str, Any] = {"demo": result.demo.name, "accuracy": result.accuracy}
    if result.utterances is not None:
        found |= {"frame_accuracy": result.accuracy, "utterance_accuracy": result.utterances}
    return found | {
        "seconds": result.seconds,
        "train_seconds": r.seconds,
        "machines": 1 if single else options.machines,
        "replicas": 1 if single else options.replicas,
        "servers": 0 if single else options.servers,
        "steps": r.steps,
        "examples": r.examples,
        "loss": r.loss,
        "bytes_sent": r.bytes_sent,
        "bytes_per_step": result.plan.prediction.bytes,
        "measured_bytes_per_step": result.measured.bytes,
        "predicted_step_s": result.plan.prediction.step_s,
        "measured_step_s": result.measured.step_s,
        "step": beside(result.plan, result.measured),
        "pushes": r.pushes,
        "applied": r.applied,
        "mean_staleness": sum(age * n for age, n in r.staleness.items()) / pushes if pushes else None,
        "pids": list(dict.fromkeys(result.pids.values())),
        "processes": dict(result.pids),
        "plan": str(result.page) if result.page else None,
        "trace": str(result.trace) if result.trace else None,
    }


def explanation(result: DemoResult, options: DemoOptions) -> str:
    """What was seen, and how to go on."""
    r, what = result.result, "digits" if result.demo.name == "digits" else "frames"
    rate = count_text(r.examples / r.seconds) if r.seconds else "0"
    lines = [
        f"\n{100 * result.accuracy:.1f} % of the held-out {what} are recognised"
        + (f", and {100 * result.utterances:.1f} % of the utterances" if result.utterances is not None else "")
        + f", after {r.steps:,} steps in {seconds_text(r.seconds)} ({rate} examples/s)."
    ]
    if not options.single:
        lines += ["", "What you saw", *_seen(result, options)]
        lines += ["", "Go on", *_next(result, options)]
    return "\n".join(lines) + "\n"


def _seen(result: DemoResult, options: DemoOptions) -> list[str]:
    plan, r, cores = result.plan, result.result, usable_cores()
    reasons: dict[str, int] = {}
    for t in plan.transfers:
        reasons[t.reason] = reasons.get(t.reason, 0) + t.nbytes
    most = ", ".join(
        f"{reason} {bytes_text(n)}" for reason, n in sorted(reasons.items(), key=lambda item: -item[1])[:4]
    )
    pushes = sum(r.staleness.values())
    stale = sum(age * n for age, n in r.staleness.items()) / pushes if pushes else 0.0
    lines = [
        f"  The compiler split the model over {plural(options.machines, 'machine')}; the model says nothing of machines.",
    ]
    if plan.prediction.bytes:
        lines += [
            f"  In each step {bytes_text(plan.prediction.bytes)} cross between them: {most}.",
            "  A network this small is fastest on one machine: the demo splits it on purpose, to show how it is done.",
            f"  A step was predicted to take {seconds_text(plan.prediction.step_s)} with a share of {plural(cores, 'core')}; with "
            f"the parameter server and {len(result.pids)} processes at once it took {seconds_text(result.measured.step_s or 0)}.",
        ]
    replicas, servers = plural(options.replicas, "replica"), plural(options.servers, "server shard")
    return [
        *lines,
        f"  The machines of {replicas} pushed gradients {r.pushes:,} times to {servers}: "
        f"{r.applied:,} were applied, {r.dup} came twice, {r.refused} were refused.",
        f"  A gradient was on average {stale:.1f} versions old when it was applied: that is the price of not waiting.",
        f"  {bytes_text(r.bytes_sent)} went over the wire.",
    ]


def _next(result: DemoResult, options: DemoOptions) -> list[str]:
    other = "rainshed demo speech" if result.demo.name == "digits" else "rainshed demo digits"
    return [
        f"  {result.page}   which layer runs where, what crosses and why, predicted and measured: open it in a browser",
        f"  {result.trace}   the last steps of every machine, as seen by the clock: drop it on https://ui.perfetto.dev",
        f"  rainshed demo {result.demo.name} --single   the same network without any of this",
        f"  {other}",
        "  rainshed doctor, rainshed compile --help, rainshed train --help",
    ]
