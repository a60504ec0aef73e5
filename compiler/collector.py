"""Python's collector of cycles, at rest while a plan is made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_rest() -> Iterator[None]:
    """No search for cycles inside: nodes, tiles and instructions are millions of objects and in no cycle, so the collector would
    walk through them again and again to find nothing. Reference counts free them as always."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
