"""simulate: times of small plans worked out by hand."""

import pytest
from compiler_kit import cluster

from rainshed.compiler.machines import Cluster, Link, Machine
from rainshed.compiler.plan import ARENA, FED, KEPT, Program, Recv, Run, Send, Transfer, Value
from rainshed.compiler.simulate import memory_of, simulate
from rainshed.ops.errors import PlanError

LINK = Link(bytes_per_s=1000.0, latency_s=0.5)


def linked(machines: int) -> Cluster:
    """Machines that handle messages in no time."""
    free = {"message_s": 0.0, "message_bytes_per_s": 1e30}
    return Cluster(machines=tuple(Machine(name=f"m{i}", **free) for i in range(machines)), default_link=LINK)


def program(machine: str, *instructions: object, values: int = 4) -> Program:
    places = tuple(Value(dtype="f32", shape=(250,), place=ARENA, offset=1000 * i) for i in range(values))
    return Program(machine=machine, values=places, instructions=instructions, arena_nbytes=1000 * values)  # type: ignore[arg-type]


def run(seconds: float, inputs: tuple[int, ...] = (), output: int = 0) -> Run:
    return Run(op="exp", inputs=inputs, outputs=(output,), seconds=seconds, flops=80)


def transfer(key: int, source: str, to: str, nbytes: int = 1000) -> Transfer:
    return Transfer(key=key, source=source, to=to, nbytes=nbytes, of="x", reason="activation")


def test_one_machine_takes_the_sum_of_its_kernels() -> None:
    got = simulate((program("m0", run(1.0), run(2.0, (0,), 1)),), (), linked(1))
    assert (got.step_s, got.bytes, got.messages) == (3.0, 0, 0)
    assert got.machines["m0"].compute_s == 3.0


def test_a_message_waits_for_its_value_and_takes_its_time() -> None:
    """2 s of computing, 1000 bytes at 1000 bytes/s, 0.5 s of latency, 3 s of computing."""
    got = simulate(
        (program("m0", run(2.0), Send(0, 0, "m1")), program("m1", Recv(0, 0, "m0"), run(3.0, (0,), 1))),
        (transfer(0, "m0", "m1"),),
        linked(2),
    )
    assert got.step_s == 2 + 1 + 0.5 + 3
    assert (got.machines["m0"].bytes_out, got.machines["m1"].bytes_in, got.bytes, got.messages) == (1000, 1000, 1000, 1)


def test_sending_does_not_slow_computing() -> None:
    got = simulate(
        (program("m0", run(2.0), Send(0, 0, "m1"), run(4.0, (0,), 1)), program("m1", Recv(0, 0, "m0"))),
        (transfer(0, "m0", "m1"),),
        linked(2),
    )
    assert got.step_s == 6.0


def test_messages_share_an_interface() -> None:
    """Two to two machines share that of the sender; two to one machine that of the receiver."""
    out = simulate(
        (
            program("m0", run(1.0), Send(0, 0, "m1"), Send(0, 1, "m2")),
            program("m1", Recv(0, 0, "m0")),
            program("m2", Recv(0, 1, "m0")),
        ),
        (transfer(0, "m0", "m1"), transfer(1, "m0", "m2")),
        linked(3),
    )
    into = simulate(
        (
            program("m0", Recv(0, 0, "m1"), Recv(1, 1, "m2")),
            program("m1", run(1.0), Send(0, 0, "m0")),
            program("m2", run(1.0), Send(0, 1, "m0")),
        ),
        (transfer(0, "m1", "m0"), transfer(1, "m2", "m0")),
        linked(3),
    )
    assert out.step_s == into.step_s == 1 + 1 + 1 + 0.5


def test_machines_that_wait_for_each_other_are_found() -> None:
    programs = (
        program("m0", Recv(0, 0, "m1"), run(1.0, (0,), 1), Send(1, 1, "m1")),
        program("m1", Recv(0, 1, "m0"), run(1.0, (0,), 1), Send(1, 0, "m0")),
    )
    with pytest.raises(PlanError, match="never ends: m0, m1"):
        simulate(programs, (transfer(0, "m1", "m0"), transfer(1, "m0", "m1")), linked(2))


def test_the_lower_bound_is_the_larger_of_work_and_wire() -> None:
    flops = cluster(1).machines[0].flops
    work = simulate((program("m0", run(1.0)), program("m1", run(1.0))), (), linked(2))
    assert work.lower_bound_s == pytest.approx(160 / (2 * flops))
    wire = simulate(
        (program("m0", run(2.0), Send(0, 0, "m1")), program("m1", Recv(0, 0, "m0"))),
        (transfer(0, "m0", "m1"),),
        linked(2),
    )
    assert wire.lower_bound_s == 1.0


def test_memory_is_what_is_kept_fed_and_in_the_arena() -> None:
    values = tuple(Value(dtype="f64", shape=(n,), place=place) for n, place in ((3, KEPT), (5, FED)))
    p = Program(machine="m0", values=values, instructions=(), arena_nbytes=128, kept_nbytes=24)
    assert memory_of(p) == 24 + 128 + 40
