"""An optimizer as a shard runs it: the rule's graph on flat parts, in place. Pure.

The rule comes as text (`ops/text.py`) and is rebuilt through the ops' own checks: a shard runs ops, never code that it was sent.
Where that pays, it is one loop of machine code, which this computer makes from the ops' formulas; else NumPy does it, a cache's
worth at a time. Both give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np

from rainshed.ops import CATALOGUE
from rainshed.ops.errors import GraphError
from rainshed.ops.evaluate import run_kernel
from rainshed.ops.ir import Graph, Node
from rainshed.ops.text import graph_text, parse
from rainshed.ops.types import dtype_of, fixed
from rainshed.ops.update import UpdateRule, check_rule
from rainshed.ops.update_code import Update, update_code

Array: TypeAlias = np.ndarray[Any, Any]

BLOCK: Final = 16384  # elements worked on at a time: a handful of such arrays fits the L2 cache
MAX_BLOCK: Final = 2**20
COMPILED_FROM: Final = 2**16  # elements to move from which a loop pays that this computer has not compiled before


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An optimizer as data: its graph's text for each element type, and what fills its slots at first."""

    texts: Mapping[str, str]  # element type, short -> text
    slots: Mapping[str, float]


def rule_of(rule: UpdateRule, dtypes: Iterable[str]) -> Rule:
    """The rule as data, for parts of these element types."""
    texts = {name: graph_text(rule.graph((BLOCK,), dtype_of(name))) for name in sorted(set(dtypes))}
    return Rule(texts, dict(rule.slots))


class Updater:
    """The rule for one element type, with scratch of its own: one thread at a time.

    elements  how many it will move in a step: whether a loop is worth compiling
    Raises    GraphError or ParseError if the text is no update rule
    """

    def __init__(self, rule: Rule, dtype: str, elements: int = 0) -> None:
        if dtype not in rule.texts:
            raise GraphError(f"the update rule has no text for {dtype}", given=", ".join(rule.texts))
        graph = parse(rule.texts[dtype], CATALOGUE)
        check_rule(graph, tuple(rule.slots))
        self._block = _block_of(graph, dtype)
        self._names = tuple(graph.outputs)  # w and the slots
        self._step = np.zeros((), np.int64)
        self._outputs = tuple(graph.outputs.values())
        self._fixed: dict[Node, Array] = {}  # constants, and all else that is a scalar
        self._scratch: dict[Node, Array] = {}
        self._leaves: dict[Node, str] = {}
        self._scalars: list[Node] = []
        self._blocks: list[Node] = []
        for node in graph.nodes():
            self._prepare(node)
        self._loop: Update | None = None
        w, dw, *slots = np.zeros((2 + len(rule.slots), 1), dtype_of(dtype).numpy)
        self.apply(w, dw, dict(zip(rule.slots, slots, strict=True)), 0)  # a kernel that raises, raises before training
        code = update_code(graph)
        if code is not None and (elements >= COMPILED_FROM or code.is_cached()):
            self._loop = code.bind(self._fixed)

    def _prepare(self, node: Node) -> None:
        if node.op.name == "input":
            if node.name == "step":
                self._fixed[node] = self._step
            else:
                self._leaves[node] = node.name
            return
        array = np.empty(fixed(node.shape), node.dtype.numpy)
        if array.ndim:
            self._scratch[node] = array
            self._blocks.append(node)
        else:
            self._fixed[node] = array
            if node.op.name == "constant":
                run_kernel(node, (), array)
            else:
                self._scalars.append(node)

    def apply(self, w: Array, dw: Array, slots: Mapping[str, Array], step: int) -> None:
        """Move `w` and `slots` in place by the gradient `dw`.

        Shapes  all [n], contiguous, of the rule's element type; `step` counts the updates of this part before
        """
        self._step[...] = step
        for node in self._scalars:
            run_kernel(node, [self._fixed[i] for i in node.inputs], self._fixed[node])
        given = {"w": w, **slots, "dw": dw}
        if self._loop is not None and dw.flags.aligned:
            self._loop(given)
            return
        for low in range(0, w.size, self._block):
            part = slice(low, min(low + self._block, w.size))
            self._apply_block({name: array[part] for name, array in given.items()})

    def _apply_block(self, given: Mapping[str, Array]) -> None:
        n = given["w"].size
        values: dict[Node, Array] = dict(self._fixed)
        for node, name in self._leaves.items():
            values[node] = given[name]
        for node in self._blocks:
            out = self._scratch[node][:n]
            run_kernel(node, [values[i] for i in node.inputs], out)
            values[node] = out
        results = [values[node] for node in self._outputs]
        # A result that is itself an old value, such as a slot handed on, must be read before it is overwritten.
        results = [r.copy() if node in self._leaves else r for r, node in zip(results, self._outputs, strict=True)]
        for name, result in zip(self._names, results, strict=True):
            np.copyto(given[name], result)


def _block_of(graph: Graph, dtype: str) -> int:
    """The size that the text was written for. Raises GraphError if its nodes are not all [n] or scalar."""
    w = graph.outputs["w"].tensor_type
    if w.dtype is not dtype_of(dtype) or len(w.shape) != 1 or not 0 < fixed(w.shape)[0] <= MAX_BLOCK:
        raise GraphError(f"an update rule for {dtype} gives w as {dtype}[n], n from 1 to {MAX_BLOCK}; found {w}")
    for node in graph.nodes():
        if node.shape not in ((), w.shape) or (node.op.name == "constant" and node.shape):
            raise GraphError(f"an update rule works on {w} and scalars; found {node.op.name} of {node.type}")
        if node.op.name == "input" and node.type != w and node.name != "step":
            raise GraphError(f"an update rule reads {node.name} as {w}; found {node.type}")
        if node.op.name == "input" and node.name == "step" and str(node.type) != "i64[]":
            raise GraphError(f"an update rule reads step as i64[]; found {node.type}")
    return fixed(w.shape)[0]
