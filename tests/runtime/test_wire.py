"""Frames: what was sent comes out, and nothing else does."""

import random
import zlib

import msgspec
import numpy as np
import pytest

from rainshed.ops.errors import DTypeError, ProtocolError
from rainshed.runtime import wire
from rainshed.runtime.messages import Bye, Failed, Heartbeat, Join, Stop, Value, describe

MESSAGES = [
    Value(step=3, key=2**63 - 1),
    Bye(),
    Bye("PROTOCOL", "no such key"),
    Join("worker", "w0", "tcp://127.0.0.1:1", 17, 2, "host"),
    Stop("done"),
    Failed("KERNEL", "división", "worker w0"),
    Heartbeat(5, "%4", 12.5),
]
FRAME = b"".join(wire.encode(Value(7, 9), [b"payload!"], seq=41))


def read(data, seq=41):
    """A frame as a transport reads it: (message, payload); the payload at most as long as what is there."""
    incoming = wire.Incoming(seq, zlib.crc32)
    prefix = incoming.prefix(data[: wire.PREFIX.size])
    at = wire.PREFIX.size + prefix.header_nbytes
    message = incoming.header(data[: wire.PREFIX.size], data[wire.PREFIX.size : at], prefix)
    payload = data[at : at + prefix.payload_nbytes]
    if prefix.payload_nbytes:
        trailer = data[at + prefix.payload_nbytes :]
        if len(trailer) != wire.CHECKSUM.size:
            raise ProtocolError("cut off")
        incoming.trailer(trailer, zlib.crc32(payload, prefix.checksum), message)
    return message, payload


@pytest.mark.parametrize("message", MESSAGES, ids=describe)
@pytest.mark.parametrize(
    "payload",
    [[], [b""], [b"x"], [b"ab", bytearray(b""), memoryview(b"cdef")]],
    ids=["nothing", "empty", "bytes", "mixed"],
)
def test_round_trip(message, payload):
    frame = wire.encode(message, payload, seq=2**64 - 1)
    assert read(b"".join(frame), seq=2**64 - 1) == (message, b"".join(payload))


@pytest.mark.parametrize("kind", wire.Message.__args__, ids=lambda k: k.__name__)
def test_every_message_is_frozen_and_takes_no_unknown_fields(kind):
    config = kind.__struct_config__
    assert config.frozen and config.forbid_unknown_fields and config.tag == kind.__name__


def test_payload_is_not_copied():
    payload = bytearray(100)
    _, view, _ = wire.encode(Value(0, 0), [payload], seq=0)
    assert view.obj is payload


def test_every_flipped_bit_is_refused():
    assert read(FRAME) == (Value(7, 9), b"payload!")
    for at in range(len(FRAME)):
        for bit in range(8):
            broken = bytearray(FRAME)
            broken[at] ^= 1 << bit
            with pytest.raises(ProtocolError):
                read(bytes(broken))


def test_every_truncation_is_refused():
    for length in range(len(FRAME)):
        with pytest.raises(ProtocolError):
            read(FRAME[:length])


@pytest.mark.parametrize("nbytes", [2**46 + 1, 2**63, 2**64 - 1])
def test_absurd_lengths_are_refused(nbytes):
    prefix = wire.PREFIX.pack(wire.MAGIC, wire.VERSION[0], 10, nbytes, 0, 0)
    with pytest.raises(ProtocolError, match=f"{nbytes} bytes; the limit"):
        wire.decode_prefix(prefix)


@pytest.mark.parametrize(
    "fields, says",
    [
        ((b"HTTP", 1, 10, 0, 0, 0), "not a frame"),
        ((wire.MAGIC, wire.VERSION[0] + 1, 10, 0, 0, 0), "version 2, where 1"),
        ((wire.MAGIC, wire.VERSION[0], 0, 0, 0, 0), "without a header"),
    ],
)
def test_wrong_prefixes_are_refused(fields, says):
    with pytest.raises(ProtocolError, match=says):
        wire.decode_prefix(wire.PREFIX.pack(*fields))


@pytest.mark.parametrize("seq, says", [(42, "1 behind"), (40, "1 ahead"), (41 + 2**63, "behind"), (0, "41 ahead")])
def test_frames_out_of_turn_are_refused(seq, says):
    with pytest.raises(ProtocolError, match=says):
        read(FRAME, seq)


def test_numbers_go_round():
    outgoing, incoming = wire.Outgoing(2**64 - 1, zlib.crc32), wire.Incoming(2**64 - 1, zlib.crc32)
    for step in range(3):
        head, _ = outgoing.head(wire.encode_header(Value(step, 0)), 0)
        prefix = incoming.prefix(head[: wire.PREFIX.size])
        assert incoming.header(head[: wire.PREFIX.size], head[wire.PREFIX.size :], prefix) == Value(step, 0)
    assert outgoing.seq == incoming.seq == 2


@pytest.mark.parametrize(
    "header",
    [
        {"type": "Value", "step": 1, "key": 2, "more": 3},
        {"type": "Value", "step": -1, "key": 2},
        {"type": "Value", "step": 1.5, "key": 2},
        {"type": "Value", "step": 1, "key": 2**64 - 1},
        {"type": "Value", "step": 1},
        {"type": "Nonsense"},
        {"step": 1, "key": 2},
        {"type": "Stop", "reason": "x" * 9000},
        ["Value", 1, 2],
        None,
    ],
    ids=lambda h: str(h)[:40],
)
def test_headers_that_are_no_message_are_refused(header):
    with pytest.raises(ProtocolError, match="no message"):
        wire.decode_header(msgspec.msgpack.encode(header))


@pytest.mark.parametrize(
    "data", [b"", b"\x91" * 60_000, b"\x81\xa4type" * 10_000, b"\xdb\xff\xff\xff\xff", b"\xc1"], ids=len
)
def test_hostile_msgpack_is_refused(data):
    with pytest.raises(ProtocolError):
        wire.decode_header(data)


def test_random_bytes_raise_nothing_but_protocol_errors():
    rng = random.Random(20)
    header = wire.encode_header(Failed("KERNEL", "text", "who"))
    for _ in range(2000):
        mutated = bytearray(header)
        for _ in range(rng.randint(1, 4)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        for decode, data in [
            (wire.decode_prefix, rng.randbytes(wire.PREFIX.size)),
            (wire.decode_prefix, wire.MAGIC + rng.randbytes(wire.PREFIX.size - 4)),
            (wire.decode_header, rng.randbytes(rng.randint(0, 100))),
            (wire.decode_header, bytes(mutated)),
        ]:
            try:
                decode(data)
            except ProtocolError:
                continue


def test_a_message_too_long_for_a_header_is_refused_at_the_sender():
    with pytest.raises(ProtocolError, match="Stop takes 70"):
        wire.encode(Stop("x" * 70_000), [], seq=0)


@pytest.mark.parametrize("name", wire.CHECKSUMS)
def test_checksums_are_the_ones_they_are_called(name):
    check = {"crc32": 0xCBF43926, "crc32c": 0xE3069283}[name]
    checksum = wire.CHECKSUMS[name]
    assert checksum(b"123456789", 0) == check
    assert checksum(memoryview(bytearray(b"56789")), checksum(b"1234", 0)) == check


# -- arrays ----

NAN_WITH_PAYLOAD = np.array([0x7FF8DEADBEEF0001], np.uint64).view(np.float64)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.arange(12, dtype=np.int64)[::-2],
        np.arange(6, dtype=">f4"),
        np.float64(2.5),
        np.array(True),
        np.zeros((0, 3)),
        np.zeros((2, 0, 3), np.int32)[:, :, ::2],
        NAN_WITH_PAYLOAD,
    ],
    ids=lambda a: f"{a.dtype.str}{a.shape}",
)
def test_arrays_go_and_come(array):
    array = np.asarray(array)
    payload = wire.array_payload(array)
    assert payload.nbytes == array.nbytes and payload.format == "B"
    target = np.full(array.shape, 77, array.dtype.newbyteorder("<"))
    wire.array_buffer(target)[:] = payload
    assert target.tobytes() == array.astype(target.dtype).tobytes()


def test_contiguous_arrays_are_not_copied():
    array = np.arange(4.0)
    assert np.shares_memory(np.frombuffer(wire.array_payload(array)), array)


def test_objects_are_never_sent():
    with pytest.raises(DTypeError, match="Python objects"):
        wire.array_payload(np.array([{}]))


def test_arrays_that_cannot_be_filled_are_refused():
    read_only = np.zeros(3)
    read_only.flags.writeable = False
    for array in [read_only, np.zeros((3, 4)).T, np.zeros(3, ">f8"), np.array([{}])]:
        with pytest.raises(DTypeError, match="cannot receive"):
            wire.array_buffer(array)


def test_payloads_must_be_contiguous():
    with pytest.raises(DTypeError, match="contiguous"):
        wire.encode(Value(0, 0), [memoryview(b"abcdef")[::2]], seq=0)
