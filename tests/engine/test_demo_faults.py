"""Any process of the demo may be killed at any moment: the command says which one, and nothing is left."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from rainshed.engine.commands.common import FAILED, INTERRUPTED

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]
WITHIN_S = 10.0
WORDS = ["demo", "--machines", "2", "--replicas", "2", "--servers", "1", "--steps", "100000000"]


@contextmanager
def demo(folder):
    """A demo without end, in a process of its own."""
    command = [sys.executable, "-m", "rainshed", *WORDS, "--out", str(folder)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_with(process, start):
    """The next line on the standard error that starts so."""
    seen = []
    for line in process.stderr:
        if line.startswith(start):
            return line
        seen.append(line)
    raise AssertionError("".join(seen))


def processes(line):
    """Role -> process, from what the demo says when it begins."""
    return {name: int(pid) for name, _, pid in (word.rpartition(":") for word in line.split()[1:])}


def wait_until_gone(pids, within_s=WITHIN_S):
    """Raises unless all these processes end in time; they need not be our children."""
    until = time.monotonic() + within_s
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ready, _, _ = select.select([handle], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"process {pid} is still there"
        finally:
            os.close(handle)


def ended(process, within_s=WITHIN_S):
    """How it ended and what it said, in time."""
    started = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - started < within_s, err
    return process.returncode, err


@pytest.mark.parametrize("role,name", [("r0/m1", "machine r0/m1"), ("s0", "server s0")])
def test_killed_while_training(role, name, tmp_path):
    with demo(tmp_path) as process:
        pids = processes(line_with(process, "Processes:"))
        line_with(process, "steps ")
        os.kill(pids[role], signal.SIGKILL)
        code, err = ended(process)
        assert code == FAILED
        assert f"{name} (process {pids[role]} on " in err and "was killed by SIGKILL" in err
        wait_until_gone(pids.values(), within_s=1.0)


def test_killed_while_it_has_nothing_to_do(tmp_path):
    """The second replica waits until the first has warmed up."""
    with demo(tmp_path) as process:
        pids = processes(line_with(process, "Processes:"))
        os.kill(pids["r1/m0"], signal.SIGKILL)
        code, err = ended(process)
        assert code == FAILED and f"machine r1/m0 (process {pids['r1/m0']} on " in err
        wait_until_gone(pids.values(), within_s=1.0)


def test_killed_before_it_has_joined(tmp_path):
    with demo(tmp_path) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (pids := [int(word) for word in children.read_text().split()]):
            assert process.poll() is None
        os.kill(pids[0], signal.SIGKILL)
        code, err = ended(process)
        assert code == FAILED and f"process {pids[0]}" in err and "SIGKILL" in err
        wait_until_gone(pids, within_s=1.0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_coordinator(number, tmp_path):
    with demo(tmp_path) as process:
        pids = processes(line_with(process, "Processes:"))
        process.send_signal(number)
        assert process.wait(WITHIN_S) == -number
        wait_until_gone(pids.values())


def test_ctrl_c(tmp_path):
    with demo(tmp_path) as process:
        pids = processes(line_with(process, "Processes:"))
        line_with(process, "steps ")
        process.send_signal(signal.SIGINT)
        code, err = ended(process)
        assert code == INTERRUPTED and err.endswith("rainshed demo: interrupted\n")
        wait_until_gone(pids.values(), within_s=1.0)


def test_a_process_that_stands_still_is_lost(tmp_path):
    """It is not dead, but nothing is heard from it: the others wait so long, then the demo ends and it is killed too."""
    with demo(tmp_path) as process:
        pids = processes(line_with(process, "Processes:"))
        os.kill(pids["r1/m1"], signal.SIGSTOP)
        code, err = ended(process, within_s=30.0)
        assert code == FAILED and "r1/m1" in err
        wait_until_gone(pids.values(), within_s=1.0)
