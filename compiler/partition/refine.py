"""Moving vertices of a hypergraph between machines until no move or exchange saves bytes, under caps that hold for each machine.

Source  Fiduccia and Mattheyses 1982; gains kept per vertex and machine as in Gottesbueren et al., Mt-KaHyPar, 2021
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    search = _Search(task, home, seed)
    search.settle()
    best, lowest, failed = home.copy(), search.score(), 0
    best[:] = search.home
    while failed < kicks and lowest[1] > 0:
        kick(search.state, search.random, max(4, len(home) // 100))
        search.settle()
        score = search.score()
        if score < lowest:
            lowest, failed = score, 0
            best[:] = search.home
        else:
            failed += 1
            back(search.state, best)
    return best


def contract(task: Task, of: np.ndarray, count: int) -> Task:
    """The task with vertices joined: vertex v becomes part of vertex of[v]. Nets that end in one vertex are left out."""
    load = np.zeros((count, task.load.shape[1]))
    np.add.at(load, of, task.load)
    fixed = np.full(count, -1, np.int64)
    np.maximum.at(fixed, of, task.fixed)
    net = np.repeat(np.arange(len(task.weight)), np.diff(task.starts))
    unique = np.unique(net * count + of[task.pins])
    net, pins = unique // count, unique % count
    size = np.bincount(net, minlength=len(task.weight))
    kept = size > 1
    starts = np.zeros(int(kept.sum()) + 1, np.int64)
    np.cumsum(size[kept], out=starts[1:])
    group = np.zeros(count, np.int64)
    return Task(starts, pins[kept[net]], task.weight[kept], load, task.caps, fixed, group)


def _turned(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """The nets of each vertex, packed."""
    net = np.repeat(np.arange(len(task.weight)), np.diff(task.starts))
    order = np.argsort(task.pins, kind="stable")
    starts = np.zeros(len(task.load) + 1, np.int64)
    np.cumsum(np.bincount(task.pins, minlength=len(task.load)), out=starts[1:])
    return starts, net[order]


class _Search:
    """The state of a search: a placement, and the gain of every move from it."""

    def __init__(self, task: Task, home: np.ndarray, seed: int) -> None:
        self.task, self.home = task, home.copy()
        vertex_starts, nets = _turned(task)
        count, machines = len(home), task.machines
        phi = np.zeros((len(task.weight), machines), np.int64)
        benefit, penalty = np.zeros(count, np.int64), np.zeros((count, machines), np.int64)
        held, touched, over = loads(task, home), np.zeros(count * 8 + 64, np.int64), np.array([1 + 1e-9])
        self.state = (
            task.starts, task.pins, task.weight, vertex_starts, nets, task.load, task.caps * over, task.fixed, self.home,
            phi, held, benefit, penalty, touched,
        )  # fmt: skip
        self.random = np.array([seed * 2654435761 % 2**31 + 1], np.int64)
        self.rng = np.random.default_rng(seed)
        prepare(self.state)
        self.by_group = np.argsort(task.group, kind="stable")
        groups = np.arange(int(task.group.max(initial=-1)) + 2)
        self.first = np.searchsorted(task.group[self.by_group], groups).astype(np.int64)
        self.heap = np.zeros((4 * count + 1024, 3), np.int64)

    def settle(self) -> None:
        """To a local optimum within the caps."""
        relieve(self.state)
        for _ in range(30):
            won = fm_pass(self.state, self.random, self.heap, max(50, int(PATIENCE * len(self.home))))
            order = self.rng.permutation(len(self.home)).astype(np.int64)
            won += exchange(self.state, self.task.group, order, self.by_group, self.first)
            if won <= 0:
                return

    def score(self) -> tuple[float, int]:
        """How far caps are broken, then bytes: to be small."""
        phi = self.state[9]
        spread = (phi > 0).sum(axis=1) - 1
        return round(excess(self.task, self.home), 9), int((self.task.weight * spread).sum())


@numba.njit(cache=True)
def prepare(state: Any) -> None:
    """Count the pins of each net on each machine, and the gains."""
    starts, pins, weight, vstarts, nets, _, _, _, home, phi, _, benefit, penalty, _ = state
    for e in range(len(weight)):
        for i in range(starts[e], starts[e + 1]):
            phi[e, home[pins[i]]] += 1
    for v in range(len(home)):
        for i in range(vstarts[v], vstarts[v + 1]):
            e = nets[i]
            if phi[e, home[v]] == 1:
                benefit[v] += weight[e]
            for t in range(phi.shape[1]):
                if phi[e, t] == 0:
                    penalty[v, t] += weight[e]


@numba.njit(cache=True)
def move(state: Any, v: int, b: int) -> int:
    """Move one vertex; all gains follow. The number of entries of `touched`, vertices whose gains may have risen."""
    starts, pins, weight, vstarts, nets, load, _, _, home, phi, held, benefit, penalty, touched = state
    a = home[v]
    home[v] = b
    for k in range(load.shape[1]):
        held[k, a] -= load[v, k]
        held[k, b] += load[v, k]
    rose = 0
    own = 0
    for i in range(vstarts[v], vstarts[v + 1]):
        e = nets[i]
        w = weight[e]
        phi[e, a] -= 1
        phi[e, b] += 1
        left, come = phi[e, a], phi[e, b]
        if come == 1:
            own += w
        if left <= 1 or come <= 2:
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
    benefit[v] = own
    return rose


@numba.njit(cache=True)
def back(state: Any, best: np.ndarray) -> None:
    """Every vertex to where it is in `best`."""
    home = state[8]
    for v in range(len(home)):
        if home[v] != best[v]:
            move(state, v, best[v])


@numba.njit(cache=True)
def fits(state: Any, v: int, t: int) -> bool:
    load, caps, held = state[5], state[6], state[10]
    for k in range(caps.shape[0]):  # noqa: SIM110
        if load[v, k] > 0 and held[k, t] + load[v, k] > caps[k, t]:
            return False
    return True


@numba.njit(cache=True)
def best_of(state: Any, v: int) -> Any:
    """The machine that v should move to, or -1 if none has room; and the bytes that this saves."""
    home, benefit, penalty = state[8], state[11], state[12]
    best, gain = -1, -(1 << 62)
    for t in range(penalty.shape[1]):
        if t != home[v]:
            g = benefit[v] - penalty[v, t]
            if g > gain and fits(state, v, t):
                best, gain = t, g
    return best, gain


@numba.njit(cache=True)
def draw(random: np.ndarray) -> int:
    """The next of a sequence of numbers below 2**31."""
    random[0] = (random[0] * 1103515245 + 12345) % 2147483648
    return int(random[0] >> 8)


@numba.njit(cache=True)
def push(heap: np.ndarray, size: int, key: int, tie: int, v: int) -> int:
    if size >= len(heap):
        return size
    i = size
    while i > 0:
        up = (i - 1) // 2
        if heap[up, 0] < key or (heap[up, 0] == key and heap[up, 1] <= tie):
            break
        heap[i, 0], heap[i, 1], heap[i, 2] = heap[up, 0], heap[up, 1], heap[up, 2]
        i = up
    heap[i, 0], heap[i, 1], heap[i, 2] = key, tie, v
    return size + 1


@numba.njit(cache=True)
def pop(heap: np.ndarray, size: int) -> int:
    """Take the first entry off; it then stands at `size - 1`."""
    size -= 1
    k0, k1, k2 = heap[0, 0], heap[0, 1], heap[0, 2]
    key, tie, v = heap[size, 0], heap[size, 1], heap[size, 2]
    i = 0
    while True:
        j = 2 * i + 1
        if j >= size:
            break
        if j + 1 < size and (
            heap[j + 1, 0] < heap[j, 0] or (heap[j + 1, 0] == heap[j, 0] and heap[j + 1, 1] < heap[j, 1])
        ):
            j += 1
        if key < heap[j, 0] or (key == heap[j, 0] and tie <= heap[j, 1]):
            break
        heap[i, 0], heap[i, 1], heap[i, 2] = heap[j, 0], heap[j, 1], heap[j, 2]
        i = j
    heap[i, 0], heap[i, 1], heap[i, 2] = key, tie, v
    heap[size, 0], heap[size, 1], heap[size, 2] = k0, k1, k2
    return size


@numba.njit(cache=True)
def fm_pass(state: Any, random: np.ndarray, heap: np.ndarray, patience: int) -> int:
    """One FM pass: each vertex moves at most once, best first; then back to the best point on the way. Bytes saved."""
    fixed, home, benefit, touched = state[7], state[8], state[11], state[13]
    count = len(home)
    locked = np.zeros(count, np.bool_)
    size = 0
    for v in range(count):
        if fixed[v] < 0 and benefit[v] > 0:
            t, g = best_of(state, v)
            if t >= 0:
                size = push(heap, size, -g, draw(random), v)
    trail_v = np.empty(count, np.int64)
    trail_from = np.empty(count, np.int64)
    moves, best_at, now, best_gain = 0, 0, 0, 0
    while size > 0 and moves - best_at < patience:
        size = pop(heap, size)
        key, v = heap[size, 0], heap[size, 2]
        if locked[v]:
            continue
        t, g = best_of(state, v)
        if t < 0:
            continue
        if -g > key:
            size = push(heap, size, -g, draw(random), v)
            continue
        locked[v] = True
        trail_v[moves], trail_from[moves] = v, home[v]
        moves += 1
        rose = move(state, v, t)
        now += g
        if now > best_gain:
            best_gain, best_at = now, moves
        for i in range(rose):
            u = touched[i]
            if not locked[u] and fixed[u] < 0 and benefit[u] > 0:
                t, g = best_of(state, u)
                if t >= 0:
                    size = push(heap, size, -g, draw(random), u)
    for i in range(moves - 1, best_at - 1, -1):
        move(state, trail_v[i], trail_from[i])
    return best_gain


@numba.njit(cache=True)
def exchange(state: Any, group: np.ndarray, order: np.ndarray, by_group: np.ndarray, first: np.ndarray) -> int:
    """Exchange two vertices of one group where that saves bytes: it works where the caps leave no room. Bytes saved."""
    caps, fixed, home, held, benefit, penalty = state[6], state[7], state[8], state[10], state[11], state[12]
    saved = 0
    for v in order:
        if fixed[v] >= 0 or group[v] < 0 or benefit[v] == 0:
            continue
        a = home[v]
        top, mate = 0, -1
        for i in range(first[group[v]], first[group[v] + 1]):
            u = by_group[i]
            t = home[u]
            if t != a and fixed[u] < 0:
                g = benefit[v] - penalty[v, t] + benefit[u] - penalty[u, a]
                if g > top:
                    top, mate = g, u
        if mate < 0:
            continue
        b = home[mate]
        g = benefit[v] - penalty[v, b]
        move(state, v, b)
        g += benefit[mate] - penalty[mate, a]
        move(state, mate, a)
        good = g > 0
        for k in range(caps.shape[0]):
            if held[k, a] > caps[k, a] or held[k, b] > caps[k, b]:
                good = False
        if good:
            saved += g
        else:
            move(state, mate, b)
            move(state, v, a)
    return saved


@numba.njit(cache=True)
def relieve(state: Any) -> None:
    """Move vertices from machines that are over a cap to machines with room, at the least cost in bytes."""
    load, caps, fixed, home = state[5], state[6], state[7], state[8]
    held, benefit, penalty = state[10], state[11], state[12]
    count, machines = len(home), caps.shape[1]
    for k in range(caps.shape[0]):
        for a in range(machines):
            tries = 0
            while held[k, a] > caps[k, a] and tries < count:
                tries += 1
                best_v, best_t, best_gain = -1, -1, -1e300
                for v in range(count):
                    if home[v] == a and load[v, k] > 0 and fixed[v] < 0:
                        for t in range(machines):
                            if t != a and held[k, t] + load[v, k] <= caps[k, t]:
                                g = (benefit[v] - penalty[v, t]) / load[v, k]
                                if not fits(state, v, t):
                                    g -= 1e18
                                if g > best_gain:
                                    best_v, best_t, best_gain = v, t, g
                if best_v < 0:
                    break
                move(state, best_v, best_t)


@numba.njit(cache=True)
def kick(state: Any, random: np.ndarray, size: int) -> None:
    """Move a ball of neighbouring vertices to one machine nearby, caps or not."""
    starts, pins, vstarts, nets, fixed, home = state[0], state[1], state[3], state[4], state[7], state[8]
    v, target = draw(random) % len(home), -1
    for _ in range(20):
        if vstarts[v + 1] > vstarts[v]:
            e = nets[vstarts[v] + draw(random) % (vstarts[v + 1] - vstarts[v])]
            u = pins[starts[e] + draw(random) % (starts[e + 1] - starts[e])]
            if home[u] != home[v]:
                target = home[u]
                break
        v = draw(random) % len(home)
    if target < 0:
        return
    for _ in range(size):
        if fixed[v] < 0 and home[v] != target:
            move(state, v, target)
        e = nets[vstarts[v] + draw(random) % (vstarts[v + 1] - vstarts[v])]
        v = pins[starts[e] + draw(random) % (starts[e + 1] - starts[e])]
