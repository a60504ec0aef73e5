"""Plans with units, run whole: in Numba's simulator, and on a GPU where there is one. Started by tests/runtime/test_units.py."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from units_kit import EAGER, MOMENTUM, cluster, feeds_of, network

from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import Plan, Run
from rainshed.ops import CATALOGUE
from rainshed.ops.errors import UnitError, UsageError
from rainshed.ops.ir import Graph
from rainshed.ops.source import input as input_node
from rainshed.ops.source import variable
from rainshed.runtime.cluster.local import LocalCluster
from rainshed.runtime.executor import Executor

sys.setswitchinterval(1e-4)  # the simulator waits for its threads in a busy loop
SIZE = (4, 6, 8, 3)
FEEDS = feeds_of(4, 6, 3)


def steps(plan: Plan, count: int = 2):
    """The outputs of each step, and the variables after the last."""
    with LocalCluster(plan, ops=CATALOGUE, threads=2) as machines:
        machines.init(3)
        outputs = [dict(machines.run(FEEDS, step=i)) for i in range(count)]
        return outputs, machines.variables()


def kernels_on_units(plan: Plan) -> int:
    return sum(
        isinstance(i, Run) and p.values[i.outputs[0]].unit != "cpu" for p in plan.programs for i in p.instructions
    )


@pytest.mark.parametrize("machines,strategy,rule", [(1, "auto", MOMENTUM), (2, "batch", None)])
def test_a_step_on_units_equals_the_step_on_hosts(machines, strategy, rule):
    graph = network(*SIZE, rule=rule)
    plan = compile(graph, cluster(machines, EAGER), strategy=strategy)
    assert kernels_on_units(plan) > 15
    outputs, variables = steps(plan)
    expected_outputs, expected_variables = steps(compile(graph, cluster(machines, None), strategy=strategy))
    for got, want in zip(outputs, expected_outputs, strict=True):
        assert got.keys() == want.keys()
        for name in got:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-6, err_msg=name)
    for name, want in expected_variables.items():
        np.testing.assert_allclose(variables[name], want, rtol=1e-5, atol=1e-6, err_msg=name)
    if rule is not None:
        assert outputs[-1]["loss"] < outputs[0]["loss"]


def executor_of(graph: Graph) -> Executor:
    return Executor(compile(graph, cluster(1, EAGER)).programs[0], ops=CATALOGUE)


def test_variables_on_a_unit_are_set_and_read():
    box = ((0, 3), (0, 3))
    w, x = variable("w", (3, 3), init=2.0), input_node("x", (3, 3))
    with executor_of(Graph({"y": x @ w, "old": w}, updates={"w": w + x})) as e:
        e.init_variables(0)
        np.testing.assert_array_equal(e.get_variable("w", box), np.full((3, 3), 2, np.float32))
        start = np.arange(9, dtype=np.float32).reshape(3, 3)
        e.set_variable("w", box, start)
        ones = np.ones((3, 3), np.float32)
        got = e.run(0, {"x": ones})
        np.testing.assert_allclose(got["y", box], ones @ start)
        np.testing.assert_array_equal(got["old", box], start)
        np.testing.assert_array_equal(e.get_variable("w", box), start + 1)
        with pytest.raises(UsageError, match="the step itself changes it"):
            e.variable_array("w", box)


def test_a_variable_that_a_server_fills_reaches_the_unit_before_each_step():
    box = ((0, 3), (0, 3))
    w, x = variable("w", (3, 3), init=2.0), input_node("x", (3, 3))
    ones = np.ones((3, 3), np.float32)
    with executor_of(Graph({"y": x @ w})) as e:
        e.init_variables(0)
        array = e.variable_array("w", box)
        np.testing.assert_array_equal(array, 2 * ones)
        for value in (1.0, 5.0):
            array[...] = value
            np.testing.assert_allclose(e.run(0, {"x": ones})["y", box], 3 * value * ones)
        e.set_variable("w", box, 7 * ones)
        np.testing.assert_array_equal(array, 7 * ones)
        np.testing.assert_array_equal(e.get_variable("w", box), 7 * ones)


def test_constants_values_of_size_zero_and_scalars():
    x = input_node("x", (2, 3))
    c = CATALOGUE
    y = c["sum"](x * 2.0 @ np.ones((3, 2), np.float32)) + c["sum"](c["slice"](x, start=(0, 0), stop=(0, 3)))
    with executor_of(Graph({"y": y})) as e:
        got = e.run(0, {"x": np.ones((2, 3), np.float32)})
        assert got["y", ()] == 24


def test_a_unit_that_this_machine_lacks():
    graph = Graph({"y": input_node("x", (3, 3)) @ np.ones((3, 3), np.float32)})
    with pytest.raises(UnitError, match="cuda77 of m0, which cannot be used here") as caught:
        Executor(compile(graph, cluster(1, replace(EAGER, name="cuda77"))).programs[0], ops=CATALOGUE)
    assert "numba-cuda" in caught.value.detail["hint"]
