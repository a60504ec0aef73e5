"""Loading: what a plan needs to be read. What is refused is in test_bad_plans.py."""

import subprocess
import sys

import pytest
from compiler_kit import cluster
from random_ops import TWINS

from rainshed.compiler import load
from rainshed.compiler.load import check_plan, load_plan, plan_from_json
from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import to_json
from rainshed.engine.plans import save_plan
from rainshed.ops import CATALOGUE
from rainshed.ops.errors import PlanError
from rainshed.ops.ir import Graph
from rainshed.ops.source import input, pick


def plan_with_an_op_of_the_user() -> bytes:
    both = TWINS(input("x", (3,)))
    return to_json(compile(Graph({"a": pick(both, 0), "b": pick(both, 1)}), cluster(1)))


def test_an_op_of_the_users_own_must_be_given() -> None:
    data = plan_with_an_op_of_the_user()
    with pytest.raises(PlanError, match=r"no op 'twins'"):
        plan_from_json(data, CATALOGUE)
    plan = plan_from_json(data, {**CATALOGUE, TWINS.name: TWINS})
    check_plan(plan, {**CATALOGUE, TWINS.name: TWINS})


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch) -> None:
    path = tmp_path / "plan.json"
    save_plan(compile(Graph({"y": input("x", (3,)) + 1.0}), cluster(1)), path)
    load_plan(path, CATALOGUE)
    monkeypatch.setattr(load, "MAX_FILE_BYTES", 10)
    with pytest.raises(PlanError, match="larger than 10 bytes"):
        load_plan(path, CATALOGUE)


TOGETHER = """
import sys, threading
from rainshed.compiler.load import load_plan
from rainshed.ops import CATALOGUE
sys.setswitchinterval(1e-6)
together = threading.Barrier(4)
def read():
    together.wait()
    print(load_plan(sys.argv[1], CATALOGUE).hash + "\\n", end="")
threads = [threading.Thread(target=read) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.parametrize("run", range(3))
def test_the_first_plans_of_a_process_may_be_read_by_several_threads(tmp_path, run: int) -> None:
    """msgspec ends the process when two threads are the first to read a type."""
    plan = compile(Graph({"y": input("x", (3,)) + 1.0}), cluster(2))
    save_plan(plan, tmp_path / "plan.json")
    line = [sys.executable, "-c", TOGETHER, str(tmp_path / "plan.json")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [plan.hash] * 4
