"""What a process may use of the computer it runs on."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may run on: by its affinity, and on Linux by the limit of its control group."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        return affinity
    return affinity if quota == "max" else max(1, min(affinity, -(-int(quota) // int(period))))


def memory_bytes() -> int:
    """All there is, whoever uses it; 8 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 8 * 2**30


def processor_has(feature: str) -> bool:
    """Whether this computer's processor has a feature, in the words of /proc/cpuinfo; False where there is no such file."""
    try:
        return feature in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


@lru_cache(maxsize=1)
def multiplies_bfloat16() -> bool:
    """Whether this computer's processor has instructions for products of bfloat16, which ops/bf16_product.py uses."""
    return processor_has("avx512_bf16")
