"""Runs checks of CUDA kernels in a process of their own: in Numba's simulator, and on a GPU where there is one.

Numba decides between simulator and GPU once, when it is imported; the process of the other tests must not be the one that decides.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
MODES = ["simulator"]
if Path("/dev/nvidiactl").exists() and importlib.util.find_spec("numba_cuda"):
    MODES.append("gpu")


def run_checks(mode: str, file: str, *words: str) -> None:
    """Run pytest on tests/gpu/`file`; fails with its output if a check fails."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["NUMBA_ENABLE_CUDASIM"] = "1" if mode == "simulator" else "0"
    command = [sys.executable, "-m", "pytest", str(HERE / "gpu" / file), "-p", "no:cacheprovider", "-n0", *words]
    done = subprocess.run(command, env=environment, cwd=HERE.parent, capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, f"{mode}\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
