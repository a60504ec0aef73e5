"""Graphs at random: the same seed gives the same graph, its inputs, and what it should be compiled for.

Values are computed while the graph grows, so that every op gets inputs from its own domain and all stay of modest size. A value
is "loose" if it depends on the order in which floats were added up: any plan must give the others bit for bit. Ops that jump
(comparisons, rounding, the gradient of a maximum) take no loose values: a rounding error would become a whole one.

`tests/random_ops.py` says how each op of the catalogue is made; an op that is missing there fails test_invariance.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from random_compounds import COMPOUNDS
from random_ops import OPS, TWINS

from rainshed.compiler.partition.strategy import STRATEGIES
from rainshed.engine.optimizers import SGD, Adagrad, Adam, Momentum
from rainshed.ops import CATALOGUE
from rainshed.ops.elementwise import astype, multiply, remainder, square, tanh
from rainshed.ops.evaluate import empty, evaluate_nodes, run_kernel
from rainshed.ops.init import Init
from rainshed.ops.ir import Graph, Node, on, scope, walk
from rainshed.ops.layout import concat
from rainshed.ops.op import Op
from rainshed.ops.reduce import mean
from rainshed.ops.reshape import reshape
from rainshed.ops.slice import take_range
from rainshed.ops.source import constant, input, variable
from rainshed.ops.types import TensorType, TupleType

ALL_OPS: Mapping[str, Op] = {**CATALOGUE, TWINS.name: TWINS}
KINDS = {"float": ("float32", "float64"), "int": ("int32", "int64"), "bool": ("bool",)}
# Their kernels, or the plan, may add floats in another order.
ADDING = frozenset(
    {"matmul", "matmul_nt", "matmul_tn", "sum", "sum_to", "prod", "scatter_add", "scatter_add_along_axis"}
    | {f"{name}{suffix}" for name in ("conv2d", "local2d") for suffix in ("", "_input_grad", "_weight_grad")}
)
LARGE, LARGE_INT, MAX_SIZE = 50.0, 5000, 240
RULES = (None, None, None, SGD(0.1), Momentum(0.1), Adagrad(0.1), Adam(0.01))


@dataclass(frozen=True)
class Sample:
    """A graph with all that a run of it needs; `exact` names the outputs that no plan may change by a bit."""

    seed: int
    graph: Graph
    feeds: Mapping[str, np.ndarray]
    step: int
    exact: frozenset[str]
    machines: int
    strategy: str


class Maker:
    """Grows one graph. Builders in random_ops.py ask it for values and give it what they made."""

    def __init__(self, seed: int, machines: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.seed, self.machines = seed, machines
        self.step = int(self.rng.integers(0, 4))
        self.values: dict[Node, Any] = {}
        self.loose: set[Node] = set()
        self.pool: list[Node] = []
        self.feeds: dict[str, np.ndarray] = {}
        self.names = 0

    # -- drawing ------------------------------------------------------------------------------------------------------
    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def int(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def one(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def shape(self, low: int = 0, high: int = 3) -> tuple[int, ...]:
        """A small shape of so many axes; now and then one of size 0 or 1."""
        sizes = [self.one((1, 2, 3, 3, 4, 5, 6, 7)) for _ in range(self.int(low, high))]
        if sizes and self.chance(0.03):
            sizes[self.int(0, len(sizes) - 1)] = 0
        return tuple(sizes) if math.prod(sizes) <= MAX_SIZE else tuple(min(n, 3) for n in sizes)

    def name(self, stem: str) -> str:
        self.names += 1
        return f"{stem}{self.names}"

    # -- values -------------------------------------------------------------------------------------------------------
    def array(self, kind: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
        dtype = self.one(KINDS[kind])
        if kind == "float":
            return self.rng.uniform(low, high, shape).astype(dtype)
        return self.rng.integers(math.ceil(low), math.floor(high) + 1, shape).astype(dtype)

    def leaf(self, kind: str, shape: tuple[int, ...], low: float = -2.0, high: float = 2.0) -> Node:
        """An input, a variable or a constant."""
        if kind == "bool":
            low, high = 0, 1
        array = self.array(kind, shape, low, high)
        what = self.one(
            ("input", "input", "variable", "variable", "constant") if kind == "float" else ("input", "constant")
        )
        if what == "constant":
            return self.add(constant(array))
        if what == "input":
            name = self.name("x")
            self.feeds[name] = array
            return self.add(input(name, shape, array.dtype))
        inits = (
            Init("uniform", (low, high)),
            Init("constant", (float(np.float32((low + high) / 2)),)),
            Init("array", (), array),
        )
        return self.add(variable(self.name("w"), shape, array.dtype, init=self.one(inits), trainable=self.chance(0.85)))

    def value(
        self, kind: str = "float", low: int = 0, high: int = 4, *, exact: bool = False, known: Any = None
    ) -> Node:
        """A value that is there already, mostly; else a leaf. `low` to `high` axes; `known`: a condition on its shape."""
        fits = [
            n
            for n in self.pool
            if n.dtype.kind == kind
            and low <= n.ndim <= high
            and not (exact and n in self.loose)
            and (known is None or known(n.shape))
        ]
        if fits and self.chance(0.85):
            return fits[max(self.int(0, len(fits) - 1), self.int(0, len(fits) - 1))]
        for _ in range(100):
            shape = self.shape(low, min(high, max(low, 3)))
            if known is None or known(shape):
                return self.leaf(kind, shape)
        raise AssertionError("no shape fits")

    def shaped(self, shape: tuple[int, ...], kind: str = "float", *, exact: bool = False) -> Node:
        """A value of this shape: one that is there, one made from what is there, or a leaf."""
        fits = [n for n in self.pool if n.shape == shape and n.dtype.kind == kind and not (exact and n in self.loose)]
        if fits and self.chance(0.7):
            return self.one(fits)
        if self.chance(0.5):
            return self.leaf(kind, shape)
        x, size = self.value(kind, exact=exact, known=lambda s: 0 < math.prod(s) <= MAX_SIZE), math.prod(shape)
        flat = reshape(x, shape=(-1,))
        while flat.shape[0] < size:
            flat = concat([flat, flat])
        return self.add(reshape(take_range(flat, 0, 0, size), shape=shape))

    def fit(self, x: Node, low: float, high: float) -> Node:
        """The value, brought smoothly into [low, high] where it is not there already."""
        value = self.values[x]
        if not value.size or (value.min() >= low and value.max() <= high):
            return x
        if x.dtype.kind == "int":
            return self.add(remainder(x, int(high) - int(low) + 1) + int(low))
        half = (high - low) / 2 * 0.999
        return self.add(tanh(multiply(x, 2.0 / max(2.0, float(np.abs(value).max())))) * half + (low + high) / 2)

    def cast(self, x: Node, dtype: Any) -> Node:
        return self.add(astype(x, dtype=dtype))

    def compute(self, node: Node) -> None:
        """Compute a new value, and all that it was made from."""
        for new in self._unknown(node):
            self._compute(new)

    def add(self, node: Node) -> Node:
        """Take a new value into the pool; tame it if it has grown large."""
        self.compute(node)
        if isinstance(node.type, TupleType):
            return node
        value = self.values[node]
        if node.dtype.kind != "bool" and value.size:
            top = float(np.abs(value).max())
            assert np.isfinite(top), (
                f"seed {self.seed}: {node!r} is not finite; its inputs {[self.values[i] for i in node.inputs]}"
            )
            if node.dtype.kind == "float" and top > LARGE:
                return self.add(multiply(node, 2.0 ** -math.ceil(math.log2(top))))
            if node.dtype.kind == "int" and top > LARGE_INT:
                return self.add(remainder(node, 97))
        if node not in self.pool and value.size <= 4 * MAX_SIZE:
            self.pool.append(node)
        return node

    def _unknown(self, node: Node) -> list[Node]:
        """The nodes without a value that a node needs, inputs first."""
        found: dict[Node, None] = {}
        stack = [(node, False)]
        while stack:
            n, ready = stack.pop()
            if ready:
                found[n] = None
            elif n not in self.values and n not in found:
                stack.append((n, True))
                stack.extend((i, False) for i in n.inputs)
        return list(found)

    def _compute(self, node: Node) -> None:
        if node.op.name in ("input", "variable", "step"):
            (self.values[node],) = evaluate_nodes([node], self.feeds, step=self.step, seed=self.seed)
            return
        self.values[node] = empty(node.type)
        run_kernel(node, [self.values[i] for i in node.inputs], self.values[node])
        items = node.type.items if isinstance(node.type, TupleType) else (node.type,)
        adds = node.op.name in ADDING and items[0].dtype.kind == "float"
        if node.op.name != "axis_size" and (adds or any(i in self.loose for i in node.inputs)):
            assert items[0].dtype.kind == "float", f"seed {self.seed}: {node!r} would jump"
            self.loose.add(node)


def random_graph(seed: int) -> Sample:
    """The graph of a seed. Every op of the tables is the heart of some graph among any hundred or two in a row."""
    rng = np.random.default_rng([seed, 1])
    machines = int(rng.integers(1, 6))
    maker = Maker(seed, machines)
    builders = [*OPS.values(), *COMPOUNDS]
    steps = 1 + int(39 * rng.random() ** 8)  # most graphs are small, some are not
    heart = int(rng.integers(steps))
    pinned = bool(rng.random() < 0.4)
    made: list[Node] = []
    for i in range(steps):
        build = builders[seed % len(builders)] if i == heart else builders[int(rng.integers(len(builders)))]
        pin = on(f"m{rng.integers(machines)}") if pinned and rng.random() < 0.2 else nullcontext()
        with pin, scope(f"layer{i // 4}"):
            made.append(maker.add(build(maker)))
    graph = _finish(maker, made, made[heart], rng)
    feeds = {name: maker.feeds[name] for name in graph.inputs}
    exact = frozenset(name for name, node in graph.outputs.items() if node not in maker.loose)
    names = list(STRATEGIES)
    return Sample(seed, graph, feeds, maker.step, exact, machines, names[int(rng.integers(len(names)))])


def _finish(maker: Maker, made: list[Node], heart: Node, rng: np.random.Generator) -> Graph:
    """The outputs, updates and loss of a graph: what nobody reads, the heart, and now and then something in the middle."""
    read = {i for n in walk(made) for i in n.inputs}
    ends = [n for n in dict.fromkeys(made) if n not in read][:8]
    extra = [n for n in maker.pool if rng.random() < 0.05][:2]
    outputs = {f"y{i}": n for i, n in enumerate(dict.fromkeys([heart, *ends, *extra]))}
    updates: dict[str, Node] = {}
    used = [n for n in walk(outputs.values()) if n.op.name == "variable"]
    for node in used:
        if not node.attrs["trainable"] and node.type == node.tensor_type and rng.random() < 0.5:
            updates[node.name] = maker.add(node * 0.5 + 0.25)
    terms = [
        mean(square(n if n.dtype.name == "float64" else astype(n, dtype="float64")))
        for n in outputs.values()
        if _counts(n)
    ]
    if not terms or rng.random() < 0.1:
        return Graph(outputs, updates)
    loss = terms[0]
    for term in terms[1:]:
        loss = loss + term
    maker.compute(loss)
    rule = RULES[int(rng.integers(len(RULES)))]
    graph = Graph({**outputs, "loss": loss}, updates, loss="loss")
    return graph if rule is None else replace(graph, rule=rule.rule())


def _counts(node: Node) -> bool:
    return isinstance(node.type, TensorType) and node.dtype.kind == "float" and node.type.size > 0
