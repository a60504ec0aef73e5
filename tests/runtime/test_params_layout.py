"""The layout of parameters on shards: even, few shards per machine, every element once."""

import random

import msgspec
import pytest

from rainshed.compiler.plan import Plan, Prediction, Program, Value, Variable
from rainshed.ops.errors import PlanError, UsageError
from rainshed.runtime.params.layout import Layout, Owned, Part, assign, check_layout, layout_from_json, trainable_parts
from rainshed.runtime.params.layout import Piece as P


def part(name: str, *shape: int, dtype: str = "f32") -> Part:
    return Part(name, dtype, tuple((0, n) for n in shape))


def owned(count: int, machines: int, seed: int) -> list[Owned]:
    draw = random.Random(seed)
    shapes = [(draw.randint(1, 400), draw.randint(1, 60)) for _ in range(count)]
    return [Owned(part(f"v{i}", *shape), f"m{i * machines // count}") for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("seed", range(20))
def test_every_element_of_every_part_is_on_one_shard_and_shards_are_even(seed):
    parts = owned(30, 4, seed)
    servers = 1 + seed % 7
    layout = assign(parts, servers)
    total = sum(one.part.nbytes for one in parts)
    assert sum(layout.nbytes(shard) for shard in range(servers)) == total
    rows = max(one.part.nbytes // one.part.shape[0] for one in parts)
    for shard in range(servers):
        assert abs(layout.nbytes(shard) - total / servers) <= 0.04 * total / servers + 2 * max(1024, rows)
    for one in parts:
        pieces = layout.pieces(one.part)
        assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
        assert pieces[-1].stop == one.part.size
    assert sum(map(len, layout.shards)) <= len(parts) + servers - 1


@pytest.mark.parametrize("servers", [2, 4, 8])
def test_a_machine_talks_to_few_shards(servers):
    parts = owned(64, 8, 3)
    layout = assign(parts, servers)
    total = sum(one.part.nbytes for one in parts)
    for machine in {one.machine for one in parts}:
        mine = [one.part for one in parts if one.machine == machine]
        shards = {piece.shard for one in mine for piece in layout.pieces(one)}
        assert len(shards) <= sum(p.nbytes for p in mine) / (total / servers) + 2


def test_the_layout_does_not_depend_on_the_names_of_machines():
    parts = owned(12, 3, 5)
    other = [Owned(one.part, f"replica7/{one.machine}") for one in parts]
    assert assign(parts, 4) == assign(other, 4)
    assert assign(parts, 4).digest == assign(other, 4).digest != assign(parts, 3).digest


def test_a_large_part_is_cut_between_rows():
    layout = assign([Owned(part("w", 10, 1000), "m")], 4)
    assert [p.box[0] for shard in layout.shards for p in shard] == [(0, 2), (2, 5), (5, 8), (8, 10)]
    edges = [0, 2000, 5000, 8000, 10000]
    assert layout.pieces(part("w", 10, 1000)) == tuple(P(i, 0, edges[i], edges[i + 1]) for i in range(4))


def test_the_first_axis_that_can_be_cut_is_cut():
    whole = Part("w", "f64", ((3, 4), (0, 600), (2, 7)))
    layout = assign([Owned(whole, "m")], 3)
    assert [p.box[1] for shard in layout.shards for p in shard] == [(0, 200), (200, 400), (400, 600)]
    assert [piece.start for piece in layout.pieces(whole)] == [0, 1000, 2000]


def test_small_parts_scalars_and_empty_ones_stay_whole():
    parts = [part("b", 10), part("s"), part("e", 0, 5)]
    layout = assign([Owned(p, "m") for p in parts], 3)
    assert sorted(p.name for shard in layout.shards for p in shard) == ["b", "e", "s"]
    assert all(len(layout.pieces(p)) == 1 for p in parts)
    assert sum(map(bool, layout.shards)) <= 3


def test_parts_of_a_shard_are_aligned_one_behind_the_other():
    parts = [part("a", 3), part("b", 5, dtype="f64"), part("c"), part("d", dtype="f64")]
    (held,) = assign([Owned(p, "m") for p in parts], 1).shards
    at = 0
    for p in held:
        assert at % (8 if p.dtype == "f64" else 4) == 0
        at += p.nbytes


def test_boxes_of_one_variable_on_several_machines_are_several_parts():
    halves = [Part("w", "f32", ((0, 5), (0, 4))), Part("w", "f32", ((5, 9), (0, 4)))]
    layout = assign([Owned(p, f"m{i}") for i, p in enumerate(halves)], 1)
    assert [layout.pieces(p) for p in halves] == [(P(0, 0, 0, 20),), (P(0, 1, 0, 16),)]


def test_what_cannot_be_laid_out_is_refused():
    with pytest.raises(UsageError, match="at least one server"):
        assign([], 0)
    with pytest.raises(PlanError, match="twice"):
        assign([Owned(part("w", 3), "m0"), Owned(part("w", 3), "m1")], 2)
    with pytest.raises(PlanError, match="only f32, f64"):
        assign([Owned(part("w", 3, dtype="i64"), "m0")], 2)
    with pytest.raises(PlanError, match="do not hold v"):
        assign([Owned(part("w", 3), "m")], 1).pieces(part("v", 3))
    with pytest.raises(PlanError, match="do not hold w"):
        assign([Owned(part("w", 3), "m")], 1).pieces(part("w", 4))


def test_json_round_trip_and_wrong_files():
    layout = assign(owned(9, 3, 1), 3)
    assert layout_from_json(msgspec.json.encode(layout)) == layout
    for wrong in (b"", b"[]", b'{"shards": [[1]]}', b"\xff", b'{"shards": [], "x": 1}'):
        with pytest.raises(PlanError, match="not a layout"):
            layout_from_json(wrong)
    with pytest.raises(PlanError, match="not a box"):
        check_layout(Layout(((Part("w", "f32", ((3, 1),)),),)))


def test_the_trainable_parts_of_a_plan():
    values = (Value("f32", (2, 3), "kept"), Value("f32", (4,), "kept"))
    variables = (
        Variable("w", 0, ((2, 4), (0, 3)), (4, 3), "init zeros []"),
        Variable("mean", 1, ((0, 4),), (4,), "init zeros []", trainable=False),
    )
    program = Program("m1", values, (), variables=variables)
    plan = Plan(1, (program,), (), {}, Prediction(0.0, 0, 0, 0.0, {}))
    assert trainable_parts(plan) == (Owned(Part("w", "f32", ((2, 4), (0, 3))), "m1"),)
