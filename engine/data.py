"""What a user trains on: NumPy arrays, files of them, or any stream of examples, cut into shards and shuffled batches.

Everything is a function of the data, the seed and the number of the step: every machine that asks for batch 17 of
shard 2 gets the same examples, whatever ran before and on whatever version of NumPy.
"""

from __future__ import annotations

import itertools
import math
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rainshed.ops.errors import DataError

Array = NDArray[np.generic]
Batch = dict[str, Array]
Box = tuple[tuple[int, int], ...]
Example = Mapping[str, ArrayLike]

SHUFFLE_BUFFER = 4096  # examples of a stream that wait to be drawn
_LOTS = 0x5EED  # a seed of its own: another training seed must not move an example to another replica
_NO_INDEX = "a stream of examples has no index"
_HAVE_INDEX = "arrays, .npz files and folders of .npy files have one"


class Field(NamedTuple):
    """One field of an example: its element type and its shape without the batch axis."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype.name}{list(self.shape)}"


class Data(ABC):
    """Examples, each a value for every field."""

    fields: Mapping[str, Field]
    count: int | None  # None for a stream, which has no known end

    @staticmethod
    def of(
        source: Data | str | Path | Mapping[str, ArrayLike] | Iterable[Example] | Callable[[], Iterable[Example]],
        *,
        finite: bool = False,
        shuffle_buffer: int = SHUFFLE_BUFFER,
    ) -> Data:
        """The data that `source` holds.

        source  a dict of arrays, examples along the first axis; the path of an .npz file, or of a folder with one
                .npy file for each field, memory-mapped unless compressed; an iterable of dicts, one for each
                example; a function without arguments that gives such an iterable anew for each epoch; or Data,
                which is given back
        finite  look for NaN and infinity in every batch
        shuffle_buffer  how many examples of a stream are held back to be shuffled
        Raises  DataError naming the field, what was expected and what was found
        """
        if isinstance(source, Data):
            return source
        if isinstance(source, str | Path):
            return ArrayData(_read(Path(source)), finite=finite)
        if isinstance(source, Mapping):
            return ArrayData({name: _as_array(name, value) for name, value in source.items()}, finite=finite)
        if isinstance(source, Iterator):
            return StreamData(_Once(source), finite=finite, buffer=shuffle_buffer)
        if isinstance(source, Iterable):
            return StreamData(source.__iter__, finite=finite, buffer=shuffle_buffer)
        if callable(source):
            return StreamData(source, finite=finite, buffer=shuffle_buffer)
        raise DataError(
            f"{type(source).__name__} is not data",
            expected="a dict of arrays, the path of an .npz file or a folder of .npy files, or an iterable of dicts",
        )

    @abstractmethod
    def shard(self, index: int, of: int) -> Data:
        """One of `of` parts whose sizes differ by one at most.

        Of each `of` examples in a row every shard gets one, by lot, so that sorted or periodic data is spread evenly.
        The lot is the same for everyone in every run.
        """

    @abstractmethod
    def require(self, inputs: Mapping[str, Field]) -> Data:
        """The same examples with just these fields, in these element types.

        A number may become a wider or narrower one of its kind, and a whole number a float; a whole number that does
        not fit its new type raises when it is met.
        """

    @abstractmethod
    def batches(
        self, batch: int, seed: int, start: int = 0, epochs: int | None = None, drop_last: bool = True
    ) -> Iterator[Batch]:
        """Shuffled batches from number `start` on, for `epochs` passes counted from number 0, or without end.

        Shapes  each field: [batch, *shape]; with drop_last=False the last of an epoch may be shorter
        """

    @abstractmethod
    def batch_indices(self, batch: int, seed: int, step: int) -> NDArray[np.int64]:
        """Which examples are in full batch number `step`: int64[batch]; depends on nothing but these and `count`."""

    @abstractmethod
    def take(self, indices: NDArray[np.integer], name: str, box: Box | None = None) -> Array:
        """Field `name` of these examples; of that array only `box`, an interval per axis, the batch axis first."""


class ArrayData(Data):
    """Data in arrays, in memory or mapped from files."""

    def __init__(
        self, arrays: Mapping[str, Array], *, finite: bool = False, rows: NDArray[np.int64] | None = None
    ) -> None:
        if not arrays:
            raise DataError("the data has no fields", expected="at least one array")
        for name, array in arrays.items():
            _check_type(name, array.dtype)
            if array.ndim == 0:
                raise DataError(f"field {name} is a single number", expected="an array with one row for each example")
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise DataError("the fields differ in their number of examples", found=found)
        self._arrays = dict(arrays)
        self._rows = rows
        self._finite = finite
        self.fields = {name: Field(a.dtype.newbyteorder("="), a.shape[1:]) for name, a in arrays.items()}
        self.count: int = next(iter(lengths.values())) if rows is None else len(rows)
        self._order = _Order(self.count)

    def shard(self, index: int, of: int) -> ArrayData:
        _check_shard(index, of)
        if self.count < of:
            raise DataError(f"{self.count} examples cannot be divided into {of} shards", expected="an example for each")
        mine = _lots(self.count, index, of)
        return self._with(self.fields, mine if self._rows is None else self._rows[mine])

    def require(self, inputs: Mapping[str, Field]) -> ArrayData:
        return self._with(_required(self.fields, inputs), self._rows)

    def batches(
        self, batch: int, seed: int, start: int = 0, epochs: int | None = None, drop_last: bool = True
    ) -> Iterator[Batch]:
        per_epoch = self.batches_per_epoch(batch, drop_last)
        _check_from("start", start, 0)
        steps = itertools.count(start) if epochs is None else range(start, per_epoch * epochs)
        return (self._batch(self._indices(batch, seed, step, per_epoch)) for step in steps)

    def batches_per_epoch(self, batch: int, drop_last: bool = True) -> int:
        _check_from("batch", batch, 1)
        number = self.count // batch if drop_last else -(-self.count // batch)
        if number == 0:
            raise DataError(f"a batch of {batch} cannot be filled", found=f"{self.count} examples in this shard")
        return number

    def batch_indices(self, batch: int, seed: int, step: int) -> NDArray[np.int64]:
        _check_from("step", step, 0)
        return self._indices(batch, seed, step, self.batches_per_epoch(batch))

    def take(self, indices: NDArray[np.integer], name: str, box: Box | None = None) -> Array:
        if name not in self.fields:
            raise DataError(f"the data has no field {name}", found=_listed(self.fields))
        field, array = self.fields[name], self._arrays[name]
        if box is not None:
            _check_box(name, box, (len(indices), *field.shape))
            indices = indices[slice(*box[0])]
            array = array[(slice(None), *(slice(*interval) for interval in box[1:]))]
        if len(indices) and not (indices.min() >= 0 and indices.max() < self.count):
            asked = f"{indices.min()} to {indices.max()}"
            raise DataError(f"field {name}: there are no examples {asked}", found=f"{self.count} examples")
        rows = indices if self._rows is None else self._rows[indices]
        taken = _cast(name, np.ascontiguousarray(array[rows]), field.dtype)
        if self._finite:
            _check_finite(name, taken, rows)
        return taken

    def _with(self, fields: Mapping[str, Field], rows: NDArray[np.int64] | None) -> ArrayData:
        other = ArrayData({name: self._arrays[name] for name in fields}, finite=self._finite, rows=rows)
        other.fields = dict(fields)
        return other

    def _indices(self, batch: int, seed: int, step: int, per_epoch: int) -> NDArray[np.int64]:
        epoch, number = divmod(step, per_epoch)
        return self._order.of(seed, epoch)[number * batch : (number + 1) * batch]

    def _batch(self, indices: NDArray[np.int64]) -> Batch:
        return {name: self.take(indices, name) for name in self.fields}


class StreamData(Data):
    """Data that comes one example after the other and has no index."""

    def __init__(
        self,
        opener: Callable[[], Iterable[Example]],
        *,
        finite: bool = False,
        buffer: int = SHUFFLE_BUFFER,
        fields: Mapping[str, Field] | None = None,
    ) -> None:
        _check_from("shuffle_buffer", buffer, 1)
        self._open = opener
        self._finite = finite
        self._buffer = buffer
        self.fields = self._peek() if fields is None else dict(fields)
        self.count = None

    def shard(self, index: int, of: int) -> StreamData:
        _check_shard(index, of)

        def dealt() -> Iterator[Example]:
            lots, mine = np.random.PCG64(_LOTS), index
            for number, example in enumerate(self._open()):
                if number % of == 0:
                    mine = int(np.argsort(lots.random_raw(of), kind="stable")[index])
                if number % of == mine:
                    yield example

        return StreamData(dealt, finite=self._finite, buffer=self._buffer, fields=self.fields)

    def require(self, inputs: Mapping[str, Field]) -> StreamData:
        fields = _required(self.fields, inputs)
        return StreamData(self._open, finite=self._finite, buffer=self._buffer, fields=fields)

    def batches(
        self, batch: int, seed: int, start: int = 0, epochs: int | None = None, drop_last: bool = True
    ) -> Iterator[Batch]:
        """As `Data.batches`. The stream is read from its beginning whatever `start` is: skipping costs reading."""
        _check_from("batch", batch, 1)
        _check_from("start", start, 0)
        return itertools.islice(self._batches(batch, seed, epochs, drop_last), start, None)

    def batch_indices(self, batch: int, seed: int, step: int) -> NDArray[np.int64]:
        raise DataError(_NO_INDEX, hint=_HAVE_INDEX)

    def take(self, indices: NDArray[np.integer], name: str, box: Box | None = None) -> Array:
        raise DataError(_NO_INDEX, hint=_HAVE_INDEX)

    def _batches(self, batch: int, seed: int, epochs: int | None, drop_last: bool) -> Iterator[Batch]:
        for epoch in itertools.count() if epochs is None else range(epochs):
            shuffled = _shuffled(self._examples(), self._buffer, _bits(seed, epoch))
            full = False
            while chunk := list(itertools.islice(shuffled, batch)):
                if len(chunk) == batch or not drop_last:
                    full = True
                    yield {name: np.stack([example[name] for example in chunk]) for name in self.fields}
            if not full:
                raise DataError(f"a batch of {batch} cannot be filled", found="fewer examples in the stream")

    def _examples(self) -> Iterator[Batch]:
        for number, example in enumerate(self._open()):
            yield {name: self._value(number, example, name, field) for name, field in self.fields.items()}

    def _value(self, number: int, example: Example, name: str, field: Field) -> Array:
        if not isinstance(example, Mapping) or name not in example:
            found = _listed(example) if isinstance(example, Mapping) else type(example).__name__
            raise DataError(f"example {number} has no field {name}", found=found)
        value = _as_array(name, example[name])
        _check_type(name, value.dtype)
        if value.shape != field.shape or not np.can_cast(value.dtype, field.dtype, "same_kind"):
            raise DataError(
                f"example {number} differs in field {name}", expected=field, found=Field(value.dtype, value.shape)
            )
        value = _cast(name, value, field.dtype)
        if self._finite:
            _check_finite(name, value[np.newaxis], np.array([number]))
        # The user may fill the same array again for the next example while this one waits in the buffer.
        return value.copy()

    def _peek(self) -> dict[str, Field]:
        examples = iter(self._open())
        first = next(examples, None)
        if first is None:
            raise DataError("the stream gives no example")
        if not isinstance(first, Mapping) or not first:
            raise DataError("an example of a stream is a dict of fields", found=type(first).__name__)
        if isinstance(self._open, _Once):
            self._open = _Once(itertools.chain([first], examples))
        values = {name: _as_array(name, value) for name, value in first.items()}
        for name, value in values.items():
            _check_type(name, value.dtype)
        return {name: Field(value.dtype.newbyteorder("="), value.shape) for name, value in values.items()}


class _Once:
    """An iterator behind the interface of a function that gives one: the second call is refused."""

    def __init__(self, examples: Iterator[Example]) -> None:
        self._examples: Iterator[Example] | None = examples

    def __call__(self) -> Iterator[Example]:
        if self._examples is None:
            raise DataError("an iterator can be read only once", hint="hand in a function that gives one per epoch")
        examples, self._examples = self._examples, None
        return examples


class _Order:
    """The order of the examples in each epoch. The last one is kept: consecutive steps ask for the same."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._last: tuple[int, int, NDArray[np.int64]] | None = None

    def of(self, seed: int, epoch: int) -> NDArray[np.int64]:
        last = self._last  # one read: another thread may replace it
        if last is None or last[:2] != (seed, epoch):
            last = (seed, epoch, np.argsort(_bits(seed, epoch).random_raw(self._count), kind="stable").astype(np.int64))
            last[2].flags.writeable = False
            self._last = last
        return last[2]


def _bits(seed: int, epoch: int) -> np.random.PCG64:
    """Raw bits, whose stream NumPy promises to keep; it does not promise that of `permutation`."""
    return np.random.PCG64(np.random.SeedSequence(seed % 2**64, spawn_key=(epoch,)))


def _lots(count: int, index: int, of: int) -> NDArray[np.int64]:
    blocks = -(-count // of)
    lots = np.random.PCG64(_LOTS).random_raw(blocks * of).reshape(blocks, of)
    rows = np.arange(blocks) * of + np.argsort(lots, axis=1, kind="stable")[:, index]
    return rows[rows < count].astype(np.int64)


def _shuffled(examples: Iterator[Batch], size: int, bits: np.random.PCG64) -> Iterator[Batch]:
    buffer = list(itertools.islice(examples, size))
    for example in examples:
        place = bits.random_raw() % size
        yield buffer[place]
        buffer[place] = example
    for place in np.argsort(bits.random_raw(len(buffer)), kind="stable"):
        yield buffer[place]


def _read(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file or of a folder of .npy files, mapped where they are stored uncompressed."""
    if not path.exists():
        raise DataError(f"there is no {path}")
    try:
        if path.is_dir():
            return {file.stem: _plain(np.load(file, "r", allow_pickle=False)) for file in sorted(path.glob("*.npy"))}
        if path.suffix != ".npz":
            raise DataError(f"{path} is not data", expected="an .npz file or a folder of .npy files")
        with zipfile.ZipFile(path) as members, path.open("rb") as file, np.load(path, allow_pickle=False) as loaded:
            stored = {member.filename.removesuffix(".npy"): member for member in members.infolist()}
            return {name: _map(path, file, stored[name], loaded) for name in loaded.files}
    except (OSError, ValueError, EOFError, struct.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read", found=str(error).split("\n")[0]) from error


def _map(path: Path, file: BinaryIO, member: zipfile.ZipInfo, loaded: Mapping[str, Array]) -> Array:
    """One array of an .npz file: mapped if stored without compression, else read."""
    name = member.filename.removesuffix(".npy")
    if not member.filename.endswith(".npy"):
        raise ValueError(f"{member.filename} is not an array")
    if member.compress_type != zipfile.ZIP_STORED:
        return loaded[name]
    file.seek(member.header_offset)
    name_nbytes, extra_nbytes = struct.unpack("<26x2H", file.read(30))
    begin = member.header_offset + 30 + name_nbytes + extra_nbytes
    file.seek(begin)
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = header(file)
    _check_type(name, dtype)
    nbytes = dtype.itemsize * math.prod(shape)
    if file.tell() + nbytes > begin + member.file_size:
        raise ValueError(f"{member.filename} is shorter than its header says")
    if nbytes == 0:
        return np.empty(shape, dtype)
    order: Literal["C", "F"] = "F" if fortran_order else "C"
    return _plain(np.memmap(path, dtype, "r", file.tell(), shape, order))


def _plain(array: Array) -> Array:
    """The same memory without NumPy's memmap class, so that what is taken from it is an ordinary array."""
    return array.view(np.ndarray)


def _as_array(name: str, value: ArrayLike) -> Array:
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"field {name} is not an array", found=str(error)) from error


def _check_type(name: str, dtype: np.dtype[np.generic]) -> None:
    if dtype.kind not in "biuf":
        raise DataError(f"field {name} does not hold numbers", expected="bool, integer or float", found=dtype)


def _required(fields: Mapping[str, Field], inputs: Mapping[str, Field]) -> dict[str, Field]:
    for name, (dtype, shape) in inputs.items():
        if name not in fields:
            expected = Field(np.dtype(dtype), tuple(shape))
            raise DataError(f"the data has no field {name}", expected=expected, found=_listed(fields))
        if tuple(shape) != fields[name].shape or not np.can_cast(fields[name].dtype, dtype, "same_kind"):
            expected = Field(np.dtype(dtype), tuple(shape))
            raise DataError(f"field {name} does not fit the input", expected=expected, found=fields[name])
    return {name: Field(np.dtype(dtype), tuple(shape)) for name, (dtype, shape) in inputs.items()}


def _cast(name: str, values: Array, dtype: np.dtype[np.generic]) -> Array:
    if values.dtype == dtype:
        return values
    if dtype.kind in "iu" and not np.can_cast(values.dtype, dtype) and values.size:
        low, high = int(values.min()), int(values.max())
        limits = np.iinfo(dtype.name)
        if low < limits.min or high > limits.max:
            raise DataError(f"field {name} holds numbers that {dtype} does not", found=f"{low} to {high}")
    return values.astype(dtype)


def _check_finite(name: str, values: Array, rows: NDArray[np.integer]) -> None:
    if values.dtype.kind != "f" or not values.size:
        return
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    if len(bad):
        raise DataError(f"field {name} holds NaN or infinity", found=f"example {rows[bad[0]]}")


def _check_box(name: str, box: Box, shape: tuple[int, ...]) -> None:
    if len(box) != len(shape) or any(not 0 <= low <= high <= n for (low, high), n in zip(box, shape, strict=True)):
        raise DataError(f"field {name}: the box does not lie in the batch", expected=f"inside {list(shape)}", found=box)


def _check_shard(index: int, of: int) -> None:
    if not 0 <= index < of:
        raise DataError(f"there is no shard {index} of {of}", expected="an index from 0, below the number of shards")


def _check_from(name: str, value: int, least: int) -> None:
    if value < least:
        raise DataError(f"{name} is {value}", expected=f"at least {least}")


def _listed(fields: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {it}" if isinstance(it, Field) else name for name, it in fields.items()) or "none"
