"""rainshed train: train a program's graph on data."""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import replace
from typing import Any, Final

from rainshed.engine.checkpoint import checkpoints
from rainshed.engine.commands.common import (
    OK,
    RESUMABLE,
    add_program,
    batch_of,
    build_graph,
    cluster_from,
    places_from,
    positive,
    print_json,
    say,
    settings_from,
)
from rainshed.engine.commands.files import writable, write_arrays, write_text
from rainshed.engine.data import Data
from rainshed.engine.measured import beside, counted, measured_of
from rainshed.engine.methods import Downpour, Method, Single, TrainingOptions, TrainingResult
from rainshed.engine.optimizers import SGD, Adagrad, Adam, Momentum, Optimizer, RMSProp
from rainshed.engine.training import Training
from rainshed.engine.training_table import TrainingTable
from rainshed.engine.view import Measured, plan_html
from rainshed.engine.view.units import bytes_text, count_text, seconds_text
from rainshed.ops.errors import StallError, TransportError, UsageError
from rainshed.ops.ir import Graph
from rainshed.runtime.auth import read_token

HELP = "train a graph on data, with or without a parameter server"
EXAMPLES = """\
  rainshed train examples/digits.py:build --data digits.npz --steps 500
  rainshed train examples/speech.py:small --data windows.npz --epochs 3 --method downpour \\
      --replicas 3 --servers 2 --machines 2 --optimizer adagrad:0.02 --checkpoint checkpoints
  rainshed train examples/speech.py:small --data windows.npz --epochs 6 --machines 4 \\
      --checkpoint checkpoints --resume
"""
OPTIMIZERS: Final[dict[str, type[Optimizer]]] = {
    "sgd": SGD, "momentum": Momentum, "adagrad": Adagrad, "rmsprop": RMSProp, "adam": Adam,
}  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    add_program(parser)
    parser.add_argument(
        "--data", required=True, metavar="PATH", help="an .npz file or a folder of .npy files: a field per input"
    )
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=positive, metavar="N", help="batches of all replicas together")
    length.add_argument("--epochs", type=float, metavar="N", help="passes over the data")
    parser.add_argument(
        "--optimizer", metavar="NAME:RATE", help=f"{', '.join(OPTIMIZERS)}; options as adam:0.001,beta1=0.8"
    )
    _add_method(parser)
    parser.add_argument(
        "--backend", choices=("processes", "threads"), default="processes", help="where roles run (processes)"
    )
    parser.add_argument(
        "--listen", metavar="URI", help="wait here for `rainshed worker --join` instead, such as tcp://10.0.0.1:7700"
    )
    _add_checkpoints(parser)
    parser.add_argument("--variables", metavar="OUT.npz", help="write the trained variables, whole")
    parser.add_argument("--trace", metavar="TRACE.json", help="write what every thread did, for ui.perfetto.dev")
    parser.add_argument(
        "--page", metavar="PLAN.html", help="write the plan's page with what was measured; with --trace of each machine"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def _add_checkpoints(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("checkpoints")
    group.add_argument(
        "--checkpoint", metavar="DIR", help="write checkpoints there, in safetensors; the newest two stay"
    )
    group.add_argument(
        "--checkpoint-every", type=positive, default=1000, metavar="N", help="steps from one to the next (1000)"
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint, up to --steps in all; machines, replicas and servers may be others",
    )


def _add_method(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("method")
    group.add_argument(
        "--method", choices=("single", "downpour"), default="single", help="who moves the variables (single)"
    )
    group.add_argument("--replicas", type=positive, default=None, metavar="N", help="downpour: copies of the model (2)")
    group.add_argument(
        "--servers", type=positive, default=None, metavar="N", help="downpour: shards of the parameter server (1)"
    )
    group.add_argument("--n-push", type=positive, default=None, metavar="N", help="downpour: steps between pushes (1)")
    group.add_argument(
        "--n-fetch", type=positive, default=None, metavar="N", help="downpour: steps between fetches (1)"
    )
    group.add_argument(
        "--warm-start", type=int, default=None, metavar="N", help="downpour: steps of one replica alone first (0)"
    )
    group.add_argument(
        "--max-staleness",
        type=int,
        default=None,
        metavar="N",
        help="downpour: refuse gradients that are older (no bound)",
    )


def run(args: Any) -> int:
    writable([args.variables, args.trace, args.page], read=[args.data, args.cluster])
    graph = build_graph(args.program, settings_from(args.set), args.batch)
    options = _options(args, batch_of(graph) or 32)
    data = Data.of(args.data)
    total = _steps(args, data, options.batch)
    try:
        result, pids, figures = _train(args, graph, data, options, total)
    except (TransportError, StallError) as error:
        if not _resumable(args):
            raise
        say(f"rainshed train: {type(error).__name__}: {error}\nto go on: {_again(args)}")
        return RESUMABLE
    if args.json:
        print_json({**summary(result, pids), "step": figures})
    else:
        print(text(result))
    return OK


def _train(
    args: Any, graph: Graph, data: Data, options: TrainingOptions, total: int
) -> tuple[TrainingResult, dict[str, int], dict[str, Any]]:
    """What was done, the processes, and a step of a replica: predicted beside measured."""
    table = TrainingTable(quiet=args.quiet)
    with table, Training(graph, data, options, on_progress=table.on, on_work=table.working) as training:
        pids = {"coordinator": os.getpid(), **training.pids}
        done = training.step * options.method.replicas
        if done >= total:
            raise UsageError(f"the checkpoint is of step {done}: there is nothing left to do", hint="more --steps")
        before = training.step
        result = training.run(total - done)
        measured = _measured(args, training, result, training.step - before)
        _write(args, training, measured)
    return result, pids, beside(training.plan, measured)


def _measured(args: Any, training: Training, result: TrainingResult, steps: int) -> Measured:
    """The first replica's steps: all of the training's time, with what it took to push, fetch and write checkpoints."""
    plan, replica = training.plan, training.replica
    seen = counted(plan, result.seconds / max(1, steps), steps, replica.bytes_between())
    if not args.trace:
        return seen
    traced = measured_of(plan, training.traces()[: len(plan.machines)])
    return replace(seen, messages=traced.messages, machines=traced.machines)


def _steps(args: Any, data: Data, batch: int) -> int:
    """All steps of this training, those before a checkpoint too."""
    if args.steps is not None:
        return int(args.steps)
    if data.count is None:
        raise UsageError("this data has no known end: give --steps, not --epochs")
    steps = args.epochs * (data.count // batch)
    if not 1 <= steps < 2**53:
        raise UsageError(f"{args.epochs} epochs of {data.count} examples are no training in batches of {batch}")
    return int(steps)


def _resumable(args: Any) -> bool:
    return args.checkpoint is not None and bool(checkpoints(args.checkpoint))


def _again(args: Any) -> str:
    words = args.words if "--resume" in args.words else [*args.words, "--resume"]
    return shlex.join(["rainshed", *words])


def _options(args: Any, batch: int) -> TrainingOptions:
    if args.resume and args.checkpoint is None:
        raise UsageError("--resume needs --checkpoint DIR")
    method = method_from(args)
    return TrainingOptions(
        cluster=cluster_from(args, replicas=1 if args.listen else method.replicas),
        method=method,
        optimizer=optimizer_from(args.optimizer),
        batch=batch,
        seed=args.seed,
        backend="join" if args.listen else args.backend,
        strategy=args.strategy,
        place=places_from(args.place),
        rematerialize=args.rematerialize,
        precision=args.precision,
        trace=bool(args.trace),
        checkpoint=args.checkpoint,
        checkpoint_every=args.checkpoint_every,
        resume=args.resume,
        listen=args.listen or "tcp://127.0.0.1:0",
        token=read_token() if args.listen else None,
        on_wait=lambda address, count: say(f"waiting for {count} workers: rainshed worker --join {_host(address)}"),
    )


def _host(address: str) -> str:
    return address.removeprefix("tcp://")


def method_from(args: Any) -> Method:
    """The method by its words. Raises UsageError for words of another method."""
    names = ("replicas", "servers", "n_push", "n_fetch", "warm_start", "max_staleness")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.method == "downpour":
        return Downpour(**given)
    if given:
        word = "--" + next(iter(given)).replace("_", "-")
        raise UsageError(f"{word} is for --method downpour", method=args.method)
    return Single()


def optimizer_from(text: str | None) -> Optimizer | None:
    """NAME:RATE,KEY=VALUE,...; None stays None. Raises UsageError, and GraphError for numbers that it does not take."""
    if text is None:
        return None
    name, _, words = text.partition(":")
    kind = OPTIMIZERS.get(name.lower())
    if kind is None:
        raise UsageError(f"there is no optimizer {name!r}", known=", ".join(OPTIMIZERS))
    rate, *options = words.split(",")
    try:
        pairs = [option.partition("=") for option in options]
        settings = {key: _setting(value) for key, _, value in pairs}
        return kind(**({"rate": float(rate)} if rate else {}), **settings)
    except (TypeError, ValueError) as error:
        example = "adagrad:0.02 or momentum:0.01,momentum=0.8"
        raise UsageError(f"--optimizer {text!r}: {error}", example=example) from None


def _setting(text: str) -> float | bool:
    return text == "true" if text in ("true", "false") else float(text)


def _write(args: Any, training: Training, measured: Measured) -> None:
    if args.variables:
        write_arrays(args.variables, training.variables())
    if args.trace:
        training.write_trace(args.trace)
    if args.page:
        write_text(args.page, plan_html(training.plan, measured=measured, title=args.program))


def summary(result: TrainingResult, pids: dict[str, int]) -> dict[str, Any]:
    """The result as JSON takes it."""
    return {
        "steps": result.steps,
        "seconds": result.seconds,
        "loss": result.loss,
        "examples": result.examples,
        "bytes_sent": result.bytes_sent,
        "pushes": result.pushes,
        "applied": result.applied,
        "dup": result.dup,
        "refused": result.refused,
        "staleness": {str(age): n for age, n in sorted(result.staleness.items())},
        "processes": pids,
    }


def text(result: TrainingResult) -> str:
    loss = "" if result.loss is None else f", loss {result.loss:.4g}"
    rate = count_text(result.examples / result.seconds) if result.seconds else "0"
    sent = bytes_text(result.bytes_sent)
    told = f"{result.steps:,} steps in {seconds_text(result.seconds)}: {rate} examples/s, {sent} sent{loss}"
    if result.pushes:
        told += f"\n{result.pushes:,} pushes: {result.applied:,} applied, {result.dup} twice, {result.refused} refused"
    return told
