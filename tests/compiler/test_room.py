"""room: places that rest until nobody would wait for them, and plans that are quicker for it."""

import pytest
from compiler_kit import cluster

import rainshed as rs
from rainshed.compiler.dependencies import dependencies, reads
from rainshed.compiler.lower import lower
from rainshed.compiler.machines import Cluster, Link
from rainshed.compiler.passes.allocate import Life
from rainshed.compiler.passes.schedule import schedule
from rainshed.compiler.pipeline import PASSES, run_passes
from rainshed.compiler.plan import ARENA, Free, Program, Recv, Run, Send
from rainshed.compiler.room import rested
from rainshed.compiler.setting import Setting
from rainshed.compiler.timing import step_seconds

OWN, LATER = Run(op="exp", inputs=(), outputs=(2,)), Run(op="exp", inputs=(1,), outputs=(2,))


def life(first: int, last: int) -> Life:
    return Life(64, first, last)


@pytest.mark.parametrize(("last", "until"), [(OWN, 4), (LATER, 3)])
def test_a_place_rests_for_whoever_does_not_wait_for_its_users(last: Run, until: int) -> None:
    """Value 0 arrives and is read at once; what comes last waits for it, too, or for nothing."""
    instructions = (Recv(0, 0, "m1"), Run(op="exp", inputs=(0,), outputs=(1,)), Send(1, 1, "m1"), Free(0), last)
    lives = {0: life(0, 3), 1: life(1, 5), 2: life(4, 5)}
    assert rested(instructions, lives) == [life(0, until), life(1, 5), life(4, 5)]


def test_without_messages_nothing_rests() -> None:
    instructions = (Run(op="exp", inputs=(), outputs=(0,)), Free(0), OWN)
    lives = {0: life(0, 1), 2: life(2, 3)}
    assert rested(instructions, lives) == list(lives.values())


def test_a_receive_waits_for_what_all_its_readers_wait_for() -> None:
    """Its bytes may come before its place is free: only who reads them counts."""
    instructions = (
        Recv(0, 0, "m1"),
        Run(op="exp", inputs=(0,), outputs=(1,)),
        Free(0),
        Recv(2, 1, "m2"),
        Run(op="add", inputs=(1, 2), outputs=(3,)),
    )
    lives = {0: life(0, 2), 1: life(1, 5), 2: life(3, 5), 3: life(4, 5)}
    assert rested(instructions, lives)[0] == life(0, 2)


def lowered(*, rest: bool) -> tuple[tuple[Program, ...], float]:
    """A deep network whose layers are cut over two machines, and the seconds of its step."""
    h = rs.input("x", (256, 512))
    for _ in range(3):
        h = rs.layers.dense(h, 512, activation=rs.relu)
    graph = rs.graph(loss=rs.mean(rs.square(h)), optimizer=rs.SGD(0.01))
    told = Setting(cluster=Cluster(machines=cluster(2).machines, default_link=Link(12e6)), strategy="features")
    placed = run_passes(graph, told, PASSES)
    programs, _ = lower(placed, schedule(placed, told), told, rest=rest)
    return programs, step_seconds(programs, told.cluster)


def awaited(program: Program, *, data_only: bool) -> list[set[int]]:
    """The messages that each kernel waits for: by what it reads, or also for its place."""
    made: dict[int, int] = {}
    found: list[set[int]] = []
    for i, (instruction, before) in enumerate(zip(program.instructions, dependencies(program), strict=True)):
        if data_only:
            before = tuple(made[v] for v in reads(instruction) if v in made)
        own = {instruction.key} if isinstance(instruction, Recv) else set()
        found.append(own.union(*(found[j] for j in before)))
        if isinstance(instruction, Run):
            made |= dict.fromkeys(instruction.outputs, i)
        elif isinstance(instruction, Recv):
            made[instruction.value] = i
    return [x for x, i in zip(found, program.instructions, strict=True) if isinstance(i, Run)]


def test_in_larger_arenas_no_kernel_waits_for_a_message_that_it_does_not_need() -> None:
    (small, small_s), (large, large_s) = lowered(rest=False), lowered(rest=True)
    assert large_s < small_s
    assert all(a.arena_nbytes <= b.arena_nbytes for a, b in zip(small, large, strict=True))
    for program in large:
        kernels = [i for i in program.instructions if isinstance(i, Run)]
        arena = [all(program.values[v].place == ARENA for v in i.outputs) for i in kernels]
        waits = zip(arena, awaited(program, data_only=False), awaited(program, data_only=True), strict=True)
        assert all(x == y for in_arena, x, y in waits if in_arena)
