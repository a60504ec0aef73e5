"""The dispatcher: an event in, the instructions that it makes ready out."""

import itertools
import random

import plans
import pytest

from rainshed.compiler import dependencies as module
from rainshed.compiler.dependencies import dependencies
from rainshed.compiler.plan import Assign, Free, Output, Program, Recv, Run, Send, Value
from rainshed.ops.errors import PlanError
from rainshed.runtime.dispatch import Dispatcher


def value(offset, n=16, place="arena"):
    return Value(dtype="f32", shape=(n,), place=place, offset=offset if place == "arena" else -1)


def run(inputs, output):
    return Run(op="add", inputs=tuple(inputs), outputs=(output,))


def program(values, instructions, outputs=()):
    return Program(
        machine="m0",
        values=tuple(values),
        instructions=tuple(instructions),
        outputs=tuple(Output(name=f"o{v}", value=v, box=((0, 16),), whole=(16,)) for v in outputs),
        arena_nbytes=4096,
    )


def test_events_in_actions_out():
    b = plans.Build("m0")
    x = b.feed("x", (4,))
    first = b.run("negative", (x,), (4,))  # 0
    b.send(first, 0, "m1")  # 1
    second = b.run("add", (first, x), (4,))  # 2
    b.free(first)  # 3
    got = b.recv(1, "m1", (4,))  # 4, in the place of `first`
    b.output("y", b.run("add", (second, got), (4,)))  # 5
    d = Dispatcher(b.program())
    assert list(d.start()) == [0]
    assert list(d.done(0)) == [1, 2]  # the send first
    assert list(d.done(2)) == []
    assert d.waiting() == ()
    assert list(d.done(1)) == [4]  # both readers of `first` are done: its place is free
    assert [r.key for r in d.waiting()] == [1]
    assert not d.finished
    assert list(d.done(4)) == [5]
    assert d.waiting() == ()
    assert list(d.done(5)) == []
    assert d.finished
    assert list(d.start()) == [0] and not d.finished  # the next step is like the first


def test_sends_and_receives_come_before_kernels_and_kernels_in_list_order():
    b = plans.Build("m0")
    x = b.feed("x", (4,))
    for _ in range(3):
        b.run("negative", (x,), (4,))
    b.recv(5, "m1", (4,))
    b.send(x, 6, "m1")
    assert list(Dispatcher(b.program()).start()) == [3, 4, 0, 1, 2]


def test_a_variable_is_assigned_after_all_who_read_its_old_value():
    d = Dispatcher(plans.counter().programs[0])  # 0: new = w + dw, 1: twice = w + w, 2: assign
    assert list(d.start()) == [0, 1]
    assert list(d.done(0)) == []
    assert list(d.done(1)) == [2]


def test_who_reads_a_variable_behind_its_assignment_waits_for_it():
    values = [value(0, place="kept"), value(0, place="fed"), value(0)]
    assert dependencies(program(values, [Assign(variable=0, value=1), run([0], 2)], [2])) == ((), (0,))


def test_constants_and_frees_are_not_of_the_step():
    values = [value(0, place="kept"), value(0), value(0)]
    constant = Run(op="constant", inputs=(), outputs=(0,))
    d = Dispatcher(program(values, [constant, run([0], 1), Free(value=1), run([0], 2)], [2]))
    assert list(d.start()) == [1]
    assert list(d.done(1)) == [3]
    assert list(d.done(3)) == [] and d.finished


def test_a_value_waits_for_all_that_lay_in_its_bytes():
    values = [value(0, place="fed"), value(0), value(64), value(32), value(96, 8)]
    listed = [run([0], 1), run([0], 2), Free(value=1), Free(value=2), run([0], 3), run([0], 4)]
    before = dependencies(program(values, listed, [3, 4]))
    assert before[4] == (0, 1)  # bytes 32..96 lay in both
    assert before[5] == (1,)  # bytes 96..128 in the second only


def test_edges_that_follow_from_others_are_left_out(monkeypatch):
    values = [value(0, place="fed"), *(value(64 * i) for i in range(3)), value(0)]
    chain = [run([0], 1), run([1], 2), run([2, 1], 3), Free(value=1), run([3], 4)]
    assert dependencies(program(values, chain, [4])) == ((), (0,), (1,), (), (2,))
    monkeypatch.setattr(module, "REDUCE_UP_TO", 0)
    assert dependencies(program(values, chain, [4])) == ((), (0,), (0, 1), (), (0, 1, 2))


@pytest.mark.parametrize(
    ("instructions", "what"),
    [
        ([run([1], 2)], "not known yet"),
        ([run([0], 1), Free(value=1), run([1], 2)], "was freed before"),
        ([run([0], 1), Free(value=1), Free(value=1)], "was freed before"),
        ([run([0], 1), run([0], 1)], "written twice"),
        ([run([0], 1), run([0], 3)], "takes the place of value 1, which is still needed"),
        ([run([0], 0)], "writes value 0, which is fed"),
        ([run([0], 9)], "there is no value 9"),
        ([run([-1], 1)], "there is no value -1"),
        ([run([0], 4)], "has no place in the arena"),
        ([run([0], 2), Free(value=2)], "output 'o2': value 2 was freed before"),
        ([Send(value=2, key=0, to="m1")], "not known yet"),
    ],
)
def test_a_list_that_is_wrong_from_top_to_bottom_is_refused(instructions, what):
    values = [value(0, place="fed"), value(0), value(64), value(32), value(4090)]
    with pytest.raises(PlanError, match=what):
        dependencies(program(values, instructions, [2]))


def test_every_order_of_events_of_a_two_way_exchange_ends():
    """All interleavings, where a send is done as soon as its receive has taken a place, and not before: capacity 0."""
    both = plans.exchange(rounds=3).programs

    def explore(history):
        machines = [Dispatcher(p) for p in both]
        todo = [[*machines[m].start()] for m in (0, 1)]
        for m, i in history:
            todo[m].remove(i)
            todo[m].extend(machines[m].done(i))
            instruction = both[m].instructions[i]
            if isinstance(instruction, Send):  # the rendezvous: the receive ends with the send
                j = arrival(1 - m, instruction.key)
                todo[1 - m].remove(j)
                todo[1 - m].extend(machines[1 - m].done(j))
        return machines, todo

    def arrival(m, key):
        return next(i for i, x in enumerate(both[m].instructions) if isinstance(x, Recv) and x.key == key)

    def enabled(todo):
        for m in (0, 1):
            for i in todo[m]:
                x = both[m].instructions[i]
                if isinstance(x, Run) or (isinstance(x, Send) and arrival(1 - m, x.key) in todo[1 - m]):
                    yield m, i

    seen = set()
    orders = 0
    stack = [()]
    while stack:
        history = stack.pop()
        machines, todo = explore(history)
        state = frozenset(history)
        if state in seen:
            continue
        seen.add(state)
        choices = list(enabled(todo))
        if not choices:
            assert all(d.finished for d in machines), f"stuck after {history}"
            orders += 1
        stack.extend((*history, c) for c in choices)
    assert orders == 1 and len(seen) > 20  # every path reaches the one end


@pytest.mark.parametrize("seed", range(20))
def test_any_order_that_the_dispatcher_allows_gives_what_the_list_gives(seed):
    """Random programs over few bytes: values are numbers in a memory that is overwritten as the plan says."""
    rng = random.Random(seed)
    b = plans.Build("m0")
    live = [b.feed("x", (4,)), b.feed("y", (4,))]
    arena = []
    for _ in range(60):
        if arena and rng.random() < 0.45:
            gone = rng.choice(arena)
            arena.remove(gone)
            b.free(gone)
        new = b.run("add", rng.choices([*live, *arena], k=2), (rng.choice((4, 16, 40)),))
        arena.append(new)
    for v in arena:
        b.output(str(v), v)
    p = b.program()

    def result(order):
        memory = {}
        for v in live:
            memory[v] = (v,)
        at = {}  # byte -> whose
        for i in order:
            x = p.instructions[i]
            if isinstance(x, Run):
                read = tuple(memory[v] for v in x.inputs)
                for v in x.inputs:
                    if v not in live:
                        assert all(at[k] == v for k in place(v)), "read after it was overwritten"
                memory[x.outputs[0]] = hash((i, read))
                at.update(dict.fromkeys(place(x.outputs[0]), x.outputs[0]))
        return [memory[o.value] for o in p.outputs]

    def place(v):
        return range(p.values[v].offset, p.values[v].offset + p.values[v].nbytes, 4)

    plain = result([i for i, x in enumerate(p.instructions) if isinstance(x, Run)])
    for _ in range(5):
        d = Dispatcher(p)
        ready, order = [*d.start()], []
        while ready:
            i = ready.pop(rng.randrange(len(ready)))
            order.append(i)
            ready.extend(d.done(i))
        assert d.finished
        assert result(order) == plain


def test_ranks_are_unique_and_name_their_instruction():
    for p in itertools.chain(plans.exchange().programs, plans.partial_sums().programs):
        ranks = Dispatcher(p).ranks
        assert len(set(ranks)) == len(ranks)
        assert [r % len(ranks) for r in ranks] == list(range(len(ranks)))
