"""Seconds to compile, against the number of tiles: how the compiler grows with the plan.

    python -m benchmarks.compile_time [--json] [--out compile_time.png] [--machines 64] [--tiles 500 ... 20000] [--chain 100000]
                                      [--passes] [--kept rows.jsonl]

A row is a network of fully connected layers, as deep as gives about so many tiles on so many machines, compiled as a user would.
A tile is a kernel of the finished plan that computes: one machine's part of a product, of a sum, of a run of element-wise ops
that became one kernel. What only moves values (slices, blocks put together, messages) is counted in `instructions`.
The last row is a chain of element-wise ops, as many as nodes are asked for. With --passes each row has the seconds of each step of
making the plan that was kept, once more and alone; `layouts` is the search for it. With --kept rows are kept in a file, so that
they can be made in pieces.

`--smoke` runs small sizes in a few seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import rainshed as rs
from rainshed.compiler.collector import at_rest
from rainshed.compiler.lower import lower
from rainshed.compiler.machines import Cluster, Machine
from rainshed.compiler.partition.strategy import search_of
from rainshed.compiler.passes.schedule import schedule
from rainshed.compiler.pipeline import PLACED, SHARED
from rainshed.compiler.plan import Plan, Run
from rainshed.compiler.setting import Setting
from rainshed.compiler.simulate import simulate
from rainshed.ops.ir import Graph

TILES = (500, 1000, 2000, 5000, 10000, 20000)
WIDTH, BATCH = 1024, 1024
MOVING = ("slice", "assemble", "constant")  # kernels that compute nothing
SOME = 3  # layers of the network by which the tiles of one layer are counted


def layers(depth: int) -> Graph:
    """Fully connected layers of one width, and their training."""
    h, label = rs.input("x", (BATCH, WIDTH)), rs.input("label", (BATCH,), "int32")
    for _ in range(depth):
        h = rs.layers.dense(h, WIDTH, activation=rs.relu)
    return rs.graph(loss=rs.mean(rs.softmax_cross_entropy(h, label)), optimizer=rs.SGD(0.01))


def chain(length: int) -> Graph:
    """Element-wise ops, one after the other, with a loss behind them; differentiated, three times as many nodes."""
    h = rs.input("x", (8, 16)) * rs.variable("w", (16,), init=0.5)
    for i in range(length // 3):
        h = rs.tanh(h) if i % 2 else rs.exp(h)
    return rs.graph(loss=rs.mean(h * h))


def cluster_of(machines: int) -> Cluster:
    """Equal machines with memory for all of these networks."""
    return Cluster(machines=tuple(Machine(name=f"m{i}", memory_bytes=2**40) for i in range(machines)))


def tiles_of(plan: Plan) -> int:
    """Kernels that compute."""
    return sum(isinstance(i, Run) and i.op not in MOVING for p in plan.programs for i in p.instructions)


def depths_for(tiles: Sequence[int], cluster: Cluster) -> list[int]:
    """How many layers give about so many tiles, judged by two small networks that use all machines."""
    few, more = (tiles_of(rs.compile(layers(n), cluster, strategy="even")) for n in (SOME, 2 * SOME))
    return [max(1, SOME + round((count - few) * SOME / max(1, more - few))) for count in tiles]


def row(graph: Graph, cluster: Cluster, net: str, *, steps: bool) -> dict[str, Any]:
    """`steps`: with the seconds of each."""
    begin, busy = time.perf_counter(), time.process_time()
    plan = rs.compile(graph, cluster)
    seconds, processor = time.perf_counter() - begin, time.process_time() - busy
    return {
        "net": net,
        "machines": len(cluster.machines),
        "nodes": len(graph.nodes()),
        "tiles": tiles_of(plan),
        "instructions": sum(len(p.instructions) for p in plan.programs),
        "messages": len(plan.transfers),
        "plans": sum(key.startswith("tried ") for key in plan.notes),
        "strategy": plan.notes["strategy"],
        "seconds": round(seconds, 3),
        "processor_seconds": round(processor, 3),
        **({"passes": passes(graph, cluster, plan.notes["strategy"])} if steps else {}),
    }


def passes(graph: Graph, cluster: Cluster, strategy: str) -> dict[str, float]:
    """Seconds of each step of making one plan."""
    found: dict[str, float] = {}

    def timed(name: str, step: Callable[..., Any], *given: Any) -> Any:
        begin = time.perf_counter()
        result = step(*given)
        found[name] = round(time.perf_counter() - begin, 4)
        return result

    setting = Setting(cluster=cluster, strategy=strategy)
    with at_rest():
        for step in SHARED:
            graph = timed(step.__name__, step, graph, setting)
        timed("layouts", search_of, graph, setting)
        for step in PLACED:
            graph = timed(step.__name__, step, graph, setting)
        order = timed("schedule", schedule, graph, setting)
        programs, transfers = timed("lower", lower, graph, order, setting)
        timed("simulate", simulate, programs, transfers, cluster)
    return found


def line(found: dict[str, Any]) -> str:
    slowest = sorted(found.get("passes", {}).items(), key=lambda item: -item[1])[:4]
    one = "; one: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in slowest) if slowest else ""
    return (
        f"{found['net']:<12}{found['machines']:3d} machines {found['nodes']:7d} nodes {found['tiles']:6d} tiles "
        f"{found['instructions']:7d} instructions {found['seconds']:8.2f} s "
        f"({found['processor_seconds']:.2f} s of a processor), {found['plans']} plans{one}"
    )


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Tiles against seconds, one line per number of machines, and a straight line of growth in proportion."""
    import matplotlib  # noqa: PLC0415  of the extra [bench]; needed for the picture only

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415  after the choice of back end

    figure, axes = pyplot.subplots(figsize=(7, 5))
    nets = [r for r in rows if r["net"] == "layers"]
    for machines in dict.fromkeys(r["machines"] for r in nets):
        own = sorted((r["tiles"], r["seconds"]) for r in nets if r["machines"] == machines)
        axes.loglog([t for t, _ in own], [s for _, s in own], marker="o", label=f"{machines} machines")
        first = own[0]
        axes.loglog([t for t, _ in own], [first[1] * t / first[0] for t, _ in own], "--", color="grey", linewidth=0.8)
    axes.set_xlabel("tiles")
    axes.set_ylabel("seconds to compile (dashed: in proportion to tiles)")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object at the end")
    parser.add_argument("--out", type=Path, help="a picture: tiles against seconds")
    parser.add_argument("--machines", type=int, nargs="+", default=[64])
    parser.add_argument("--tiles", type=int, nargs="*", default=list(TILES))
    parser.add_argument("--chain", type=int, default=100_000, help="nodes of the chain; 0: no chain")
    parser.add_argument("--passes", action="store_true", help="the seconds of each step of making a plan")
    parser.add_argument("--kept", type=Path, help="a file of rows: new ones are added, and all are drawn and printed")
    parser.add_argument("--smoke", action="store_true", help="small sizes only")
    args = parser.parse_args()
    if args.smoke:
        args.machines, args.tiles, args.chain = [4], [100, 200], 300
    rows = [json.loads(text) for text in args.kept.read_text().splitlines()] if args.kept and args.kept.exists() else []
    for graph, machines, net in asked(args):
        rows.append(row(graph, cluster_of(machines), net, steps=args.passes))
        if not args.json:
            print(line(rows[-1]), flush=True)
        if args.kept:
            with args.kept.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    if args.out:
        draw(rows, args.out)
    if args.json:
        print(json.dumps({"rows": rows}))


def asked(args: argparse.Namespace) -> Iterator[tuple[Graph, int, str]]:
    """The networks, the machines of each, and their kinds."""
    for machines in args.machines:
        for depth in depths_for(args.tiles, cluster_of(machines)) if args.tiles else ():
            yield layers(depth), machines, "layers"
    if args.chain:
        yield chain(args.chain), 4, "chain"


if __name__ == "__main__":
    main()
