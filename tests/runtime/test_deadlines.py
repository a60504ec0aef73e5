"""Timeouts and deadlines."""

import pytest

from rainshed.ops.errors import UsageError
from rainshed.runtime.deadlines import Deadline, Listening, Timeouts


def test_scaled_multiplies_times_and_keeps_the_rate():
    scaled = Timeouts().scaled(0.1)
    assert (scaled.rpc_s, scaled.dead_s, scaled.step_s) == pytest.approx((0.5, 1.0, 6.0))
    assert scaled.min_bytes_per_s == Timeouts().min_bytes_per_s


def test_more_bytes_have_more_time():
    limits = Timeouts(rpc_s=2.0, min_bytes_per_s=1000.0)
    assert limits.for_bytes(0) == 2.0
    assert limits.for_bytes(3000) == 5.0


@pytest.mark.parametrize(
    "wrong", [{"rpc_s": 0}, {"dead_s": float("inf")}, {"step_s": float("nan")}, {"suspect_s": 0.5}]
)
def test_timeouts_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Timeouts(**wrong)


def test_silence_counts_only_while_we_listen():
    listening = Listening(every_s=1.0, gap_s=3.0, now=0.0)
    for now in (1.0, 2.0, 4.5):  # a little late is no gap
        listening.tick(now)
    assert listening.silent_s(heard=2.0) == 2.5
    assert listening.silent_s(heard=-9.0) == 4.5  # before we listened
    listening.tick(104.5)  # we stood still for 100 s
    assert listening.silent_s(heard=2.0) == 0.0
    listening.tick(105.5)
    assert listening.silent_s(heard=2.0) == 1.0
    assert listening.silent_s(heard=105.0) == 0.5


def test_deadline():
    later, now = Deadline.after(60.0), Deadline.after(0.0)
    assert 59.0 < later.left() <= 60.0 and not later.expired
    assert now.left() == 0.0 and now.expired
