"""Where arriving bytes go, and what is refused."""

import itertools

import plans
import pytest

from rainshed.ops.errors import PlanError, ProtocolError
from rainshed.runtime.rendezvous import Rendezvous, Then, Where


def two():
    """Transfers 0 and 1 from m1, of 16 bytes each."""
    b = plans.Build("m0")
    b.output("y", b.run("add", (b.recv(0, "m1", (4,)), b.recv(1, "m1", (4,))), (4,)))
    return Rendezvous(b.program())


def test_posted_first_then_bytes_go_to_their_place():
    r = two()
    assert r.post(0) is Then.WAIT
    assert r.place("m1", 0, 0, 16) is Where.FINAL
    assert r.arrived(0, 0) is Then.DONE


def test_bytes_first_then_they_are_copied_when_posted():
    r = two()
    assert r.place("m1", 0, 0, 16) is Where.EVEN
    assert r.arrived(0, 0) is Then.WAIT
    assert r.post(0) is Then.COPY


def test_posted_while_the_bytes_come():
    r = two()
    assert r.place("m1", 0, 0, 16) is Where.EVEN
    assert r.post(0) is Then.WAIT
    assert r.arrived(0, 0) is Then.COPY


def test_one_step_ahead_waits_in_its_own_spare():
    r = two()
    assert r.place("m1", 0, 0, 16) is Where.EVEN
    assert r.arrived(0, 0) is Then.WAIT
    assert r.place("m1", 1, 0, 16) is Where.ODD
    assert r.arrived(1, 0) is Then.WAIT
    assert r.post(0) is Then.COPY
    r.finish()
    assert r.step == 1
    assert r.post(0) is Then.COPY
    r.finish()
    assert r.place("m1", 2, 0, 16) is Where.EVEN  # the places of step 0 are free again


@pytest.mark.parametrize(
    ("source", "step", "key", "nbytes", "what"),
    [
        ("m1", 3, 7, 16, "transfer 7 of step 3 from m1: m0 expects no such transfer"),
        ("m2", 3, 0, 16, "m0 expects it from m1"),
        ("m1", 3, 0, 17, "has 17 bytes, planned are 16"),
        ("m1", 3, 0, 0, "has 0 bytes, planned are 16"),
        ("m1", 5, 0, 16, "m0 is at step 3, that step is too far ahead"),
        ("m1", 2, 0, 16, "m0 is at step 3, that step is over"),
        ("m1", 2**62, 0, 16, "too far ahead"),
    ],
)
def test_what_was_not_planned_is_refused(source, step, key, nbytes, what):
    r = two()
    for _ in range(3):
        r.finish()
    with pytest.raises(ProtocolError, match=what):
        r.place(source, step, key, nbytes)
    assert r.place("m1", 3, 0, 16) is Where.ODD  # nothing was changed by it


@pytest.mark.parametrize("ahead", [0, 1])
def test_what_has_come_before_is_refused(ahead):
    r = two()
    r.place("m1", ahead, 1, 16)
    with pytest.raises(ProtocolError, match="has come before"):
        r.place("m1", ahead, 1, 16)
    r.arrived(ahead, 1)
    with pytest.raises(ProtocolError, match="has come before"):
        r.place("m1", ahead, 1, 16)


def test_every_order_of_two_steps_delivers_once():
    """Place, arrived and post of one key in two steps, in every order that can be: one event ends each receive."""
    events = [("place", 0), ("arrived", 0), ("place", 1), ("arrived", 1), ("post", 0), ("finish", 0), ("post", 1)]
    must = [(0, 1), (1, 2), (2, 3), (1, 5), (4, 5), (5, 6)]  # a sends in order; a step ends when its receive is done
    count = 0
    for order in itertools.permutations(range(len(events))):
        at = {event: i for i, event in enumerate(order)}
        if not all(at[a] < at[b] for a, b in must):
            continue
        count += 1
        r, ended, spare_read = two(), {0: 0, 1: 0}, set()
        for what, step in (events[i] for i in order):
            if what == "place":
                where = r.place("m1", step, 0, 16)
                assert where in (Where.FINAL, Where(step))
            elif what == "finish":
                r.finish()
            else:
                then = r.arrived(step, 0) if what == "arrived" else r.post(0)
                ended[step] += then is not Then.WAIT
                if then is Then.COPY:
                    spare_read.add(step)
        assert ended == {0: 1, 1: 1}
    assert count > 5


def test_a_transfer_that_is_received_twice_is_no_plan():
    b = plans.Build("m0")
    b.recv(3, "m1", (4,))
    b.recv(3, "m1", (4,))
    with pytest.raises(PlanError, match="transfer 3 is received twice"):
        Rendezvous(b.program())
