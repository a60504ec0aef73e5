"""How a gradient moves its variable: SGD, Momentum, Adagrad, RMSProp, Adam.

Each is written once, as element-wise nodes. Training in the graph puts them behind the gradients; a parameter server
gets the same rule as text. So a step taken here and a step taken there are the same step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

from rainshed.ops.elementwise import astype, expm1, maximum, minimum, sqrt, square
from rainshed.ops.errors import GraphError
from rainshed.ops.ir import Node
from rainshed.ops.types import number_of
from rainshed.ops.update import UpdateRule

__all__ = ["SGD", "Adagrad", "Adam", "Momentum", "Optimizer", "RMSProp"]

Slots = Mapping[str, Node]
Moved = tuple[Node, dict[str, Node]]  # the step to subtract from w, and the slots anew


@dataclass(frozen=True)
class Optimizer(ABC):
    """What all optimizers share.

    rate          the learning rate
    weight_decay  each step also shrinks w by rate * weight_decay * w, apart from the gradient's own scaling
    clip          each element of a gradient is first limited to [-clip, clip]
    Raises  GraphError unless rate is finite and positive, and the others finite and not negative
    Source  of the decay: Loshchilov and Hutter, ICLR 2019
    """

    rate: float
    weight_decay: float = field(default=0.0, kw_only=True)
    clip: float | None = field(default=None, kw_only=True)

    may_be_zero: ClassVar[tuple[str, ...]] = ("weight_decay",)
    below_one: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for one in fields(self):
            given = getattr(self, one.name)
            if isinstance(one.default, bool) or (given is None and one.name == "clip"):
                continue
            value = number_of(given)
            if value is None:
                raise GraphError(f"{self.name}: {one.name} must be a finite number; found {given!r}")
            object.__setattr__(self, one.name, value)
            if one.name in self.below_one and not 0 <= value < 1:
                raise GraphError(f"{self.name}: {one.name} must be at least 0 and below 1; found {value}")
            if value < 0 or (value == 0 and one.name not in (*self.may_be_zero, *self.below_one)):
                raise GraphError(f"{self.name}: {one.name} must be positive; found {value}")

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @property
    def slots(self) -> dict[str, float]:
        """Name -> the number that fills it before the first step."""
        return {}

    @abstractmethod
    def move(self, dw: Node, slots: Slots, step: Node) -> Moved:
        """What is subtracted from w, and the slots anew; `step` is i64[], 0 at the first update."""

    def rule(self) -> UpdateRule:
        """The record that graphs, plans and servers take."""
        return UpdateRule(name=self.name, build=self._build, slots=self.slots)

    def _build(self, w: Node, dw: Node, slots: Slots, step: Node) -> Moved:
        if self.clip is not None:
            dw = minimum(maximum(dw, -float(self.clip)), float(self.clip))
        change, new = self.move(dw, slots, step)
        if self.weight_decay:
            w = w * (1.0 - self.rate * self.weight_decay)
        return w - change, new


@dataclass(frozen=True)
class SGD(Optimizer):
    """w -= rate * dw"""

    def move(self, dw: Node, slots: Slots, step: Node) -> Moved:
        return dw * float(self.rate), {}


@dataclass(frozen=True)
class Momentum(Optimizer):
    """velocity = momentum * velocity + dw; w -= rate * velocity; with `nesterov`, rate * (dw + momentum * velocity).

    Source  Sutskever et al., ICML 2013, section 2
    """

    momentum: float = 0.9
    nesterov: bool = field(default=False, kw_only=True)
    below_one: ClassVar[tuple[str, ...]] = ("momentum",)

    @property
    def slots(self) -> dict[str, float]:
        return {"velocity": 0.0}

    def move(self, dw: Node, slots: Slots, step: Node) -> Moved:
        velocity = slots["velocity"] * float(self.momentum) + dw
        change = dw + velocity * float(self.momentum) if self.nesterov else velocity
        return change * float(self.rate), {"velocity": velocity}


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """seen += dw^2; w -= rate * dw / (sqrt(seen) + epsilon), each element by itself.

    initial  what `seen` starts from; above 0 it tames the first steps
    Source   Dean et al., NIPS 2012, section 4.1
    """

    epsilon: float = field(default=1e-8, kw_only=True)
    initial: float = field(default=0.0, kw_only=True)
    may_be_zero: ClassVar[tuple[str, ...]] = ("weight_decay", "initial")

    @property
    def slots(self) -> dict[str, float]:
        return {"seen": float(self.initial)}

    def move(self, dw: Node, slots: Slots, step: Node) -> Moved:
        seen = slots["seen"] + square(dw)
        return dw * float(self.rate) / (sqrt(seen) + float(self.epsilon)), {"seen": seen}


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """power = decay * power + (1 - decay) * dw^2; w -= rate * dw / (sqrt(power) + epsilon)

    Source  Tieleman and Hinton, Neural Networks for Machine Learning, lecture 6e, 2012
    """

    decay: float = 0.9
    epsilon: float = field(default=1e-8, kw_only=True)
    below_one: ClassVar[tuple[str, ...]] = ("decay",)

    @property
    def slots(self) -> dict[str, float]:
        return {"power": 0.0}

    def move(self, dw: Node, slots: Slots, step: Node) -> Moved:
        power = slots["power"] * float(self.decay) + square(dw) * (1.0 - self.decay)
        return dw * float(self.rate) / (sqrt(power) + float(self.epsilon)), {"power": power}


@dataclass(frozen=True)
class Adam(Optimizer):
    """Means of the gradient and of its square, both freed of their bias towards 0; with `weight_decay` this is AdamW.

    Source  Kingma and Ba, ICLR 2015, algorithm 1
    """

    rate: float = 1e-3
    beta1: float = field(default=0.9, kw_only=True)
    beta2: float = field(default=0.999, kw_only=True)
    epsilon: float = field(default=1e-8, kw_only=True)
    below_one: ClassVar[tuple[str, ...]] = ("beta1", "beta2")

    @property
    def slots(self) -> dict[str, float]:
        return {"mean": 0.0, "power": 0.0}

    def move(self, dw: Node, slots: Slots, step: Node) -> Moved:
        mean = slots["mean"] * float(self.beta1) + dw * (1.0 - self.beta1)
        power = slots["power"] * float(self.beta2) + square(dw) * (1.0 - self.beta2)
        time = astype(step + 1, dtype=dw.dtype)
        unbiased = mean / _one_minus_power(self.beta1, time)
        scale = sqrt(power / _one_minus_power(self.beta2, time)) + float(self.epsilon)
        return unbiased * float(self.rate) / scale, {"mean": mean, "power": power}


def _one_minus_power(beta: float, time: Node) -> Node | float:
    """1 - beta^time, without the cancellation that float32 would suffer for beta near 1."""
    return 1.0 if beta == 0 else -expm1(time * math.log(beta))
