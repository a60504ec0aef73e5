"""The picture of benchmarks/figure3.py: speed-up against machines; our plans as lines, the paper's points as hollow markers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figure3_nets import NETWORKS

try:
    import matplotlib
    from matplotlib.figure import Figure
except ModuleNotFoundError:  # only the picture needs it
    Figure = None

COLOURS: Mapping[str, str] = dict(
    zip(NETWORKS, ("#0072b2", "#d55e00", "#009e73", "#7b3294"), strict=True)  # apart for colour-blind readers, too
)
MARKERS: Mapping[str, str] = dict(zip(NETWORKS, "osD^", strict=True))
TICKS = (1, 2, 4, 8, 16, 32, 64, 144)
STYLES = {"layers": ":", "grids": "-."}  # of plans made by hand; others are dashed
Row = Mapping[str, Any]


def draw(rows: Sequence[Row], assumptions: Mapping[str, float], path: str) -> None:
    """Writes .svg or .png. Raises SystemExit where matplotlib is missing."""
    if Figure is None:
        raise SystemExit("the picture needs matplotlib: pip install 'rainshed[bench]'")
    nets = list(dict.fromkeys(row["net"] for row in rows))
    with matplotlib.rc_context({"svg.hashsalt": "figure3", "font.size": 9}):
        figure = Figure(figsize=(5.2 * len(nets[:2]), 3.9 * -(-len(nets) // 2) + 0.4), layout="constrained")
        axes = figure.subplots(-(-len(nets) // 2), len(nets[:2]), squeeze=False).flatten()
        for ax, net in zip(axes, nets, strict=False):
            _panel(ax, net, [row for row in rows if row["net"] == net])
        for ax in axes[len(nets) :]:
            ax.remove()
        figure.supxlabel(_caption(assumptions), fontsize=7.5)
        figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None, dpi=110)


def _panel(ax: Any, net: str, rows: list[Row]) -> None:
    network, colour = NETWORKS[net], COLOURS[net]
    for plan in dict.fromkeys(name for row in rows for name in row["plans"]):
        points = {1: 1.0} | {row["machines"]: row["plans"][plan]["speedup"] for row in rows if plan in row["plans"]}
        x, y = list(points), list(points.values())
        if plan == "auto":
            ax.plot(x, y, color=colour, linewidth=2, marker=".", markersize=7, label="automatic plan", zorder=3)
        else:
            style = STYLES.get(plan, "--")
            ax.plot(
                x, y, color="0.35", linestyle=style, linewidth=1.3, marker=".", markersize=4, label=f"by hand: {plan}"
            )
    shown = {m: s for m, s in network.paper.items() if m not in network.clipped}
    edge = [(m, network.paper[m]) for m in network.clipped]
    line = sorted([*shown.items(), *edge])
    ax.plot(*zip(*line, strict=True), color=colour, linewidth=0.6, alpha=0.6)
    ax.plot(
        *zip(*shown.items(), strict=True), MARKERS[net], mec=colour, mfc="white", markersize=6, label="paper", zorder=4
    )
    if net == "images 1.7B":
        ax.plot(
            [81], [12], marker="*", mec=colour, mfc="white", markersize=10, linestyle="", label="paper's text", zorder=4
        )
    ax.set_xscale("log", base=2)
    ax.set_xticks(TICKS, [str(t) for t in TICKS])
    ax.set_xlim(0.93, 165)
    ax.set_ylim(0, None)
    ax.set_title(net)
    ax.set_xlabel("machines for one model instance")
    ax.set_ylabel("speed-up against one machine")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize=8, loc="upper left")


def _caption(given: Mapping[str, float]) -> str:
    jitter = f", kernels vary by {given['jitter']:g}" if given["jitter"] else ""
    machine = f"{given['cores']:g} cores of {given['flops'] / 1e9:g} GFLOP/s, {given['memory_bytes_per_s'] / 1e9:g} GB/s of memory"
    network = (
        f"{given['network_bits_per_s'] / 1e9:g} Gbit/s, latency {given['latency_s'] * 1e6:g} µs,"
        f" {given['message_s'] * 1e6:g} µs per message at each end"
    )
    return f"Simulated. A machine: {machine}; network: {network}; mini-batch {given['batch']:g}{jitter}"
