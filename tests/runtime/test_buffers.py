"""Arrays where the plan says, and refusal of what does not fit."""

import numpy as np
import plans
import pytest

from rainshed.compiler.plan import Program, Value
from rainshed.ops.errors import PlanError
from rainshed.runtime.buffers import ALIGN, Buffers, aligned
from rainshed.runtime.rendezvous import Where


@pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 100_000])
def test_memory_is_aligned_and_zero(nbytes):
    memory = aligned(nbytes)
    assert memory.nbytes == nbytes and not memory.any()
    assert not nbytes or memory.ctypes.data % ALIGN == 0


def test_values_lie_where_the_plan_says():
    values = (
        Value(dtype="f32", shape=(4,), place="arena", offset=64),
        Value(dtype="i32", shape=(2, 2), place="arena", offset=64),
        Value(dtype="f64", shape=(), place="kept"),
        Value(dtype="bool", shape=(3, 0), place="fed"),
    )
    b = Buffers(Program(machine="m0", values=values, instructions=(), arena_nbytes=128))
    assert [(str(a.dtype), a.shape) for a in b.arrays] == [
        ("float32", (4,)), ("int32", (2, 2)), ("float64", ()), ("bool", (3, 0))
    ]  # fmt: skip
    b.arrays[0][...] = 1.0
    assert np.all(b.arrays[1] == np.float32(1).view(np.int32))
    assert all(a.flags.c_contiguous and a.flags.writeable for a in b.arrays)
    assert b.arrays[0].ctypes.data - b.arena.ctypes.data == 64


def test_spares_are_made_once_per_transfer_and_parity():
    b = Buffers(plans.partial_sums().program("m0"))
    spare = b.spare(0, 3, Where.EVEN)
    assert spare.shape == b.arrays[3].shape and spare is b.spare(0, 3, Where.EVEN)
    assert spare is not b.spare(0, 3, Where.ODD)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (Value(dtype="f32", shape=(4,), place="arena", offset=120), "value 0 of m0 does not fit the arena"),
        (Value(dtype="f32", shape=(4,), place="arena"), "does not fit the arena"),
        (Value(dtype="f64", shape=(1,), place="arena", offset=4), "does not fit the arena"),
        (Value(dtype="f32", shape=(4,), place="lost"), "has the place 'lost'"),
    ],
)
def test_what_has_no_place_is_refused(value, what):
    with pytest.raises(PlanError, match=what):
        Buffers(Program(machine="m0", values=(value,), instructions=(), arena_nbytes=128))
