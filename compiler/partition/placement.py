"""Placing the tiles of a graph: many seeds, each refined under caps, the best by simulated step or by bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, islice

import numpy as np

from rainshed.compiler.machines import Cluster
from rainshed.compiler.partition.atoms import Tiling
from rainshed.compiler.partition.hasten import hasten
from rainshed.compiler.partition.multilevel import afresh, again
from rainshed.compiler.partition.refine import Task, contract, crossing, excess, refine
from rainshed.compiler.partition.seeds import bisected, blocks, columns, earliest_finish, layers_in_turn, machine_grids
from rainshed.compiler.partition.simulate_tiles import Rates, simulate_tiles

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
SIMULATED = 1000  # placements at most, in the end
MOST_STEPS = 100_000_000  # of the loops of all these simulations
BAND = 0.02  # of all work: light layers, one after the other, that have to be spread evenly together


@dataclass(frozen=True, slots=True)
class Aim:
    """What counts: the fewest bytes under the caps, or, with `by_step`, the simulated step too.

    balance  of each heavy layer
    by_step  the least product of bytes and seconds: a percent more of one is worth a percent less of the other
    slack    with `by_step`: how many times the fewest bytes a placement may move at most
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
    task, even = task_of(tiling, cluster, aim), _even(tiling, cluster, aim)
    seeds = starts_of(tiling, cluster)
    seeds |= _column_seeds(tiling, task, seeds, aim)
    found = _searched(even, seeds, replace(aim, tries=min(aim.tries, 1))) if even else []
    more = {f"even {name}": home for home, name in found[:1]}
    found += _searched(task, {**seeds, **more}, aim)
    if aim.by_step and not tiling.pinned:  # refined they move less, but may take longer
        found += [(seeds[name], name) for name in _cheapest(task, seeds, 2 * KEPT)]
    placed = [measure(tiling, task, cluster, home, name) for home, name in found]
    best = _chosen(placed, aim)
    if not aim.by_step or not aim.tries or best.excess:
        return best
    rates = _rates(cluster)

    def seconds(home: np.ndarray) -> float:
        return simulate_tiles(tiling.tasks, home, rates)[0]

    a_step = len(tiling.tasks.readers) + len(cluster.machines) * len(tiling.tasks.vertex)
    budget = int(aim.slack * min(p.nbytes for p in placed if not p.excess)), min(SIMULATED, MOST_STEPS // a_step)
    home = hasten(task, _exchanged(best.home, task, cluster, seconds), seconds, budget, aim.seed)
    return measure(tiling, task, cluster, home, best.start)


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


def _chosen(found: list[Placement], aim: Aim) -> Placement:
    """The fewest bytes under the caps; or, of those that keep them as well and move little more, the best by bytes and step."""
    least = min(found, key=lambda p: (p.excess, p.nbytes, p.step_s))
    if not aim.by_step:
        return least
    near = [p for p in found if p.excess <= least.excess and p.nbytes <= aim.slack * least.nbytes]
    return min(near, key=lambda p: (p.nbytes * p.step_s, p.nbytes, p.step_s))


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
