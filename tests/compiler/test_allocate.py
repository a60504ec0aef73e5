"""allocate: values that are alive at one time never share a byte, and places are taken again."""

import numpy as np
import pytest
from compiler_kit import cluster
from random_graphs import random_graph

from rainshed.compiler.passes.allocate import ALIGN, Arena
from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import ARENA, Free, Program, Recv, Run
from rainshed.ops import CATALOGUE as C
from rainshed.ops.ir import Graph
from rainshed.ops.source import input


@pytest.mark.parametrize("seed", range(5))
def test_places_do_not_overlap(seed: int) -> None:
    rng, arena = np.random.default_rng(seed), Arena()
    alive: dict[int, int] = {}
    for _ in range(500):
        if alive and rng.random() < 0.5:
            offset = int(rng.choice(list(alive)))
            arena.free(offset, alive.pop(offset))
        else:
            nbytes = int(rng.integers(0, 2000))
            offset = arena.take(nbytes)
            assert offset % ALIGN == 0 and offset + nbytes <= arena.peak
            for other, size in alive.items():
                assert offset + max(1, nbytes) <= other or other + max(1, size) <= offset
            alive[offset] = nbytes
    for offset, nbytes in alive.items():
        arena.free(offset, nbytes)
    assert arena.gaps == [(0, arena.peak)], "gaps beside each other are joined"


def test_the_tightest_gap_is_taken() -> None:
    arena = Arena()
    sizes = (128, 64, 256, 64)
    offsets = [arena.take(n) for n in sizes]
    arena.free(offsets[0], 128)
    arena.free(offsets[2], 256)
    assert arena.take(100) == offsets[0] and arena.take(200) == offsets[2]


def test_the_last_gap_grows() -> None:
    arena = Arena()
    arena.take(64)
    arena.free(arena.take(64), 64)
    assert arena.take(128) == 64 and arena.peak == 192


def test_a_chain_needs_two_places_only() -> None:
    y = C["exp"](input("x", (1024,)))
    for _ in range(20):
        y = C["cumulative_sum"](y, axis=0)
    (program,) = compile(Graph({"y": y}), cluster(1)).programs
    assert program.arena_nbytes == 2 * 4096


@pytest.mark.parametrize("seed", range(0, 100, 7))
def test_no_plan_overwrites_what_is_alive(seed: int) -> None:
    plan = compile(random_graph(seed).graph, cluster(5), strategy="space")
    for program in plan.programs:
        check_alive(program)


def check_alive(program: Program) -> None:
    """Byte by byte: an instruction writes only where nobody's value is."""
    owner: dict[tuple[str, int], int] = {}
    alive: set[int] = set()

    def cells(number: int) -> list[tuple[str, int]]:
        value = program.values[number]
        return [(value.unit, i) for i in range(value.offset, value.offset + value.nbytes)]

    for instruction in program.instructions:
        if isinstance(instruction, Free):
            alive.discard(instruction.value)
        written = (
            instruction.outputs
            if isinstance(instruction, Run)
            else (instruction.value,)
            if isinstance(instruction, Recv)
            else ()
        )
        for number in written:
            if program.values[number].place == ARENA:
                for cell in cells(number):
                    assert owner.get(cell) not in alive, f"value {number} overwrites {owner[cell]}"
                    owner[cell] = number
                alive.add(number)
