"""The shard: what is applied, what is not, and that nothing is applied twice."""

import msgspec
import numpy as np
import pytest
from params_kit import adagrad, config_of, ledger_rule, part, payload_of, sgd
from params_world import STEPS, World

from rainshed.ops.errors import CheckpointError, PlanError, ProtocolError, StaleIncarnationError
from rainshed.runtime.messages import Attach, Fetch, Push, Put
from rainshed.runtime.params.shard import Shard, Worker, config_from_json
from rainshed.runtime.params.snapshot import decode_snapshot, encode_snapshot

ANN, BOB = Worker("r0/m0", 1), Worker("r1/m0", 1)
PARTS = [part("b", 4), part("w", 3, 2)]


def shard_with_values(rule=sgd, parts=PARTS, kind=Shard, **more) -> Shard:
    shard = kind(config_of(parts, rule, **more))
    everything = tuple(range(len(shard.parts)))
    values = [np.arange(p.size, dtype="f4" if p.dtype == "f32" else "f8") for p in shard.parts]
    shard.put(Put(1, everything), payload_of(*values))
    return shard


def gradients(*fill: float, parts=PARTS) -> memoryview:
    return payload_of(*(np.full(p.size, f, "f4") for p, f in zip(parts, fill, strict=True)))


def fetched(shard: Shard, field: str = "w") -> list[np.ndarray]:
    message = Fetch(1, tuple(range(len(shard.parts))), (field,))
    into = memoryview(bytearray(shard.answer_nbytes(message)))
    assert shard.fetch(message, into) is not None
    return [view.copy() for view in shard._views(message.parts, into)]


# -- pushes -----------------------------------------------------------------------------------------------------------


def test_a_push_is_applied_and_acknowledged_with_its_seq_version_and_staleness():
    shard = shard_with_values()
    ack = shard.push(ANN, Push(1, 0, (0, 1)), gradients(2.0, 4.0))
    assert (ack.outcome, ack.applied_seq, ack.version, ack.staleness) == ("applied", 1, 1, 0)
    b, w = fetched(shard)
    np.testing.assert_array_equal(b, np.arange(4, dtype="f4") - 1)
    np.testing.assert_array_equal(w, np.arange(6, dtype="f4") - 2)
    ack = shard.push(BOB, Push(1, 0, (0, 1)), gradients(0.0, 0.0))
    assert (ack.outcome, ack.version, ack.staleness) == ("applied", 2, 1)
    assert shard.counts.staleness == {0: 1, 1: 1}


def test_only_the_named_parts_move():
    shard = shard_with_values()
    shard.push(ANN, Push(1, 0, (1,)), gradients(4.0, parts=PARTS[1:]))
    b, w = fetched(shard)
    assert (b[0], w[0]) == (0.0, -2.0)
    assert (shard.version((0,)), shard.version((1,)), shard.version((0, 1))) == (0, 1, 0)


def test_parts_that_are_moved_together_move_as_each_by_itself():
    """Of two element types, some of them updated more often, some missing in a push: each as its own little shard has it."""
    parts = [part(f"p{i}", 3 + i, dtype="f64" if i == 2 else "f32") for i in range(6)]
    draw = np.random.default_rng(3)
    together = shard_with_values(adagrad, parts)
    alone = [shard_with_values(adagrad, [p]) for p in together.parts]
    sent = [0] * len(parts)
    for seq, numbers in enumerate([(1, 3), (0, 1, 2, 3, 4, 5), (0, 1), (0, 1, 3, 4, 5), (0, 1, 2, 3, 4, 5)], 1):
        dw = {n: draw.normal(size=together.parts[n].size).astype(together._types[n]) for n in numbers}
        assert together.push(ANN, Push(seq, 0, numbers), payload_of(*dw.values())).outcome == "applied"
        for n in numbers:
            sent[n] += 1
            assert alone[n].push(ANN, Push(sent[n], 0, (0,)), payload_of(dw[n])).outcome == "applied"
    for field in ("w", "seen"):
        for n, values in enumerate(fetched(together, field)):
            np.testing.assert_array_equal(values, fetched(alone[n], field)[0])
    assert [together.version((n,)) for n in range(len(parts))] == sent


@pytest.mark.parametrize(("at", "name"), [(0, "b"), (3, "b"), (4, "w"), (9, "w")])
def test_the_part_that_is_not_finite_is_named(at, name):
    shard = shard_with_values()
    dw = np.ones(10, "f4")
    dw[at] = np.nan
    ack = shard.push(ANN, Push(1, 0, (0, 1)), payload_of(dw))
    assert ack.outcome == "nonfinite" and ack.text.startswith(f"the gradient of {name}")


@pytest.mark.parametrize(
    ("seq", "outcome", "applied_seq"), [(1, "dup", 2), (2, "dup", 2), (3, "applied", 3), (4, "gap", 2)]
)
def test_only_the_next_push_is_applied(seq, outcome, applied_seq):
    shard = shard_with_values()
    for earlier in (1, 2):
        shard.push(ANN, Push(earlier, 0, (0, 1)), gradients(1.0, 1.0))
    before = fetched(shard)
    ack = shard.push(ANN, Push(seq, 0, (0, 1)), gradients(1.0, 1.0))
    assert (ack.outcome, ack.applied_seq) == (outcome, applied_seq)
    assert (outcome == "applied") == any((a != b).any() for a, b in zip(before, fetched(shard), strict=True))
    assert "push 3 is due" in ack.text or outcome != "gap"


def test_workers_count_for_themselves_and_a_new_incarnation_begins_anew():
    shard = shard_with_values()
    assert shard.push(ANN, Push(1, 0, (0,)), gradients(1.0, parts=PARTS[:1])).outcome == "applied"
    assert shard.push(BOB, Push(1, 0, (0,)), gradients(1.0, parts=PARTS[:1])).outcome == "applied"
    newer = ANN._replace(incarnation=2)
    assert shard.attach(newer, Attach(shard.config.layout.digest, 0)).applied_seq == 0
    assert shard.push(newer, Push(1, 0, (0,)), gradients(1.0, parts=PARTS[:1])).outcome == "applied"
    ack = shard.push(ANN, Push(2, 0, (0,)), gradients(1.0, parts=PARTS[:1]))
    assert (ack.outcome, shard.counts.stale, shard.version((0,))) == ("stale", 1, 3)
    with pytest.raises(StaleIncarnationError, match="was replaced by 2"):
        shard.attach(ANN, Attach(shard.config.layout.digest, 1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_push_that_is_not_finite_changes_nothing_and_is_counted(bad):
    shard = shard_with_values(adagrad)
    before = fetched(shard), fetched(shard, "seen")
    values = np.zeros(6, "f4")
    values[5] = bad
    payload = payload_of(np.ones(4, "f4"), values)
    ack = shard.push(ANN, Push(1, 0, (0, 1)), payload)
    assert (ack.outcome, ack.applied_seq, ack.version) == ("nonfinite", 1, 0)
    assert "w[0:3, 0:2]" in ack.text
    for old, new in zip(before, (fetched(shard), fetched(shard, "seen")), strict=True):
        assert all((a == b).all() for a, b in zip(old, new, strict=True))
    assert (shard.counts.nonfinite, shard.counts.nonfinite_of) == (1, {"r0/m0 w": 1})
    assert shard.push(ANN, Push(1, 0, (0, 1)), payload).outcome == "dup"
    assert shard.push(ANN, Push(2, 0, (0, 1)), gradients(1.0, 1.0)).outcome == "applied"


def test_values_that_are_strange_but_finite_are_applied():
    shard = shard_with_values()
    payload = payload_of(np.array([1e38, -0.0, 1e-45, -3e38], "f4"), np.zeros(6, "f4"))
    assert shard.push(ANN, Push(1, 0, (0, 1)), payload).outcome == "applied"


def test_the_policy_abort_tells_the_sender_to_stop():
    shard = shard_with_values(nonfinite="abort")
    ack = shard.push(ANN, Push(1, 0, (0, 1)), gradients(1.0, np.nan))
    assert (ack.outcome, shard.version((0, 1)), shard.counts.nonfinite) == ("abort", 0, 1)


def test_staleness_can_be_bounded():
    shard = shard_with_values(max_staleness=1)
    for seq in (1, 2):
        assert shard.push(BOB, Push(seq, seq - 1, (0, 1)), gradients(1.0, 1.0)).outcome == "applied"
    ack = shard.push(ANN, Push(1, 0, (0, 1)), gradients(1.0, 1.0))
    assert (ack.outcome, ack.applied_seq, ack.staleness, shard.counts.too_old) == ("too_old", 1, 2, 1)
    assert shard.push(ANN, Push(2, 1, (0, 1)), gradients(1.0, 1.0)).outcome == "applied"


# -- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [(), (2,), (0, 0), (1, 0), (0, 1, 2)])
def test_wrong_parts_are_refused(parts):
    shard = shard_with_values()
    with pytest.raises(ProtocolError, match="has parts 0 to 1"):
        shard.due_nbytes(Push(1, 0, parts))
    with pytest.raises(ProtocolError, match="has parts 0 to 1"):
        shard.answer_nbytes(Fetch(1, parts))


@pytest.mark.parametrize("nbytes", [0, 4, 15, 17, 40, 41, 64])
def test_nothing_is_broadcast_cut_or_filled_up(nbytes):
    shard = shard_with_values()
    before = fetched(shard)
    with pytest.raises(ProtocolError, match=f"have 16 bytes; the payload has {nbytes}"):
        shard.push(ANN, Push(1, 0, (0,)), memoryview(bytearray(nbytes)))
    with pytest.raises(ProtocolError, match=f"have 16 bytes; the payload has {nbytes}"):
        shard.put(Put(1, (0,)), memoryview(bytearray(nbytes)))
    assert all((a == b).all() for a, b in zip(before, fetched(shard), strict=True))
    assert shard.push(ANN, Push(1, 0, (0,)), gradients(1.0, parts=PARTS[:1])).outcome == "applied"


def test_another_layout_is_refused():
    other = config_of([part("b", 4), part("w", 2, 3)]).layout
    with pytest.raises(ProtocolError, match="divides the parameters in another way"):
        shard_with_values().attach(ANN, Attach(other.digest, 0))


def test_fields_must_exist():
    shard = shard_with_values(adagrad)
    with pytest.raises(ProtocolError, match="has the fields"):
        shard.answer_nbytes(Fetch(1, (0,), ("w", "momentum")))
    with pytest.raises(ProtocolError, match="has the fields"):
        shard.answer_nbytes(Fetch(1, (0,), ("w", "w")))
    with pytest.raises(ProtocolError, match="has the fields"):
        shard.due_nbytes(Put(1, (0,), "__class__"))


@pytest.mark.parametrize(
    "wrong", [b"", b"{}", b"[1]", b'{"number": 0, "layout": {"shards": []}, "rule": {"texts": {}, "slots": {}}}']
)
def test_wrong_descriptions_are_refused(wrong):
    with pytest.raises(PlanError):
        config_from_json(wrong)


def test_the_description_travels_as_json():
    config = config_of([part("w", 3), part("s", dtype="f64")], adagrad, max_staleness=7)
    assert config_from_json(msgspec.json.encode(config)) == config


# -- values -----------------------------------------------------------------------------------------------------------


def test_nothing_is_fetched_or_pushed_before_all_first_values_are_there():
    shard = Shard(config_of(PARTS))
    message = Fetch(1, (0,))
    into = memoryview(bytearray(16))
    assert shard.put(Put(1, (0,)), payload_of(np.ones(4, "f4"))).missing == 1
    assert shard.fetch(message, into) is None
    with pytest.raises(ProtocolError, match="1 parts have no value yet"):
        shard.push(ANN, Push(1, 0, (0,)), gradients(1.0, parts=PARTS[:1]))
    assert shard.put(Put(2, (1,)), payload_of(np.ones(6, "f4"))).missing == 0
    assert shard.fetch(message, into) is not None


def test_first_values_are_taken_once():
    shard = shard_with_values()
    assert shard.put(Put(2, (0, 1)), payload_of(np.full(10, 9, "f4"))).taken == 0
    assert fetched(shard)[0][3] == 3.0
    with pytest.raises(ProtocolError, match="NaN or infinity"):
        shard.put(Put(2, (0,)), payload_of(np.full(4, np.nan, "f4")))


def test_slots_can_be_given_and_fetched_with_the_parameters():
    shard = shard_with_values(adagrad)
    shard.put(Put(2, (0,), "seen"), payload_of(np.full(4, 2.0, "f4")))
    message = Fetch(3, (0,), ("seen", "w"))
    into = memoryview(bytearray(shard.answer_nbytes(message)))
    shard.fetch(message, into)
    np.testing.assert_array_equal(np.frombuffer(into, "f4"), [2, 2, 2, 2, 0, 1, 2, 3])


def test_both_float_types_on_one_shard():
    parts = [part("a", 3), part("b", 2, dtype="f64"), part("c")]
    shard = shard_with_values(ledger_rule, parts)
    grads = payload_of(*(np.full(p.size, 0.5, "f4" if p.dtype == "f32" else "f8") for p in shard.parts))
    assert shard.push(ANN, Push(1, 0, (0, 1, 2)), grads).outcome == "applied"
    assert {p.name: v.tolist() for p, v in zip(shard.parts, fetched(shard), strict=True)} == {
        "a": [0.5, 1.5, 2.5],
        "b": [0.5, 1.5],
        "c": [0.5],
    }


# -- snapshots --------------------------------------------------------------------------------------------------------


def test_a_snapshot_holds_parameters_slots_versions_and_who_was_applied():
    shard = shard_with_values(adagrad)
    shard.push(ANN, Push(1, 0, (0, 1)), gradients(1.0, 2.0))
    saved = memoryview(b"".join(encode_snapshot(shard.snapshot())))
    shard.push(ANN, Push(2, 0, (0, 1)), gradients(3.0, 4.0))
    after = fetched(shard), fetched(shard, "seen")

    other = Shard(shard.config)
    other.restore(decode_snapshot(saved, other.parts, other.fields))
    assert other.push(ANN, Push(1, 0, (0, 1)), gradients(1.0, 2.0)).outcome == "dup"
    assert other.push(ANN, Push(2, 0, (0, 1)), gradients(3.0, 4.0)).outcome == "applied"
    for mine, theirs in zip(after, (fetched(other), fetched(other, "seen")), strict=True):
        assert all((a == b).all() for a, b in zip(mine, theirs, strict=True))
    assert other.counts.applied == 2


def test_pushes_that_a_snapshot_does_not_hold_are_counted_as_lost():
    shard = shard_with_values()
    saved = shard.snapshot()
    for seq in (1, 2, 3):
        shard.push(ANN, Push(seq, 0, (0, 1)), gradients(1.0, 1.0))
    shard.restore(saved)
    assert shard.attach(ANN, Attach(shard.config.layout.digest, 3)).applied_seq == 3
    assert shard.attach(ANN, Attach(shard.config.layout.digest, 3)).applied_seq == 3
    assert shard.counts.lost == 3
    assert shard.push(ANN, Push(4, 0, (0, 1)), gradients(1.0, 1.0)).outcome == "applied"


def test_a_snapshot_that_does_not_fit_is_refused_and_changes_nothing():
    shard = shard_with_values(adagrad)
    before = fetched(shard)
    good = b"".join(encode_snapshot(shard.snapshot()))
    for wrong in (b"", good[:7], good[:-1], good + b"x", b"\xff" * len(good), good[:8] + b"[" + good[9:]):
        with pytest.raises(CheckpointError):
            shard.restore(decode_snapshot(memoryview(wrong), shard.parts, shard.fields))
    other = shard_with_values(adagrad, [part("b", 4), part("w", 2, 3)])
    with pytest.raises(CheckpointError, match="a snapshot of shard 0, layout"):
        shard.restore(other.snapshot())
    assert all((a == b).all() for a, b in zip(before, fetched(shard), strict=True))


# -- the ledger -------------------------------------------------------------------------------------------------------


def test_the_ledger_is_exact_under_losses_late_frames_and_repetitions():
    dups = late = 0
    for seed in range(1000):
        world = World(seed)
        world.run(300)
        assert (world.ledger == 1.0).all(), f"seed {seed}"
        dups += world.shard.counts.dup
        late += sum(m.outbox.counts.resent for m in world.machines)
        assert world.shard.counts.applied == 3 * STEPS and world.shard.counts.lost == 0
    assert dups > 1000 and late > 1000  # the faults did happen


def test_the_ledger_when_machines_die():
    deaths = 0
    for seed in range(500):
        world = World(seed, deaths=True)
        world.run(300)
        deaths += sum(m.incarnation - 1 for m in world.machines)
        for machine in world.machines:
            row = world.ledger[machine.index]
            assert set(row) <= {0.0, 1.0}, f"seed {seed}: applied twice"
            assert all(row[step] == 1.0 for step in machine.certain), f"seed {seed}: an acknowledged push is gone"
    assert deaths > 300


def test_what_a_restore_loses_is_what_it_reports():
    lost = 0
    for seed in range(500):
        world = World(seed, restores=True)
        world.run(300)
        assert set(world.ledger.ravel()) <= {0.0, 1.0}, f"seed {seed}: applied twice"
        assert (world.ledger == 0.0).sum() == world.shard.counts.lost, f"seed {seed}"
        lost += world.shard.counts.lost
    assert lost > 100


class WithoutDuplicateRecognition(Shard):
    def _outcome(self, last, message, staleness):
        return "applied", ""


def test_without_duplicate_recognition_the_ledger_is_wrong():
    """The test of the test."""
    wrong = 0
    for seed in range(50):
        world = World(seed, shard=WithoutDuplicateRecognition)
        for _ in range(300):
            world.event()
        wrong += bool((world.ledger > 1.0).any())
    assert wrong > 15


class AdagradWorld(World):
    """One machine, gradients of all sizes: what a shard accumulates depends on every push and on their order."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, machines=1)
        self.config = config_of(self.parts, adagrad)
        self.shard = Shard(self.config)
        self.shard._present["w"] = [True]

    def gradient(self, machine):
        return np.random.default_rng(machine.step).normal(size=self.parts[0].shape) * 10.0 ** (machine.step % 5)


@pytest.mark.parametrize("seed", range(20))
def test_adagrad_under_faults_equals_the_run_without_faults_bit_for_bit(seed):
    calm, world = AdagradWorld(0), AdagradWorld(seed)
    calm.run(0)
    world.run(200)
    assert world.shard.counts.applied == STEPS
    for field in ("w", "seen"):
        assert world.shard._arrays[field][0].tobytes() == calm.shard._arrays[field][0].tobytes()


def test_values_are_read_and_set_span_by_span():
    shard, other = shard_with_values(), Shard(config_of(PARTS, sgd))
    for span in ((0, 4), (4, 6)):
        values, version = shard.values("w", 1, span)
        other.set_values("w", 1, values, version, span)
    np.testing.assert_array_equal(other.values("w", 1)[0], np.arange(6, dtype="f4"))
    for span in ((0, 7), (-1, 2), (3, 2)):
        with pytest.raises(CheckpointError, match="has 6 elements"):
            shard.values("w", 1, span)
    with pytest.raises(CheckpointError, match="found float32\\[3\\]"):
        other.set_values("w", 1, np.zeros(3, "f4"), 0, (0, 2))
