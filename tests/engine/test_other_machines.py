"""Machines that have less: narrower vectors, one core, no compiler at all. Everything works there, and gives the same losses.

The network has a kernel of each family: convolutions, also strided, in groups and channel by channel, both pools, locally connected
layers, products, sums by index, LSTM and GRU.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, sys
import numpy as np
import rainshed as rs

if sys.argv[1:] == ["one core"]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

image = rs.input("image", (None, 9, 9, 3))
h = rs.layers.conv2d(image, 6, 3, activation=rs.relu)
h = rs.layers.conv2d(h, 6, 3, groups=6)
h = rs.layers.max_pool2d(h, 2, padding="same")
h = rs.layers.conv2d(h, 4, 2, stride=2, groups=2)
h = rs.layers.avg_pool2d(rs.layers.local2d(h, 5, 2, activation=rs.tanh), 2)
word = rs.layers.embedding(rs.input("word", (None, 3), "int64"), 9, 6)
sides = [rs.layers.lstm(word, 8), rs.layers.gru(word, 7)]
h = rs.concat([rs.layers.dense(rs.layers.flatten(h), 11, activation=rs.sigmoid), *sides], axis=1)
label = rs.input("label", (None,), "int32")
loss = rs.mean(rs.softmax_cross_entropy(rs.layers.dense(h, 5), label))
graph = rs.graph(loss=loss, optimizer=rs.Adagrad(0.1)).bind(batch=6)
rng = np.random.default_rng(0)
feeds = {
    "image": rng.standard_normal((6, 9, 9, 3)).astype(np.float32),
    "word": rng.integers(0, 9, (6, 3)),
    "label": rng.integers(0, 5, 6).astype(np.int32),
}
with rs.Session(graph, rs.Cluster.local(2), backend="threads", strategy="batch") as session:
    print(json.dumps([float(session.run(feeds)["loss"]) for _ in range(4)]))
"""

LESS = {
    "no wide vectors": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    "no AVX": {"NUMBA_CPU_NAME": "x86-64-v2", "NUMBA_CPU_FEATURES": "+sse4.2,+popcnt,-avx"},
    "no AVX-512": {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,-avx512f"},
    "no compiler": {"NUMBA_DISABLE_JIT": "1"},
    "one core": {},
}


def losses(tmp_path: Path, less: str) -> list[float]:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), **LESS.get(less, {})}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, less], env=env, capture_output=True, text=True, timeout=55, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found: list[float] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(tmp_path_factory.mktemp("cache"), "")


@pytest.mark.parametrize("less", list(LESS))
def test_it_works_and_gives_the_same_losses(tmp_path: Path, expected: list[float], less: str) -> None:
    if less == "one core" and not hasattr(os, "sched_setaffinity"):
        pytest.skip(f"{platform.system()} has no affinity of processes")
    if less.startswith("no AVX") and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"{platform.machine()} has no AVX anyway")
    assert losses(tmp_path, less) == pytest.approx(expected, rel=2e-5)
    assert expected[-1] < expected[0]
