"""Placing the tiles of a graph: many seeds, each refined under caps; of all the best by bytes, by step, or by both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from typing import Literal

import numpy as np

from rainshed.compiler.machines import Cluster
from rainshed.compiler.partition.atoms import Tiling
from rainshed.compiler.partition.hasten import hasten
from rainshed.compiler.partition.multilevel import afresh, again
from rainshed.compiler.partition.refine import Task, contract, crossing, excess, refine
from rainshed.compiler.partition.seeds import bisected, blocks, columns, earliest_finish, layers_in_turn, machine_grids
from rainshed.compiler.partition.simulate_tiles import Rates, simulate_tiles

Goal = Literal["bytes", "both", "step"]
BALANCE = 1.10  # a machine's share of a heavy layer's work, over the even share, may be this
COLUMN_KICKS = 200  # columns are few
KEPT = 4  # seeds that are refined
NEARLY = 0.02  # over its cap a seed may be: refinement brings it back
TRIES = 6  # joinings without success, after which the search ends
LEAST, MOST = 2, 40  # joinings of one search
MOST_PINS = 10_000_000  # times machines, that all of them go through
SOME = 0.998  # of the bytes at most must be left for a joining to be a success
NO_RATE = 1e-3  # bytes per second between machines without a link: a step that needs it takes for ever
EXCHANGED = 200  # pairs of machines at most
SIMULATED = 1000  # placements at most, for each that is hastened
MOST_STEPS = 200_000_000  # of the loops of all these simulations
HASTENED = 2  # placements whose steps are shortened without caps of layers
LOOSE = 1.25  # of the even share of all work a machine may have, where only the step counts
BAND = 0.02  # of all work: light layers, one after the other, that have to be spread evenly together


@dataclass(frozen=True, slots=True)
class Aim:
    """What counts.

    goal     "bytes": the fewest under the caps; "both": under the caps the least product of bytes and seconds of a step, a percent
             more of one being worth a percent less of the other; "step": the shortest step, whatever crosses, within memory
    balance  of each heavy layer, which the caps allow
    slack    with "both": how many times the fewest bytes a placement may move at most
    tries    joinings without success, after which the search ends; 0: only seeds, each refined
    """

    goal: Goal = "bytes"
    balance: float = BALANCE
    tries: int = TRIES
    seed: int = 0
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


def task_of(tiling: Tiling, cluster: Cluster, aim: Aim) -> Task:
    """The caps that have to be kept: memory, and the work of each heavy layer in proportion to the machines' speed.

    Without heavy layers it is all work. A cap is never less than what the coarsest tile makes unavoidable. Pins hold.
    """
    layers = [np.where(tiling.layer == i, tiling.work, 0.0) for i in range(len(tiling.layers))]
    return _task(tiling, cluster, aim, layers or [tiling.work])


def _even(tiling: Tiling, cluster: Cluster, aim: Aim) -> Task | None:
    """With caps for the light layers between the heavy ones, too; None where they do next to no work."""
    light = np.where(tiling.layer < 0, tiling.work, 0.0)
    if light.sum() <= BAND * tiling.work.sum():
        return None
    layers = [np.where(tiling.layer == i, tiling.work, 0.0) for i in range(len(tiling.layers))]
    band = (np.cumsum(light) / (BAND * tiling.work.sum())).astype(int)
    bands = [np.where(band == i, light, 0.0) for i in range(int(band.max()) + 1)]
    return _task(tiling, cluster, aim, [*layers, *bands])


def _task(tiling: Tiling, cluster: Cluster, aim: Aim, works: list[np.ndarray]) -> Task:
    speed = np.array([m.flops for m in cluster.machines], float)
    fixed = np.full(tiling.vertices, -1, np.int64)
    for vertex, name in tiling.pinned.items():
        fixed[vertex] = cluster.names.index(name)
    memory = np.array([m.memory_bytes for m in cluster.machines], float)
    return Task(
        starts=tiling.starts,
        pins=tiling.pins,
        weight=tiling.weight,
        load=np.stack([*works, tiling.nbytes.astype(float)], axis=1),
        caps=np.stack([*(_caps(work, speed / speed.sum(), aim.balance) for work in works), memory]),
        fixed=fixed,
        group=tiling.layer,
    )


def _caps(work: np.ndarray, share: np.ndarray, balance: float) -> np.ndarray:
    """Per machine. Tiles are whole: a machine whose fair share is 2.25 tiles must be allowed 3."""
    total, coarsest = work.sum(), work.max(initial=0.0)
    fair = total * share
    if coarsest <= 0:
        return np.full(len(share), 1.0)
    return np.maximum(balance * fair, np.ceil(fair / coarsest - 1e-9) * coarsest)  # type: ignore[no-any-return]


def place_tiles(tiling: Tiling, cluster: Cluster, aim: Aim) -> Placement:
    """The best placement found. Deterministic: the same arguments give the same placement."""
    return best_of(candidates(tiling, cluster, aim), tiling, cluster, aim)


def candidates(tiling: Tiling, cluster: Cluster, aim: Aim) -> list[Placement]:
    """What is tried for an aim; "step" tries all that "both" tries, and that all that "bytes" tries."""
    task, even = task_of(tiling, cluster, aim), _even(tiling, cluster, aim)
    seeds = starts_of(tiling, cluster)
    seeds |= _column_seeds(tiling, task, seeds, aim)
    found = _searched(even, seeds, replace(aim, tries=min(aim.tries, 1))) if even else []
    more = {f"even {name}": home for home, name in found[:1]}
    found += _searched(task, {**seeds, **more}, aim)
    if aim.goal == "step":  # layers need not be even if their sum is
        more = {f"evenly {name}": home for home, name in found[:1]}
        found += _searched(
            _task(tiling, cluster, aim, [tiling.work]), {**seeds, **more}, replace(aim, tries=min(aim.tries, 2))
        )
    if aim.goal != "bytes" and not tiling.pinned:  # refined they move less, but may take longer
        found += [(home, name) for name, home in seeds.items()]
    return [measure(tiling, task, cluster, home, name) for home, name in found]


def best_of(found: Sequence[Placement], tiling: Tiling, cluster: Cluster, aim: Aim) -> Placement:
    """The candidate that the aim asks for, its step shortened by moves unless only bytes count, or unless `tries` is 0."""
    if aim.goal == "step":
        return _shortest(found, tiling, cluster, aim)
    best = least = min(found, key=lambda p: (p.excess, p.nbytes, p.step_s))
    if aim.goal == "both":
        near = [p for p in found if p.excess <= least.excess and p.nbytes <= aim.slack * least.nbytes]
        best = min(near, key=lambda p: (p.nbytes * p.step_s, p.nbytes, p.step_s))
    if aim.goal == "bytes" or not aim.tries or best.excess:
        return best
    caps = task_of(tiling, cluster, aim)
    return _hastened(best, caps, tiling, cluster, aim, int(aim.slack * least.nbytes))


def _shortest(found: Sequence[Placement], tiling: Tiling, cluster: Cluster, aim: Aim) -> Placement:
    """The shortest step within memory; the best few, and the best one under the caps, are shortened by moves."""
    memory, caps = _task(tiling, cluster, aim, []), task_of(tiling, cluster, aim)
    loose = _task(tiling, cluster, replace(aim, balance=LOOSE), [tiling.work])
    able = [p for p in found if not excess(memory, p.home)]
    if not able:
        return min(found, key=lambda p: (excess(memory, p.home), p.step_s))
    distinct: dict[float, Placement] = {}
    for one in sorted(able, key=lambda p: (p.step_s, p.nbytes)):
        distinct.setdefault(one.step_s, one)
    best = list(distinct.values())[:HASTENED]
    if not aim.tries:
        return best[0]
    better = [_hastened(one, loose, tiling, cluster, aim, None) for one in best]
    capped = next((p for p in distinct.values() if not p.excess), None)
    if capped:
        better.append(_hastened(capped, caps, tiling, cluster, aim, None))
    return min([*best, *better], key=lambda p: (p.step_s, p.nbytes))


def _hastened(start: Placement, task: Task, tiling: Tiling, cluster: Cluster, aim: Aim, most: int | None) -> Placement:
    """With moves that shorten the step: for at most so many bytes, by more than they add in bytes; or, with None, by anything."""
    rates = _rates(cluster)

    def seconds(home: np.ndarray) -> float:
        return simulate_tiles(tiling.tasks, home, rates)[0]

    def cost(home: np.ndarray, nbytes: int) -> float:
        return seconds(home) * (1 if most is None else nbytes)

    a_step = len(tiling.tasks.readers) + len(cluster.machines) * len(tiling.tasks.vertex)
    budget = sys.maxsize if most is None else most, min(SIMULATED, MOST_STEPS // a_step)
    home = hasten(task, _exchanged(start.home, task, cluster, seconds), cost, budget, aim.seed)
    return measure(tiling, task_of(tiling, cluster, aim), cluster, home, start.start)


def _exchanged(home: np.ndarray, task: Task, cluster: Cluster, seconds: Callable[[np.ndarray], float]) -> np.ndarray:
    """With equal machines in other places, where links differ: the bytes stay the same, the step may be shorter."""
    if not cluster.links or (task.fixed >= 0).any():
        return home
    best, alike = seconds(home), [(m.flops, m.memory_bytes) for m in cluster.machines]
    for a, b in islice(combinations(range(len(alike)), 2), EXCHANGED):
        if alike[a] == alike[b]:
            other = np.where(home == a, b, np.where(home == b, a, home))
            took = seconds(other)
            if took < best:
                best, home = took, other
    return home


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
    failed, count = 0, min(MOST, max(LEAST, MOST_PINS // (1 + len(task.pins) * task.machines)))
    for seed in range(aim.seed + 1, aim.seed + 1 + count):
        if failed > aim.tries:
            break
        home, name = found[0]
        if seed % 3 == 0:
            new = afresh(task, [home for home, _ in found[:KEPT]], seed), "afresh"
        else:
            other = found[1 + failed % (len(found) - 1)][0] if seed % 3 == 1 and len(found) > 1 else None
            new = again(task, home, seed, other), name
        over, nbytes = cost(found[0])
        failed = 0 if cost(new) < (over, int(SOME * nbytes)) else failed + 1
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
    found |= {f"bisected {d}, larger first": bisected(tiling, speed, d, larger=True) for d in range(3)}
    found["layers"] = layers_in_turn(tiling, speed)
    found["earliest"] = earliest_finish(tiling, _rates(cluster))
    distinct: dict[bytes, str] = {}
    return {name: home for name, home in found.items() if distinct.setdefault(home.tobytes(), name) == name}


def measure(tiling: Tiling, task: Task, cluster: Cluster, home: np.ndarray, start: str) -> Placement:
    """What a placement costs."""
    step_s, messages = simulate_tiles(tiling.tasks, home, _rates(cluster))
    return Placement(
        home=home,
        start=start,
        nbytes=crossing(task, home),
        messages=messages,
        phase_balance=phase_balance(tiling, cluster, home),
        step_s=step_s,
        excess=excess(task, home),
    )


def _rates(cluster: Cluster) -> Rates:
    at = {m.name: i for i, m in enumerate(cluster.machines)}
    default, shape = cluster.default_link, (len(at), len(at))
    rates = Rates(
        flops=np.array([m.flops for m in cluster.machines], float),
        bytes_per_s=np.full(shape, max(default.bytes_per_s, NO_RATE)),
        latency_s=np.full(shape, default.latency_s),
    )
    for (a, b), link in cluster.links.items():
        rates.bytes_per_s[at[a], at[b]] = max(link.bytes_per_s, NO_RATE)
        rates.latency_s[at[a], at[b]] = link.latency_s
    return rates


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
