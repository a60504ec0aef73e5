"""How much memory this process has held."""

from __future__ import annotations

import resource


def peak_memory_nbytes() -> int:
    """The most memory this process has held at once (ru_maxrss: kibibytes on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
