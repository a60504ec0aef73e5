"""How the work of each layer is cut, and how evenly its machines share it, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple, TypeVar

from rainshed.compiler.plan import Plan, Run
from rainshed.ops.access import Box

# Ops that bring parts together, take them apart or add partial sums: the tiles that others compute are what is cut.
_PARTS = ("assemble", "slice", "add", "maximum", "minimum", "multiply")

Key = TypeVar("Key", bound=Hashable)


class Cut(NamedTuple):
    """The tiles of the op that computes most in a layer.

    whole  shape of its value before it was split; empty if the plan does not say
    parts  into how many pieces each axis is cut
    same   tiles for each piece: more than one where partial sums are added up, or where the op is repeated
    """

    op: str
    whole: tuple[int, ...]
    parts: tuple[int, ...]
    same: int
    machines: int

    @property
    def text(self) -> str:
        """As people read it: "conv2d [4, 96, 96, 48]: axis 1 in 8, axis 2 in 8"."""
        axes = [f"axis {i} in {n}" for i, n in enumerate(self.parts) if n > 1]
        if self.same > 1:
            axes.append(f"{self.same} for each part")
        return f"{self.op} {list(self.whole)}: {', '.join(axes) or 'whole'}"

    @property
    def short(self) -> str:
        """Only the cut: "1 x 8 x 8 x 1"."""
        if prod(self.parts) * self.same == 1:
            return "whole"
        grid = " x ".join(map(str, self.parts)) or "1"
        return grid + (f", {self.same} each" if self.same > 1 else "")


@dataclass(slots=True)
class Spread:
    """Flops of each machine in a layer: `work[False]` of the forward pass, `work[True]` of the backward pass."""

    work: dict[bool, dict[str, int]] = field(default_factory=lambda: {False: {}, True: {}})
    cut: Cut | None = None

    def seconds(self, speeds: Mapping[str, float]) -> tuple[float, float]:
        """Seconds of arithmetic if each pass waits for its slowest machine, and if it were spread evenly."""
        slowest = even = 0.0
        for share in self.work.values():
            slowest += max((flops / speeds[m] for m, flops in share.items()), default=0.0)
            even += sum(share.values()) / sum(speeds.values())
        return slowest, even

    def balance(self, speeds: Mapping[str, float]) -> float | None:
        """Its phase balance: the first of these seconds over the second; 1 is perfect. None without arithmetic."""
        slowest, even = self.seconds(speeds)
        return slowest / even if even > 0 else None

    def shares(self, speeds: Mapping[str, float]) -> list[float]:
        """What each machine does, over what it would do if all worked equally long."""
        total = sum(sum(share.values()) for share in self.work.values())
        all_speed = sum(speeds.values())
        done = {m: sum(share.get(m, 0) for share in self.work.values()) for m in speeds}
        return [done[m] * all_speed / (total * speed) if total else 0.0 for m, speed in speeds.items()]


def speeds_of(plan: Plan) -> dict[str, float]:
    """Flops per second of each machine, its units included; all equal where the plan does not say."""
    rows = {row["name"]: row for row in plan.cluster.get("machine", ())}
    found = {m: _speed(rows[m]) if m in rows else 0.0 for m in plan.machines}
    return found if min(found.values(), default=0.0) > 0 else dict.fromkeys(found, 1.0)


def _speed(row: Mapping[str, Any]) -> float:
    return float(row.get("flops", 0.0)) + sum(float(unit.get("flops", 0.0)) for unit in row.get("unit", ()))


def spreads(plan: Plan, layer_of: Callable[[Run], Key]) -> dict[Key, Spread]:
    """The spread of every layer."""
    found: dict[Key, Spread] = {}
    tiles: dict[Key, dict[tuple[bool, str, str], list[_Tile]]] = {}
    for program in plan.programs:
        for run in program.instructions:
            if not isinstance(run, Run):
                continue
            layer = layer_of(run)
            share = found.setdefault(layer, Spread()).work[run.backward]
            share[program.machine] = share.get(program.machine, 0) + run.flops
            if run.outputs and run.op not in _PARTS:
                value = program.values[run.outputs[0]]
                tile = _Tile(program.machine, value.box, run.flops)
                tiles.setdefault(layer, {}).setdefault((run.backward, run.op, value.of), []).append(tile)
    for layer, groups in tiles.items():
        forward = {key: group for key, group in groups.items() if not key[0]} or groups
        (_, op, _), main = max(forward.items(), key=lambda item: sum(t.flops for t in item[1]))
        found[layer].cut = _cut(op, main)
    return found


def balance_of(layers: Mapping[Key, Spread], speeds: Mapping[str, float]) -> float | None:
    """The phase balance of a plan: its layers one after the other, each pass at its slowest machine, over an even spread."""
    both = [spread.seconds(speeds) for spread in layers.values()]
    slowest, even = sum(a for a, _ in both), sum(b for _, b in both)
    return slowest / even if even > 0 else None


class _Tile(NamedTuple):
    machine: str
    box: Box | None
    flops: int


def _cut(op: str, tiles: list[_Tile]) -> Cut:
    boxes = {t.box for t in tiles if t.box is not None}
    ranks = {len(box) for box in boxes}
    machines = len({t.machine for t in tiles})
    if len(ranks) != 1:  # nothing is known of their places, or they are of several values
        return Cut(op, (), (len(tiles),), 1, machines)
    axes = list(zip(*boxes, strict=True))
    whole = tuple(max(high for _, high in axis) - min(low for low, _ in axis) for axis in axes)
    return Cut(op, whole, tuple(len(set(axis)) for axis in axes), -(-len(tiles) // len(boxes)), machines)
