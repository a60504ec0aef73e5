"""timing: processors that are shared, messages that share interfaces, workers; worked out by hand."""

from dataclasses import replace

import pytest

from rainshed.compiler.machines import Cluster, Link, Machine, Unit
from rainshed.compiler.plan import ARENA, KEPT, Assign, Free, Program, Recv, Run, Send, Value
from rainshed.compiler.timing import step_seconds, step_spans

FREE = {"message_s": 0.0, "message_bytes_per_s": 1e30, "overhead_s": 0.0}
SLOW = {"message_s": 0.5, "message_bytes_per_s": 1000.0, "overhead_s": 0.0}
LINK = Link(bytes_per_s=1000.0, latency_s=0.25)
LARGE = 100_000  # bytes


def machines(*changes: dict[str, object], **same: object) -> Cluster:
    made = tuple(Machine(name=f"m{i}", **{**FREE, **same, **change}) for i, change in enumerate(changes))  # type: ignore[arg-type]
    return Cluster(machines=made, default_link=LINK)


def program(machine: str, *instructions: object, nbytes: int = 1000, unit: str = "cpu") -> Program:
    values = tuple(
        Value(dtype="f32", shape=(nbytes // 4,), place=ARENA, offset=nbytes * i, unit=unit) for i in range(6)
    )
    arenas = {"arena_nbytes": 6 * nbytes} if unit == "cpu" else {"unit_arenas": {unit: 6 * nbytes}}
    return Program(machine=machine, values=values, instructions=instructions, **arenas)  # type: ignore[arg-type]


def run(seconds: float, inputs: tuple[int, ...] = (), output: int = 0) -> Run:
    return Run(op="exp", inputs=inputs, outputs=(output,), seconds=seconds)


def test_machines_of_one_host_share_its_cores() -> None:
    """Two machines with half a core each: together as fast as is said of them, one alone twice as fast."""
    pair = machines({"cores": 0.5}, {"cores": 0.5}, host="h")
    assert step_seconds((program("m0", run(4.0)), program("m1", run(4.0))), pair) == 4.0
    assert step_seconds((program("m0", run(4.0)), program("m1")), pair) == 2.0
    # The shorter is over at 2; then 4 - 2 of the longer are left, and go twice as fast.
    assert step_seconds((program("m0", run(4.0)), program("m1", run(2.0))), pair) == 3.0


def test_a_machine_alone_is_as_fast_as_is_said() -> None:
    assert step_seconds((program("m0", run(4.0)), program("m1")), machines({"cores": 0.5}, {"cores": 0.5})) == 4.0


def test_a_kernel_keeps_one_core_busy() -> None:
    """Of two cores, a kernel said to take 1 s of both takes 2 s of one; two kernels at once take as long."""
    two = machines({"cores": 2.0})
    assert step_seconds((program("m0", run(1.0)),), two) == 2.0
    assert step_seconds((program("m0", run(1.0), run(1.0, output=1)),), two) == 2.0
    assert step_seconds((program("m0", run(1.0), run(1.0, (0,), 1)),), two) == 4.0


def test_what_is_ready_does_not_wait_for_the_list() -> None:
    """m0 has something to do while it waits for m1's value, though the list says that the value comes first."""
    got = step_seconds(
        (
            program("m0", Recv(0, 0, "m1"), run(1.0, (0,), 1), run(2.0, output=2)),
            program("m1", run(1.0), Send(0, 0, "m0")),
        ),
        machines({}, {}),
    )
    assert got == 1 + 1 + 0.25 + 1


def test_small_messages_are_written_by_the_worker() -> None:
    """500 bytes: 0.5 + 0.5 s of the worker before its next kernel; the same for the receiver, after wire and latency."""
    got = step_seconds(
        (
            program("m0", run(1.0), Send(0, 0, "m1"), run(5.0, (0,), 1), nbytes=500),
            program("m1", Recv(0, 0, "m0"), nbytes=500),
        ),
        machines({}, {}, **SLOW),
    )
    assert got == 1 + 1 + 5
    pair = (program("m0", run(1.0), Send(0, 0, "m1"), nbytes=500), program("m1", Recv(0, 0, "m0"), nbytes=500))
    alone = step_seconds(pair, machines({}, {}, **SLOW))
    assert alone == 1 + 1 + 0.5 + 0.25 + 1


def test_large_messages_take_processor_time_at_both_ends_while_they_go() -> None:
    """100 s on the wire; each end works 50 s for it, and shares its core with a kernel of 100 s meanwhile."""
    ends = {"message_s": 0.0, "message_bytes_per_s": 2000.0}
    send = program("m0", run(1.0), Send(0, 0, "m1"), nbytes=LARGE)
    receive = program("m1", Recv(0, 0, "m0"), nbytes=LARGE)
    assert step_seconds((send, receive), machines({}, {}, **ends)) == pytest.approx(1 + 100 + 0.25)
    busy = program("m0", run(1.0), Send(0, 0, "m1"), run(100.0, (0,), 1), nbytes=LARGE)
    assert step_seconds((busy, receive), machines({}, {}, **ends)) == pytest.approx(1 + 150)


def test_messages_to_one_machine_keep_their_order() -> None:
    """The second goes when the first has left, however small it is."""
    values = tuple(
        Value(dtype="f32", shape=(n // 4,), place=ARENA, offset=LARGE * i) for i, n in enumerate((LARGE, 400, 400))
    )
    sender = Program(
        machine="m0",
        values=values,
        instructions=(run(1.0), run(0.0, output=1), Send(0, 0, "m1"), Send(1, 1, "m1")),
        arena_nbytes=3 * LARGE,
    )
    receiver = Program(
        machine="m1",
        values=values,
        instructions=(Recv(1, 1, "m0"), Run(op="exp", inputs=(1,), outputs=(2,), seconds=1.0), Recv(0, 0, "m0")),
        arena_nbytes=3 * LARGE,
    )
    assert step_seconds((sender, receiver), machines({}, {})) == pytest.approx(1 + 100 + 0.4 + 0.25 + 1)


@pytest.mark.parametrize(("buffer_bytes", "expected"), [(0, 1 + 100 + 50), (40_000, 1 + 60 + 50), (LARGE, 1 + 50 + 50)])
def test_a_place_is_free_when_a_buffer_holds_the_rest(buffer_bytes: int, expected: float) -> None:
    """100 s on the wire, 50 s of the sender's core: a kernel of 50 s that writes where the message lay waits for its bytes to
    have left but for those that the buffer holds; and for the copy to the buffer."""
    cluster = replace(
        machines({}, {}, message_s=0.0, message_bytes_per_s=2000.0),
        default_link=replace(LINK, buffer_bytes=buffer_bytes),
    )
    values = tuple(Value(dtype="f32", shape=(LARGE // 4,), place=ARENA, offset=0) for _ in range(2))
    again = (run(1.0), Send(0, 0, "m1"), Free(0), run(50.0, output=1))
    sender = Program(machine="m0", values=values, instructions=again, arena_nbytes=LARGE)
    receiver = program("m1", Recv(0, 0, "m0"), nbytes=LARGE)
    assert step_seconds((sender, receiver), cluster) == pytest.approx(max(expected, 1 + 100 + 0.25))


def test_a_buffer_has_room_behind_what_goes() -> None:
    """Two messages of 100 s each on the wire. A kernel in the second one's place begins when the buffer holds it."""
    values = tuple(Value(dtype="f32", shape=(LARGE // 4,), place=ARENA, offset=LARGE * i) for i in (0, 1, 1))
    sends = (run(0.0), run(1.0, output=1), Send(0, 0, "m1"), Send(1, 1, "m1"), Free(1), run(250.0, output=2))
    sender = Program(machine="m0", values=values, instructions=sends, arena_nbytes=2 * LARGE)
    receiver = program("m1", Recv(0, 0, "m0"), Recv(1, 1, "m0"), nbytes=LARGE)

    def seconds(buffer_bytes: int) -> float:
        cluster = replace(machines({}, {}), default_link=replace(LINK, buffer_bytes=buffer_bytes))
        return step_seconds((sender, receiver), cluster)

    assert seconds(0) == pytest.approx(200 + 250)
    assert seconds(LARGE) == pytest.approx(100 + 250)  # when the first has left
    assert seconds(2 * LARGE) == pytest.approx(1 + 250)  # at once


def test_a_unit_works_beside_the_cores() -> None:
    unit = Unit(name="cuda0", flops=1e12, bytes_per_s=1e11, memory_bytes=2**30)
    cluster = machines({"cores": 0.5, "units": (unit,)})
    assert step_seconds((program("m0", run(3.0), unit="cuda0"),), cluster) == 3.0


def test_a_variable_that_gets_its_value_is_copied() -> None:
    values = (Value(dtype="f32", shape=(250,), place=KEPT), Value(dtype="f32", shape=(250,), place=ARENA, offset=0))
    p = Program(machine="m0", values=values, instructions=(run(1.0, (0,), 1), Assign(0, 1)), arena_nbytes=1000)
    assert step_seconds((p,), machines({"bytes_per_s": 1000.0})) == 1 + 2


def waiting(place: int) -> float:
    """Seconds of a step in which m1 waits for bytes, and has a kernel of 5 s that needs none: it writes to this place."""
    places = [Value(dtype="f32", shape=(250,), place=ARENA, offset=1000 * i) for i in (0, 1, place)]
    late = program("m0", run(7.0), Send(0, 0, "m1"))
    instructions = (Recv(0, 0, "m0"), run(1.0, (0,), 1), Free(0), Free(1), run(5.0, output=2))
    own = Program(machine="m1", values=tuple(places), instructions=instructions, arena_nbytes=3000)
    return step_seconds((late, own), machines({}, {}))


def test_a_kernel_waits_until_its_place_is_free() -> None:
    arrival = 7 + 1 + 0.25
    assert waiting(2) == arrival + 1
    assert waiting(1) == arrival + 1 + 5


def test_bytes_that_come_before_their_place_is_free_are_taken_then() -> None:
    places = tuple(Value(dtype="f32", shape=(250,), place=ARENA, offset=offset) for offset in (0, 0, 1000))
    instructions = (run(9.0), Free(0), Recv(1, 0, "m0"), run(1.0, (1,), 2))
    own = Program(machine="m1", values=places, instructions=instructions, arena_nbytes=2000)
    assert step_seconds((program("m0", run(1.0), Send(0, 0, "m1")), own), machines({}, {})) == 9 + 1


def test_a_variable_is_overwritten_when_all_its_readers_are_done() -> None:
    """Its new value comes at once; the update in place waits for a reader that waits for bytes."""
    values = (
        Value(dtype="f32", shape=(250,), place=KEPT),
        *(Value(dtype="f32", shape=(250,), place=ARENA, offset=1000 * i) for i in range(2)),
    )
    instructions = (Recv(1, 0, "m0"), run(1.0, (0, 1), 2), run(3.0, (), 0))
    own = Program(machine="m1", values=values, instructions=instructions, arena_nbytes=2000)
    assert step_seconds((program("m0", run(7.0), Send(0, 0, "m1")), own), machines({}, {})) == 7 + 1.25 + 1 + 3


@pytest.mark.parametrize("nbytes", [1000, LARGE])
def test_spans_tell_when_everything_happens(nbytes: int) -> None:
    """A kernel, its message and a reader of it, one after the other; the step ends with the last of them."""
    sender = program("m0", run(1.0), Send(0, 0, "m1"), nbytes=nbytes)
    receiver = program("m1", Recv(0, 0, "m0"), run(2.0, (0,), 1), nbytes=nbytes)
    cluster = machines({}, {})
    spans = {(s.machine, s.instruction): s for s in step_spans((sender, receiver), cluster)}
    wire = nbytes / 1000
    assert spans["m0", 0][2:] == (0.0, 1.0)
    assert spans["m0", 1].start_s == spans["m1", 0].start_s == 1.0
    assert spans["m1", 0].end_s == pytest.approx(1.0 + wire + 0.25)
    assert spans["m1", 1][2:] == pytest.approx((1.25 + wire, 3.25 + wire))
    assert max(s.end_s for s in spans.values()) == step_seconds((sender, receiver), cluster)
