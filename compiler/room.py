"""Which places of an arena must rest a while, so that no kernel waits for bytes that it does not need.

A machine that waits for bytes does meanwhile what else is ready. It cannot if that would be written over a value whose readers
wait for those very bytes: so a place is taken again only by what waits for all the messages that its last users wait for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from msgspec import structs

from rainshed.compiler.passes.allocate import Life, allocate
from rainshed.compiler.plan import ARENA, Assign, Free, Instruction, Program, Recv, Run, Send
from rainshed.compiler.units import HOST

MOST_BITS = 400_000_000  # of the sets of messages of a program: 50 MB; beyond, its places do not rest


def roomy(program: Program, *, pack: bool) -> Program:
    """The program with larger arenas, in which no place is taken again by what could be computed while its last users wait for
    bytes; itself if there is no such place. `pack`: see `allocate`."""
    instructions = program.instructions
    if sum(type(i) is Recv for i in instructions) * len(instructions) > MOST_BITS:
        return program
    old = _lives(program)
    new = {unit: rested(instructions, lives) for unit, lives in old.items()}
    if all(list(lives.values()) == new[unit] for unit, lives in old.items()):
        return program
    values = list(program.values)
    peaks: dict[str, int] = {}
    for unit, lives in old.items():
        offsets, peaks[unit] = allocate(new[unit], pack=pack)
        for number, offset in zip(lives, offsets, strict=True):
            if values[number].offset != offset:
                values[number] = structs.replace(values[number], offset=offset)
    arena = peaks.pop(HOST, 0)
    return structs.replace(
        program,
        values=tuple(values),
        arena_nbytes=arena,
        unit_arenas={unit: peaks[unit] for unit in program.unit_arenas},
    )


def _lives(program: Program) -> dict[str, dict[int, Life]]:
    """Of each unit, the values in its arena; turns are places in the list of instructions."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for i, instruction in enumerate(program.instructions):
        if type(instruction) is Run:
            first.update(dict.fromkeys(instruction.outputs, i))
        elif type(instruction) is Recv:
            first[instruction.value] = i
        elif type(instruction) is Free:
            last[instruction.value] = i
    lives: dict[str, dict[int, Life]] = {}
    for number, value in enumerate(program.values):
        if value.place == ARENA:
            until = last.get(number, len(program.instructions))
            lives.setdefault(value.unit, {})[number] = Life(value.nbytes, first[number], until)
    return lives


def rested(instructions: Sequence[Instruction], lives: Mapping[int, Life]) -> list[Life]:
    """The lives of values, in turns that are places in `instructions`, lengthened until nobody would wait for their places."""
    masks, users = _messages(instructions)
    # Of the makers, the latest first: where one comes that does without messages for which all later ones wait, and all messages
    # that it or a later one does without.
    turns: list[int] = []
    missing: list[int] = [0]
    for life in reversed(list(lives.values())):
        known = missing[-1] | ~masks[life.first]
        if known != missing[-1]:
            turns.append(life.first)
            missing.append(known)
    latest: dict[int, int] = {0: -1}  # messages of users -> the latest maker that does not wait for all of them
    for mask in {users[value] for value in lives} - {0}:
        found = bisect_left(missing, True, lo=1, key=lambda known: mask & known != 0) - 1
        latest[mask] = turns[found] if found < len(turns) else -1
    return [life._replace(last=max(life.last, latest[users[value]])) for value, life in lives.items()]


def _messages(instructions: Sequence[Instruction]) -> tuple[list[int], dict[int, int]]:
    """What each instruction waits for, and what the users of each value do, its maker included: messages as bit sets.

    A receive waits for what all readers of its value wait for: an earlier place is of no use to it.
    """
    masks: list[int] = []
    value_of: dict[int, int] = {}  # what a value waits for
    users: dict[int, int] = {}
    common: dict[int, int] = {}  # value -> what all its readers wait for
    arrivals: list[tuple[int, int]] = []  # of receives: instruction, value
    for i, instruction in enumerate(instructions):
        mask = 0
        if isinstance(instruction, Recv):
            mask = 1 << len(arrivals)
            arrivals.append((i, instruction.value))
            value_of[instruction.value] = users[instruction.value] = mask
        elif isinstance(instruction, Run | Send | Assign):
            reads = instruction.inputs if isinstance(instruction, Run) else (instruction.value,)
            for value in reads:
                mask |= value_of.get(value, 0)
            for value in reads:
                users[value] = users.get(value, 0) | mask
                common[value] = common.get(value, mask) & mask
            for value in instruction.outputs if isinstance(instruction, Run) else ():
                value_of[value] = users[value] = mask
        masks.append(mask)
    for i, value in arrivals:
        masks[i] |= common.get(value, 0)
    return masks, users
