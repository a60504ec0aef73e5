"""How a gradient moves its variable: a small element-wise graph, so that one text serves the compiled plan and the server.

Inputs of the graph: `w` (the variable), `dw` (its gradient), `step` (i64[]: 0 at the first update) and the rule's slots, all
f32[n] but the step; outputs: `w` and the slots anew. Element-wise only: so any part of a variable can be moved by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rainshed.ops.elementwise import ELEMENTWISE
from rainshed.ops.errors import GraphError
from rainshed.ops.ir import Graph, Node
from rainshed.ops.source import input_op
from rainshed.ops.types import DType, Shape, fixed

LEAVES = ("input", "constant")


@dataclass(frozen=True, slots=True, eq=False)
class UpdateRule:
    """One optimizer.

    build  (w, dw, slots, step) -> (new w, new slots), in element-wise nodes
    slots  name -> the number that fills it before the first step
    """

    name: str
    build: Callable[[Node, Node, Mapping[str, Node], Node], tuple[Node, dict[str, Node]]]
    slots: Mapping[str, float]

    def graph(self, shape: Shape, dtype: DType) -> Graph:
        """The rule as a graph for variables of this shape: what a server gets."""
        leaf = {n: input_op(name=n, shape=fixed(shape), dtype=dtype) for n in ("w", "dw", *self.slots)}
        step = input_op(name="step", shape=(), dtype="int64")
        w, slots = self.build(leaf["w"], leaf["dw"], {n: leaf[n] for n in self.slots}, step)
        graph = Graph(outputs={"w": w, **slots})
        check_rule(graph, tuple(self.slots))
        return graph


def check_rule(graph: Graph, slots: tuple[str, ...]) -> None:
    """Raises GraphError if the graph is not an update rule: only element-wise ops, the right inputs and outputs."""
    if set(graph.outputs) != {"w", *slots}:
        raise GraphError(f"an update rule gives w and its slots {slots}; found {tuple(graph.outputs)}")
    for node in graph.nodes():
        if node.op.name not in (*LEAVES, "astype", "where", "broadcast_to") and node.op.name not in ELEMENTWISE:
            raise GraphError(f"an update rule is element-wise; found {node.op.name}", built_at=node.origin)
        if node.op.name == "input" and node.name not in ("w", "dw", "step", *slots):
            raise GraphError(f"an update rule reads w, dw, step and its slots; found {node.name!r}")
    w = graph.outputs["w"]
    if any(node.type != w.type for node in graph.outputs.values()):
        raise GraphError("an update rule must keep the type of w and of each slot")
