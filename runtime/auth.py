"""Proof that both ends of a connection know the job's token, in four messages. Pure: bytes in, bytes out.

    connector -> listener   Hello: who I am, a nonce
    listener -> connector   Welcome: who I am, a nonce, HMAC-SHA256(token, "listener" | both hellos)
    connector -> listener   Proof: HMAC-SHA256(token, "connector" | both hellos)
    listener -> connector   Accept, or at any point Refuse with the reason

The MACs hold the side they were made by and both nonces, so neither a recorded nor a reflected message is ever valid.
From the same secrets come the first sequence numbers of frames. The token itself is never sent, printed or logged.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from rainshed.ops.errors import AuthError, ProtocolError, UsageError
from rainshed.runtime.wire import CHECKSUMS, VERSION, Buffer, Incoming, Outgoing

TOKEN_NBYTES: Final = 32
TOKEN_FILE_VARIABLE: Final = "RAINSHED_TOKEN_FILE"
HOW_TO_MAKE_A_TOKEN: Final = (
    f"(umask 077; openssl rand -hex {TOKEN_NBYTES} > token); export {TOKEN_FILE_VARIABLE}=$PWD/token"
)
MAGIC: Final = b"RSHA"
PREFIX: Final = struct.Struct("<4sBBH")  # magic, protocol major and minor, length of the body
MAX_BODY_NBYTES: Final = 4096 - PREFIX.size
_MAX_HELLO_NBYTES: Final = 3072  # a Welcome holds one, and must itself fit
NONCE_NBYTES: Final = 32

_Name: TypeAlias = Annotated[str, Meta(max_length=255)]
_Mac: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Nonce: TypeAlias = Annotated[bytes, Meta(min_length=NONCE_NBYTES, max_length=NONCE_NBYTES)]


# -- the token --------------------------------------------------------------------------------------------------------


def new_token() -> bytes:
    return secrets.token_bytes(TOKEN_NBYTES)


def write_token(path: str | os.PathLike[str], token: bytes) -> None:
    """Write the token as hexadecimal text to a new file that only its owner may read."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(path, flags, 0o600), "w") as file:
            file.write(token.hex() + "\n")
    except OSError as error:
        raise UsageError(f"cannot write the token file {path}: {error.strerror}") from None


def read_token(path: str | os.PathLike[str] | None = None) -> bytes:
    """The token in `path`, or in the file that RAINSHED_TOKEN_FILE names.

    Raises  UsageError if there is no such file, others may read it, or it holds no token
    """
    found = path if path is not None else os.environ.get(TOKEN_FILE_VARIABLE)
    if not found:
        raise UsageError(f"no token: {TOKEN_FILE_VARIABLE} names no file", make_one=HOW_TO_MAKE_A_TOKEN)
    file = Path(found)
    try:
        with file.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            text = stream.read(4 * TOKEN_NBYTES)
    except OSError as error:
        raise UsageError(f"cannot read the token file {file}: {error.strerror}", make_one=HOW_TO_MAKE_A_TOKEN) from None
    if mode & 0o077:
        raise UsageError(f"others may read the token file {file}: its mode is {mode & 0o777:o}", do=f"chmod 600 {file}")
    try:
        token = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        token = b""
    if len(token) != TOKEN_NBYTES:
        raise UsageError(
            f"the token file {file} does not hold {2 * TOKEN_NBYTES} hexadecimal digits", make_one=HOW_TO_MAKE_A_TOKEN
        )
    return token


# -- who is who -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process says it is: `plan_hash` is empty while no plan is known; a restart has a higher `incarnation`."""

    role: str
    name: str
    job: str
    incarnation: int = 0
    plan_hash: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, proven by the token."""

    role: str
    name: str
    job: str
    incarnation: int

    def __str__(self) -> str:
        return f"{self.role} {self.name}"


@dataclass(frozen=True, slots=True)
class Session:
    """What an accepted handshake leaves: the peer, a secret of this connection alone, and what frames start with."""

    peer: Peer
    key: bytes = field(repr=False)
    checksum: str
    peer_version: tuple[int, int]
    listening: bool  # whether this end was the listener

    def outgoing(self) -> Outgoing:
        return Outgoing(self._first_seq(self.listening), CHECKSUMS[self.checksum])

    def incoming(self) -> Incoming:
        return Incoming(self._first_seq(not self.listening), CHECKSUMS[self.checksum])

    def _first_seq(self, from_listener: bool) -> int:
        """Unknown to others and new for each connection: frames recorded on one are refused on every other."""
        label = b"frames of the listener" if from_listener else b"frames of the connector"
        return int.from_bytes(hmac.digest(self.key, label, "sha256")[:8], "little")


# -- the messages -----------------------------------------------------------------------------------------------------


class Hello(Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    role: _Name
    name: _Name
    job: _Name
    incarnation: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    plan_hash: _Name
    version: tuple[int, int]
    checksums: Annotated[tuple[_Name, ...], Meta(max_length=8)]
    nonce: _Nonce


class Welcome(Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    hello: Annotated[bytes, Meta(max_length=MAX_BODY_NBYTES)]
    mac: _Mac


class Proof(Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    mac: _Mac


class Accept(Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    pass


class Refuse(Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    text: Annotated[str, Meta(max_length=1024)]


_M = TypeVar("_M", Hello, Welcome, Proof, Accept)
_Any: TypeAlias = Hello | Welcome | Proof | Accept | Refuse
_decode: Final[Callable[[Buffer], _Any]] = msgspec.msgpack.Decoder(_Any).decode
_encode: Final = msgspec.msgpack.Encoder().encode


def _pack(message: _Any) -> bytes:
    body = _encode(message)
    if len(body) > MAX_BODY_NBYTES:
        raise UsageError(f"a handshake of {len(body)} bytes: the names of job, role, process or plan are too long")
    return PREFIX.pack(MAGIC, *VERSION, len(body)) + body


def body_nbytes(prefix: Buffer) -> int:
    """How many bytes follow the prefix of a handshake message. Versions are compared here, before all else."""
    magic, major, minor, nbytes = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise ProtocolError(f"not a process of Rainshed's: its first bytes are {magic!r}")
    if major != VERSION[0]:
        older = "this one" if major > VERSION[0] else "the other one"
        raise AuthError(
            f"the other process speaks protocol version {major}.{minor}, this one {VERSION[0]}.{VERSION[1]}",
            do=f"upgrade Rainshed on the machine of {older}",
        )
    if not 0 < nbytes <= MAX_BODY_NBYTES:
        raise ProtocolError(f"a handshake message of {nbytes} bytes; the limit is {MAX_BODY_NBYTES}")
    return int(nbytes)


def _unpack(data: Buffer, kind: type[_M]) -> _M:
    """The message in `data`, which must be of the kind whose turn it is."""
    if len(data) < PREFIX.size or len(data) - PREFIX.size != body_nbytes(data[: PREFIX.size]):
        raise ProtocolError("a handshake message that is cut off")
    message = _decode_body(data[PREFIX.size :])
    if isinstance(message, Refuse):
        raise AuthError(f"refused by the other process: {message.text}")
    if not isinstance(message, kind):
        raise ProtocolError(f"{type(message).__name__} where {kind.__name__} was due")
    return message


def _decode_body(data: Buffer) -> _Any:
    try:
        return _decode(data)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"a handshake message that cannot be read: {error}") from None


def refusal(error: Exception) -> bytes:
    """What to tell a peer before its connection is closed."""
    return _pack(Refuse(getattr(error, "message", "internal error")[:1024]))


# -- the two sides ----------------------------------------------------------------------------------------------------


class _Side:
    """What both ends do: say hello, check the other's hello and MAC, derive the session."""

    def __init__(self, identity: Identity, token: bytes, *, listening: bool) -> None:
        self._identity = identity
        self._token = token
        self._listening = listening
        try:
            self._mine = Hello(
                role=identity.role,
                name=identity.name,
                job=identity.job,
                incarnation=identity.incarnation,
                plan_hash=identity.plan_hash,
                version=VERSION,
                checksums=tuple(CHECKSUMS),
                nonce=secrets.token_bytes(NONCE_NBYTES),
            )
            self._mine_bytes = _pack(self._mine)
            _unpack(self._mine_bytes, Hello)  # names too long for the other end are found here
        except (ProtocolError, msgspec.MsgspecError, TypeError) as error:
            raise UsageError(f"{identity} cannot be said in a handshake", why=error) from None
        if len(self._mine_bytes) > _MAX_HELLO_NBYTES:
            raise UsageError(f"{identity} takes {len(self._mine_bytes)} bytes, not {_MAX_HELLO_NBYTES} or less")
        self._theirs: Hello | None = None
        self._theirs_bytes = b""

    def _hear(self, data: Buffer) -> Hello:
        """Check all of a hello that needs no secret."""
        theirs = _unpack(data, Hello)
        mine = self._mine
        their_self = (theirs.role, theirs.name, theirs.incarnation)
        if theirs.nonce == mine.nonce or their_self == (mine.role, mine.name, mine.incarnation):
            raise AuthError(f"both ends say they are {mine.role} {mine.name}, incarnation {mine.incarnation}")
        if theirs.job != mine.job:
            raise AuthError(
                f"{theirs.role} {theirs.name} is of job {theirs.job!r}, {mine.role} {mine.name} of job {mine.job!r}"
            )
        self._theirs, self._theirs_bytes = theirs, bytes(data)
        return theirs

    def _mac(self, label: bytes) -> bytes:
        first, second = self._mine_bytes, self._theirs_bytes
        if self._listening:
            first, second = second, first
        text = b"".join(len(part).to_bytes(4, "little") + part for part in (label, first, second))
        return hmac.new(self._token, text, hashlib.sha256).digest()

    def _check_mac(self, mac: bytes, label: bytes) -> None:
        if not hmac.compare_digest(mac, self._mac(label)):
            raise AuthError(
                "the other process does not hold this job's token",
                do=f"give both the same file in {TOKEN_FILE_VARIABLE}",
            )

    def _session(self) -> Session:
        """What was proven, once the other's MAC was right."""
        theirs, mine = self._theirs, self._mine
        if theirs is None:
            raise ProtocolError("a handshake out of order")
        if theirs.plan_hash and mine.plan_hash and theirs.plan_hash != mine.plan_hash:
            raise AuthError(
                f"{theirs.role} {theirs.name} holds another plan",
                its_plan=theirs.plan_hash,
                this_plan=mine.plan_hash,
                do="start both from the same plan file",
            )
        offered = (mine, theirs) if self._listening else (theirs, mine)
        common = [name for name in offered[0].checksums if name in offered[1].checksums and name in CHECKSUMS]
        if not common:
            raise AuthError(f"no checksum in common: {theirs.checksums} there, {mine.checksums} here")
        peer = Peer(theirs.role, theirs.name, theirs.job, theirs.incarnation)
        return Session(peer, self._mac(b"key"), common[0], theirs.version, self._listening)


class Connector(_Side):
    """The end that opens the connection: hello(), then proof(welcome), then session(accept)."""

    def __init__(self, identity: Identity, token: bytes) -> None:
        super().__init__(identity, token, listening=False)

    def hello(self) -> bytes:
        return self._mine_bytes

    def proof(self, welcome: Buffer) -> bytes:
        message = _unpack(welcome, Welcome)
        self._hear(message.hello)
        self._check_mac(message.mac, b"listener")
        self._session()
        return _pack(Proof(self._mac(b"connector")))

    def session(self, accept: Buffer) -> Session:
        _unpack(accept, Accept)
        return self._session()


class Listener(_Side):
    """The end that was connected to: welcome(hello), then accept(proof)."""

    def __init__(self, identity: Identity, token: bytes) -> None:
        super().__init__(identity, token, listening=True)

    def welcome(self, hello: Buffer) -> bytes:
        self._hear(hello)
        return _pack(Welcome(self._mine_bytes, self._mac(b"listener")))

    def accept(self, proof: Buffer) -> tuple[bytes, Session]:
        message = _unpack(proof, Proof)
        self._check_mac(message.mac, b"connector")
        return _pack(Accept()), self._session()
