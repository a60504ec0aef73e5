"""Counter-based random bits: each element's number depends on the seed, the name, the step and the element's index alone.

So a value does not change when its graph is cut into tiles or moved to other machines.

Source  Philox4x32-10 (Salmon et al., SC 2011, "Parallel random numbers: as easy as 1, 2, 3")
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
CHUNK = 1 << 15  # elements at a time: the ten rounds stay in the cache


def key_of(seed: int, name: str) -> tuple[int, int]:
    """The two key words of one stream: a hash of the seed and the stream's name."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def philox(index: np.ndarray, step: int, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two random 32-bit words for each element index (uint64), held in uint64 arrays."""
    c0, c1 = index & _LOW, index >> _SHIFT
    c2 = np.full_like(index, np.uint64(step & 0xFFFFFFFF))
    c3 = np.full_like(index, np.uint64(step >> 32 & 0xFFFFFFFF))
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return c0, c1


def element_indices(whole: tuple[int, ...], offset: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Row-major indices, in an array of shape `whole`, of the box at `offset`; uint64 of shape `shape`."""
    total = np.zeros(shape, np.uint64)
    stride = 1
    for axis in range(len(whole) - 1, -1, -1):
        line = (np.arange(shape[axis], dtype=np.uint64) + np.uint64(offset[axis])) * np.uint64(stride)
        total += line.reshape([-1 if a == axis else 1 for a in range(len(whole))])
        stride *= whole[axis]
    return total


def fill_uniform(
    out: np.ndarray, key: tuple[int, int], step: int, whole: tuple[int, ...], offset: tuple[int, ...]
) -> None:
    """Fill `out`, the box at `offset` of an array of shape `whole`, with uniform numbers in [0, 1)."""
    _fill(out, key, step, whole, offset, _uniform)


def fill_normal(
    out: np.ndarray, key: tuple[int, int], step: int, whole: tuple[int, ...], offset: tuple[int, ...]
) -> None:
    """The same with standard normal numbers (Box and Muller's transform, one number per element)."""
    _fill(out, key, step, whole, offset, _normal)


def _uniform(w0: np.ndarray, w1: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype == np.float32:
        return ((w0 >> np.uint64(8)).astype(np.float32)) * np.float32(2.0**-24)
    return ((w0 << np.uint64(21)) ^ (w1 >> np.uint64(11))).astype(np.float64) * 2.0**-53


def _normal(w0: np.ndarray, w1: np.ndarray, dtype: np.dtype) -> np.ndarray:
    u = ((w0 >> np.uint64(8)).astype(np.float64) + 1.0) * 2.0**-24  # (0, 1]: the logarithm stays finite
    v = (w1 >> np.uint64(8)).astype(np.float64) * 2.0**-24
    return (np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)).astype(dtype)


def _fill(
    out: np.ndarray,
    key: tuple[int, int],
    step: int,
    whole: tuple[int, ...],
    offset: tuple[int, ...],
    make: Callable[[np.ndarray, np.ndarray, np.dtype], np.ndarray],
) -> None:
    if out.size == 0:
        return
    if out.ndim == 0:
        out[...] = make(*philox(np.zeros(1, np.uint64), step, key), out.dtype)[0]
        return
    row = out[0].size
    rows = max(1, CHUNK // max(1, row))
    for start in range(0, out.shape[0], rows):
        block = out[start : start + rows]
        index = element_indices(whole, (offset[0] + start, *offset[1:]), block.shape)
        block[...] = make(*philox(index, step, key), out.dtype)
