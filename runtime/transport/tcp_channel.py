"""One TCP connection: blocking sends and reads of frames, no copies of payloads."""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import Final

from rainshed.ops.errors import PeerLostError, StallError
from rainshed.runtime.auth import Session
from rainshed.runtime.deadlines import Deadline
from rainshed.runtime.messages import Message, describe
from rainshed.runtime.transport.base import EndError, FramedChannel, Home
from rainshed.runtime.wire import CHECKSUM, MAX_HEAD_NBYTES, PREFIX

_CHUNK_NBYTES: Final = 2**18  # a checksum step and a system call: fits the L2 cache
_MAX_BUFFERS: Final = 64  # of one system call
_AT_ONCE_NBYTES: Final = 2**17  # of a payload that should be there before the reader wakes: else each packet wakes it


class TcpChannel(FramedChannel):
    """One connection. Reads block for a tick at most, so that deadlines and close() are seen without a signal."""

    def __init__(self, home: Home, session: Session, address: str, sock: socket.socket) -> None:
        super().__init__(home, session, address)
        self._sock = sock
        self._stage = bytearray(MAX_HEAD_NBYTES)  # heads, and what came with them
        self._view = memoryview(self._stage)
        self._start = self._end = 0  # what of the stage is not yet read
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._low_nbytes = 1  # that must be there before the reader wakes
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(home.timeouts.dead_s * 1000)))
        _set_time(sock, socket.SO_RCVTIMEO, home.tick_s)

    # -- sending ----

    def _write(self, header: bytes, views: list[memoryview], nbytes: int, deadline: Deadline) -> None:
        outgoing = self._outgoing
        head, crc = outgoing.head(header, nbytes)
        pending: list[bytes | memoryview] = [head]
        if nbytes <= _CHUNK_NBYTES and len(views) < _MAX_BUFFERS:
            for view in views:
                crc = outgoing.checksum(view, crc)
            pending += views
        else:
            pending, crc = self._push_all_but_last(pending, views, crc, deadline)
        if views:
            pending.append(CHECKSUM.pack(crc))
        self._push(pending, deadline)

    def _push_all_but_last(
        self, pending: list[bytes | memoryview], views: list[memoryview], crc: int, deadline: Deadline
    ) -> tuple[list[bytes | memoryview], int]:
        """Write a large payload a chunk at a time, while it is in the cache.

        Gives  what is left for the last call, and the checksum
        """
        pending_nbytes = 0
        for view in views:
            for at in range(0, len(view), _CHUNK_NBYTES):
                chunk = view[at : at + _CHUNK_NBYTES]
                if pending_nbytes + len(chunk) > _CHUNK_NBYTES or len(pending) >= _MAX_BUFFERS:
                    self._push(pending, deadline)
                    pending, pending_nbytes = [], 0
                crc = self._outgoing.checksum(chunk, crc)
                pending.append(chunk)
                pending_nbytes += len(chunk)
        return pending, crc

    def _push(self, pending: list[bytes | memoryview], deadline: Deadline) -> None:
        """Write all of `pending`: at once if the kernel has room, else waiting for room until the deadline."""
        sock = self._sock
        flags: int = socket.MSG_DONTWAIT
        left = sum(map(len, pending))
        while True:
            try:
                sent = sock.sendmsg(pending, (), flags)
            except BlockingIOError:
                sent = 0
            left -= sent
            if not left:
                return
            pending = _after(pending, sent)
            left_s = deadline.left()
            if not left_s:
                raise TimeoutError("its kernel takes no more bytes: it is stopped or stuck, or the network is slow")
            _set_time(sock, socket.SO_SNDTIMEO, left_s)
            flags = 0

    def _end_sending(self) -> None:
        self._shut(socket.SHUT_WR)

    def _abort(self) -> None:
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        with self._state_lock:  # not while _release gives the descriptor's number back
            shut_down(self._sock, how)

    # -- receiving ----

    def _read_frame(self) -> None:
        if self._start == self._end and not self._fill(1, None):
            return
        deadline = Deadline.after(self._home.timeouts.rpc_s)
        self._have(PREFIX.size, deadline)
        prefix = self._incoming.prefix(self._view[self._start : self._start + PREFIX.size])
        self._have(PREFIX.size + prefix.header_nbytes, deadline)
        header_at = self._start + PREFIX.size
        end = header_at + prefix.header_nbytes
        message = self._incoming.header(self._view[self._start : header_at], self._view[header_at:end], prefix)
        self._start = end
        nbytes = prefix.payload_nbytes
        payload = self._take_payload_of(message, nbytes)
        if nbytes:
            self._read_payload(message, payload, prefix.checksum, deadline)
        self._arrived(message, payload)

    def _read_payload(self, message: Message, payload: memoryview, crc: int, head_deadline: Deadline) -> None:
        """Fill `payload` and check it, a chunk at a time while it is in the cache; `crc` is the head's checksum."""
        nbytes = len(payload)
        total_s = self._home.timeouts.for_bytes(nbytes)
        deadline = Deadline(head_deadline.at + total_s - head_deadline.total_s, total_s)
        checksum = self._incoming.checksum
        done = min(nbytes, self._end - self._start)
        payload[:done] = self._view[self._start : self._start + done]
        self._start += done
        crc = checksum(payload[:done], crc)
        while done < nbytes:
            chunk = payload[done : done + _CHUNK_NBYTES]
            self._read_into(chunk, deadline, message)
            crc = checksum(chunk, crc)
            done += len(chunk)
        self._wake_at(1)
        self._have(CHECKSUM.size, deadline)
        self._incoming.trailer(self._view[self._start : self._start + CHECKSUM.size], crc, message)
        self._start += CHECKSUM.size

    def _have(self, nbytes: int, deadline: Deadline) -> None:
        if self._end - self._start < nbytes:
            self._fill(nbytes, deadline)

    def _read_into(self, chunk: memoryview, deadline: Deadline, message: Message) -> None:
        got = 0
        while got < len(chunk):
            self._wake_at(min(len(chunk) - got, _AT_ONCE_NBYTES))
            self._poll.poll(self._home.tick_s * 1000)
            got += self._receive(chunk[got:], socket.MSG_DONTWAIT)
            if got < len(chunk):
                self._check(deadline, f"the payload of {describe(message)}")

    def _fill(self, nbytes: int, deadline: Deadline | None) -> bool:
        """Have `nbytes` unread bytes in the stage. Without a deadline, False if a tick passed and none came."""
        while self._end - self._start < nbytes:
            if self._start == self._end:
                self._start = self._end = 0
            elif self._start + nbytes > len(self._stage):
                rest = bytes(self._view[self._start : self._end])
                self._view[: len(rest)] = rest
                self._start, self._end = 0, len(rest)
            got = self._receive(self._view[self._end :], 0)
            self._end += got
            if not got and deadline is None:
                return False
            if deadline is not None and self._end - self._start < nbytes:
                self._check(deadline, "a frame's head")
        return True

    def _receive(self, into: memoryview, flags: int) -> int:
        """Bytes that came within a tick, perhaps 0. Raises PeerLostError at the end of the stream."""
        try:
            got = self._sock.recv_into(into, 0, flags)
        except BlockingIOError:
            return 0
        if not got:
            raise PeerLostError(f"lost {self}: it ended the connection without a goodbye")
        self.counters.last_heard = time.monotonic()
        return got

    def _wake_at(self, nbytes: int) -> None:
        """Let poll() tell of so many bytes, or of the end, and of no fewer."""
        if nbytes != self._low_nbytes:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, nbytes)
            self._low_nbytes = nbytes

    def _check(self, deadline: Deadline, what: str) -> None:
        if self._ended:
            raise EndError(None)
        if deadline.expired:
            raise StallError(f"{self} began to send {what} and did not end within {deadline.total_s:.3g} s")

    # -- the end ----

    def _drain(self) -> None:
        """Read what still comes, unseen: closing with unread bytes would reset the connection under our goodbye."""
        deadline = Deadline.after(self._home.tick_s)
        try:
            while not deadline.expired and self._sock.recv_into(self._stage):
                pass
        except OSError:
            return

    def _release(self) -> None:
        self._abort()
        with self._send_lock, self._state_lock:  # nobody is in a system call when the descriptor's number becomes free
            self._sock.close()


def shut_down(sock: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    """Wakes whoever waits on the socket; fine if the connection is gone already."""
    try:
        sock.shutdown(how)
    except OSError:
        return


def _set_time(sock: socket.socket, option: int, seconds: float) -> None:
    """SO_RCVTIMEO or SO_SNDTIMEO: the kernel's own, so that the socket stays a blocking one."""
    micros = max(1, round(seconds * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", *divmod(micros, 1_000_000)))


def _after(buffers: list[bytes | memoryview], nbytes: int) -> list[bytes | memoryview]:
    """The buffers less their first `nbytes`."""
    for i, buffer in enumerate(buffers):
        if nbytes < len(buffer):
            return [memoryview(buffer)[nbytes:], *buffers[i + 1 :]]
        nbytes -= len(buffer)
    return []
