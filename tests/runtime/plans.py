"""Small plans written by hand: a builder per machine, and a few plans that several tests use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rainshed.compiler.machines import Cluster
from rainshed.compiler.plan import (
    Assign,
    Feed,
    Free,
    Output,
    Plan,
    Prediction,
    Program,
    Recv,
    Run,
    Send,
    Transfer,
    Value,
    Variable,
)
from rainshed.ops.access import Box, whole
from rainshed.ops.init import Init
from rainshed.ops.text import attr_text


class Build:
    """One machine's program, written a line at a time. Values in the arena take the lowest offset that is free."""

    def __init__(self, machine: str) -> None:
        self.machine = machine
        self.values: list[Value] = []
        self.list: list[Any] = []
        self.feeds: list[Feed] = []
        self.variables: list[Variable] = []
        self.outputs: list[Output] = []
        self.step_value = -1
        self._live: dict[int, tuple[int, int]] = {}
        self._arena = 0

    def _value(self, shape: Sequence[int], dtype: str, place: str, of: str, offset: int | None = None) -> int:
        value = Value(dtype=dtype, shape=tuple(shape), place=place, of=of, box=whole(tuple(shape)))
        if place == "arena":
            value = Value(
                dtype=dtype,
                shape=tuple(shape),
                place=place,
                offset=self._offset(value.nbytes) if offset is None else offset,
                of=of,
                box=whole(tuple(shape)),
            )
            self._live[len(self.values)] = (value.offset, value.offset + value.nbytes)
            self._arena = max(self._arena, value.offset + value.nbytes)
        self.values.append(value)
        return len(self.values) - 1

    def _offset(self, nbytes: int) -> int:
        at = 0
        for low, high in sorted(self._live.values()):
            if low - at >= nbytes:
                break
            at = max(at, -(-high // 64) * 64)
        return at

    def feed(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str = "f32",
        box: Box | None = None,
        of: Sequence[int] | None = None,
    ) -> int:
        value = self._value(shape, dtype, "fed", name)
        box = box or whole(tuple(shape))
        self.feeds.append(Feed(name=name, value=value, box=box, whole=tuple(of or (high for _, high in box))))
        return value

    def variable(
        self, name: str, shape: Sequence[int], init: Any = 0.0, box: Box | None = None, of: Sequence[int] | None = None
    ) -> int:
        value = self._value(shape, "f32", "kept", name)
        self.variables.append(
            Variable(
                name=name,
                value=value,
                box=box or whole(tuple(shape)),
                whole=tuple(of or shape),
                init=attr_text(Init.of(init)),
            )
        )
        return value

    def step(self) -> int:
        self.step_value = self._value((), "i64", "fed", "step")
        return self.step_value

    def run(self, op: str, inputs: Sequence[int], shape: Sequence[int], dtype: str = "f32", **more: Any) -> int:
        """`more`: seconds, line, of, kept, offset; all else is an attribute."""
        own = {k: more.pop(k) for k in ("seconds", "line", "scope") if k in more}
        place = "kept" if more.pop("kept", False) else "arena"
        out = self._value(shape, dtype, place, more.pop("of", op), more.pop("offset", None))
        attrs = {k: attr_text(v) for k, v in more.items()}
        self.list.append(Run(op=op, inputs=tuple(inputs), outputs=(out,), attrs=attrs, **own))
        return out

    def send(self, value: int, key: int, to: str) -> None:
        self.list.append(Send(value=value, key=key, to=to))

    def recv(self, key: int, source: str, shape: Sequence[int], dtype: str = "f32", of: str = "received") -> int:
        out = self._value(shape, dtype, "arena", of)
        self.list.append(Recv(value=out, key=key, source=source))
        return out

    def free(self, *values: int) -> None:
        for value in values:
            self._live.pop(value, None)
            self.list.append(Free(value=value))

    def assign(self, variable: int, value: int) -> None:
        self.list.append(Assign(variable=variable, value=value))

    def output(self, name: str, value: int, box: Box | None = None, of: Sequence[int] | None = None) -> None:
        shape = self.values[value].shape
        self.outputs.append(Output(name=name, value=value, box=box or whole(shape), whole=tuple(of or shape)))

    def program(self) -> Program:
        return Program(
            machine=self.machine,
            values=tuple(self.values),
            instructions=tuple(self.list),
            feeds=tuple(self.feeds),
            variables=tuple(self.variables),
            outputs=tuple(self.outputs),
            step_value=self.step_value,
            arena_nbytes=self._arena,
            kept_nbytes=sum(v.nbytes for v in self.values if v.place == "kept"),
        )


def plan_of(*builds: Build) -> Plan:
    """The plan of these machines; its transfers are read off their sends."""
    programs = tuple(b.program() for b in builds)
    transfers = []
    for program in programs:
        for i in program.instructions:
            if isinstance(i, Send):
                value = program.values[i.value]
                transfers.append(
                    Transfer(
                        key=i.key,
                        source=program.machine,
                        to=i.to,
                        nbytes=value.nbytes,
                        of=value.of,
                        reason="activation",
                    )
                )
    nothing = Prediction(step_s=0.0, bytes=0, messages=len(transfers), lower_bound_s=0.0, machines={})
    cluster = Cluster.local(len(builds), cores=1, memory_bytes=2**30).to_data()
    return Plan(version=1, programs=programs, transfers=tuple(transfers), cluster=cluster, prediction=nothing)


def partial_sums(m: int = 4, k: int = 6, n: int = 5) -> Plan:
    """x[m, k] @ w[k, n] on two machines, cut along k: m0 adds the partial product of m1."""
    half = k // 2
    a = Build("m0")
    x = a.feed("x", (m, half), box=((0, m), (0, half)), of=(m, k))
    w = a.variable("w", (half, n), init=Init("normal", (0.0, 1.0)), box=((0, half), (0, n)), of=(k, n))
    mine = a.run("matmul", (x, w), (m, n), of="partial")
    theirs = a.recv(0, "m1", (m, n), of="partial")
    total = a.run("add", (mine, theirs), (m, n), of="y")
    a.free(mine, theirs)
    a.output("y", total)
    b = Build("m1")
    x = b.feed("x", (m, k - half), box=((0, m), (half, k)), of=(m, k))
    w = b.variable("w", (k - half, n), init=Init("normal", (0.0, 1.0)), box=((half, k), (0, n)), of=(k, n))
    mine = b.run("matmul", (x, w), (m, n), of="partial")
    b.send(mine, 0, "m0")
    b.free(mine)
    return plan_of(a, b)


def exchange(n: int = 8, rounds: int = 3) -> Plan:
    """Two machines that pass each other their values: a <- a + b', b <- b * a', the primed ones sent by the other."""
    a, b = Build("m0"), Build("m1")
    mine, theirs = a.feed("a", (n,)), b.feed("b", (n,))
    for i in range(rounds):
        a.send(mine, 2 * i, "m1")
        b.send(theirs, 2 * i + 1, "m0")
        at_a = a.recv(2 * i + 1, "m1", (n,), of=f"b{i}")
        at_b = b.recv(2 * i, "m0", (n,), of=f"a{i}")
        next_a, next_b = (
            a.run("add", (mine, at_a), (n,), of=f"a{i}"),
            b.run("multiply", (theirs, at_b), (n,), of=f"b{i}"),
        )
        a.free(at_a, *([mine] if i else []))
        b.free(at_b, *([theirs] if i else []))
        mine, theirs = next_a, next_b
    a.output("a", mine)
    b.output("b", theirs)
    return plan_of(a, b)


def counter() -> Plan:
    """One machine: w <- w + dw, twice read before; gives twice the old w."""
    a = Build("m0")
    dw = a.feed("dw", (3,))
    w = a.variable("w", (3,), init=2.0)
    new = a.run("add", (w, dw), (3,))
    twice = a.run("add", (w, w), (3,))
    a.assign(w, new)
    a.free(new)
    a.output("twice", twice)
    a.output("old", w)
    return plan_of(a)


def one_way(rounds: int = 1) -> Plan:
    """m0 sends to m1 and hears nothing from it."""
    a, b = Build("m0"), Build("m1")
    x = a.feed("x", (4,))
    double = a.run("add", (x, x), (4,))
    a.send(double, 7, "m1")
    a.free(double)
    got = b.recv(7, "m0", (4,), of="double")
    b.output("y", b.run("negative", (got,), (4,)))
    return plan_of(a, b)
