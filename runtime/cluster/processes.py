"""The `processes` back end: workers spawned on this computer, and no way that one of them outlives the job.

A worker gets the token on its standard input, never on its command line or in its environment. It leaves when the coordinator says
so, when its connection to the coordinator ends, when its standard input ends (the parent is gone, however it went), and on
Linux by a signal of the kernel's when the parent dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Sequence
from typing import Final

from rainshed.ops.errors import AuthError, PeerLostError
from rainshed.runtime.auth import TOKEN_NBYTES

GONE_S: Final = 3.0  # how long a worker may take to leave before it is killed
_PR_SET_PDEATHSIG: Final = 1


class Processes:
    """Workers of one job, started by this process. Close it: afterwards none is left.

    Raises  PeerLostError, from `check`, for a worker that has ended by itself
    """

    def __init__(self, count: int, address: str, token: bytes, *, job: str = "", extra: Sequence[str] = ()) -> None:
        self._children: list[subprocess.Popen[bytes]] = []
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1")}
        command = [
            sys.executable,
            "-P",
            "-m",
            "rainshed",
            "worker",
            "--join",
            address,
            "--job",
            job,
            "--token-stdin",
            *extra,
        ]
        try:
            for _ in range(count):
                child = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)
                self._children.append(child)
                assert child.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # it has ended already: `check` tells how
                    child.stdin.write(token.hex().encode() + f" {os.getpid()}\n".encode())
                    child.stdin.flush()
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self._children]

    def check(self) -> None:
        """Raises PeerLostError if a worker has ended."""
        for child in self._children:
            if child.poll() is not None:
                raise PeerLostError(
                    f"a worker (process {child.pid}) {how_it_ended(child.returncode)} before it had joined"
                )

    def fate(self, pid: int, wait_s: float = 0.5) -> str:
        """How the process ended, such as "was killed by SIGKILL"; "" while it runs or if it is not ours."""
        for child in self._children:
            if child.pid == pid:
                try:
                    return how_it_ended(child.wait(wait_s))
                except subprocess.TimeoutExpired:
                    return ""
        return ""

    def drop(self, joined: Collection[int]) -> None:
        """End at once the workers that are not among those that have joined: no word reaches them, and they have begun nothing."""
        for child in self._children:
            if child.pid not in joined and child.poll() is None:
                child.kill()

    def close(self) -> None:
        """Let all workers leave; kill those that have not left in GONE_S. Safe to call twice."""
        for child in self._children:
            if child.stdin is not None and not child.stdin.closed:
                with contextlib.suppress(BrokenPipeError):  # it has ended already
                    child.stdin.close()
        until = time.monotonic() + GONE_S
        for child in self._children:
            try:
                child.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
        for child in self._children:
            child.wait()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def how_it_ended(code: int) -> str:
    """A return code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def token_from_stdin() -> bytes:
    """The worker's side: the token and the parent's number; from now on the worker does not outlive the parent.

    Raises  AuthError if the standard input holds no token
    """
    line = b""
    while not line.endswith(b"\n") and (read := os.read(0, 1)):
        line += read
    words = line.split()
    try:
        token, parent = bytes.fromhex(words[0].decode()), int(words[1])
    except (IndexError, ValueError, UnicodeDecodeError):
        raise AuthError("the standard input does not hold the job's token") from None
    if len(token) != TOKEN_NBYTES:
        raise AuthError(f"the token on the standard input has {len(token)} bytes, not {TOKEN_NBYTES}")
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise AuthError(f"the process {parent} that started this worker has gone")
    threading.Thread(target=_leave_with_parent, name="rainshed watches its parent", daemon=True).start()
    return token


def _leave_with_parent() -> None:
    while os.read(0, 4096):  # not through sys.stdin, whose lock the interpreter wants when it ends
        pass
    time.sleep(GONE_S)  # the coordinator's word comes first, if it lives
    os._exit(1)
