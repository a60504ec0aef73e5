"""Views of plans and graphs: the numbers are the plan's, the page stands alone, and no name can do harm."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import msgspec
import pytest
from sample_plan import sample_plan

from rainshed.compiler.plan import Run
from rainshed.engine import dsl as rs
from rainshed.engine.layers import dense
from rainshed.engine.view import (
    MachineMeasured,
    Measured,
    graph_repr_html,
    plan_html,
    plan_repr_html,
    plan_text,
)
from rainshed.engine.view.model import view_of
from rainshed.engine.view.text import rendered
from rainshed.engine.view.units import bytes_text, colours, printable, scaled, seconds_text, shortened

EVIL = "<script>alert(1)</script>\"'&\x1b[31m"
LIMIT = 600_000


class Page(HTMLParser):
    """Reads a page, holds it to balanced tags, and keeps what tests ask for."""

    VOID = frozenset({"meta", "input", "path", "rect", "polygon", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    def all(self, tag, class_=""):
        return [a for t, a in self.elements if t == tag and class_ in (a.get("class") or "").split() + [""]]

    @property
    def text(self):
        return " ".join(self.texts)


@pytest.fixture(scope="module")
def plan():
    return sample_plan(4)


@pytest.fixture(scope="module")
def page(plan):
    return Page(plan_html(plan))


# the summary


def test_every_transfer_is_in_one_edge_or_inside_one_layer(plan):
    view = view_of(plan)
    shown = sum(e.crossing for e in view.edges) + sum(layer.crossing for layer in view.layers)
    assert shown == sum(t.nbytes for t in plan.transfers) == sum(f.nbytes for f in view.flows)
    assert sum(f.messages for f in view.flows) == len(plan.transfers)
    assert sum(view.reasons.values()) == plan.prediction.bytes


def test_layers_hold_all_the_work(plan):
    view = view_of(plan)
    runs = [(p.machine, i) for p in plan.programs for i in p.instructions if isinstance(i, Run)]
    for m in plan.machines:
        assert sum(layer.flops.get(m, 0) for layer in view.layers) == sum(r.flops for name, r in runs if name == m)
    names = [layer.place.name for layer in view.layers]
    assert names == ["x", "y", "local1", "local2", "local3", "local4", "softmax", "digits.py:33", "logits", "loss"]


def test_what_flows_and_what_crosses(plan):
    view = view_of(plan)
    edges = {(e.source.name, e.target.name, e.backward): e for e in view.edges}
    halo = edges["local1", "local2", False]
    assert halo.nbytes == 32 * 40 * 40 * 8 * 4  # the activation as a whole
    assert halo.crossing == 6 * 32 * 2 * 40 * 8 * 4  # two rows, both ways over three borders
    assert halo.messages == 6
    assert [f.reason for f in halo.flows] == ["halo"]
    assert edges["x", "local1", False].crossing == 0
    assert edges["local2", "local1", True].crossing == halo.crossing


def test_parameters_count_each_variable_once():
    assert view_of(sample_plan(3)).parameters == 40 * 40 * 25 * (8 + 3 * 64) + 40 * 40 * 8 * 10


def test_a_scope_that_all_layers_share_is_not_a_layer():
    view = view_of(sample_plan(2, scopes=tuple(f"model/block{i}" for i in range(5))))
    assert [x.place.name for x in view.layers if x.ops][:5] == [f"block{i}" for i in range(5)]


# the page


def test_page_has_the_plans_numbers(plan, page):
    p = plan.prediction
    for text in (seconds_text(p.step_s), seconds_text(p.lower_bound_s), f"{p.bytes:,} bytes", f"{p.messages:,}"):
        assert text in page.texts
    for note in (*plan.notes, *plan.notes.values()):
        assert note in page.texts
    assert plan.hash in page.text


def test_matrix_is_bytes_between(plan, page):
    tips = {a["title"] for a in page.all("td") if " → " in a.get("title", "") and a["title"].endswith(" bytes")}
    assert tips == {f"{a} → {b}: {n:,} bytes" for (a, b), n in plan.bytes_between.items()}


def test_machines_have_bars_of_what_is_predicted(plan, page):
    tips = [a["title"] for a in page.all("div", "rs-bar")]
    expected = []
    for m in plan.machines:
        mine = plan.prediction.machines[m]
        expected += [f"{seconds_text(mine.compute_s)} predicted", f"{bytes_text(mine.memory_bytes)} predicted"]
        expected += [f"{bytes_text(mine.bytes_in)} predicted", f"{bytes_text(mine.bytes_out)} predicted"]
    assert tips == expected


def test_transfers_name_value_reason_and_layers(page):
    for text in ("act1", "halo", "local1 → local2", "partial sum", "dlogits", "digits.py:33 → softmax"):
        assert text in page.texts


def test_every_box_and_thick_arrow_has_details(page):
    keys = {a["data-key"] for _, a in page.elements if "data-key" in a}
    shown = [a for a in page.all("section") if "data-for" in a]
    assert keys == {a["data-for"] for a in shown}
    assert sum("hidden" not in a for a in shown) == 1


def test_the_page_needs_nothing_from_outside(plan):
    html = plan_html(plan)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bsrc=|<link|\bhref=", html)
    assert "<!doctype html>" in html


def test_size():
    assert len(plan_html(sample_plan(4)).encode()) < 100_000
    many = plan_html(sample_plan(64))
    assert len(many.encode()) < LIMIT
    assert "All 64 machines" in Page(many).texts


def test_measured_stands_beside_predicted(plan):
    seen = Measured(step_s=0.0148, bytes=2_956_800, machines={"m0": MachineMeasured(compute_s=0.0126)})
    page = Page(plan_html(plan, measured=seen))
    change = 100 * (0.0148 / plan.prediction.step_s - 1)
    for text in ("Measured step", "14.8 ms", f"{change:+.0f} % against predicted", "2.96 MB measured"):
        assert text in page.texts
    assert [a["title"] for a in page.all("div", "rs-bar") if "measured" in a["title"]] == ["12.6 ms measured"]
    text = plan_text(plan, measured=seen, colour=False)
    assert "14.8 ms" in text
    assert "12.6 ms *" in text


def test_one_machine_and_no_backward():
    page = Page(plan_html(sample_plan(1, training=False)))
    assert not page.all("input")
    assert any("Nothing crosses" in t for t in page.texts)
    assert "Bytes per step" not in plan_text(sample_plan(1, training=False))


def test_the_same_plan_gives_the_same_page():
    assert plan_html(sample_plan(3)) == plan_html(sample_plan(3))


def evil_plan():
    plan = sample_plan(2, scopes=tuple(f"{EVIL}{i}" for i in range(5)), file=EVIL, notes={EVIL: EVIL})
    data = msgspec.to_builtins(plan)
    names = {"m0": f"<b>{EVIL}", "m1": "m1</style><img>"}

    def renamed(value):
        if isinstance(value, dict):
            return {names.get(k, k): renamed(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [renamed(v) for v in value]
        if isinstance(value, str) and value in ("halo", "logits", "x", "act1", "relu", "grad/x"):
            return f"{value}{EVIL}"
        return names.get(value, value) if isinstance(value, str) else value

    return msgspec.convert(renamed(data), type(plan))


def test_names_are_harmless_in_html():
    plan = evil_plan()
    page, small = plan_html(plan, title=EVIL), plan_repr_html(plan)
    assert page.count("<script") == 1  # the page's own
    for html in (page, small):
        assert "<b>&lt;" not in html
        assert "<img" not in html
        assert html.count("</style>") == 1
        assert "alert(1)</script>" not in html
        Page(html)
    assert "<script" not in small
    assert any(EVIL in t for t in Page(page).texts)  # shown, as text


def test_names_are_harmless_in_a_terminal():
    assert "\x1b" not in plan_text(evil_plan(), colour=False)
    assert "\x1b[31m" not in plan_text(evil_plan(), colour=True)
    assert printable("a\x1b[2J\u202eb\n") == "a\ufffd[2J\ufffdb\ufffd"


# the text


def test_text_has_the_plans_numbers(plan):
    text = plan_text(plan, 110, colour=False)
    p = plan.prediction
    assert f"{p.bytes:,} bytes in {p.messages} messages" in text
    assert seconds_text(p.step_s) in text
    assert "00000111112222233333" in text  # even shares of four machines
    assert re.search(r"m0 +· +493 kB +1\.28 kB +1\.28 kB +495 kB", text)
    assert re.search(r"local1 +local2 +forward +492 kB +1\.64 MB +6", text)


@pytest.mark.parametrize("machines", [1, 4, 10, 64])
@pytest.mark.parametrize("width", [60, 100])
def test_text_keeps_to_its_width(machines, width):
    lines = plan_text(sample_plan(machines), width, colour=False).splitlines()
    assert max(map(len, lines)) <= width


def test_colour_is_for_terminals_and_obeys_no_color(plan, monkeypatch):
    assert "\x1b" not in plan_text(plan)  # under a test, stdout is no terminal
    assert "\x1b[38;2;" in plan_text(plan, colour=True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in plan_text(plan)
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[38;2;" in plan_text(plan)


def test_rendered_is_plain():
    assert rendered("[bold]x[/bold] :smile:", 80, False) == "[bold]x[/bold] :smile:\n"


# notebooks


def test_small_views_have_no_script(plan):
    html = plan_repr_html(plan)
    assert "<script" not in html
    assert "data-key" not in html
    page = Page(html)
    assert len(page.all("svg")) == 1
    assert f"{plan.prediction.bytes:,} bytes" in page.texts


def model(layers):
    x = rs.input("x", (None, 4), "float32")
    for i in range(layers):
        x = dense(x, 4, activation=rs.tanh, name=f"layer{i}")
    return rs.graph(outputs={"<script>out": x})


def test_small_graph_shows_its_nodes():
    page = Page(graph_repr_html(model(1)))
    for text in ("matmul", "tanh", "layer0/w", "f32[B, 4]"):
        assert text in page.texts
    assert "<script>out" in page.texts


def test_large_graph_shows_its_layers():
    page = Page(graph_repr_html(model(12)))
    assert "layer0" in page.texts
    assert "matmul · add · tanh" in page.texts
    assert "2 variables" in page.texts
    assert "matmul" not in page.texts


# numbers and colours


@pytest.mark.parametrize(
    "amount, text",
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (999_499, "999 kB"), (999_500, "1.00 MB"), (1_234_567, "1.23 MB")],
)
def test_bytes(amount, text):
    assert bytes_text(amount) == text


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0 s"), (1.5e-6, "1.50 µs"), (999.6e-6, "1.00 ms"), (0.0123, "12.3 ms"), (1.0, "1 s"), (1234, "1,234 s")],
)
def test_seconds(seconds, text):
    assert seconds_text(seconds) == text


def test_what_is_not_finite_is_shown_as_it_is():
    assert scaled(float("inf"), "B") == "inf B"
    assert seconds_text(float("nan")) == "nan s"


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_shortened(length):
    assert len(shortened("abcdefgh", length)) == length


@pytest.mark.parametrize("count", [1, 8, 9, 64])
def test_every_machine_has_a_colour_of_its_own(count):
    found = colours(count)
    assert len(set(found)) == count
    assert all(re.fullmatch("#[0-9a-f]{6}", c) for c in found)


LAZY = """
import sys, rainshed as rs
found = {"rich", "rainshed.engine.view"} & sys.modules.keys()
assert not found, found
assert {"compare", "plan_html", "plan_text"} <= set(dir(rs)) and all(hasattr(rs, name) for name in rs.__all__)
assert "rainshed.engine.view" in sys.modules and not hasattr(rs, "plan_picture")
"""


def test_pages_and_tables_are_loaded_when_they_are_first_asked_for():
    subprocess.run([sys.executable, "-c", LAZY], check=True)
