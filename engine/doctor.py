"""What `rainshed doctor` looks at: whether this computer is fit for Rainshed, and what it will use of it.

A check gives findings; a finding that is not OK says what to do. Nothing here changes anything but a temporary file.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from threadpoolctl import threadpool_info

from rainshed.compiler.this_computer import memory_bytes, multiplies_bfloat16, processor_has, usable_cores
from rainshed.ops.errors import UsageError
from rainshed.runtime.auth import TOKEN_FILE_VARIABLE, read_token

State = Literal["ok", "note", "wrong"]
LIBRARIES: Final = (
    "rainshed", "numpy", "numba", "llvmlite", "msgspec", "safetensors", "cloudpickle", "networkx", "rich",
    "threadpoolctl", "ml_dtypes", "numba-cuda",
)  # fmt: skip
OPTIONAL: Final = ("numba-cuda",)
ENOUGH_MEMORY: Final = 1 << 30
ENOUGH_DISK: Final = 1 << 30
LOOPBACK_S: Final = 2.0
GPU_S: Final = 10.0
NUMBA_S: Final = 60.0

# Environment of launchers, in the order in which it is believed: (launcher, rank, how many).
LAUNCHERS: Final = (
    ("rainshed", "RAINSHED_RANK", "RAINSHED_WORLD_SIZE"),
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("SLURM", "SLURM_PROCID", "SLURM_NTASKS"),
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI", "PMI_RANK", "PMI_SIZE"),
    ("Kubernetes", "JOB_COMPLETION_INDEX", ""),
)
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and, where it is not OK, what to do about it."""

    name: str
    state: State
    found: str
    do: str = ""


def examine(environment: Mapping[str, str] | None = None) -> list[Finding]:
    """Look at everything, in order. A check that fails by itself becomes a finding."""
    env = os.environ if environment is None else environment
    checks: tuple[tuple[str, Callable[[], list[Finding]]], ...] = (
        ("versions", versions),
        ("cores", lambda: cores(env)),
        ("memory", memory),
        ("disk", disk),
        ("blas", blas),
        ("numba", numba_layer),
        ("bfloat16", bfloat16),
        ("loopback", loopback),
        ("names", names),
        ("launcher", lambda: launcher(env)),
        ("token", lambda: token(env)),
        ("gpu", gpu),
    )
    findings = []
    for name, check in checks:
        try:
            findings += check()
        except Exception as error:  # a broken library must not hide what the other checks find
            findings.append(Finding(name, "wrong", f"the check failed: {type(error).__name__}: {error}"))
    return findings


def versions() -> list[Finding]:
    found = [Finding("python", "ok", f"{platform.python_version()} ({platform.platform()})")]
    for library in LIBRARIES:
        try:
            found.append(Finding(library, "ok", importlib.metadata.version(library)))
        except importlib.metadata.PackageNotFoundError:
            if library not in OPTIONAL:
                found.append(Finding(library, "wrong", "is not installed", f"pip install {library}"))
    return found


def cores(env: Mapping[str, str]) -> list[Finding]:
    there, usable = os.cpu_count() or 1, usable_cores()
    limits = [f"{name}={env[name]}" for name in THREAD_VARIABLES if name in env]
    found = [Finding("cores", "ok", f"{usable} usable of {there}, {platform.machine()}")]
    if limits:
        found.append(Finding("limits", "note", ", ".join(limits), "set by the environment, and respected"))
    return found


def memory() -> list[Finding]:
    total = memory_bytes()
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass  # not Linux: the pages that nobody uses are all that is known
    text = f"{_gib(free)} available of {_gib(total)}"
    if free < ENOUGH_MEMORY:
        do = f"the demos want {_gib(ENOUGH_MEMORY)}: fewer --replicas or --machines"
        return [Finding("memory", "note", text, do)]
    return [Finding("memory", "ok", text)]


def disk() -> list[Finding]:
    """Room in the current folder, and how fast a checkpoint would reach it."""
    free = shutil.disk_usage(".").free
    block = os.urandom(1 << 20)
    try:
        with tempfile.TemporaryFile(dir=".") as file:
            started = time.perf_counter()
            for _ in range(16):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            seconds = time.perf_counter() - started
    except OSError as error:
        return [Finding("disk", "note", f"the current folder cannot be written to: {error.strerror}", "go elsewhere")]
    text = f"{_gib(free)} free in {Path.cwd()}, 16 MiB durably written in {seconds:.2f} s"
    return [Finding("disk", "note" if free < ENOUGH_DISK else "ok", text, "" if free >= ENOUGH_DISK else "make room")]


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.1f} GiB"


def blas() -> list[Finding]:
    """The library behind NumPy's matrix products, and what it does here."""
    a = np.ones((512, 512), np.float32)
    a @ a
    started = time.perf_counter()
    for _ in range(8):
        a @ a
    rate = 8 * 2 * 512**3 / (time.perf_counter() - started)
    pools = [pool for pool in threadpool_info() if pool.get("user_api") == "blas"]
    if not pools:
        return [Finding("blas", "note", f"unknown, {rate / 1e9:.0f} Gflop/s", "its threads cannot be limited")]
    pool = pools[0]
    kind = " ".join(filter(None, (str(pool["internal_api"]), str(pool.get("version") or ""), pool.get("architecture"))))
    return [Finding("blas", "ok", f"{kind}, {pool['num_threads']} threads, {rate / 1e9:.0f} Gflop/s in float32")]


def numba_layer() -> list[Finding]:
    """Whether Numba compiles here: in a process of its own, because it is slow to load and can end the process."""
    program = (
        "import time, numba; t = time.perf_counter(); f = numba.njit(lambda x: x + x); "
        "print(f(21), f'{time.perf_counter() - t:.2f}', numba.config.THREADING_LAYER)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=NUMBA_S, check=False)
    words = done.stdout.split()
    if done.returncode or words[:1] != ["42"]:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return [Finding("numba", "wrong", f"cannot compile: {last}", "pip install --force-reinstall numba llvmlite")]
    layer = f"threading layer {words[2]} is not used: Rainshed has threads of its own"
    return [Finding("numba", "ok", f"compiles in {words[1]} s, for {_llvm_cpu()}; {layer}")]


def _llvm_cpu() -> str:
    names = [feature for feature in ("avx512f", "avx2", "neon") if processor_has(feature)]
    return names[0] if names else platform.machine()


def bfloat16() -> list[Finding]:
    """How products are done with precision="bf16"."""
    if multiplies_bfloat16():
        text = "AVX512_BF16: with precision 'bf16' products are multiplied in it"
    else:
        text = "no AVX512_BF16: with precision 'bf16' products are float32's, of rounded operands; values cross in half the bytes"
    return [Finding("bfloat16", "ok", text)]


def loopback() -> list[Finding]:
    """Whether processes of this computer reach each other over TCP, and how fast."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LOOPBACK_S)
        with socket.create_connection(server.getsockname(), LOOPBACK_S) as here:
            there, _ = server.accept()
            with there:
                there.settimeout(LOOPBACK_S)
                for end in (here, there):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                count, started = 100, time.perf_counter()
                for _ in range(count):
                    here.sendall(b"?")
                    there.recv(1)
                    there.sendall(b"!")
                    here.recv(1)
                taken = (time.perf_counter() - started) / count
    found = [Finding("loopback", "ok", f"127.0.0.1 answers in {taken * 1e6:.0f} us; ports {_port_range()}")]
    return found + _open_files()


def _port_range() -> str:
    try:
        return "-".join(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except OSError:
        return "unknown"


def _open_files() -> list[Finding]:
    limit = os.sysconf("SC_OPEN_MAX")
    if 0 < limit < 256:
        return [Finding("open files", "note", f"a process may hold {limit}", "ulimit -n 1024, for large jobs")]
    return []


def names() -> list[Finding]:
    """Whether this computer's name leads to it, and back: other hosts need that, one computer alone does not."""
    host = socket.gethostname()
    try:
        addresses = sorted({str(row[4][0]) for row in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except OSError as error:
        return [Finding("names", "note", f"{host} has no address: {error}", "give workers addresses instead of names")]
    backward = []
    for address in addresses:
        try:
            backward.append(f"{address} -> {socket.gethostbyaddr(address)[0]}")
        except OSError:
            backward.append(f"{address} -> no name")
    text = f"{host} -> {', '.join(addresses)}; {'; '.join(backward)}"
    if all(address.startswith(("127.", "::1")) for address in addresses):
        return [
            Finding(
                "names", "note", text, "other hosts do not reach this one by its name: use --listen tcp://ADDRESS:0"
            )
        ]
    return [Finding("names", "ok", text)]


def launcher(env: Mapping[str, str]) -> list[Finding]:
    """Which launcher's environment is there, and which one is believed."""
    present = [(name, rank, size) for name, rank, size in LAUNCHERS if rank in env]
    if not present:
        return [Finding("launcher", "ok", "none: started by hand")]
    name, rank, size = present[0]
    of = f" of {env[size]}" if size and size in env else ""
    text = f"{name}: {rank}={env[rank]}{of}"
    if not env[rank].isdigit() or (size and not env.get(size, "0").isdigit()):
        return [Finding("launcher", "wrong", f"{text} is no number", f"unset {rank}, or start by {name} alone")]
    others = ", ".join(other for other, *_ in present[1:])
    return [Finding("launcher", "note" if others else "ok", text, f"believed before {others}" if others else "")]


def token(env: Mapping[str, str]) -> list[Finding]:
    path = env.get(TOKEN_FILE_VARIABLE)
    if not path:
        return [Finding("token", "ok", f"{TOKEN_FILE_VARIABLE} is not set: only needed for jobs on several hosts")]
    try:
        read_token(path)
    except UsageError as error:
        return [Finding("token", "wrong", error.message, "; ".join(error.detail.values()))]
    return [Finding("token", "ok", f"{path} holds one")]


def gpu() -> list[Finding]:
    """The GPUs that the driver names, and whether Numba's kernels can use them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [Finding("gpu", "ok", "none")]
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=GPU_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Finding("gpu", "note", f"nvidia-smi failed: {error}", "look at the driver")]
    rows = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not rows:
        said = (done.stderr or done.stdout).strip()[:200]
        return [Finding("gpu", "note", f"nvidia-smi: {said}", "look at the driver")]
    if importlib.util.find_spec("numba_cuda") is None:
        return [Finding("gpu", "note", "; ".join(rows), "pip install 'rainshed[cuda]' to use it")]
    return [Finding("gpu", "ok", "; ".join(rows))]
