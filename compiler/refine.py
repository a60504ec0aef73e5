"""Moving vertices of a hypergraph between machines until no move or exchange saves bytes, under caps that hold for each machine.

Source  Fiduccia and Mattheyses 1982; gains kept per vertex and machine as in Gottesbueren et al., Mt-KaHyPar, 2021
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numba
import numpy as np

KICKS = 12  # disturbances without success, after which the search ends
PATIENCE = 0.08  # of the vertices: so many moves without a better result end a pass


@dataclass(frozen=True, slots=True)
class Task:
    """What to place.

    starts, pins, weight  the nets: the vertices of net e are pins[starts[e]:starts[e + 1]]
    load      f64[vertices, kinds]: what a vertex takes of each resource (work, memory, work of heavy layer i, ...)
    caps      f64[kinds, machines]
    fixed     i64[vertices]: the machine of a pinned vertex, or -1
    group     i64[vertices]: vertices of one group (a heavy layer) may be exchanged; -1: none
    """

    starts: np.ndarray
    pins: np.ndarray
    weight: np.ndarray
    load: np.ndarray
    caps: np.ndarray
    fixed: np.ndarray
    group: np.ndarray

    @property
    def machines(self) -> int:
        return int(self.caps.shape[1])


def crossing(task: Task, home: np.ndarray) -> int:
    """Bytes that a placement moves: for each net its weight, times the machines beyond the first that it touches."""
    net = np.repeat(np.arange(len(task.weight)), np.diff(task.starts))
    touched = np.unique(net * task.machines + home[task.pins]) // task.machines
    return int((task.weight * (np.bincount(touched, minlength=len(task.weight)) - 1)).sum())


def excess(task: Task, home: np.ndarray) -> float:
    """How far the worst machine is over its cap, as a share of the cap; 0 if every cap holds."""
    held = loads(task, home)
    over = held / np.maximum(task.caps, 1e-300) - 1
    return max(0.0, float(over.max(initial=0.0)) - 1e-9)


def loads(task: Task, home: np.ndarray) -> np.ndarray:
    """f64[kinds, machines]: what each machine holds of each resource."""
    held = np.zeros((task.load.shape[1], task.machines))
    for kind in range(len(held)):
        held[kind] = np.bincount(home, weights=task.load[:, kind], minlength=task.machines)
    return held


def refine(task: Task, home: np.ndarray, *, seed: int = 0, kicks: int = KICKS) -> np.ndarray:
    """A placement that moves no more bytes than `home`, or that keeps the caps where `home` breaks them.

    Fixed vertices stay where they are fixed. The same seed gives the same result.
    """
    home = np.where(task.fixed >= 0, task.fixed, home).astype(np.int64)
    if task.machines == 1 or not len(home):
        return home
    vertex_starts, nets = _turned(task)
    return _search(  # type: ignore[no-any-return]
        task.starts, task.pins, task.weight, vertex_starts, nets, task.load, task.caps, task.fixed, task.group, home, seed, kicks
    )


def _turned(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """The nets of each vertex, packed."""
    net = np.repeat(np.arange(len(task.weight)), np.diff(task.starts))
    order = np.argsort(task.pins, kind="stable")
    starts = np.zeros(len(task.load) + 1, np.int64)
    np.cumsum(np.bincount(task.pins, minlength=len(task.load)), out=starts[1:])
    return starts, net[order]


@numba.njit(cache=True)
def _search(starts, pins, weight, vstarts, nets, load, caps, fixed, group, home, seed, kicks):  # type: ignore[no-untyped-def]
    """FM passes and exchanges to a local optimum; then again from a disturbed copy of the best."""
    np.random.seed(seed)
    machines = caps.shape[1]
    count = len(home)
    home = home.copy()
    phi = np.zeros((len(weight), machines), np.int32)
    for e in range(len(weight)):
        for i in range(starts[e], starts[e + 1]):
            phi[e, home[pins[i]]] += 1
    held = np.zeros(caps.shape)
    for v in range(count):
        held[:, home[v]] += load[v]
    benefit = np.zeros(count, np.int64)
    penalty = np.zeros((count, machines), np.int64)
    for v in range(count):
        for i in range(vstarts[v], vstarts[v + 1]):
            e = nets[i]
            if phi[e, home[v]] == 1:
                benefit[v] += weight[e]
            for t in range(machines):
                if phi[e, t] == 0:
                    penalty[v, t] += weight[e]
    touched = np.zeros(count, np.int64)
    stamp = np.zeros(count, np.int64)
    state = (starts, pins, weight, vstarts, nets, load, caps, fixed, group, home, phi, held, benefit, penalty, touched, stamp)
    _relieve(state)
    _descend(state)
    best = home.copy()
    total = _bytes(phi, weight)
    lowest = total
    lowest_over = _over(held, caps)
    failed = 0
    while failed < kicks and lowest > 0:
        _kick(state, max(4, count // 100))
        _relieve(state)
        _descend(state)
        total = _bytes(phi, weight)
        over = _over(held, caps)
        if over < lowest_over - 1e-9 or (over <= lowest_over + 1e-9 and total < lowest):
            lowest, lowest_over = total, over
            best[:] = home
            failed = 0
        else:
            failed += 1
            for v in range(count):
                if home[v] != best[v]:
                    _move(state, v, best[v])
    return best


@numba.njit(cache=True)
def _bytes(phi, weight):  # type: ignore[no-untyped-def]
    total = 0
    for e in range(len(weight)):
        spread = -1
        for t in range(phi.shape[1]):
            if phi[e, t] > 0:
                spread += 1
        total += weight[e] * spread
    return total


@numba.njit(cache=True)
def _over(held, caps):  # type: ignore[no-untyped-def]
    worst = 0.0
    for k in range(caps.shape[0]):
        for t in range(caps.shape[1]):
            worst = max(worst, held[k, t] / caps[k, t] - 1)
    return worst if worst > 1e-9 else 0.0


@numba.njit(cache=True)
def _move(state, v, b):  # type: ignore[no-untyped-def]
    """Move one vertex; the gains of all vertices follow. Returns the number of vertices in `touched` whose gains rose."""
    starts, pins, weight, vstarts, nets, load, _, _, _, home, phi, held, benefit, penalty, touched, stamp = state
    a = home[v]
    home[v] = b
    held[:, a] -= load[v]
    held[:, b] += load[v]
    stamp[v] += 1
    mark = -stamp[v] - 1
    rose = 0
    for i in range(vstarts[v], vstarts[v + 1]):
        e = nets[i]
        w = weight[e]
        phi[e, a] -= 1
        phi[e, b] += 1
        left, come = phi[e, a], phi[e, b]
        if left == 0 or come == 1 or left == 1 or come == 2:
            for j in range(starts[e], starts[e + 1]):
                u = pins[j]
                if left == 0:
                    penalty[u, a] += w
                if come == 1:
                    penalty[u, b] -= w
                if u != v:
                    if left == 1 and home[u] == a:
                        benefit[u] += w
                    if come == 2 and home[u] == b:
                        benefit[u] -= w
                    if rose < len(touched):
                        touched[rose] = u
                        rose += 1
    benefit[v] = 0
    for i in range(vstarts[v], vstarts[v + 1]):
        if phi[nets[i], b] == 1:
            benefit[v] += weight[nets[i]]
    return rose


@numba.njit(cache=True)
def _fits(state, v, t):  # type: ignore[no-untyped-def]
    load, caps, held = state[5], state[6], state[11]
    for k in range(caps.shape[0]):
        if load[v, k] > 0 and held[k, t] + load[v, k] > caps[k, t] * (1 + 1e-9):
            return False
    return True


@numba.njit(cache=True)
def _best(state, v):  # type: ignore[no-untyped-def]
    """The machine that v should move to, and the bytes saved; -1 if there is none with room."""
    home, benefit, penalty = state[9], state[12], state[13]
    best, gain = -1, -(1 << 62)
    for t in range(penalty.shape[1]):
        if t != home[v]:
            g = benefit[v] - penalty[v, t]
            if g > gain and _fits(state, v, t):
                best, gain = t, g
    return best, gain


@numba.njit(cache=True)
def _descend(state):  # type: ignore[no-untyped-def]
    for _ in range(30):
        won = _pass(state)
        won += _exchange(state)
        if won <= 0:
            return


@numba.njit(cache=True)
def _pass(state):  # type: ignore[no-untyped-def]
    """One FM pass: each vertex moves at most once, best first; then back to the best point on the way. Bytes saved."""
    fixed, home, benefit, touched = state[7], state[9], state[12], state[14]
    count = len(home)
    locked = np.zeros(count, np.bool_)
    heap = [(0, 0, 0, 0)]
    heap.pop()
    for v in range(count):
        if fixed[v] < 0 and benefit[v] > 0:
            t, g = _best(state, v)
            if t >= 0:
                heapq.heappush(heap, (-g, np.random.randint(1 << 30), v, t))
    trail_v = np.empty(count, np.int64)
    trail_from = np.empty(count, np.int64)
    moves, best_at, now, best_gain = 0, 0, 0, 0
    patience = max(50, int(PATIENCE * count))
    while len(heap) > 0 and moves - best_at < patience:
        key, _, v, t = heapq.heappop(heap)
        if locked[v]:
            continue
        t, g = _best(state, v)
        if t < 0:
            continue
        if -g > key:
            heapq.heappush(heap, (-g, np.random.randint(1 << 30), v, t))
            continue
        locked[v] = True
        trail_v[moves], trail_from[moves] = v, home[v]
        moves += 1
        rose = _move(state, v, t)
        now += g
        if now > best_gain:
            best_gain, best_at = now, moves
        for i in range(rose):
            u = touched[i]
            if not locked[u] and fixed[u] < 0 and benefit[u] > 0:
                ut, ug = _best(state, u)
                if ut >= 0:
                    heapq.heappush(heap, (-ug, np.random.randint(1 << 30), u, ut))
    for i in range(moves - 1, best_at - 1, -1):
        _move(state, trail_v[i], trail_from[i])
    return best_gain


@numba.njit(cache=True)
def _exchange(state):  # type: ignore[no-untyped-def]
    """Exchange two vertices of one group where that saves bytes: it works where the caps leave no room. Bytes saved."""
    load, fixed, group, home, benefit, penalty = state[5], state[7], state[8], state[9], state[12], state[13]
    count = len(home)
    saved = 0
    order = np.random.permutation(count)
    by_group = np.argsort(group)
    first = np.searchsorted(group[by_group], np.arange(group.max() + 2))
    for v in order:
        if fixed[v] >= 0 or group[v] < 0 or benefit[v] == 0:
            continue
        a = home[v]
        top, mate = 0, -1
        for i in range(first[group[v]], first[group[v] + 1]):
            u = by_group[i]
            t = home[u]
            if t == a or fixed[u] >= 0:
                continue
            g = benefit[v] - penalty[v, t] + benefit[u] - penalty[u, a]
            if g > top:
                top, mate = g, u
        if mate < 0:
            continue
        b = home[mate]
        g = benefit[v] - penalty[v, b]
        _move(state, v, b)
        g += benefit[mate] - penalty[mate, a]
        _move(state, mate, a)
        if g <= 0 or not _holds(state, a, b):
            _move(state, mate, b)
            _move(state, v, a)
        else:
            saved += g
    return saved


@numba.njit(cache=True)
def _holds(state, a, b):  # type: ignore[no-untyped-def]
    caps, held = state[6], state[11]
    for k in range(caps.shape[0]):
        if held[k, a] > caps[k, a] * (1 + 1e-9) or held[k, b] > caps[k, b] * (1 + 1e-9):
            return False
    return True


@numba.njit(cache=True)
def _relieve(state):  # type: ignore[no-untyped-def]
    """Move vertices from machines that are over a cap to machines with room, at the least cost in bytes."""
    load, caps, fixed, home, held, benefit, penalty = (
        state[5], state[6], state[7], state[9], state[11], state[12], state[13],
    )  # fmt: skip
    count, machines = len(home), caps.shape[1]
    for k in range(caps.shape[0]):
        for a in range(machines):
            guard = 0
            while held[k, a] > caps[k, a] * (1 + 1e-9) and guard < count:
                guard += 1
                best_v, best_t, best_gain = -1, -1, -1e300
                for v in range(count):
                    if home[v] != a or load[v, k] <= 0 or fixed[v] >= 0:
                        continue
                    for t in range(machines):
                        if t != a and held[k, t] + load[v, k] <= caps[k, t] * (1 + 1e-9):
                            g = (benefit[v] - penalty[v, t]) / load[v, k]
                            if not _fits(state, v, t):
                                g -= 1e18
                            if g > best_gain:
                                best_v, best_t, best_gain = v, t, g
                if best_v < 0:
                    break
                _move(state, best_v, best_t)


@numba.njit(cache=True)
def _kick(state, size):  # type: ignore[no-untyped-def]
    """Move a ball of neighbouring vertices to one machine nearby, caps or not."""
    starts, pins, vstarts, nets, fixed, home = state[0], state[1], state[3], state[4], state[7], state[9]
    count = len(home)
    v = np.random.randint(count)
    target = -1
    for _ in range(20):
        if vstarts[v + 1] > vstarts[v]:
            e = nets[np.random.randint(vstarts[v], vstarts[v + 1])]
            u = pins[np.random.randint(starts[e], starts[e + 1])]
            if home[u] != home[v]:
                target = home[u]
                break
        v = np.random.randint(count)
    if target < 0:
        return
    for _ in range(size):
        if fixed[v] < 0:
            _move(state, v, target)
        e = nets[np.random.randint(vstarts[v], vstarts[v + 1])]
        v = pins[np.random.randint(starts[e], starts[e + 1])]
        if vstarts[v + 1] == vstarts[v]:
            return
