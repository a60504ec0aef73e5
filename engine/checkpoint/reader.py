"""Reading a checkpoint: checked when it is opened, box by box when it is read, every byte when it is verified.

Folders and files of other programs in the Hugging Face convention are read too.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import msgspec

from rainshed.engine.checkpoint.folder import checkpoints
from rainshed.engine.checkpoint.format import (
    FORMAT,
    KINDS,
    MANIFEST,
    Index,
    Kind,
    Manifest,
    Sealed,
    TensorSpec,
    check_box,
    index_name,
)
from rainshed.engine.checkpoint.tensor_file import Array, TensorFile
from rainshed.ops.access import Box
from rainshed.ops.errors import CheckpointError, DTypeError
from rainshed.ops.types import DType, dtype_of

_MAX_JSON_NBYTES: Final = 256 << 20
_SINGLE: Final = "model.safetensors"

T = TypeVar("T")


class CheckpointReader:
    """A checkpoint: a step-<n>/ folder, or a folder or file of safetensors that another program wrote.

    Opening it checks names, lengths, headers and that the index and the files agree; `verify` checks every byte.

    step, metadata   as they were written; 0 and nothing for another program's files
    tensors          name -> TensorSpec
    blobs            names of blobs
    Raises  CheckpointError naming the file, and the tensor where one is at fault
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.tensors: dict[str, TensorSpec] = {}
        self._files: dict[str, TensorFile] = {}  # by name
        self._file_of: dict[str, TensorFile] = {}  # of a tensor
        self._own = (self.path / MANIFEST).exists() or (self.path / MANIFEST).is_symlink()
        self._manifest = self._read_manifest() if self._own else Manifest(FORMAT, 0, {}, {})
        try:
            self._check_lengths()
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def step(self) -> int:
        return self._manifest.step

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._manifest.metadata

    @property
    def blobs(self) -> tuple[str, ...]:
        return tuple(name.removesuffix(".bin") for name in self._manifest.files if name.endswith(".bin"))

    def read(self, name: str, box: Box | None = None) -> Array:
        """A copy of a box of a tensor, or of all of it; nothing else of it is brought into memory."""
        spec = self.tensors.get(name)
        if spec is None:
            raise CheckpointError(f"{self.path} has no tensor {name}")
        box = tuple((0, n) for n in spec.shape) if box is None else box
        check_box(name, spec, box)
        return self._file_of[name].read(name, box)

    def blob(self, name: str) -> bytes:
        """The bytes kept under a name, checked."""
        facts = self._manifest.files.get(f"{name}.bin")
        if facts is None:
            raise CheckpointError(f"{self.path} has no blob {name}", blobs=", ".join(self.blobs) or "none")
        data = self._bytes_of(f"{name}.bin", facts.nbytes)
        if zlib.crc32(data) != facts.crc32:
            raise _damaged(self.path / f"{name}.bin")
        return data

    def verify(self) -> None:
        """Read all of it. Raises CheckpointError naming the first file, and its tensors, not as they were written.

        Another program's files have no sums: of them only what opening them checked is known.
        """
        for name, facts in self._manifest.files.items():
            file = self._files.get(name)
            if file is None:
                if zlib.crc32(self._bytes_of(name, facts.nbytes)) != facts.crc32:
                    raise _damaged(self.path / name)
                continue
            crc, each = file.checksums()
            if crc != facts.crc32 or each != facts.tensors:
                wrong = [tensor for tensor, found in each.items() if facts.tensors.get(tensor) != found]
                raise _damaged(self.path / name, wrong)

    def _read_manifest(self) -> Manifest:
        path = self.path / MANIFEST
        sealed = _decode(path, self._bytes_of(MANIFEST), Sealed)
        if zlib.crc32(sealed.manifest) != sealed.crc32:
            raise _damaged(path)
        manifest = _decode(path, bytes(sealed.manifest), Manifest)
        if manifest.format != FORMAT:
            raise CheckpointError(
                f"{self.path} has format {manifest.format}; this version of Rainshed reads {FORMAT}", file=path
            )
        for name in manifest.files:
            _check_name(name, path)
        return manifest

    def _check_lengths(self) -> None:
        for name, facts in self._manifest.files.items():
            path = self.path / name
            found = path.lstat().st_size if path.exists() else None
            if found != facts.nbytes:
                raise CheckpointError(
                    f"{name} is missing" if found is None else f"{name} is not as long as it was written",
                    file=path,
                    expected=f"{facts.nbytes} bytes",
                    found=None if found is None else f"{found} bytes",
                    tensors=_some(facts.tensors),
                )

    def _open(self) -> None:
        if self.path.is_file():
            self._take("model", {}, {self.path.name: self._tensor_file(self.path)})
            return
        for kind in KINDS:
            if (self.path / index_name(kind)).exists():
                index = _decode(self.path / index_name(kind), self._bytes_of(index_name(kind)), Index)
                for name in index.weight_map.values():
                    _check_name(name, self.path / index_name(kind))
                names = sorted(set(index.weight_map.values()))
                for name in names:
                    if not (self.path / name).exists():
                        lost = [tensor for tensor, file in index.weight_map.items() if file == name]
                        raise CheckpointError(f"{name} is missing", file=self.path / name, tensors=_some(lost))
                self._take(kind, index.weight_map, {name: self._tensor_file(self.path / name) for name in names})
            elif kind == "model" and not self._own and (self.path / _SINGLE).exists():
                self._take(kind, {}, {_SINGLE: self._tensor_file(self.path / _SINGLE)})
        if not self._own and not self._files:
            raise CheckpointError(
                f"{self.path} holds no checkpoint", expected=f"{MANIFEST}, {index_name('model')} or {_SINGLE}"
            )
        unread = [n for n in self._manifest.files if n.endswith(".safetensors") and n not in self._files]
        if unread:
            raise CheckpointError(f"no index mentions {unread[0]}", file=self.path / unread[0])

    def _tensor_file(self, path: Path) -> TensorFile:
        if self._own and path.name not in self._manifest.files:
            raise CheckpointError(f"the manifest does not know {path.name}", file=path)
        # Caches of other programs keep links in such folders; this project never does.
        file = self._files[path.name] = TensorFile.open(path, follow=not self._own)
        return file

    def _take(self, kind: Kind, weight_map: Mapping[str, str], files: Mapping[str, TensorFile]) -> None:
        """Note the tensors of these files. Raises CheckpointError if they are not those of the index."""
        for file_name, file in files.items():
            for name, entry in file.entries.items():
                if name in self.tensors:
                    raise CheckpointError(f"{name} is there twice", file=file.path)
                if weight_map and weight_map.get(name) != file_name:
                    raise CheckpointError(
                        f"{name} is in {file_name}, but not by the index", file=file.path, index=weight_map.get(name)
                    )
                self.tensors[name] = TensorSpec(entry.numpy, entry.shape, kind)
                self._file_of[name] = file
        for name, file_name in weight_map.items():
            if name not in files[file_name].entries:
                raise CheckpointError(f"{name} is not in {file_name}", file=files[file_name].path)

    def _bytes_of(self, name: str, nbytes: int | None = None) -> bytes:
        """A small file, whole; of `nbytes` where it is known."""
        path = self.path / name
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if self._own else 0))
        except OSError as error:
            raise CheckpointError(f"{name} cannot be opened: {error.strerror}", file=path) from None
        with os.fdopen(file, "rb") as opened:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or (nbytes is None and status.st_size > _MAX_JSON_NBYTES):
                raise CheckpointError(f"{name} is no ordinary file, or too long", file=path)
            if nbytes not in (None, status.st_size):
                raise CheckpointError(
                    f"{name} is not as long as it was written", file=path, expected=nbytes, found=status.st_size
                )
            return opened.read()

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def latest(directory: str | Path, *, good: bool = False) -> Path:
    """The newest complete checkpoint of a folder. `good`: the newest of which every byte is as it was written.

    Raises  CheckpointError if there is none
    """
    why: str | None = None
    for path in checkpoints(directory):
        if not good:
            return path
        try:
            with CheckpointReader(path) as reader:
                reader.verify()
            return path
        except CheckpointError as error:
            why = why or f"{path.name}: {error.message}"
    raise CheckpointError(f"{directory} holds no {'good ' if good else ''}checkpoint", newest=why)


def compare(
    reader: CheckpointReader, expected: Mapping[str, tuple[str | DType, tuple[int, ...]]], *, kind: Kind | None = None
) -> None:
    """Hold a checkpoint's tensors, or those of one kind, against what a graph needs.

    expected  name -> (element type, shape)
    Raises    CheckpointError that lists what is missing, what there is too much, and what has another type or shape
    """
    found = {name: spec for name, spec in reader.tensors.items() if kind in (None, spec.kind)}
    wanted = {name: TensorSpec(_dtype_name(dtype), tuple(shape)) for name, (dtype, shape) in expected.items()}
    missing = [f"{name} {spec}" for name, spec in wanted.items() if name not in found]
    extra = [f"{name} {spec}" for name, spec in found.items() if name not in wanted]
    other = [
        f"{name} is {found[name]}, not {spec}"
        for name, spec in wanted.items()
        if name in found and found[name][:2] != spec[:2]
    ]
    if missing or extra or other:
        raise CheckpointError(
            f"{reader.path} does not fit the graph: "
            f"{len(missing)} tensors are missing, {len(extra)} are not of the graph, {len(other)} differ",
            missing=_some(missing),
            extra=_some(extra),
            differ=_some(other),
        )


def _dtype_name(dtype: str | DType) -> str:
    try:
        return dtype_of(dtype).name
    except DTypeError:
        return str(dtype)


def _decode(path: Path, data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path.name} cannot be read: {error}", file=path) from None


def _check_name(name: str, where: Path) -> None:
    """Raises CheckpointError unless the name can only mean a file in the checkpoint's own folder."""
    if not name.isprintable() or "/" in name or "\\" in name or name.startswith(".") or not name or len(name) > 255:
        raise CheckpointError(f"{name!r} is not the name of a file of a checkpoint", file=where)


def _damaged(path: Path, tensors: Iterable[str] = ()) -> CheckpointError:
    what = f"{path.name} is damaged: its sum is not the one written"
    return CheckpointError(what, file=path, tensors=_some(tensors))


def _some(names: Iterable[str], most: int = 8) -> str | None:
    listed = list(names)
    more = f", and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more if listed else None
