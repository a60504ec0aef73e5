"""Large plans: layers in groups, work as strips of machines, every large transfer listed, and pages that stay small."""

import re

import msgspec
import pytest
from sample_plan import sample_plan
from test_view import Page

from rainshed.compiler.explain import BIG_SHARE
from rainshed.compiler.machines import Cluster
from rainshed.compiler.pipeline import compile
from rainshed.engine import dsl as rs
from rainshed.engine.layers import dense
from rainshed.engine.view import plan_html, plan_text
from rainshed.engine.view.collapse import GROUPS, MOST, afar
from rainshed.engine.view.details import layer_keys
from rainshed.engine.view.model import view_of
from rainshed.engine.view.spread import Spread
from rainshed.engine.view.strips import level, strip, strip_tip
from rainshed.engine.view.units import change_text

DEEP = 40


@pytest.fixture(scope="module")
def deep():
    """A chain of dense layers on two machines: too many for a box each."""
    x = rs.input("x", (4, 8), "float32")
    for i in range(DEEP):
        x = dense(x, 8, activation=rs.tanh, name=f"layer{i}")
    return compile(rs.graph(outputs={"y": x}), Cluster.local(2), strategy="features")


@pytest.fixture(scope="module")
def many():
    return sample_plan(64)


# layers in groups


def test_neighbouring_layers_are_grouped_and_nothing_is_lost(deep):
    view = view_of(deep)
    far = afar(view)
    grouped = [layer.place.name for mine in far.members.values() for layer in mine]
    assert grouped == [layer.place.name for layer in view.layers if layer.place.kind == "layer"]
    assert len(grouped) == DEEP > MOST >= GROUPS >= len(far.members) > 4
    assert [box.place.kind for box in far.view.layers] == ["input", *("layer" for _ in far.members), "output"]
    crossing = sum(e.crossing for e in far.view.edges) + sum(box.crossing for box in far.view.layers)
    assert crossing == deep.prediction.bytes
    assert sum(sum(box.flops.values()) for box in far.view.layers) == sum(sum(x.flops.values()) for x in view.layers)


def test_groups_of_a_chain_are_a_chain(deep):
    far = afar(view_of(deep)).view
    order = {box.place: i for i, box in enumerate(far.layers)}
    assert [(order[e.source], order[e.target]) for e in far.edges] == [(i, i + 1) for i in range(len(far.layers) - 1)]


def test_few_layers_stay_as_they_are(many):
    view = view_of(many)
    assert afar(view).view is view


def test_every_layer_of_a_group_can_be_opened(deep):
    page = Page(plan_html(deep))
    keys = {a["data-key"] for _, a in page.elements if "data-key" in a}
    assert keys == {a["data-for"] for a in page.all("section") if "data-for" in a}
    view = view_of(deep)
    assert set(layer_keys(view, afar(view)).values()) <= keys
    assert f"layer{DEEP - 1}" in page.texts
    assert len(page.all("svg", "rs-graph")) == 1


def test_the_text_shows_groups(deep):
    text = plan_text(deep, colour=False)
    assert "layer0 … layer" in text
    assert text.count("tanh") < MOST


def test_a_scope_with_most_of_the_work_is_opened():
    """All local layers in one scope: each of them is a box, as the layers of an LSTM are; the softmax stays what it is."""
    names = (*(f"stack/{i}/cell" for i in range(4)), "softmax/inner")
    view = view_of(sample_plan(4, scopes=names))
    found = [layer.place.name for layer in view.layers if layer.ops]
    assert found[:5] == ["stack/0", "stack/1", "stack/2", "stack/3", "softmax"]
    assert [v.name for v in view.layers[2].variables] == ["stack/0/cell/w"]


# work by layer and machine


def test_how_a_layer_is_cut(many):
    view = view_of(many)
    cut = view.spread[view.layers[2].place].cut
    assert cut is not None
    assert cut.text == f"local2d [32, {view.plan.programs[-1].variables[0].whole[0]}, 40, 8]: axis 1 in 64"
    assert (cut.short, cut.machines) == ("1 x 64 x 1 x 1", 64)


def test_partial_sums_are_several_tiles_for_each_part(many):
    view = view_of(many)
    softmax = next(x for x in view.layers if x.place.name == "softmax")
    cut = view.spread[softmax.place].cut
    assert cut is not None
    assert cut.short == "1 x 1, 64 each"
    assert "64 for each part" in cut.text


def test_phase_balance_waits_for_the_slowest_of_each_pass():
    spread = Spread(work={False: {"a": 30, "b": 10}, True: {"a": 10, "b": 30}})
    assert spread.balance({"a": 1.0, "b": 1.0}) == 60 / 40  # though both have done 40 in the end
    assert Spread(work={False: {"a": 30, "b": 10}, True: {}}).balance({"a": 3.0, "b": 1.0}) == 1  # uneven, each its due
    assert spread.shares({"a": 1.0, "b": 1.0}) == [1, 1]
    assert Spread().balance({"a": 1.0}) is None


def test_a_strip_covers_each_machine_once():
    shares = [1.0, 1.0, 0.0, 3.0, 0.5, 0.5]
    widths = [int(w) for w in re.findall(r"M\d+ 0h(\d+)v1", strip(shares))]
    assert sum(widths) == 5
    assert [level(s) for s in shares] == ["s5", "s5", "", "o4", "s2", "s2"]
    tip = strip_tip(shares, [f"m{i}" for i in range(6)])
    assert tip == "5 of 6 machines; most on m3: 300 % of an even share, least on m4: 50 %"


def test_the_table_has_a_strip_and_its_shares_for_each_layer(many):
    page = Page(plan_html(many))
    rows = [a["data-shares"].split() for a in page.all("td") if "data-shares" in a]
    view = view_of(many)
    assert len(rows) == sum(layer.place.kind == "layer" for layer in view.layers)
    assert all(len(row) == 64 for row in rows)
    assert page.all("main")[0]["data-machines"].startswith('["m0", "m1"')


# transfers


def test_all_large_transfers_are_listed_and_the_threshold_is_told(many):
    html = plan_html(many)
    shown, _, folded = html.partition("smaller row")
    assert "1 % of the bytes of a step" in shown
    flows = view_of(many).flows
    total = sum(f.nbytes for f in flows)
    big = [f for f in flows if f.nbytes >= BIG_SHARE * total]
    listed = shown[shown.index("The biggest transfers") :]
    assert len(big) > 3
    assert listed.count(" bytes</td>") == 0
    assert sum(f'title="{f.nbytes:,} bytes"' in listed for f in big) == len(big)
    assert all(f'title="{f.nbytes:,} bytes"' in folded for f in flows if f not in big)


def test_a_value_that_goes_whole_to_several_machines_is_named():
    page = Page(plan_html(sample_plan(4)))
    assert any(t.startswith("Goes whole to several machines") and "dlogits" in t for t in page.texts)


# size


def test_a_page_of_many_machines_is_small(many):
    assert len(plan_html(many).encode()) < 500_000


def test_names_of_machines_are_harmless_for_the_script(many):
    evil = "m0</main><script>"
    plan = msgspec.structs.replace(
        many, programs=(msgspec.structs.replace(many.programs[0], machine=evil), *many.programs[1:])
    )
    assert plan_html(plan).count("<script") == 1


@pytest.mark.parametrize(
    "ratio, text",
    [(1.0, "+0.0 %"), (1.25, "+25 %"), (0.5, "-50 %"), (0.005, "-99.5 %"), (0.0, "-100 %"), (4.0, "x 4.00")],
)
def test_changes(ratio, text):
    assert change_text(ratio) == text
