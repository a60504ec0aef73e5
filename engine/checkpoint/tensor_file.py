"""One safetensors file: its layout known before its values are, mapped into memory, written and read box by box.

    u64 length of the header, the header as JSON {name: {dtype, shape, data_offsets}}, the tensors' bytes without gaps

Nobody needs to hold a tensor whole: a box is copied between the caller's array and the file, and its pages are let go.

Source  https://huggingface.co/docs/safetensors, "Format"
"""

from __future__ import annotations

import mmap
import os
import stat
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import numpy as np

from rainshed.ops.access import Box
from rainshed.ops.errors import CheckpointError

Array = np.ndarray[Any, Any]
Form = tuple[str, tuple[int, ...]]  # NumPy's name of the element type, and the shape

MAX_HEADER_NBYTES: Final = 100_000_000  # the limit of the format's own reader
_METADATA: Final = "__metadata__"
_CHUNK_NBYTES: Final = 1 << 22
_NUMPY: Final[Mapping[str, str]] = {
    "F64": "float64", "I64": "int64", "U64": "uint64", "F32": "float32", "I32": "int32", "U32": "uint32",
    "F16": "float16", "I16": "int16", "U16": "uint16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_ITEMSIZE: Final[Mapping[str, int]] = {
    **{name: np.dtype(numpy).itemsize for name, numpy in _NUMPY.items()},
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
_SHORT: Final[Mapping[str, str]] = {numpy: name for name, numpy in _NUMPY.items()}


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor in a file: `data_offsets` count from the end of the header."""

    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]

    @property
    def numpy(self) -> str:
        """NumPy's name of the element type; for one that NumPy lacks, such as BF16, the file's own in small letters."""
        return _NUMPY.get(self.dtype, self.dtype.lower())


def nbytes_of(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor; `dtype` is NumPy's name. Raises CheckpointError for a type that no file can hold."""
    if dtype not in _SHORT:
        raise CheckpointError(f"{dtype} cannot be kept in a safetensors file", known=", ".join(_SHORT))
    return prod(shape) * np.dtype(dtype).itemsize


def share_out(tensors: Mapping[str, Form], max_nbytes: int) -> list[dict[str, Form]]:
    """The tensors in groups of at most `max_nbytes` each, in their order; a larger tensor has a group of its own."""
    groups: list[dict[str, Form]] = []
    filled = 0
    for name, (dtype, shape) in tensors.items():
        nbytes = nbytes_of(dtype, shape)
        if not groups or filled + nbytes > max_nbytes:
            groups.append({})
            filled = 0
        groups[-1][name] = dtype, shape
        filled += nbytes
    return groups


class TensorFile:
    """A safetensors file, mapped. Any number of threads may write and read boxes at once."""

    def __init__(self, path: Path, file: int, start: int, entries: Mapping[str, Entry], *, write: bool) -> None:
        self.path = path
        self.entries = entries
        self._file = file
        self._start = start
        self.nbytes = os.fstat(file).st_size
        self._map = mmap.mmap(file, self.nbytes, access=mmap.ACCESS_WRITE if write else mmap.ACCESS_READ)

    @classmethod
    def create(cls, path: Path, tensors: Mapping[str, Form]) -> Self:
        """A new file with room for these tensors, all zero. Raises OSError where the disk has no room: never later."""
        head, entries = _layout(tensors)
        nbytes = len(head) + max((e.data_offsets[1] for e in entries.values()), default=0)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            _reserve(file, nbytes)
            made = cls(path, file, len(head), entries, write=True)
        except BaseException:
            os.close(file)
            raise
        made._map[: len(head)] = head
        return made

    @classmethod
    def open(cls, path: Path, *, follow: bool = False) -> Self:
        """A file to read, its header checked. `follow`: the file may be a symbolic link.

        Raises  CheckpointError naming the file, and the tensor where one is at fault
        """
        try:
            # A pipe in the file's place must not make the reader wait.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
            file = os.open(path, flags)
        except OSError as error:
            raise CheckpointError(f"{path.name} cannot be opened: {error.strerror}", file=path) from None
        try:
            return cls(path, file, *_read_header(path, file), write=False)
        except BaseException:
            os.close(file)
            raise

    def write(self, name: str, box: Box, array: Array) -> None:
        """Put an array into its place. The caller has checked name, box and type."""
        self._view(name)[_slices(box)] = array
        self._let_go()

    def read(self, name: str, box: Box) -> Array:
        """A copy of a box. Raises CheckpointError for an element type that NumPy lacks."""
        entry = self.entries[name]
        if entry.dtype not in _NUMPY:
            raise CheckpointError(f"{name} has elements of type {entry.dtype}, which NumPy lacks", file=self.path)
        found = self._view(name)[_slices(box)]
        # Of a bool's byte only 0 and 1 would be a bool of NumPy's.
        copy = np.array(found != 0) if entry.dtype == "BOOL" else np.array(found, entry.numpy, order="C")
        self._let_go()
        return copy

    def _view(self, name: str) -> Array:
        entry = self.entries[name]
        dtype = np.dtype("uint8" if entry.dtype == "BOOL" else entry.numpy).newbyteorder("<")
        return np.ndarray(entry.shape, dtype, self._map, self._start + entry.data_offsets[0])

    def _let_go(self) -> None:
        """Take the file's pages out of this process; what was written stays in the file."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def sync(self) -> None:
        """Return when the disk has it all."""
        self._map.flush()
        os.fsync(self._file)

    def checksums(self) -> tuple[int, dict[str, int]]:
        """CRC32 of the whole file, and of each tensor."""
        order = sorted(self.entries.items(), key=lambda item: item[1].data_offsets)
        whole = _crc(self._file, 0, self._start, 0)[0]
        each: dict[str, int] = {}
        for name, entry in order:
            low, high = (self._start + offset for offset in entry.data_offsets)
            whole, each[name] = _crc(self._file, low, high, whole)
        return whole, each

    def close(self) -> None:
        if not self._map.closed:
            self._map.close()
            os.close(self._file)


def file_crc(path: Path) -> tuple[int, int]:
    """Length and CRC32 of a file, read in pieces."""
    with path.open("rb") as file:
        nbytes = os.fstat(file.fileno()).st_size
        return nbytes, _crc(file.fileno(), 0, nbytes, 0)[0]


def _crc(file: int, low: int, high: int, whole: int) -> tuple[int, int]:
    """CRC32 of bytes [low, high): going on from `whole`, and of these alone."""
    alone = 0
    for chunk in _chunks(file, low, high):
        whole, alone = zlib.crc32(chunk, whole), zlib.crc32(chunk, alone)
    return whole, alone


def _chunks(file: int, low: int, high: int) -> Iterator[bytes]:
    while low < high:
        chunk = os.pread(file, min(_CHUNK_NBYTES, high - low), low)
        if not chunk:
            return  # the file has become shorter: the sum will tell
        low += len(chunk)
        yield chunk


def _slices(box: Box) -> tuple[Any, ...]:
    return ..., *(slice(low, high) for low, high in box)  # the dots: of a scalar too an array, not a number


def _layout(tensors: Mapping[str, Form]) -> tuple[bytes, dict[str, Entry]]:
    """The header's bytes and the entries. Wide elements come first, so that every tensor is aligned."""
    entries: dict[str, Entry] = {}
    end = 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (-np.dtype(item[1][0]).itemsize, item[0])):
        begin, end = end, end + nbytes_of(dtype, shape)
        entries[name] = Entry(_SHORT[dtype], tuple(shape), (begin, end))
    text = msgspec.json.encode({_METADATA: {"format": "pt"}, **entries})  # some readers insist on a format
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, entries


def _reserve(file: int, nbytes: int) -> None:
    """Make the file so long, its blocks its own: a full disk is an error here, not a signal when a page is written."""
    if sys.platform == "linux":
        os.posix_fallocate(file, 0, nbytes)
    else:
        left = nbytes
        while left > 0:
            left -= os.write(file, bytes(min(left, _CHUNK_NBYTES)))


def _read_header(path: Path, file: int) -> tuple[int, dict[str, Entry]]:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path.name} is no ordinary file", file=path)
    length = int.from_bytes(os.pread(file, 8, 0), "little")
    if status.st_size < 8 or length > min(MAX_HEADER_NBYTES, status.st_size - 8):
        raise CheckpointError(
            f"{path.name} is cut off or no safetensors file", file=path, nbytes=status.st_size, header=f"{length} bytes"
        )
    try:
        rows = msgspec.json.decode(os.pread(file, length, 8), type=dict[str, msgspec.Raw])
        rows.pop(_METADATA, None)
        entries = {name: msgspec.json.decode(row, type=Entry) for name, row in rows.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path.name} has no safetensors header: {error}", file=path) from None
    _check_entries(path, entries, status.st_size - 8 - length)
    return 8 + length, entries


def _possible(shape: tuple[int, ...], itemsize: int) -> bool:
    """Whether NumPy could make an array of this shape."""
    return len(shape) <= 32 and min(shape, default=0) >= 0 and prod(n for n in shape if n) * itemsize < 2**62


def _check_entries(path: Path, entries: Mapping[str, Entry], nbytes: int) -> None:
    """Raises CheckpointError unless the tensors fill the file exactly, one behind the other."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        size = _ITEMSIZE.get(entry.dtype)
        if size is None or not _possible(entry.shape, size):
            raise CheckpointError(f"{name} cannot be {entry.dtype}{list(entry.shape)}", file=path)
        begin, due = end, prod(entry.shape) * size
        end = begin + due
        if entry.data_offsets != (begin, end):
            raise CheckpointError(
                f"{name} is not where it should be in {path.name}",
                file=path,
                expected=f"bytes {begin} to {end}",
                found=f"bytes {entry.data_offsets[0]} to {entry.data_offsets[1]}",
            )
        if end > nbytes:
            raise CheckpointError(
                f"{path.name} is cut off in {name}", file=path, expected=f"{end} bytes of data", found=nbytes
            )
    if end != nbytes:
        raise CheckpointError(f"{path.name} has {nbytes} bytes of data for tensors of {end}", file=path)
