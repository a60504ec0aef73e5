"""tcp://HOST:PORT: a listening socket, its accepting thread, and one thread per connection.

A connection proves itself in the thread that will read it, under a deadline. At most 64 are unproven at a time; when
more come, the oldest is dropped: a process of the job needs milliseconds, so that idle connections cannot keep it out.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import select
import socket
import threading
import time
from typing import Final
from urllib.parse import SplitResult, parse_qs, urlsplit

from rainshed.ops.errors import AuthError, PeerLostError, RainshedError, StallError, TransportError, UsageError
from rainshed.runtime import auth
from rainshed.runtime.auth import Session
from rainshed.runtime.deadlines import Deadline
from rainshed.runtime.transport.base import Channel, FramedEndpoint, Home, logger
from rainshed.runtime.transport.tcp_channel import TcpChannel, shut_down
from rainshed.runtime.wire import VERSION

MAX_UNPROVEN: Final = 64
_NO_MORE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_MS: Final = 100  # when no descriptor is left for a connection
_LOG_EVERY_S: Final = 1.0


class TcpEndpoint(FramedEndpoint):
    """Where a process is reached, and from where it reaches others."""

    def __init__(self, uri: str, home: Home) -> None:
        super().__init__(home)
        parts = _split(uri)
        self._listener = _bind(parts, uri, bool(home.token))
        host, port = self._listener.getsockname()[:2]
        self.address = f"tcp://{_bracket(_advertised(parts, host))}:{port}"
        self._bell, self._bell_end = socket.socketpair()  # ends the accepting thread
        self._unproven: dict[socket.socket, None] = {}  # that came to us, oldest first
        self._connecting: set[socket.socket] = set()
        self._refusals = _Refusals()
        try:
            self._start("accepts", self._accept)
        except TransportError:
            self._close_sockets()
            raise

    @property
    def refused(self) -> int:
        """How many connections were refused, or broke off, before they had proven themselves."""
        return self._refusals.count

    # -- connecting ----

    def connect(self, address: str, *, timeout_s: float) -> Channel:
        deadline, limits = Deadline.after(timeout_s), self._home.timeouts
        side = auth.Connector(self._home.identity, self._home.token)
        sock = _open(address, min(deadline.left(), limits.connect_s))
        try:
            with self._lock:
                self._require_open()
                self._connecting.add(sock)
            session = _introduce(side, sock, address, Deadline.after(min(deadline.left(), limits.handshake_s)))
            channel = TcpChannel(self._home, session, address, sock)
            self._adopt(channel)
        except BaseException:
            self._let_go(sock)
            sock.close()
            raise
        self._let_go(sock)
        try:
            self._start(f"reads {channel.peer}", functools.partial(channel.run, self))
        except TransportError:
            self.forget(channel)
            sock.close()
            raise
        channel.wait_announced(deadline)
        return channel

    def _let_go(self, sock: socket.socket) -> None:
        """No longer a handshake that close() must break off. Before the socket is closed: then its number is free."""
        with self._lock:
            self._connecting.discard(sock)
            self._unproven.pop(sock, None)

    # -- accepting ----

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._bell_end, select.POLLIN)
        bell = select.poll()
        bell.register(self._bell_end, select.POLLIN)
        try:
            while all(number != self._bell_end.fileno() for number, _ in poll.poll()):
                try:
                    sock, where = self._listener.accept()
                except OSError as error:
                    if error.errno in _NO_MORE:
                        self._refusals.note("a connection", error.strerror)
                        if bell.poll(_PAUSE_MS):
                            return
                    continue
                self._admit(sock, f"tcp://{_bracket(where[0])}:{where[1]}")
        finally:
            self._close_sockets()

    def _admit(self, sock: socket.socket, address: str) -> None:
        """Give the connection a thread to prove itself in."""
        with self._lock:
            if len(self._unproven) >= MAX_UNPROVEN:
                oldest = next(iter(self._unproven))
                del self._unproven[oldest]
                shut_down(oldest)
            self._unproven[sock] = None
        try:
            self._start(f"reads {address}", functools.partial(self._serve, sock, address))
        except TransportError as error:
            self._refusals.note(address, error.message)
            self._let_go(sock)
            sock.close()

    def _serve(self, sock: socket.socket, address: str) -> None:
        """A connection that came to us, from its first byte to its last."""
        try:
            session = self._examine(sock)
            channel = TcpChannel(self._home, session, address, sock)
            self._adopt(channel)
        except RainshedError as error:
            self._refuse(sock, address, error.message)
        except TimeoutError:
            self._refuse(sock, address, f"no handshake in {self._home.timeouts.handshake_s:.3g} s")
        except OSError as error:
            self._refuse(sock, address, error.strerror or "it ended the connection")
        else:
            self._let_go(sock)
            if session.peer_version != VERSION:
                logger.warning("%s speaks protocol %d.%d, not %d.%d", session.peer, *session.peer_version, *VERSION)
            channel.run(self)

    def _examine(self, sock: socket.socket) -> Session:
        """The listening side of the handshake. Who cannot prove itself is told why; who speaks no such thing is not."""
        exchange = _Exchange(sock, Deadline.after(self._home.timeouts.handshake_s))
        try:
            side = auth.Listener(self._home.identity, self._home.token)
            exchange.send(side.welcome(exchange.receive()))
            accept, session = side.accept(exchange.receive())
        except AuthError as error:
            exchange.refuse(error)
            raise
        exchange.send(accept)
        return session

    def _refuse(self, sock: socket.socket, address: str, why: str) -> None:
        self._refusals.note(address, why)
        self._let_go(sock)
        sock.close()

    # -- the end ----

    def _stop_accepting(self) -> None:
        with self._lock:
            for sock in [*self._unproven, *self._connecting]:
                shut_down(sock)
            if self._bell.fileno() != -1:
                self._bell.close()  # what the accepting thread hears

    def _close_sockets(self) -> None:
        self._listener.close()
        self._bell_end.close()
        with self._lock:
            self._bell.close()


class _Exchange:
    """Handshake messages over a socket, all within one deadline."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def send(self, message: bytes) -> None:
        self._arm()
        self._sock.sendall(message)

    def receive(self) -> bytes:
        """One message, and not a byte behind it."""
        prefix = self._exactly(auth.PREFIX.size)
        return prefix + self._exactly(auth.body_nbytes(prefix))

    def refuse(self, error: RainshedError) -> None:
        try:
            self.send(auth.refusal(error))
        except OSError:
            return

    def _exactly(self, nbytes: int) -> bytes:
        found = b""
        while len(found) < nbytes:
            self._arm()
            more = self._sock.recv(nbytes - len(found))
            if not more:
                raise PeerLostError("it ended the connection during the handshake")
            found += more
        return found

    def _arm(self) -> None:
        left_s = self._deadline.left()
        if not left_s:
            raise TimeoutError
        self._sock.settimeout(left_s)


class _Refusals:
    """Counts what was refused and logs a line a second at most: a flood of connections is no flood of lines."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()
        self._logged_count = 0
        self._logged_at = -_LOG_EVERY_S

    def note(self, address: str, why: str | None) -> None:
        with self._lock:
            self.count += 1
            now = time.monotonic()
            if now < self._logged_at + _LOG_EVERY_S:
                return
            more = self.count - self._logged_count - 1
            self._logged_count, self._logged_at = self.count, now
        logger.warning("refused %s: %s%s", address, why, f" (and {more} more since the last such line)" if more else "")


def _introduce(side: auth.Connector, sock: socket.socket, address: str, deadline: Deadline) -> Session:
    """The connecting side of the handshake."""
    exchange = _Exchange(sock, deadline)
    try:
        exchange.send(side.hello())
        exchange.send(side.proof(exchange.receive()))
        return side.session(exchange.receive())
    except RainshedError as error:
        if isinstance(error, AuthError):
            exchange.refuse(error)
        raise type(error)(f"connecting to {address}: {error.message}", **error.detail) from None
    except TimeoutError:
        raise StallError(f"{address} accepted, but did not end the handshake in {deadline.total_s:.3g} s") from None
    except OSError as error:
        raise PeerLostError(f"{address} closed the connection during the handshake", why=error.strerror) from None


# -- addresses --------------------------------------------------------------------------------------------------------


def _split(uri: str) -> SplitResult:
    try:
        parts = urlsplit(uri)
        fits = parts.scheme == "tcp" and not parts.path and not parts.fragment and "@" not in parts.netloc
        _ = parts.port  # read to be checked
    except ValueError as error:
        raise UsageError(f"{uri!r} is no address: {error}", example="tcp://127.0.0.1:41233") from None
    if not fits:
        raise UsageError(f"{uri!r} is no address", example="tcp://127.0.0.1:41233")
    return parts


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _bind(parts: SplitResult, uri: str, has_token: bool) -> socket.socket:
    """A listening socket: on loopback unless another address is named, and there only with a token."""
    host = parts.hostname or "127.0.0.1"
    try:
        family, _, _, _, where = socket.getaddrinfo(host, parts.port or 0, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise TransportError(f"cannot listen on {uri}: {error.strerror}") from None
    if not has_token and not _is_loopback(str(where[0])):
        raise UsageError(
            f"will not listen on {uri} without a token: whoever reaches it could join the job",
            make_one=auth.HOW_TO_MAKE_A_TOKEN,
        )
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(128)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise TransportError(f"cannot listen on {uri}: {error.strerror}", do="port 0 takes a free one") from None
    return sock


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _advertised(parts: SplitResult, host: str) -> str:
    """The host for others to use: ?advertise=HOST, or the one listened on, or for "all" the one facing outwards."""
    named = parse_qs(parts.query).get("advertise")
    if named:
        return named[0]
    if not ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address of no one's (RFC 5737); UDP sends nothing here
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _open(address: str, timeout_s: float) -> socket.socket:
    parts = _split(address)
    if not parts.hostname or not parts.port:
        raise UsageError(f"{address!r} lacks a host or a port", example="tcp://127.0.0.1:41233")
    try:
        return socket.create_connection((parts.hostname, parts.port), timeout=max(timeout_s, 1e-3))
    except TimeoutError:
        raise StallError(f"{address} did not answer within {timeout_s:.3g} s") from None
    except OSError as error:
        raise TransportError(f"cannot reach {address}: {error.strerror or error}") from None
