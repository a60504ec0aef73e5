"""Ctrl-C comes between two steps, not within one."""

from __future__ import annotations

import threading

# What `signal` is made of: its own functions turn numbers into enums, which takes as long as a small step's kernels.
from _signal import getsignal, signal  # type: ignore[import-not-found]
from signal import SIGINT, default_int_handler
from types import FrameType, TracebackType
from typing import Final

__all__ = ["Whole"]

_NUMBER: Final = int(SIGINT)


class Whole:
    """What is done inside is done whole: Ctrl-C is raised when it is over; a second Ctrl-C does not wait.

    Only where Ctrl-C raises KeyboardInterrupt, in the main thread: who has a handler of their own keeps it.
    """

    __slots__ = ("_asked", "_ours")

    def __enter__(self) -> None:
        self._asked = False
        main = threading.get_ident() == threading.main_thread().ident
        self._ours = main and getsignal(_NUMBER) is default_int_handler
        if self._ours:
            signal(_NUMBER, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            default_int_handler(number, frame)
        self._asked = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._ours:
            return
        signal(_NUMBER, default_int_handler)
        if self._asked and kind is not KeyboardInterrupt:
            raise KeyboardInterrupt
