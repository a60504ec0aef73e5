"""inproc://NAME: connections between threads of one process, with the frames, checks and order of the others.

A pipe holds frames as a socket does: small payloads are copied into it and the sender goes on; a large one stays where it is until
the reader has copied it into the handler's buffer. Payloads get no checksum: they never leave memory.
"""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections import deque
from typing import Final
from weakref import WeakValueDictionary

from rainshed.ops.errors import PeerLostError, RainshedError, TransportError, UsageError
from rainshed.runtime import auth
from rainshed.runtime.auth import Session
from rainshed.runtime.deadlines import Deadline
from rainshed.runtime.transport.base import Channel, EndError, FramedChannel, FramedEndpoint, Home
from rainshed.runtime.wire import PREFIX

_COPIED_NBYTES: Final = 2**18  # payloads up to this are copied into the pipe
_HELD_NBYTES: Final = 2**22  # heads and payloads that a pipe holds before its senders wait


class _Frame:
    __slots__ = ("head", "held_nbytes", "payload", "state")

    def __init__(self, head: bytes, payload: list[memoryview]) -> None:
        self.head = head
        self.payload = payload
        self.held_nbytes = len(head) + sum(map(len, payload))
        self.state = "waits"  # then "is read", then "done"


class _Pipe:
    """One direction of a connection."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._frames: deque[_Frame] = deque()
        self._held_nbytes = 0
        self._shut = False  # no more is written; what is in it may be read

    def put(self, head: bytes, views: list[memoryview], deadline: Deadline) -> None:
        """Raises BrokenPipeError, or TimeoutError when there was no room; `views` are not read after it returns."""
        small = sum(map(len, views)) <= _COPIED_NBYTES
        frame = _Frame(head, [memoryview(b"".join(views))] if small and views else views)
        with self._changed:
            room = self._held_nbytes + (frame.held_nbytes if small else 0) <= _HELD_NBYTES
            if not (room or self._shut):
                self._wait_for_room(frame.held_nbytes if small else 0, deadline)
            if self._shut:
                raise BrokenPipeError(32, "Broken pipe")
            self._frames.append(frame)
            self._held_nbytes += frame.held_nbytes if small else 0
            self._changed.notify_all()
            if not small:
                self._wait_until_read(frame, deadline)

    def _wait_for_room(self, nbytes: int, deadline: Deadline) -> None:
        self._changed.wait_for(lambda: self._shut or self._held_nbytes + nbytes <= _HELD_NBYTES, deadline.left())
        if not self._shut and self._held_nbytes + nbytes > _HELD_NBYTES:
            raise TimeoutError("its pipe is full: a callback there is slow or stuck")

    def _wait_until_read(self, frame: _Frame, deadline: Deadline) -> None:
        self._changed.wait_for(lambda: self._shut or frame.state == "done", deadline.left())
        if frame.state == "is read":  # the reader is copying, which ends
            self._changed.wait_for(lambda: frame.state != "is read")
        if frame.state == "done":
            return
        shut, self._shut = self._shut, True
        self._frames.clear()
        self._changed.notify_all()
        if not shut:
            raise TimeoutError("it did not come to read it: a callback there is slow or stuck")
        raise BrokenPipeError(32, "Broken pipe")

    def get(self, timeout_s: float) -> _Frame | None:
        """The next frame, to be given back to done(); None if none came. Raises EOFError after the last."""
        with self._changed:
            if not self._frames and not self._shut:
                self._changed.wait(timeout_s)
            if self._frames:
                frame = self._frames.popleft()
                frame.state = "is read"
                return frame
            if self._shut:
                raise EOFError
            return None

    def done(self, frame: _Frame, *, whole: bool) -> None:
        with self._changed:
            frame.state = "done" if whole else "waits"
            if len(frame.payload) != 1 or frame.payload[0].obj is not None:
                self._held_nbytes = max(0, self._held_nbytes - frame.held_nbytes)
            self._changed.notify_all()

    def shut(self) -> None:
        with self._changed:
            self._shut = True
            self._changed.notify_all()

    @property
    def is_shut(self) -> bool:
        return self._shut
