"""The live table of a training: what it counts, and what it writes where."""

import io

import pytest

from rainshed.engine.progress import Board, Progress, Work
from rainshed.engine.training_table import TrainingTable, cells, plain_line


def event(replica=0, step=1, loss=0.5, examples=100, seconds=1.0, staleness=None, bytes_sent=1000):
    return Progress(replica, step, loss, examples, seconds, staleness, bytes_sent)


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_rates_are_means_over_the_window():
    board = Board(window_s=3.0)
    for step, seconds in enumerate((1.0, 1.0, 2.0), 1):
        board.on(event(step=step, seconds=seconds, loss=float(step)))
    (row,) = board.rows()
    assert row.step == 3
    assert row.examples_per_s == pytest.approx(200 / 3)  # the first second has left the window
    assert row.bytes_per_s == pytest.approx(2000 / 3)
    assert row.loss == pytest.approx(2.5)


def test_total_sums_rates_and_steps_and_means_the_rest():
    board = Board()
    board.on(event(replica=1, step=7, loss=1.0, staleness=2.0))
    board.on(event(replica=0, step=3, loss=None, examples=300, staleness=4.0))
    assert [r.name for r in board.rows()] == ["0", "1"]
    total = board.total()
    assert (total.step, total.loss, total.examples_per_s, total.staleness) == (10, 1.0, 400.0, 3.0)
    board.finish(0)
    assert board.total().examples_per_s == 100.0
    assert board.total().step == 10


def test_cells():
    board = Board()
    board.on(event(step=1200, loss=0.123456, examples=12345, staleness=1.25, bytes_sent=3_400_000))
    assert cells(board.rows()[0]) == ("0", "1,200", "0.1235", "12.3 k", "1.2", "3.40 MB/s")
    board.on(event(replica=1, loss=None, seconds=0.0))
    assert cells(board.rows()[1]) == ("1", "1", "–", "0", "–", "0 B/s")


def test_plain_line():
    board = Board()
    assert plain_line(board) == ""
    board.on(event(step=5))
    assert plain_line(board) == "steps 5 | loss 0.5 | 100 examples/s | 1.00 kB/s sent"
    board.on(event(replica=1, step=6, staleness=2.0))
    assert plain_line(board) == "steps 11 (5 6) | loss 0.5 | 200 examples/s | staleness 2.0 | 2.00 kB/s sent"
    board.finish(0)
    board.finish(1)
    assert plain_line(board) == "steps 11 (5 6) | loss 0.5 | done | staleness 2.0"


def test_elsewhere_a_line_now_and_then_and_one_at_the_end():
    out, clock = io.StringIO(), Clock()
    with TrainingTable(out, every_s=5.0, clock=clock) as table:
        for step in range(1, 13):
            clock.now = float(step)
            table.on(event(step=step))
    assert [line.split(" |")[0] for line in out.getvalue().splitlines()] == ["steps 5", "steps 10", "steps 12"]
    assert "\x1b" not in out.getvalue()


def test_before_the_first_step_what_processes_are_busy_with():
    out, clock = io.StringIO(), Clock()
    with TrainingTable(out, every_s=5, clock=clock) as table:
        for now in (1.0, 6.0, 7.0, 12.0):
            clock.now = now
            table.working(Work("machine m0", f"first values: {now:.0f} of 20 bytes"))
        table.on(event())
        clock.now = 30.0
        table.working(Work("machine m0", "train"))
    assert out.getvalue().splitlines()[:2] == [f"machine m0: first values: {n} of 20 bytes" for n in (6, 12)]
    assert "train" not in out.getvalue()


def test_nothing_new_is_not_told_twice():
    out, clock = io.StringIO(), Clock()
    with TrainingTable(out, every_s=5.0, clock=clock) as table:
        clock.now = 6.0
        table.on(event(step=1))
    assert len(out.getvalue().splitlines()) == 1


def test_a_terminal_gets_a_live_table(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out, clock = Terminal(), Clock()
    with TrainingTable(out, clock=clock) as table:
        table.on(event(step=41))
        clock.now = 1.0
        table.on(event(replica=1, step=42, staleness=3.0))
    text = out.getvalue()
    for word in ("replica", "examples/s", "staleness", "41", "42", "all", "83"):
        assert word in text
    assert text.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    with TrainingTable(out, clock=Clock()) as table:
        table.on(event(step=41))
    assert out.getvalue() == "steps 41 | loss 0.5 | 100 examples/s | 1.00 kB/s sent\n"


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_quiet(stream):
    out = stream()
    with TrainingTable(out, quiet=True) as table:
        table.on(event())
    assert out.getvalue() == ""
    assert table.board.total().step == 1


def test_an_error_inside_leaves_the_terminal_as_it_was(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with pytest.raises(KeyError), TrainingTable(out) as table:
        table.on(event())
        raise KeyError
    assert out.getvalue().rstrip().endswith("\x1b[?25h")
