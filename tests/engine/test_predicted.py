"""Predicted beside measured: as figures, and as a step drawn beside the steps of a run."""

import pytest
from sample_plan import sample_plan

import rainshed as rs
from rainshed.compiler.plan import Run
from rainshed.engine.measured import beside, measured_of
from rainshed.engine.predicted import with_predicted
from rainshed.engine.view import MachineMeasured, Measured, graph_repr_html, plan_repr_html, show_in_notebooks
from rainshed.runtime.trace import RECV, RUN, SEND, Event, MachineTrace, chrome_events

START_NS = 5_000_000


@pytest.fixture(scope="module")
def plan():
    x = rs.input("x", (8, 16))
    y = rs.layers.dense(rs.layers.dense(x, 16, activation=rs.tanh), 4)
    return rs.compile(rs.graph(outputs={"y": y}), rs.Cluster.local(2), strategy="features")


def seen(name, *events, offset_ns=0):
    return MachineTrace(name=name, labels={}, transfers={}, threads={}, events=list(events), offset_ns=offset_ns)


def test_the_predicted_step_begins_with_the_last_one(plan):
    first = seen("m0", Event(RUN, 0, 7, 0, 10, 0), Event(RUN, 0, 7, START_NS, START_NS + 10, 1))
    second = seen("m1", Event(RUN, 0, 7, START_NS + 90, START_NS + 99, 1), offset_ns=-50)
    found = with_predicted(plan, [first, second, seen("r1/m0")])
    assert [t.name for t in found] == ["m0", "m0 predicted", "m1", "m1 predicted", "r1/m0"]
    events = [e for t in found if t.group == "predicted" for e in t.events]
    assert min(e.start_ns for e in events) == START_NS
    assert max(e.end_ns for e in events) == pytest.approx(START_NS + plan.prediction.step_s * 1e9, abs=1)
    assert {e.step for e in events} == {1}


def test_everything_of_the_plan_is_in_the_predicted_step(plan):
    found = with_predicted(plan, [seen("m0", Event(RUN, 0, 7, 0, 10, 0)), seen("m1")])
    for program, trace in zip(plan.programs, found[1::2], strict=True):
        ran = {e.what for e in trace.events if e.kind == RUN}
        computed = {i for i, x in enumerate(program.instructions) if isinstance(x, Run) and x.op != "constant"}
        assert computed <= ran
    sent = {e.what for t in found for e in t.events if e.kind == SEND}
    assert sent == {e.what for t in found for e in t.events if e.kind == RECV} == {t.key for t in plan.transfers}
    assert sum(e["ph"] == "s" for e in chrome_events(found)) == len(plan.transfers)


def test_kernels_that_run_at_once_have_rows_of_their_own(plan):
    found = with_predicted(plan, [seen("m0", Event(RUN, 0, 7, 0, 10, 0)), seen("m1")])
    for trace in found[1::2]:
        rows: dict[int, int] = {}
        for e in sorted((e for e in trace.events if e.kind == RUN), key=lambda e: e.start_ns):
            assert rows.get(e.thread, 0) <= e.start_ns
            rows[e.thread] = e.end_ns


def test_no_events_no_prediction(plan):
    assert with_predicted(plan, [seen("m0"), seen("m1")]) == [seen("m0"), seen("m1")]


def test_kernels_of_several_threads_are_averaged(plan):
    busy = seen("m0", Event(RUN, 0, 7, 0, 100, 0), Event(RUN, 1, 8, 0, 300, 0))
    measured = measured_of(plan, [busy, seen("m1")])
    assert measured.of("m0").compute_s == pytest.approx(200e-9)


def test_figures_side_by_side():
    plan = sample_plan(2)
    p = plan.prediction
    measured = Measured(
        step_s=2 * p.step_s, bytes=p.bytes, machines={"m0": MachineMeasured(compute_s=p.machines["m0"].compute_s)}
    )
    found = beside(plan, measured)
    assert found["step_s"] == {"predicted": p.step_s, "measured": 2 * p.step_s, "ratio": 2}
    assert found["messages"] == {"predicted": p.messages, "measured": None, "ratio": None}
    busy = found["machines"]["m0"]["busy"]
    assert busy["predicted"] == p.machines["m0"].compute_s / p.step_s
    assert busy["ratio"] == pytest.approx(0.5)
    assert found["machines"]["m1"]["busy"]["measured"] is None


class Formatter(dict):
    for_type = dict.__setitem__


def test_a_notebook_is_told_how_plans_and_graphs_look(plan):
    found = Formatter()
    show_in_notebooks(found)
    assert {kind.__name__: show for kind, show in found.items()} == {"Plan": plan_repr_html, "Graph": graph_repr_html}
    show_in_notebooks(None)
