"""rainshed doctor: is this computer fit for it? And, for a cluster: how fast is it?"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import Any, Final

from rainshed.compiler.cluster_file import cluster_toml
from rainshed.compiler.machines import Cluster
from rainshed.engine.calibration import SECONDS, calibrate
from rainshed.engine.commands.common import FAILED, OK, positive, print_json, say
from rainshed.engine.commands.files import writable, write_text
from rainshed.engine.doctor import Finding, State, examine
from rainshed.engine.view.units import seconds_text
from rainshed.ops.errors import UsageError
from rainshed.runtime.auth import read_token
from rainshed.runtime.cluster.job import Job, JobOptions

HELP = "look whether this computer is fit, and what would be used of it; measure a cluster"
EXAMPLES = """\
  rainshed doctor
  rainshed doctor --json
  rainshed doctor --calibrate --machines 4 -o cluster.toml
  rainshed doctor --calibrate --machines 4 --listen tcp://10.0.0.1:7700 -o cluster.toml
"""
_MARKS: Final[dict[State, str]] = {"ok": "ok", "note": "note", "wrong": "WRONG"}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the findings, or the cluster, as JSON")
    parser.add_argument(
        "--calibrate", action="store_true", help="measure kernels, memory and links of a cluster, and write its file"
    )
    parser.add_argument("-o", "--output", metavar="CLUSTER.toml", help="where to write it (the standard output)")
    parser.add_argument("--machines", type=positive, metavar="N", help="workers to measure (1)")
    parser.add_argument(
        "--listen", metavar="URI", help="wait here for `rainshed worker --join`, such as tcp://10.0.0.1:7700"
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="S", help=f"about how long to measure ({SECONDS:g})"
    )
    parser.add_argument("--job", default="job", help="the job's name, for workers that join (job)")


def run(args: Any) -> int:
    if args.calibrate:
        return _calibrate(args)
    if args.output or args.machines or args.listen:
        raise UsageError("-o, --machines and --listen are for `rainshed doctor --calibrate`")
    findings = examine()
    fit = all(finding.state != "wrong" for finding in findings)
    if args.json:
        print_json({"ok": fit, "findings": [asdict(finding) for finding in findings]})
    else:
        print(text(findings))
        print("\nThis computer is fit." if fit else "\nSomething is wrong: see above.")
    return OK if fit else FAILED


def text(findings: list[Finding]) -> str:
    width = max(len(finding.name) for finding in findings)
    rows = []
    for finding in findings:
        rows.append(f"{_MARKS[finding.state]:<5}  {finding.name:<{width}}  {finding.found}")
        if finding.do:
            rows.append(f"{'':<5}  {'':<{width}}  -> {finding.do}")
    return "\n".join(rows)


def _calibrate(args: Any) -> int:
    if not 0 < args.seconds < 1000:
        raise UsageError(f"--seconds is a time above 0; found {args.seconds}")
    writable([args.output])
    count = args.machines or 1
    options = JobOptions(
        backend="join" if args.listen else "processes",
        listen=args.listen or "tcp://127.0.0.1:0",
        token=read_token() if args.listen else None,
        name=args.job,
        on_wait=lambda address, n: say(f"waiting for {n} workers at {address}"),
    )
    started = time.perf_counter()
    with Job(count, options) as job:
        cluster = calibrate(job, args.seconds)
    took = time.perf_counter() - started
    words = cluster_toml(cluster, "Measured by `rainshed doctor --calibrate`. Rates are per second and machine.")
    if args.output:
        write_text(args.output, words)
    if args.json:
        print_json({"cluster": cluster.to_data(), "seconds": took, "output": args.output})
    elif args.output:
        print(summary(cluster))
    else:
        print(words, end="")
    say(f"measured in {seconds_text(took)}" + (f", wrote {args.output}" if args.output else ""))
    return OK


def summary(cluster: Cluster) -> str:
    """What was measured, in a few lines."""
    rows = []
    for m in cluster.machines:
        by_work = {r.work: r for r in m.rates}
        rates = ", ".join(f"{w} {by_work[w].flops_per_s / 1e9:.3g}" for w in ("product", "convolution") if w in by_work)
        rows.append(f"{m.name}: {m.cores:g} cores; Gflop/s: {rates}; memory {m.bytes_per_s / 1e9:.3g} GB/s")
    pairs = {("every pair", ""): cluster.default_link, **{p: x for p, x in cluster.links.items() if p[0] < p[1]}}
    for pair, link in pairs.items() if len(cluster.machines) > 1 else ():
        name = " - ".join(filter(None, pair))
        rows.append(f"{name}: {link.bytes_per_s / 1e6:.4g} MB/s, {link.latency_s * 1e6:.0f} us")
    return "\n".join(rows)
