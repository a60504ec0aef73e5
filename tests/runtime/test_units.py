"""Programs with units: they run as programs without (tests/gpu/check_runtime.py), and say what is missing where there is no GPU."""

import os
import subprocess
import sys

import numpy as np
import pytest
from gpu_process import MODES, run_checks
from units_kit import MOMENTUM, cluster, feeds_of, network

from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import Program, Value
from rainshed.ops import CATALOGUE
from rainshed.ops.errors import UnitError, UsageError
from rainshed.runtime.buffers import Buffers
from rainshed.runtime.cluster.local import LocalCluster
from rainshed.runtime.executor import Options

NO_GPU = """
from dataclasses import replace
from rainshed.compiler.pipeline import compile
from rainshed.ops import CATALOGUE
from rainshed.runtime.executor import Executor
from units_kit import EAGER, cluster, network
plan = compile(network(4, 6, 8, 3), cluster(unit=replace(EAGER, name="cuda99")))
Executor(plan.programs[0], ops=CATALOGUE)
"""


@pytest.mark.parametrize("mode", MODES)
def test_programs_with_units_run_as_those_without(mode):
    run_checks(mode, "check_runtime.py")


def test_where_there_is_no_such_gpu_the_error_says_what_is_needed():
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", NO_GPU], capture_output=True, text=True, timeout=50, env=environment)
    assert done.returncode == 1
    assert "UnitError: the plan uses cuda99 of m0, which cannot be used here" in done.stderr
    assert "pip install 'rainshed[cuda]' (numba-cuda)" in done.stderr


def test_a_unit_of_an_unknown_kind():
    value = Value(dtype="f32", shape=(4,), place="arena", offset=0, unit="tpu0")
    with pytest.raises(UnitError, match="units are called cuda0"):
        Buffers(Program(machine="m0", values=(value,), instructions=(), unit_arenas={"tpu0": 64}))


def test_compiled_loops_give_the_step_that_numpy_gives(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plan = compile(network(4, 6, 8, 3, rule=MOMENTUM), cluster(unit=None))
    losses = {}
    for policy in ("numpy", "numba"):
        monkeypatch.setenv("RAINSHED_KERNELS", policy)
        with LocalCluster(plan, ops=CATALOGUE) as machines:
            machines.init(3)
            losses[policy] = [float(machines.run(feeds_of(4, 6, 3), step=i)["loss"]) for i in range(3)]
    np.testing.assert_allclose(losses["numba"], losses["numpy"], rtol=1e-5)
    assert list((tmp_path / "rainshed" / "kernels").glob("*.o"))


def test_kernels_that_do_not_exist():
    with pytest.raises(UsageError, match="no kernels 'fortran'"):
        Options(kernels="fortran")
