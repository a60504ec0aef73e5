"""Counter-based random bits: each element's number depends on the seed, the name, the step and the element's index alone.

So a value does not change when its graph is cut into tiles or moved to other machines.

Source  Philox4x32-10 (Salmon et al., SC 2011, "Parallel random numbers: as easy as 1, 2, 3")
"""

from __future__ import annotations

import hashlib

import numpy as np

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)


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


def uniform_of(w0: np.ndarray, w1: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Uniform numbers in [0, 1) from two random words each."""
    if dtype == np.float32:
        return ((w0 >> np.uint64(8)).astype(np.float32)) * np.float32(2.0**-24)
    return ((w0 << np.uint64(21)) ^ (w1 >> np.uint64(11))).astype(np.float64) * 2.0**-53


def normal_of(w0: np.ndarray, w1: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Standard normal numbers from two random words each (Box and Muller's transform, of which only the cosine is taken)."""
    if dtype == np.float32:
        return _normal_f32(w0, w1)
    u = ((w0 >> np.uint64(8)).astype(np.float64) + 1.0) * 2.0**-24  # (0, 1]: the logarithm stays finite
    v = (w1 >> np.uint64(8)).astype(np.float64) * 2.0**-24
    return (np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)).astype(dtype)


# Factors from the highest power down, in float32.
LOG = (0.070376836292, -0.1151461031, 0.116769987400, -0.12420140846, 0.14249322787, -0.16668057665, 0.20000714765,
       -0.24999993993, 0.33333331174)  # fmt: skip
SINE = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
COSINE = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
LN2 = (-2.12194440e-4, 0.693359375)  # their sum; the second has few bits
HALF_ROOT = 0.70710678118654752
ANGLE = 2.0 * np.pi * 2.0**-24  # of the least step of a turn


def _normal_f32(w0: np.ndarray, w1: np.ndarray) -> np.ndarray:
    """Of operations that IEEE 754 rounds in one way only, so that machine code (ops/fill.py) gives the same bits anywhere.

    Source  Cephes' logf, sinf and cosf (S. Moshier, 1992)
    """
    f, half, one = np.float32, np.float32(0.5), np.float32(1)
    u = ((w0 >> np.uint64(8)) + np.uint64(1)).astype(f) * f(2.0**-24)  # (0, 1]
    bits = u.view(np.int32)
    power = ((bits >> 23) - 126).astype(f)
    x = ((bits & 0x7FFFFF) | 0x3F000000).view(f)  # u = x * 2**power, with x from 0.5 up to 1
    low = x < f(HALF_ROOT)
    power, x = np.where(low, power - one, power), np.where(low, x + x - one, x - one)
    z = x * x
    rest = _polynomial(x, LOG) * z + power * f(LN2[0]) - half * z
    radius = np.sqrt(f(-2) * (x + rest + power * f(LN2[1])))
    v = (w1 >> np.uint64(8)).astype(np.int32) + (1 << 21)
    quarter = v >> 22  # of a turn, each around one axis
    a = ((v & 0x3FFFFF) - (1 << 21)).astype(f) * f(ANGLE)
    z = a * a
    sine = _polynomial(z, SINE) * a + a
    cosine = _polynomial(z, COSINE) * z - half * z + one
    wave = np.where((quarter & 1) != 0, sine, cosine)
    return np.asarray(radius * np.where(((quarter + 1) & 2) != 0, -wave, wave))


def _polynomial(x: np.ndarray, factors: tuple[float, ...]) -> np.ndarray:
    """The factors' polynomial, times x."""
    total = x * np.float32(factors[0])
    for factor in factors[1:]:
        total = (total + np.float32(factor)) * x
    return total
