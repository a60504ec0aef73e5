"""What a user may ask for that cannot be: each an error of ours that says what is wrong and what would be needed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rainshed as rs
from rainshed.compiler.machines import NO_LINK, Cluster, Link, Machine
from rainshed.compiler.pipeline import compile
from rainshed.ops.errors import ClusterError, CompileError, RainshedError, UsageError
from rainshed.ops.ir import Graph

FAST = Link(1e9, 1e-6)
MUCH = 10**8


def net() -> Graph:
    """Weights of 8,192 and 2,048 bytes, biases of 256 and 32."""
    h = rs.layers.dense(rs.input("x", (16, 32)), 64, activation=rs.relu)
    return rs.graph(loss=rs.mean(rs.square(rs.layers.dense(h, 8))))


def machines(*memory_bytes: int, **links: Any) -> Cluster:
    each = tuple(Machine(name=f"m{i}", memory_bytes=n) for i, n in enumerate(memory_bytes))
    return Cluster(machines=each, **links)


def on(*names: str) -> Graph:
    h = rs.input("x", (16, 32))
    for name in names:
        with rs.on(name):
            h = rs.layers.dense(h, 64)
    return rs.graph(loss=rs.mean(rs.square(h)))


COMPILED: dict[str, tuple[Callable[[], object], type[RainshedError], str, dict[str, str]]] = {
    "less memory than variables": (
        lambda: compile(net(), machines(100, 100)),
        CompileError, "need 10528 bytes of memory at least, and all machines together have 200",
        {"needed": "10328 bytes more", "machines": "m0 100, m1 100"},
    ),
    "one machine with less": (
        lambda: compile(net(), machines(1000)),
        CompileError, "need 10528 bytes of memory at least, and m0 has 1000", {"needed": "9528 bytes more"},
    ),
    "room for the variables alone": (
        lambda: compile(net(), machines(9000, 9000)),
        CompileError, "no plan fits into the machines' memory", {"needed": r"\d+ bytes on m0, .*\(strategy \w+\); a smaller batch"},
    ),
    "values larger than all machines": (
        lambda: compile(rs.graph(outputs={"y": rs.sum(rs.input("x", (10**6,)))}), machines(10**5, 10**5)),
        CompileError, "no plan fits", {"needed": r"2\d{6} bytes on m0, 2\d{6} bytes on m1"},
    ),
    "a variable on a machine without memory for it": (
        lambda: compile(net(), machines(MUCH, 100), place={"dense/w": "m1"}),
        CompileError, "variables pinned to m1 need 8192 bytes of memory, and it has 100",
        {"needed": "more memory on m1, or fewer pins"},
    ),
    "a layer on a machine without memory for it": (
        lambda: compile(on("m1"), machines(MUCH, 1)),
        CompileError, "pinned to m1 need 8448 bytes of memory, and it has 1", {"largest": "dense/w"},
    ),
    "on and place": (
        lambda: compile(on("m0"), machines(MUCH, MUCH), place={"dense": "m1"}),
        CompileError, "cannot be on two machines: m0 and m1",
        {"on m0": r"rs\.on", "on m1": "place 'dense'", "needed": "one of the two pins less"},
    ),
    "two keys of place": (
        lambda: compile(net(), machines(MUCH, MUCH), place={"dense": "m0", "dense/*": "m1"}),
        CompileError, "cannot be on two machines", {"on m1": r"place 'dense/\*'"},
    ),
    "a machine that is not there, by on": (
        lambda: compile(on("nowhere"), machines(MUCH, MUCH)),
        CompileError, "'nowhere', which is not a machine", {"machines": "m0, m1", "pinned by": r"rs\.on", "built at": __file__},
    ),
    "a machine that is not there, by place": (
        lambda: compile(net(), machines(MUCH, MUCH), place={"dense": "gpu7"}),
        CompileError, "'gpu7', which is not a machine", {"machines": "m0, m1"},
    ),
    "pins without a link": (
        lambda: compile(on("m0", "m1"), machines(MUCH, MUCH, default_link=NO_LINK)),
        CompileError, "m0 and m1, which have no link",
        {"on m0": "dense/w", "on m1": "dense_1/w", "needed": "a link between m0 and m1"},
    ),
    "no links, and little memory": (
        lambda: compile(net(), machines(9000, 9000, default_link=NO_LINK)),
        CompileError, "no machines that are all linked have the memory",
        {"on m0": "need 10528 bytes .* m0 has 9000; needed: 1528 bytes more", "no link": "m0 - m1"},
    ),
    "two networks, both with little memory": (
        lambda: compile(net(), machines(*[9000] * 4, default_link=NO_LINK, links={("m0", "m1"): FAST, ("m2", "m3"): FAST})),
        CompileError, "no machines that are all linked have the memory", {"on m2, m3": r"no plan fits .* needed: \d+ bytes on m2"},
    ),
    "place that is a list": (
        lambda: compile(net(), machines(MUCH), place=[("dense", "m0")]),  # type: ignore[arg-type]
        UsageError, "place maps names to machines", {"hint": "place="},
    ),
    "a number of machines": (
        lambda: compile(net(), 2),  # type: ignore[arg-type]
        UsageError, "compiled for a Cluster; found 2", {"hint": "Cluster.local"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", COMPILED)
def test_what_cannot_be_compiled(case: str) -> None:
    make, kind, message, detail = COMPILED[case]
    with pytest.raises(kind, match=message) as caught:
        make()
    for label, text in detail.items():
        assert re.search(text, caught.value.detail[label]), caught.value


MADE: dict[str, tuple[dict[str, Any], str]] = {
    "names instead of machines": ({"machines": ("a", "b")}, "a tuple of Machine; found 'a' in it"),
    "one machine": ({"machines": Machine(name="a")}, "a tuple of Machine"),
    "a number as a name": ({"machines": (Machine(name=3),)}, "name is a word .* found 3"),  # type: ignore[arg-type]
    "links in a list": ({"links": [("a", "b")]}, "links must map two names"),
    "a link of one name": ({"links": {"a": FAST}}, "links must map two names to a Link; found 'a'"),
    "a number as a link": ({"links": {("a", "b"): 1e9}}, r"must be a Link\(.*found 1000000000.0"),
    "a number as the usual link": ({"default_link": 1e9}, r"must be a Link\("),
    "a link to itself": ({"links": {("a", "a"): FAST}}, "link a - a: a machine has no link to itself"),
    "a link to a machine that is not there": ({"links": {("a", "z"): FAST}}, "'z', which is not a machine"),
    "a negative link": ({"default_link": Link(-5.0)}, "bytes_per_s must be a number above zero, or 0 .* found -5.0"),
    "no speed": ({"machines": (Machine(name="a", flops=0.0),)}, "flops must be a number above zero; found 0.0"),
    "negative speed": ({"machines": (Machine(name="a", cores=-1.0),)}, "cores must be a number above zero; found -1.0"),
    "no memory on one of two": (
        {"machines": (Machine(name="a"), Machine(name="b", memory_bytes=0))},
        "machine 'b': memory_bytes must be a whole number above zero; found 0",
    ),
}


@pytest.mark.parametrize("case", MADE)
def test_what_is_no_cluster(case: str) -> None:
    fields, message = MADE[case]
    with pytest.raises(ClusterError, match=message):
        Cluster(**{"machines": (Machine(name="a"), Machine(name="b")), **fields})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[machine]]\nname = "a"\nflops = nan', "machine 'a': flops must be a number above zero; found nan"),
        ('[[machine]]\nname = "a"\nmemory_bytes = inf', "memory_bytes must be a whole number above zero; found inf"),
        ('[[machine]]\nname = "a"\n[link]\nbytes_per_s = nan', "link: bytes_per_s must be .* found nan"),
        ('[[machine]]\nname = "a"\n[link]\nlatency_s = -inf', "latency_s must be finite .* found -inf"),
        ('[[machine]]\nname = "a"\nflops = "fast"', "flops must be a number above zero; found 'fast'"),
        ('[machine]\nname = "a"', "machine must be a list of tables"),
        ("", "at least one machine"),
        (
            '[[machine]]\nname = "a"\n[[machine]]\nname = "b"\n[link]\n[[link.between]]\nmachines = ["a", "b"]\n'
            'bytes_per_s = 1e6\n[[link.between]]\nmachines = ["b", "a"]\nbytes_per_s = 1e7',
            r"link.between\[1\]: the link b - a stands there already",
        ),
        (
            '[[machine]]\nname = "a"\n[[machine.unit]]\nname = "cuda0"',
            r"machine\[0\]: unit\[0\] lacks flops, bytes_per_s",
        ),
        ('[[machine]]\nname = "a"\n[[machine.rate]]\nwork = "product"\nspeed = 1', r"rate\[0\]: unknown key 'speed'"),
    ],
)
def test_what_is_no_cluster_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    with pytest.raises(ClusterError, match=message):
        Cluster.from_toml(path)


def test_a_machine_without_room_among_good_ones_is_left_out() -> None:
    plan = compile(net(), machines(MUCH, 1, MUCH), strategy="auto")
    assert plan.prediction.machines["m1"].memory_bytes == 0
