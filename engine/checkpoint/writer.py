"""Writing a checkpoint: room is reserved first, parts go into place in any order, one rename makes it visible."""

from __future__ import annotations

import os
import re
import shutil
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Self

import msgspec
import numpy as np

from rainshed.compiler.layouts import minus
from rainshed.engine.checkpoint.folder import CheckpointFolder, reported, sync_folder
from rainshed.engine.checkpoint.format import (
    FORMAT,
    KINDS,
    MANIFEST,
    FileFacts,
    Index,
    Kind,
    Manifest,
    Sealed,
    TensorSpec,
    box_text,
    check_box,
    index_name,
    spec_of,
)
from rainshed.engine.checkpoint.tensor_file import Array, Form, TensorFile, file_crc, nbytes_of, share_out
from rainshed.ops.access import Box, box_shape, box_size, whole
from rainshed.ops.errors import CheckpointError, UsageError

MAX_FILE_NBYTES: Final = 2 << 30

_BLOB: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class CheckpointWriter:
    """A checkpoint being written; it exists from `commit` on, and leaves nothing behind without it.

    Any number of threads may write at once. To be used in a `with` block.

    tensors   name -> (NumPy's name of the element type, shape, "model" or "optim")
    metadata  what JSON can hold: the seed, facts of the job
    Raises    CheckpointError naming the file and the tensor; also for a full disk, as soon as room is reserved
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        step: int,
        tensors: Mapping[str, TensorSpec | tuple[str, tuple[int, ...], Kind]],
        metadata: Mapping[str, Any] | None = None,
        max_file_nbytes: int = MAX_FILE_NBYTES,
    ) -> None:
        if step < 0:
            raise UsageError(f"a step is a number from 0 on; found {step}")
        self.step = step
        self.tensors = {name: spec_of(name, given) for name, given in tensors.items()}
        self.metadata = dict(metadata or {})
        self._folder = folder
        self._path = folder.temporary(step)
        self._left: dict[str, list[Box]] = {n: _boxes(spec.shape) for n, spec in self.tensors.items()}
        self._lock = threading.Lock()
        self._files: dict[str, TensorFile] = {}  # of a tensor
        self._all: dict[str, TensorFile] = {}  # by name
        self._blobs: set[str] = set()
        self._state: Literal["open", "committed", "abandoned"] = "open"
        nbytes = sum(nbytes_of(s.dtype, s.shape) for s in self.tensors.values())
        try:
            with reported(f"no room for checkpoint {step}, which needs {nbytes} bytes", folder.path):
                self._path.mkdir()
                for kind in KINDS:
                    self._create(kind, max_file_nbytes)
            self._reached("reserved")
        except BaseException:
            self.abandon()
            raise

    def _create(self, kind: Kind, max_file_nbytes: int) -> None:
        mine: dict[str, Form] = {n: (s.dtype, s.shape) for n, s in self.tensors.items() if s.kind == kind}
        groups = share_out(mine, max_file_nbytes)
        for number, group in enumerate(groups, 1):
            path = self._path / f"{kind}-{number:05d}-of-{len(groups):05d}.safetensors"
            file = self._all[path.name] = TensorFile.create(path, group)
            self._files.update(dict.fromkeys(group, file))

    def _reached(self, stage: str) -> None:
        """Called after each stage of the writing: reserved, written, indexed, sealed, published, pruned."""

    def write(self, name: str, box: Box, array: Array) -> None:
        """Put a part of a tensor into its place. Writing a part again replaces it."""
        self._must_be_open()
        spec = self.tensors.get(name)
        if spec is None:
            raise CheckpointError(f"the checkpoint has no tensor {name}", step=self.step)
        check_box(name, spec, box)
        if array.dtype != np.dtype(spec.dtype) or array.shape != box_shape(box):
            raise CheckpointError(
                f"a part of {name} does not fit its box {box_text(box)}",
                expected=TensorSpec(spec.dtype, box_shape(box)),
                found=f"{array.dtype.name}{list(array.shape)}",
            )
        self._files[name].write(name, box, array)
        with self._lock:
            self._left[name] = [rest for left in self._left[name] for rest in minus(left, box)]

    def blob(self, name: str, data: bytes) -> None:
        """Keep bytes under a name made of letters, digits, dots, dashes and underscores."""
        self._must_be_open()
        if not _BLOB.fullmatch(name):
            raise CheckpointError(f"{name!r} cannot be the name of a blob", expected=_BLOB.pattern)
        self._put(f"{name}.bin", data)
        self._blobs.add(f"{name}.bin")

    def commit(self) -> Path:
        """Make the checkpoint complete and visible, then remove older ones. Gives its path.

        Raises  CheckpointError if an element of a tensor has not been written, or the disk refuses
        """
        self._must_be_open()
        for name, left in self._left.items():
            if left:
                raise CheckpointError(
                    f"{name} is not written wholly", step=self.step, missing=", ".join(map(box_text, left[:4]))
                )
        with reported(f"checkpoint {self.step} cannot be written", self._path):
            self._reached("written")
            facts = self._facts()
            self._reached("indexed")
            self._seal(facts)
            self._reached("sealed")
        with reported(f"checkpoint {self.step} cannot be put into its place", self._folder.path):
            path = self._folder.publish(self.step)
            self._state = "committed"
            self._reached("published")
        with reported(f"checkpoint {self.step} is written, but older ones cannot be removed", self._folder.path):
            self._folder.prune(self.step)
            self._reached("pruned")
        return path

    def _facts(self) -> dict[str, FileFacts]:
        """Bring all files but the manifest to the disk; their lengths and sums."""
        facts: dict[str, FileFacts] = {}
        for name, file in self._all.items():
            file.sync()
            facts[name] = FileFacts(file.nbytes, *file.checksums())
            file.close()
        for kind in KINDS:
            index = {n: self._files[n].path.name for n, spec in self.tensors.items() if spec.kind == kind}
            if index:
                total = sum(nbytes_of(self.tensors[n].dtype, self.tensors[n].shape) for n in index)
                text = msgspec.json.encode(Index(index, {"total_size": total}))
                self._put(index_name(kind), msgspec.json.format(text, indent=2))
                facts[index_name(kind)] = FileFacts(*file_crc(self._path / index_name(kind)))
        return facts | {name: FileFacts(*file_crc(self._path / name)) for name in sorted(self._blobs)}

    def _seal(self, facts: Mapping[str, FileFacts]) -> None:
        try:
            text = msgspec.json.encode(Manifest(FORMAT, self.step, self.metadata, facts))
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"the metadata of checkpoint {self.step} cannot be written: {error}") from None
        self._put(MANIFEST, msgspec.json.encode(Sealed(zlib.crc32(text), msgspec.Raw(text))))
        sync_folder(self._path)

    def _put(self, name: str, data: bytes) -> None:
        with reported(f"checkpoint {self.step} cannot be written", self._path):
            _write_durably(self._path / name, data)

    def _must_be_open(self) -> None:
        if self._state != "open":
            raise UsageError(f"checkpoint {self.step} is {self._state} already")

    def abandon(self) -> None:
        """Remove what was written, unless it was committed."""
        for file in self._all.values():
            file.close()
        if self._state == "open":
            self._state = "abandoned"
            shutil.rmtree(self._path, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()


@contextmanager
def write_checkpoint(
    directory: str | Path,
    step: int,
    tensors: Mapping[str, TensorSpec | tuple[str, tuple[int, ...], Kind]],
    metadata: Mapping[str, Any] | None = None,
    keep: int = 2,
) -> Iterator[CheckpointWriter]:
    """One checkpoint, the folder locked while it is written. A job that writes several holds a CheckpointFolder."""
    with CheckpointFolder(directory, keep=keep) as folder, CheckpointWriter(folder, step, tensors, metadata) as writer:
        yield writer


def _boxes(shape: tuple[int, ...]) -> list[Box]:
    box = whole(shape)
    return [box] if box_size(box) else []


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
