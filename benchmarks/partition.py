"""Our placement of tiles beside that of METIS, of Mt-KaHyPar and of natural blocks, on one and the same hypergraph.

    python -m benchmarks.partition [--json] [--nets local3,speech42] [--machines 4,9,16] [--seeds 3] [--keep DIR] [--no-peers]
    python -m benchmarks.partition --table FILE.json ...

All scores are recomputed here from the placements: bytes of one training step, messages, phase balance (time of the heavy layers
one after the other, over an even spread) and simulated step. Two placements are ours, of one search: `ours`, of those found that
keep every heavy layer within 1.10 and move at most 1.1 times the fewest bytes, is the one with the least product of bytes and
step; `ours_fast` is the one with the shortest step, whatever it moves. METIS has one constraint per heavy layer. Mt-KaHyPar is
balanced in total only, which is all that it can; `mtkahypar_columns` places columns of tiles of all layers, where the layers have
the same places. `block` is the best regular grid of equal blocks, as made by hand.

A heavy layer is cut into at least ten tiles for each machine, so that whole tiles can be spread to 1.10; all sides place the
same tiles.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.nets import NETS
from benchmarks.rivals import Runs, metis, mt_kahypar, mt_kahypar_columns, peer
from rainshed.compiler.machines import Cluster, Link, Machine
from rainshed.compiler.partition.atoms import Tiling, tiling
from rainshed.compiler.partition.placement import BALANCE, Aim, Goal, best_of, candidates, measure, starts_of, task_of
from rainshed.compiler.partition.refine import crossing, excess
from rainshed.compiler.passes.merge_equal import merge_equal
from rainshed.compiler.passes.simplify import simplify
from rainshed.compiler.setting import Setting

MACHINES = (2, 3, 4, 7, 8, 9, 16, 36, 64)
PER_MACHINE = (
    10  # tiles of a heavy layer at least: with fewer, whole tiles cannot be spread to 1.10 on every number of machines
)
PARTS = {  # tiles of a heavy layer: the first that is enough
    "local3": (576, 1024),
    "speech42": (576, 640),
    "lstm": (144, 160, 384, 640),
    "conv": (576, 640),
    "resnet50": (96, 160, 384, 640),
    "densenet121": (96, 160, 384, 640),
}
LIGHT = {
    "resnet50": 32,
    "densenet121": 32,
}  # tiles of any other large op, or as many as machines; elsewhere as of a heavy one
OURS: dict[str, Goal] = {"ours": "both", "ours_fast": "step"}
SEEDS = 3  # runs of each rival, of which the best counts
SHORTER = 0.99  # a step that is less than so much of ours is told


def cluster_of(machines: int) -> Cluster:
    """Equal machines of 40 GFLOP/s, joined by 10 Gbit/s."""
    each = tuple(Machine(name=f"m{i}", flops=40e9, memory_bytes=2**36) for i in range(machines))
    return Cluster(machines=each, default_link=Link(1.25e9, 30e-6))


def fineness(net: str, machines: int) -> tuple[int, int]:
    """Tiles of a heavy layer, and of any other large op."""
    heavy = next(n for n in PARTS[net] if n >= PER_MACHINE * machines)
    return heavy, max(LIGHT[net], machines) if net in LIGHT else heavy


@cache
def tiling_of(net: str, heavy: int, light: int) -> Tiling:
    setting = Setting(cluster=Cluster.local(1))
    return tiling(merge_equal(simplify(NETS[net](), setting), setting), heavy, light)


def rows(nets: list[str], machines: list[int], runs: Runs | None) -> Iterator[dict[str, Any]]:
    """`runs` of the rivals; None: ours alone, beside blocks."""
    for net in nets:
        for count in machines:
            yield row(net, tiling_of(net, *fineness(net, count)), cluster_of(count), runs)


def row(net: str, tiles: Tiling, cluster: Cluster, runs: Runs | None) -> dict[str, Any]:
    task = task_of(tiles, cluster, Aim())
    scores: dict[str, Any] = {"net": net, "machines": len(cluster.machines), "tiles": tiles.vertices}

    def score(name: str, home: np.ndarray | None, seconds: float) -> None:
        if home is None:
            return
        placed = measure(tiles, task, cluster, home, name)
        scores[name] = {
            "bytes": placed.nbytes,
            "messages": placed.messages,
            "phase_balance": round(placed.phase_balance, 4),
            "within_caps": placed.excess == 0,
            "step_s": placed.step_s,
            "seconds": round(seconds, 3),
        }

    start = time.perf_counter()
    found = candidates(tiles, cluster, Aim(goal="step"))
    searched = time.perf_counter() - start
    for name, goal in OURS.items():
        start = time.perf_counter()
        home = best_of(found, tiles, cluster, Aim(goal=goal)).home
        score(name, home, searched + time.perf_counter() - start)
    if runs:
        score("metis", *metis(tiles, task, volume=False, balance=BALANCE, runs=runs))
        score("metis_vol", *metis(tiles, task, volume=True, balance=BALANCE, runs=runs))
        score("mtkahypar", *mt_kahypar(tiles, task, balance=1.03, runs=runs))
        score("mtkahypar_columns", *mt_kahypar_columns(tiles, task, balance=BALANCE, runs=runs))
    start = time.perf_counter()
    regular = [home for name, home in starts_of(tiles, cluster).items() if name.startswith("blocks")]
    block = min(regular, key=lambda home: (excess(task, home) > 0.02, crossing(task, home)))
    score("block", block, time.perf_counter() - start)
    return scores


def line(scores: dict[str, Any]) -> str:
    parts = [f"{scores['net']:>9} {scores['machines']:>3} machines {scores['tiles']:>6} tiles"]
    for name, one in scores.items():
        if isinstance(one, dict):
            mark = " " if one["within_caps"] else "*"
            parts.append(
                f"{name} {one['bytes'] / 1e3:.1f} kB {one['phase_balance']:.2f}{mark} {one['step_s'] * 1e3:.3f} ms"
                f" ({one['seconds']:.1f} s)"
            )
    return " | ".join(parts)


RIVALS = ("metis", "metis_vol", "mtkahypar", "mtkahypar_columns", "block")


def table(found: list[dict[str, Any]]) -> str:
    """Rows as Markdown: ours, and of each other its bytes and its step in units of ours, with its phase balance."""
    head = ["net", "machines", "tiles", "ours: MB", "phases", "ms", "ours_fast", *RIVALS]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in found:
        ours = one["ours"]
        cells = [
            one["net"],
            one["machines"],
            one["tiles"],
            f"{ours['bytes'] / 1e6:.3g}",
            f"{ours['phase_balance']:.2f}",
        ]
        cells.append(f"{ours['step_s'] * 1e3:.3g}")
        for name in ("ours_fast", *RIVALS):
            if name not in one:
                cells.append("")
                continue
            other = one[name]
            mark = "" if other["phase_balance"] <= BALANCE else f" ({other['phase_balance']:.2f})"
            cells.append(f"{other['bytes'] / max(1, ours['bytes']):.2f}{mark}, {other['step_s'] / ours['step_s']:.2f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def claims(found: list[dict[str, Any]]) -> list[str]:
    """What the rows say of each rival together, then where one is better than ours in some way."""
    pairs = [(one, name) for one in found for name in RIVALS if name in one]
    lines = []
    for name in RIVALS:
        of = [one for one, other in pairs if other == name]
        fewer = [one for one in of if _times(one, name, "bytes") < 1]
        told = f"{name}: {len(of)} rows, {_range(of, name, 'bytes')} times our bytes, {_range(of, name, 'step_s')} times our step"
        if fewer:
            told += f"; in {len(fewer)} rows fewer bytes, and there {_range(fewer, name, 'step_s')} times our step"
        lines.append(told)
    for one, name in pairs:
        less, shorter = _times(one, name, "bytes"), _times(one, name, "step_s")
        where, even = f"{one['net']} on {one['machines']}: {name}", one[name]["phase_balance"]
        if less < 1 and even <= max(BALANCE, one["ours"]["phase_balance"]):
            lines.append(f"{where} moves {less:.3f} of ours, as evenly")
        if less <= 1 and shorter < 1:
            lines.append(f"{where} moves {less:.3f} of ours, in {shorter:.3f} of its step")
        if shorter < SHORTER:
            lines.append(f"{where} takes {shorter:.3f} of the step of ours, and moves {less:.3f} of its bytes")
        if one[name]["step_s"] < one["ours_fast"]["step_s"]:
            lines.append(
                f"{where} takes {one[name]['step_s'] / one['ours_fast']['step_s']:.3f} of the step of ours_fast"
            )
    return lines


def _times(one: dict[str, Any], name: str, what: str) -> float:
    """In units of ours."""
    return float(one[name][what] / max(1e-12, one["ours"][what]))


def _range(found: list[dict[str, Any]], name: str, what: str) -> str:
    times = [_times(one, name, what) for one in found]
    return f"{min(times):.3f} to {max(times):.2f}" if times else "no"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--machines", default=",".join(map(str, MACHINES)))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs of each rival")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="placements of rivals, kept from run to run")
    parser.add_argument("--no-peers", action="store_true", help="without METIS and Mt-KaHyPar")
    parser.add_argument("--table", nargs="+", type=Path, metavar="FILE", help="print rows of such JSON as Markdown")
    args = parser.parse_args()
    if args.table:
        read = [one for file in args.table for one in json.loads(file.read_text())["rows"]]
        print("\n".join([table(read), "", *claims(read)]))
        return
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    runs = None if args.no_peers else Runs(range(args.seeds), args.keep)
    for name in () if args.no_peers else ("pymetis", "mtkahypar"):
        try:
            peer(name)
        except ModuleNotFoundError as missing:
            parser.error(str(missing))
    found = []
    for scores in rows(args.nets.split(","), [int(n) for n in args.machines.split(",")], runs):
        found.append(scores)
        print(line(scores), file=sys.stderr if args.json else sys.stdout, flush=True)
    if args.json:
        print(json.dumps({"rows": found}))


if __name__ == "__main__":
    main()
