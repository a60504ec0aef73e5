"""How a variable starts: `init=` of `rs.variable` and of every layer.

A layer knows how many values each of its results sums up (fan_in) and how many results each of its inputs reaches
(fan_out). The initialisers that depend on them are functions of both, handed to a layer as they are:
`dense(x, 10, init=rs.init.he_normal)`. All numbers are counter-based: a machine that holds one part of a variable
fills just that part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from rainshed.ops.errors import GraphError, RainshedError
from rainshed.ops.init import Init
from rainshed.ops.ir import current_origin
from rainshed.ops.op import located
from rainshed.ops.types import number_of

Initialiser = Callable[[int, int], Init]  # (fan_in, fan_out) -> how the variable starts

__all__ = [
    "Init",
    "constant",
    "fans",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "scaled",
    "start",
    "uniform",
    "zeros",
]


def constant(value: float) -> Init:
    """Every element is `value`."""
    return Init("constant", (_number("constant", value),))


def zeros() -> Init:
    """Every element is 0."""
    return constant(0.0)


def ones() -> Init:
    """Every element is 1."""
    return constant(1.0)


def uniform(low: float = -0.05, high: float = 0.05) -> Init:
    """Evenly spread over [low, high)."""
    low, high = _number("uniform", low), _number("uniform", high)
    if low > high:
        raise GraphError(f"init.uniform: low is {low}, above high {high}")
    return Init("uniform", (low, high))


def normal(mean: float = 0.0, std: float = 0.05) -> Init:
    """Normally distributed."""
    mean, std = _number("normal", mean), _number("normal", std)
    if std < 0:
        raise GraphError(f"init.normal: the standard deviation is {std}, below 0")
    return Init("normal", (mean, std))


def glorot_uniform(fan_in: int, fan_out: int, gain: float = 1.0) -> Init:
    """Uniform with variance gain^2 * 2 / (fan_in + fan_out), also named after Xavier; the default of dense layers.

    Source  Glorot and Bengio, AISTATS 2010, equation 16
    """
    return _uniform("glorot_uniform", fan_in, fan_out, gain * gain * 2 / _positive("glorot_uniform", fan_in + fan_out))


def glorot_normal(fan_in: int, fan_out: int, gain: float = 1.0) -> Init:
    """Normal with variance gain^2 * 2 / (fan_in + fan_out)."""
    return _normal("glorot_normal", fan_in, fan_out, gain * gain * 2 / _positive("glorot_normal", fan_in + fan_out))


def he_uniform(fan_in: int, fan_out: int, gain: float = 1.0) -> Init:
    """Uniform with variance gain^2 * 2 / fan_in: keeps the scale through rectifiers.

    Source  He et al., ICCV 2015, section 2.2
    """
    return _uniform("he_uniform", fan_in, fan_out, gain * gain * 2 / _positive("he_uniform", fan_in))


def he_normal(fan_in: int, fan_out: int, gain: float = 1.0) -> Init:
    """Normal with variance gain^2 * 2 / fan_in."""
    return _normal("he_normal", fan_in, fan_out, gain * gain * 2 / _positive("he_normal", fan_in))


def lecun_uniform(fan_in: int, fan_out: int, gain: float = 1.0) -> Init:
    """Uniform with variance gain^2 / fan_in.

    Source  LeCun et al., Efficient BackProp, 1998, section 4.6
    """
    return _uniform("lecun_uniform", fan_in, fan_out, gain * gain / _positive("lecun_uniform", fan_in))


def lecun_normal(fan_in: int, fan_out: int, gain: float = 1.0) -> Init:
    """Normal with variance gain^2 / fan_in."""
    return _normal("lecun_normal", fan_in, fan_out, gain * gain / _positive("lecun_normal", fan_in))


def scaled(initialiser: Callable[..., Init], gain: float) -> Initialiser:
    """The initialiser with its standard deviation multiplied by `gain`: 4 suits sigmoid layers, 5/3 tanh."""
    return partial(initialiser, gain=_number("scaled", gain))


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of weights of shape [..., inputs, outputs], whose further axes are a window over the input."""
    window = math.prod(shape[:-2])
    if len(shape) < 2:
        return math.prod(shape), math.prod(shape)
    return window * shape[-2], window * shape[-1]


def start(value: Any, fan_in: int, fan_out: int) -> Init:
    """What a layer's `init` means: an Init, a number, an array, or a function of the fans such as `he_normal`."""
    try:
        if not callable(value):
            return Init.of(value)
        made = value(fan_in, fan_out)
        if not isinstance(made, Init):
            raise GraphError(f"an initialiser gives an Init; {value!r} gave {type(made).__name__}")
        return made
    except RainshedError as error:
        raise located(error, current_origin()) from None


def _uniform(name: str, fan_in: int, fan_out: int, variance: float) -> Init:
    _positive(name, min(fan_in, fan_out))
    limit = math.sqrt(3 * variance)
    return uniform(-limit, limit)


def _normal(name: str, fan_in: int, fan_out: int, variance: float) -> Init:
    _positive(name, min(fan_in, fan_out))
    return normal(0.0, math.sqrt(variance))


def _positive(name: str, fan: int) -> int:
    if fan < 1:
        raise GraphError(f"init.{name}: a fan is {fan}; both must be at least 1")
    return fan


def _number(name: str, value: float) -> float:
    number = number_of(value)
    if number is None:
        raise GraphError(f"init.{name}: takes finite numbers; found {value!r}")
    return number
