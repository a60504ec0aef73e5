"""Placing the tiles of a graph: many seeds, each refined under caps, the best by simulated step or by bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from rainshed.compiler.machines import Cluster
from rainshed.compiler.partition.atoms import Tiling
from rainshed.compiler.partition.refine import KICKS, Task, contract, crossing, excess, loads, refine
from rainshed.compiler.partition.seeds import bisected, blocks, columns, earliest_finish, layers_in_turn, machine_grids
from rainshed.compiler.partition.simulate_tiles import Rates, simulate_tiles

BALANCE = 1.10  # a machine's share of a heavy layer's work, over the even share, may be this
COLUMN_KICKS = 200  # columns are few
KEPT = 4  # seeds that are refined
NEARLY = 0.02  # over its cap a seed may be: refinement brings it back


@dataclass(frozen=True, slots=True)
class Aim:
    """What counts: the fewest bytes under the caps, or the shortest simulated step among what is found.

    phases  whether each heavy layer is balanced by itself, or only all work together
    slack   with `by_step`: how many times the fewest bytes a placement with a shorter step may move
    """

    balance: float = BALANCE
    phases: bool = True
    kicks: int = KICKS
    seed: int = 0
    by_step: bool = False
    slack: float = 1.1
    starts: Mapping[str, np.ndarray] = field(default_factory=dict, hash=False, compare=False)  # beside our own


@dataclass(frozen=True, slots=True)
class Placement:
    """The machine of each vertex, from which seed it came, and what it costs."""

    home: np.ndarray
    start: str
    nbytes: int
    messages: int
    phase_balance: float
    step_s: float
    excess: float


def task_of(tiling: Tiling, cluster: Cluster, aim: Aim, fixed: np.ndarray | None = None) -> Task:
    """The caps: memory, all work, and the work of each heavy layer, in proportion to the machines' speed.

    A cap is never less than what the coarsest tile makes unavoidable.
    """
    speed = np.array([m.flops for m in cluster.machines], float)
    share = speed / speed.sum()
    columns = [tiling.work, *(np.where(tiling.layer == i, tiling.work, 0.0) for i in range(len(tiling.layers)))]
    if not aim.phases:
        columns = columns[:1]
    caps = [_caps(column, share, aim.balance) for column in columns]
    memory = np.array([m.memory_bytes for m in cluster.machines], float)
    return Task(
        starts=tiling.starts,
        pins=tiling.pins,
        weight=tiling.weight,
        load=np.stack([*columns, tiling.nbytes.astype(float)], axis=1),
        caps=np.stack([*caps, memory]),
        fixed=np.full(tiling.vertices, -1, np.int64) if fixed is None else fixed,
        group=tiling.layer,
    )


def _caps(work: np.ndarray, share: np.ndarray, balance: float) -> np.ndarray:
    """Per machine. Tiles are whole: a machine whose fair share is 2.25 tiles must be allowed 3."""
    total, coarsest = work.sum(), work.max(initial=0.0)
    fair = total * share
    if coarsest <= 0:
        return np.full(len(share), 1.0)
    return np.maximum(balance * fair, np.ceil(fair / coarsest - 1e-9) * coarsest)  # type: ignore[no-any-return]


def place_tiles(tiling: Tiling, cluster: Cluster, aim: Aim, fixed: np.ndarray | None = None) -> Placement:
    """The best placement found. Deterministic: the same arguments give the same placement."""
    task = task_of(tiling, cluster, aim, fixed)
    seeds = {**aim.starts, **starts_of(tiling, cluster)}
    seeds |= _column_seeds(tiling, task, seeds, aim)
    found: list[Placement] = []
    for name in _cheapest(task, seeds, KEPT):
        short = refine(task, seeds[name], seed=aim.seed, kicks=0)
        found.append(measure(tiling, task, cluster, short, name))
        if aim.by_step and not (fixed is not None and (fixed >= 0).any()):
            found.append(measure(tiling, task, cluster, seeds[name], name))
    if aim.kicks:
        best = min(found, key=lambda p: (p.excess, p.nbytes))
        long = refine(task, best.home, seed=aim.seed, kicks=aim.kicks)
        found.append(measure(tiling, task, cluster, long, best.start))
    return _chosen(found, aim)


def _chosen(found: list[Placement], aim: Aim) -> Placement:
    """The fewest bytes under the caps; or, of those that keep them as well and move little more, the shortest step."""
    least = min(found, key=lambda p: (p.excess, p.nbytes, p.step_s))
    if not aim.by_step:
        return least
    near = [p for p in found if p.excess <= least.excess and p.nbytes <= aim.slack * least.nbytes]
    return min(near, key=lambda p: (p.step_s, p.nbytes))


def _cheapest(task: Task, seeds: Mapping[str, np.ndarray], count: int) -> list[str]:
    """The names of some seeds with different costs, those that nearly keep the caps first, then by bytes."""
    scored = sorted((excess(task, home) > NEARLY, crossing(task, home), name) for name, home in seeds.items())
    distinct: dict[int, str] = {}
    for _, nbytes, name in scored:
        distinct.setdefault(nbytes, name)
    return list(distinct.values())[:count]


def _column_seeds(tiling: Tiling, task: Task, seeds: Mapping[str, np.ndarray], aim: Aim) -> dict[str, np.ndarray]:
    """Columns of tiles at one place of every layer, placed like the best seeds and refined as one; none where places differ."""
    joined = columns(tiling)
    if joined is None:
        return {}
    of, count = joined
    coarse = contract(task, of, count)
    found = {}
    for name in _cheapest(task, seeds, 3):
        home = np.zeros(count, np.int64)
        home[of] = seeds[name]
        found[f"columns of {name}"] = refine(coarse, home, seed=aim.seed, kicks=min(COLUMN_KICKS, 20 * aim.kicks))[of]
    return found


def starts_of(tiling: Tiling, cluster: Cluster) -> dict[str, np.ndarray]:
    """Placements by geometry, and layers in turn."""
    speed = np.array([m.flops for m in cluster.machines], float)
    machines = len(speed)
    found = {}
    if np.ptp(speed) == 0:
        found = {f"blocks {'x'.join(map(str, grid))}": blocks(tiling, grid) for grid in machine_grids(machines)}
    found |= {f"bisected {d}": bisected(tiling, speed, d) for d in range(3)}
    found["layers"] = layers_in_turn(tiling, speed)
    found["earliest"] = earliest_finish(tiling, speed, 1 / cluster.default_link.bytes_per_s)
    distinct: dict[bytes, str] = {}
    return {name: home for name, home in found.items() if distinct.setdefault(home.tobytes(), name) == name}


def measure(tiling: Tiling, task: Task, cluster: Cluster, home: np.ndarray, start: str) -> Placement:
    """What a placement costs."""
    speed = np.array([m.flops for m in cluster.machines], float)
    link = cluster.default_link
    step_s, messages = simulate_tiles(tiling.tasks, home, Rates(speed, link.bytes_per_s, link.latency_s))
    return Placement(
        home=home,
        start=start,
        nbytes=crossing(task, home),
        messages=messages,
        phase_balance=phase_balance(tiling, cluster, home),
        step_s=step_s,
        excess=excess(task, home),
    )


def phase_balance(tiling: Tiling, cluster: Cluster, home: np.ndarray) -> float:
    """Time of the heavy layers one after the other, each at its slowest machine, over that of an even spread; 1 is perfect."""
    speed = np.array([m.flops for m in cluster.machines], float)
    task = replace(task_of(tiling, cluster, Aim()))
    heavy = loads(task, home)[1 : 1 + len(tiling.layers)]
    if not len(heavy):
        return 1.0
    return float((heavy / speed).max(axis=1).sum() / (heavy.sum() / speed.sum()))
