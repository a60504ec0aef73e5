"""Types of values: element type and shape, known before anything runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module

import msgspec
import numpy as np

from rainshed.ops.errors import DTypeError, ShapeError


class DType(msgspec.Struct, frozen=True, cache_hash=True):
    """One of the six element types. `str` gives the short name that printed graphs use."""

    name: str
    short: str
    kind: str  # "float", "int" or "bool"
    itemsize: int

    def __str__(self) -> str:
        return self.short

    def __repr__(self) -> str:
        return f"rainshed.{self.name}"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        return numpy_dtype(self.name)


@lru_cache(maxsize=1)
def _numpy_bfloat16() -> np.dtype[np.generic]:
    """The type that ml_dtypes adds to NumPy, loaded when it is first needed."""
    found: np.dtype[np.generic] = np.dtype(import_module("ml_dtypes").bfloat16)
    return found


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """NumPy's type of a name, which may be "bfloat16". Raises TypeError as NumPy does."""
    return _numpy_bfloat16() if name == "bfloat16" else np.dtype(name)


float32 = DType("float32", "f32", "float", 4)
float64 = DType("float64", "f64", "float", 8)
bfloat16 = DType("bfloat16", "bf16", "float", 2)  # the upper half of a float32; only some ops take it (Op.kinds)
int32 = DType("int32", "i32", "int", 4)
int64 = DType("int64", "i64", "int", 8)
bool_ = DType("bool", "bool", "bool", 1)

DTYPES = (float32, float64, bfloat16, int32, int64, bool_)
_BY_NAME = {name: d for d in DTYPES for name in (d.name, d.short)}
_BY_NUMPY = {np.dtype(d.name): d for d in DTYPES if d is not bfloat16}  # NumPy takes long to name a type


def dtype_of(value: object) -> DType:
    """The DType named by a DType, a NumPy dtype or scalar type, or a name such as "float32" or "f32"."""
    if isinstance(value, DType):
        return value
    if isinstance(value, str) and value in _BY_NAME:
        return _BY_NAME[value]
    if isinstance(value, np.dtype) and value in _BY_NUMPY:
        return _BY_NUMPY[value]
    try:
        if value is None or isinstance(value, str):  # NumPy takes None for float64, and many other texts
            raise TypeError
        return _BY_NAME[np.dtype(value).name]  # type: ignore[call-overload]
    except (KeyError, TypeError, ValueError, SyntaxError):
        names = ", ".join(d.name for d in DTYPES)
        raise DTypeError(f"{value!r} is not an element type of Rainshed", known=names) from None


def as_fed(array: np.ndarray, dtype: DType) -> np.ndarray:
    """What is fed to an input of this type: a float32 array is rounded to nearest for one of bfloat16; bytes are put in the
    order of this processor, which those of files may lack; others as they are."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if dtype is not bfloat16 or array.dtype != np.float32:
        return array
    with np.errstate(all="ignore"):  # what is no number stays none: no warning
        return array.astype(dtype.numpy)


def promote(op: str, *dtypes: DType) -> DType:
    """The common element type, by the Array API standard: within floats, or within ints; never between kinds."""
    kinds = {d.kind for d in dtypes}
    if len(kinds) > 1:
        given = ", ".join(str(d) for d in dtypes)
        raise DTypeError(f"{op}: {given} have no common type", hint="convert one of them with astype(x, dtype)")
    return max(dtypes, key=lambda d: d.itemsize)


def sum_type(op: str, *dtypes: DType) -> DType:
    """The type in which products of values of these types are added up: their common type, float32 for bfloat16."""
    found = promote(op, *dtypes)
    return float32 if found is bfloat16 else found


@dataclass(frozen=True, slots=True)
class Batch:
    """`times` x B: an axis whose length is not known before `graph.bind(batch=...)`."""

    times: int = 1

    def __mul__(self, other: int) -> Batch:
        if not isinstance(other, int):
            raise ShapeError(
                "the batch axis B is used twice in one size", hint="bind the batch first: graph.bind(batch=...)"
            )
        return Batch(self.times * other)

    __rmul__ = __mul__

    def __str__(self) -> str:
        return "B" if self.times == 1 else f"{self.times}B"

    __repr__ = __str__


Dim = int | Batch
Shape = tuple[Dim, ...]


def size_of(shape: Shape) -> Dim:
    """Number of elements. Raises ShapeError where B occurs twice."""
    total: Dim = 1
    for dim in shape:
        total = dim * total if isinstance(total, int) else total * dim  # type: ignore[operator]  # B * B raises
    return total


def fixed(shape: Shape) -> tuple[int, ...]:
    """The shape, all of it known. Raises ShapeError where it still has B."""
    if Batch in map(type, shape):
        raise ShapeError(f"shape {shape_text(shape)} still has the batch axis B", hint="graph.bind(batch=...) first")
    return shape  # type: ignore[return-value]


def whole_of(value: object) -> int | None:
    """The whole number that is meant, one of NumPy's too; None for anything else, and for True and False."""
    return int(value) if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else None


def number_of(value: object) -> float | None:
    """The finite number that is meant, one of NumPy's too; None for anything else, and for True and False."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def shape_of(op: str, value: object) -> Shape:
    """The shape meant by one size or a sequence of them; None is the batch axis. Raises ShapeError for anything else."""
    items = value if isinstance(value, (tuple, list)) else (value,)
    dims: list[Dim] = []
    for dim in items:
        if dim is None or isinstance(dim, Batch):
            dims.append(dim or Batch())
        elif (size := whole_of(dim)) is not None and size >= 0:
            dims.append(size)
        else:
            raise ShapeError(f"{op}: a size is a whole number, or None for the batch axis; found {dim!r}")
    return tuple(dims)


def ints_of(op: str, name: str, value: object, count: int) -> tuple[int, ...]:
    """The `count` whole numbers that the attribute `name` must hold. Raises ShapeError for anything else."""
    if not isinstance(value, (tuple, list)) or len(value) != count:
        raise ShapeError(f"{op}: {name} must hold {count} whole numbers; found {value!r}")
    found = [whole_of(item) for item in value]
    if None in found:
        raise ShapeError(f"{op}: {name} must hold whole numbers; found {value[found.index(None)]!r}")
    return tuple(n for n in found if n is not None)


def shape_text(shape: Shape) -> str:
    return "[" + ", ".join(str(d) for d in shape) + "]"


class TensorType(msgspec.Struct, frozen=True):
    dtype: DType
    shape: Shape

    def __str__(self) -> str:
        return f"{self.dtype}{shape_text(self.shape)}"

    @property
    def size(self) -> int:
        return math.prod(fixed(self.shape))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


class TupleType(msgspec.Struct, frozen=True):
    """The type of an op with several results; `pick(node, i)` takes one of them."""

    items: tuple[TensorType, ...]

    def __str__(self) -> str:
        return "(" + ", ".join(str(t) for t in self.items) + ")"

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.items)


Type = TensorType | TupleType


def tensor(type: Type) -> TensorType:
    """The type as that of one tensor. Raises DTypeError for a tuple, which must be picked from first."""
    if isinstance(type, TupleType):
        raise DTypeError(f"{type} is a tuple of values", hint="take one with pick(node, i)")
    return type


def broadcast(op: str, *shapes: Shape) -> Shape:
    """The common shape by NumPy's broadcasting rules; B only meets B or 1."""
    if len(set(shapes)) == 1:
        return shapes[0]
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dim] = []
    for axis in range(-rank, 0):
        dims = {s[axis] for s in shapes if len(s) >= -axis} - {1}
        if len(dims) > 1:
            given = " and ".join(shape_text(s) for s in shapes)
            raise ShapeError(
                f"{op}: shapes {given} do not broadcast: axis {axis} is {' and '.join(sorted(map(str, dims)))}"
            )
        out.append(dims.pop() if dims else 1)
    return tuple(out)
