"""The step of a choice of layouts, before any tile is made: machines and their interfaces as arrays, node after node.

Coarser than compiler/simulate.py, which sees every message: here all that one node needs of a value goes at once. It tells which
choices are worth a plan.
"""

from __future__ import annotations

import heapq

import numpy as np

from rainshed.compiler.cost import WEIGHTLESS
from rainshed.compiler.partition.search import Search
from rainshed.compiler.partition.traffic import between
from rainshed.ops.ir import Node
from rainshed.ops.types import TensorType

MOST_KNOWN = 2**22  # numbers of bytes that are kept from one estimate to the next: 32 MB


def estimate(search: Search) -> float:
    """Seconds of one step."""
    return _Estimate(search).run()


class _Queue:
    """Nodes that wait for the same machines. `now`: those whose values are there before the machines are free, by rank;
    `later`: (when the values are there, rank, place) of the others."""

    def __init__(self, own: np.ndarray) -> None:
        self.own = own
        self.now: list[tuple[float, int]] = []
        self.later: list[tuple[float, float, int]] = []

    def __bool__(self) -> bool:
        return bool(self.now or self.later)

    def first(self, clock: np.ndarray) -> tuple[float, float, int]:
        """When the first of them can start, its rank and its place."""
        free = float(clock[self.own].max())
        while self.later and self.later[0][0] <= free:
            heapq.heappush(self.now, heapq.heappop(self.later)[1:])
        return (free, *self.now[0]) if self.now else self.later[0]

    def take(self) -> int:
        """The place of the node that `first` told."""
        return heapq.heappop(self.now)[1] if self.now else heapq.heappop(self.later)[2]


class _Estimate:
    def __init__(self, search: Search) -> None:
        self.search, self.count = search, search.machines
        self.clock, self.sent, self.taken = (np.zeros(self.count) for _ in range(3))
        self.busy, self.out, self.into = (np.zeros(self.count) for _ in range(3))  # without waiting
        self.finish: dict[Node, np.ndarray] = {}
        self.there: dict[Node, np.ndarray] = {}  # when what went to a machine has come
        self.moved: dict[Node, np.ndarray] = {}
        self.known = search.shared.crossing
        if len(self.known) * self.count**2 > MOST_KNOWN:
            self.known.clear()
        self.ready: dict[Node, np.ndarray] = {}

    def run(self) -> float:
        """Nodes in the order in which they can start, so that layers on different machines overlap; among those that can start
        at once, first the one on which the longest chain of others waits."""
        search = self.search
        left = {node: len({v for v in node.inputs if v in search.facts}) for node in search.nodes}
        place = {node: i for i, node in enumerate(search.nodes)}
        tail = self._tails()
        queues: dict[tuple[int, ...], _Queue] = {}  # of the nodes that can start, by the machines they run on

        def put(node: Node) -> None:
            own = self.search.facts[node].kind.options[self.search.chosen[node]].homes
            key = tuple(own.tolist())
            if key not in queues:
                queues[key] = _Queue(own)
            ready = float(self.ready[node][own].max()) if node in self.ready else 0.0
            heapq.heappush(queues[key].later, (ready, -tail[node], place[node]))

        for node in search.nodes:
            if not left[node]:
                put(node)
        while waiting := [queue for queue in queues.values() if queue]:
            node = search.nodes[min(waiting, key=lambda queue: queue.first(self.clock)).take()]
            self._compute(node, self.ready.pop(node, np.zeros(self.count)))
            for reader in search.readers[node]:
                for i, value in enumerate(reader.inputs):
                    if value is node:
                        self._bring(node, reader, i)
                there = np.maximum(self.ready.get(reader, 0.0), self.there[node])
                self.ready[reader] = there
                left[reader] -= 1
                if not left[reader]:
                    put(reader)
        for value, variable in search.stored():
            self._bring(value, variable, -1)
        end = float(max([self.clock.max(), *(t.max() for t in self.there.values())]))
        busy = min(end, float(max(self.busy.max(), self.out.max(), self.into.max())))
        slices, stages = search.slices, len(search.groups)
        overlapped = (
            end * (slices + stages - 1) / (slices * stages)
        )  # full and empty at the ends: Huang et al., GPipe, 2019
        if slices == 1:
            return end
        share = self._in_slices()
        return max(busy + (end - busy) * (1 - share + share / slices), overlapped)

    def _in_slices(self) -> float:
        """The share of the work on examples that is done slice by slice. A layout that cuts the batch among machines waits for
        all of it, and so does what comes after it."""
        whole = parts = 0.0
        for node in self.search.examples:
            facts, i = self.search.facts.get(node), self.search.chosen.get(node)
            if facts is not None and i is not None:
                whole += float(facts.spent[i])
                parts += float(facts.spent[i]) * (int(facts.kind.options[i].calls.max()) > 1)
        return parts / whole if whole else 1.0

    def _tails(self) -> dict[Node, float]:
        """Seconds of the longest chain of readers that hangs on each node."""
        tail: dict[Node, float] = {}
        for node in reversed(self.search.nodes):
            own = float(self.search.facts[node].spent[self.search.chosen[node]])
            tail[node] = own + max((tail[r] for r in self.search.readers[node]), default=0.0)
        return tail

    def _compute(self, node: Node, ready: np.ndarray) -> None:
        facts, search = self.search.facts[node], self.search
        one = facts.kind.options[search.chosen[node]]
        share = one.share
        if node.op.name not in WEIGHTLESS:
            busy = share > 0
            own = facts.busy[search.chosen[node]]
            self.clock[busy] = np.maximum(self.clock, ready)[busy] + own[busy]
            self.busy += own
        self.finish[node] = np.where(share > 0, np.maximum(self.clock, ready), 0.0)
        self.there[node] = self.finish[node].copy()
        self.moved[node] = np.zeros((self.count, self.count))
        if len(one.partial):
            moved = np.zeros((self.count, self.count))
            moved[one.partial[:, 0], one.partial[:, 1]] = one.partial[:, 2]
            self._send(node, moved * facts.itemsize)
            self.finish[node] = self.there[node].copy()

    def _bring(self, value: Node, reader: Node, i: int) -> None:
        if not isinstance(value.type, TensorType):
            return
        search = self.search
        have, a = search.facts[value].kind.rows[search.chosen[value]]
        its, b = search.facts[reader].kind.rows[search.chosen[reader]]
        key = (have, a, its, b, i)
        if key not in self.known:
            self.known[key] = between(have.lies, a, its.wants(i), b, self.count)
        need = self.known[key] * search.facts[value].itemsize
        new = np.maximum(need - self.moved[value], 0)
        if new.any():
            self.moved[value] = np.maximum(need, self.moved[value])
            self._send(value, new)

    def _send(self, value: Node, nbytes: np.ndarray) -> None:
        seconds = nbytes * self.search.wires.per_byte
        out, into, goes = seconds.sum(axis=1), seconds.sum(axis=0), nbytes > 0
        messages, handled = goes.sum(axis=0) + goes.sum(axis=1), nbytes.sum(axis=0) + nbytes.sum(axis=1)
        took = messages * self.search.wires.overhead_s + handled * self.search.wires.handling
        self.clock += took
        self.busy += took
        self.out += out
        self.into += into
        begin = np.maximum(self.finish[value], self.sent)
        self.sent = np.where(out > 0, begin + out, self.sent)
        first = np.where(goes, begin[:, None], np.inf).min(axis=0)
        last = np.where(goes, begin[:, None] + seconds, 0.0).max(axis=0)
        gets = into > 0
        end = np.maximum(np.maximum(np.where(gets, first, 0.0), self.taken) + into, last)
        self.taken = np.where(gets, end, self.taken)
        self.there[value] = np.where(
            gets, np.maximum(self.there[value], end + self.search.wires.latency_s), self.there[value]
        )
