"""A document: a typed struct and some arrays, as the payload of one frame.

    u32 length of the JSON, JSON of {"body": the struct, "arrays": [[dtype, shape], ...]}, padding to 64,
    the arrays' bytes, each padded

Lengths are checked against the frame before an array is made; nothing is unpickled.
"""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from rainshed.ops.errors import ProtocolError
from rainshed.ops.types import DTYPES, numpy_dtype
from rainshed.runtime.wire import Buffer, array_payload

_ALIGN: Final = 64
_LENGTH: Final = struct.Struct("<I")
_DTYPES: Final = frozenset([*(d.name for d in DTYPES), "uint8"])

T = TypeVar("T")


class _Arrays(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    body: msgspec.Raw
    arrays: tuple[tuple[str, tuple[int, ...]], ...] = ()


_head: Final = msgspec.json.Decoder(_Arrays)
_decoders: Final[dict[type, msgspec.json.Decoder[Any]]] = {}
_making: Final = threading.Lock()


def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """msgspec learns a type when it first meets it, and two threads that are first at once end the process (msgspec 0.22): so
    they take turns."""
    with _making:
        if kind not in _decoders:
            _decoders[kind] = msgspec.json.Decoder(kind)
        return _decoders[kind]


def pack(body: Any, arrays: Sequence[np.ndarray] = ()) -> list[Buffer]:
    """The payload of a document; arrays are not copied if they are contiguous."""
    arrays = [np.ascontiguousarray(a).reshape(a.shape) for a in arrays]
    head = msgspec.json.encode(
        _Arrays(msgspec.Raw(msgspec.json.encode(body)), tuple((a.dtype.name, a.shape) for a in arrays))
    )
    pad = -(len(head) + _LENGTH.size) % _ALIGN
    parts: list[Buffer] = [_LENGTH.pack(len(head)) + head + bytes(pad)]
    for a in arrays:
        if a.nbytes:
            parts.append(array_payload(a))
        if a.nbytes % _ALIGN:
            parts.append(bytes(-a.nbytes % _ALIGN))
    return parts


def unpack(payload: memoryview, kind: type[T]) -> tuple[T, list[np.ndarray]]:
    """The struct and the arrays, which are views of the payload. Raises ProtocolError, whatever the bytes."""
    try:
        (length,) = _LENGTH.unpack_from(payload)
        start = _LENGTH.size + length
        if start > len(payload):
            raise ProtocolError(f"a document's head of {length} bytes in a payload of {len(payload)}")
        head = _head.decode(payload[_LENGTH.size : start])
        body = _decoder(kind).decode(head.body)
    except (struct.error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"this is no document of the kind {kind.__name__}: {error}") from None
    start += -start % _ALIGN
    arrays = []
    for name, shape in head.arrays:
        array, start = _array(payload, start, name, shape)
        arrays.append(array)
    if start != len(payload):
        raise ProtocolError(f"a document of {start} bytes in a payload of {len(payload)}")
    return body, arrays


def _array(payload: memoryview, start: int, name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    if name not in _DTYPES or any(n < 0 for n in shape):
        raise ProtocolError(f"a document's array cannot be {name}{list(shape)}")
    dtype = numpy_dtype(name)
    nbytes = math.prod(shape) * dtype.itemsize
    if start + nbytes > len(payload):
        raise ProtocolError(f"a document's array of {nbytes} bytes in a payload of {len(payload)}")
    array = np.frombuffer(payload[start : start + nbytes], dtype).reshape(shape)
    return array, start + nbytes + (-nbytes % _ALIGN)
