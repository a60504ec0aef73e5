"""exp, tanh and sigmoid of float32, from operations that IEEE 754 defines to the bit: so NumPy and machine code agree in every
bit; and sums of rows in one order.

They are written once: for arrays here, for numbers in `machine_code.py`. At most 2.5 units in the last place from the exact
value; what would be below the smallest normal number is 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from types import CodeType, MappingProxyType
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]
Function = Callable[[Any], Any]

LANES: Final = 16  # sums of a row that are made side by side
BLOCK: Final = 1 << 12  # numbers at a time: the values on the way stay in the nearest cache


def functions(
    select: Callable[[Any, Any, Any], Any],
    power_of_two: Function,
    number: Any = np.float32,
    compiled: Callable[[Function], Function] = lambda f: f,
) -> Mapping[str, Function]:
    """The functions, for whatever these work on.

    select        (condition, a, b) -> a where it holds, else b
    power_of_two  12583039 + n -> 2**n, for whole n from -126 to 127: the low bits of such a float hold n + 127
    Source        Cephes Math Library 2.2: expf.c, tanhf.c (Moshier 1992)
    """
    low = number(-87.33)  # exp of less is below the smallest normal number

    @compiled
    def falling(a: Any) -> Any:
        """exp(a), for a <= 0"""
        below = a < low
        a = select(below, low, a)
        z = a * number(1.44269504088896341) + number(12583039.0)  # rounds to whole n, and puts it into the low bits
        n = z - number(12583039.0)
        r = (a - n * number(0.693359375)) - n * number(-2.12194440e-4)
        p = number(1.9875691500e-4) * r + number(1.3981999507e-3)
        p = p * r + number(8.3334519073e-3)
        p = p * r + number(4.1665795894e-2)
        p = p * r + number(1.6666665459e-1)
        p = p * r + number(5.0000001201e-1)
        return select(below, number(0), ((p * (r * r) + r) + number(1)) * power_of_two(z))

    @compiled
    def sigmoid(x: Any) -> Any:
        t = falling(-abs(x))
        return select(x < number(0), t, number(1)) / (number(1) + t)

    @compiled
    def tanh(x: Any) -> Any:
        t = falling(number(-2) * abs(x))
        y = number(1) - (t + t) / (number(1) + t)
        s = x * x
        p = number(-5.70498872745e-3) * s + number(2.06390887954e-2)
        p = p * s + number(-5.37397155531e-2)
        p = p * s + number(1.33314422036e-1)
        p = p * s + number(-3.33332819422e-1)
        return select(abs(x) < number(0.625), x + x * s * p, select(x < number(0), -y, y))

    return MappingProxyType({"falling": falling, "sigmoid": sigmoid, "tanh": tanh})


def version() -> str:
    """Differs when the functions do: part of what compiled code is cached by."""
    inner = [c for c in functions.__code__.co_consts if isinstance(c, CodeType)]
    text = repr([(c.co_name, c.co_code, c.co_names, [x for x in c.co_consts if isinstance(x, float)]) for c in inner])
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _power_of_two(z: Array) -> Array:
    found: Array = (z.view(np.int32) << 23).view(np.float32)
    return found


_ARRAYS: Final = functions(np.where, _power_of_two)


def kernel(name: str, otherwise: Callable[[Array, Array], object]) -> Callable[[Array, Array], None]:
    """(x, out): the function of float32, block by block; `otherwise` for other types."""
    function = _ARRAYS[name]

    def fill(x: Array, out: Array) -> None:
        if x.dtype != np.float32:
            otherwise(x, out)
            return
        source, lies = np.ascontiguousarray(x).reshape(-1), out.flags.c_contiguous
        target = out.reshape(-1) if lies else np.empty(out.size, np.float32)
        with np.errstate(all="ignore"):
            for low in range(0, target.size, BLOCK):
                target[low : low + BLOCK] = function(source[low : low + BLOCK])
        if not lies:
            out[...] = target.reshape(out.shape)

    return fill


def row_sums(x: Array) -> Array:
    """Sums over the last axis, of float32: every LANES-th number, one after the other; then these sums in pairs."""
    whole = x.shape[-1] // LANES * LANES
    lanes = x[..., :whole].reshape(*x.shape[:-1], whole // LANES, LANES).sum(axis=-2)
    lanes[..., : x.shape[-1] - whole] += x[..., whole:]
    half = LANES // 2
    while half:
        lanes = lanes[..., :half] + lanes[..., half:]
        half //= 2
    found: Array = lanes[..., 0]
    return found
