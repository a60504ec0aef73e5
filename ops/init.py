"""How a variable starts: a small record, so that each machine can fill just the part that it holds.

The numbers are counter-based (see philox.py): a part filled alone equals the same part of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rainshed.ops.errors import GraphError, ShapeError
from rainshed.ops.fill import Stream, fill_normal, fill_uniform
from rainshed.ops.philox import key_of
from rainshed.ops.types import DType

KINDS = {"constant": 1, "uniform": 2, "normal": 2, "array": 0}


@dataclass(frozen=True, slots=True, eq=False)
class Init:
    """constant(value) | uniform(low, high) | normal(mean, std) | array(values)."""

    kind: str
    numbers: tuple[float, ...] = ()
    values: np.ndarray | None = None

    @classmethod
    def of(cls, value: Any) -> Init:
        """The Init meant by an Init, a number or an array."""
        if isinstance(value, Init):
            return value
        if isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
            return cls("constant", (float(value),))
        if isinstance(value, (np.ndarray, np.generic, list, tuple)):
            array = np.array(value)
            if array.dtype.kind not in "fiub":
                raise GraphError(f"an initial value must hold numbers; found element type {array.dtype}")
            array.flags.writeable = False
            return cls("array", (), array)
        raise GraphError(f"init must be a number, an array, or one of rs.init.*; found {type(value).__name__}")

    def __post_init__(self) -> None:
        if (
            self.kind not in KINDS
            or len(self.numbers) != KINDS[self.kind]
            or (self.kind == "array") != (self.values is not None)
        ):
            raise GraphError(f"there is no initialiser {self}", known=", ".join(KINDS))
        if not all(np.isfinite(n) for n in self.numbers):
            raise GraphError(f"initialiser {self} has a number that is not finite")

    def __str__(self) -> str:
        if self.values is not None:
            return f"array({list(self.values.shape)})"
        return f"{self.kind}({', '.join(format(n, 'g') for n in self.numbers)})"

    def check(self, name: str, shape: tuple[int, ...], dtype: DType) -> None:
        if self.values is not None and self.values.shape != shape:
            raise ShapeError(
                f"variable {name!r} has shape {list(shape)}, but its initial value {list(self.values.shape)}"
            )

    def fill(self, out: np.ndarray, *, seed: int, name: str, whole: tuple[int, ...], offset: tuple[int, ...]) -> None:
        """Fill `out`, the box at `offset` of the variable `name` of shape `whole`."""
        if self.values is not None:
            box = tuple(slice(o, o + n) for o, n in zip(offset, out.shape, strict=True))
            # A variable that was split holds only its own part of the values.
            out[...] = self.values if self.values.shape == out.shape else self.values[box]
        elif self.kind == "constant":
            out[...] = self.numbers[0]
        elif self.kind == "uniform":
            low, high = self.numbers
            fill_uniform(out, Stream(key_of(seed, name), whole), offset, low, high)
        else:
            mean, std = self.numbers
            fill_normal(out, Stream(key_of(seed, name), whole), offset, mean, std)
