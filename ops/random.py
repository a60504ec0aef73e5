"""Random numbers in a graph: random_uniform, random_normal, random_bernoulli, and dropout.

A number depends on the seed, the stream's name, the step and the element's index in the whole array, and on nothing
else: so it is the same however the graph is cut, and wherever its tiles run. Two values of one name, seed and shape are
equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rainshed.ops.access import Access, Axis, Reach
from rainshed.ops.elementwise import multiply, where
from rainshed.ops.errors import DTypeError, GraphError
from rainshed.ops.fill import Stream, fill_normal, fill_uniform
from rainshed.ops.ir import Attrs, Node, current_origin
from rainshed.ops.op import REQUIRED, Cost, Op, Tile, Types, constant_op, op
from rainshed.ops.philox import key_of
from rainshed.ops.random_native import chances, draws
from rainshed.ops.source import clean_part, step_op
from rainshed.ops.types import TensorType, Type, bool_, dtype_of, fixed, float32, int64, number_of, shape_of, whole_of

# `stream` is the name of the numbers; `whole` and `offset` tell which part of the whole array this node is.
PLACE: Mapping[str, Any] = {"shape": REQUIRED, "stream": REQUIRED, "seed": 0, "whole": None, "offset": None}


def _cleaner(name: str, numbers: tuple[str, ...], kinds: tuple[str, ...]) -> Callable[..., Mapping[str, Any]]:
    def clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
        if types[0] != TensorType(int64, ()):
            raise GraphError(f"{name}: its input is the step, {TensorType(int64, ())}; found {types[0]}")
        stream, seed = attrs["stream"], attrs["seed"]
        if not isinstance(stream, str) or not stream:
            raise GraphError(f"{name}: needs a name for its numbers; found {stream!r}")
        if whole_of(seed) is None:
            raise GraphError(f"{name}: a seed is a whole number; found {seed!r}")
        shape, dtype = shape_of(name, attrs["shape"]), dtype_of(attrs["dtype"])
        if dtype.kind not in kinds:
            raise DTypeError(f"{name}: gives {' or '.join(kinds)}, not {dtype}")
        found = {key: _finite(name, key, attrs[key]) for key in numbers}
        return {**attrs, **clean_part(name, shape, attrs), **found, "shape": shape, "dtype": dtype, "seed": int(seed)}

    return clean


def _finite(name: str, key: str, value: Any) -> float:
    number = number_of(value)
    if number is None:
        raise GraphError(f"{name}: {key} is a finite number; found {value!r}")
    return number


def _infer(types: Types, attrs: Attrs) -> Type:
    return TensorType(attrs["dtype"], attrs["shape"])


def _access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    shape = fixed(output.shape)
    return Access(
        axes=tuple(Axis(f"b{i}", size) for i, size in enumerate(shape)),
        inputs=((),),
        output=tuple(Reach(i) for i in range(len(shape))),
    )


def _tile(tile: Tile) -> Mapping[str, Any]:
    base = tile.attrs["offset"] or (0,) * len(tile.box)
    return {
        "shape": tuple(high - low for low, high in tile.box),
        "offset": tuple(b + low for b, (low, _) in zip(base, tile.box, strict=True)),
        "whole": tile.attrs["whole"] or fixed(tile.output.shape),
    }


def _stream(out: np.ndarray, step: np.ndarray, attrs: Mapping[str, Any]) -> tuple[Stream, tuple[int, ...]]:
    """The node's numbers, and where `out` lies in their array."""
    whole, offset = attrs["whole"] or out.shape, attrs["offset"] or (0,) * out.ndim
    return Stream(key_of(attrs["seed"], attrs["stream"]), whole, int(step)), offset


def _uniform_cpu(step: np.ndarray, out: np.ndarray, *, low: float, high: float, **attrs: Any) -> None:
    fill_uniform(out, *_stream(out, step, attrs), low, high)


def _normal_cpu(step: np.ndarray, out: np.ndarray, *, mean: float, std: float, **attrs: Any) -> None:
    fill_normal(out, *_stream(out, step, attrs), mean, std)


def _bernoulli_cpu(step: np.ndarray, out: np.ndarray, *, p: float, **attrs: Any) -> None:
    drawn = np.empty(out.shape, np.float64)
    fill_uniform(drawn, *_stream(out, step, attrs))
    out[...] = drawn < p


def _random(numbers: dict[str, Any], kinds: tuple[str, ...], **rest: Any) -> Op:
    name = rest["name"]
    return op(
        work="elementwise",
        arity=1,
        attrs={**PLACE, "dtype": "float32", **numbers},
        clean=_cleaner(name, tuple(n for n in numbers if n != "dtype"), kinds),
        infer=_infer,
        access=_access,
        tile=_tile,
        doc=f"Numbers of the distribution {name.removeprefix('random_')}, new at each step, which is the input.",
        **rest,
    )


def _cost(flops: int) -> Callable[[Types, Type, Attrs], Cost]:
    return lambda types, output, attrs: Cost(flops * output.nbytes)


uniform_op: Op = _random(
    {"low": 0.0, "high": 1.0},
    ("float",),
    name="random_uniform",
    cost=_cost(20),
    cpu=_uniform_cpu,
    native=draws("uniform", lambda attrs: (attrs["high"] - attrs["low"], attrs["low"])),
)
normal_op: Op = _random(
    {"mean": 0.0, "std": 1.0},
    ("float",),
    name="random_normal",
    cost=_cost(30),
    cpu=_normal_cpu,
    native=draws("normal", lambda attrs: (attrs["std"], attrs["mean"])),
)
bernoulli_op: Op = _random(
    {"p": REQUIRED, "dtype": "bool"},
    ("float", "int", "bool"),
    name="random_bernoulli",
    cost=_cost(20),
    cpu=_bernoulli_cpu,
    native=chances,
)


def random_uniform(
    shape: Any, *, name: str, low: float = 0.0, high: float = 1.0, dtype: Any = float32, seed: int = 0
) -> Node:
    """Uniform numbers in [low, high), other ones at each step. `name` tells them from other random values."""
    return uniform_op(step_op(), shape=shape, stream=name, low=low, high=high, dtype=dtype, seed=seed)


def random_normal(
    shape: Any, *, name: str, mean: float = 0.0, std: float = 1.0, dtype: Any = float32, seed: int = 0
) -> Node:
    """Normal numbers, other ones at each step. `name` tells them from other random values."""
    return normal_op(step_op(), shape=shape, stream=name, mean=mean, std=std, dtype=dtype, seed=seed)


def random_bernoulli(shape: Any, p: float, *, name: str, dtype: Any = bool_, seed: int = 0) -> Node:
    """True (or 1) with probability p, drawn anew at each step. `name` tells it from other random values."""
    chance = number_of(p)
    if chance is None or not 0 <= chance <= 1:
        raise GraphError(f"random_bernoulli: p is a probability, from 0 to 1; found {p!r}", built_at=current_origin())
    return bernoulli_op(step_op(), shape=shape, stream=name, p=chance, dtype=dtype, seed=seed)


def dropout(x: Node, rate: float, *, name: str, seed: int = 0) -> Node:
    """x with each element set to 0 with probability `rate`, and the others divided by 1 - rate: the mean stays.

    Source  Srivastava et al., JMLR 2014
    """
    share = number_of(rate)
    if share is None or not 0 <= share < 1:
        raise GraphError(f"dropout: rate is at least 0 and less than 1; found {rate!r}", built_at=current_origin())
    if x.dtype.kind != "float":
        raise DTypeError(f"dropout: takes float; found {x.type}", built_at=current_origin())
    if share == 0:
        return x
    kept = random_bernoulli(x.shape, 1 - share, name=name, seed=seed)
    return where(kept, multiply(x, 1 / (1 - share)), constant_op(value=np.zeros((), x.dtype.numpy)))
