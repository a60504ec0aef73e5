"""Memory that can never be enough is refused before any search, with what would be needed."""

from __future__ import annotations

from typing import Any

import pytest

import rainshed as rs
from rainshed.compiler.machines import Cluster, Machine, Unit
from rainshed.compiler.pipeline import compile
from rainshed.ops.errors import CompileError
from rainshed.ops.ir import Graph

MEGABYTE = 10**6


def machines(*memory_bytes: int) -> Cluster:
    return Cluster(machines=tuple(Machine(name=f"m{i}", memory_bytes=n) for i, n in enumerate(memory_bytes)))


def net(**how: Any) -> Graph:
    """Weights of 1,048,576 and 65,536 bytes."""
    h = rs.layers.dense(rs.input("x", (8, 512)), 512, activation=rs.relu, bias=False)
    return rs.graph(loss=rs.mean(rs.square(rs.layers.dense(h, 32, bias=False))), **how)


def test_a_model_larger_than_all_memory() -> None:
    with pytest.raises(
        CompileError, match="need 1114112 bytes of memory at least, and all machines together have 900000"
    ) as caught:
        compile(net(), machines(400_000, 500_000))
    assert caught.value.detail["largest"] == "dense/w f32[512, 512], 1048576 bytes"
    assert caught.value.detail["machines"] == "m0 400000, m1 500000"


def test_slots_need_memory_too() -> None:
    with pytest.raises(CompileError, match="need 3342336 bytes"):
        compile(net(optimizer=rs.Adam(0.1)), machines(MEGABYTE, MEGABYTE))


def test_the_memory_of_units_counts() -> None:
    gpu = Unit(name="cuda0", flops=1e12, bytes_per_s=1e11, memory_bytes=8 * MEGABYTE)
    small = Cluster(machines=(Machine(name="m0", memory_bytes=MEGABYTE // 2, units=(gpu,)),))
    with pytest.raises(CompileError) as caught:
        compile(net(), small)
    assert "at least" not in caught.value.message


def test_pinned_variables_that_do_not_fit() -> None:
    with pytest.raises(
        CompileError, match="variables pinned to m1 need 1048576 bytes of memory, and it has 1000000"
    ) as caught:
        compile(net(), machines(8 * MEGABYTE, MEGABYTE), place={"dense": "m1"})
    assert "dense/w" in caught.value.detail["largest"] and "fewer pins" in caught.value.detail["needed"]


def test_a_pinned_op_that_does_not_fit() -> None:
    """It reads 16,384 bytes and writes as many, beside the weights."""
    with pytest.raises(CompileError, match=r"dense/matmul f32\[8, 512\], pinned to m1, needs 1081344 bytes") as caught:
        compile(net(), machines(8 * MEGABYTE, 1_070_000), place={"dense": "m1"})
    assert "1048576 bytes of variables" in caught.value.detail["of these"]
    assert "test_limits.py" in caught.value.detail["built at"]


def test_an_op_that_cannot_be_cut() -> None:
    x = rs.input("x", (100_000,))
    whole = rs.cumulative_sum(x, axis=0)
    with pytest.raises(CompileError, match="cannot be cut, and needs 800000 bytes of memory on one machine") as caught:
        compile(rs.graph(outputs={"y": whole}), machines(500_000, 600_000, 400_000))
    assert caught.value.detail["largest machine"] == "m1, 600000 bytes"
    compile(rs.graph(outputs={"y": whole}), machines(500_000, 900_000))


def test_what_may_fit_is_not_refused_early() -> None:
    """A chain of element-wise ops is one kernel: the values between never lie in memory."""
    x = rs.variable("w", (1000,))
    with rs.on("m0"):
        y = rs.sum(rs.exp(rs.sin(rs.cos(x))))
    assert compile(rs.graph(outputs={"y": y}), machines(9000, 9000)).prediction.machines["m0"].memory_bytes <= 9000
