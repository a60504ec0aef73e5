"""What this computer can do: seconds of each kernel of a program, of the dispatcher around them, and of copying memory.

All are seconds of the measuring thread's own processor time: what others run on the computer meanwhile does not count, but for
the caches and the memory bandwidth that they take.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
from msgspec import Struct
from threadpoolctl import threadpool_limits

from rainshed.compiler.plan import ARENA, FED, Feed, Free, Instruction, Output, Program, Run, Value
from rainshed.compiler.this_computer import memory_bytes, multiplies_bfloat16, usable_cores
from rainshed.ops.access import box_shape
from rainshed.ops.code_cache import can_compile
from rainshed.ops.op import Op
from rainshed.ops.types import dtype_of
from rainshed.runtime.executor import Executor, Options
from rainshed.runtime.initial import untold
from rainshed.runtime.kernels import Call
from rainshed.runtime.loaded import Loaded
from rainshed.runtime.segments import Segment, Wish, segments_of

COPY_NBYTES: Final = 1 << 25  # well beyond any cache, and quick
MIN_ROUNDS: Final = 3
MAX_ROUNDS: Final = 10_000
CHAIN: Final = 300  # instructions


class Host(Struct, frozen=True, forbid_unknown_fields=True):
    """A computer. `identity` is the same for all processes of one computer, also in containers."""

    identity: str
    cores: int
    memory_bytes: int
    bfloat16: bool = False  # whether its processor multiplies it


class Kernels(Struct, frozen=True, forbid_unknown_fields=True):
    """What one thread took of a core.

    seconds           of each instruction of the program, in order, the mean of the middle half of its calls; 0 for no kernels
    round_s           of all of them together
    dispatch_s        what the runtime adds to each instruction
    copy_bytes_per_s  of memory: bytes read and bytes written
    """

    seconds: tuple[float, ...]
    round_s: float
    dispatch_s: float
    copy_bytes_per_s: float


def this_host() -> Host:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        boot = socket.gethostname()
    return Host(boot, usable_cores(), memory_bytes(), multiplies_bfloat16())


def measure_kernels(program: Program, ops: Mapping[str, Op], budget_s: float) -> Kernels:
    """Run the kernels of a program that exchanges nothing again and again, for about `budget_s`.

    They run in the order of the list, so that each finds the caches as it will in a step.
    """
    times, round_s = _rounds(_kernel_calls(program, ops), budget_s)
    return Kernels(tuple(times), round_s, dispatch_rate(ops), copy_rate())


def round_seconds(program: Program, ops: Mapping[str, Op], budget_s: float, threads: int) -> float:
    """Seconds of a core for a round of a program's kernels when so many threads do it at once, each by itself, for `budget_s`."""
    calls = [_kernel_calls(program, ops) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return statistics.fmean(pool.map(lambda mine: _rounds(mine, budget_s)[1], calls))


def _kernel_calls(program: Program, ops: Mapping[str, Op]) -> list[Call | None]:
    """The kernels, by machine code where a step does them so, without what gives variables new values: a net that learns the same
    for hundreds of rounds ends with numbers so small that processors slow down on them."""
    loaded = Loaded(program, ops)
    loaded.init_variables(0, untold)
    loaded.feed(0, _feeds(program))
    calls = [call if isinstance(i, Run) else None for i, call in zip(program.instructions, loaded.calls, strict=True)]
    if can_compile():
        wish = Wish(threads=1, cut=frozenset(), compiling=True, apart=True)
        for segment in segments_of(program, loaded.kernels, wish):
            (i,) = segment.members
            calls[i] = _whole(segment) if calls[i] is not None else None
    return calls


def _whole(segment: Segment) -> Call:
    def call() -> None:
        segment.begin()
        segment.call()

    return call


def _rounds(calls: list[Call | None], budget_s: float) -> tuple[list[float], float]:
    """The time of each call, and of a round; the first round only warms up."""
    seen: list[list[float]] = [[] for _ in calls]
    now, used, rounds = time.perf_counter, time.thread_time, 0
    clock_s = _clock_seconds()
    with threadpool_limits(1, "blas"), np.errstate(all="ignore"):
        end = now() + budget_s
        while rounds <= MIN_ROUNDS or (now() < end and rounds <= MAX_ROUNDS):
            for i, call in enumerate(calls):
                if call is not None:
                    started = used()
                    call()
                    if rounds:
                        seen[i].append(used() - started - clock_s)
            rounds += 1
    times = [max(0.0, midmean(x)) if x else 0.0 for x in seen]
    return times, sum(times)


def _clock_seconds() -> float:
    """What reading the clock adds to what is measured: it is a call of the operating system."""
    used = time.thread_time
    return statistics.median(-(used() - used()) for _ in range(1000))


def midmean(values: Sequence[float]) -> float:
    """The mean of the middle half: one that was disturbed does not change it, and yet it is between modes where there are two."""
    ordered = sorted(values)
    cut = len(ordered) // 4
    return statistics.fmean(ordered[cut : len(ordered) - cut])


def dispatch_rate(ops: Mapping[str, Op]) -> float:
    """Seconds that the executor adds to each instruction: a chain of the smallest kernels, beside a plain loop of them."""
    program, used = _chain(), time.thread_time
    x = {"x": np.ones(4, np.float32)}
    steps: list[float] = []
    loops: list[float] = []
    calls = [call for call in Loaded(program, ops).calls if call is not None]
    with Executor(program, ops=ops, options=Options(threads=1)) as executor, np.errstate(all="ignore"):
        end = time.perf_counter() + 0.3
        while len(steps) <= MIN_ROUNDS or (time.perf_counter() < end and len(steps) <= MAX_ROUNDS):
            started = used()
            executor.run(len(steps), x, copy=False)
            steps.append(used() - started)
            started = used()
            for call in calls:
                call()
            loops.append(used() - started)
    return max(0.0, midmean(steps[1:]) - midmean(loops[1:])) / CHAIN


def _chain() -> Program:
    """-x, so many times, in two places of the arena."""
    places = [Value(dtype="f32", shape=(4,), place=ARENA, offset=64 * (i % 2)) for i in range(CHAIN)]
    instructions: list[Instruction] = []
    for i in range(CHAIN):
        instructions.append(Run("negative", (i,), (i + 1,)))
        if i:
            instructions.append(Free(i))
    box = ((0, 4),)
    return Program(
        machine="m0",
        values=(Value(dtype="f32", shape=(4,), place=FED), *places),
        instructions=tuple(instructions),
        feeds=(Feed("x", 0, box, (4,)),),
        outputs=(Output("y", CHAIN, box, (4,)),),
        arena_nbytes=128,
    )


def _feeds(program: Program) -> dict[str, Any]:
    """Something for every input: numbers between 0 and 1, so that integers are all 0."""
    generator = np.random.default_rng(0)
    arrays = {
        (f.name, f.box): generator.random(box_shape(f.box)).astype(dtype_of(program.values[f.value].dtype).numpy)
        for f in program.feeds
    }
    return {f.name: lambda box, name=f.name: arrays[name, box] for f in program.feeds}


def copy_rate() -> float:
    """Bytes of memory traffic per second of one core that copies: the median of a few copies."""
    source, target = np.ones(COPY_NBYTES, np.uint8), np.empty(COPY_NBYTES, np.uint8)
    times = []
    for _ in range(7):
        started = time.thread_time()
        np.copyto(target, source)
        times.append(time.thread_time() - started)
    return 2 * COPY_NBYTES / statistics.median(times[1:])
