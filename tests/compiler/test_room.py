"""room: places that rest until nobody would wait for them, and plans that are quicker for it."""

import random

import pytest
from compiler_kit import cluster

import rainshed as rs
from rainshed.compiler.dependencies import dependencies, reads
from rainshed.compiler.lower import lower
from rainshed.compiler.machines import Cluster, Link
from rainshed.compiler.passes.allocate import Life
from rainshed.compiler.passes.schedule import schedule
from rainshed.compiler.pipeline import PASSES, run_passes
from rainshed.compiler.plan import ARENA, Free, Instruction, Program, Recv, Run, Send
from rainshed.compiler.room import rested, roomy
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


@pytest.mark.parametrize("seed", range(4))
def test_a_place_rests_until_its_latest_taker_waits_for_all_that_its_users_wait_for(seed: int) -> None:
    """As one finds by asking every pair of a value and a later maker."""
    chance = random.Random(seed)
    instructions: list[Instruction] = []
    lives: dict[int, Life] = {}
    waits: dict[int, set[int]] = {}
    users: dict[int, set[int]] = {}
    for value in range(40):
        lives[value] = life(len(instructions), len(instructions))
        if chance.random() < 0.4:
            instructions.append(Recv(value, value, "m1"))
            waits[value] = {value}
        else:
            read = tuple(chance.sample(range(value), min(value, 2)))
            instructions.append(Run(op="add", inputs=read, outputs=(value,)))
            waits[value] = set().union(*(waits[v] for v in read))
            for v in read:
                lives[v] = life(lives[v].first, value)
                users[v] |= waits[value]
        users[value] = set(waits[value])
    readers = {v: [i for i in instructions if isinstance(i, Run) and v in i.inputs] for v in lives}
    makes = {}  # a receive is of no use before its readers can run
    for v, instruction in zip(lives, instructions, strict=True):
        common = [waits[r.outputs[0]] for r in readers[v]] if isinstance(instruction, Recv) else []
        makes[v] = waits[v] | (set.intersection(*common) if common else set())
    expected = [
        life(a.first, max([a.last, *(b.first for w, b in lives.items() if users[v] - makes[w])]))
        for v, a in lives.items()
    ]
    assert rested(instructions, lives) == expected


def lowered(*, rest: bool) -> tuple[tuple[Program, ...], float]:
    """A deep network whose layers are cut over two machines, and the seconds of its step."""
    h = rs.input("x", (256, 512))
    for _ in range(3):
        h = rs.layers.dense(h, 512, activation=rs.relu)
    graph = rs.graph(loss=rs.mean(rs.square(h)), optimizer=rs.SGD(0.01))
    told = Setting(cluster=Cluster(machines=cluster(2).machines, default_link=Link(12e6)), strategy="features")
    placed = run_passes(graph, told, PASSES)
    programs, _ = lower(placed, schedule(placed, told), told)
    if rest:
        programs = tuple(roomy(p, pack=True) for p in programs)
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
