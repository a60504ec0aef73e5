"""Two plans side by side: what differs is found, biggest first, and shown alike as data, text and page."""

import json
import re

import pytest
from sample_plan import sample_plan
from test_view import EVIL, Page, evil_plan

import rainshed as rs
from rainshed.engine.view.comparison import comparison_of
from rainshed.ops.errors import UsageError


def net(units=512, training=True):
    x = rs.input("x", (64, 512))
    y = rs.layers.dense(rs.layers.dense(x, units, activation=rs.tanh, name="wide"), 4, name="narrow")
    return rs.graph(outputs={"y": y}, loss=rs.mean(y * y) if training else None)


@pytest.fixture(scope="module")
def plans():
    cluster = rs.Cluster.local(4)
    return rs.compile(net(), cluster, strategy="batch"), rs.compile(net(), cluster, strategy="features")


def test_a_plan_beside_itself(plans):
    found = rs.compare(plans[0], plans[0])
    data = found.data()
    assert found.same
    assert not data["differing"]
    assert {figure["ratio"] for figure in data["figures"].values()} <= {1, None}
    assert not any(layer["recut"] or layer["weight"] for layer in data["layers"])
    assert "They are the same plan" in str(found)
    assert "The same graph, cluster and search." in Page(found.html()).texts


def test_another_split_of_the_same_graph(plans):
    data = rs.compare(*plans).data()
    assert [d["what"] for d in data["differing"]] == ["strategy"]
    a, b = (plan.prediction for plan in plans)
    assert data["figures"]["predicted_step"] == {"a": a.step_s, "b": b.step_s, "ratio": b.step_s / a.step_s}
    assert data["figures"]["sent_per_step"]["b"] == b.bytes == sum(r["b"] for r in data["reasons"])
    assert sum(t["a"] for t in data["transfers"]) == a.bytes
    layers = {layer["name"]: layer for layer in data["layers"]}
    for layer in layers.values():
        grids = [(layer[side]["cut"], layer[side]["machines"]) for side in ("a", "b")]
        assert layer["recut"] == (grids[0] != grids[1])
    assert data["machines"]["m3"]["memory_bytes"]["a"] == a.machines["m3"].memory_bytes
    assert json.loads(json.dumps(data)) == data


def test_a_layer_that_is_cut_differently():
    layers = {x["name"]: x for x in rs.compare(sample_plan(4), sample_plan(2)).data()["layers"]}
    assert layers["local1"]["recut"]
    assert [layers["local1"][side]["cut"] for side in ("a", "b")] == [
        "local2d [32, 40, 40, 8]: axis 1 in 4",
        "local2d [32, 40, 40, 8]: axis 1 in 2",
    ]
    assert not layers["digits.py:33"]["recut"]  # the loss, on one machine in both


def test_the_biggest_differences_come_first(plans):
    data = rs.compare(*plans).data()
    weights = [layer["weight"] for layer in data["layers"]]
    assert weights == sorted(weights, reverse=True)
    differences = [abs(t["a"] - t["b"]) for t in data["transfers"]]
    assert differences == sorted(differences, reverse=True)


def test_other_clusters_and_graphs(plans):
    other = rs.compile(net(units=256, training=False), rs.Cluster.local(2), strategy="features")
    data = rs.compare(plans[0], other).data()
    told = {d["what"]: (d["a"], d["b"]) for d in data["differing"]}
    assert told["number of machines"] == ("4", "2")
    assert told["backward pass"] == ("yes", "no")
    assert told["variable wide/w"] == ("f32[512, 512]", "f32[512, 256]")
    assert told["machines that only one has"] == ("m2, m3", "none")
    assert data["machines"]["m3"]["compute_s"]["b"] is None
    text = rs.compare(plans[0], other, names=("large", "small")).text()
    assert "large beside small" in text
    assert "machines that only one has" in text


def test_layers_that_only_one_has():
    a, b = sample_plan(4), sample_plan(4, scopes=("local1", "local2", "local3", "other", "softmax"))
    layers = {layer["name"]: layer for layer in rs.compare(a, b).data()["layers"]}
    assert layers["local4"]["b"] is None
    assert layers["other"]["a"] is None
    assert not layers["other"]["recut"]
    assert "not in it" in Page(rs.compare(a, b).html()).texts


def test_the_page_has_both_pictures_and_needs_nothing(plans):
    html = rs.compare(*plans, names=("first", "second")).html()
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bsrc=|<link|\bhref=", html)
    assert len(page.all("svg", "rs-graph")) == 2
    assert page.texts.count("first") >= 4
    assert "1 layer cut differently, of" not in page.text  # both dense layers are
    assert len(Page(rs.compare(*plans)._repr_html_()).all("svg", "rs-graph")) == 0


def test_64_machines_beside_4():
    found = rs.compare(sample_plan(64), sample_plan(4))
    html = found.html()
    assert len(html.encode()) < 200_000
    assert "48 more machines" in Page(html).texts
    assert max(map(len, found.text(90, colour=False).splitlines())) <= 90


@pytest.mark.parametrize("width", [60, 100])
def test_the_text_keeps_to_its_width(plans, width):
    assert max(map(len, rs.compare(*plans).text(width, colour=False).splitlines())) <= width


def test_colours_are_for_terminals(plans):
    assert "\x1b" not in str(rs.compare(*plans))
    assert "\x1b[" in rs.compare(*plans).text(colour=True)


def test_names_are_harmless():
    found = rs.compare(evil_plan(), sample_plan(2), names=(EVIL, "b"))
    html = found.html(EVIL)
    assert html.count("<script") == 1
    assert "alert(1)</script>" not in html
    assert "<script" not in found._repr_html_()
    assert "\x1b" not in found.text(colour=False)
    Page(html)


def test_two_plans_have_two_names(plans):
    with pytest.raises(UsageError, match="two names"):
        rs.compare(*plans, names=("one",))


def test_phase_balance_is_that_of_the_views(plans):
    found = comparison_of(*plans, ("a", "b"))
    figures = {f.name: f for f in found.figures}
    assert figures["phase balance"].a == found.views[0].balance
