"""What the files of a checkpoint say beside numbers: names, kinds, lengths and sums; checks of names and boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from rainshed.ops.access import Box
from rainshed.ops.errors import CheckpointError, DTypeError, ShapeError
from rainshed.ops.types import dtype_of, fixed, shape_of

Kind = Literal["model", "optim"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
FORMAT: Final = 1
MANIFEST: Final = "manifest.json"


class TensorSpec(NamedTuple):
    """What a checkpoint knows of a tensor. `dtype` is NumPy's name."""

    dtype: str
    shape: tuple[int, ...]
    kind: Kind = "model"

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class FileFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    nbytes: int
    crc32: int
    tensors: Mapping[str, int] = {}  # CRC32 of each, to say which one is damaged


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    step: int
    metadata: Mapping[str, Any]
    files: Mapping[str, FileFacts]


class Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A manifest's bytes and their own CRC32."""

    crc32: int
    manifest: msgspec.Raw


class Index(msgspec.Struct, frozen=True):
    """Which file a tensor is in, as Hugging Face's libraries read and write it."""

    weight_map: Mapping[str, str]
    metadata: Mapping[str, Any] = {}


def index_name(kind: Kind) -> str:
    return f"{kind}.safetensors.index.json"


def spec_of(name: str, given: Sequence[Any]) -> TensorSpec:
    """The spec of a tensor to be written. Raises CheckpointError for what no checkpoint can hold."""
    try:
        dtype, shape, kind = TensorSpec(*given)
        spec = TensorSpec(dtype_of(dtype).name, fixed(shape_of(name, shape)), kind)
    except (DTypeError, ShapeError) as error:
        raise CheckpointError(f"{name} cannot be kept in a checkpoint: {error.message}") from None
    if kind not in KINDS or not name or name == "__metadata__":
        raise CheckpointError(f"{name!r} of kind {kind!r} cannot be kept in a checkpoint", kinds=", ".join(KINDS))
    return spec


def check_box(name: str, spec: TensorSpec, box: Box) -> None:
    """Raises CheckpointError unless the box lies within the tensor."""
    fits = len(box) == len(spec.shape)
    if not fits or any(not 0 <= low <= high <= n for (low, high), n in zip(box, spec.shape, strict=True)):
        raise CheckpointError(f"{name}{box_text(box)} does not lie in {name}", shape=spec)


def box_text(box: Box) -> str:
    return "[" + ", ".join(f"{low}:{high}" for low, high in box) + "]"
