"""Our placement of tiles beside that of METIS, of Mt-KaHyPar and of natural blocks, on one and the same hypergraph.

    python -m benchmarks.partition [--json] [--nets local3,speech42] [--machines 4,9,16] [--parts 576]

All scores are recomputed here from the placements: bytes of one training step, messages, phase balance (time of the heavy layers
one after the other, over an even spread) and simulated step. METIS has one constraint per heavy layer. Mt-KaHyPar is balanced
in total only, which is all that it can; so is `ours_total`, of which the shortest step counts. `mtkahypar_columns` places
columns of tiles of all layers, where the layers have the same places. `block` is the best regular grid of equal blocks, as
made by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mtkahypar
import numpy as np

from benchmarks.nets import NETS
from benchmarks.rivals import metis, mt_kahypar, mt_kahypar_columns
from rainshed.compiler.machines import Cluster, Link, Machine
from rainshed.compiler.partition.atoms import Tiling, tiling
from rainshed.compiler.partition.placement import BALANCE, Aim, measure, place_tiles, starts_of, task_of
from rainshed.compiler.partition.refine import crossing, excess
from rainshed.compiler.passes.merge_equal import merge_equal
from rainshed.compiler.passes.simplify import simplify
from rainshed.compiler.setting import Setting

MACHINES = (2, 3, 4, 7, 8, 9, 16, 36, 64)
PARTS = {"lstm": 144, "resnet50": 64, "densenet121": 36}  # tiles per heavy layer, where not DEFAULT_PARTS
DEFAULT_PARTS = 576
SEEDS = range(3)  # runs of each rival, of which the best counts


def cluster_of(machines: int) -> Cluster:
    """Equal machines of 40 GFLOP/s, joined by 10 Gbit/s."""
    each = tuple(Machine(name=f"m{i}", flops=40e9, memory_bytes=2**36) for i in range(machines))
    return Cluster(machines=each, default_link=Link(1.25e9, 30e-6))


def tiling_of(net: str, parts: int) -> Tiling:
    setting = Setting(cluster=Cluster.local(1))
    return tiling(merge_equal(simplify(NETS[net](), setting), setting), parts)


def rows(nets: list[str], machines: list[int], parts: int | None, seeds: range) -> list[dict[str, Any]]:
    library = mtkahypar.initialize(2)
    found = []
    for net in nets:
        tiles = tiling_of(net, parts or PARTS.get(net, DEFAULT_PARTS))
        for count in machines:
            found.append(row(net, tiles, cluster_of(count), seeds, library))
            print(line(found[-1]), flush=True)
    return found


def row(net: str, tiles: Tiling, cluster: Cluster, seeds: range, library: Any) -> dict[str, Any]:
    aim = Aim(by_step=True)
    task = task_of(tiles, cluster, aim)

    def block() -> np.ndarray:
        regular = {k: h for k, h in starts_of(tiles, cluster).items() if k.startswith("blocks")}
        return min(regular.values(), key=lambda home: (excess(task, home) > 0.02, crossing(task, home)))

    makers: dict[str, Callable[[], np.ndarray | None]] = {
        "ours": lambda: place_tiles(tiles, cluster, aim).home,
        "ours_total": lambda: place_tiles(tiles, cluster, replace(aim, phases=False, slack=math.inf)).home,
        "metis": lambda: metis(tiles, task, volume=False, balance=BALANCE, seeds=seeds),
        "metis_vol": lambda: metis(tiles, task, volume=True, balance=BALANCE, seeds=seeds),
        "mtkahypar": lambda: mt_kahypar(tiles, task, balance=1.03, seeds=seeds, library=library),
        "mtkahypar_columns": lambda: mt_kahypar_columns(tiles, task, balance=BALANCE, seeds=seeds, library=library),
        "block": block,
    }
    scores: dict[str, Any] = {"net": net, "machines": len(cluster.machines), "tiles": tiles.vertices}
    for name, make in makers.items():
        start = time.perf_counter()
        home = make()
        seconds = time.perf_counter() - start
        if home is None:
            continue
        placed = measure(tiles, task, cluster, home, name)
        scores[name] = {
            "bytes": placed.nbytes,
            "messages": placed.messages,
            "phase_balance": round(placed.phase_balance, 4),
            "within_caps": placed.excess == 0,
            "step_s": placed.step_s,
            "seconds": round(seconds, 3),
        }
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
    """Rows as Markdown: ours, and of each rival its bytes and its step in units of ours, with its phase balance."""
    head = ["net", "machines", "tiles", "ours: MB", "phases", "ms", *RIVALS]
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
        for name in RIVALS:
            if name not in one:
                cells.append("")
                continue
            other = one[name]
            mark = "" if other["phase_balance"] <= BALANCE else f" ({other['phase_balance']:.2f})"
            cells.append(f"{other['bytes'] / max(1, ours['bytes']):.2f}{mark}, {other['step_s'] / ours['step_s']:.2f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--machines", default=",".join(map(str, MACHINES)))
    parser.add_argument("--parts", type=int, help="tiles per heavy layer")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="runs of each rival")
    parser.add_argument("--table", nargs="+", type=Path, metavar="FILE", help="print rows of such JSON as Markdown")
    args = parser.parse_args()
    if args.table:
        print(table([one for file in args.table for one in json.loads(file.read_text().splitlines()[-1])["rows"]]))
        return
    found = rows(args.nets.split(","), [int(n) for n in args.machines.split(",")], args.parts, range(args.seeds))
    if args.json:
        print(json.dumps({"rows": found}))


if __name__ == "__main__":
    main()
