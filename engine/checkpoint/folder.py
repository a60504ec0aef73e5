"""A folder of checkpoints: step-<n>/ complete ones, tmp-<n>/ one being written, and the lock of its only writer.

A checkpoint appears under its name all at once, by a rename; nothing that this project writes under that name is ever
changed. Whatever a killed writer left behind is cleared by the next one.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from rainshed.ops.errors import CheckpointError, UsageError

LOCK: Final = "lock"
_NAME: Final = re.compile(r"(step|old|tmp|gone)-(0|[1-9][0-9]{0,18})")


class CheckpointFolder:
    """A folder that this process alone writes checkpoints to, from now until `close`.

    Raises  CheckpointError if it cannot be written, or another process writes it: now, not at the first checkpoint
    """

    def __init__(self, directory: str | Path, *, keep: int = 2) -> None:
        if keep < 1:
            raise UsageError(f"at least one checkpoint must be kept; found keep={keep}")
        self.path = Path(directory)
        self.keep = keep
        self._lock = -1
        with reported(f"{self.path} cannot hold checkpoints", self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.path / LOCK)
        try:
            with reported(f"{self.path} cannot be written", self.path):
                self._clear()  # first: what a dead process left half written may be what fills the disk
                self._probe()
        except BaseException:
            self.close()
            raise

    def temporary(self, step: int) -> Path:
        return self.path / f"tmp-{step}"

    def publish(self, step: int) -> Path:
        """Give the finished tmp-<step>/ its name. One of that step that is there already is replaced."""
        target, old = self.path / f"step-{step}", self.path / f"old-{step}"
        if target.exists():
            target.rename(old)  # found again by `checkpoints` if this process dies before the next line
        self.temporary(step).rename(target)
        sync_folder(self.path)
        if old.exists():
            _remove(old)
        return target

    def prune(self, newest: int) -> None:
        """Remove all but `keep`: that of step `newest`, just written, and of the others those of the highest steps."""
        others = [path for path in checkpoints(self.path) if _step_of(path) != newest]
        for path in others[self.keep - 1 :]:
            _remove(path)
        sync_folder(self.path)

    def _probe(self) -> None:
        probe = self.path / "probe"
        try:
            with probe.open("wb") as file:
                file.write(b"rainshed")
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)

    def _clear(self) -> None:
        for kind, step, path in _found(self.path):
            if kind == "old" and not (self.path / f"step-{step}").exists():
                path.rename(self.path / f"step-{step}")
            elif kind != "step":
                shutil.rmtree(path)

    def close(self) -> None:
        """Let others write. The lock file stays, empty: were it removed, two could hold a lock of that name."""
        if self._lock >= 0:
            with suppress(OSError):
                os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def checkpoints(directory: str | Path) -> list[Path]:
    """The complete checkpoints of a folder, the newest first; none if there is no such folder."""
    newest: dict[int, Path] = {}
    for kind, step, path in _found(Path(directory)):
        if kind == "step" or (kind == "old" and step not in newest):
            newest[step] = path
    return [newest[step] for step in sorted(newest, reverse=True)]


@contextmanager
def reported(what: str, path: Path) -> Iterator[None]:
    """An OSError within becomes a CheckpointError that says what could not be done, where, and what room there is."""
    try:
        yield
    except OSError as error:
        free = None
        with suppress(OSError):
            free = f"{shutil.disk_usage(path if path.is_dir() else path.parent).free} bytes free there"
        reason = error.strerror or str(error)
        raise CheckpointError(f"{what}: {reason}", file=error.filename or path, disk=free) from error


def sync_folder(path: Path) -> None:
    """Return when the disk has the names in a folder."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _found(directory: Path) -> list[tuple[str, int, Path]]:
    """(kind, step, path) of the folders with our names; symbolic links are not ours."""
    rows = []
    if directory.is_dir():
        for path in sorted(directory.iterdir(), reverse=True):  # step-<n> before old-<n>
            match = _NAME.fullmatch(path.name)
            if match and path.is_dir() and not path.is_symlink():
                rows.append((match[1], int(match[2]), path))
    return rows


def _step_of(path: Path) -> int:
    return int(path.name.partition("-")[2])


def _remove(path: Path) -> None:
    """Take a checkpoint's name away first, so that half a checkpoint never has one."""
    gone = path.with_name(f"gone-{_step_of(path)}")
    path.rename(gone)
    shutil.rmtree(gone)


def _lock(path: Path) -> int:
    """Take the lock: of the kernel's kind, so that a dead process holds none. Its text names the holder, for people."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    host = socket.gethostname()
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        pid, _, holder = os.pread(file, 300, 0).decode("utf-8", "replace").strip().partition(" ")
        if not free or (holder and holder != host):  # a lock may not reach from host to host
            raise CheckpointError(
                f"{path.parent} is being written by process {pid or '?'} on {holder or host}",
                do=f"give each job a folder of its own, or remove {path} if that process has ended",
            )
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()} {host}\n".encode(), 0)
    except BaseException:
        os.close(file)
        raise
    return file
