"""Which places of an arena must rest a while, so that no kernel waits for bytes that it does not need.

A machine that waits for bytes does meanwhile what else is ready. It cannot if that would be written over a value whose readers
wait for those very bytes: so a place is taken again only by what waits for all the messages that its last users wait for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rainshed.compiler.passes.allocate import Life
from rainshed.compiler.plan import Assign, Instruction, Recv, Run, Send


def rested(instructions: Sequence[Instruction], lives: Mapping[int, Life]) -> list[Life]:
    """The lives of values, in turns that are places in `instructions`, lengthened until nobody would wait for their places."""
    masks, users = _messages(instructions)
    makers = [(life.first, masks[life.first]) for life in reversed(list(lives.values()))]  # the latest first
    latest: dict[int, int] = {}  # messages of users -> the latest maker that does not wait for all of them
    for mask in {users[value] for value in lives}:
        latest[mask] = next((first for first, own in makers if mask & ~own), -1)
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
