"""Random numbers into arrays: the same bits by NumPy, for few, and by machine code, for the many of a large variable.

out = number(index in the whole array) * scale + shift
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from math import prod
from typing import Any, Final

import numpy as np

from rainshed.ops.array_kernel import ArrayKernel, Form, array_kernel
from rainshed.ops.code_cache import can_compile, digest_of
from rainshed.ops.launch import bound
from rainshed.ops.philox import ANGLE, COSINE, HALF_ROOT, LN2, LOG, SINE, element_indices, normal_of, philox, uniform_of

CHUNK: Final = 1 << 13  # elements at a time by NumPy: the ten rounds stay in the cache
BLOCK: Final = 1024  # by machine code
COMPILED_FROM: Final = 1 << 20  # elements of one box: fewer are not worth loading a compiler
NUMBERS: Final = {"uniform": uniform_of, "normal": normal_of}


@dataclass(frozen=True, slots=True)
class Stream:
    """Where numbers come from: two key words, the step, and the shape of the array whose elements are counted."""

    key: tuple[int, int]
    whole: tuple[int, ...]
    step: int = 0


def fill_uniform(out: np.ndarray, stream: Stream, offset: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> None:
    """Fill `out`, the box at `offset` of the stream's array, with uniform numbers in [low, high)."""
    _fill(out, stream, offset, "uniform", (high - low, low))


def fill_normal(out: np.ndarray, stream: Stream, offset: tuple[int, ...], mean: float = 0.0, std: float = 1.0) -> None:
    """The same with normal numbers."""
    _fill(out, stream, offset, "normal", (std, mean))


def _fill(out: np.ndarray, stream: Stream, offset: tuple[int, ...], kind: str, line: tuple[float, float]) -> None:
    run = compiled(kind) if out.size >= COMPILED_FROM and out.dtype == np.float32 and out.flags.c_contiguous else None
    if run is not None:
        length, starts = runs_of(stream.whole, offset, out.shape)
        words = np.array([stream.step & 0xFFFFFFFF, stream.step >> 32 & 0xFFFFFFFF, *stream.key], np.uint64)
        run(out.reshape(-1), starts, length, words, np.array(line, np.float32), *room())
    elif out.ndim == 0:
        out[...] = _numbers(np.zeros(1, np.uint64), stream, kind, line, out.dtype)[0]
    elif out.size:
        rows = max(1, CHUNK // out[0].size)
        for start in range(0, out.shape[0], rows):
            block = out[start : start + rows]
            index = element_indices(stream.whole, (offset[0] + start, *offset[1:]), block.shape)
            block[...] = _numbers(index, stream, kind, line, out.dtype)


def _numbers(index: np.ndarray, stream: Stream, kind: str, line: tuple[float, float], dtype: np.dtype) -> np.ndarray:
    found = NUMBERS[kind](*philox(index, stream.step, stream.key), dtype)
    scale, shift = line
    found *= found.dtype.type(scale)
    found += found.dtype.type(shift)
    return found


def runs_of(whole: tuple[int, ...], offset: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, np.ndarray]:
    """A box as runs of neighbours in the whole array: how long they are, and the index at which each begins (uint64)."""
    axis = len(shape)
    while axis and shape[axis - 1 :] == whole[axis - 1 :]:
        axis -= 1
    split = max(0, axis - 1)  # the first axis of a run: all behind it are taken whole
    inner = element_indices(whole, (*offset[:split], *offset[split:]), (*shape[:split], *(1,) * (len(shape) - split)))
    return prod(shape[split:]), inner.reshape(-1)


# -- plain functions, compiled with these names bound -----------------------------------------------------------------
U32, U64, I32, F32 = np.uint32, np.uint64, np.int32, np.float32
draw: Any = None
shape: Any = None


def _bits(first, n, words, w0, w1):  # type: ignore[no-untyped-def]
    """philox() for n neighbours."""
    low, half = U64(0xFFFFFFFF), U64(32)
    for i in range(n):
        index = first + U64(i)
        c0, c1, c2, c3 = index & low, index >> half, words[0], words[1]
        k0, k1 = words[2], words[3]
        for _ in range(10):
            p0, p1 = U64(0xD2511F53) * c0, U64(0xCD9E8D57) * c2
            c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & low, (p0 >> half) ^ c3 ^ k1, p0 & low
            k0, k1 = (k0 + U64(0x9E3779B9)) & low, (k1 + U64(0xBB67AE85)) & low
        w0[i], w1[i] = U32(c0), U32(c1)


def _uniform(n, w0, w1, floats, bits, fractions, xs, out, at, scale, shift):  # type: ignore[no-untyped-def]
    """uniform_of(), in float32."""
    for i in range(n):
        out[at + i] = F32(I32(w0[i] >> U32(8))) * F32(2.0**-24) * scale + shift


def _normal(n, w0, w1, floats, bits, fractions, xs, out, at, scale, shift):  # type: ignore[no-untyped-def]
    """normal_of(), in float32: the same operations in the same order."""
    for i in range(n):
        floats[i] = F32(I32(w0[i] >> U32(8)) + I32(1)) * F32(2.0**-24)
    for i in range(n):
        fractions[i] = (bits[i] & I32(0x7FFFFF)) | I32(0x3F000000)
    for i in range(n):
        power, x = F32((bits[i] >> I32(23)) - I32(126)), xs[i]
        low = x < F32(HALF_ROOT)
        power = power - F32(1) if low else power
        x = x + x - F32(1) if low else x - F32(1)
        z = x * x
        rest = x * F32(LOG[0])
        for j in range(1, len(LOG)):
            rest = (rest + F32(LOG[j])) * x
        rest = rest * z + power * F32(LN2[0]) - F32(0.5) * z
        radius = np.sqrt(F32(-2) * (x + rest + power * F32(LN2[1])))
        v = I32(w1[i] >> U32(8)) + I32(1 << 21)
        quarter = v >> I32(22)
        a = F32((v & I32(0x3FFFFF)) - I32(1 << 21)) * F32(ANGLE)
        z = a * a
        sine = ((z * F32(SINE[0]) + F32(SINE[1])) * z + F32(SINE[2])) * z * a + a
        cosine = ((z * F32(COSINE[0]) + F32(COSINE[1])) * z + F32(COSINE[2])) * z * z - F32(0.5) * z + F32(1)
        wave = sine if quarter & I32(1) else cosine
        wave = -wave if (quarter + I32(1)) & I32(2) else wave
        out[at + i] = radius * wave * scale + shift


def _run(out, starts, length, words, line, w0, w1, floats, bits, fractions, xs):  # type: ignore[no-untyped-def]
    """Fill all of `out`, which holds the runs one behind the other. The last six: see room()."""
    for row in range(len(starts)):
        for column in range(0, length, BLOCK):
            n = min(BLOCK, length - column)
            draw(starts[row] + U64(column), n, words, w0, w1)
            shape(n, w0, w1, floats, bits, fractions, xs, out, row * length + column, line[0], line[1])


def _chances(out, starts, length, words, limit, w0, w1):  # type: ignore[no-untyped-def]
    """1 where the 53 bits of uniform_of() are less than `limit`, else 0."""
    for row in range(len(starts)):
        for column in range(0, length, BLOCK):
            n, at = min(BLOCK, length - column), row * length + column
            draw(starts[row] + U64(column), n, words, w0, w1)
            for i in range(n):
                out[at + i] = ((U64(w0[i]) << U64(21)) ^ U64(w1[i] >> U32(11))) < limit[0]


def room() -> tuple[np.ndarray, ...]:
    """Where a call keeps what is on its way: two words of each number, and two floats, as floats and as their bits."""
    words, floats = np.empty((2, BLOCK), np.uint32), np.empty((2, BLOCK), np.float32)
    bits = floats.view(np.int32)
    return words[0], words[1], floats[0], bits[0], bits[1], floats[1]


PLACES: Final = ("u64", "n", "u64")  # runs (see runs_of), and the words of step and key


@lru_cache(maxsize=1)
def compiled_chances() -> ArrayKernel | None:
    """`_chances` as machine code that releases the GIL; None with NUMBA_DISABLE_JIT=1."""
    if not can_compile():
        return None
    return _kernel("chances", ("u8", *PLACES, "u64", "u32", "u32"), _chances)


@lru_cache(maxsize=2)
def compiled(kind: str) -> ArrayKernel | None:
    """`_run` for numbers of this kind as machine code that releases the GIL; None with NUMBA_DISABLE_JIT=1."""
    if not can_compile():
        return None
    form = ("f32", *PLACES, "f32", "u32", "u32", "f32", "i32", "i32", "f32")
    return _kernel(kind, form, _run, shape=_normal if kind == "normal" else _uniform)


def _kernel(name: str, form: Form, function: Callable[..., None], **inner: Callable[..., None]) -> ArrayKernel:
    def make() -> Any:
        njit = partial(import_module("numba").njit, error_model="numpy", _nrt=False)  # arrays are borrowed
        return bound(function, **{n: njit(f) for n, f in {"draw": _bits, **inner}.items()})

    return array_kernel(name, form, digest_of(__name__, "rainshed.ops.philox"), make)
