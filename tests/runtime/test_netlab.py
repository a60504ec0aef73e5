"""Test hosts: links have the rate that was asked for, hosts can be unplugged, and workers on them are one cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from netlab import NetLab, bytes_per_s, lacking

ROOT = Path(__file__).parents[2]
LACK = lacking()
pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(LACK), reason=LACK)]

LISTEN = """
import socket
with socket.create_server(("0.0.0.0", 5000)) as server:
    print("up", flush=True)
    while True:
        server.accept()[0].close()
"""
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 5000), 1.0).close()
except OSError:
    print("cut")
else:
    print("reached")
"""
MEASURE = """
import json, sys
from rainshed.engine.calibration import calibrate
from rainshed.engine.calibration_sample import sample_graph
from rainshed.runtime.auth import read_token
from rainshed.runtime.cluster.job import Job, JobOptions
options = JobOptions(backend="join", listen=sys.argv[1], token=read_token(), on_wait=lambda at, n: print(at, flush=True))
with Job(2, options) as job:
    print(json.dumps(calibrate(job, 1.0, sample_graph(sizes=3)).to_data()))
"""


def test_a_rate_in_bytes():
    assert bytes_per_s("100mbit") == 12.5e6 and bytes_per_s("1.5gbit") == 187.5e6 and bytes_per_s("8kbit") == 1000


def test_a_host_can_be_unplugged():
    with (
        NetLab(2, net="10.78.0") as lab,
        lab.popen(1, [sys.executable, "-c", LISTEN], stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            assert server.stdout.readline() == "up\n"
            assert _reaches(lab) == "reached"
            lab.cut(1)
            assert _reaches(lab) == "cut"
            lab.heal(1)
            assert _reaches(lab) == "reached"
        finally:
            server.kill()
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert lab.prefix not in left


def _reaches(lab: NetLab) -> str:
    """Whether host 0 gets through to host 1."""
    words = [sys.executable, "-c", CONNECT, lab.address(1)]
    with lab.popen(0, words, stdout=subprocess.PIPE, text=True) as client:
        return client.communicate(timeout=20)[0].strip()


def test_workers_on_hosts_are_measured(tmp_path):
    """The rate of the links is found, over workers that join from other hosts and are reached there."""
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("ab" * 32)
    environment = {**os.environ, "RAINSHED_TOKEN_FILE": str(token), "OPENBLAS_NUM_THREADS": "1"}
    with NetLab(2, "100mbit", net="10.79.0") as lab:
        address = f"{lab.hub_address}:7700"
        words = [sys.executable, "-c", MEASURE, f"tcp://{address}"]
        processes = [lab.hub_popen(words, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)]
        try:
            assert processes[0].stdout.readline()
            for i in range(2):
                join = [sys.executable, "-m", "rainshed", "worker", "--join", address, "--name", f"host{i}"]
                join += ["--listen", f"tcp://{lab.address(i)}:0"]
                processes.append(lab.popen(i, join, env=environment))
            out, _ = processes[0].communicate(timeout=50)
            ended = [p.wait(timeout=5) for p in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    assert ended == [0, 0, 0]
    found = json.loads(out)
    assert [m["name"] for m in found["machine"]] == ["m0", "m1"]
    assert 6e6 < found["link"]["bytes_per_s"] < 13.5e6
