"""The inner loops of placing tiles, compiled by Numba: refine.py loads this module when it first needs it."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


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
def refuge(state: Any, v: int, k: int) -> Any:
    """The machine with room for v in resource k that costs least, or -1; and bytes lost per share of the cap that this frees."""
    load, caps, home = state[5], state[6], state[8]
    held, benefit, penalty = state[10], state[11], state[12]
    best, least = -1, 1 << 62
    for t in range(caps.shape[1]):
        if t != home[v] and held[k, t] + load[v, k] <= caps[k, t]:
            lost = int((penalty[v, t] - benefit[v]) / (load[v, k] / caps[k, t] + 1e-9))
            if not fits(state, v, t):
                lost += 1 << 60
            if lost < least:
                best, least = t, lost
    return best, least


@numba.njit(cache=True)
def relieve(state: Any, heap: np.ndarray) -> None:
    """Move vertices from machines that are over a cap to machines with room, at the least cost in bytes."""
    load, caps, fixed, home, held = state[5], state[6], state[7], state[8], state[10]
    for k in range(caps.shape[0]):
        for a in range(caps.shape[1]):
            if held[k, a] <= caps[k, a]:
                continue
            size = 0
            for v in range(len(home)):
                if home[v] == a and load[v, k] > 0 and fixed[v] < 0:
                    t, lost = refuge(state, v, k)
                    if t >= 0:
                        size = push(heap, size, lost, v, v)
            while size > 0 and held[k, a] > caps[k, a]:
                size = pop(heap, size)
                key, v = heap[size, 0], heap[size, 2]
                t, lost = refuge(state, v, k)
                if t >= 0 and lost > key:
                    size = push(heap, size, lost, v, v)
                elif t >= 0:
                    move(state, v, t)


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


@numba.njit(cache=True)
def follow(graph: Any, home: np.ndarray, machines: int, rounds: int) -> None:
    """Give vertices without a home (-1) that of most bytes of their nets, in rounds: first those beside decided ones."""
    starts, pins, weight, vstarts, nets = graph
    there = np.zeros((len(weight), machines), np.bool_)
    pull = np.zeros(machines, np.int64)
    chosen = home.copy()
    for _ in range(rounds):
        for e in range(len(weight)):
            for i in range(starts[e], starts[e + 1]):
                if home[pins[i]] >= 0:
                    there[e, home[pins[i]]] = True
        settled = 0
        for v in range(len(home)):
            if home[v] < 0:
                pull[:] = 0
                for i in range(vstarts[v], vstarts[v + 1]):
                    for m in range(machines):
                        if there[nets[i], m]:
                            pull[m] += weight[nets[i]]
                most = 0
                for m in range(machines):
                    if pull[m] > most:
                        most, chosen[v] = pull[m], m
                if most > 0:
                    settled += 1
        home[:] = chosen
        if settled == 0:
            return


@numba.njit(cache=True)
def earliest(tasks: Any, home: np.ndarray, flops: np.ndarray, rate: np.ndarray) -> None:
    """Give each vertex the machine on which its first task is done first, with what it reads come there."""
    vertex, work, first, maker, nbytes = tasks
    machines = len(flops)
    clock, done, finish = np.zeros(machines), np.zeros(len(vertex)), np.zeros(machines)
    for t in range(len(vertex)):
        finish[:] = clock
        for i in range(first[t], first[t + 1]):
            own = home[vertex[maker[i]]]
            for m in range(machines):
                there = done[maker[i]] if m == own else done[maker[i]] + nbytes[i] / rate[own, m]
                finish[m] = max(finish[m], there)
        for m in range(machines):
            finish[m] += work[t] / flops[m]
        v = vertex[t]
        if home[v] < 0:
            home[v] = 0
            for m in range(1, machines):
                if finish[m] < finish[home[v]]:
                    home[v] = m
        done[t] = clock[home[v]] = finish[home[v]]


@numba.njit(cache=True)
def join(graph: Any, apart: np.ndarray, limit: np.ndarray, order: np.ndarray, largest: int) -> np.ndarray:
    """For each vertex, the one that it is joined to (or itself): that with which it shares the most bytes in small nets.

    Only vertices with one number in `apart` and one fixed machine are joined, and only to less than `limit` of each load.
    """
    starts, pins, weight, vstarts, nets, load, fixed = graph
    count = len(apart)
    root, joined = np.arange(count), np.zeros(count, np.bool_)
    held, bond = load.copy(), np.zeros(count)
    near = np.empty(count, np.int64)
    for v in order:
        if joined[v]:
            continue
        found = 0
        for i in range(vstarts[v], vstarts[v + 1]):
            e = nets[i]
            size = starts[e + 1] - starts[e]
            if size <= largest:
                for j in range(starts[e], starts[e + 1]):
                    c = root[pins[j]]
                    if c != v:
                        if bond[c] == 0:
                            near[found] = c
                            found += 1
                        bond[c] += weight[e] / (size - 1)
        best, top = -1, 0.0
        for i in range(found):
            c = near[i]
            if bond[c] > top and apart[c] == apart[v] and fixed[c] == fixed[v]:
                room = True
                for k in range(len(limit)):
                    if load[v, k] > 0 and held[c, k] + load[v, k] > limit[k]:
                        room = False
                if room:
                    best, top = c, bond[c]
            bond[c] = 0
        if best >= 0:
            root[v] = best
            joined[v] = joined[best] = True
            for k in range(len(limit)):
                held[best, k] += load[v, k]
    return root
