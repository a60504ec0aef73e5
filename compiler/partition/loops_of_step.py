"""The loop of the step of placed tiles, compiled by Numba: simulate_tiles.py loads this module when it first needs it."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(cache=True)
def run_tiles(arrays: Any, home: np.ndarray, flops: np.ndarray, rate: np.ndarray, latency: np.ndarray) -> Any:
    vertex, work, behind, first, starts, readers, nbytes, returns = arrays
    machines, count = len(flops), len(vertex)
    clock, sent, taken = np.zeros(machines), np.zeros(machines), np.zeros(machines)
    there, amount, arrival = np.zeros(machines, np.bool_), np.zeros(machines), np.zeros(machines)
    ready = np.zeros(count)
    messages = 0
    for way in range(2):  # shared weights go out before the step, their gradients come back after it
        if way == 1:
            for t in range(count):
                m = home[vertex[t]]
                ready[t] = max(clock[m], ready[t])
                clock[m] = ready[t] + work[t] / flops[m]
                done = clock[m]
                amount[:] = 0
                for i in range(first[t + 1], first[t + 2]):
                    there[:] = False
                    for j in range(starts[i], starts[i + 1]):
                        there[home[vertex[readers[j]]]] = True
                    for d in range(machines):
                        if there[d] and d != m:
                            amount[d] += nbytes[i]
                for d in range(machines):
                    arrival[d] = done
                    if amount[d] > 0:
                        messages += 1
                        end = max(done, sent[m], taken[d]) + amount[d] / rate[m, d]
                        sent[m] = taken[d] = end
                        arrival[d] = end + latency[m, d]
                for i in range(first[t + 1], first[t + 2]):
                    for j in range(starts[i], starts[i + 1]):
                        r = readers[j]
                        ready[r] = max(ready[r], arrival[home[vertex[r]]])
            finish = ready * 0
            for t in range(count - 1, -1, -1):
                m = home[vertex[t]]
                begin = clock[m]
                amount[:] = 0
                arrival[:] = 0
                for i in range(first[t + 1], first[t + 2]):
                    if returns[i]:
                        there[:] = False
                        for j in range(starts[i], starts[i + 1]):
                            d = home[vertex[readers[j]]]
                            there[d] = True
                            arrival[d] = max(arrival[d], finish[readers[j]])
                        for d in range(machines):
                            if there[d]:
                                if d != m:
                                    amount[d] += nbytes[i]
                                else:
                                    begin = max(begin, arrival[d])
                for d in range(machines):
                    if amount[d] > 0:
                        messages += 1
                        end = max(arrival[d], sent[d], taken[m]) + amount[d] / rate[d, m]
                        sent[d] = taken[m] = end
                        begin = max(begin, end + latency[d, m])
                finish[t] = begin
                if behind[t] > 0:
                    finish[t] = begin + behind[t] / flops[m]
                    clock[m] = finish[t]
        for i in range(first[0], first[1]):
            if way == 0 or returns[i]:
                there[:] = False
                for j in range(starts[i], starts[i + 1]):
                    there[home[vertex[readers[j]]]] = True
                size = there.sum()
                if size > 1:
                    messages += size * (size - 1)
                    slowest, farthest = np.inf, 0.0  # all wait for the worst of their links
                    for d in range(machines):
                        for m in range(machines):
                            if there[d] and there[m] and d != m:
                                slowest, farthest = min(slowest, rate[d, m]), max(farthest, latency[d, m])
                    for d in range(machines):
                        if there[d]:
                            busy = nbytes[i] * (size - 1) / size / slowest
                            if way == 1:
                                sent[d] = max(sent[d], clock[d])
                                taken[d] = max(taken[d], clock[d])
                            sent[d] += busy
                            taken[d] += busy
                    if way == 0:
                        for j in range(starts[i], starts[i + 1]):
                            r = readers[j]
                            ready[r] = max(ready[r], taken[home[vertex[r]]] + farthest)
    end = 0.0
    for d in range(machines):
        end = max(end, clock[d], taken[d], sent[d])
    return end, messages
