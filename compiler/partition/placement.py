"""Placing the tiles of a graph: many seeds, each refined under caps, the best by simulated step or by bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rainshed.compiler.machines import Cluster
from rainshed.compiler.partition.atoms import Tiling
from rainshed.compiler.partition.multilevel import afresh, again
from rainshed.compiler.partition.refine import Task, contract, crossing, excess, refine
from rainshed.compiler.partition.seeds import bisected, blocks, columns, earliest_finish, layers_in_turn, machine_grids
from rainshed.compiler.partition.simulate_tiles import Rates, simulate_tiles

BALANCE = 1.10  # a machine's share of a heavy layer's work, over the even share, may be this
COLUMN_KICKS = 200  # columns are few
KEPT = 4  # seeds that are refined
NEARLY = 0.02  # over its cap a seed may be: refinement brings it back
TRIES = 6  # joinings without success, after which the search ends
MOST_PINS = 2_000_000  # that all joinings of one search go through: of large hypergraphs there are fewer
BAND = 0.02  # of all work: light layers, one after the other, that have to be spread evenly together


@dataclass(frozen=True, slots=True)
class Aim:
    """What counts: the fewest bytes under the caps, or, with `by_step`, the shortest simulated step among what is found.

    balance  of each heavy layer
    slack    with `by_step`: how many times the fewest bytes a placement with a shorter step may move
    tries    joinings without success, after which the search ends; 0: only seeds, each refined
    """

    balance: float = BALANCE
    tries: int = TRIES
    seed: int = 0
    by_step: bool = False
    slack: float = 1.1


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
    """The caps that have to be kept: memory, and the work of each heavy layer in proportion to the machines' speed.

    Without heavy layers it is all work. A cap is never less than what the coarsest tile makes unavoidable.
    """
    layers = [np.where(tiling.layer == i, tiling.work, 0.0) for i in range(len(tiling.layers))]
    return _task(tiling, cluster, aim, layers or [tiling.work], fixed)


def _even(tiling: Tiling, cluster: Cluster, aim: Aim, fixed: np.ndarray | None) -> Task | None:
    """With caps for the light layers between the heavy ones, too; None where they do next to no work."""
    light = np.where(tiling.layer < 0, tiling.work, 0.0)
    if light.sum() <= BAND * tiling.work.sum():
        return None
    layers = [np.where(tiling.layer == i, tiling.work, 0.0) for i in range(len(tiling.layers))]
    band = (np.cumsum(light) / (BAND * tiling.work.sum())).astype(int)
    bands = [np.where(band == i, light, 0.0) for i in range(int(band.max()) + 1)]
    return _task(tiling, cluster, aim, [*layers, *bands], fixed)


def _task(tiling: Tiling, cluster: Cluster, aim: Aim, works: list[np.ndarray], fixed: np.ndarray | None) -> Task:
    speed = np.array([m.flops for m in cluster.machines], float)
    memory = np.array([m.memory_bytes for m in cluster.machines], float)
    return Task(
        starts=tiling.starts,
        pins=tiling.pins,
        weight=tiling.weight,
        load=np.stack([*works, tiling.nbytes.astype(float)], axis=1),
        caps=np.stack([*(_caps(work, speed / speed.sum(), aim.balance) for work in works), memory]),
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
    """The best placement found. Deterministic: the same arguments give the same placement.

    fixed  i64[vertices]: the machine of each vertex that has to be on a certain one, or -1
    """
    task, even = task_of(tiling, cluster, aim, fixed), _even(tiling, cluster, aim, fixed)
    seeds = starts_of(tiling, cluster)
    seeds |= _column_seeds(tiling, task, seeds, aim)
    found = _searched(even, seeds, aim) if even else []
    more = {f"even {name}": home for home, name in found[:1]}
    found += _searched(task, {**seeds, **more}, aim)
    return _chosen([measure(tiling, task, cluster, home, name) for home, name in found], aim)


def _chosen(found: list[Placement], aim: Aim) -> Placement:
    """The fewest bytes under the caps; or, of those that keep them as well and move little more, the shortest step."""
    least = min(found, key=lambda p: (p.excess, p.nbytes, p.step_s))
    if not aim.by_step:
        return least
    near = [p for p in found if p.excess <= least.excess and p.nbytes <= aim.slack * least.nbytes]
    return min(near, key=lambda p: (p.step_s, p.nbytes))


def _searched(task: Task, seeds: Mapping[str, np.ndarray], aim: Aim) -> list[tuple[np.ndarray, str]]:
    """Placements from the cheapest seeds, and from which seed each came: refined, joined and taken apart, mixed."""
    found = [(refine(task, seeds[name], seed=aim.seed, kicks=0), name) for name in _cheapest(task, seeds, KEPT)]
    if not aim.tries:
        return found

    def cost(one: tuple[np.ndarray, str]) -> tuple[float, int]:
        return round(excess(task, one[0]), 9), crossing(task, one[0])

    found += [(again(task, home, aim.seed), name) for home, name in found]
    found.append((afresh(task, [home for home, _ in found], aim.seed), "afresh"))
    found = sorted(found, key=cost)
    failed, last = 0, aim.seed + max(aim.tries, MOST_PINS // len(task.pins))
    for seed in range(aim.seed + 1, last + 1):
        if failed > aim.tries:
            break
        home, name = found[0]
        if seed % 3 == 0:
            new = afresh(task, [home for home, _ in found[:KEPT]], seed), "afresh"
        else:
            other = found[1 + failed % (len(found) - 1)][0] if seed % 3 == 1 and len(found) > 1 else None
            new = again(task, home, seed, other), name
        failed = 0 if cost(new) < cost(found[0]) else failed + 1
        found = sorted([*found, new], key=cost)
    return found


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
        found[f"columns of {name}"] = refine(coarse, home, seed=aim.seed, kicks=COLUMN_KICKS if aim.tries else 0)[of]
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
    works = [
        np.bincount(home, np.where(tiling.layer == i, tiling.work, 0.0), len(speed)) for i in range(len(tiling.layers))
    ]
    heavy = np.array(works)
    if not len(heavy):
        return 1.0
    return float((heavy / speed).max(axis=1).sum() / (heavy.sum() / speed.sum()))
