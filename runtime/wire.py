"""The frame: how one message and its payload lie on the wire, and the checks that every received frame passes.

    prefix   28 bytes, little-endian: magic "RSHD", protocol major u16, header length u16, payload length u64,
             sequence number u64, checksum u32 of the 24 bytes before it and the header
    header   msgpack of one struct of `runtime/messages.py`, at most 65535 bytes
    payload  raw bytes: an array, or a document
    trailer  checksum u32 of the payload, continued from the prefix's; absent when there is no payload

The head has a checksum of its own, so that a length is trusted before anything is allocated for it; that of the payload
stands behind it, so that both ends compute it while the bytes move. Sequence numbers start at a secret of the
connection (`runtime/auth.py`) and rise by one: a replayed, lost or foreign frame is refused. Nothing received raises
anything but ProtocolError.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np

from rainshed.ops.errors import DTypeError, ProtocolError
from rainshed.runtime.messages import Message, Said

try:
    import google_crc32c
except ImportError:  # an accelerator, not a dependency: the peers agree on one checksum in their hello
    google_crc32c = None

Buffer: TypeAlias = bytes | bytearray | memoryview
Checksum: TypeAlias = Callable[[Buffer, int], int]

MAGIC: Final = b"RSHD"
VERSION: Final = (1, 0)  # major: must be equal; minor: newer fields and messages, told in the handshake
PREFIX: Final = struct.Struct("<4sHHQQI")
CHECKED_NBYTES: Final = PREFIX.size - 4  # of the prefix, all but the checksum itself
CHECKSUM: Final = struct.Struct("<I")
MAX_HEADER_NBYTES: Final = 2**16 - 1
MAX_HEAD_NBYTES: Final = PREFIX.size + MAX_HEADER_NBYTES
MAX_PAYLOAD_NBYTES: Final = 2**46  # what a machine can address; what is due, the receiver knows from the plan
_CRC32C_CHUNK_NBYTES: Final = 2**17  # fits the L2 cache


def _crc32c(data: Buffer, start: int = 0) -> int:
    """CRC-32C, continued from `start`. google_crc32c takes only `bytes`: copied a cache's worth at a time."""
    view = memoryview(data)
    for at in range(0, len(view), _CRC32C_CHUNK_NBYTES):
        start = google_crc32c.extend(start, bytes(view[at : at + _CRC32C_CHUNK_NBYTES]))
    return start


# By name, best first; every process has the last one.
CHECKSUMS: Final[Mapping[str, Checksum]] = MappingProxyType(
    {**({"crc32c": _crc32c} if google_crc32c is not None else {}), "crc32": zlib.crc32}
)

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Message)


class Prefix(NamedTuple):
    header_nbytes: int
    payload_nbytes: int
    seq: int
    checksum: int


def encode_header(message: Said) -> bytes:
    """Raises ProtocolError if the message is too long: long things belong into the payload."""
    header = _encoder.encode(message)
    if len(header) > MAX_HEADER_NBYTES:
        raise ProtocolError(f"{type(message).__name__} takes {len(header)} bytes, not {MAX_HEADER_NBYTES} or less")
    return header


def encode_head(header: bytes, payload_nbytes: int, seq: int, checksum: Checksum = zlib.crc32) -> tuple[bytes, int]:
    """Prefix and header, and the checksum from which the payload's continues."""
    checked = PREFIX.pack(MAGIC, VERSION[0], len(header), payload_nbytes, seq, 0)[:CHECKED_NBYTES]
    crc = checksum(header, checksum(checked, 0))
    return b"".join((checked, CHECKSUM.pack(crc), header)), crc


def encode(message: Said, payload: Sequence[Buffer], seq: int, checksum: Checksum = zlib.crc32) -> list[Buffer]:
    """A whole frame as buffers for `sendmsg`; the payload is not copied."""
    views = [view for view in map(as_bytes, payload) if len(view)]
    head, crc = encode_head(encode_header(message), sum(map(len, views)), seq, checksum)
    if not views:
        return [head]
    for view in views:
        crc = checksum(view, crc)
    return [head, *views, CHECKSUM.pack(crc)]


def decode_prefix(data: Buffer) -> Prefix:
    """The prefix in `data`, of exactly PREFIX.size bytes."""
    if len(data) != PREFIX.size:
        raise ProtocolError(f"a frame's prefix has {PREFIX.size} bytes, not {len(data)}")
    magic, major, header_nbytes, payload_nbytes, seq, crc = PREFIX.unpack(data)
    if magic != MAGIC:
        raise ProtocolError(f"not a frame of Rainshed's: it begins with {magic!r}")
    if major != VERSION[0]:
        raise ProtocolError(f"a frame of protocol version {major}, where {VERSION[0]} was agreed")
    if header_nbytes == 0:
        raise ProtocolError("a frame without a header")
    if payload_nbytes > MAX_PAYLOAD_NBYTES:
        raise ProtocolError(f"a payload of {payload_nbytes} bytes; the limit is {MAX_PAYLOAD_NBYTES}")
    return Prefix(header_nbytes, payload_nbytes, seq, crc)


def decode_header(data: Buffer) -> Message:
    """The message in `data`."""
    try:
        message: Message = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"a header that is no message: {error}") from None
    return message


class Outgoing:
    """One direction of a connection, at its sender: gives each frame its number. Not thread-safe."""

    __slots__ = ("checksum", "seq")

    def __init__(self, seq: int, checksum: Checksum) -> None:
        self.seq = seq
        self.checksum = checksum

    def head(self, header: bytes, payload_nbytes: int) -> tuple[bytes, int]:
        head = encode_head(header, payload_nbytes, self.seq, self.checksum)
        self.seq = (self.seq + 1) % 2**64
        return head


class Incoming:
    """One direction of a connection, at its receiver: checks each frame. Not thread-safe."""

    __slots__ = ("checksum", "seq")

    def __init__(self, seq: int, checksum: Checksum) -> None:
        self.seq = seq
        self.checksum = checksum

    def prefix(self, data: Buffer) -> Prefix:
        """The prefix in `data`, of the frame whose turn it is."""
        prefix = decode_prefix(data)
        if prefix.seq != self.seq:
            ahead = (prefix.seq - self.seq) % 2**64
            what = f"{ahead} ahead" if ahead < 2**63 else f"{2**64 - ahead} behind"
            raise ProtocolError(f"a frame out of turn, {what}: lost, replayed, or of another connection")
        return prefix

    def header(self, checked: Buffer, header: Buffer, prefix: Prefix) -> Message:
        """The message of a frame whose prefix was read, once its checksum fits; the next frame is then due."""
        if self.checksum(header, self.checksum(checked[:CHECKED_NBYTES], 0)) != prefix.checksum:
            raise ProtocolError("the checksum of a frame's head does not fit: bytes changed on the way")
        self.seq = (self.seq + 1) % 2**64
        return decode_header(header)

    def trailer(self, data: Buffer, crc: int, message: Said) -> None:
        """Refuses the payload of `message` unless its checksum `crc` is the one in `data`."""
        if CHECKSUM.unpack(data)[0] != crc:
            raise ProtocolError(f"the checksum of the payload of {message} does not fit: bytes changed on the way")


# -- arrays -----------------------------------------------------------------------------------------------------------


def as_bytes(buffer: Buffer) -> memoryview:
    """The bytes of a contiguous buffer, not copied."""
    view = memoryview(buffer)
    if view.nbytes == 0:
        return memoryview(b"")  # cast() refuses a zero in the shape
    if not view.c_contiguous:
        raise DTypeError("a payload must be contiguous; array_payload() makes an array so")
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def array_payload(array: np.ndarray[Any, Any]) -> memoryview:
    """The array's elements in C order, little-endian: copied only if they do not lie so already."""
    if array.dtype.hasobject:
        raise DTypeError(f"an array of {array.dtype} holds Python objects, and those are never sent")
    if array.size == 0:
        return memoryview(b"")
    if _is_big_endian(array):
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def array_buffer(array: np.ndarray[Any, Any]) -> memoryview:
    """Where the payload of a preallocated array goes: the counterpart of array_payload."""
    if array.dtype.hasobject or _is_big_endian(array) or not (array.flags.c_contiguous and array.flags.writeable):
        found = f"{array.dtype}{list(array.shape)}"
        raise DTypeError(f"cannot receive into {found}: not writable, C-contiguous and little-endian")
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(bytearray())


def _is_big_endian(array: np.ndarray[Any, Any]) -> bool:
    order = array.dtype.byteorder
    return order == ">" or (order == "=" and sys.byteorder == "big")
